"""Small programs over ATen operators that models of vision and language use, each with its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Snippet:
    """`inputs`: the first is exported with, all are compared. `dynamic`: dynamic shapes, one per input."""

    name: str
    model: Callable
    inputs: tuple[tuple[torch.Tensor, ...], ...]
    dynamic: tuple | None = None


torch.manual_seed(0)


def _r(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _i(low: int, high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def _case(
    name: str, model: Callable, *inputs: torch.Tensor, more: tuple = (), dynamic: tuple | None = None
) -> Snippet:
    return Snippet(name, model, (inputs, *more), dynamic)


class _Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(8, 8).tril().bool())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(~self.mask, float("-inf")).softmax(-1)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class _First(nn.Module):
    """A recurrent network's output sequence and its states."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, state = self.inner(x)
        return (out, *state) if isinstance(state, tuple) else (out, state)


def _norm(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for index, tensor in enumerate([*norm.parameters(), *norm.buffers()]):
            if tensor.dtype.is_floating_point:
                tensor.copy_(_r(*tensor.shape, seed=index).abs() + 0.5)
    return norm


def _solved(a: torch.Tensor, b: torch.Tensor, left: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """As a captured program asks a solver: for the solution where there is one, and whether there is."""
    solution, _, _, info = torch.ops.aten._linalg_solve_ex(a, b, left=left)
    failed = info != 0
    return solution.masked_fill(failed.reshape(info.shape + (1,) * (solution.dim() - info.dim())), 0.0), failed


def _inverted(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inverse, info = torch.ops.aten.linalg_inv_ex(a)
    failed = info != 0
    return inverse.masked_fill(failed[..., None, None], 0.0), failed


#: The second of these matrices has no inverse.
_SINGULAR = torch.stack([torch.eye(5), torch.arange(25.0).view(5, 5), torch.eye(5).flip(0)])
_N = {0: torch.export.Dim.DYNAMIC}
_NEG = torch.tensor([-7, -6, -3, -1, 1, 3, 6, 7])
_DIV = torch.tensor([2, -4, 2, -3, 3, -2, 4, -2])
_FLOATS = torch.tensor([-2.5, -1.5, -0.5, -0.2, 0.0, 0.5, 1.5, 2.5])
_TIES = torch.tensor([[3, 1, 3, 1, 2, 3], [0, 0, 0, 0, 0, 0]])
_SPECIAL = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, 1.0])

SNIPPETS: tuple[Snippet, ...] = (
    # convolutions, pooling, normalisation
    _case("conv1d", nn.Conv1d(4, 8, 3, padding=2, dilation=2), _r(2, 4, 16)),
    _case("conv2d", nn.Conv2d(4, 8, 3, stride=2, padding=1), _r(2, 4, 9, 9)),
    _case("conv2d_groups", nn.Conv2d(8, 8, 3, padding="same", groups=8), _r(1, 8, 7, 7)),
    _case("conv2d_reflect", nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), _r(1, 4, 8, 8)),
    _case("conv2d_unbatched", nn.Conv2d(4, 4, 3), _r(4, 8, 8)),
    _case("conv3d", nn.Conv3d(2, 4, 3), _r(1, 2, 5, 5, 5)),
    _case("conv_transpose1d", nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), _r(2, 4, 8)),
    _case(
        "conv_transpose2d", nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), _r(2, 4, 5, 5)
    ),
    _case("conv_transpose2d_groups", nn.ConvTranspose2d(4, 8, 3, groups=2, dilation=2), _r(1, 4, 5, 5)),
    _case("batch_norm", _norm(nn.BatchNorm2d(6)), _r(2, 6, 4, 4)),
    _case("batch_norm_1d", _norm(nn.BatchNorm1d(6)), _r(5, 6), dynamic=None),
    _case("batch_norm_no_affine", _norm(nn.BatchNorm2d(6, affine=False)), _r(2, 6, 4, 4)),
    _case("batch_norm_batch_statistics", nn.BatchNorm2d(6, track_running_stats=False), _r(3, 6, 4, 4)),
    _case("instance_norm", nn.InstanceNorm2d(4, affine=True), _r(2, 4, 6, 6)),
    _case("layer_norm", _norm(nn.LayerNorm(16)), _r(2, 5, 16)),
    _case("layer_norm_2d", _norm(nn.LayerNorm((5, 16))), _r(2, 5, 16)),
    _case("layer_norm_plain", lambda x: F.layer_norm(x, (16,)), _r(2, 5, 16)),
    _case("group_norm", _norm(nn.GroupNorm(2, 8)), _r(2, 8, 4, 4)),
    _case("rms_norm", _norm(nn.RMSNorm(16)), _r(2, 5, 16)),
    _case("local_response_norm", nn.LocalResponseNorm(3), _r(2, 6, 4, 4)),
    _case("max_pool2d", nn.MaxPool2d(3, stride=2, padding=1), _r(2, 3, 9, 9)),
    _case("max_pool2d_ceil", nn.MaxPool2d(2, ceil_mode=True), _r(2, 3, 7, 7)),
    _case("max_pool2d_indices", nn.MaxPool2d(2, return_indices=True), _r(2, 3, 8, 8)),
    _case("avg_pool1d", nn.AvgPool1d(3, stride=2), _r(2, 3, 9)),
    _case("avg_pool2d", nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), _r(2, 3, 9, 9)),
    _case("avg_pool2d_ceil", nn.AvgPool2d(3, stride=2, ceil_mode=True), _r(1, 2, 8, 8)),
    _case("adaptive_avg_pool2d_1", nn.AdaptiveAvgPool2d(1), _r(2, 3, 7, 5)),
    _case("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d((3, 2)), _r(2, 3, 7, 5)),
    _case("adaptive_avg_pool1d", nn.AdaptiveAvgPool1d(4), _r(2, 3, 10)),
    _case("adaptive_max_pool2d", nn.AdaptiveMaxPool2d(2), _r(2, 3, 8, 8)),
    _case("adaptive_max_pool2d_uneven", nn.AdaptiveMaxPool2d((3, 2)), _r(2, 3, 7, 5)),
    _case("upsample_nearest", nn.Upsample(scale_factor=2), _r(1, 3, 4, 5)),
    _case("upsample_nearest_size", lambda x: F.interpolate(x, size=(7, 11)), _r(1, 3, 4, 5)),
    _case(
        "upsample_nearest_exact",
        lambda x: F.interpolate(x, size=(7, 11), mode="nearest-exact"),
        _r(1, 3, 4, 5),
    ),
    _case("upsample_bilinear", lambda x: F.interpolate(x, size=(9, 7), mode="bilinear"), _r(1, 3, 4, 5)),
    _case(
        "upsample_bilinear_corners",
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=True),
        _r(1, 3, 4, 5),
    ),
    _case(
        "upsample_bilinear_antialias",
        lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True),
        _r(1, 3, 8, 8),
    ),
    _case("upsample_among_others", lambda x: F.interpolate(x, size=(9, 7), mode="bilinear").fmax(x.mean()),
          _r(1, 3, 4, 5)),
    _case("upsample_bicubic", lambda x: F.interpolate(x, size=(9, 7), mode="bicubic"), _r(1, 3, 4, 5)),
    _case("upsample_linear", lambda x: F.interpolate(x, size=9, mode="linear"), _r(1, 3, 4)),
    _case("area_downsample", lambda x: F.interpolate(x, size=(2, 3), mode="area"), _r(1, 3, 4, 6)),
    _case(
        "grid_sample", lambda x, g: F.grid_sample(x, g, align_corners=False), _r(2, 3, 5, 5), _r(2, 4, 4, 2)
    ),
    _case(
        "grid_sample_border",
        lambda x, g: F.grid_sample(x, g, mode="nearest", padding_mode="border", align_corners=True),
        _r(2, 3, 5, 5),
        _r(2, 4, 4, 2),
    ),
    _case(
        "grid_sample_reflection",
        lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=False),
        _r(2, 3, 5, 5),
        _r(2, 4, 4, 2),
    ),
    _case("affine_grid", lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False), _r(2, 2, 3)),
    _case("pixel_shuffle", nn.PixelShuffle(2), _r(1, 8, 3, 3)),
    _case("pixel_unshuffle", nn.PixelUnshuffle(2), _r(1, 2, 6, 6)),
    _case("unfold", nn.Unfold(3, padding=1, stride=2), _r(1, 2, 6, 6)),
    _case("fold", nn.Fold((6, 6), 3, padding=1), _r(1, 18, 36)),
    _case("pad_constant", lambda x: F.pad(x, (1, 2, 0, 3), value=1.5), _r(1, 2, 4, 4)),
    _case("pad_negative", lambda x: F.pad(x, (-1, 2)), _r(1, 2, 4, 4)),
    _case("pad_reflect", lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), _r(1, 2, 4, 4)),
    _case("pad_replicate", lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), _r(1, 2, 4, 4)),
    _case("pad_circular", lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), _r(1, 2, 4, 4)),
    # linear algebra, attention, recurrence
    _case("linear", nn.Linear(24, 24), _r(3, 24)),
    _case("linear_dynamic", nn.Linear(24, 24), _r(3, 24), more=((_r(7, 24),), (_r(1, 24),)), dynamic=(_N,)),
    _case("linear_3d_no_bias", nn.Linear(24, 24, bias=False), _r(2, 3, 24)),
    _case("bilinear", nn.Bilinear(3, 4, 5), _r(2, 3), _r(2, 4)),
    _case("addmm", lambda a, b, c: torch.addmm(a, b, c, beta=0.5, alpha=2.0), _r(3, 5), _r(3, 4), _r(4, 5)),
    _case("bmm", torch.bmm, _r(2, 3, 4), _r(2, 4, 5)),
    _case(
        "baddbmm", lambda a, b, c: torch.baddbmm(a, b, c, alpha=0.3), _r(2, 3, 5), _r(2, 3, 4), _r(2, 4, 5)
    ),
    _case("matmul_broadcast", torch.matmul, _r(2, 1, 3, 4), _r(5, 4, 2)),
    _case("matmul_vector", lambda a, b: (a @ b, b @ b), _r(3, 4), _r(4)),
    _case("einsum", lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), _r(2, 3, 4, 5), _r(2, 3, 6, 5)),
    _case("einsum_repeated", lambda a: (torch.einsum("ii->i", a), torch.einsum("ij->", a)), _r(4, 4)),
    _case("outer", torch.outer, _r(3), _r(4)),
    _case("cdist", torch.cdist, _r(2, 3, 4), _r(2, 5, 4)),
    _case("cosine_similarity", F.cosine_similarity, _r(3, 6), _r(3, 6, seed=1)),
    _case("normalize", lambda x: F.normalize(x, dim=-1), _r(3, 6)),
    _case(
        "vector_norm",
        lambda x: (x.norm(), x.norm(1, dim=0), torch.linalg.vector_norm(x, ord=3, dim=-1)),
        _r(3, 6),
    ),
    _case("matrix_norm", lambda x: torch.linalg.matrix_norm(x), _r(2, 3, 6)),
    _case("solve", lambda a, b: torch.linalg.solve_ex(a, b), _r(3, 5, 5), _r(3, 5, 2, seed=1)),
    _case("solve_vector", lambda a, b: torch.linalg.solve_ex(a, b).result, _r(4, 4), _r(4, seed=1)),
    _case("solve_right", lambda a, b: torch.linalg.solve_ex(a, b, left=False).result, _r(4, 4), _r(2, 4, seed=1)),
    _case("solve_checked", _solved, _r(3, 5, 5), _r(3, 5, 2, seed=1), more=((_SINGULAR, _r(3, 5, 2)),)),
    _case("solve_checked_vector", _solved, _r(6, 6), _r(6, seed=1)),
    _case("solve_checked_right", lambda a, b: _solved(a, b, left=False), _r(4, 4), _r(2, 4, seed=1)),
    _case("solve_checked_large", _solved, _r(40, 40) + 10 * torch.eye(40), _r(40, seed=1)),
    _case("solve_checked_ill", _solved, torch.diag(torch.logspace(-3, 3, 6)) + _r(6, 6) / 100, _r(6, seed=1)),
    _case("inverse_checked", _inverted, _r(3, 5, 5), more=((_SINGULAR,), (_SINGULAR * torch.nan,))),
    _case("inverse", lambda a: torch.linalg.inv_ex(a), torch.eye(3).flip(0)),
    _case("inverse_small", lambda x: torch.linalg.det(x), _r(2, 3, 3)),
    _case(
        "sdpa", F.scaled_dot_product_attention, _r(2, 4, 6, 8), _r(2, 4, 7, 8, seed=1), _r(2, 4, 7, 8, seed=2)
    ),
    _case(
        "sdpa_causal",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        _r(2, 4, 6, 8),
        _r(2, 4, 6, 8, seed=1),
        _r(2, 4, 6, 8, seed=2),
    ),
    _case(
        "sdpa_bool_mask",
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        _r(2, 4, 6, 8),
        _r(2, 4, 7, 8, seed=1),
        _r(2, 4, 7, 8, seed=2),
        torch.arange(7).expand(6, 7) != 3,
    ),
    _case(
        "sdpa_float_mask_scale",
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m, scale=0.2),
        _r(2, 4, 6, 8),
        _r(2, 4, 7, 8, seed=1),
        _r(2, 4, 7, 8, seed=2),
        _r(1, 1, 6, 7),
    ),
    _case(
        "sdpa_grouped",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        _r(2, 4, 6, 8),
        _r(2, 2, 7, 8, seed=1),
        _r(2, 2, 7, 8, seed=2),
    ),
    _case("multihead_attention", _Attention(), _r(2, 5, 16)),
    _case("transformer_encoder_layer", nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), _r(2, 5, 16)),
    _case("lstm", _First(nn.LSTM(6, 5, num_layers=2, batch_first=True)), _r(2, 4, 6)),
    _case("lstm_bidirectional", _First(nn.LSTM(6, 5, bidirectional=True)), _r(4, 2, 6)),
    _case("gru", _First(nn.GRU(6, 5, batch_first=True)), _r(2, 4, 6)),
    _case("rnn", _First(nn.RNN(6, 5, batch_first=True)), _r(2, 4, 6)),
    _case("lstm_cell", nn.LSTMCell(6, 5), _r(2, 6)),
    _case("gru_cell", nn.GRUCell(6, 5), _r(2, 6)),
    _case("embedding", nn.Embedding(50, 16), _i(0, 50, 2, 5)),
    _case("embedding_bag", nn.EmbeddingBag(50, 16, mode="mean"), _i(0, 50, 2, 5)),
    _case("one_hot", lambda x: F.one_hot(x, 6), _i(0, 6, 2, 3)),
    # activations and reductions
    *(
        _case(name, getattr(F, name), _r(3, 7))
        for name in (
            "relu",
            "relu6",
            "gelu",
            "silu",
            "elu",
            "selu",
            "celu",
            "leaky_relu",
            "hardswish",
            "hardsigmoid",
            "hardtanh",
            "mish",
            "softplus",
            "softsign",
            "logsigmoid",
            "tanhshrink",
            "hardshrink",
            "softshrink",
        )
    ),
    _case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), _r(3, 7)),
    _case("prelu", nn.PReLU(4), _r(2, 4, 3)),
    _case("glu", F.glu, _r(3, 8)),
    _case("softmax", lambda x: (x.softmax(0), x.softmax(-1), F.softmin(x, 1)), _r(3, 7)),
    _case("log_softmax", lambda x: F.log_softmax(x, 1), _r(3, 7)),
    _case("softmax_dtype", lambda x: F.softmax(x, -1, dtype=torch.float64), _r(3, 7)),
    _case("cross_entropy", F.cross_entropy, _r(3, 7), _i(0, 7, 3)),
    _case("logsumexp", lambda x: torch.logsumexp(x, 1), _r(3, 7)),
    _case("sums", lambda x: (x.sum(), x.sum(0), x.mean(-1, keepdim=True), x.mean((0, 1))), _r(3, 7)),
    _case("sum_of_bools", lambda x: ((x > 0).sum(), (x > 0).sum(1)), _r(3, 7)),
    _case("mean_of_ints", lambda x: x.float().mean(), _i(0, 9, 3, 7)),
    _case("prod", lambda x: (x.prod(), x.prod(1)), _r(3, 7)),
    _case("extrema", lambda x: (x.max(), x.min(), *x.max(1), *x.min(0), x.amax((0, 1)), x.amin(1)), _r(3, 7)),
    _case("aminmax", lambda x: torch.aminmax(x, dim=1), _r(3, 7)),
    _case("arg_extrema", lambda x: (x.argmax(), x.argmax(-1), x.argmin(0, keepdim=True)), _r(3, 7)),
    _case(
        "variances", lambda x: (x.std(), x.var(1), x.var(0, correction=0), *torch.var_mean(x, 1)), _r(3, 7)
    ),
    _case(
        "any_all",
        lambda x: ((x > 0).any(), (x > -9).all(), (x > 1).any(1), (x > 0).all(0, keepdim=True)),
        _r(3, 7),
    ),
    _case("any_of_ints", lambda x: (x.any(), x.all(), x.any(1)), _i(0, 2, 3, 7)),
    _case("count_nonzero", lambda x: (torch.count_nonzero(x), torch.count_nonzero(x, 1)), _i(0, 2, 3, 7)),
    _case("cumsum", lambda x: (x.cumsum(0), x.cumsum(-1)), _r(3, 7)),
    _case("cumsum_of_ints", lambda x: (x.cumsum(1), (x > 3).cumsum(1)), _i(0, 9, 3, 7)),
    _case("cumprod", lambda x: x.cumprod(1), _r(3, 7)),
    _case("cummax", lambda x: torch.cummax(x, 1), _r(3, 7)),
    _case("logcumsumexp", lambda x: torch.logcumsumexp(x, 1), _r(3, 7)),
    _case("median", lambda x: (x.median(), *x.median(1)), _r(3, 7)),
    _case("quantile", lambda x: torch.quantile(x, 0.3, dim=1), _r(3, 7)),
    _case("diff", lambda x: torch.diff(x, dim=1), _r(3, 7)),
    # sorting, selection, indexing
    _case("topk", lambda x: x.topk(3), _r(4, 9)),
    _case("topk_smallest", lambda x: x.topk(3, dim=0, largest=False), _r(4, 9)),
    _case("sort", lambda x: x.sort(1), _r(4, 9)),
    _case("sort_descending", lambda x: torch.sort(x, dim=0, descending=True, stable=True), _r(4, 9)),
    _case("argsort", lambda x: x.argsort(-1, descending=True), _r(4, 9)),
    _case("kthvalue", lambda x: torch.kthvalue(x, 3), _r(4, 9)),
    _case("gather", lambda x, i: x.gather(1, i), _r(4, 9), _i(0, 9, 4, 3)),
    _case("take_along_dim", lambda x, i: torch.take_along_dim(x, i, 1), _r(4, 9), _i(0, 9, 4, 3)),
    _case("scatter", lambda x, i, v: x.scatter(1, i, v), _r(4, 9), _i(0, 9, 4, 1), _r(4, 1)),
    _case("scatter_value", lambda x, i: x.scatter(1, i, 2.5), _r(4, 9), _i(0, 9, 4, 3)),
    _case("scatter_add", lambda x, i, v: x.scatter_add(1, i, v), _r(4, 9), _i(0, 9, 4, 5), _r(4, 5)),
    _case(
        "scatter_reduce",
        lambda x, i, v: x.scatter_reduce(1, i, v, "amax"),
        _r(4, 9),
        _i(0, 9, 4, 5),
        _r(4, 5),
    ),
    _case(
        "scatter_reduce_mean",
        lambda x, i, v: x.scatter_reduce(1, i, v, "mean"),
        _r(4, 9),
        _i(0, 9, 4, 5),
        _r(4, 5),
    ),
    _case("index_select", lambda x, i: x.index_select(1, i), _r(4, 9), _i(0, 9, 3)),
    _case("index_add", lambda x, i, v: x.index_add(0, i, v), _r(4, 9), torch.tensor([1, 1, 3]), _r(3, 9)),
    _case("index_copy", lambda x, i, v: x.index_copy(0, i, v), _r(4, 9), torch.tensor([2, 0]), _r(2, 9)),
    _case("index_fill", lambda x, i: x.index_fill(1, i, -1.0), _r(4, 9), torch.tensor([2, 0])),
    _case("index_put", lambda x, i, v: x.index_put((i,), v), _r(4, 9), torch.tensor([2, 0]), _r(2, 9)),
    _case(
        "index_put_two",
        lambda x, i, j, v: x.index_put((i, j), v),
        _r(4, 9),
        torch.tensor([2, 0]),
        torch.tensor([8, 3]),
        _r(2),
    ),
    _case(
        "index_put_accumulate",
        lambda x, i, v: x.index_put((i,), v, accumulate=True),
        _r(4, 9),
        torch.tensor([2, 2]),
        _r(2, 9),
    ),
    _case("index_put_mask", lambda x: x.index_put((x > 0,), torch.tensor(0.0)), _r(4, 9)),
    _case(
        "index_put_second",
        lambda x, i, v: _assign(x, (slice(None), i), v),
        _r(4, 9),
        torch.tensor([2, 0]),
        _r(4, 2),
    ),
    _case("index_tensor", lambda x, i: (x[i], x[:, i], x[i, i]), _r(4, 9), torch.tensor([[2, 0], [-1, 1]])),
    _case("index_split", lambda x, i, j: x[i, :, j], _r(4, 5, 6), torch.tensor([2, 0]), torch.tensor([1, 5])),
    _case("index_row", lambda x, i: x[i], _r(4, 9), torch.tensor(2)),
    _case("index_range", lambda x, i: x[torch.arange(4), i], _r(4, 9), _i(0, 9, 4)),
    _case("boolean_mask", lambda x: x[x > 0], _r(4, 9), more=((-_r(4, 9).abs(),), (_r(4, 9).abs() + 1,))),
    _case("boolean_rows", lambda x, m: x[m], _r(4, 9), torch.tensor([True, False, True, True])),
    _case("nonzero", lambda x: (x > 0).nonzero(), _r(4, 9), more=((-_r(4, 9).abs(),),)),
    _case("nonzero_tuple", lambda x: torch.where(x > 0), _r(4, 9)),
    _case("masked_select", lambda x: torch.masked_select(x, x > 0), _r(4, 9)),
    _case("unique", lambda x: torch.unique(x), _i(0, 5, 20)),
    _case("unique_inverse", lambda x: torch.unique(x, return_inverse=True, return_counts=True), _i(0, 5, 20)),
    _case("unique_consecutive", lambda x: torch.unique_consecutive(x), torch.tensor([1, 1, 2, 2, 1, 3])),
    _case("where", lambda x, y: (torch.where(x > 0, x, y), torch.where(x > 0, 1.0, y)), _r(4, 9), _r(9)),
    _case("masked_fill", lambda x: x.masked_fill(x > 0, 3.0), _r(4, 9)),
    _case("masked_fill_tensor", lambda x, v: x.masked_fill(x > 0, v), _r(4, 9), torch.tensor(2.0)),
    _case("masked_scatter", lambda x, v: x.masked_scatter(x > 0, v), _r(4, 9), _r(36)),
    _case("causal_softmax", _Masked(), _r(2, 8, 8)),
    _case(
        "bucketize",
        lambda x, b: (torch.bucketize(x, b), torch.bucketize(x, b, right=True)),
        _FLOATS,
        torch.tensor([-1.5, 0.0, 1.0, 2.5]),
    ),
    _case(
        "searchsorted",
        lambda s, v: torch.searchsorted(s, v),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
        torch.tensor([0.5, 2.0, 9.0]),
    ),
    _case("histogram", lambda x: torch.bincount(x, minlength=6), _i(0, 6, 20)),
    _case("isin", lambda x, s: torch.isin(x, s), _i(0, 9, 4, 3), torch.tensor([1, 5, 7])),
    # shapes
    _case(
        "views", lambda x: (x.view(2, 12), x.reshape(-1), x.flatten(1), x.unflatten(2, (2, 2))), _r(2, 3, 4)
    ),
    _case(
        "transposes", lambda x: (x.transpose(1, 2), x.permute(2, 0, 1), x.mT, x.movedim(0, -1)), _r(2, 3, 4)
    ),
    _case(
        "squeezes", lambda x: (x.squeeze(), x.squeeze(0), x.unsqueeze(-1), x[None, ..., None]), _r(1, 3, 1, 4)
    ),
    _case(
        "expands",
        lambda x: (x.expand(2, 3, 4), x.expand(-1, 3, -1), x.repeat(2, 1, 3), x.tile(2)),
        _r(1, 1, 4).expand(1, 3, 4),
    ),
    _case("repeat_interleave", lambda x: (x.repeat_interleave(2, 0), x.repeat_interleave(3)), _r(3, 4)),
    _case(
        "repeat_interleave_counts", lambda x, n: x.repeat_interleave(n, 0), _r(3, 4), torch.tensor([2, 0, 3])
    ),
    _case(
        "cat_stack",
        lambda x, y: (torch.cat([x, y]), torch.stack([x, y], -1), torch.hstack([x, y])),
        _r(3, 4),
        _r(3, 4),
    ),
    _case("cat_empty", lambda x: torch.cat([x[:0], x, x[2:]]), _r(3, 4)),
    _case("splits", lambda x: (*x.split(2, 1), *x.chunk(3, 1), *x.split([1, 6], 1), *x.unbind(0)), _r(3, 7)),
    _case("tensor_split", lambda x: x.tensor_split(3, 1), _r(3, 7)),
    _case("slices", lambda x: (x[1:, ::2], x[-2:], x[..., 3], x[:, -5:-1], x[5:]), _r(3, 7)),
    _case(
        "narrow_select",
        lambda x: (x.narrow(1, 2, 3), x.select(0, -1), x.diagonal(), x.unfold(1, 3, 2)),
        _r(3, 7),
    ),
    _case(
        "roll_flip",
        lambda x: (x.roll(2, 1), x.roll((1, -2), (0, 1)), x.roll(3), x.flip(0, 1), x.rot90()),
        _r(3, 7),
    ),
    _case("as_strided", lambda x: x.as_strided((2, 3), (7, 2), 1), _r(3, 7)),
    _case("triangles", lambda x: (x.tril(), x.triu(1), x.tril(-1)), _r(2, 4, 5)),
    _case("diag", lambda x: (torch.diag(x), torch.diag_embed(x), torch.block_diag(x[None], x[None])), _r(4)),
    _case("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), _r(3), _r(4)),
    _case(
        "creation",
        lambda x: (
            torch.zeros_like(x),
            torch.full_like(x, 2),
            torch.ones(2, 3),
            torch.arange(5) + x[0, 0],
            torch.eye(3),
            torch.linspace(0, 1, 5),
            torch.full((2,), 7),
        ),
        _r(3, 7),
    ),
    _case(
        "new_creation", lambda x: (x.new_zeros(2, 2), x.new_full((3,), 1.5), x.new_ones(x.shape[0])), _r(3, 7)
    ),
    _case("scalar_tensor", lambda x: x + torch.tensor([1.0, 2.0, 3.0]), _r(2, 3)),
    _case("slice_scatter", lambda x, v: torch.slice_scatter(x, v, 1, 1, 3), _r(3, 7), _r(3, 2)),
    _case("select_scatter", lambda x, v: torch.select_scatter(x, v, 0, 1), _r(3, 7), _r(7)),
    _case("mutated_slice", lambda x, v: _write(x, v), _r(3, 7), _r(3, 2)),
    _case("passthrough", lambda x: (x, x.view(-1), x + 0), _r(3, 7)),
    _case("twice", lambda x: (x * 2, x * 2), _r(3, 7)),
    _case("constant_output", lambda x: (torch.tensor([1.0, 2.0]), x.sum() * 0), _r(3, 7)),
    _case("zero_size", lambda x: (x.sum(), x.reshape(0, 6), torch.cat([x, x])), torch.zeros(0, 2, 3)),
    # elementwise arithmetic
    _case(
        "int_division",
        lambda a, b: (a // b, a % b, torch.div(a, b, rounding_mode="trunc"), torch.fmod(a, b), a / b),
        _NEG,
        _DIV,
    ),
    _case("int_scalar_division", lambda a: (a // 4, a % 4, a // -4, a % -4, torch.fmod(a, 3), a / 4), _NEG),
    _case(
        "float_division",
        lambda a, b: (a // b, a % b, torch.div(a, b, rounding_mode="trunc"), torch.fmod(a, b)),
        torch.tensor([-7.5, -6.0, -3.2, 3.2, 6.0, 7.5]),
        torch.tensor([2.0, -4.0, 1.5, -1.5, 4.0, -2.0]),
    ),
    _case("float_scalar_division", lambda a: (a // 1.5, a % 1.5, a % -1.5, torch.remainder(a, 2)), _FLOATS),
    _case("int32_arithmetic", lambda a: (a * 3 - 1, a // 2, a % 3, a.abs(), -a, a.float() / 2), _NEG.int()),
    _case("int8_arithmetic", lambda a: (a + 1, a * 2, a.abs(), a // 3), _NEG.to(torch.int8)),
    _case(
        "uint8_arithmetic", lambda a: (a + 1, a * 2, a // 3, a.float() / 255), _i(0, 100, 8).to(torch.uint8)
    ),
    _case("bitwise", lambda a, b: (a & b, a | b, a ^ b, ~a, a << 1, a >> 1), _NEG, _DIV),
    _case("bitwise_bool", lambda a, b: (a & b, a | b, a ^ b, ~a, a == b, a != b), _NEG > 0, _DIV > 0),
    _case(
        "logical",
        lambda a, b: (
            torch.logical_and(a, b),
            torch.logical_or(a, b),
            torch.logical_xor(a, b),
            torch.logical_not(a),
        ),
        _FLOATS,
        _FLOATS.flip(0),
    ),
    _case("rounding", lambda x: (x.floor(), x.ceil(), x.round(), x.trunc(), x.frac(), x.sign()), _FLOATS),
    _case("round_decimals", lambda x: torch.round(x, decimals=1), _FLOATS * 1.37),
    _case(
        "powers",
        lambda x: (x**2, x**3, x.abs() ** 0.5, 2**x, x.abs().pow(x), x.square(), x.abs().rsqrt()),
        _r(3, 7),
    ),
    _case("masks_as_numbers", lambda m: ((m * 2 + ~m * m) * 0.5, m + 2, m / 2, 2 - m.int(), m == 2, m.exp()),
          torch.tensor([True, False])),
    _case("ints_beside_floats", lambda i: (i * 2.5, i + 0.5, 0.5 - i, i / 2.5, i < 1.5, i >= 1.5, i == 1.5,
                                            2.5 / i, i.abs().sqrt() * 2, i.sigmoid() + i.sin()), _NEG),
    _case("int_powers", lambda a: (a**2, a**2.0, a.pow(3), 2.0**a), _NEG),
    _case(
        "exponentials",
        lambda x: (
            x.exp(),
            x.expm1(),
            x.abs().log(),
            x.abs().log1p(),
            x.abs().log2(),
            x.exp2(),
            x.abs().log10(),
        ),
        _r(3, 7),
    ),
    _case(
        "trigonometry",
        lambda x: (
            x.sin(),
            x.cos(),
            x.tan(),
            x.tanh().atanh(),
            x.atan(),
            x.sinh(),
            x.cosh(),
            x.asinh(),
            x.tanh().asin(),
            x.tanh().acos(),
        ),
        _r(3, 7),
    ),
    _case("atan2", torch.atan2, _r(3, 7), _r(3, 7, seed=1)),
    _case("erf", lambda x: (x.erf(), x.erfc(), x.sigmoid(), x.tanh(), torch.special.expit(x)), _r(3, 7)),
    _case(
        "clamp",
        lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=0.1), x.clamp(x * 0, x * 0 + 1)),
        _r(3, 7),
    ),
    _case("clamp_ints", lambda x: (x.clamp(-2, 3), x.clamp(min=0), x.clamp(max=-1)), _NEG),
    _case(
        "comparisons", lambda a, b: (a > b, a >= b, a < b, a <= b, a == b, a != b, a > 0, a.eq(1)), _NEG, _DIV
    ),
    _case("isnan", lambda x: (x.isnan(), x.isinf(), x.isfinite(), torch.nan_to_num(x)), _SPECIAL),
    _case(
        "extrema_of_two",
        lambda a, b: (torch.maximum(a, b), torch.minimum(a, b), torch.fmax(a, b)),
        _r(3, 7),
        _r(7),
    ),
    _case("maximum_of_ints", lambda a, b: (torch.maximum(a, b), torch.minimum(a, b)), _NEG, _DIV),
    _case(
        "promotion",
        lambda i, x, b: (i + x, i * 2.5, x + 1, b + i, b * x, i / 2, i + True),
        _NEG,
        _FLOATS,
        _NEG > 0,
    ),
    _case("promotion_scalar_tensor", lambda i, x: (i + x, x.double() + i), _NEG, torch.tensor(1.5)),
    _case(
        "casts",
        lambda x: (x.to(torch.int64), x.int(), x.bool(), x.double(), x.half().float(), x.to(torch.uint8)),
        torch.tensor([0.0, 0.4, 1.9, 3.0, 200.0]),
    ),
    _case("casts_negative", lambda x: (x.to(torch.int64), x.int()), _FLOATS),
    _case(
        "addc",
        lambda a, b, c: (torch.addcmul(a, b, c, value=0.5), torch.addcdiv(a, b, c + 9, value=2)),
        _r(3, 7),
        _r(3, 7),
        _r(7),
    ),
    _case(
        "lerp",
        lambda a, b: (torch.lerp(a, b, 0.3), torch.lerp(a, b, torch.tensor(0.6))),
        _r(3, 7),
        _r(3, 7, seed=1),
    ),
    _case(
        "subtractions",
        lambda a, b: (torch.sub(a, b, alpha=2), torch.rsub(a, 1), torch.add(a, b, alpha=0.5)),
        _r(3, 7),
        _r(7),
    ),
    _case("reciprocal", lambda x: (1 / x, x.reciprocal(), torch.hypot(x, x)), _r(3, 7)),
    _case("float64", lambda x: (x.sum(), (x @ x.T).softmax(-1), x.exp()), _r(3, 7).double()),
    _case("float64_linear", nn.Linear(7, 3).double(), _r(3, 7).double()),
    _case("float16", lambda x: ((x @ x.T), x.softmax(-1).float()), _r(3, 7).half()),
    _case(
        "complex_input", lambda x: (torch.view_as_real(x), x * x, x.abs()), torch.view_as_complex(_r(3, 4, 2))
    ),
    _case(
        "rotary_complex",
        lambda x, f: torch.view_as_real(torch.view_as_complex(x) * torch.polar(torch.ones_like(f), f)),
        _r(3, 4, 2),
        _r(3, 4),
    ),
    _case("fft", lambda x: torch.view_as_real(torch.fft.rfft(x)), _r(3, 8)),
    # values at the edges: infinities, wrap-around, ties, large integers, no elements
    _case(
        "argmax_ties", lambda x: (x.argmax(1), x.argmin(1), x.float().max(1)[1], x.float().min(1)[1]), _TIES
    ),
    _case(
        "sort_ties",
        lambda x: (*torch.sort(x, dim=1, stable=True), *torch.sort(x, dim=1, stable=True, descending=True)),
        _TIES,
    ),
    _case("topk_ints", lambda x: (x.topk(2)[0], x.argsort(stable=True)), _TIES),
    _case(
        "nan_elementwise",
        lambda x: (
            x.clamp(0, 1),
            torch.relu(x),
            F.hardtanh(x),
            x.abs(),
            x > 1,
            x == x,
            x != x,
            torch.maximum(x, x.flip(0)),
            torch.where(x.isnan(), 0.0, x),
        ),
        _SPECIAL,
    ),
    _case("nan_sums", lambda x: (x.sum(), x.nansum(), x.nanmean(), x.cumsum(0), x.any(), x.all()), _SPECIAL),
    _case("softmax_of_minus_infinity", lambda x: (x.softmax(-1), x.softmax(0)), torch.full((2, 5), -torch.inf),
          more=((_SPECIAL.expand(2, 5),),)),
    _case(
        "saturations",
        lambda x: (F.gelu(x), F.softplus(x), F.logsigmoid(x), x.sigmoid(), x.tanh(), x.log1p(), x.expm1()),
        torch.tensor([-100.0, -20.0, -1e-6, 0.0, 1e-6, 20.0, 100.0]),
    ),
    _case("softplus_bends", lambda x: (F.softplus(x, 3.0, 4), F.softplus(x, -0.5), F.softplus(_SPECIAL * x.sum())),
          torch.linspace(-50, 50, 41)),
    _case(
        "logarithms_at_edges",
        lambda x: (x.log(), x.sqrt(), x.rsqrt(), x.log2(), x.acos(), x / 0.0, x**-1),
        torch.tensor([-1.0, 0.0, 2.0, torch.inf, torch.nan]),
    ),
    _case(
        "remainder_by_zero",
        lambda x: (x % x, torch.fmod(x, x), x // x, x / 0),
        torch.tensor([0.0, 1.0, -1.0, torch.inf]),
    ),
    _case(
        "remainder_of_decimals",
        lambda x: (x // 0.1, torch.floor_divide(x, 0.3), x % 0.1),
        torch.tensor([1.0, 0.3, -0.7, 2.0]),
    ),
    _case(
        "wrap_int64",
        lambda x: (
            x + 2**62,
            x * 2**40,
            x.int() * 2**30,
            x // 7,
            x % 7,
            torch.div(x, 7, rounding_mode="trunc"),
            torch.div(x, 7, rounding_mode="floor"),
        ),
        torch.tensor([2**62 + 3, -(2**62) - 3, 2**53 + 1]),
    ),
    _case(
        "large_int64",
        lambda x: (
            x > 2**53,
            x == 2**53 + 1,
            x.clamp(max=2**53 + 1),
            torch.maximum(x, x.flip(0)),
            x.max(),
            x + (2**53 + 1),
            torch.where(x > 0, x, 2**53 + 1),
            x.masked_fill(x > 0, 2**53 + 1),
        ),
        torch.tensor([2**53, 2**53 + 1, -(2**55) - 2]),
    ),
    _case(
        "wrap_uint8",
        lambda x: (x + 100, x - 100, x * 3, ~x, x // 3, x % 7, -x),
        torch.arange(0, 255, 17).to(torch.uint8),
    ),
    _case(
        "wrap_int8",
        lambda x: (x + 100, x - 100, x * 3, ~x, x // 3, x % 7, -x),
        torch.arange(-128, 127, 17).to(torch.int8),
    ),
    _case("shifts", lambda x: (x << 2, x >> 2, x.int() << 2, x.int() >> 2), torch.tensor([-9, -1, 0, 5])),
    _case(
        "casts_of_large", lambda x: (x.float(), x.double(), x.half()), torch.tensor([2**24 + 1, -5, 60000])
    ),
    _case(
        "int_functions",
        lambda x: (
            x.floor(),
            x.ceil(),
            x.round(),
            x.trunc(),
            x.sign(),
            x.sin(),
            x.sqrt(),
            torch.relu(x - 2),
            x.clamp(1, 2),
            (x - 2).clamp_min(0),
        ),
        _TIES,
    ),
    _case(
        "int_extrema",
        lambda x: (x.amax(1), x.int().amin(1), x.to(torch.int8).amax(1), *x.max(1), *x.aminmax()),
        _TIES,
    ),
    _case(
        "short_ints",
        lambda x: (x.short() + 1, x.short() * 2, x.int().sum(), x.int().max(), x.to(torch.uint8).max()),
        _TIES,
    ),
    _case(
        "bool_arithmetic",
        lambda m: (
            m + m,
            m * m,
            m.float() * 2,
            m.sum(0),
            m.cumsum(1),
            m * 3,
            m.int().argmax(1),
            m > False,
            torch.where(m, m, ~m),
            m.flip(0),
            m.nonzero(),
            torch.cat([m, m]),
        ),
        _TIES > 1,
    ),
    _case(
        "int_pads",
        lambda x: (F.pad(x, (1, 1)), F.pad(x, (1, 1), value=7), F.pad(x > 0, (1, 1), value=True)),
        _TIES,
    ),
    _case(
        "int32_indices",
        lambda x, i: (x[i], F.embedding(i, x)),
        _r(4, 3),
        torch.tensor([1, 0, 2], dtype=torch.int32),
    ),
    _case(
        "no_elements",
        lambda x: (x.sum(1), x.mean(1), x.prod(1), x.any(1), x.all(1), x.any(), x.mean()),
        torch.zeros(3, 0),
    ),
    _case(
        "empty_selection",
        lambda x: (x[x > 0].mean(), x[x > 0].sum(), (x[x > 0] > 0).any(), (x[x > 0] > 0).all()),
        _r(3, 7),
        more=((-_r(3, 7).abs(),),),
    ),
    _case(
        "scalars",
        lambda x: (
            x + 1,
            x.sum(),
            x.max(),
            x.softmax(0),
            x.argmax(),
            x.cumsum(0),
            x.sort()[0],
            x.view(1, 1),
            x.mean(),
        ),
        torch.tensor(2.0),
    ),
    _case(
        "index_forms",
        lambda x, i: (x[i, 1:], x[1:, i], x[..., i], x[i[:, None], i[None]], x[:, None, i], x[None, i]),
        _r(3, 4),
        torch.tensor([1, 0, -2]),
    ),
    _case(
        "index_three",
        lambda x, i: (x[i, :, i], x[:, i, i], x[i, i, :], x[i, :, i[:, None]]),
        _r(3, 4, 5),
        torch.tensor([1, 0, 2]),
    ),
    _case(
        "masks_of_rank_two",
        lambda x, m: (x[m], x[m, 1]),
        _r(2, 3, 4),
        torch.tensor([[True, False, True], [False, False, True]]),
    ),
    _case("mask_of_second", lambda x, m: x[:, m], _r(3, 4), torch.tensor([True, False, True, False])),
    _case(
        "write_rows", lambda x, m, v: x.index_put((m,), v), _r(3, 4), torch.tensor([True, False, True]), _r(4)
    ),
    _case("write_elements", lambda x, v: x.index_put((x > 5,), v), torch.arange(12.0).view(3, 4), _r(6)),
    _case(
        "scatter_forms",
        lambda x, i, v: (
            x.scatter(1, i, 1.0, reduce="add"),
            x.scatter(1, i, v, reduce="multiply"),
            *(
                x.scatter_reduce(1, i, v, how, include_self=own)
                for how in ("sum", "prod", "amax", "amin", "mean")
                for own in (True, False)
            ),
        ),
        _r(2, 3),
        torch.tensor([[0, 0, 1, 1], [2, 2, 2, 0]]),
        _r(2, 4),
    ),
    _case(
        "pools_of_negatives",
        lambda x: (
            F.max_pool2d(x, 3, 2, 1),
            F.avg_pool2d(x, 3, 2, 1),
            F.avg_pool2d(x, 2, divisor_override=3),
        ),
        -_r(1, 2, 6, 6).abs() - 1,
    ),
    _case(
        "pools_of_other_ranks",
        lambda x: (F.max_pool1d(x, 2), F.max_pool3d(x[None], 2), F.avg_pool3d(x[None], 2)),
        _r(2, 6, 6),
    ),
    _case(
        "max_unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), _r(1, 2, 6, 6)
    ),
    _case("dropouts", lambda x: (F.dropout(x, 0.5, False), F.alpha_dropout(x, 0.5, False)), _r(3, 4)),
    _case(
        "sign_functions",
        lambda x, y: (torch.copysign(x, y), torch.signbit(x), torch.heaviside(x, y)),
        _r(9),
        _r(9, seed=1),
    ),
    _case(
        "logistic_functions",
        lambda x: (torch.logit(x), torch.logaddexp(x, -x), torch.xlogy(x, x), torch.sinc(x)),
        _r(9).sigmoid(),
    ),
    _case(
        "losses",
        lambda x, y: (
            F.mse_loss(x, y),
            F.l1_loss(x, y),
            F.smooth_l1_loss(x, y),
            F.huber_loss(x, y),
            F.binary_cross_entropy_with_logits(x, y.sigmoid()),
            F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
        ),
        _r(3, 4),
        _r(3, 4, seed=1),
    ),
    _case(
        "products",
        lambda x, y: (
            torch.kron(x, y),
            torch.tensordot(x, y, dims=([1], [1])),
            torch.cross(x, y, dim=1),
            torch.trace(x),
        ),
        _r(3, 3),
        _r(3, 3, seed=1),
    ),
    _case("int_matmul", lambda x: (x @ x.T, x.int() @ x.T.int()), _TIES),
    _case(
        "stft",
        lambda x: torch.view_as_real(torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True)),
        _r(64),
    ),
    _case(
        "complex_arithmetic",
        lambda x: (torch.view_as_real(x * x.conj()), x.real, x.imag, x.angle(), torch.view_as_real(x / x)),
        torch.view_as_complex(_r(3, 4, 2)),
    ),
    _case(
        "cdist_large", lambda x, y: (torch.cdist(x, y), torch.cdist(x, y, p=1)), _r(30, 4), _r(5, 4, seed=1)
    ),
    # host integers that enter as data
    _case(
        "item_slice",
        lambda x, n: x[: _size(n, 9)],
        _r(9, 4),
        torch.tensor(3),
        more=((_r(9, 4), torch.tensor(7)),),
    ),
    _case(
        "item_start",
        lambda x, n: x[_size(n, 9) :],
        _r(9, 4),
        torch.tensor(3),
        more=((_r(9, 4), torch.tensor(7)),),
    ),
    _case(
        "item_index",
        lambda x, n: x[_size(n, 8)],
        _r(9, 4),
        torch.tensor(3),
        more=((_r(9, 4), torch.tensor(7)),),
    ),
    _case(
        "item_arithmetic",
        lambda x, n: x * n.item() + (n.item() + 1),
        _r(9, 4),
        torch.tensor(3),
        more=((_r(9, 4), torch.tensor(-7)),),
    ),
    _case(
        "item_float",
        lambda x, s: x * s.item(),
        _r(9, 4),
        torch.tensor(2.5, dtype=torch.float64),
        more=((_r(9, 4), torch.tensor(-0.25, dtype=torch.float64)),),
    ),
    _case(
        "item_arange",
        lambda x, n: torch.arange(_size(n, 50)) * x,
        torch.tensor(2),
        torch.tensor(5),
        more=((torch.tensor(3), torch.tensor(8)),),
    ),
    _case(
        "item_full",
        lambda x, n: x.new_zeros(_size(n, 50), 3) + x,
        torch.tensor(2.0),
        torch.tensor(5),
        more=((torch.tensor(3.0), torch.tensor(8)),),
    ),
    _case(
        "item_repeat",
        lambda x, n: x.expand(_size(n, 50), -1),
        _r(1, 4),
        torch.tensor(5),
        more=((_r(1, 4), torch.tensor(8)),),
    ),
    _case(
        "item_position",
        lambda x, p: x + torch.arange(4) * p.item(),
        _r(4),
        torch.tensor(5),
        more=((_r(4), torch.tensor(8)),),
    ),
    # dynamic dimensions
    _case(
        "dynamic_mlp",
        nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)),
        _r(3, 8),
        more=((_r(1, 8),), (_r(9, 8),)),
        dynamic=(_N,),
    ),
    _case(
        "dynamic_reshape",
        lambda x: x.reshape(x.shape[0], 2, -1).transpose(0, 1),
        _r(3, 8),
        more=((_r(5, 8),),),
        dynamic=(_N,),
    ),
    _case(
        "dynamic_positions",
        lambda x: x + torch.arange(x.shape[0])[:, None],
        _r(3, 8),
        more=((_r(5, 8),),),
        dynamic=(_N,),
    ),
    _case(
        "dynamic_cat",
        lambda x, y: torch.cat([x, y]),
        _r(3, 8),
        _r(4, 8),
        more=((_r(5, 8), _r(2, 8)),),
        dynamic=(_N, _N),
    ),
    _case("dynamic_mean", lambda x: x.sum(0) / x.shape[0], _r(3, 8), more=((_r(5, 8),),), dynamic=(_N,)),
    _case(
        "dynamic_attention",
        _Attention(),
        _r(2, 5, 16),
        more=((_r(2, 9, 16),),),
        dynamic=({1: torch.export.Dim.DYNAMIC},),
    ),
    _case(
        "dynamic_conv",
        nn.Conv2d(3, 8, 3, padding=1),
        _r(1, 3, 8, 8),
        more=((_r(1, 3, 12, 10),),),
        dynamic=({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},),
    ),
)


def _size(n: torch.Tensor, most: int) -> int:
    value = n.item()
    torch._check(value >= 0)
    torch._check(value <= most)
    return value


def _assign(x: torch.Tensor, where: tuple, v: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[where] = v
    return y


def _write(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1:3] = v
    y[0].mul_(2)
    return y

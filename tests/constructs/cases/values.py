"""Values: tensors read into Python, and shapes and choices that depend on data."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal, sweep


class HeadByName(nn.Module):
    """`self.heads[names[t.argmax().item()]]`: a hypernetwork's choice of a head by name."""

    def __init__(self):
        super().__init__()
        self.names = ["depth", "edges", "labels"]
        self.selector = nn.Linear(3, 3)
        self.heads = nn.ModuleDict({name: nn.Linear(3, 2) for name in self.names})

    def forward(self, x):
        name = self.names[self.selector(x).argmax().item()]
        return self.heads[name](x), name


@case(paths=3)
def head_by_name():
    return HeadByName(), [(x,) for x in sweep(32, 1, 3)]


class HeadByIndex(nn.Module):
    def __init__(self):
        super().__init__()
        self.selector = nn.Linear(2, 3)
        self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        index = int(self.selector(x).argmax(-1))
        return self.heads[index](x), index


@case(paths=3)
def module_list_by_index():
    return HeadByIndex(), [(x,) for x in sweep(32, 1, 2)]


class TupleOfScales(nn.Module):
    """A Python tuple indexed by data, and a dictionary with integer keys."""

    SCALES = (0.5, 1.0, 2.0)
    NAMES = {0: "half", 1: "one", 2: "two"}

    def forward(self, x, index):
        i = index.item()
        return x * self.SCALES[i], self.NAMES[i]


@case(paths=3)
def tuple_and_dict_by_index():
    return TupleOfScales(), [(normal(1, 2), torch.tensor(i)) for i in range(3)]


class ItemArithmetic(nn.Module):
    """Numbers read out of tensors, combined in Python, and put back."""

    def forward(self, x):
        low, high = x.min().item(), x.max().item()
        span = high - low
        if span > 1.0:
            return (x - low) / span
        if low < 0 and -low > 0.25:
            return x + abs(low)
        return x * 2.0


@case(paths=4)
def item_arithmetic():
    return ItemArithmetic(), [(torch.tensor(v),) for v in ([0.0, 2.0], [-0.5, 0.2], [0.1, 0.4], [-0.1, 0.1])]


class Conversions(nn.Module):
    """`int()`, `float()`, `bool()`, `round()`, `abs()` and `min/max` of numbers from tensors."""

    def forward(self, x):
        count = int(x.sum())
        mean = float(x.mean())
        flag = bool(x[0] > 0)
        if flag and count >= 2:
            y = x * count
        else:
            y = x * mean
        return y, count, mean, flag


@case(paths=3)
def int_float_bool():
    return Conversions(), [(torch.tensor(v),) for v in ([1.0, 2.5], [-1.0, 6.0], [0.5, 0.25])]


class HostNumbers(nn.Module):
    """Python's own functions on numbers that data decides."""

    def forward(self, x):
        n = int(x.abs().sum())
        k = min(max(n, 1), 3)
        value = float(x.sum())
        shrunk = max(value, 0.0)
        if k >= 3:
            return x * k, shrunk
        if n % 2 == 0:
            return x / k, value
        return x - n // 2, abs(value)


@case(paths=7)
def host_min_max_mod():
    return HostNumbers(), [(torch.full((2,), v),) for v in (0.1, 0.7, 1.2, 1.6, 3.0, -0.7, -3.0)]


class MathFunctions(nn.Module):
    def forward(self, x):
        norm = math.sqrt(float((x * x).sum()))
        if norm > 2.0:
            x = x / norm
        return x, norm


@case(paths=2)
def math_module():
    return MathFunctions(), [(torch.full((2,), v),) for v in (0.5, 4.0)]


class ToList(nn.Module):
    """`.tolist()` of a fixed number of elements, then decisions in Python."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, tokens):
        total = torch.zeros(3)
        for token in tokens.tolist():
            if token == 0:
                break
            total = total + self.weight * token
        return total


@case(paths=4)
def tolist():
    return ToList(), [(torch.tensor(t),) for t in ([0, 1, 2], [1, 0, 2], [1, 2, 0], [3, 2, 1])]


class SliceBound(nn.Module):
    """A data-dependent integer as a slice bound."""

    def forward(self, x, length):
        n = length.item()
        valid = x[:n]
        return valid.sum(0), valid * 2


@case(paths=1)
def slice_bound_from_data():
    x = normal(1, 5, 2)
    return SliceBound(), [(x, torch.tensor(n)) for n in (2, 3, 5)]


class DynamicIndex(nn.Module):
    """A data-dependent integer as an index of a tensor."""

    def forward(self, x, length):
        return x[length - 1], x[int(length) - 1] * 2


@case(paths=1)
def index_from_data():
    x = normal(1, 5, 2)
    return DynamicIndex(), [(x, torch.tensor(n)) for n in (1, 3, 5)]


class RepeatCount(nn.Module):
    """FastSpeech's length regulator: each row repeated as often as predicted."""

    def forward(self, x, durations):
        out = torch.repeat_interleave(x, durations, dim=0)
        if out.shape[0] > 4:
            out = out[:4]
        return out


@case(paths=2)
def repeat_interleave():
    x = normal(1, 2, 2)
    return RepeatCount(), [(x, torch.tensor(d)) for d in ([1, 2], [3, 3], [2, 1])]


class RepeatByItem(nn.Module):
    def forward(self, x, times):
        return x.repeat(times.item(), 1)


@case(paths=1)
def repeat_count_from_data():
    return RepeatByItem(), [(normal(1, 1, 2), torch.tensor(n)) for n in (1, 2, 4)]


class TokenPruning(nn.Module):
    """Tokens whose score is low are dropped; the rest goes through a layer."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(2, 1)
        self.body = nn.Linear(2, 2)

    def forward(self, tokens):
        keep = self.score(tokens).squeeze(-1) > 0
        kept = tokens[keep]
        if kept.shape[0] == 0:
            return torch.zeros(2)
        return self.body(kept).mean(0)


@case(paths=2)
def token_pruning_with_empty_selection():
    net = TokenPruning()
    with torch.no_grad():
        net.score.weight.copy_(torch.tensor([[1.0, 1.0]]))
        net.score.bias.zero_()
    x = normal(1, 4, 2)
    return net, [(x,), (x.abs(),), (-x.abs() - 1,)]


class TopKComputed(nn.Module):
    """Top-k with a computed k: keep the share of tokens that the input asks for."""

    def forward(self, scores, share):
        k = max(1, int(share * scores.shape[0]))
        values, indices = scores.topk(k)
        return values.sum(), indices


@case(paths=2)
def topk_with_computed_k():
    return TopKComputed(), [(normal(s, 6), torch.tensor(v)) for s, v in ((1, 0.5), (2, 0.9), (3, 0.0))]


class NonzeroShapes(nn.Module):
    def forward(self, x):
        where = torch.nonzero(x > 0)
        count = where.shape[0]
        if count > 2:
            return where[:2], count
        return where, count


@case(paths=2)
def nonzero_shapes():
    return NonzeroShapes(), [(normal(s, 2, 3),) for s in range(4)] + [(-torch.ones(2, 3),)]


class LengthOfNonzero(nn.Module):
    """`len(nonzero)` as a condition."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        detections = (x.abs() > 1).nonzero()
        if len(detections) == 0:
            return x
        return self.linear(x)


@case(paths=2)
def length_of_nonzero():
    return LengthOfNonzero(), [(torch.full((2, 3), v),) for v in (0.5, 2.0)]


class UniqueCounts(nn.Module):
    def forward(self, labels):
        values, counts = torch.unique(labels, return_counts=True)
        if values.numel() == 1:
            return values, counts
        return values[counts.argmax()].unsqueeze(0), counts.max().unsqueeze(0)


@case(paths=2)
def unique_labels():
    return UniqueCounts(), [(torch.tensor(v),) for v in ([1, 1, 1, 1], [1, 2, 2, 3], [0, 1, 2, 2])]


class MaskedMean(nn.Module):
    """Boolean masks in both directions: reading the selected rows, writing them back."""

    def __init__(self):
        super().__init__()
        self.update = nn.Linear(2, 2)

    def forward(self, h, mask):
        if mask.any():
            h = h.clone()
            h[mask] = self.update(h[mask])
        return h


@case(paths=2)
def masked_read_and_write():
    h = normal(1, 3, 2)
    return MaskedMean(), [(h, torch.tensor(m)) for m in ([True, False, True], [False] * 3, [True] * 3)]


class NMS(nn.Module):
    """Greedy suppression over sorted boxes: a `while` over indices that shrink."""

    def forward(self, boxes, scores):
        order = scores.argsort(descending=True)
        keep = []
        for i in order:
            if all((boxes[i] - boxes[j]).abs().max() > 0.5 for j in keep):
                keep.append(i)
        return torch.stack(keep)


@case(paths=4)
def greedy_suppression():
    far = torch.tensor([[0.0], [5.0], [9.0]])
    near = torch.tensor([[0.0], [0.1], [9.0]])
    other = torch.tensor([[0.0], [9.0], [9.1]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    return NMS(), [(far, scores), (near, scores), (other, scores), (far * 0, scores)]


class StringChoice(nn.Module):
    """A string from the call decides statically, one from the data dynamically."""

    def __init__(self):
        super().__init__()
        self.pool = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}

    def forward(self, x, mode: str = "auto"):
        if mode == "auto":
            mode = "max" if x.std() > 1 else "mean"
        return self.pool[mode](x, dim=0)


@case(paths=3)
def string_choice():
    import elastic_compile as ec

    x = normal(1, 4, 2)
    return StringChoice(), [(x * 3,), (x * 0.1,), ec.call(x, mode="sum")]


class Interpolated(nn.Module):
    """The size of the output comes from the data."""

    def forward(self, x, size):
        n = int(size)
        if n == x.shape[-1]:
            return x
        return torch.zeros(1, n) + x.mean()


@case(paths=2)
def size_from_data():
    return Interpolated(), [(normal(1, 1, 4), torch.tensor(n)) for n in (4, 2, 7)]


class DynamicArange(nn.Module):
    """Positions up to a length that the data gives, compared with a padding mask."""

    def forward(self, x, lengths):
        longest = lengths.max().item()
        positions = torch.arange(longest)
        mask = positions.unsqueeze(0) < lengths.unsqueeze(1)
        return mask, x * mask.sum(1, keepdim=True)


@case(paths=1)
def arange_from_data():
    return DynamicArange(), [(normal(1, 2, 3), torch.tensor(v)) for v in ([1, 3], [2, 2], [5, 4])]


class OneHotRoute(nn.Module):
    """A hard route as arithmetic: no decision at all, beside one that is."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 2, 2))

    def forward(self, x):
        route = F.one_hot(x.argmax(-1), 3).to(x.dtype)
        mixed = torch.einsum("e,eij->ij", route, self.weights)
        if torch.linalg.det(mixed) > 0:
            return mixed
        return mixed.T


@case(paths=2)
def one_hot_route():
    return OneHotRoute(), [(torch.eye(3)[i],) for i in range(3)] + [(normal(s, 3),) for s in range(6)]


class ScalarTensorIndexing(nn.Module):
    """`torch.where` with one argument, `argmax` of a mask, first match with a default."""

    def forward(self, x):
        hits = torch.where(x > 1)[0]
        first = hits[0] if hits.numel() else torch.tensor(-1)
        return first, hits.numel()


@case(paths=2)
def first_match_or_default():
    return ScalarTensorIndexing(), [(torch.tensor(v),) for v in ([0.0, 2.0, 3.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0])]


class SolveOrFallBack(nn.Module):
    """A linear system per input, and what to do when it has no solution."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, a, b):
        try:
            x = torch.linalg.solve(a, b)
        except torch.linalg.LinAlgError:
            x = b * 0
        return self.head(x), torch.linalg.inv(a + torch.eye(3) * 9)


@case(paths=None)
def solve_or_fall_back():
    singular = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 1.0]])
    return SolveOrFallBack(), [(a, normal(5, 3)) for a in (normal(1, 3, 3), normal(2, 3, 3).flip(0), singular)]

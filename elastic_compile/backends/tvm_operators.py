"""What TVM's importer may be given: the ATen operators that it translates as ATen means them.

In: ATen operators. Out: `decompositions()`, which brings a program to them; `CONVERTERS`, translations in place of
or beside the importer's own; `unsupported(node)`, why a node may not be given to the importer.
Never: trusts the importer with an operator or an argument that no test has compared with eager: it drops some
arguments silently (alpha, divisor_override, scale), and gives other types than ATen for integers and doubles.

TVM's maxima, bounds and `!=` are wrong where data holds nan, which ATen passes on: here they are chosen by comparisons
whose outcome for nan is known. What still differs from ATen: the order in which sort and topk put nan; nan times a
zero that is written in the program, which TVM takes for zero; an index outside its data is an error in ATen and the
nearest valid index here.
"""
from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache

import torch
from torch._ops import OpOverload

from elastic_compile.backends.decompositions import DECOMPOSITIONS

aten = torch.ops.aten

#: Kept whole, against the core ATen table, because the importer writes them better than their parts.
_KEPT = (aten.linear.default,)

_OWN: dict[OpOverload, Callable] = {}


@cache
def decompositions() -> dict[OpOverload, Callable]:
    """The table to run on a program before the importer."""
    table = torch.export.default_decompositions()
    for target in _KEPT:
        table.pop(target, None)
    table.update(torch._decomp.get_decompositions([
        aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec,
        aten.upsample_linear1d.vec, aten.grid_sampler_2d, aten.reflection_pad1d, aten.reflection_pad2d,
        aten.replication_pad1d, aten.replication_pad2d]))
    return {**table, **DECOMPOSITIONS, **_OWN}


def _own(*targets: OpOverload) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        _OWN.update(dict.fromkeys(targets, function))
        return function
    return register


def _outermost(function: Callable) -> Callable:
    """A decomposition that leaves the operator as it is where the decomposition itself uses it."""
    inside = False

    def decompose(*args, **kwargs):
        nonlocal inside
        if inside:
            return NotImplemented
        inside = True
        try:
            return function(*args, **kwargs)
        finally:
            inside = False
    return decompose


# -------------------------------------------------------------------------------- decompositions
def _is_int(value: object) -> bool:
    return not (value.dtype.is_floating_point if isinstance(value, torch.Tensor) else isinstance(value, float))


@_own(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(x, weight, bias, mean, var, momentum, eps):
    """One multiplication and one addition, whose factors are folded when the statistics are constants."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    return x * scale.view(shape) + shift.view(shape), x.new_empty(0), x.new_empty(0)


@_own(aten.sub.Tensor)
def _sub(left, right, alpha=1):
    return NotImplemented if alpha == 1 else left - right * alpha


@_own(aten.add.Tensor)
def _add(left, right, alpha=1):
    if alpha != 1:
        return left + right * alpha
    if left.dtype == torch.bool and getattr(right, "dtype", None) == torch.bool:
        return left | right
    return NotImplemented


@_own(aten.mul.Tensor)
def _mul(left, right):
    return left & right if _are_bools(left, right) else NotImplemented


@_own(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(left, right, alpha=1):
    return torch.neg(left) * alpha + right


@_own(aten.div.Tensor)
def _div(left, right):
    if _is_int(left) and _is_int(right):
        return left.to(torch.float32) / right
    return NotImplemented


@_own(aten.eq.Tensor, aten.eq.Scalar)
def _eq(left, right):
    return torch.logical_not(left ^ right) if _are_bools(left, right) else NotImplemented


@_own(aten.ne.Tensor, aten.ne.Scalar)
def _ne(left, right):
    if _are_bools(left, right):
        return left ^ right
    if _is_int(left):
        return NotImplemented
    ordered = (left < right) | (left > right) | left.isnan()
    return ordered | right.isnan() if isinstance(right, torch.Tensor) else ordered


def _are_bools(left: torch.Tensor, right: object) -> bool:
    return left.dtype == torch.bool and (isinstance(right, bool) or getattr(right, "dtype", None) == torch.bool)


@_own(aten.relu.default)
def _relu(x):
    return NotImplemented if _is_int(x) else torch.where(x < 0, 0, x)


@_own(aten.clamp.default)
def _clamp(x, low=None, high=None):
    if x.dtype.is_floating_point:
        x = x if low is None else torch.where(x < low, low, x)
        return x if high is None else torch.where(x > high, high, x)
    # Of integers the importer stands infinities in for bounds that are not given.
    if low is not None:
        x = torch.maximum(x, torch.full((), low, dtype=x.dtype))
    return x if high is None else torch.minimum(x, torch.full((), high, dtype=x.dtype))


@_own(aten.hardtanh.default)
def _hardtanh(x, low=-1.0, high=1.0):
    return _clamp(x, low, high)


@_own(aten.clamp.Tensor)
def _clamp_tensor(x, low=None, high=None):
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@_own(aten.maximum.default)
def _maximum(left, right):
    return NotImplemented if _is_int(left) else torch.where((left < right) | right.isnan(), right, left)


@_own(aten.minimum.default)
def _minimum(left, right):
    return NotImplemented if _is_int(left) else torch.where((left > right) | right.isnan(), right, left)


def _counted_values(x: torch.Tensor, nothing: float, dim: object, keepdim: bool) -> torch.Tensor:
    """How many values are not `nothing`; nan where one is nan."""
    axes = list(dim) if dim else list(range(x.dim()))
    return torch.where(x.isnan(), math.nan, torch.where(x == nothing, 0.0, 1.0)).sum(axes, keepdim)


@_own(aten.amax.default, aten.max.default)
@_outermost
def _amax(x, dim=(), keepdim=False):
    """TVM begins with the lowest number, which is above the maximum of nothing but negative infinities."""
    if _is_int(x):
        return NotImplemented
    count = _counted_values(x, -math.inf, dim, keepdim)
    return torch.where(count > 0, x.amax(dim, keepdim), torch.where(count.isnan(), math.nan, -math.inf))


@_own(aten.amin.default, aten.min.default)
@_outermost
def _amin(x, dim=(), keepdim=False):
    if _is_int(x):
        return NotImplemented
    count = _counted_values(x, math.inf, dim, keepdim)
    return torch.where(count > 0, x.amin(dim, keepdim), torch.where(count.isnan(), math.nan, math.inf))


@_own(aten.linalg_vector_norm.default)
def _vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None):
    if not math.isinf(ord) or dtype is not None:
        return NotImplemented
    axes = [] if dim is None else [dim] if isinstance(dim, int) else dim
    return (torch.amax if ord > 0 else torch.amin)(x.abs(), axes, keepdim)


def _place(extreme: Callable) -> Callable:
    def decompose(x, dim=None, keepdim=False):
        """The first of those equal to the extreme, or nan if that is."""
        if _is_int(x):
            return NotImplemented
        most = extreme(x, [] if dim is None else [dim], True)
        return ((x == most) | x.isnan()).to(torch.int32).argmax(dim, keepdim)
    return decompose


_OWN[aten.argmax.default] = _place(torch.amax)
_OWN[aten.argmin.default] = _place(torch.amin)


@_own(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default)
@_outermost
def _max_pool(x, *window):
    if _is_int(x):
        return NotImplemented
    if len(window) > 1 and not window[1]:
        window = (window[0], window[0], *window[2:])
    pool = aten.max_pool2d_with_indices if len(window[0]) == 2 else aten.max_pool3d_with_indices
    values, places = pool(x, *window)
    rank = pool(torch.where(x.isnan(), 2.0, torch.where(x == -math.inf, 0.0, 1.0)), *window)[0]
    return torch.where(rank > 1, math.nan, torch.where(rank > 0, values, -math.inf)), places


@_own(aten.bucketize.Tensor)
def _bucketize(x, boundaries, *, out_int32=False, right=False):
    below = boundaries <= x.unsqueeze(-1) if right else boundaries < x.unsqueeze(-1)
    below = below if _is_int(x) else below | x.isnan().unsqueeze(-1)
    kind = torch.int32 if out_int32 else torch.int64
    return below.to(kind).sum(-1, dtype=kind)


@_own(aten.pow.Tensor_Scalar)
def _pow(x, exponent):
    if abs(exponent) != 0.5 or _is_int(x):
        return NotImplemented
    return x.sqrt() if exponent > 0 else x.rsqrt()


@_own(aten.elu.default)
def _elu(x, alpha=1, scale=1, input_scale=1):
    return torch.where(x > 0, x * scale, (torch.exp(x * input_scale) - 1) * (alpha * scale))


@_own(aten.floor_divide.default)
def _floor_divide(left, right):
    if _is_int(left):
        return NotImplemented if isinstance(right, torch.Tensor) else left // torch.full((), right, dtype=left.dtype)
    rest = torch.fmod(left, right)
    quotient = (left - rest) / right
    quotient = torch.where((rest != 0) & ((rest < 0) != (right < 0)), quotient - 1, quotient)
    floor = torch.floor(quotient)
    by_zero = right == 0 if isinstance(right, torch.Tensor) else torch.full_like(left, right) == 0
    return torch.where(by_zero, left / right, torch.where(quotient - floor > 0.5, floor + 1, floor))


@_own(aten.remainder.Tensor, aten.remainder.Scalar)
def _remainder(left, right):
    if _is_int(left):
        return NotImplemented if isinstance(right, torch.Tensor) else left % torch.full((), right, dtype=left.dtype)
    rest = torch.fmod(left, right)
    return torch.where((rest != 0) & ((rest < 0) != (right < 0)), rest + right, rest)


@_own(aten.max.dim)
def _max_dim(x, dim, keepdim=False):
    return x.amax(dim, keepdim), x.argmax(dim, keepdim)


@_own(aten.min.dim)
def _min_dim(x, dim, keepdim=False):
    return x.amin(dim, keepdim), x.argmin(dim, keepdim)


@_own(aten.var.correction)
def _var(x, dim=None, *, correction=1, keepdim=False):
    axes = list(range(x.dim())) if dim is None else list(dim)
    centred = x - x.mean(axes, keepdim=True)
    count = math.prod(x.shape[axis] for axis in axes)
    return (centred * centred).sum(axes, keepdim) / (count - (1 if correction is None else correction))


@_own(aten.std.correction)
def _std(x, dim=None, *, correction=1, keepdim=False):
    return _var(x, dim, correction=correction, keepdim=keepdim).sqrt()


@_own(aten.var_mean.correction)
def _var_mean(x, dim=None, *, correction=1, keepdim=False):
    axes = list(range(x.dim())) if dim is None else list(dim)
    return _var(x, axes, correction=correction, keepdim=keepdim), x.mean(axes, keepdim)


@_own(aten.any.default, aten.any.dim, aten.any.dims)
def _any(x, dim=None, keepdim=False):
    return _counted(x if x.dtype == torch.bool else x != 0, dim, keepdim) > 0


@_own(aten.all.default, aten.all.dim, aten.all.dims)
def _all(x, dim=None, keepdim=False):
    return _counted(torch.logical_not(x) if x.dtype == torch.bool else x == 0, dim, keepdim) == 0


def _counted(x: torch.Tensor, dim: object, keepdim: bool) -> torch.Tensor:
    axes = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return x.to(torch.int32).sum(axes, keepdim, dtype=torch.int32)


@_own(aten.exp2.default)
def _exp2(x):
    return torch.exp(x * math.log(2))


@_own(aten.erfc.default)
def _erfc(x):
    return torch.neg(torch.erf(x)) + 1


@_own(aten.cat.default)
def _cat(tensors, dim=0):
    """Without those that have no elements, which TVM cannot hold."""
    kept = [one for one in tensors if not any(isinstance(size, int) and size == 0 for size in one.shape)]
    if len(kept) == len(tensors) or not kept:
        return NotImplemented
    return torch.cat(kept, dim) if len(kept) > 1 else kept[0].clone()


@_own(aten.square.default)
def _square(x):
    return x * x


@_own(aten.select.int)
def _select(x, dim, index):
    """As a slice: the importer would take the element before the first for that of index -1."""
    return x.narrow(dim, index + x.shape[dim] if index < 0 else index, 1).squeeze(dim)


@_own(aten.embedding.default)
def _embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return weight.index_select(0, indices.reshape(-1)).reshape(*indices.shape, *weight.shape[1:])


@_own(aten.index.Tensor, aten._unsafe_index.Tensor)
def _index(x, indices):
    """Integer indices as one selection along one dimension: their dimensions are merged."""
    at = [axis for axis, index in enumerate(indices) if index is not None]
    given = [indices[axis] for axis in at]
    if any(index.dtype == torch.bool for index in given):
        return NotImplemented
    adjacent = at == list(range(at[0], at[-1] + 1))
    if not adjacent:
        x = x.permute(*at, *(axis for axis in range(x.dim()) if axis not in at))
        at = list(range(len(at)))
    first, shape = at[0], torch.broadcast_shapes(*(index.shape for index in given))
    flat = None
    for axis, index in zip(at, given, strict=True):
        index = index.to(torch.int64)
        index = torch.where(index < 0, index + x.shape[axis], index)
        flat = index if flat is None else flat * x.shape[axis] + index
    rest = x.shape[first + len(at):]
    merged = x.reshape(*x.shape[:first], math.prod(x.shape[axis] for axis in at), *rest)
    chosen = merged.index_select(first, flat.expand(shape).reshape(-1))
    return chosen.reshape(*x.shape[:first], *shape, *rest)


def _promoting(target: OpOverload, then: Callable | None) -> Callable:
    """`then` of operands that have the type that ATen computes in: the importer would write a number in the type of the
    tensor beside it, so that a mask times 2 is a mask."""
    def decompose(left, right, *args, **kwargs):
        wanted = torch.result_type(left, right)
        operands = [one.to(wanted) if isinstance(one, torch.Tensor) and one.dtype != wanted else one
                    for one in (left, right)]
        if operands[0] is not left or operands[1] is not right:
            return target(*operands, *args, **kwargs)
        return then(left, right, *args, **kwargs) if then else NotImplemented
    return decompose


for _target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsub.Scalar,
                *(getattr(getattr(aten, name), overload) for name in ("lt", "le", "gt", "ge", "eq", "ne")
                  for overload in ("Tensor", "Scalar"))):
    _OWN[_target] = _promoting(_target, _OWN.get(_target))


def _of_floats(target: OpOverload, then: Callable | None) -> Callable:
    """`then` of floats: the importer would compute an integer's root as an integer."""
    def decompose(x):
        if _is_int(x):
            return target(x.to(torch.get_default_dtype()))
        return then(x) if then else NotImplemented
    return decompose


for _name in ("acos", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "log",
              "log10", "log1p", "log2", "reciprocal", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh"):
    _target = getattr(aten, _name).default
    _OWN[_target] = _of_floats(_target, _OWN.get(_target))


# ------------------------------------------------------------------------------------ converters
def _bounded(importer, index, size: int):
    """Indices kept inside the data: TVM's kernels read whatever address an index gives."""
    from tvm import relax

    builder = importer.block_builder
    dtype = index.ty.dtype
    low, high = relax.const(0, dtype), relax.const(size - 1, dtype)
    return builder.emit(relax.op.minimum(builder.emit(relax.op.maximum(index, low)), high))


def _convert_index_select(node, importer):
    from tvm import relax

    data, axis, index = importer.env[node.args[0]], node.args[1], importer.env[node.args[2]]
    return importer.block_builder.emit(relax.op.take(data, index, axis=axis, mode="clip"))


def _convert_gather(node, importer):
    from tvm import relax

    data, axis, index = importer.env[node.args[0]], node.args[1], importer.env[node.args[2]]
    size = node.args[0].meta["val"].shape[axis]
    return importer.block_builder.emit(relax.op.gather_elements(data, _bounded(importer, index, size), axis=axis))


def _convert_extremum(name: str) -> Callable:
    def convert(node, importer):
        from tvm import relax

        axes = node.args[1] if len(node.args) > 1 else None
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        made = getattr(relax.op, name)(importer.env[node.args[0]], axis=axes or None, keepdims=keep)
        return importer.block_builder.emit(made)
    return convert


def _convert_size(extreme: str) -> Callable:
    """Of sizes known at run time."""
    def convert(node, importer):
        from tvm import tirx

        return getattr(tirx, extreme)(*importer.retrieve_args(node))
    return convert


CONVERTERS: dict[str, Callable] = {
    "sym_max": _convert_size("max"),
    "sym_min": _convert_size("min"),
    "index_select.default": _convert_index_select,
    "gather.default": _convert_gather,
    "amax.default": _convert_extremum("max"),
    "amin.default": _convert_extremum("min"),
}


# ---------------------------------------------------------------------------------------- limits
SUPPORTED: frozenset[str] = frozenset({
    "_adaptive_avg_pool2d.default", "_assert_tensor_metadata.default", "_local_scalar_dense.default",
    "_log_softmax.default", "_native_batch_norm_legit.no_stats", "_softmax.default", "_to_copy.default",
    "abs.default", "acos.default", "add.Scalar", "add.Tensor", "addmm.default", "alias.default",
    "amax.default", "amin.default", "arange.start_step", "argmax.default", "argmin.default",
    "asin.default", "asinh.default", "atan.default", "atan2.default", "atanh.default",
    "avg_pool2d.default", "avg_pool3d.default", "bitwise_and.Scalar", "bitwise_and.Tensor",
    "bitwise_not.default", "bitwise_or.Tensor", "bitwise_xor.Scalar", "bitwise_xor.Tensor", "bmm.default",
    "bucketize.Tensor", "cat.default", "ceil.default", "clamp.Tensor", "clamp.default", "clone.default",
    "constant_pad_nd.default", "convolution.default", "copy.default", "cos.default", "cosh.default",
    "cumsum.default", "diagonal.default", "div.Tensor", "div.Tensor_mode", "empty.memory_format",
    "eq.Scalar", "eq.Tensor", "erf.default", "exp.default", "expand.default", "expm1.default",
    "flip.default", "floor.default", "floor_divide.default", "fmod.Scalar", "fmod.Tensor", "full.default",
    "full_like.default", "gather.default", "ge.Scalar", "ge.Tensor", "gelu.default", "gt.Scalar",
    "gt.Tensor", "hardtanh.default", "index_select.default", "isnan.default", "le.Scalar", "le.Tensor",
    "leaky_relu.default", "linalg_vector_norm.default", "linear.default", "log.default", "log10.default",
    "log1p.default", "log2.default", "logical_and.default", "logical_not.default", "logical_or.default",
    "logical_xor.default", "lt.Scalar", "lt.Tensor", "max.default", "max_pool2d_with_indices.default",
    "max_pool3d_with_indices.default", "maximum.default", "mean.default", "mean.dim", "min.default",
    "minimum.default", "mm.default", "mul.Scalar", "mul.Tensor", "native_group_norm.default",
    "native_layer_norm.default", "ne.Scalar", "ne.Tensor", "neg.default", "permute.default", "pow.Scalar",
    "pow.Tensor_Scalar", "pow.Tensor_Tensor", "reciprocal.default", "relu.default", "remainder.Tensor",
    "repeat.default", "round.decimals", "round.default", "rsqrt.default", "scalar_tensor.default",
    "select.int", "sigmoid.default", "sign.default", "sin.default", "sinh.default", "slice.Tensor",
    "slice_scatter.default", "sort.default", "split_with_sizes.default", "sqrt.default", "squeeze.dims",
    "sub.Tensor", "sum.dim_IntList", "sym_size.int", "tan.default", "tanh.default", "topk.default",
    "trunc.default", "unsqueeze.default", "view.default", "where.self",
})

_SYMBOLIC = frozenset({operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, torch.sym_max,
                       torch.sym_min})


def unsupported(node: torch.fx.Node) -> str:
    """Why the importer may not be given `node`, or ""."""
    if node.op != "call_function" or node.target in _SYMBOLIC:
        return ""
    if str(node.target).removeprefix("aten.") not in SUPPORTED:
        return "it is not among the operators that are known to come out of TVM as eager PyTorch has them"
    if node.target is aten.avg_pool2d.default and len(node.args) > 6 and node.args[6] is not None:
        return "TVM's importer drops divisor_override"
    if node.target in _WITH_INDICES and any(user.args[1] == 1 for user in node.users):
        return "TVM's importer does not compute the indices of the maxima"
    return ""


_WITH_INDICES = frozenset({aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default})

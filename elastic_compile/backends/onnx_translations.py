"""Operators that torch.onnx lacks, or writes so that the result is not eager PyTorch's.

In: ATen operators. Out: `TRANSLATIONS`, functions that write ONNX operators for one in place of torch.onnx's own.
Never: depends on a region or a weight.

Every entry is here because an operator was refused or differed from eager; `tests/backends` holds the case.

Where data holds nan, ONNX Runtime's ReduceMax, ReduceMin, ArgMax, ArgMin and MaxPool pass it over and Sign keeps it,
while ATen gives nan, or its place, and 0; its Max, Min, Clip between two bounds and TopK are as ATen's. What still
differs: gelu of infinities, the place that pooling gives where several of a window are nan, and sums and products of
int64 beyond 2**53.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import evaluator
from onnxscript.function_libs.torch_lib.ops import common
from onnxscript.function_libs.torch_lib.ops import core as torchlib
from onnxscript.function_libs.torch_lib.ops import linalg as torchlib_linalg
from onnxscript.function_libs.torch_lib.ops import nn as torchlib_nn
from onnxscript.function_libs.torch_lib.ops import special as torchlib_special
from onnxscript.onnx_opset import opset20 as op
from torch._ops import OpOverload
from torch.onnx._internal.exporter import _building

aten = torch.ops.aten

TRANSLATIONS: dict[OpOverload, Callable] = {}


def _translation(*targets: OpOverload) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        TRANSLATIONS.update(dict.fromkeys(targets, function))
        return function
    return register


def _is_float(value: ir.Value) -> bool:
    return value.dtype.is_floating_point()


def _constant(value: object, dtype: ir.DataType) -> ir.Value:
    return op.Constant(value=ir.tensor(np.asarray(value, dtype.numpy())))


def _axes(axes: Sequence[int]) -> ir.Value:
    return _constant(list(axes), ir.DataType.INT64)


def _tensor(value: object, like: ir.Value) -> ir.Value:
    """`value` as a tensor when it is a Python number: of the type of `like`."""
    return _constant(value, like.dtype) if isinstance(value, (bool, int, float)) else value


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A cast whose result keeps its shape and type for the translations that follow."""
    made = op.Cast(value, to=dtype)
    made.shape, made.dtype = value.shape, ir.DataType(dtype)
    return made


def _like(made: ir.Value, given: ir.Value) -> ir.Value:
    """`made` with the shape and type of `given`, for the translations that follow."""
    made.shape, made.dtype = given.shape, given.dtype
    return made


def _operands(left: object, right: object) -> tuple[ir.Value, ir.Value]:
    """Two operands as tensors of one type; a Python float makes an integer operand a float."""
    if isinstance(left, float) and not _is_float(right):
        right = _cast(right, ir.DataType.FLOAT)
    if isinstance(right, float) and not _is_float(left):
        left = _cast(left, ir.DataType.FLOAT)
    return (_tensor(left, right), right) if isinstance(left, (bool, int, float)) else (left, _tensor(right, left))


# ------------------------------------------------------------------------------- values that are not finite
#: Elements from which looking for what is not finite costs less than being exact about it.
_LOOK_FROM = 8192


def _size(value: ir.Value) -> int:
    """Elements, as far as they are known."""
    return math.prod(size for size in value.shape if isinstance(size, int))


def _branch(make: Callable[[], Sequence[ir.Value]]) -> ir.Graph:
    recorder = _building.OpRecorder(op, {})
    with evaluator.default_as(recorder):
        outputs = make()
    return ir.Graph([], outputs, nodes=recorder.nodes, name="branch")


def _where_finite(self: ir.Value, usual: Sequence[ir.Value], exact: Callable[[], Sequence[ir.Value]]
                  ) -> ir.Value | Sequence[ir.Value]:
    """`usual` where `self` holds numbers whose sum is finite, else what `exact` writes: a sum is cheap beside that."""
    total = op.ReduceSum(self, keepdims=0)
    node = ir.node(
        "If", [op.Equal(op.Sub(total, total), _constant(0, self.dtype))],
        {"then_branch": _branch(lambda: [op.Identity(one) for one in usual]), "else_branch": _branch(exact)},
        num_outputs=len(usual))
    evaluator.default().nodes.append(node)
    return node.outputs if len(usual) > 1 else node.outputs[0]


# ------------------------------------------------------------------------------------ arithmetic
def _floor_divide(left: ir.Value, right: ir.Value) -> ir.Value:
    zero = _constant(0, left.dtype)
    if not _is_float(left):
        quotient = op.Div(left, right)
        rest = op.Sub(left, op.Mul(quotient, right))
        lower = op.And(op.Not(op.Equal(rest, zero)), op.Xor(op.Less(rest, zero), op.Less(right, zero)))
        return op.Sub(quotient, op.Cast(lower, to=left.dtype))
    # As c10::div_floor_floating: the exact remainder first, so that 1.0 // 0.1 is 9, not floor(1.0 / 0.1) = 10.
    rest = op.Mod(left, right, fmod=1)
    quotient = op.Div(op.Sub(left, rest), right)
    lower = op.And(op.Not(op.Equal(rest, zero)), op.Xor(op.Less(right, zero), op.Less(rest, zero)))
    quotient = op.Sub(quotient, op.Cast(lower, to=left.dtype))
    floor = op.Floor(quotient)
    above = op.Greater(op.Sub(quotient, floor), _constant(0.5, left.dtype))
    floor = op.Add(floor, op.Cast(above, to=left.dtype))
    return op.Where(op.Equal(right, zero), op.Div(left, right), floor)


@_translation(aten.floor_divide.default)
def _aten_floor_divide(self, other):
    left, right = _operands(self, other)
    if left.dtype == ir.DataType.UINT8:
        return op.Div(left, right)
    return _floor_divide(left, right)


@_translation(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _aten_div_mode(self, other, rounding_mode=None):
    left, right = _operands(self, other)
    if rounding_mode == "floor":
        return _aten_floor_divide(left, right)
    if rounding_mode == "trunc" and not _is_float(left):
        return op.Div(left, right)
    if not _is_float(left):
        left, right = (_cast(side, ir.DataType.FLOAT) for side in (left, right))
    quotient = op.Div(left, right)
    if rounding_mode is None:
        return quotient
    return op.Where(op.Less(quotient, _constant(0, left.dtype)), op.Ceil(quotient), op.Floor(quotient))


@_translation(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor)
def _aten_remainder(self, other):
    left, right = _operands(self, other)
    if not _is_float(left):
        return op.Mod(left, right)
    zero = _constant(0, left.dtype)
    rest = op.Mod(left, right, fmod=1)
    wrong = op.And(op.Not(op.Equal(rest, zero)), op.Xor(op.Less(right, zero), op.Less(rest, zero)))
    return op.Where(wrong, op.Add(rest, right), rest)


@_translation(aten.add.Tensor)
def _aten_add(self, other, alpha=1):
    if getattr(self, "dtype", None) == getattr(other, "dtype", 0) == ir.DataType.BOOL:
        return op.Or(self, other)
    return torchlib.aten_add(self, other, alpha=alpha)


@_translation(aten.rsub.Scalar)
def _aten_rsub(self, other, alpha=1):
    left, right = _operands(other, self)
    return op.Sub(left, right if alpha == 1 else op.Mul(right, _constant(alpha, right.dtype)))


@_translation(aten.mul.Tensor)
def _aten_mul(self, other):
    if getattr(self, "dtype", None) == getattr(other, "dtype", 0) == ir.DataType.BOOL:
        return op.And(self, other)
    return torchlib.aten_mul(self, other)


@_translation(aten.sign.default)
def _aten_sign(self):
    if not _is_float(self):
        return torchlib.aten_sign(self)
    zero = _constant(0, self.dtype)
    return op.Sub(op.Cast(op.Greater(self, zero), to=self.dtype), op.Cast(op.Less(self, zero), to=self.dtype))


@_translation(aten.clamp.default)
def _aten_clamp(self, min=None, max=None):
    """Clip takes a bound that is not given for the largest number, which infinity is beyond."""
    if not _is_float(self) or (min is None) == (max is None):
        return torchlib.aten_clamp(self, min, max)
    return _aten_clamp_min(self, min) if max is None else op.Min(self, _tensor(max, self))


@_translation(aten.clamp_min.default, aten.clamp_min.Tensor)
def _aten_clamp_min(self, min):
    if _is_float(self):
        if isinstance(min, (int, float)) and min == 0:
            return op.Relu(self)
        return op.Max(self, _tensor(min, self))
    number = isinstance(min, (int, float))
    return torchlib.aten_clamp(self, min=min) if number else torchlib.aten_clamp_min_tensor(self, min)


@_translation(aten.clamp_max.default, aten.clamp_max.Tensor)
def _aten_clamp_max(self, max):
    if _is_float(self):
        return op.Min(self, _tensor(max, self))
    number = isinstance(max, (int, float))
    return torchlib.aten_clamp(self, max=max) if number else torchlib.aten_clamp_max_tensor(self, max)


def _is_negative(value: ir.Value, zero: ir.Value) -> ir.Value:
    """Whether the sign is minus, that of zero too."""
    return op.Or(op.Less(value, zero), op.And(op.Equal(value, zero), op.Less(op.Reciprocal(value), zero)))


@_translation(aten.atan2.default)
def _aten_atan2(self, other):
    zero, half, full = (_constant(number, self.dtype) for number in (0.0, math.pi / 4, math.pi))
    rise, run = op.Abs(self), op.Abs(other)
    even = op.Where(op.Equal(rise, zero), zero, half)
    angle = op.Where(op.Equal(rise, run), even, op.Atan(op.Div(rise, run)))
    angle = op.Where(_is_negative(other, zero), op.Sub(full, angle), angle)
    return op.Where(_is_negative(self, zero), op.Neg(angle), angle)


@_translation(aten.neg.default)
def _aten_neg(self):
    return op.Sub(_constant(0, self.dtype), self) if self.dtype == ir.DataType.UINT8 else op.Neg(self)


@_translation(aten.floor.default)
def _aten_floor(self):
    return op.Floor(self) if _is_float(self) else op.Identity(self)


@_translation(aten.ceil.default)
def _aten_ceil(self):
    return op.Ceil(self) if _is_float(self) else op.Identity(self)


@_translation(aten.round.default)
def _aten_round(self):
    return op.Round(self) if _is_float(self) else op.Identity(self)


@_translation(aten.trunc.default)
def _aten_trunc(self):
    if not _is_float(self):
        return op.Identity(self)
    return op.Where(op.Less(self, _constant(0, self.dtype)), op.Ceil(self), op.Floor(self))


@_translation(aten.relu.default)
def _aten_relu(self):
    return op.Relu(self) if _is_float(self) else op.Max(self, _constant(0, self.dtype))


@_translation(aten.log_sigmoid.default)
def _aten_log_sigmoid(self):
    return op.Neg(op.Softplus(op.Neg(self)))


@_translation(aten.softplus.default)
def _aten_softplus(self, beta=1, threshold=20):
    """As max(x, 0) + log(1 + exp(-|x|)): ONNX Runtime's Softplus takes four times as long, and by 20 what ATen leaves
    off above its threshold is 2e-9."""
    scaled = self if beta == 1 else op.Mul(self, _constant(beta, self.dtype))
    one = _constant(1, self.dtype)
    made = op.Add(op.Relu(scaled), op.Log(op.Add(one, op.Exp(op.Neg(op.Abs(scaled))))))
    made = made if beta == 1 else op.Div(made, _constant(beta, self.dtype))
    return made if threshold >= 20 else op.Where(op.Greater(scaled, _constant(threshold, self.dtype)), self, made)


@_translation(aten._softmax.default)
def _aten_softmax(self, dim, half_to_float):
    rank = len(self.shape)
    size = self.shape[dim] if rank else 0
    if half_to_float or not isinstance(size, int) or size == 0 or dim % rank == rank - 1:
        return torchlib.aten__softmax(self, dim, half_to_float)
    # ONNX Runtime transposes, and takes rows of a few elements one by one: five times as long.
    powers = op.Exp(op.Sub(self, op.ReduceMax(self, _axes([dim]), keepdims=1)))
    return op.Div(powers, op.ReduceSum(powers, _axes([dim]), keepdims=1))


@_translation(aten.pow.Tensor_Scalar)
def _aten_pow_scalar(self, exponent):
    if exponent == 2 and (_is_float(self) or isinstance(exponent, int)):
        return op.Mul(self, self)
    if abs(exponent) == 0.5 and _is_float(self):
        return op.Sqrt(self) if exponent > 0 else op.Reciprocal(op.Sqrt(self))
    return torchlib.aten_pow_tensor_scalar(self, exponent)


@_translation(aten.where.self)
def _aten_where(condition, self, other):
    if self.dtype == other.dtype == ir.DataType.BOOL:
        return op.Or(op.And(condition, self), op.And(op.Not(condition), other))
    return op.Where(condition, self, other)


# ------------------------------------------------------------------------------------ reductions
def _reduce_bool(reduce: Callable, self: ir.Value, axes: Sequence[int], keepdim: bool) -> ir.Value:
    """Through uint8, whose identities (0 of max, 255 of min) are also right for no elements."""
    if self.dtype != ir.DataType.BOOL:
        self = _cast(self, ir.DataType.BOOL)
    if len(self.shape) == 0:
        return op.Identity(self)
    small = op.Cast(self, to=ir.DataType.UINT8)
    made = reduce(small, _axes(axes), keepdims=keepdim) if axes else reduce(small, keepdims=keepdim)
    return op.Cast(made, to=ir.DataType.BOOL)


def _as_list(dim: object) -> list[int]:
    return [] if dim is None else [dim] if isinstance(dim, int) else list(dim)


@_translation(aten.any.default, aten.any.dim, aten.any.dims)
def _aten_any(self, dim=None, keepdim=False):
    return _reduce_bool(op.ReduceMax, self, _as_list(dim), keepdim)


@_translation(aten.all.default, aten.all.dim, aten.all.dims)
def _aten_all(self, dim=None, keepdim=False):
    return _reduce_bool(op.ReduceMin, self, _as_list(dim), keepdim)


def _extremum(self: ir.Value, made: ir.Value, exact: Callable[[], ir.Value]) -> ir.Value:
    if not _is_float(self):
        return made
    return _where_finite(self, [made], lambda: [exact()]) if _size(self) >= _LOOK_FROM else exact()


@_translation(aten.amax.default, aten.max.default)
def _aten_amax(self, dim=(), keepdim=False):
    """With the sum of magnitudes, which is nan where data is; one below its negative is below all of the data, zeros
    of either sign too."""
    axes = [_axes(dim)] if dim else []
    made = op.ReduceMax(self, *axes, keepdims=keepdim)

    def exact() -> ir.Value:
        return op.Max(made, op.Sub(_constant(-1, self.dtype), op.ReduceSum(op.Abs(self), *axes, keepdims=keepdim)))

    return _extremum(self, made, exact)


@_translation(aten.amin.default, aten.min.default)
def _aten_amin(self, dim=(), keepdim=False):
    axes = [_axes(dim)] if dim else []
    made = op.ReduceMin(self, *axes, keepdims=keepdim)

    def exact() -> ir.Value:
        return op.Min(made, op.Add(_constant(1, self.dtype), op.ReduceSum(op.Abs(self), *axes, keepdims=keepdim)))

    return _extremum(self, made, exact)


def _first(self: ir.Value, dim: int, keepdim: bool) -> tuple[ir.Value, ir.Value]:
    """The largest along a dimension and the place of its first, nan being the largest, as TopK has it."""
    found = op.TopK(self, _axes([1]), axis=dim)
    return found if keepdim else tuple(op.Squeeze(one, _axes([dim])) for one in found)


@_translation(aten.max.dim)
def _aten_max_dim(self, dim, keepdim=False):
    if not _is_float(self) or len(self.shape) == 0:
        return torchlib.aten_max_dim(self, dim, keepdim)
    return _first(self, dim, keepdim)


@_translation(aten.min.dim)
def _aten_min_dim(self, dim, keepdim=False):
    if not _is_float(self) or len(self.shape) == 0:
        return torchlib.aten_min_dim(self, dim, keepdim)
    values, places = _first(op.Neg(self), dim, keepdim)
    return op.Neg(values), places


def _place(self: ir.Value, dim: int | None, keepdim: bool) -> ir.Value:
    if dim is not None:
        return _first(self, dim, keepdim)[1]
    place = _first(op.Reshape(self, _axes([-1])), 0, False)[1]
    return op.Reshape(place, _axes([1] * len(self.shape))) if keepdim else place


@_translation(aten.argmax.default)
def _aten_argmax(self, dim=None, keepdim=False):
    if not _is_float(self) or len(self.shape) == 0:
        return torchlib.aten_argmax(self, dim, keepdim)
    return _place(self, dim, keepdim)


@_translation(aten.argmin.default)
def _aten_argmin(self, dim=None, keepdim=False):
    if not _is_float(self) or len(self.shape) == 0:
        return torchlib.aten_argmin(self, dim, keepdim)
    return _place(_like(op.Neg(self), self), dim, keepdim)


@_translation(aten.linalg_vector_norm.default)
def _aten_vector_norm(self, ord=2, dim=None, keepdim=False, dtype=-1):
    if not math.isinf(ord) or len(self.shape) == 0 or dtype not in (-1, self.dtype):
        return torchlib_linalg.aten_linalg_vector_norm(self, ord, dim, keepdim, dtype)
    return (_aten_amax if ord > 0 else _aten_amin)(_like(op.Abs(self), self), _as_list(dim), keepdim)


@_translation(aten.log_softmax.int)
def _aten_log_softmax(self, dim, dtype=-1):
    if self.dtype != ir.DataType.DOUBLE or dtype not in (-1, self.dtype) or len(self.shape) == 0:
        return torchlib_special.aten_special_log_softmax(self, dim, dtype)
    shifted = op.Sub(self, op.ReduceMax(self, _axes([dim]), keepdims=1))
    return op.Sub(shifted, op.Log(op.ReduceSum(op.Exp(shifted), _axes([dim]), keepdims=1)))


@_translation(aten.mean.default, aten.mean.dim)
def _aten_mean(self, dim=None, keepdim=False, dtype=-1):
    if dtype not in (-1, self.dtype):
        self = _cast(self, dtype)
    if len(self.shape) == 0:
        return op.Identity(self)
    axes = _as_list(dim) or list(range(len(self.shape)))
    if all(isinstance(self.shape[axis], int) and self.shape[axis] > 0 for axis in axes):
        return op.ReduceMean(self, _axes(axes), keepdims=keepdim)
    # The mean of no elements is nan, which ReduceMean does not give.
    count = op.ReduceProd(op.Gather(op.Shape(self), _axes(axes)), keepdims=0)
    return op.Div(op.ReduceSum(self, _axes(axes), keepdims=keepdim), op.Cast(count, to=self.dtype))


@_translation(aten.batch_norm.default)
def _aten_batch_norm(self, weight, bias, mean, var, training, momentum, epsilon, cudnn_enabled):
    if training or mean is None:
        axes = [axis for axis in range(len(self.shape)) if axis != 1]
        mean = op.ReduceMean(self, _axes(axes), keepdims=1)
        centred = op.Sub(self, mean)
        var = op.ReduceMean(op.Mul(centred, centred), _axes(axes), keepdims=0)
        mean = op.Squeeze(mean, _axes(axes))
    channels = [self.shape[1]]
    if weight is None:
        weight = _constant(np.ones(channels), self.dtype)
    if bias is None:
        bias = _constant(np.zeros(channels), self.dtype)
    return op.BatchNormalization(self, weight, bias, mean, var, epsilon=epsilon)


# ------------------------------------------------------------------- sorting, selection, pooling
@_translation(aten.sort.stable)
def _aten_sort_stable(self, stable=None, dim=-1, descending=False):
    # TopK takes the lower index first among equals: it is stable in both directions.
    return torchlib.aten_sort(self, dim, descending)


@_translation(aten.index.Tensor)
def _aten_index(self, indices):
    wide = [_cast(index, ir.DataType.INT64) if index is not None and index.dtype == ir.DataType.INT32 else index
            for index in indices]
    return torchlib.aten_index(self, wide)


@_translation(aten.reshape.default)
def _aten_reshape(self, shape):
    return op.Reshape(self, common.merge_dims(shape), allowzero=True)


@_translation(aten.masked_select.default)
def _aten_masked_select(self, mask):
    chosen = op.Reshape(op.Expand(mask, op.Shape(self)), _axes([-1]))
    return op.Compress(op.Expand(self, op.Shape(mask)), chosen)


def _max_pool(pool: Callable) -> Callable:
    """A pooling of maxima. Where a window holds nan, so does the pool of what is nan. Where there is padding, ONNX
    Runtime takes the lowest number for the maximum of infinities below it."""
    def translation(self, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False):
        def pooled(value: ir.Value) -> Sequence[ir.Value]:
            made = pool(value, kernel_size, stride, padding, dilation, ceil_mode)
            return made if isinstance(made, tuple) else (made,)

        if not _is_float(self):
            made = pooled(self)
            return made if len(made) > 1 else made[0]
        usual = pooled(self)

        def exact() -> Sequence[ir.Value]:
            zero, infinity = _constant(0, self.dtype), _constant(-math.inf, self.dtype)
            holes, *at = pooled(_like(op.Cast(op.IsNaN(self), to=self.dtype), self))
            hole = op.Greater(holes, zero)
            most, *places = usual
            lowest = _constant(np.finfo(self.dtype.numpy()).min, self.dtype)
            most = op.Where(op.Equal(most, lowest), infinity, most) if np.any(padding) else most
            most = op.Where(hole, _constant(math.nan, self.dtype), most)
            return most, *(op.Where(hole, one, other) for one, other in zip(at, places))

        return _where_finite(self, usual, exact)
    return translation


TRANSLATIONS.update({
    getattr(aten, name).default: _max_pool(getattr(torchlib_nn, f"aten_{name}")) for name in (
        "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
})


@_translation(aten.avg_pool2d.default)
def _aten_avg_pool2d(self, kernel_size, stride=(), padding=(0, 0), ceil_mode=False, count_include_pad=True,
                     divisor_override=None):
    if divisor_override is None:
        return torchlib_nn.aten_avg_pool2d(self, kernel_size, stride, padding, ceil_mode, count_include_pad)
    if ceil_mode:
        raise NotImplementedError("avg_pool2d with both ceil_mode and divisor_override")
    window = math.prod(kernel_size) if len(kernel_size) == 2 else kernel_size[0] ** 2
    mean = torchlib_nn.aten_avg_pool2d(self, kernel_size, stride, padding, False, True)
    return op.Mul(mean, _constant(window / divisor_override, self.dtype))


#: Operators that ONNX cannot say: part of the operator's name -> why. They are refused.
UNSUPPORTED: dict[str, str] = {
    "linalg": "ONNX has no solvers and no matrix decompositions",
    "with_effects": "an operator that reports errors of its own has no place in a region",
    "mode": "ONNX has no most frequent value",
    "lgamma": "ONNX has no special functions beyond erf",
    "digamma": "ONNX has no special functions beyond erf",
    "erf_inv": "ONNX has no special functions beyond erf",
    "bessel": "ONNX has no special functions beyond erf",
    "gcd": "ONNX has no greatest common divisor",
    "index_reduce": "ONNX has no reduction by rows of an index",
    "put": "ONNX has no write by flat index",
    "view.dtype": "ONNX cannot read a tensor's bytes as another type",
    **dict.fromkeys(("bernoulli", "multinomial", "normal", "rand", "uniform", "noise"),
                    "random numbers are drawn by the host, never in a region"),
}

#: Prefixes of operators that draw random numbers, which torch.onnx would write without the call's seed.
RANDOM = ("aten::rand", "aten::bernoulli", "aten::multinomial", "aten::normal", "aten::uniform")



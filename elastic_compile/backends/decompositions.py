"""Operators as compositions of simpler ATen operators, for backends that lack them.

In: the arguments of an ATen operator. Out: `DECOMPOSITIONS`, a function per operator that computes it with others;
one that returns NotImplemented leaves the operator as it is for these arguments.
Never: differs from ATen in more than rounding, or depends on a backend.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch._ops import OpOverload

aten = torch.ops.aten

DECOMPOSITIONS: dict[OpOverload, Callable] = {}

#: What the front end has checked already, and a region does not compute.
ASSERTIONS = frozenset({
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
})


def _decomposition(*targets: OpOverload) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        DECOMPOSITIONS.update(dict.fromkeys(targets, function))
        return function
    return register


@_decomposition(aten.fmax.default)
def _fmax(self, other):
    return torch.where(self.isnan(), other, torch.where(other.isnan(), self, torch.maximum(self, other)))


@_decomposition(aten.fmin.default)
def _fmin(self, other):
    return torch.where(self.isnan(), other, torch.where(other.isnan(), self, torch.minimum(self, other)))


@_decomposition(aten.hypot.default)
def _hypot(self, other):
    made = (self * self + other * other).sqrt()
    return torch.where((self.abs() == math.inf) | (other.abs() == math.inf), math.inf, made)


@_decomposition(aten.xlogy.Tensor)
def _xlogy(self, other):
    return torch.where((self == 0) & ~other.isnan(), torch.zeros_like(other), self * other.log())


@_decomposition(aten.heaviside.default)
def _heaviside(self, values):
    return torch.where(self == 0, values, (self > 0).to(self.dtype))


@_decomposition(aten.logit.default)
def _logit(self, eps=None):
    if not self.dtype.is_floating_point:
        return NotImplemented
    inside = self if eps is None else self.clamp(eps, 1 - eps)
    return (inside / (1 - inside)).log()


@_decomposition(aten.nan_to_num.default)
def _nan_to_num(self, nan=None, posinf=None, neginf=None):
    if not self.dtype.is_floating_point:
        return self.clone()
    limits = torch.finfo(self.dtype)
    made = torch.where(self.isnan(), torch.full_like(self, 0.0 if nan is None else nan), self)
    made = torch.where(self == math.inf, torch.full_like(self, limits.max if posinf is None else posinf), made)
    return torch.where(self == -math.inf, torch.full_like(self, limits.min if neginf is None else neginf), made)


@_decomposition(aten.signbit.default)
def _signbit(self):
    return (self < 0) | ((self == 0) & (1 / self < 0)) if self.dtype.is_floating_point else self < 0


@_decomposition(aten.copysign.Tensor)
def _copysign(self, other):
    return torch.where(_signbit(other), -self.abs(), self.abs())


@_decomposition(aten.roll.default)
def _roll(self, shifts, dims=()):
    """The two parts change places; elements are chosen where the data says by how many."""
    if not dims:
        return _roll(self.reshape(-1), shifts, (0,)).reshape(self.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = self.shape[dim]
        if type(shift) is int and type(size) is int:
            first = -shift % size if size else 0
            self = torch.cat((self.narrow(dim, first, size - first), self.narrow(dim, 0, first)), dim)
        else:
            self = self.index_select(dim, (torch.arange(size) - shift) % size)
    return self


@_decomposition(aten.median.default)
def _median(self):
    flat = self.reshape(-1)
    made = flat.sort()[0].select(0, (flat.shape[0] - 1) // 2)
    return torch.where(flat.isnan().any(), math.nan, made) if self.dtype.is_floating_point else made


@_decomposition(aten.median.dim)
def _median_dim(self, dim, keepdim=False):
    values, indices = _kthvalue(self, (self.shape[dim] + 1) // 2, dim, keepdim)
    if not self.dtype.is_floating_point:
        return values, indices
    holes = self.isnan()
    hole, place = holes.any(dim, keepdim), holes.to(torch.uint8).argmax(dim, keepdim)
    return torch.where(hole, math.nan, values), torch.where(hole, place, indices)


@_decomposition(aten.kthvalue.default)
def _kthvalue(self, k, dim=-1, keepdim=False):
    values, indices = self.topk(k, dim, largest=False, sorted=True)
    values, indices = values.select(dim, k - 1), indices.select(dim, k - 1)
    return (values.unsqueeze(dim), indices.unsqueeze(dim)) if keepdim else (values, indices)


def _static(self: torch.Tensor, dim: int, what: str) -> int:
    size = self.shape[dim]
    if not isinstance(size, int):
        raise NotImplementedError(f"{what} along a dimension whose size is known only at run time")
    return size


def _shifted(self: torch.Tensor, dim: int, step: int, fill: object) -> torch.Tensor:
    size = self.shape[dim]
    head = torch.full_like(self.narrow(dim, 0, step), fill)
    return torch.cat([head, self.narrow(dim, 0, size - step)], dim)


@_decomposition(aten.cumprod.default)
def _cumprod(self, dim, dtype=None):
    """In log2(size) steps (Hillis and Steele, "Data parallel algorithms", 1986)."""
    if dtype is not None:
        self = self.to(dtype)
    elif not self.dtype.is_floating_point:
        self = self.to(torch.int64)
    if self.dim() == 0:
        return self.clone()
    size, step = _static(self, dim, "cumprod"), 1
    while step < size:
        self = self * _shifted(self, dim, step, 1)
        step *= 2
    return self


def _running(better: Callable, lowest: Callable, what: str) -> Callable:
    def decompose(self, dim):
        if self.dim() == 0:
            return self.clone(), torch.zeros((), dtype=torch.int64)
        size, step = _static(self, dim, what), 1
        along = [1] * self.dim()
        along[dim] = size
        values, indices = self, torch.arange(size).view(along).expand(self.shape)
        while step < size:
            earlier = _shifted(values, dim, step, lowest(self.dtype))
            keep = better(values, earlier)
            keep = keep | values.isnan() if self.dtype.is_floating_point else keep
            indices = torch.where(keep, indices, _shifted(indices, dim, step, 0))
            values = torch.where(keep, values, earlier)
            step *= 2
        return values, indices
    return decompose


def _lowest(dtype: torch.dtype) -> float | int:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float | int:
    return math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


DECOMPOSITIONS[aten.cummax.default] = _running(torch.ge, _lowest, "cummax")
DECOMPOSITIONS[aten.cummin.default] = _running(torch.le, _highest, "cummin")


@_decomposition(aten._cdist_forward.default)
def _cdist(x1, x2, p, compute_mode=None):
    """As ATen: through a matrix product when the sets are large and the norm Euclidean."""
    large = x1.shape[-2] > 25 or x2.shape[-2] > 25
    if p == 2 and compute_mode != 2 and (compute_mode == 1 or large):
        squares = (x1 * x1).sum(-1, keepdim=True) + (x2 * x2).sum(-1).unsqueeze(-2)
        return (squares - 2 * (x1 @ x2.mT)).clamp_min(0).sqrt()
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)


@_decomposition(aten.index_put.default)
def _index_put(self, indices, values, accumulate=False):
    """`x[:, i] = v` as a write to the leading dimensions of a transposed `x`."""
    leading = next((i for i, index in enumerate(indices) if index is not None), 0)
    rest = indices[leading:]
    if leading == 0 or any(index is None or index.dtype == torch.bool for index in rest):
        return NotImplemented
    indexed = len(rest)
    order = [*range(leading, leading + indexed), *range(leading), *range(leading + indexed, self.dim())]
    shape = torch.broadcast_shapes(*(index.shape for index in rest))
    written = (*self.shape[:leading], *shape, *self.shape[leading + indexed:])
    values = values.expand(written)
    front = range(leading, leading + len(shape))
    values = values.permute(*front, *range(leading), *range(leading + len(shape), len(written)))
    made = self.permute(order).index_put(tuple(rest), values, accumulate)
    return made.permute([order.index(axis) for axis in range(self.dim())])


@_decomposition(aten.scatter_reduce.two)
def _scatter_reduce(self, dim, index, src, reduce, include_self=True):
    if reduce != "mean":
        return NotImplemented
    count = torch.ones_like(self)
    if not include_self:
        self, count = self.scatter(dim, index, 0), count.scatter(dim, index, 0)
    total = self.scatter_add(dim, index, src)
    count = count.scatter_add(dim, index, torch.ones_like(src)).clamp_min(1)
    return total / count if self.dtype.is_floating_point else total // count


@_decomposition(aten.scatter.value_reduce)
def _scatter_value_reduce(self, dim, index, value, reduce):
    return _scatter_tensor_reduce(self, dim, index, torch.full_like(index, value, dtype=self.dtype), reduce)


@_decomposition(aten.scatter.reduce)
def _scatter_tensor_reduce(self, dim, index, src, reduce):
    if reduce == "add":
        return self.scatter_add(dim, index, src)
    return self.scatter_reduce(dim, index, src, "prod")


@_decomposition(aten.searchsorted.Tensor)
def _searchsorted(sorted_sequence, self, out_int32=False, right=False, side=None, sorter=None):
    if sorter is not None:
        sorted_sequence = sorted_sequence.gather(-1, sorter)
    row = sorted_sequence.unsqueeze(-2) if sorted_sequence.dim() > 1 else sorted_sequence
    below = row <= self.unsqueeze(-1) if right or side == "right" else row < self.unsqueeze(-1)
    if self.dtype.is_floating_point:
        below = below | self.isnan().unsqueeze(-1)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


@_decomposition(aten.adaptive_max_pool2d.default)
def _adaptive_max_pool2d(self, output_size):
    """Row and column windows as torch has them: from floor(i * n / m) to ceil((i + 1) * n / m)."""
    height, width = _static(self, -2, "adaptive_max_pool2d"), _static(self, -1, "adaptive_max_pool2d")
    positions = torch.arange(height * width).view(height, width).expand(self.shape)
    values, indices = [], []
    for top, bottom in _windows(height, output_size[0]):
        for left, right in _windows(width, output_size[1]):
            best = self[..., top:bottom, left:right].flatten(-2).max(-1)
            place = positions[..., top:bottom, left:right].flatten(-2)
            values.append(best.values)
            indices.append(place.gather(-1, best.indices[..., None])[..., 0])
    shape = (*self.shape[:-2], *output_size)
    return torch.stack(values, -1).view(shape), torch.stack(indices, -1).view(shape)


def _windows(size: int, parts: int) -> list[tuple[int, int]]:
    return [(part * size // parts, -(-(part + 1) * size // parts)) for part in range(parts)]


#: Matrices with more rows than this are not solved by elimination written out step by step.
MAX_SOLVED = 32


@_decomposition(aten._linalg_solve_ex.default)
def _solve(A, B, *, left=True, check_errors=False):
    """Gaussian elimination with partial pivoting, written out over the rows, which are known here."""
    size = A.shape[-1]
    if not isinstance(size, int) or size > MAX_SOLVED:
        return NotImplemented
    vector = B.dim() == 1 or (B.dim() == A.dim() - 1 and B.shape == A.shape[:-1])
    known = B.unsqueeze(-1) if vector else B
    given = A if left else A.mT
    known = known if left or vector else known.mT
    batch = torch.broadcast_shapes(given.shape[:-2], known.shape[:-2])
    upper, known = given.expand(*batch, size, size), known.expand(*batch, *known.shape[-2:])
    lower = torch.zeros_like(upper)
    info = torch.zeros(batch, dtype=torch.int32)
    rows = torch.arange(size)
    pivots = []
    for k in range(size):
        chosen = upper[..., k:, k].abs().argmax(-1, keepdim=True) + k
        order = torch.where(rows == k, chosen, torch.where(rows == chosen, k, rows)).unsqueeze(-1)
        upper, known, lower = (
            one.gather(-2, order.expand(*batch, size, one.shape[-1])) for one in (upper, known, lower))
        pivot = upper[..., k:k + 1, k]
        info = torch.where((info == 0) & (pivot.squeeze(-1) == 0), k + 1, info).to(torch.int32)
        factors = torch.where(rows > k, upper[..., k] / pivot, 0).unsqueeze(-1)
        upper = upper - factors * upper[..., k:k + 1, :]
        known = known - factors * known[..., k:k + 1, :]
        lower = lower + factors * (rows == k)
        pivots.append(chosen)
    solved: list[torch.Tensor] = []
    for k in reversed(range(size)):
        solved.append(known[..., k:k + 1, :] / upper[..., k:k + 1, k:k + 1])
        known = known - upper[..., k:k + 1] * solved[-1]
    result = torch.cat(solved[::-1], -2)
    result = result.squeeze(-1) if vector else result if left else result.mT
    return result, lower + upper.triu(), (torch.cat(pivots, -1) + 1).to(torch.int32), info


@_decomposition(aten.linalg_inv_ex.default)
def _inverse(A, *, check_errors=False):
    solved = _solve(A, torch.eye(A.shape[-1], dtype=A.dtype))
    return NotImplemented if solved is NotImplemented else (solved[0], solved[3])

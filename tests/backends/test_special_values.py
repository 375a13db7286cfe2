"""Regions on nan, infinities and zeros of both signs give what eager PyTorch gives, operator by operator."""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from elastic_compile import backends
from tests.backends.regions import compiled, differences

SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -2.5, 0.3])
#: More than a kernel takes at once, with special values at the beginning and in the rest.
LINE = torch.cat([SPECIAL, torch.linspace(-3, 3, 41), SPECIAL.flip(0), torch.linspace(-1, 1, 10)])
PAIRS = tuple(torch.cartesian_prod(SPECIAL, SPECIAL).T.contiguous())


def _rows() -> torch.Tensor:
    """Rows of 19 with no special value, with one at the beginning, in the middle or at the end, with several, and of
    nothing else."""
    line = torch.linspace(-2, 2, 19)
    rows = [line, line.flip(0)]
    for value in (math.nan, math.inf, -math.inf, -0.0):
        for at in (0, 7, 18):
            row = line.roll(at).clone()
            row[at] = value
            rows.append(row)
        rows.append(torch.full((19,), value))
    for first, second, third in ((math.nan, math.nan, math.inf), (math.inf, -math.inf, math.nan),
                                 (math.inf, math.nan, -math.inf), (math.inf, -math.inf, 0.0)):
        row = line.clone()
        row[3], row[9], row[11] = first, second, third
        rows.append(row)
    return torch.stack(rows)


def _image() -> torch.Tensor:
    image = torch.linspace(-2, 2, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).clone()
    image[0, 0, 3, 3] = image[1, 0, 4, 5] = math.nan
    image[1, 1, 0, 0], image[0, 2, 7, 7] = math.inf, -math.inf
    image[1, 2] = -math.inf
    return image


ROWS, IMAGE = _rows(), _image()
GATES = torch.full((4, 3, 1, 1), 0.5)

CASES: dict[str, tuple[Callable, tuple[torch.Tensor, ...]]] = {
    "elementwise": (lambda x: (x.relu(), x.sign(), x.sgn(), x.abs(), -x, x.isnan(), x.bool()), (LINE,)),
    "roots": (lambda x: (x**0.5, x**-0.5, x.sqrt(), x.rsqrt()), (LINE,)),
    "bounds": (lambda x: (x.clamp(0, 1), x.clamp(min=0), x.clamp(max=0.5), x.clamp_min(-1), x.clamp_max(1)), (LINE,)),
    "activations": (
        lambda x: (F.relu6(x), F.hardtanh(x), F.hardsigmoid(x), F.hardswish(x), F.leaky_relu(x), F.elu(x), F.silu(x),
                   F.softplus(x), F.logsigmoid(x), F.threshold(x, 0.1, 20.0), F.hardshrink(x)),
        (LINE,)),
    "shrunk": (F.softshrink, (LINE,)),
    "small numbers": (lambda x: (1 / (x + 1e-8), 1 / (1e-9 + x), 1 / (x - 1e-8)), (torch.zeros(3),)),
    "signs of zeros": (
        lambda x, y: (1 / x.amax(), 1 / x.abs().max(), 1 / x.amin(1), 1 / y.amax(), 1 / y.amin(1), 1 / y.abs().amin()),
        (torch.zeros(3, 19), -torch.zeros(3, 19))),
    "rounding": (lambda x: (x.floor(), x.ceil(), x.round(), x.trunc(), x.frac(), x % 2, x // 2), (LINE,)),
    "comparisons with numbers": (lambda x: (x > 0, x >= 0, x < 0, x <= 0, x == 0, x != 0, x != x, x == x), (LINE,)),
    "comparisons": (lambda a, b: (a > b, a >= b, a < b, a <= b, a == b, a != b, torch.isclose(a, b)), PAIRS),
    "maximum": (lambda a, b: (torch.maximum(a, b), torch.minimum(a, b), torch.fmax(a, b), torch.fmin(a, b)), PAIRS),
    "bounds by tensors": (lambda a, b: (a.clamp(b, b + 1), a.clamp(min=b), a.clamp(max=b)), PAIRS),
    "division": (lambda a, b: (a / b, torch.fmod(a, b), torch.remainder(a, b), a // b), PAIRS),
    "angles": (torch.atan2, PAIRS),
    "pairs": (lambda a, b: (torch.hypot(a, b), torch.xlogy(a, b), torch.where(a > b, a, b)), PAIRS),
    "replaced": (lambda x: (torch.nan_to_num(x), torch.logit(x, 1e-3), torch.heaviside(x, x.new_tensor(0.5))), (LINE,)),
    "max": (lambda x: (x.max(), x.min(), x.amax(), x.amin()), (ROWS,)),
    "max without nan": (lambda x: (x.max(), x.min(), x.amax(0), x.amin(0)), (ROWS[6:14],)),
    "max of many": (lambda x: (x.max(), x.amin(), x.amax(0), x.amin(1, keepdim=True)), (ROWS.repeat(1, 30),)),
    "max of many numbers": (lambda x: (x.max(), x.amin(), x.amax(0), x.amin(1)), (ROWS[:2].repeat(20, 30),)),
    "max of rows": (lambda x: (*x.max(1), *x.min(1), x.amax(1, keepdim=True), x.amin(-1)), (ROWS,)),
    "max of columns": (lambda x: (*x.max(0, keepdim=True), *x.min(0), x.amax(0), x.amin(0)), (ROWS,)),
    "max of both": (lambda x: (x.amax((0, 1)), x.amin((0, 1)), *torch.aminmax(x, dim=1)), (ROWS,)),
    "argmax": (lambda x: (x.argmax(1), x.argmin(1), x.argmax(0), x.argmin(0), x.argmax(), x.argmin()), (ROWS,)),
    "argmax kept": (lambda x: (x.argmax(1, keepdim=True), x.argmin(0, keepdim=True)), (ROWS,)),
    "compared max": (lambda x: (x.max() > 0, x.amax(1) > 0, x.amin(1) <= 0), (ROWS,)),
    "sorted": (lambda x: (*x.sort(dim=1, stable=True), *x.sort(dim=1, descending=True, stable=True)), (ROWS,)),
    "topk": (lambda x: (x.topk(3)[0], x.topk(3, largest=False)[0], x.kthvalue(3)[0]), (ROWS,)),
    "median": (lambda x: (*x.median(1), x.median()), (ROWS,)),
    "running maximum": (lambda x: (*x.cummax(1), *x.cummin(1)), (ROWS,)),
    "norms": (lambda x: (x.norm(dim=1), x.norm(p=math.inf, dim=1), x.norm(p=1, dim=1), F.normalize(x)), (ROWS,)),
    "softmax": (lambda x: (x.softmax(1), x.softmax(0), x.log_softmax(1), x.logsumexp(1)), (ROWS,)),
    "sums": (lambda x: (x.sum(1), x.mean(1), x.nansum(1), x.any(1), x.all(1), x.var(1)), (ROWS,)),
    "positions": (lambda x: torch.searchsorted(torch.linspace(-1, 1, 5), x), (ROWS,)),
    "pooling": (
        lambda x: (F.max_pool2d(x, 2), F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 5, 1, 2), F.max_pool1d(x[0], 3, 2, 1)),
        (IMAGE,)),
    "pooling of numbers": (
        lambda x: (F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 2, ceil_mode=True), F.max_pool1d(x[0], 3, 2, 1)),
        (IMAGE.nan_to_num(1.0, 2.0, -2.0),)),
    "adaptive pooling": (lambda x: (F.adaptive_max_pool2d(x, 1), F.adaptive_max_pool2d(x, 3)), (IMAGE,)),
    "places of maxima": (lambda x: F.max_pool2d(x, 2, return_indices=True), (IMAGE,)),
    "behind a convolution": (
        lambda x: (F.relu(F.conv2d(x, GATES)), F.conv2d(x, GATES).clamp(0, 6), F.max_pool2d(F.conv2d(x, GATES), 2)),
        (IMAGE,)),
    "behind a linear layer": (lambda x: F.relu(F.linear(x, torch.ones(5, 8))), (IMAGE,)),
}


def problems(backend: str, case: str, dtype: torch.dtype) -> list[str]:
    function, inputs = CASES[case]
    given = [one.to(dtype) for one in inputs]
    kernel = compiled(backends.get(backend), function, given)
    return differences(kernel, function, given)


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_has_the_special_values_of_eager(case: str) -> None:
    assert problems("onnxruntime", case, torch.float32) == []


@pytest.mark.parametrize("case", ["maximum", "max", "max of rows", "argmax", "sorted", "softmax", "pooling", "norms"])
def test_onnxruntime_has_the_special_doubles_of_eager(case: str) -> None:
    assert problems("onnxruntime", case, torch.float64) == []


#: What TVM's backend compiles and gives as eager PyTorch does: not the order of nan, nor nan times a zero.
WITH_TVM = sorted(CASES.keys() - {
    "argmax kept", "max of columns", "median", "places of maxima", "replaced", "running maximum", "shrunk", "sorted",
    "topk"})


@pytest.mark.parametrize("case", WITH_TVM)
def test_tvm_has_the_special_values_of_eager(case: str) -> None:
    assert problems("tvm", case, torch.float32) == []

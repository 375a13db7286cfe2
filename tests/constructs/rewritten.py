"""The programs of `refused`, written as their refusals say.

In: nothing. Out: `PROGRAMS`: code -> a factory of (target, calls, host functions).
Never: a program that is refused.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import elastic_compile as ec

PROGRAMS: dict[str, Callable[[], tuple[Any, list[Any], dict[str, Any]]]] = {}


def instead(code: str, *calls: Any, **host_ops: Any) -> Callable[[Any], Any]:
    """Register what to write instead of the program that is refused by `code`."""

    def register(program: Any) -> Any:
        PROGRAMS[code] = lambda: (
            program().eval() if isinstance(program, type) else program,
            [call if isinstance(call, tuple) else (call,) for call in calls or (torch.ones(3), -torch.ones(3))],
            host_ops)
        return program

    return register


@instead("EC110")
def keeps_a_tensor_of_fixed_shape(x):
    rows, n = torch.zeros(16, 3), 0
    while x.sum() < 9:
        x = x + 1
        rows[n] = x
        n += 1
    return rows[:n], n


@instead("EC111")
def compares_the_number(x):
    n = int(x.sum())
    return x * (0 if n <= 0 else 3 if n == 1 else 9)


@instead("EC112", (torch.ones(2), -torch.ones(2)))
def keeps_the_parts_apart(real, imag):
    a, b = real[0].item(), imag[0].item()
    return real * a - imag * b, real * b + imag * a


@instead("EC113")
def asks_a_tensor(x):
    t = x.sum()
    return x if t == t.trunc() else -x


@instead("EC114")
class TableAsATensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(100_000.0))

    def forward(self, x):
        return x * self.table[int(x.sum())]


@instead("EC115")
def sums_a_tensor(x):
    total = x.new_zeros(())
    for value in x[x > 0]:
        total = total + value
    return total


@instead("EC120")
class DependsOnAnAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.ticks = 0

    def forward(self, x):
        y = x.sin() if self.ticks % 2 else x.cos()
        self.ticks += 1
        return y if y.sum() > 0 else -y


@instead("EC121", (torch.ones(3), 12.5), (torch.ones(3), 13.5))
def is_given_the_time(x, now):
    return x * now


@instead("EC130", (torch.ones(3), torch.ones(3)))
def is_given_the_noise(x, noise):
    return x + noise


@instead("EC131")
def has_a_static_output_shape(x):
    return torch.nonzero(x > 0).sum(), x[x > 0]


@instead("EC132")
def computes_in_float16(x):
    with torch.autocast("cpu", dtype=torch.float16):
        return (torch.outer(x, x) @ x).float()


@instead("EC133", torch.tensor([3.0, -1.0, 2.0]), torch.tensor([-3.0, -1.0, -2.0]))
def slices_by_a_number(x):
    return x[: (x > 0).sum()]


@instead("EC134")
def sorts_with_pytorch(x):
    return torch.sort(x).values


@instead("EC140")
def returns_a_name(x):
    if x.sum() > 0:
        return x, str(x.dtype)
    return x, "other"


@instead("EC141")
def returns_the_number(x):
    return x, x.max().item()


@instead("EC150")
def takes_its_state(x, count=1):
    return x + count, count + 1


@instead("EC151")
def clones_its_argument(x):
    x = x.clone()
    x.add_(1)
    return x * 2


@instead("EC152", torch.tensor([1.0, -1.0]), torch.tensor([1.0, 2.0]))
class KeepsABuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(32))
        self.used = 0

    def forward(self, x):
        for value in x:
            if value > 0:
                self.seen[self.used] = value
                self.used += 1
        return self.seen.sum()


@instead("EC153")
class KeepsATotal(nn.Module):
    def __init__(self):
        super().__init__()
        self.total = 0

    def forward(self, x):
        self.total += 1
        return x * self.total


@instead("EC154")
class TableOfTensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(250_000))

    def forward(self, x):
        return x if x.sum() > self.table[0] else -x


@instead("EC160", ([1, 2, 3],))
def takes_a_list(chosen):
    return torch.ones(3) * len(chosen)


@ec.host_op("rewritten.scale", inputs=["float32[n]", "float32[]"], outputs=["float32[n]"])
def scale(x, factor):
    return x * factor


@instead("EC171", **{"rewritten.scale": lambda x, factor: np.asarray(x * factor)})
def gives_a_host_function_a_tensor(x):
    return scale(x, torch.tensor(2.0))

"""The smallest program for each refusal of the catalogue.

In: nothing. Out: `PROGRAMS`: code -> a factory of (target, calls) and the expression to blame, which stands in the
line that ends with the code in a comment; "" where no line of the program is to blame.
Never: a program that eager PyTorch cannot run.
"""
from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import elastic_compile as ec

PROGRAMS: dict[str, tuple[Callable[[], tuple[Any, list[Any]]], str]] = {}
TICKS = itertools.count()
TOTAL = 0


def refused(code: str, blamed: str, *inputs: Any) -> Callable[[Any], Any]:
    """Register a function, or a module class, that is refused when called with `inputs`."""

    def register(program: Any) -> Any:
        def make() -> tuple[Any, list[Any]]:
            target = program().eval() if isinstance(program, type) else program
            return target, [inputs or (torch.ones(3),)]

        PROGRAMS[code] = make, blamed
        return program

    return register


@refused("EC110", "x.sum() < 9")
def never_settles(x):
    rows = []
    while x.sum() < 9:  # EC110
        x = x + 1
        rows.append(x)
    return torch.stack(rows) if rows else x


@refused("EC111", '"abc" * n')
def needs_a_python_number(x):
    n = int(x.sum())
    text = "abc" * n  # EC111
    return x * len(text)


@refused("EC112", "z[0].item()", torch.ones(2, dtype=torch.complex64))
def reads_a_complex_number(z):
    return z * z[0].item()  # EC112


@refused("EC113", "t.is_integer()")
def host_computation_without_an_operation(x):
    t = float(x.sum())
    return x if t.is_integer() else -x  # EC113


@refused("EC114", "self.table[int(x.sum())]")
class HugeTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = [float(i) for i in range(100_000)]

    def forward(self, x):
        return x * self.table[int(x.sum())]  # EC114


@refused("EC115", "x[x > 0].tolist()")
def list_of_unknown_length(x):
    return sum(x[x > 0].tolist())  # EC115


@refused("EC120", "x.sin()")
def depends_on_how_often_it_runs(x):
    y = x.sin() if next(TICKS) % 2 else x.cos()  # EC120
    return y if y.sum() > 0 else -y


@refused("EC121", "time.time()")
def reads_the_clock(x):
    return x * time.time()  # EC121


@refused("EC130", "torch.poisson(x)")
def draws_from_a_rare_distribution(x):
    return torch.poisson(x)  # EC130


@refused("EC131", "F.ctc_loss(", torch.zeros(3, 1, 2), torch.tensor([3]))
def data_decides_inside_an_operation(x, lengths):
    return F.ctc_loss(x, torch.tensor([[1]]), lengths, torch.tensor([1]))  # EC131


@refused("EC132", "x.to(torch.bfloat16)")
def computes_in_bfloat16(x):
    return (x.to(torch.bfloat16) * 3).float()  # EC132


@refused("EC133", "torch.tensor_split(x, count)")
def needs_the_data_itself(x):
    count = (x > 0).sum().reshape(1)
    return torch.tensor_split(x, count)[0]  # EC133


@refused("EC134", "np.sort(x)")
def numpy_on_data(x):
    return torch.from_numpy(np.sort(x))  # EC134


@refused("EC140", "x.sum()")
def returns_an_object(x):
    if x.sum() > 0:  # EC140
        return x, x.dtype
    return x, x.device


@refused("EC141", 'f"the largest is {x.max().item():.2f}"')
def returns_text(x):
    return x, f"the largest is {x.max().item():.2f}"  # EC141


@refused("EC150", "self.names.append(len(self.names))")
class KeepsAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.names = []

    def forward(self, x):
        self.names.append(len(self.names))  # EC150
        return x + len(self.names)


@refused("EC151", "x.add_(1)")
def changes_its_argument(x):
    x.add_(1)  # EC151
    return x * 2


@refused("EC152", "torch.cat([self.seen, x[x > 0]])")
class KeepsAGrowingTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = torch.zeros(0)

    def forward(self, x):
        self.seen = torch.cat([self.seen, x[x > 0]])  # EC152
        return self.seen.sum()


@refused("EC153", "TOTAL += 1")
def assigns_a_global(x):
    global TOTAL
    TOTAL += 1  # EC153
    return x * TOTAL


@refused("EC154", "")
class HoldsTooMuch(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = [[i] for i in range(250_000)]

    def forward(self, x):
        return x if x.sum() > 0 else -x


@refused("EC160", "", {1, 2, 3})
def takes_a_set(chosen):
    return torch.ones(3) * len(chosen)


@ec.host_op("refused.scale", inputs=["float32[n]", "float32[]"], outputs=["float32[n]"])
def scale(x, factor):
    return x * factor


@refused("EC171", "scale(x, 2.0)")
def gives_a_host_function_a_number(x):
    return scale(x, 2.0)  # EC171

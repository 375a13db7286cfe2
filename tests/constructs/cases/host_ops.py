"""Host operations: NumPy in the middle of a network."""
from __future__ import annotations

import numpy as np
import torch
from torch import nn

import elastic_compile as ec
from tests.constructs.registry import case, normal, sweep


class NumpyConstants(nn.Module):
    """NumPy on configuration, never on data: it is computed when the program is compiled."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.sizes = np.array([1, 2])

    def forward(self, x):
        scale = float(np.sqrt(self.sizes.sum()))
        anchors = torch.from_numpy(np.linspace(0.0, 1.0, 2, dtype=np.float32))
        y = self.linear(x) * scale + anchors
        return y if y.sum() > 0 else x


@case(paths=2)
def numpy_on_constants():
    return NumpyConstants(), [(x,) for x in sweep(32, 1, 2)]


class NumpyInTheMiddle(nn.Module):
    """Data leaves torch and comes back."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        y = np.sort(self.linear(x).numpy(), axis=-1)
        return torch.from_numpy(y.copy()) if float(y.sum()) > 0 else x


@case(paths=2, pending="EC134")
def numpy_on_data():
    return NumpyInTheMiddle(), [(x,) for x in sweep(32, 1, 2)]


class AsArray(nn.Module):
    def forward(self, x):
        order = np.argsort(np.asarray(x))
        return x[torch.as_tensor(order.copy())]


@case(paths=1, pending="EC134")
def asarray_on_data():
    return AsArray(), [(normal(1, 3),)]


@ec.host_op("constructs.sort", inputs=["float32[r, n]"], outputs=["float32[r, n]"])
def sort_rows(x):
    return np.sort(x, axis=-1)


@ec.host_op("constructs.matching", inputs=["float32[n, n]"], outputs=["int64[n]", "float32[]"])
def matching(cost):
    """An assignment, as SciPy would compute it: greedy by row."""
    free = list(range(cost.shape[1]))
    chosen = []
    for row in cost:
        chosen.append(min(free, key=lambda j: row[j]))
        free.remove(chosen[-1])
    total = cost[np.arange(len(chosen)), chosen].sum()
    return np.array(chosen, np.int64), np.float32(total)


@ec.host_op("constructs.positive", inputs=["float32[n]"], outputs=["float32[m]"])
def positive(x):
    return x[x > 0]


class SortedOnTheHost(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        y = sort_rows(self.linear(x))
        if y[0, 0] > 0:
            return y * 2
        return y


@case(paths=2, host_ops={"constructs.sort": sort_rows.function})
def host_function_in_the_middle():
    return SortedOnTheHost(), [(x,) for x in sweep(16, 1, 2)]


class Matcher(nn.Module):
    """A DETR-like matcher: a cost matrix goes out, integer indices come back and select rows."""

    def forward(self, a, b):
        chosen, total = matching(torch.cdist(a, b))
        if total > 3:
            return a, chosen
        return b[chosen], chosen


@case(paths=2, host_ops={"constructs.matching": matching.function})
def host_function_with_two_results():
    return Matcher(), [(x, y) for x, y in zip(sweep(8, 3, 2), sweep(8, 3, 2, scales=(0.1, 5.0)))]


class Selected(nn.Module):
    """The host decides how many elements there are, in a branch and in a loop."""

    def forward(self, x):
        kept = x
        while kept.shape[0] > 2 and kept.sum() > 1:
            kept = positive(kept - 0.5)
        return kept.sum()


@case(paths=2, loop=True, host_ops={"constructs.positive": positive.function})
def host_function_decides_a_size():
    return Selected(), [
        (torch.tensor(v),) for v in ([0.1, 0.2, 0.3, -3.0], [1.0, 2.0, 3.0, 9.0], [5.0, -5.0, 2.0, 0.0])]

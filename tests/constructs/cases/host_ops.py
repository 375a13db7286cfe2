"""Host operations: NumPy in the middle of a network."""
from __future__ import annotations

import numpy as np
import torch
from torch import nn

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


@case(paths=2, pending="EC131")
def numpy_on_data():
    return NumpyInTheMiddle(), [(x,) for x in sweep(32, 1, 2)]


class AsArray(nn.Module):
    def forward(self, x):
        order = np.argsort(np.asarray(x))
        return x[torch.as_tensor(order.copy())]


@case(paths=1, pending="EC131")
def asarray_on_data():
    return AsArray(), [(normal(1, 3),)]

"""Deep equilibrium networks: a layer iterated to its fixed point, until the residual is below a tolerance."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchdeq import get_deq

from tests.models.zoo import Built, model, normal


class Cell(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.injection = nn.Linear(width, width)
        with torch.no_grad():
            self.inner.weight.mul_(0.7)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inner(z) + self.injection(x))


class Equilibrium(nn.Module):
    """As the package's tutorial has it."""

    def __init__(self, **solver: Any):
        super().__init__()
        self.cell = Cell(8)
        self.deq = get_deq(f_tol=1e-3, **solver)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, info = self.deq(lambda z: self.cell(z, x), torch.zeros_like(x))
        return self.head(z[-1]), info["nstep"]


def built(**solver: Any) -> Built:
    made = Equilibrium(**solver).eval()
    calls = [(normal(seed, 1, 8, scale=(0.1, 1.0, 5.0, 20.0)[seed % 4]),) for seed in range(24)]
    return Built(made, calls[:4], calls)


@model("torchdeq", blocks=30, regions=30, paths=4)
def deq_fixed_point() -> Built:
    return built(f_solver="fixed_point_iter", f_max_iter=24)


@model("torchdeq", blocks=50, regions=40, paths=3)
def deq_anderson() -> Built:
    return built(f_solver="anderson", f_max_iter=16, m=4)


@model("torchdeq", blocks=30, regions=30, paths=3)
def deq_broyden() -> Built:
    return built(f_solver="broyden", f_max_iter=16)

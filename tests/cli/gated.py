"""A module for the command line's tests, and factories that are wrong in one way each."""
from __future__ import annotations

import time

import torch
from torch import nn


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(4, 3)
        self.large = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        if x.sum() > 0:
            return {"scores": self.large(x), "used": "large"}
        return {"scores": self.small(x), "used": "small"}

    def cheap(self, x):
        return {"scores": self.small(x), "used": "small"}


class Printing(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = x + 1
        return f"{x.sum().item():.2f}"


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen = self.seen + 1
        return x * 2 if x.sum() > 0 else x + self.seen


class Refused(nn.Module):
    def forward(self, x):
        x = torch.poisson(x)
        if x.sum() > 0:
            x = x * time.time()
        return f"{x.sum().item():.2f}"


def thrice_refused():
    return Refused().eval(), [(torch.ones(2, 4),)]


def factory():
    torch.manual_seed(0)
    return Gated().eval(), [(torch.ones(2, 4),), (-torch.ones(2, 4),)]


def other():
    torch.manual_seed(1)
    return Gated().eval(), [(torch.ones(2, 4),), (-torch.ones(2, 4),)]


def counting():
    return Counting().eval(), [(torch.ones(2),), (-torch.ones(2),)]


def refused():
    return Printing().eval(), [(-torch.ones(2, 4),)]


def training():
    return Gated(), [(torch.ones(2, 4),)]


def empty():
    return Gated().eval(), []


def broken():
    return nn.Linear(4, "three"), []


def alone():
    return Gated()


number = 3

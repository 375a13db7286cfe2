"""An elastic network from supernet to device: handwritten digits, the depth and the width of every block are free.

    TARGET=examples/elastic_digits.py:elastic
    elastic-compile profile $TARGET --device here --threads 1 --memory -o here.json
    elastic-compile search $TARGET --device here.json --constraint 'latency_ms<=0.2' -n 300 -o front.json
    elastic-compile build $TARGET --device here.json --budgets-ms 0.05,0.1,0.2 -o digits.elastic

In: nothing (the digits come with scikit-learn). Out: an `Elastic` with 5460 subnets; `evaluate` gives the share of the
last 500 digits, in percent, that a subnet gets right. Never: trains a subnet alone: the supernet is trained by the
sandwich rule (Yu and Huang, ICCV 2019) when it is made, in seconds.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from elastic_compile.profile import Categorical, Elastic, Integer, Space, When

FEATURES, WIDTHS, DEPTH, BATCH = 48, (16, 64, 256, 512), 6, 256


class Block(nn.Module):
    def __init__(self, up: torch.Tensor, bias: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        self.up, self.bias, self.down = map(nn.Parameter, (up, bias, down))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(x @ self.up + self.bias) @ self.down


class Supernet(nn.Module):
    """A subnet has the first `depth` blocks, and of block i the first `width<i>` hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, FEATURES), nn.Linear(FEATURES, 10)
        self.up = nn.ParameterList(torch.randn(FEATURES, max(WIDTHS)) / FEATURES**0.5 for _ in range(DEPTH))
        self.bias = nn.ParameterList(torch.zeros(max(WIDTHS)) for _ in range(DEPTH))
        self.down = nn.ParameterList(torch.randn(max(WIDTHS), FEATURES) / 64 for _ in range(DEPTH))

    def slices(self, config: Mapping[str, int]) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for index in range(config["depth"]):
            width = config[f"width{index}"]
            yield self.up[index][:, :width], self.bias[index][:width], self.down[index][:width]

    def forward(self, x: torch.Tensor, config: Mapping[str, int]) -> torch.Tensor:
        x = self.stem(x)
        for up, bias, down in self.slices(config):
            x = x + torch.relu(x @ up + bias) @ down
        return self.head(x)

    def subnet(self, config: Mapping[str, int]) -> nn.Module:
        with torch.no_grad():
            blocks = [Block(*(one.detach() for one in part)) for part in self.slices(config)]
        return nn.Sequential(self.stem, *blocks, self.head).eval()


def space() -> Space:
    widths = [Categorical(f"width{index}", WIDTHS, part=True,
                          when=None if index == 0 else When("depth", tuple(range(index + 1, DEPTH + 1))))
              for index in range(DEPTH)]
    return Space((Integer("depth", 1, DEPTH), *widths))


def elastic() -> Elastic:
    digits, labels = map(torch.tensor, load_digits(return_X_y=True))
    digits = (digits / 16).float()
    torch.manual_seed(0)
    supernet, subnets = Supernet(), space()
    every = range(DEPTH)
    least, most = ({"depth": depth, **{f"width{index}": width for index in every}}
                   for depth, width in ((1, min(WIDTHS)), (DEPTH, max(WIDTHS))))
    optimizer = torch.optim.AdamW(supernet.parameters(), 2e-3)
    draw = np.random.default_rng(0)
    for _ in range(400):
        rows = torch.randint(len(digits) - 500, (128,))
        moved = digits[rows].reshape(-1, 8, 8).roll(tuple(draw.integers(-1, 2, size=2).tolist()), (1, 2)).flatten(1)
        for config in (least, most, *subnets.sample(2, draw)):
            nn.functional.cross_entropy(supernet(moved, config), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()

    def evaluate(config: Mapping[str, int]) -> dict[str, float]:
        with torch.no_grad():
            found = supernet.subnet(config)(digits[-500:]).argmax(1)
        return {"quality": 100 * float((found == labels[-500:]).float().mean())}

    return Elastic(supernet.eval(), subnets, [(digits[-BATCH:].contiguous(),)], evaluate, parts=("*",))

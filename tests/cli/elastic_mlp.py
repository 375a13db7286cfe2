"""A small elastic network: depth and width of an MLP."""
from __future__ import annotations

import torch

from elastic_compile.profile import Categorical, Elastic, Integer, Space, When


class Mlp(torch.nn.Module):
    """Layers of 8 features with a hidden width each, sliced from shared weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = torch.nn.ModuleList(torch.nn.Linear(8, 32) for _ in range(3))
        self.down = torch.nn.ModuleList(torch.nn.Linear(32, 8) for _ in range(3))

    def subnet(self, config: dict) -> torch.nn.Module:
        layers = []
        for layer in range(config["depth"]):
            width = config[f"width{layer}"]
            up, down = torch.nn.Linear(8, width), torch.nn.Linear(width, 8)
            up.weight.data, up.bias.data = self.up[layer].weight.data[:width], self.up[layer].bias.data[:width]
            down.weight.data, down.bias.data = self.down[layer].weight.data[:, :width], self.down[layer].bias.data
            layers.append(torch.nn.Sequential(up, torch.nn.ReLU(), down))
        return torch.nn.Sequential(*layers).eval()


def evaluate(config: dict) -> dict[str, float]:
    """More is better, with less and less to gain."""
    return {"quality": sum(config[f"width{layer}"] ** 0.5 for layer in range(config["depth"]))}


def factory() -> Elastic:
    widths = [Categorical(f"width{layer}", (8, 16, 32), part=True,
                          when=None if layer == 0 else When("depth", tuple(range(layer + 1, 4)))) for layer in range(3)]
    return Elastic(Mlp(), Space((Integer("depth", 1, 3), *widths)), [(torch.ones(1, 8),)], evaluate, parts=("*",))

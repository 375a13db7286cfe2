"""A supernet of your own as a family: `elastic-compile family examples/own_supernet.py:factory -o own.elastic`.

In: nothing. Out: what the command takes: the supernet, named configurations, example calls.
Never: declares what is shared. `subnet` hands out the supernet's own layers and slices; the compiler finds them.
"""
import torch
from torch import nn


class Slim(nn.Module):
    """Residual layers of which a subnet takes the first `depth`, and of each the first `width` hidden units."""

    def __init__(self, features=64, width=256, depth=4):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(features, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, features) for _ in range(depth))
        self.head = nn.Linear(features, 10)
        self.activate({"depth": depth, "width": width})

    def activate(self, config):
        self.depth, self.width = config["depth"], config["width"]

    def forward(self, x):
        for up, down in list(zip(self.up, self.down))[: self.depth]:
            hidden = nn.functional.linear(x, up.weight[: self.width], up.bias[: self.width])
            x = x + nn.functional.linear(torch.relu(hidden), down.weight[:, : self.width], down.bias)
        return self.head(x)


def factory():
    torch.manual_seed(0)
    configs = {f"d{depth}w{width}": {"depth": depth, "width": width} for depth in (4, 2) for width in (256, 128, 64)}
    return Slim().eval(), configs, [(torch.randn(1, 64),)]

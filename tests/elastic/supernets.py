"""Small supernets of each kind, and random weights that fresh ones do not have.

In: nothing. Out: supernets with `subnet(config)` or `activate(config)`. Never: a bias of zero or a batch norm that
does nothing, behind which a wrong slice could hide.
"""
from __future__ import annotations

import torch
from torch import nn


def scramble(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters, biases and batch-norm statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1 / max(1, parameter[0].numel() if parameter.dim() > 1 else 4) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif buffer.is_floating_point():
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
    return module.eval()


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Stack(nn.Module):
    """Some blocks of a supernet, the very same modules; an early exit when `sure` is given."""

    def __init__(self, blocks, head, sure: float | None = None) -> None:
        super().__init__()
        self.blocks, self.head, self.sure = nn.ModuleList(blocks), head, sure

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            if self.sure is not None:
                y = self.head(x)
                if y.abs().max() > self.sure:
                    return y
        return self.head(x)


class DeepNet(nn.Module):
    """Elastic depth. A configuration is a depth, or {"depth": n, "sure": threshold of an early exit}."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block(width) for _ in range(depth)), nn.Linear(width, 10)

    def subnet(self, config) -> nn.Module:
        depth, sure = (config["depth"], config["sure"]) if isinstance(config, dict) else (config, None)
        return Stack(self.blocks[:depth], self.head, sure).eval()


class WideNet(nn.Module):
    """Elastic width: `subnet` copies prefixes; `gathered` copies the channels that `order` lists."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.head = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))

    def subnet(self, config) -> nn.Module:
        keep = torch.arange(config) if isinstance(config, int) else torch.tensor(config)
        made = WideNet(len(keep))
        with torch.no_grad():
            for name, own in [*made.named_parameters(), *made.named_buffers()]:
                tensor = self.get_parameter(name) if isinstance(own, nn.Parameter) else self.get_buffer(name)
                for axis, (small, large) in enumerate(zip(own.shape, tensor.shape)):
                    if small == len(keep) and large == self.first.out_channels:
                        tensor = tensor.index_select(axis, keep)
                own.copy_(tensor)
        return made.eval()


class ActiveNet(nn.Module):
    """Elastic width in place: `activate` says how much of each weight the forward slices off."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(16, width), nn.BatchNorm1d(width), nn.Linear(width, 10)
        self.width = width

    def activate(self, width: int) -> None:
        self.width = width

    def forward(self, x):
        n = self.width
        x = torch.nn.functional.linear(x, self.up.weight[:n], self.up.bias[:n])
        x = torch.nn.functional.batch_norm(
            x, self.norm.running_mean[:n], self.norm.running_var[:n], self.norm.weight[:n], self.norm.bias[:n])
        return torch.nn.functional.linear(torch.relu(x), self.down.weight[:, :n], self.down.bias)


class Narrowing(nn.Module):
    """Elastic width of both sides of each layer, in place, for inputs of 64 features."""

    def __init__(self, width: int, layers: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.width = width

    def activate(self, width: int) -> None:
        self.width = width

    def forward(self, x):
        n = self.width
        x = torch.nn.functional.linear(x, self.stem.weight[:n], self.stem.bias[:n])
        for layer in self.layers:
            x = torch.relu(torch.nn.functional.linear(x, layer.weight[:n, :n], layer.bias[:n]))
        return torch.nn.functional.linear(x, self.head.weight[:, :n], self.head.bias)


class Counter(nn.Module):
    """A layer with a state that lives between calls: the sum of what it saw."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, width))
        self.mix = nn.Linear(width, width)

    def forward(self, x):
        self.seen += x
        return self.mix(self.seen)


class Streaming(nn.Module):
    """Elastic depth with state in each layer. A configuration lists the layers."""

    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({f"l{number}": Counter(width) for number in range(depth)})

    def subnet(self, config) -> nn.Module:
        made = Chain()
        made.layers = nn.ModuleDict({name: self.layers[name] for name in config})
        return made.eval()


class Chain(nn.Module):
    def forward(self, x):
        for layer in self.layers.values():
            x = x + layer(x)
        return x

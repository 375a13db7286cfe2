"""An autoencoder whose latent image is a sum of code maps of growing size: the tokeniser of a VAR model.

In: images [batch, channels, height, width]. Out: one map of code numbers per scale, and images back from their sum.
Never: anything special for the compiler; this is the model as one would write it for eager PyTorch.

After Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction", 2024
(section 3.2 and its algorithms 1 and 2); written anew. Resizing is by fixed matrices, one per size, since both the area
average and the bicubic interpolation are separable and linear.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resizing(source: int, target: int, mode: str) -> Tensor:
    """The matrix [target, source] that resizes one axis as `F.interpolate` with `mode` does."""
    columns = torch.eye(source).view(source, 1, source, 1)
    return F.interpolate(columns, (target, 1), mode=mode).view(source, target).T.contiguous()


class Quantiser(nn.Module):
    """Multi-scale residual quantisation of a latent image [batch, channels, side, side].

    `sizes`: side of each scale's code map, growing; the last is `side`. Each scale encodes what the ones before it
    left over. `mixers`: number of 3x3 convolutions that smooth an enlarged map, shared by neighbouring scales.
    """

    def __init__(self, codes: int, channels: int, sizes: Sequence[int], mixers: int = 4) -> None:
        super().__init__()
        self.sizes, self.channels, self.side = tuple(sizes), channels, sizes[-1]
        self.codebook = nn.Embedding(codes, channels)
        self.mixers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(mixers))
        for size in self.sizes:
            self.register_buffer(f"enlarge{size}", resizing(size, self.side, "bicubic"), persistent=False)
            self.register_buffer(f"shrink{size}", resizing(self.side, size, "area"), persistent=False)

    def shrunk(self, features: Tensor, scale: int) -> Tensor:
        """`features` averaged down to the size of `scale`: [batch, channels, size, size]."""
        matrix = getattr(self, f"shrink{self.sizes[scale]}")
        return matrix @ features @ matrix.T

    def contribution(self, tokens: Tensor, scale: int) -> Tensor:
        """What the code map `tokens` [batch, size * size] of `scale` adds to the latent image."""
        size = self.sizes[scale]
        codes = self.codebook(tokens).transpose(1, 2).reshape(-1, self.channels, size, size)
        if size != self.side:
            matrix = getattr(self, f"enlarge{size}")
            codes = matrix @ codes @ matrix.T
        mixer = self.mixers[round(scale / (len(self.sizes) - 1) * (len(self.mixers) - 1))]
        return 0.5 * codes + 0.5 * mixer(codes)

    def nearest(self, features: Tensor) -> Tensor:
        """The number of the closest code at each place: [batch, size * size]."""
        flat = features.flatten(2).transpose(1, 2)
        distance = self.codebook.weight.square().sum(1) - 2 * flat @ self.codebook.weight.T
        return distance.argmin(-1)

    def forward(self, latent: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """The quantised latent image (gradients pass straight through), tokens per scale, and the training loss."""
        rest, found, loss = latent.detach(), torch.zeros_like(latent), latent.new_zeros(())
        tokens = []
        for scale in range(len(self.sizes)):
            tokens.append(self.nearest(self.shrunk(rest, scale)))
            found = found + self.contribution(tokens[-1], scale)
            rest = (latent - found).detach()
            loss = loss + F.mse_loss(found, latent.detach()) + 0.25 * F.mse_loss(found.detach(), latent)
        return latent + (found - latent).detach(), tokens, loss / len(self.sizes)

    def inputs(self, tokens: Sequence[Tensor]) -> Tensor:
        """What the transformer reads at each scale but the first, for training: [batch, tokens, channels]."""
        found = torch.zeros(len(tokens[0]), self.channels, self.side, self.side)
        parts = []
        for scale in range(1, len(self.sizes)):
            found = found + self.contribution(tokens[scale - 1], scale - 1)
            parts.append(self.shrunk(found, scale).flatten(2).transpose(1, 2))
        return torch.cat(parts, 1)


class Residual(nn.Module):
    """Two normalised 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(min(8, inputs // 4), inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(min(8, outputs // 4), outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Encoder(nn.Module):
    """An image to a latent image; each width but the last halves the sides."""

    def __init__(self, channels: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        for before, width in pairwise(widths):
            layers += [Residual(before, width), nn.Conv2d(width, width, 3, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, Residual(widths[-1], widths[-1]), nn.Conv2d(widths[-1], latent, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Decoder(nn.Module):
    """The encoder's mirror: a latent image to an image."""

    def __init__(self, channels: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 3, padding=1), Residual(widths[-1], widths[-1])]
        for before, width in zip(widths[:0:-1], widths[-2::-1]):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, width, 3, padding=1), Residual(width, width)]
        self.layers = nn.Sequential(
            *layers, nn.GroupNorm(min(8, widths[0] // 4), widths[0]), nn.SiLU(),
            nn.Conv2d(widths[0], channels, 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent)


class VQVAE(nn.Module):
    """`forward` gives the reconstruction, the tokens per scale and the quantiser's loss."""

    def __init__(self, channels: int, widths: Sequence[int], codes: int, latent: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Encoder(channels, widths, latent)
        self.quantiser = Quantiser(codes, latent, sizes)
        self.decoder = Decoder(channels, widths, latent)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        latent, tokens, loss = self.quantiser(self.encoder(image))
        return self.decoder(latent), tokens, loss

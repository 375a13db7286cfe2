"""Supernets as their papers describe them, small: HAT and EfficientTDNN, whose code is no package.

In: nothing. Out: modules with `activate(config)`. Never: a subnet that differs from slicing the supernet's tensors.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def cut(linear: nn.Linear, rows: int, columns: int):
    return lambda x: F.linear(x, linear.weight[:rows, :columns], linear.bias[:rows])


class HatLayer(nn.Module):
    def __init__(self, width: int, ffn: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.head_width, self.cross = width // heads, cross
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        if cross:
            self.other = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def attend(self, parts, x, memory, width, heads):
        inner = heads * self.head_width
        split = lambda t: t.view(t.shape[0], t.shape[1], heads, self.head_width).transpose(1, 2)  # noqa: E731
        q, k, v = (split(cut(part, inner, width)(t)) for part, t in zip(parts, (x, memory, memory)))
        return cut(parts[3], width, inner)(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def norm(self, which, x):
        norm, width = self.norms[which], x.shape[-1]
        return F.layer_norm(x, (width,), norm.weight[:width], norm.bias[:width])

    def forward(self, x, memory, width, heads, ffn):
        x = self.norm(0, x + self.attend(self.own, x, x, width, heads))
        if self.cross:
            x = self.norm(1, x + self.attend(self.other, x, memory, width, heads))
        return self.norm(2, x + cut(self.down, width, ffn)(torch.relu(cut(self.up, ffn, width)(x))))


class Hat(nn.Module):
    """Encoder and decoder with elastic width, depth, heads and hidden widths per layer, and arbitrary attention of a
    decoder layer to the last 1, 2 or 3 encoder layers (Wang et al., Hardware-Aware Transformers, ACL 2020)."""

    def __init__(self, width: int = 32, ffn: int = 64, heads: int = 4, layers: int = 3, words: int = 20) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(words, width), nn.Embedding(words, width)
        self.encoder = nn.ModuleList(HatLayer(width, ffn, heads, False) for _ in range(layers))
        self.decoder = nn.ModuleList(HatLayer(width, ffn, heads, True) for _ in range(layers))
        self.head = nn.Linear(width, words)
        self.config = None

    def activate(self, config) -> None:
        self.config = config

    def forward(self, source, target):
        config, width = self.config, self.config["width"]
        x, states = F.embedding(source, self.source.weight[:, :width]), []
        for layer, heads, ffn in zip(self.encoder, config["encoder_heads"], config["encoder_ffn"]):
            x = layer(x, None, width, heads, ffn)
            states.append(x)
        y = F.embedding(target, self.target.weight[:, :width])
        for layer, heads, ffn, last in zip(
                self.decoder, config["decoder_heads"], config["decoder_ffn"], config["attends"]):
            y = layer(y, torch.cat(states[-last:], 1), width, heads, ffn)
        return cut(self.head, self.head.out_features, width)(y)

    @staticmethod
    def sample(draw) -> dict:
        pick = lambda options, count: [draw.choice(options) for _ in range(count)]  # noqa: E731
        encoder, decoder = draw.choice((2, 3)), draw.choice((1, 2, 3))
        return {"width": draw.choice((24, 32)), "encoder_heads": pick((2, 4), encoder),
                "encoder_ffn": pick((32, 48, 64), encoder), "decoder_heads": pick((2, 4), decoder),
                "decoder_ffn": pick((32, 48, 64), decoder), "attends": pick((1, 2, 3), decoder)}


class Tdnn(nn.Module):
    """Speaker embedding by time-delay layers of elastic depth, kernel (its centre) and width, with pooled statistics
    (Wang et al., EfficientTDNN, TASLP 2022)."""

    def __init__(self, features: int = 24, width: int = 32, kernel: int = 5, depth: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(features if number == 0 else width, width, kernel) for number in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.embed = nn.Linear(2 * width, 16)
        self.config = None

    def activate(self, config) -> None:
        self.config = config

    def forward(self, x):
        for conv, norm, width, kernel in zip(self.convs, self.norms, self.config["widths"], self.config["kernels"]):
            edge = (conv.kernel_size[0] - kernel) // 2
            weight = conv.weight[:width, :x.shape[1], edge:edge + kernel]
            x = F.conv1d(x, weight, conv.bias[:width], padding=kernel // 2)
            x = F.batch_norm(torch.relu(x), norm.running_mean[:width], norm.running_var[:width], norm.weight[:width],
                             norm.bias[:width])
        width = x.shape[1]
        pooled = torch.cat((x.mean(2), x.std(2)), 1)
        full = self.embed.weight.shape[1] // 2
        weight = torch.cat((self.embed.weight[:, :width], self.embed.weight[:, full:full + width]), 1)
        return F.linear(pooled, weight, self.embed.bias)

    @staticmethod
    def sample(draw) -> dict:
        depth = draw.choice((2, 3, 4))
        return {"widths": [draw.choice((16, 24, 32)) for _ in range(depth)],
                "kernels": [draw.choice((1, 3, 5)) for _ in range(depth)]}

"""A next-scale prediction transformer whose depth may change between two scales.

In: a class, and noise for the sampling. Out, call by call, the code map of the next scale and the latent image
so far; the last call of an image gives the latent image that the decoder of `vqvae.py` turns into pixels.
Never: anything special for the compiler; this is the model and the loop as one would write them for eager PyTorch.

After Tian et al., "Visual Autoregressive Modeling", 2024; written anew. Depth schedules after VARiant: the first scales
run all layers, later ones an equidistant subset of them that reads the caches which the first scales left.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vqvae import Quantiser

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def equidistant(layers: int, depth: int) -> tuple[int, ...]:
    """`depth` of `layers` layers at equal distances, the first and the last among them."""
    if not 2 <= depth <= layers:
        raise ValueError(f"a depth of {depth} layers: expected 2 to {layers}")
    return tuple(round(i * (layers - 1) / (depth - 1)) for i in range(depth))


class Attention(nn.Module):
    """Self-attention over the tokens of this scale and all before it; queries and keys are normalised.

    Tokens are the outermost dimension, so that the cache grows at its end.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.temperature = nn.Parameter(torch.full((heads, 1), 4.0).log())
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q = F.normalize(self.split(self.query(x)), dim=-1) * self.temperature.exp()
        k, v = F.normalize(self.split(self.key(x)), dim=-1), self.value(x)
        if not self.training:
            if self.keys is not None:
                k, v = torch.cat((self.keys, k)), torch.cat((self.values, v))
            self.keys, self.values = k, v
        q, k, v = (part.permute(1, 2, 0, 3) for part in (q, k, self.split(v)))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.out(mixed.permute(2, 0, 1, 3).reshape(x.shape))


class Block(nn.Module):
    """A transformer block whose normalisations and residual branches the condition shifts and scales (AdaLN)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        gain1, gain2, scale1, scale2, shift1, shift2 = self.modulation(condition).chunk(6, -1)
        x = x + gain1 * self.attention(self.norm(x) * (1 + scale1) + shift1, mask)
        return x + gain2 * self.feed_forward(self.norm(x) * (1 + scale2) + shift2)


class Head(nn.Module):
    """Scores of all codes for each token."""

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, codes)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, -1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


def gumbel(*shape: int, seed: int) -> Tensor:
    """Noise for `sample`."""
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).clamp(1e-7, 1 - 1e-7)
    return -(-uniform.log()).log()


def sample(logits: Tensor, noise: Tensor, top_k: int, top_p: float) -> Tensor:
    """A code per token from `logits` [..., codes]: one of the `top_k` most likely, of those the fewest whose
    probabilities reach `top_p`. `noise`: Gumbel noise [..., codes]; the greatest sum is drawn (Gumbel, 1954)."""
    best = logits.topk(top_k).values
    probability = best.softmax(-1)
    kept = (probability.cumsum(-1) - probability < top_p).sum(-1, keepdim=True)
    return torch.where(logits >= best.gather(-1, kept - 1), logits + noise, -torch.inf).argmax(-1)


class VAR(nn.Module):
    """Each call of `forward` generates the next scale of an image; after the last scale a new image begins.

    `activate({"depth": d})` selects the layers that following calls run. A layer's cache holds the tokens of all
    scales so far only when each of those scales ran the layer: a depth may follow another whose layers include its
    own.
    """

    def __init__(self, quantiser: Quantiser, width: int, depth: int, heads: int, classes: int, *,
                 guidance: float = 4.0, top_k: int = 900, top_p: float = 0.96) -> None:
        super().__init__()
        self.quantiser, self.classes = quantiser, classes
        self.sizes = quantiser.sizes
        self.ends = tuple(sum(size * size for size in self.sizes[: i + 1]) for i in range(len(self.sizes)))
        codes = quantiser.codebook.num_embeddings
        self.guidance, self.top_k, self.top_p = guidance, min(top_k, codes), top_p
        self.class_embedding = nn.Embedding(classes + 1, width)
        self.token_embedding = nn.Linear(quantiser.channels, width)
        self.position = nn.Parameter(torch.randn(self.ends[-1], 1, width) * 0.02)
        self.level = nn.Parameter(torch.randn(len(self.sizes), width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.head = Head(width, codes)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)) and part is not quantiser.codebook:
                nn.init.trunc_normal_(part.weight, std=0.02)
        for block in self.blocks:
            nn.init.constant_(block.modulation[1].bias[: 2 * width], 0.3)
        self.layers = tuple(range(depth))
        self.scale = 0
        self.condition: Tensor | None = None
        self.latent: Tensor | None = None

    def activate(self, config: Mapping[str, int]) -> None:
        """Run `config["depth"]` equidistant layers from now on."""
        self.layers = equidistant(len(self.blocks), config["depth"])

    def reset(self) -> None:
        """Forget an image that is not finished."""
        self.scale, self.condition, self.latent = 0, None, None
        for block in self.blocks:
            block.attention.keys = block.attention.values = None

    def forward(self, label: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The next scale of the images of classes `label` (int64 [batch], read at the first scale).

        `noise`: Gumbel noise [batch, tokens, codes] for the tokens of all scales.
        """
        scale, batch = self.scale, len(label)
        begin, end = self.ends[scale] - self.sizes[scale] ** 2, self.ends[scale]
        if scale == 0:
            self.condition = self.class_embedding(torch.cat((label, torch.full_like(label, self.classes))))
            self.latent = torch.zeros(batch, self.quantiser.channels, self.sizes[-1], self.sizes[-1])
            x = self.condition[None]
        else:
            x = self.token_embedding(self.quantiser.shrunk(self.latent, scale).flatten(2).permute(2, 0, 1))
            x = torch.cat((x, x), 1)
        x = x + self.position[begin:end] + self.level[scale]
        for number in self.layers:
            x = self.blocks[number](x, self.condition)
        logits = self.head(x, self.condition).transpose(0, 1)
        strength = self.guidance * scale / (len(self.sizes) - 1)
        logits = (1 + strength) * logits[:batch] - strength * logits[batch:]
        tokens = sample(logits, noise[:, begin:end], self.top_k, self.top_p)
        latent = self.latent + self.quantiser.contribution(tokens, scale)
        if scale + 1 < len(self.sizes):
            self.scale, self.latent = scale + 1, latent
        else:
            self.reset()
        return {"tokens": tokens, "latent": latent}

    def scores(self, label: Tensor, inputs: Tensor, depths: Sequence[int]) -> Tensor:
        """For training: scores [batch, tokens, codes] of all scales at once, `inputs` as the quantiser makes them.

        `depths`: the depth of each scale. Tokens see their own scale and those before it.
        """
        condition = self.class_embedding(label)
        x = torch.cat((condition[None], self.token_embedding(inputs.transpose(0, 1))))
        levels = torch.cat([torch.full((size * size,), i) for i, size in enumerate(self.sizes)])
        x = x + self.position + self.level[levels][:, None]
        mask = levels[:, None] >= levels[None]
        for number, block in enumerate(self.blocks):
            runs = [number in equidistant(len(self.blocks), depth) for depth in depths]
            if runs != sorted(runs, reverse=True):
                raise ValueError(f"depths {list(depths)}: layer {number} runs at a scale after one that skips it")
            if any(runs):
                end = self.ends[sum(runs) - 1]
                x = torch.cat((block(x[:end], condition, mask[:end, :end]), x[end:]))
        return self.head(x, condition).transpose(0, 1)


def generate(var: VAR, decoder: nn.Module, label: Tensor, noise: Tensor, schedule: Sequence[int]) -> Tensor:
    """Images of classes `label`; `schedule`: the depth of each scale."""
    with torch.no_grad():
        for depth in schedule:
            var.activate({"depth": depth})
            latent = var(label, noise)["latent"]
        return decoder(latent)

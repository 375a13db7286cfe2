"""Example calls, varied at random: the same structure, shapes and dtypes, other numbers.

In: example calls. Out: as many new ones as asked for, the same for the same seed.
Never: leaves the range of what the examples show where a number may be a size, an index or a class.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from elastic_compile.capture.signature import Call, CallShape

_STRENGTHS = (0.1, 0.5, 1.0, 2.0)


def varied(shapes: Sequence[CallShape], count: int, seed: int) -> Iterator[Call]:
    """`count` calls, taking turns over the given calls of all `shapes`.

    Floats get normal noise of 0.1 to 2 times their standard deviation and may be scaled or shuffled; integers are
    drawn from between the smallest and the largest of their tensor, bools as often true as in theirs. A number
    that is a run-time input is one of those that the examples give.
    """
    draw = torch.Generator().manual_seed(seed)
    given = [(shape, call) for shape in shapes for call in shape.calls]
    for number in range(count):
        shape, call = given[number % len(given)]
        leaves = shape.leaves_of(call)
        seen = [shape.leaves_of(other) for other in shape.calls]
        args, kwargs = shape.arguments(
            [_vary(leaf, [row[place] for row in seen], draw) for place, leaf in enumerate(leaves)], call)
        yield Call(args, kwargs)


def _vary(leaf: Any, seen: Sequence[Any], draw: torch.Generator) -> Any:
    if not isinstance(leaf, Tensor):
        return seen[_below(len(seen), draw)]
    if not leaf.numel():
        return leaf.clone()
    if leaf.dtype == torch.bool:
        share = leaf.float().mean().clamp(0.1, 0.9)
        return torch.rand(leaf.shape, generator=draw) < share
    if leaf.is_complex():
        return torch.complex(_noisy(leaf.real, draw), _noisy(leaf.imag, draw)).to(leaf.dtype)
    if leaf.is_floating_point():
        return _noisy(leaf, draw)
    low, high = int(leaf.min()), int(leaf.max())
    return torch.randint(low, high + 1, leaf.shape, generator=draw).to(leaf.dtype)


def _noisy(leaf: Tensor, draw: torch.Generator) -> Tensor:
    flat = leaf.detach().double().flatten()
    if _below(3, draw) == 0:
        flat = flat[torch.randperm(len(flat), generator=draw)]
    spread = flat.std(correction=0).item() or abs(flat[0].item()) or 1.0
    strength = _STRENGTHS[_below(len(_STRENGTHS), draw)]
    noise = torch.randn(flat.shape, generator=draw, dtype=torch.float64) * spread * strength
    return (flat + noise).reshape(leaf.shape).to(leaf.dtype)


def _below(limit: int, draw: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=draw))

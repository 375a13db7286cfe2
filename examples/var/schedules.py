"""Depth schedules: the compiled family of depths, images by schedule, and what the caches take.

In: a VAR model, or its bundle loaded. Out: bundles, latent images, bytes.
Never: knows what the images show.
"""
from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor
from transformer import VAR, equidistant

import elastic_compile as ec
import elastic_runtime as er
from elastic_runtime import growing


def compiled(var: VAR, depths: Sequence[int], label: Tensor, noise: Tensor,
             progress: Callable | None = None) -> ec.CompiledFamily:
    """`var` as a family with a subnet "d8" for each depth 8; one example image takes each scale once."""
    return ec.compile_family(var, {f"d{depth}": {"depth": depth} for depth in depths},
                             [(label, noise)] * len(var.sizes), progress=progress)


@dataclass
class Timing:
    """Seconds of each scale of one image, and of its switches."""

    scales: list[float] = field(default_factory=list)
    switches: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.scales) + sum(self.switches)


def run(model: er.Model, label: np.ndarray, noise: np.ndarray, schedule: Sequence[int]) -> tuple[np.ndarray, Timing]:
    """The latent images of classes `label`; `schedule`: the depth of each scale."""
    timing = Timing()
    for depth in schedule:
        start = time.perf_counter()
        if model.active != f"d{depth}":
            model.switch(f"d{depth}")
            timing.switches.append(time.perf_counter() - start)
            start = time.perf_counter()
        latent = model(label, noise)["latent"]
        timing.scales.append(time.perf_counter() - start)
    return latent, timing


def run_eager(var: VAR, label: Tensor, noise: Tensor, schedule: Sequence[int]) -> tuple[Tensor, Timing]:
    """The same in PyTorch."""
    timing = Timing()
    for depth in schedule:
        start = time.perf_counter()
        var.activate({"depth": depth})
        latent = var(label, noise)["latent"]
        timing.scales.append(time.perf_counter() - start)
    return latent, timing


# ------------------------------------------------------------------------------------------------ cache memory
def peak_rows(layers: int, sizes: Sequence[int], schedule: Sequence[int], *, drop: bool = True) -> int:
    """The most cache rows (tokens times layers) held at once. `drop`: caches that no later scale reads are dropped,
    at a switch and, in the last scale, behind each layer; without it they stay until the image is finished."""
    held = [0] * layers
    peak = 0
    for scale, (size, depth) in enumerate(zip(sizes, schedule, strict=True)):
        active = equidistant(layers, depth)
        if drop:
            held = [rows if layer in active else 0 for layer, rows in enumerate(held)]
        for layer in active:
            held[layer] += size * size
            peak = max(peak, sum(held))
            if drop and scale == len(sizes) - 1:
                held[layer] = 0
    return peak


@contextlib.contextmanager
def cache_peak() -> Iterator[list[int]]:
    """Within, the bytes of rows in the runtime's growing buffers are watched; gives a list of their greatest sum."""
    peak, buffers, grow = [0], weakref.WeakSet(), growing.grow

    def watched(*args):
        whole, tail = grow(*args)
        buffers.add(growing.Buffer.of(whole))
        peak[0] = max(peak[0], sum(
            buffer.used * int(np.prod(buffer.row)) * buffer.dtype.itemsize for buffer in buffers))
        return whole, tail

    growing.grow = watched
    try:
        yield peak
    finally:
        growing.grow = grow


@contextlib.contextmanager
def eager_cache_peak(var: VAR) -> Iterator[list[int]]:
    """The same for the eager model's caches."""
    peak = [0]

    def look(*_):
        caches = [(block.attention.keys, block.attention.values) for block in var.blocks]
        peak[0] = max(peak[0], sum(each.nbytes for pair in caches for each in pair if each is not None))

    hooks = [block.attention.register_forward_hook(look) for block in var.blocks]
    try:
        yield peak
    finally:
        for hook in hooks:
            hook.remove()

"""Real models of public packages, small and with random weights: what is compiled, and calls that take its paths.

In: factories, one module per package or family. Out: `load()`, the models by name.
Never: changes a model's own source, or compiles anything.
"""
from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Built:
    """A model ready to compile.

    `target` and `examples` are `ec.compile`'s; `inputs` more calls of the same signature, which take different paths
    (the target itself, called with one, is the eager reference). `static` is a module with example arguments that
    `torch.export` accepts and that computes about the same on one path; None where there is none.
    """

    target: Any
    examples: Sequence[tuple[Any, ...]]
    inputs: Sequence[tuple[Any, ...]]
    static: tuple[torch.nn.Module, tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class Model:
    """`build()` gives equal weights and calls every time. `blocks` and `regions` bound what may become of it; `paths`
    is how many different paths its inputs take at least. `package`: where it comes from."""

    name: str
    package: str
    factory: Callable[[], Built]
    blocks: int
    regions: int
    paths: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Built:
        torch.manual_seed(self.seed)
        return self.factory(**self.options)


MODELS: dict[str, Model] = {}


def model(package: str, *, blocks: int, regions: int, paths: int, seed: int = 0) -> Callable[[Any], Any]:
    """Register the decorated factory under its name."""

    def register(factory: Callable[[], Built]) -> Callable[[], Built]:
        name = factory.__name__
        if name in MODELS:
            raise ValueError(f"two models are called {name}")
        MODELS[name] = Model(name, package, factory, blocks, regions, paths, seed)
        return factory

    return register


def tokens(seed: int, vocabulary: int, *shape: int) -> torch.Tensor:
    """Token ids, the same for the same seed."""
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def normal(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normally distributed numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def load() -> dict[str, Model]:
    """All models by name; those of packages that are not installed are left out."""
    for found in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{found}")
    return MODELS

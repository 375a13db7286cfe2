"""The list of constructs that the compiler is tested on.

In: factories of small networks, as users write them, with calls that take every path.
Out: `CASES`, filled by importing the modules of `cases/` (one construct each) and `published/` (whole networks).
Never: compiles anything, or looks at what the compiler makes of a case.
"""
from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.constructs import oracle
from tests.constructs.eager_forced import Run, run_forced

Made = tuple[Any, list[Any]]


@dataclass(frozen=True, eq=False)
class Case:
    """A network that decides per input.

    `make()` gives the target of the compilation and its calls; equal weights and calls every time. A factory may
    offer more calls than there are paths. `paths`: how many different sequences (sets, for a `loop`) of outcomes of
    truth tests the calls have, structures of arguments counted; None where all calls are made and not counted.
    `loop`: the program must contain a cycle. `longer`: the same network with a larger bound on its trips, which must
    give as many blocks. `sequence`: the calls are made in order, each from the state that the one before left.
    `pending`: the code of the refusal that the compiler still answers with. `exact`: outputs are reproducible (false
    for those that draw random numbers themselves). `seed`: of the weights. `forced`: any outcomes of its tests are
    possible at once. `broken`: what the compiler still gets wrong, or that it hangs. `host_ops`: what the application
    gives the runtime.
    """

    name: str
    family: str
    factory: Callable[..., Made]
    paths: int | None
    loop: bool = False
    longer: dict[str, Any] | None = None
    sequence: bool = False
    pending: str = ""
    exact: bool = True
    seed: int = 0
    forced: bool = True
    broken: str = ""
    host_ops: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def make(self, **options: Any) -> Made:
        target, calls = self.made(**options)
        return target, [calls[i] for i in self.chosen]

    def made(self, **options: Any) -> Made:
        """The target with all the calls that its factory offers."""
        torch.manual_seed(self.seed)
        target, calls = self.factory(**options)
        if isinstance(target, torch.nn.Module):
            target.eval()
        return target, calls

    @functools.cached_property
    def chosen(self) -> tuple[int, ...]:
        """The calls to make: one per path, in order; all of them where the number of trips or the order matters."""
        calls = self.made()[1]
        if self.loop or self.sequence or self.paths is None or not self.exact:
            return tuple(range(len(calls)))
        first: dict[Any, int] = {}
        for i, call in enumerate(oracle.arguments(self.made()[0], calls)):
            args, kwargs = call.eager()
            first.setdefault(self.path(call, run_forced(self.made()[0], args, kwargs)), i)
        return tuple(first.values())

    def path(self, call: oracle.Arguments, run: Run) -> Any:
        """What tells one path of the network from another."""
        tests = [(test.line, test.column, test.taken) for test in run.tests if test.kind != "step"]
        return call.entry, (frozenset if self.loop else tuple)(tests)


CASES: dict[str, Case] = {}


def parametrize(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """A test for each case by name; those that are known to be broken must fail."""
    return pytest.mark.parametrize("name", [
        pytest.param(case.name, marks=pytest.mark.xfail(strict=True, reason=case.broken, run="hang" not in case.broken))
        if case.broken else case.name for case in cases
    ])


def case(paths: int | None, **options: Any) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Register the decorated factory under its name; the family is its module."""

    def register(factory: Callable[..., Made]) -> Callable[..., Made]:
        name = factory.__name__
        if name in CASES:
            raise ValueError(f"two cases are called {name}")
        CASES[name] = Case(name, factory.__module__.rpartition(".")[2], factory, paths, **options)
        return factory

    return register


def normal(seed: int, *shape: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """Normally distributed numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + mean


def integers(seed: int, high: int, *shape: int) -> torch.Tensor:
    """Integers from 0 to below `high`, the same for the same seed."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def sweep(count: int, *shape: int, scales: Sequence[float] = (0.3, 1.0, 3.0, 9.0)) -> list[torch.Tensor]:
    """Normal tensors of several scales in turn."""
    return [normal(seed, *shape, scale=scales[seed % len(scales)]) for seed in range(count)]


def load(package: str = "cases") -> dict[str, Case]:
    """All cases of a package beside this module, by name."""
    modules = importlib.import_module(f"tests.constructs.{package}")
    for module in sorted(found.name for found in pkgutil.iter_modules(modules.__path__)):
        importlib.import_module(f"{modules.__name__}.{module}")
    return {name: one for name, one in CASES.items() if one.factory.__module__.startswith(f"{modules.__name__}.")}

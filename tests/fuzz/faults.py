"""Faults put into the compiler itself, one at a time.

In: the name of a fault. Out: a compiler that has it while the context lasts.
Never: makes the compiler fail: a program that is affected still compiles, and computes something else.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import msgspec
import torch

from elastic_compile.capture import build, explore, tracer
from elastic_compile.capture.state import State
from elastic_compile.capture.tracer import Goto
from elastic_compile.rewrite.hooks import COMPARE
from elastic_runtime import schema


@contextmanager
def swapped_branch() -> Iterator[None]:
    """Every branch that a tensor decides goes the other way."""
    right = build.BlockEmitter.terminator

    def wrong(self: Any, end: Any, emitters: Any) -> schema.Terminator:
        made = right(self, end, emitters)
        if isinstance(made, schema.Branch) and end.tensor is not None:
            return msgspec.structs.replace(made, then=made.orelse, orelse=made.then)
        return made

    with mock.patch.object(build.BlockEmitter, "terminator", wrong):
        yield


@contextmanager
def stale_live_in() -> Iterator[None]:
    """A loop's first value that changes is passed to the next round as it was."""
    right = explore.Explorer.point

    def wrong(self: Any, site: Any, stack: Any) -> None:
        replaying = self.tracer.replaying
        try:
            right(self, site, stack)
        finally:
            end = self.tracer.segment.end
            if not replaying and isinstance(end, Goto) and end.target in self.tracer.path:
                values = end.target.join.values
                changed = [i for i, arg in enumerate(end.args) if arg != values[i]]
                if changed:
                    args = (*end.args[: changed[0]], values[changed[0]], *end.args[changed[0] + 1:])
                    self.tracer.segment.end = Goto(end.target, args)

    with mock.patch.object(explore.Explorer, "point", wrong):
        yield


@contextmanager
def lost_mutation() -> Iterator[None]:
    """What was written through a view is not seen in the tensor behind it."""

    def wrong(self: Any, tensor: torch.Tensor) -> torch.Tensor:
        return torch._from_functional_tensor(tensor) if torch._is_functional_tensor(tensor) else tensor

    with mock.patch.object(tracer.Tracer, "inner", wrong):
        yield


@contextmanager
def wrong_join() -> Iterator[None]:
    """Paths join although Python's strings and truth values differ on them."""

    def wrong(self: State) -> tuple[Any, ...]:
        return tuple(
            (token[0],) if isinstance(token, tuple) and token and token[0] in ("bool", "str", "int") else token
            for token in self.tokens)

    with mock.patch.object(State, "key", property(wrong)):
        yield


@contextmanager
def wrong_comparison() -> Iterator[None]:
    """The rewritten program compares the wrong way round."""
    with mock.patch.dict(COMPARE, {"gt": COMPARE["lt"]}):
        yield


FAULTS: dict[str, Any] = {
    "swapped branch": swapped_branch, "stale live-in": stale_live_in, "lost mutation": lost_mutation,
    "wrong join": wrong_join, "wrong comparison": wrong_comparison,
}


def seeded(name: str) -> AbstractContextManager[None]:
    """The compiler with the fault `name`."""
    return FAULTS[name]()

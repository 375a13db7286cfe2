"""Puts a case where real code has its decisions: three modules deep, in a comprehension, under decorators.

In: a case. Out: the same network and calls behind modules that pass everything on: `Outer` to `Middle`, whose
comprehension asks a gate and calls the `Inner` of the case, under decorators, `Outer` decides after it as before it.
Never: changes what the case does; its state is only two names further down.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tests.constructs.registry import Case, Made


def passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that keeps the name and passes everything on."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def named(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator with an argument, whose wrapper calls and then answers for the function."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(self, *args, **kwargs)
            return name, result

        return wrapper

    return decorate


class Gate(nn.Module):
    """A member beside the case that decides by the first tensor of floats in the call, if there is one."""

    @named("gate")
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        for leaf in args:
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                return "high" if leaf.amax() > 1 else "low"
        return None


class Inner(nn.Module):
    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target

    @named("case")
    @passed_on
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)


class Middle(nn.Module):
    def __init__(self, target: Any) -> None:
        super().__init__()
        self.members = nn.ModuleList([Gate(), Inner(target)])

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return dict([member(*args, **kwargs) for member in self.members])


class Outer(nn.Module):
    def __init__(self, target: Any) -> None:
        super().__init__()
        self.middle = Middle(target)

    @passed_on
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        results = self.middle(*args, **kwargs)
        return results if results["gate"] == "high" else (results["gate"], results["case"])


@functools.cache
def nested(case: Case) -> Case:
    """The case three modules deep. Its calls are the same; its paths are not counted."""

    @functools.wraps(case.factory)
    def factory(**options: Any) -> Made:
        target, calls = case.factory(**options)
        return Outer(target.eval() if isinstance(target, nn.Module) else target), calls

    return replace(case, name=f"nested_{case.name}", factory=factory, paths=None)

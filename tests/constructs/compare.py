"""Compares what eager PyTorch gives with what the runtime gives.

In: two results of one call. Out: the first difference as text, or "".
Never: uses the compiler's or the runtime's own comparison, or loosens a tolerance (that of float16 is its own).
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

RTOL, ATOL = 1e-3, 1e-4
#: What PyTorch itself raises; a region that cannot run gives an ExecutionError for them.
FAILURES = ("RuntimeError", "IndexError")


@dataclasses.dataclass(frozen=True)
class Raised:
    """A call ended with an exception of the model."""

    type: str


def array(leaf: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return leaf.detach().clone().numpy() if isinstance(leaf, torch.Tensor) else leaf


def plain(value: Any, leaf: Callable[[Any], Any] = array) -> Any:
    """An eager result in the runtime's terms: dicts for dataclasses, and `leaf` of every leaf."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(plain(item, leaf) for item in value))
    if isinstance(value, tuple):
        return tuple(plain(item, leaf) for item in value)
    if type(value) is list:
        return [plain(item, leaf) for item in value]
    if isinstance(value, dict):
        return {key: plain(item, leaf) for key, item in dict.items(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Raised)):
        return {field.name: plain(getattr(value, field.name), leaf) for field in dataclasses.fields(value)}
    return leaf(value)


def difference(given: Any, expected: Any, place: str = "result") -> str:
    """Where `given` (the runtime's) is not `expected` (plain): structure, types and integers exactly, floats nearly."""
    if isinstance(given, Raised) and given.type == "ExecutionError":
        fails = isinstance(expected, Raised) and expected.type in FAILURES
        return "" if fails else f"{place}: {given} for {expected!r}"
    if isinstance(expected, np.ndarray):
        return _arrays(given, expected, place)
    if isinstance(expected, tuple) and hasattr(expected, "_fields"):
        if getattr(given, "_fields", None) != expected._fields:
            return f"{place}: {given!r} for a {type(expected).__name__}"
        return _items(given, expected, [f"{place}.{name}" for name in expected._fields])
    if isinstance(expected, (tuple, list)):
        if type(given) is not type(expected) or len(given) != len(expected):
            return f"{place}: {given!r} for a {type(expected).__name__} of {len(expected)}"
        return _items(given, expected, [f"{place}[{i}]" for i in range(len(expected))])
    if isinstance(expected, dict):
        if not isinstance(given, dict) or list(given) != list(expected):
            return f"{place}: {given!r} for a dict of {list(expected)}"
        return _items(given.values(), expected.values(), [f"{place}[{key!r}]" for key in expected])
    if type(given) is not type(expected):
        return f"{place}: {given!r} for {expected!r}"
    if isinstance(expected, float):
        return "" if np.isclose(given, expected, RTOL, ATOL, equal_nan=True) else f"{place}: {given} for {expected}"
    return "" if given == expected else f"{place}: {given!r} for {expected!r}"


def _items(given: Any, expected: Any, places: list[str]) -> str:
    return next(filter(None, map(difference, given, expected, places)), "")


def _arrays(given: Any, expected: np.ndarray, place: str) -> str:
    if not isinstance(given, np.ndarray) or (given.dtype, given.shape) != (expected.dtype, expected.shape):
        told = f"{given.dtype}{list(given.shape)}" if isinstance(given, np.ndarray) else repr(given)
        return f"{place}: {told} for {expected.dtype}{list(expected.shape)}"
    if expected.dtype.kind in "fc":
        coarse = 10 if expected.dtype == np.float16 else 1
        wrong = ~np.isclose(given, expected, RTOL * coarse, ATOL * coarse, equal_nan=True)
    else:
        wrong = given != expected
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{place}{list(at)}: {given[at]} for {expected[at]} ({int(wrong.sum())} of {expected.size} differ)"

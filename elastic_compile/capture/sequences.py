"""Iteration whose length or position only the data decides.

In: a range with symbolic bounds, or a tensor with a symbolic number of rows. Out: iterators whose position is a
plain attribute, which the exploration can see, compare and carry at run time.
Never: knows how many steps there will be; each step asks, and the question forks the path.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


class Counter:
    """An iterator over a range. `position`, `stop` and `step` are ints or symbolic ints."""

    def __init__(self, position: Any, stop: Any, step: Any) -> None:
        self.position = position
        self.stop = stop
        self.step = step

    def __iter__(self) -> Counter:
        return self

    def __next__(self) -> Any:
        here = self.position
        if not (here < self.stop if self.step > 0 else here > self.stop):
            raise StopIteration
        self.position = here + self.step
        return here


class Range:
    """`range(start, stop, step)` with symbolic bounds."""

    def __init__(self, *bounds: Any) -> None:
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        if isinstance(step, int) and step == 0:
            raise ValueError("range() arg 3 must not be zero")
        self.bounds = (start, stop, step)

    def __iter__(self) -> Counter:
        return Counter(*self.bounds)


class Rows:
    """An iterator over a tensor's rows, however many they are."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.counter = Counter(0, tensor.shape[0], 1)

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> torch.Tensor:
        return self.tensor.select(0, next(self.counter))


class Enumerate:
    """`enumerate` over one of these iterators."""

    def __init__(self, inner: Iterator[Any], count: Any) -> None:
        self.inner = inner
        self.count = count

    def __iter__(self) -> Enumerate:
        return self

    def __next__(self) -> tuple[Any, Any]:
        item = next(self.inner)
        count = self.count
        self.count = count + 1
        return count, item


class Zip:
    """`zip` with one of these iterators among its arguments."""

    def __init__(self, inner: list[Iterator[Any]]) -> None:
        self.inner = inner

    def __iter__(self) -> Zip:
        return self

    def __next__(self) -> tuple[Any, ...]:
        items = []
        for one in self.inner:  # not a generator, in which the end of an iterator is an error
            items.append(next(one))
        return tuple(items)


SYMBOLIC_ITERATORS = (Counter, Range, Rows, Enumerate, Zip)

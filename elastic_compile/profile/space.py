"""The space of configurations: which decisions make a subnet, and which of them count when.

In: decisions with their values, and conditions under which one is active. Out: checks, canonical
configurations, random and exhaustive enumeration, and the numeric encoding that predictors and searches use.
Never: knows what a decision does to a network.

A configuration is a mapping from decision names to values. A decision that is not active (the kernel size of a
layer that the chosen depth leaves out) has no influence: configurations that differ only there are one subnet.
"""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real as Number
from typing import Any

import numpy as np

from elastic_compile.errors import CompileError

Value = bool | int | float | str
Configuration = Mapping[str, Value]


class SpaceError(CompileError):
    """A space is not well formed."""

    code = "EC601"


class OutOfSpace(CompileError):
    """A configuration lies outside the space, or outside what a predictor was fitted on.

    `problems` lists what is wrong, one text per decision.
    """

    code = "EC602"

    def __init__(self, message: str, problems: Sequence[str], hint: str = "") -> None:
        super().__init__(message, reason="; ".join(problems), hint=hint)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class When:
    """A decision is active when the decision `name`, declared earlier, is active and has one of `values`."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Categorical:
    """A choice among `values` without an order; numbers may be listed where their effect is not smooth.

    `part`: an active decision stands for a part of the network (a layer), which costs something by being there.
    """

    name: str
    values: tuple[Value, ...]
    when: When | None = None
    part: bool = False

    def __post_init__(self) -> None:
        if not self.values or len(set(map(repr, self.values))) != len(self.values):
            raise SpaceError(f"decision {self.name!r} has no values, or one twice: {self.values}")

    def contains(self, value: Any) -> bool:
        return any(_same(value, known) for known in self.values)

    def describe(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


@dataclass(frozen=True)
class Integer:
    """An integer from `low` to `high` in steps of `step`. `part` as in `Categorical`."""

    name: str
    low: int
    high: int
    step: int = 1
    when: When | None = None
    part: bool = False

    def __post_init__(self) -> None:
        if self.step < 1 or self.high < self.low or (self.high - self.low) % self.step:
            raise SpaceError(f"decision {self.name!r}: {self.high} is not {self.low} and some steps of {self.step}")

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def contains(self, value: Any) -> bool:
        return (isinstance(value, Number) and not isinstance(value, bool)
                and self.low <= value <= self.high and (value - self.low) % self.step == 0)

    def describe(self) -> str:
        return f"an integer from {self.low} to {self.high} in steps of {self.step}"


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`, such as an average over layers. It can be predicted from, not searched."""

    name: str
    low: float
    high: float
    when: When | None = None
    part: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise SpaceError(f"decision {self.name!r}: no range from {self.low} to {self.high}")

    def contains(self, value: Any) -> bool:
        return isinstance(value, Number) and not isinstance(value, bool) and self.low <= value <= self.high

    def describe(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


Decision = Categorical | Integer | Real


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _index(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), value


def _position(indices: Mapping[tuple[bool, Any], int], value: Any) -> int:
    try:
        return indices.get(_index(value), -1)
    except TypeError:
        return -1


@dataclass(frozen=True)
class Space:
    """Decisions, each conditional at most on an earlier one. Raises `SpaceError`."""

    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        seen: dict[str, Decision] = {}
        for decision in self.decisions:
            name, when = decision.name, decision.when
            if name in seen:
                raise SpaceError(f"decision {name!r} is declared twice")
            if when is not None:
                parent = seen.get(when.name)
                if parent is None or isinstance(parent, Real):
                    raise SpaceError(f"decision {name!r} depends on {when.name!r}, which is no discrete decision "
                                     "declared before it")
                if not when.values or not all(parent.contains(value) for value in when.values):
                    raise SpaceError(f"decision {name!r} depends on {parent.name!r} being one of {when.values}, "
                                     f"which is {parent.describe()}")
            seen[name] = decision
        if not seen:
            raise SpaceError("a space needs at least one decision")

    @cached_property
    def by_name(self) -> dict[str, Decision]:
        return {decision.name: decision for decision in self.decisions}

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {decision.name: position for position, decision in enumerate(self.decisions)}

    @cached_property
    def _indices(self) -> tuple[dict[tuple[bool, Any], int], ...]:
        return tuple({_index(value): index for index, value in enumerate(_values(d))} for d in self.decisions)

    @cached_property
    def _wanted(self) -> tuple[dict[tuple[bool, Any], int], ...]:
        return tuple({_index(value): 0 for value in decision.when.values} if decision.when else {}
                     for decision in self.decisions)

    @cached_property
    def _allowed(self) -> tuple[tuple[int, np.ndarray] | None, ...]:
        """Per conditional decision the position of its parent, and for each value of that one whether it lets the
        decision count; the last element is for a value that is not known (-1)."""
        found: list[tuple[int, np.ndarray] | None] = []
        for decision in self.decisions:
            if decision.when is None:
                found.append(None)
                continue
            parent = self._positions[decision.when.name]
            values = np.zeros(len(self._indices[parent]) + 1, dtype=bool)
            values[[self._indices[parent][_index(value)] for value in decision.when.values]] = True
            found.append((parent, values))
        return tuple(found)

    @cached_property
    def _columns(self) -> tuple[slice, ...]:
        ends = np.cumsum([_width(decision) for decision in self.decisions]).tolist()
        return tuple(slice(end - _width(decision), end)
                     for decision, end in zip(self.decisions, ends, strict=True))

    @property
    def width(self) -> int:
        """Columns of `encode`."""
        return self._columns[-1].stop

    def columns(self, name: str) -> slice:
        """The columns of `encode` that belong to a decision."""
        return self._columns[self._positions[name]]

    # ------------------------------------------------------------------------------- one configuration
    def active(self, configuration: Configuration) -> set[str]:
        """Names of the decisions that count in `configuration`."""
        names: set[str] = set()
        for decision, wanted in zip(self.decisions, self._wanted, strict=True):
            when = decision.when
            if when is None or (when.name in names and _position(wanted, configuration.get(when.name)) >= 0):
                names.add(decision.name)
        return names

    def problems(self, configuration: Configuration) -> tuple[str, ...]:
        """What is wrong with `configuration`, one text per decision; empty when it is in the space."""
        found = [f"{name!r} is no decision of this space" for name in configuration if name not in self.by_name]
        active = self.active(configuration)
        for decision, indices in zip(self.decisions, self._indices, strict=True):
            name = decision.name
            if name not in active:
                continue
            if name not in configuration:
                found.append(f"{name} is missing, expected {decision.describe()}")
            elif not (decision.contains(configuration[name]) if isinstance(decision, Real)
                      else _position(indices, configuration[name]) >= 0):
                found.append(f"{name} = {configuration[name]!r}, expected {decision.describe()}")
        return tuple(found)

    def canonical(self, configuration: Configuration) -> dict[str, Value]:
        """The active decisions alone, in the space's order, as plain Python values. Raises `OutOfSpace`."""
        problems = self.problems(configuration)
        if problems:
            raise OutOfSpace("a configuration is not in the space", problems,
                             hint="give every active decision one of its values")
        active = self.active(configuration)
        out: dict[str, Value] = {}
        for decision, indices in zip(self.decisions, self._indices, strict=True):
            if decision.name in active:
                value = configuration[decision.name]
                out[decision.name] = (float(value) if isinstance(decision, Real)
                                      else decision.values[indices[_index(value)]])
        return out

    def key(self, configuration: Configuration) -> str:
        """A hash naming the subnet: equal for configurations that differ in inactive decisions only.
        Raises `OutOfSpace`."""
        text = json.dumps(list(self.canonical(configuration).items()), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    # ------------------------------------------------------------------------------------- enumeration
    def sample(self, count: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        """`count` configurations in canonical form, each decision uniform."""
        return [self.canonical({d.name: _draw(d, rng) for d in self.decisions}) for _ in range(count)]

    def size(self) -> int | float:
        """How many distinct subnets there are; infinite with a continuous decision."""
        if any(isinstance(decision, Real) for decision in self.decisions):
            return math.inf

        def below(parent: str, value: Value) -> int:
            return math.prod(
                total(child) for child in self.decisions
                if child.when and child.when.name == parent and any(_same(value, v) for v in child.when.values))

        def total(decision: Decision) -> int:
            return sum(below(decision.name, value) for value in decision.values)

        return math.prod(total(decision) for decision in self.decisions if decision.when is None)

    def enumerate(self) -> Iterator[dict[str, Value]]:
        """Every subnet once, in canonical form. Raises `SpaceError` for a space with a continuous decision."""
        if self.size() == math.inf:
            raise SpaceError("a space with a continuous decision cannot be enumerated")
        return self._walk(0, {})

    def _walk(self, position: int, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if position == len(self.decisions):
            yield dict(chosen)
            return
        decision, when = self.decisions[position], self.decisions[position].when
        if when is not None and (when.name not in chosen
                                 or not any(_same(chosen[when.name], value) for value in when.values)):
            yield from self._walk(position + 1, chosen)
            return
        for value in decision.values:
            yield from self._walk(position + 1, {**chosen, decision.name: value})

    # ------------------------------------------------------------------------------------------ numbers
    def genes(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """`[n, decisions]` int64: the position of each value among its decision's values, -1 for a value that is
        absent, unknown or continuous."""
        out = np.full((len(configurations), len(self.decisions)), -1, dtype=np.int64)
        for column, (decision, indices) in enumerate(zip(self.decisions, self._indices, strict=True)):
            name = decision.name
            out[:, column] = [_position(indices, c[name]) if name in c else -1 for c in configurations]
        return out

    def configurations(self, genes: np.ndarray) -> list[dict[str, Value]]:
        """The inverse of `genes` for rows [n, decisions] of a discrete space, in canonical form."""
        return [
            {d.name: d.values[gene] for d, gene, on in zip(self.decisions, row, active, strict=True) if on}
            for row, active in zip(genes.tolist(), self.activity(genes).tolist(), strict=True)]

    def activity(self, genes: np.ndarray) -> np.ndarray:
        """`[n, decisions]` bool: which decisions count."""
        out = np.ones(genes.shape, dtype=bool)
        for column, allowed in enumerate(self._allowed):
            if allowed is not None:
                parent, values = allowed
                out[:, column] = out[:, parent] & values[genes[:, parent]]
        return out

    def parts(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """`[n]`: how many active decisions stand for a part of the network."""
        return self.activity(self.genes(configurations))[:, [d.part for d in self.decisions]].sum(axis=1)

    def encode(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """`[n, width]` floats: a 0/1 column per value of a categorical, and of an integer of at most 32 values;
        for a number a column scaled to [-1, 1] and its square. An inactive decision is all zeros, as are the 0/1
        columns of a value that the decision does not have; a number outside its range is scaled on."""
        numbers = np.zeros((len(configurations), len(self.decisions)))
        for column, decision in enumerate(self.decisions):
            if not isinstance(decision, Categorical):
                numbers[:, column] = [float(c.get(decision.name, decision.low)) for c in configurations]
        return self._encode(self.genes(configurations), numbers)

    def encode_genes(self, genes: np.ndarray) -> np.ndarray:
        """`encode` of the configurations that `genes` stand for."""
        numbers = np.zeros(genes.shape)
        for column, decision in enumerate(self.decisions):
            if isinstance(decision, Integer):
                numbers[:, column] = decision.low + decision.step * genes[:, column]
        return self._encode(genes, numbers)

    def _encode(self, genes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        activity = self.activity(genes)
        out = np.zeros((len(genes), self.width))
        for column, (decision, place) in enumerate(zip(self.decisions, self._columns, strict=True)):
            active = activity[:, column]
            levels = _levels(decision)
            for level in range(levels):
                out[:, place.start + level] = active & (genes[:, column] == level)
            if not isinstance(decision, Categorical):
                half = (decision.high - decision.low) / 2
                scaled = (numbers[:, column] - decision.low - half) / half if half else np.zeros(len(genes))
                out[:, place.start + levels] = np.where(active, scaled, 0.0)
                out[:, place.start + levels + 1] = np.where(active, scaled * scaled, 0.0)
        return out


_MOST_LEVELS = 32


def _values(decision: Decision) -> tuple[Value, ...]:
    return () if isinstance(decision, Real) else decision.values


def _levels(decision: Decision) -> int:
    count = len(_values(decision))
    return count if isinstance(decision, Categorical) or count <= _MOST_LEVELS else 0


def _width(decision: Decision) -> int:
    return _levels(decision) + (0 if isinstance(decision, Categorical) else 2)


def _draw(decision: Decision, rng: np.random.Generator) -> Value:
    if isinstance(decision, Real):
        return float(rng.uniform(decision.low, decision.high))
    return decision.values[int(rng.integers(len(decision.values)))]

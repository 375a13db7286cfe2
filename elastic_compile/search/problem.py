"""What a search is asked: a space, objectives, constraints, and who says what a subnet is worth.

In: the user's objectives and limits. Out: frozen descriptions, estimates, and whether a candidate keeps the limits.
Never: evaluates a subnet.

An objective is *measured* (`Problem.evaluate` gives it, at a cost) or *predicted* (a function gives it with bounds,
for almost nothing). A limit on a predicted objective holds when the whole interval keeps it, unless the limit says
`by="point"`.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from elastic_compile.errors import CompileError
from elastic_compile.profile import Configuration, Predictor, Space


class SearchError(CompileError):
    """A search that cannot be done as described."""

    code = "EC611"


class EvaluationError(CompileError):
    """The user's `evaluate` failed, or gave something else than its measured objectives as finite numbers."""

    code = "EC612"


@dataclass(frozen=True, eq=False)
class Estimate:
    """Predicted values of m configurations, arrays [m], with the bounds of their intervals."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


Estimator = Callable[[Sequence[Configuration]], Estimate]


def predicted(predictor: Predictor) -> Estimator:
    """Latency in ms by a predictor, with its interval."""
    def estimate(configurations: Sequence[Configuration]) -> Estimate:
        found = predictor.predict(configurations)
        return Estimate(found.ms, found.low_ms, found.high_ms)
    return estimate


def exactly(function: Callable[[Configuration], float]) -> Estimator:
    """A quantity that is known without error, such as a number of parameters."""
    def estimate(configurations: Sequence[Configuration]) -> Estimate:
        value = np.array([float(function(configuration)) for configuration in configurations])
        return Estimate(value, value, value)
    return estimate


@dataclass(frozen=True)
class Objective:
    """A quantity to make small, or large with `maximise`. Without `estimate` it is measured."""

    name: str
    maximise: bool = False
    estimate: Estimator | None = None


@dataclass(frozen=True)
class Limit:
    """An objective's value has to be at most `most` and at least `least`."""

    name: str
    most: float = math.inf
    least: float = -math.inf
    by: Literal["interval", "point"] = "interval"

    def violation(self, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """By how much the limit is broken, 0 where it is kept."""
        if self.by == "point":
            low = high = value
        return np.maximum(0.0, np.maximum(high - self.most, self.least - low))


@dataclass(frozen=True)
class Problem:
    """At least one objective of distinct names; `evaluate` gives the measured ones of one configuration by name, and
    has to be importable (not a lambda) when several processes are to call it. Raises `SearchError`."""

    space: Space
    objectives: tuple[Objective, ...]
    evaluate: Callable[[Configuration], Mapping[str, float]] | None = None
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        names = [objective.name for objective in self.objectives]
        if not names or len(set(names)) != len(names):
            raise SearchError(f"objectives need distinct names, given {names}")
        unknown = [limit.name for limit in self.limits if limit.name not in names]
        if unknown:
            raise SearchError(f"limits on {unknown}, which are no objectives", hint=f"the objectives are {names}")
        if self.measured and self.evaluate is None:
            raise SearchError(f"nothing evaluates {', '.join(self.measured)}",
                              hint="give evaluate=, or an estimate to each objective")
        if math.isinf(self.space.size()):
            raise SearchError("a space with a continuous decision cannot be searched",
                              hint="use an Integer or a Categorical of the values worth trying")

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the objectives that `evaluate` gives."""
        return tuple(objective.name for objective in self.objectives if objective.estimate is None)

    @property
    def signs(self) -> np.ndarray:
        """[objectives] 1 where smaller is better, -1 where larger is."""
        return np.array([-1.0 if objective.maximise else 1.0 for objective in self.objectives])

    def estimates(self, configurations: Sequence[Configuration]) -> dict[str, Estimate]:
        """All predicted objectives of `configurations`."""
        return {objective.name: objective.estimate(configurations)
                for objective in self.objectives if objective.estimate is not None}

    def violations(self, estimates: Mapping[str, Estimate], count: int) -> np.ndarray:
        """[count] how far the limits on the objectives in `estimates` are broken, in all."""
        total = np.zeros(count)
        for limit in self.limits:
            if limit.name in estimates:
                estimate = estimates[limit.name]
                total += limit.violation(estimate.value, estimate.low, estimate.high)
        return total


@dataclass(frozen=True)
class Candidate:
    """An evaluated subnet: its canonical configuration, all objectives, the bounds of the predicted ones."""

    configuration: dict
    values: dict[str, float]
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)

    def keeps(self, limits: Sequence[Limit]) -> bool:
        """Whether it keeps all limits."""
        for limit in limits:
            value = self.values[limit.name]
            low, high = self.bounds.get(limit.name, (value, value))
            if limit.violation(np.array(value), np.array(low), np.array(high)) > 0:
                return False
        return True

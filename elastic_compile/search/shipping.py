"""From an elastic network and a device's table to a search, and from a front to the few subnets worth shipping.

In: an `Elastic`, a latency table, what to optimise. Out: a `Problem`; the ship set.
Never: invents a quantity that the table does not have, or ships a subnet whose interval breaks its budget.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from elastic_compile.profile import Configuration, Elastic, Predictor, fit
from elastic_compile.search.problem import (
    Candidate,
    Estimate,
    Estimator,
    Limit,
    Objective,
    Problem,
    SearchError,
)
from elastic_runtime.latency_table import Entry, LatencyTable

LATENCY, MEMORY, ENERGY, QUALITY = "latency_ms", "memory_mb", "energy_mj", "quality"
#: What the command line calls them.
NAMES = {"latency": LATENCY, "memory": MEMORY, "energy": ENERGY, "quality": QUALITY}
FEWEST_ANCHORS = 9

_OF_ENTRY: dict[str, Callable[[Entry], float | None]] = {
    LATENCY: lambda entry: entry.timing.ms,
    MEMORY: lambda entry: None if entry.memory_bytes is None else entry.memory_bytes / 1e6,
    ENERGY: lambda entry: entry.energy_mj,
}
_CONSTRAINT = re.compile(r"\s*([a-z_]+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*")


def predictor_of(name: str, elastic: Elastic, table: LatencyTable) -> Predictor:
    """A predictor of latency (ms), peak memory (MB) or energy (mJ), fitted on the table's whole subnets.

    Raises `SearchError` when the table has too few of them with that quantity.
    """
    configurations, values = [], []
    for entry in table.entries:
        if entry.kind == "subnet" and entry.timing is not None and entry.config:
            value = _OF_ENTRY[name](entry)
            if value is not None and not elastic.space.problems(entry.config):
                configurations.append(entry.config)
                values.append(value)
    if len(values) < FEWEST_ANCHORS:
        raise SearchError(
            f"the table has {len(values)} subnets of this space with {name}",
            reason=f"a predictor with intervals takes {FEWEST_ANCHORS} at least, a good one some 40",
            hint="elastic-compile profile FILE:FACTORY --anchors 40 (and --memory for their peak memory) measures them")
    return fit(elastic.space, configurations, values)


def estimator(predictor: Predictor) -> Estimator:
    """Predictions with their intervals; for values that were never measured the interval is widened, so that a limit
    keeps them out."""
    def estimate(configurations: Sequence[Configuration]) -> Estimate:
        found = predictor.predict(configurations, outside="widen")
        return Estimate(found.ms, found.low_ms, found.high_ms)
    return estimate


def problem(elastic: Elastic, table: LatencyTable, objectives: Sequence[str], constraints: Sequence[str] = (), *,
            by: str = "interval", evaluate: Callable[[Configuration], Mapping[str, float]] | None = None) -> Problem:
    """The search for `objectives` ("latency", "quality", "memory", "energy"), constrained by texts such as
    "latency_ms<=12". `by="point"`: a constraint on a prediction holds when its middle keeps it. `evaluate` stands for
    the elastic network's own, where that has to travel to other processes. Raises `SearchError`."""
    made = []
    for name in objectives:
        if name not in NAMES:
            raise SearchError(f"there is no objective {name!r}", hint=f"the objectives are {', '.join(NAMES)}")
        full = NAMES[name]
        made.append(Objective(full, maximise=full == QUALITY, estimate=(
            estimator(predictor_of(full, elastic, table)) if full in _OF_ENTRY else None)))
    limits = []
    for text in constraints:
        found = _CONSTRAINT.fullmatch(text)
        try:
            name, relation, number = found.group(1), found.group(2), float(found.group(3))
        except (AttributeError, ValueError):
            raise SearchError(f"{text!r} is no constraint", hint="write it like latency_ms<=12") from None
        name = NAMES.get(name, name)
        limits.append(Limit(name, by=by, **{"most" if relation == "<=" else "least": number}))
    return Problem(elastic.space, tuple(made), evaluate or elastic.evaluate, tuple(limits))


@dataclass(frozen=True)
class Shipped:
    """A subnet worth shipping. `budgets_ms`: those that it is the best for."""

    name: str
    candidate: Candidate
    budgets_ms: tuple[float, ...] = field(default=())


def ship_set(candidates: Sequence[Candidate], budgets_ms: Sequence[float]) -> tuple[Shipped, ...]:
    """For each budget the candidate of the best quality whose latency interval keeps it; one that serves several is
    shipped once. The largest comes first.

    Raises `SearchError` for a budget that no candidate keeps.
    """
    chosen: dict[int, list[float]] = {}
    for budget in sorted(set(budgets_ms), reverse=True):
        fitting = [number for number, candidate in enumerate(candidates)
                   if candidate.bounds.get(LATENCY, (0.0, candidate.values[LATENCY]))[1] <= budget]
        if not fitting:
            fastest = min((c.bounds.get(LATENCY, (0.0, c.values[LATENCY]))[1] for c in candidates), default=np.nan)
            raise SearchError(f"no subnet keeps {budget:g} ms by its prediction interval",
                              reason=f"the fastest found may take {fastest:.3g} ms",
                              hint="give larger budgets, search longer (-n), or measure more anchors")
        best = max(fitting, key=lambda number: candidates[number].values[QUALITY])
        chosen.setdefault(best, []).append(budget)
    return tuple(Shipped(f"{max(budgets):g}ms", candidates[number], tuple(sorted(budgets)))
                 for number, budgets in chosen.items())

"""Pareto fronts and hypervolumes (moocore; Fonseca, Paquete, López-Ibáñez, CEC 2006).

In: candidates and objectives. Out: those that no other one dominates, and the volume that they dominate.
Never: evaluates.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from elastic_compile.search.problem import Candidate, Objective


def points(candidates: Sequence[Candidate], objectives: Sequence[Objective]) -> np.ndarray:
    """[candidates, objectives] values in the order of `objectives`."""
    return np.array([[candidate.values[objective.name] for objective in objectives] for candidate in candidates],
                    dtype=np.float64).reshape(len(candidates), len(objectives))


def front(candidates: Sequence[Candidate], objectives: Sequence[Objective]) -> tuple[Candidate, ...]:
    """The candidates that no other one dominates, one of equals, ordered by the first objective."""
    if not candidates:
        return ()
    kept = moocore.is_nondominated(points(candidates, objectives), maximise=[o.maximise for o in objectives])
    best = [candidate for candidate, keep in zip(candidates, kept, strict=True) if keep]
    return tuple(sorted(best, key=lambda candidate: candidate.values[objectives[0].name]))


def hypervolume(candidates: Sequence[Candidate], objectives: Sequence[Objective],
                reference: Mapping[str, float]) -> float:
    """The volume between the front and `reference`, in the objectives' units; 0 for no candidates. A candidate that
    is not better than the reference in every objective adds nothing."""
    if not candidates:
        return 0.0
    return float(moocore.hypervolume(
        points(candidates, objectives), ref=[reference[objective.name] for objective in objectives],
        maximise=[objective.maximise for objective in objectives]))

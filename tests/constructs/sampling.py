"""Compares networks that draw random numbers: by the distribution of paths and values, and by the seed.

In: a compiled case. Out: nothing, or an AssertionError. Never: asks for equal numbers, but of equal seeds.
"""
from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from tests.constructs.build import Built, eager, run
from tests.constructs.compare import difference

SAMPLES = 400


def samples(built: Built) -> tuple[list[Any], list[Any]]:
    """Results of eager PyTorch and of the runtime for one call, as often as `SAMPLES`."""
    torch.manual_seed(0)
    built.model.seed(0)
    target = built.case.made()[0]
    call = built.calls[0]
    return [eager(target, call) for _ in range(SAMPLES)], [run(built.model, call) for _ in range(SAMPLES)]


def numbers(result: Any) -> np.ndarray:
    """All the numbers of a result in one row; text and None are none."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, (tuple, list)):
        return np.concatenate([np.zeros(0), *map(numbers, result)])
    if result is None or isinstance(result, str):
        return np.zeros(0)
    return np.asarray(result, np.float64).ravel()


def assert_distributed_as_in_eager(built: Built) -> None:
    """How many numbers there are and what they are: frequencies and means within five standard deviations."""
    expected, given = samples(built)
    shapes = [Counter(numbers(result).size for result in results) for results in (expected, given)]
    assert set(shapes[0]) == set(shapes[1])
    for size in shapes[0]:
        first, second = (count[size] / SAMPLES for count in shapes)
        assert abs(first - second) < 5 * np.sqrt(0.5 / SAMPLES)
        if min(count[size] for count in shapes) < 30:
            continue
        rows = [np.stack([row for row in map(numbers, results) if row.size == size]) for results in (expected, given)]
        error = np.sqrt(sum(row.var(0) / len(row) for row in rows))
        assert (np.abs(rows[0].mean(0) - rows[1].mean(0)) <= 5 * error + 1e-6).all()


def assert_decided_by_the_seed(built: Built) -> None:
    """The same seed gives the same results, another one others."""
    def sequence(seed: int) -> list[Any]:
        built.model.seed(seed)
        return [run(built.model, built.calls[0]) for _ in range(12)]

    first = sequence(7)
    assert difference(sequence(7), first) == ""
    assert difference(sequence(8), first) != ""

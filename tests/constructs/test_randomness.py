"""Networks that draw random numbers: the same distribution of paths and values as eager, decided by the seed."""
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tests.constructs import registry
from tests.constructs.build import build, eager, run
from tests.constructs.compare import difference

CASES = {name: case for name, case in registry.load().items() if not case.exact}
SAMPLES = 400


def samples(name):
    """Results of eager PyTorch and of the runtime for one call, as often as `SAMPLES`."""
    built = build(CASES[name])
    torch.manual_seed(0)
    built.model.seed(0)
    target = CASES[name].made()[0]
    call = built.calls[0]
    return [eager(target, call) for _ in range(SAMPLES)], [run(built.model, call) for _ in range(SAMPLES)]


def numbers(result):
    """All the numbers of a result in one row."""
    if isinstance(result, (tuple, list)):
        return np.concatenate([numbers(item) for item in result])
    return np.asarray(result, np.float64).ravel()


@pytest.mark.parametrize("name", CASES)
def test_paths_and_values_are_distributed_as_in_eager(name):
    expected, given = samples(name)
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


@pytest.mark.parametrize("name", CASES)
def test_the_seed_decides_the_results(name):
    built = build(CASES[name])

    def sequence(seed):
        built.model.seed(seed)
        return [run(built.model, built.calls[0]) for _ in range(12)]

    first = sequence(7)
    assert difference(sequence(7), first) == ""
    assert difference(sequence(8), first) != ""

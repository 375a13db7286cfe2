"""Networks that draw random numbers: the same distribution of paths and values as eager, decided by the seed."""
from __future__ import annotations

import pytest

from tests.constructs import registry, sampling
from tests.constructs.build import build

CASES = {name: case for name, case in registry.load().items() if not case.exact}


@pytest.mark.parametrize("name", CASES)
def test_paths_and_values_are_distributed_as_in_eager(name):
    sampling.assert_distributed_as_in_eager(build(CASES[name]))


@pytest.mark.parametrize("name", CASES)
def test_the_seed_decides_the_results(name):
    sampling.assert_decided_by_the_seed(build(CASES[name]))

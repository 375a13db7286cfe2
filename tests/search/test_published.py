"""Guided search on a real space with accuracies and latencies that others measured."""
from __future__ import annotations

import pytest

from elastic_compile.search import Limit, search
from examples.benchmarks import published
from examples.benchmarks import search_published as benchmark

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not published.DATA.is_dir(), reason="the published measurements are not here"),
]


@pytest.fixture(scope="module")
def problem():
    return benchmark.make_problem((Limit("latency_ms", most=45.0),))[0]


def test_a_quarter_of_the_evaluations_is_enough(problem):
    volume, spent = benchmark.plain(problem, 600, seed=0)
    reached, count = benchmark.guided(problem, 150, seed=0, target=volume)
    assert reached >= volume and count <= spent / 4


def test_no_subnet_whose_interval_leaves_the_limit_is_evaluated(problem):
    found = search(problem, 120, method="nsga2", seed=1)
    assert found.account.ruled_out > 0
    assert max(candidate.bounds["latency_ms"][1] for candidate in found.evaluated) <= 45
    assert max(candidate.values["latency_ms"] for candidate in found.front) > 38

"""The predictor on measurements that others made on real devices."""
from __future__ import annotations

import numpy as np
import pytest

from examples.benchmarks import predictor_published as benchmark
from examples.benchmarks import published

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not published.DATA.is_dir(), reason="the published measurements are not here"),
]


@pytest.fixture(scope="module")
def gpu() -> published.Measured:
    return published.gpu_latencies()


@pytest.mark.parametrize("name", [published.TITAN_64, published.V100_64])
def test_subnets_on_a_steady_gpu(gpu, name):
    found = benchmark.many_measurements(gpu, name, seed=0)
    assert found["predictor"].within_10 >= 99 and found["one-hot linear"].within_10 < 95
    assert found["predictor"].error <= found["one-hot linear"].error / 2
    assert 85 <= found["predictor"].coverage <= 95


def test_subnets_on_a_gpu_that_changes_its_state(gpu):
    found = benchmark.many_measurements(gpu, published.TITAN_1, seed=0)
    assert found["followed in time"].within_10 >= 95
    assert found["predictor"].within_10 >= 89.5 and found["predictor"].error < 0.6 * found["one-hot linear"].error
    assert 85 <= found["predictor"].coverage <= 95 and 85 <= found["followed in time"].coverage <= 95


def test_no_function_of_the_configuration_explains_that_state(gpu):
    state = benchmark.disturbance(gpu, published.TITAN_1)
    assert abs(state["by configuration"] - 0.5) < 0.05 < 0.4 < state["by order"] - 0.5
    assert state["ceiling"] < 91 and state["twins"] < 94
    steady = benchmark.disturbance(gpu, published.TITAN_64)
    assert steady["slow"] < 0.5 and steady["ceiling"] > 99 and steady["twins"] > 99


@pytest.mark.parametrize("name", published.HAT_CPU)
def test_transformers_on_processors(name):
    found = benchmark.many_measurements(published.cpu_latencies(name), "total", seed=0)
    assert found["predictor"].error < found["one-hot linear"].error
    assert found["followed in time"].error <= found["predictor"].error
    assert 85 <= found["predictor"].coverage <= 95


@pytest.mark.parametrize(("target", "of_linear", "of_alone"), [
    (published.TITAN_1, 0.5, 1.1), (published.V100_64, 0.1, 0.1)])
def test_ten_measurements_and_another_device(gpu, target, of_linear, of_alone):
    """At batch 1 latency follows the number of blocks, which the predictor knows without a source."""
    source = benchmark.source_predictor(gpu, published.TITAN_64, 300)
    found = benchmark.mean([benchmark.few_measurements(gpu, source, target, seed) for seed in range(10)])
    carried = found["transfer with the 10"]
    assert carried.error <= of_linear * found["one-hot linear on the 10"].error
    assert carried.error <= of_alone * found["predictor on the 10"].error
    assert carried.coverage >= 85


def test_the_score_sees_a_wrong_predictor():
    values = np.linspace(1.0, 2.0, 100)
    found = benchmark.score(values, values * 1.2, values * 1.15, values * 1.25)
    assert found.within_10 == 0 and found.coverage == 0 and found.error == pytest.approx(20)

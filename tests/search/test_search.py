"""Searches find the front within their budget, keep limits by the whole interval, and say what they spent."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest

from elastic_compile.profile import Categorical, Real, Space, fit
from elastic_compile.search import (
    Candidate,
    EvaluationError,
    Limit,
    Objective,
    Problem,
    SearchError,
    exactly,
    front,
    hypervolume,
    predicted,
    search,
)
from tests.search.problems import SPACE, cost, failing, problem, quality

REFERENCE = {"cost": 200.0, "quality": 0.0}
METHODS = ("nsga2", "guided")


@pytest.fixture(scope="module")
def whole():
    return search(problem(), SPACE.size())


def test_a_small_space_is_searched_whole(whole):
    assert whole.method == "exhaustive" and len(whole.evaluated) == SPACE.size() == whole.account.evaluations
    for candidate in whole.front:
        assert not any(
            other.values["cost"] <= candidate.values["cost"] and other.values["quality"] >= candidate.values["quality"]
            and other.values != candidate.values for other in whole.evaluated)
    keys = {SPACE.key(candidate.configuration) for candidate in whole.evaluated}
    assert len(keys) == SPACE.size()


@pytest.mark.parametrize(("method", "budget"), [("nsga2", 150), ("guided", 70)])
def test_a_search_nears_the_front_within_its_budget(whole, method, budget):
    found = search(problem(), budget, method=method, seed=1)
    assert found.hypervolume(REFERENCE) >= 0.95 * whole.hypervolume(REFERENCE)
    assert found.account.evaluations == len(found.evaluated) <= budget
    assert len({SPACE.key(candidate.configuration) for candidate in found.evaluated}) == len(found.evaluated)


def test_the_same_test_fails_for_random_search(whole):
    drawn = SPACE.sample(70, np.random.default_rng(1))
    candidates = [Candidate(c, {"cost": cost(c), **quality(c)}) for c in drawn]
    assert hypervolume(candidates, whole.objectives, REFERENCE) < 0.95 * whole.hypervolume(REFERENCE)


LAYERS = Space(tuple(Categorical(f"layer{number}", (0, 1), part=True) for number in range(8)))
WORTH = np.random.default_rng(3).uniform(0, 1, 8)


def layers_problem(space: Space = LAYERS, most: float = math.inf) -> Problem:
    def kept(config) -> list[bool]:
        return [bool(config[decision.name]) for decision in space.decisions]

    return Problem(space, (Objective("cost", estimate=exactly(lambda config: 1.0 + sum(kept(config)))),
                           Objective("quality", maximise=True)),
                   lambda config: {"quality": float(WORTH[kept(config)].sum())}, (Limit("cost", most=most),))


def test_which_layers_stay_by_dynamic_programming():
    best = search(layers_problem(most=6.0), 256, method="exhaustive")
    found = search(layers_problem(most=6.0), 40, method="depth")
    assert found.account.evaluations <= 37
    fronts = [[tuple(one.values[name] for name in ("cost", "quality")) for one in of.front] for of in (found, best)]
    assert np.allclose(*fronts)
    assert len(search(layers_problem(), 16, method="depth").front) == 3  # the budget covers two removed layers
    assert search(layers_problem(), 1, method="depth").front[0].values["cost"] == 9.0


@pytest.mark.parametrize("space", [
    Space((Categorical("layer0", (0, 1)), Categorical("width", (8, 16)))),
    Space((Categorical("layer0", (0, 1)), Real("rate", 0.0, 1.0)))])
def test_dynamic_programming_is_for_layers_that_are_there_or_not(space):
    with pytest.raises(SearchError, match=r"whether it is there|cannot be searched"):
        search(layers_problem(space), 40, method="depth")


@pytest.mark.slow
def test_guided_search_needs_fewer_evaluations(whole):
    """How many it saves on a real space: examples/benchmarks/search_published.py."""
    target = 0.97 * whole.hypervolume(REFERENCE)

    def spent(method: str, seed: int) -> int:
        evaluated = search(problem(), 200, method=method, seed=seed).evaluated
        for count in range(1, len(evaluated) + 1):
            if hypervolume(evaluated[:count], whole.objectives, REFERENCE) >= target:
                return count
        return 200

    assert sum(spent("guided", seed) for seed in range(3)) < sum(spent("nsga2", seed) for seed in range(3)) / 1.5


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_makes_the_same_search(method):
    one, same, other = (search(problem(), 30, method=method, seed=seed).evaluated for seed in (3, 3, 4))
    assert one == same != other


@pytest.mark.parametrize("method", ("exhaustive", *METHODS))
def test_nothing_outside_a_limit_is_proposed_or_even_evaluated(method):
    limited = problem(Limit("cost", most=60.0), margin=0.1)
    found = search(limited, SPACE.size() if method == "exhaustive" else 50, method=method)
    assert found.front and all(c.bounds["cost"][1] <= 60 for c in found.evaluated)
    assert found.account.ruled_out > 0 or method == "guided"
    assert any(c.values["cost"] > 60 / 1.1 * 0.85 for c in found.front)


def test_a_limit_by_point_lets_more_through():
    by_interval, by_point = (
        {SPACE.key(c.configuration) for c in
         search(problem(Limit("cost", most=60.0, by=by), margin=0.1), SPACE.size()).evaluated}
        for by in ("interval", "point"))
    assert by_interval < by_point


def test_a_limit_on_what_is_measured_holds_for_proposals():
    for method in METHODS:
        found = search(problem(Limit("quality", least=15.0)), 50, method=method)
        assert found.front and all(c.values["quality"] >= 15 for c in found.front)
        assert any(c.values["quality"] < 15 for c in found.evaluated)


def test_limits_that_little_satisfies_are_found_by_breeding_or_refused():
    rare = search(problem(Limit("cost", most=8.0)), 30, method="guided")
    assert rare.front and all(c.values["cost"] <= 8 for c in rare.front)
    with pytest.raises(SearchError, match="too few subnets"):
        search(problem(Limit("cost", most=1.0)), 30, method="guided")
    assert search(problem(Limit("cost", most=1.0)), 30, method="nsga2").front == ()


def test_three_objectives():
    wide = Problem(SPACE, (*problem().objectives, Objective("width", estimate=exactly(lambda c: c["width"]))), quality)
    found = search(wide, 40, method="guided")
    assert len(found.front) > 5
    assert found.hypervolume({**REFERENCE, "width": 7.0}) > 0


def test_all_predicted_needs_no_evaluation():
    free = Problem(SPACE, (problem().objectives[0],
                           Objective("kernels", maximise=True, estimate=exactly(lambda c: sum(c.values())))))
    found = search(free, 100)
    assert found.method == "nsga2" and found.front and found.account.evaluating_s == 0


def test_a_predictor_is_an_objective(whole):
    drawn = SPACE.sample(120, np.random.default_rng(0))
    predictor = fit(SPACE, drawn, [cost(c) for c in drawn])
    limited = Problem(SPACE, (Objective("cost", estimate=predicted(predictor)), problem().objectives[1]), quality,
                      (Limit("cost", most=70.0),))
    found = search(limited, 40)
    assert found.front
    assert np.mean([cost(c.configuration) <= 70 for c in found.evaluated]) >= 0.9
    assert all(low <= c.values["cost"] <= high for c in found.evaluated for low, high in [c.bounds["cost"]])


def test_what_fails_is_told_with_its_configuration(tmp_path):
    with pytest.raises(EvaluationError, match="out of memory") as caught:
        search(problem(evaluate=failing), 100, method="nsga2")
    assert "'width': 3" in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"quality": math.nan}, {"quality": "good"}, None])
def test_what_is_no_measurement_is_refused(given):
    with pytest.raises(EvaluationError, match="expected"):
        search(problem(evaluate=lambda _: given), 10, method="nsga2")


@pytest.mark.parametrize("make", [
    lambda: Problem(SPACE, ()),
    lambda: Problem(SPACE, (Objective("a"), Objective("a")), quality),
    lambda: Problem(SPACE, (Objective("quality"),)),
    lambda: Problem(SPACE, (Objective("quality"),), quality, (Limit("cost", most=1),)),
    lambda: Problem(Space((Categorical("a", (1,)), Real("x", 0, 1))), (Objective("quality"),), quality),
    lambda: search(problem(), 0),
    lambda: search(problem(), 10, method="exhaustive"),
    lambda: search(problem(), 10, method="annealing"),
])
def test_searches_that_make_no_sense_are_refused(make):
    with pytest.raises(SearchError):
        make()


def test_fronts_drop_the_dominated_and_order_the_rest():
    objectives = (Objective("cost"), Objective("quality", maximise=True))
    worth = (3, 3), (1, 1), (2, 0.5), (3, 2), (2, 2), (1, 1)
    candidates = [Candidate({}, {"cost": a, "quality": b}) for a, b in worth]
    assert [tuple(c.values.values()) for c in front(candidates, objectives)] == [(1, 1), (2, 2), (3, 3)]
    assert hypervolume(candidates, objectives, {"cost": 4, "quality": 0}) == pytest.approx(3 * 1 + 2 * 1 + 1 * 1)
    assert front([], objectives) == () and hypervolume([], objectives, {"cost": 4, "quality": 0}) == 0


def test_results_are_written_and_drawn(whole, tmp_path):
    whole.save(tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["account"]["evaluations"] == SPACE.size() and len(written["front"]) == len(whole.front)
    assert written["front"][0]["values"] == whole.front[0].values
    for suffix in ("svg", "png"):
        whole.draw(tmp_path / f"front.{suffix}")
        assert (tmp_path / f"front.{suffix}").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front.png", "front.svg", "result.json"]

"""Dynamic programming over layers finds what trying all sets finds, with far fewer scores."""
from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from elastic_compile.search import select_depth, within


def additive(seed: int, layers: int):
    worth = np.random.default_rng(seed).uniform(0, 1, layers)
    return lambda removed: float(worth.sum() - worth[list(removed)].sum())


@pytest.mark.parametrize("seed", range(5))
def test_independent_layers_are_chosen_exactly(seed):
    layers, score = 9, additive(seed, 9)
    for count, choice in enumerate(select_depth(layers, 5, score)):
        best = max(combinations(range(layers), count), key=score)
        assert choice.removed == best and choice.score == pytest.approx(score(best))
        assert choice.cost == layers - count


def test_it_scores_about_layers_times_removed_sets():
    calls = []
    score = additive(0, 32)
    select_depth(32, 8, lambda removed: calls.append(removed) or score(removed))
    assert len(calls) == len(set(calls)) <= 32 * 8 + 1


def test_layers_that_need_each_other_are_removed_together():
    def score(removed):
        gone = set(removed)
        return -len(gone) - 5.0 * (len(gone & {2, 3}) == 1) - 4.0 * bool(gone & {0, 5})
    assert select_depth(6, 2, score)[2].removed in ((1, 4), (2, 3))


def test_a_budget_takes_the_best_that_fits():
    choices = select_depth(4, 3, additive(1, 4), costs=[5.0, 1.0, 1.0, 5.0], keep=[0])
    assert all(0 not in choice.removed for choice in choices)
    assert choices[0].cost == 12 and within(choices, 12.0) == choices[0]
    assert within(choices, 4.9) is None
    fitting = [choice for choice in choices if choice.cost <= 8]
    assert within(choices, 8.0) == max(fitting, key=lambda choice: choice.score)


@pytest.mark.parametrize("arguments", [
    {"layers": 0, "most_removed": 0}, {"layers": 4, "most_removed": 5}, {"layers": 4, "most_removed": -1},
    {"layers": 4, "most_removed": 3, "keep": [0, 1]}, {"layers": 4, "most_removed": 1, "costs": [1.0]},
    {"layers": 2, "most_removed": 1, "costs": [1.0, -1.0]}])
def test_numbers_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ValueError, match=r"cannot remove|expected"):
        select_depth(score=lambda removed: 0.0, **arguments)

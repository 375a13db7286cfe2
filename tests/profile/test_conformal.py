"""Conformal intervals cover what they promise, and say when they cannot."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom

from elastic_compile.profile.conformal import interval, luck


def coverage(count: int, promised: float, shrink: float = 1.0, runs: int = 400) -> float:
    """Share of new values inside the intervals of a mean predictor, under skewed noise."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(runs):
        seen, new = rng.exponential(1.0, count), rng.exponential(1.0)
        held_out = (seen.sum() - seen) / (count - 1)
        low, high = interval(seen - held_out, held_out[:, None], promised)
        middle = (low + high) / 2
        inside += abs(new - middle[0]) <= shrink * (high - low)[0] / 2
    return inside / runs


@pytest.mark.parametrize("count", [10, 19, 40, 200])
def test_intervals_cover_what_they_promise(count):
    assert 0.85 <= coverage(count, 0.9) <= 0.98


def test_the_same_test_fails_for_halved_intervals():
    assert coverage(200, 0.9, shrink=0.5) < 0.8


def test_too_few_rows_bound_nothing():
    low, high = interval(np.ones(8), np.zeros((8, 2)), 0.9)
    assert (low == -np.inf).all() and (high == np.inf).all()
    low, high = interval(np.ones(9), np.zeros((9, 2)), 0.9)
    assert (low == -1).all() and (high == 1).all()


def test_with_enough_rows_each_tail_is_its_own():
    low, high = interval(np.r_[np.zeros(90), np.ones(10)], np.zeros((100, 1)), 0.9)
    assert low[0] == 0 and high[0] == 1


def test_large_requests_are_cut_in_pieces(monkeypatch):
    residuals, predictions = np.linspace(-1, 1, 50), np.tile(np.arange(7.0), (50, 1))
    whole = interval(residuals, predictions, 0.9)
    monkeypatch.setattr("elastic_compile.profile.conformal._CHUNK", 100)
    pieces = interval(residuals, predictions, 0.9)
    assert all((a == b).all() for a, b in zip(whole, pieces, strict=True))


@pytest.mark.parametrize("count", [19, 40, 100])
def test_how_much_the_coverage_of_100_rows_depends_on_luck(count):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        seen, new = rng.exponential(1.0, count), rng.exponential(1.0, 100)
        low, high = interval(seen, np.zeros((count, 1)), 0.9)
        inside.append(((low[0] <= new) & (new <= high[0])).sum())
    expected = betabinom(100, *luck(count, 0.9))
    assert np.mean(inside) == pytest.approx(expected.mean(), abs=0.5)
    assert np.std(inside) == pytest.approx(expected.std(), rel=0.06)
    assert luck(40, 0.9) == (37, 4)

"""Prediction intervals with a coverage that holds without assumptions on the model.

In: residuals of held-out rows and the fold models' predictions of new rows. Out: lower and upper ends.
Never: looks at how the predictions were made.

Cross-conformal prediction, CV+ (Barber, Candès, Ramdas, Tibshirani: Predictive inference with the jackknife+,
Annals of Statistics 2021, section 3; leave-one-out folds give the jackknife+). With signed residuals each tail
is cut on its own, as conformalised quantile regression does (Romano, Patterson, Candès, NeurIPS 2019, section
4): latencies are disturbed upwards only, and an interval should say so. The guarantee is for rows drawn as the
fitted ones were: at least 1 - 2·miss in theory, about 1 - miss in practice.
"""
from __future__ import annotations

import math

import numpy as np

_FEWEST_FOR_TWO_TAILS = 40
_CHUNK = 1 << 22


def interval(residuals: np.ndarray, predictions: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end for m new rows.

    `residuals` [n]: value minus prediction of each held-out row. `predictions` [n, m]: what the model that did not
    see row i predicts for each new row. From 40 rows on the residuals are signed, below they are absolute. An end
    that `n` rows cannot bound is infinite: 9 rows are the fewest for 90 %.
    """
    count, width = predictions.shape
    first, last = ranks(count, coverage)
    low, high = np.empty(width), np.empty(width)
    step = max(1, _CHUNK // max(count, 1))
    for start in range(0, width, step):
        part = slice(start, start + step)
        if count >= _FEWEST_FOR_TWO_TAILS:
            below = above = predictions[:, part] + residuals[:, None]
        else:
            below = predictions[:, part] - np.abs(residuals)[:, None]
            above = predictions[:, part] + np.abs(residuals)[:, None]
        low[part] = _smallest(below, first)
        high[part] = _smallest(above, last)
    return low, high


def ranks(count: int, coverage: float) -> tuple[int, int]:
    """Which of the `count` smallest values are the ends, from 1; below 1 and above `count` for an infinite one."""
    miss = (1 - coverage) / (2 if count >= _FEWEST_FOR_TWO_TAILS else 1)
    return math.floor(miss * (count + 1) + 1e-9), math.ceil((1 - miss) * (count + 1) - 1e-9)


def luck(count: int, coverage: float) -> tuple[int, int]:
    """How the coverage of intervals from `count` held-out residuals varies with which rows those happen to be: the two
    parameters of its Beta distribution, where new rows and held-out ones are alike (Vovk: Conditional validity of
    inductive conformal predictors, ACML 2012, proposition 2a). Of m new rows a Beta-binomial number lies inside."""
    first, last = ranks(count, coverage)
    inside = last - first if count >= _FEWEST_FOR_TWO_TAILS else last
    return inside, count + 1 - inside


def _smallest(values: np.ndarray, rank: int) -> np.ndarray:
    count = len(values)
    if rank < 1:
        return np.full(values.shape[1], -np.inf)
    if rank > count:
        return np.full(values.shape[1], np.inf)
    return np.partition(values, rank - 1, axis=0)[rank - 1]

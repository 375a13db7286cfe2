"""Regression from an encoded configuration to a positive or a free number, the model chosen by cross-validation.

In: a feature matrix, values, optionally a composed first guess per row. Out: a `Choice`: the fitted model, one
model per fold and its predictions for the rows that it did not see.
Never: implements a learner; ridge, Gaussian process and gradient boosting are scikit-learn's.

A model has up to three layers, each fitted on what the one before left over:

1. *scale*: `overhead + per_part * parts + ratio * composed`, none of the three negative. This is what a sum of
   table entries, or another device's latency, becomes on this device: a fixed cost, a cost per launched part,
   and a throughput ratio (the two ceilings of a device: launching and computing).
2. *linear*: ridge regression on the encoded decisions.
3. *curve*: a Gaussian process or boosted trees, for what decisions do together.
"""
from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel
from sklearn.linear_model import LinearRegression, RidgeCV
from threadpoolctl import ThreadpoolController

_ALPHAS = np.logspace(-3, 3, 7)
_MOST_FOR_GP = 500
_GP_TUNING_ROWS = 200
_FEWEST_FOR_TREES = 60
_FEWEST_TO_CORRECT = 30


@dataclass(frozen=True, eq=False)
class Rows:
    """What models see of n configurations: `encoded` [n, width]; `composed` [n] a first guess, or None; `parts` [n]."""

    encoded: np.ndarray
    parts: np.ndarray
    composed: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def take(self, index: np.ndarray) -> Rows:
        composed = None if self.composed is None else self.composed[index]
        return Rows(self.encoded[index], self.parts[index], composed)


@dataclass(frozen=True)
class Recipe:
    """Which layers a model has. `link`: what the linear layer and the curve fit: the value's ratio to the scaled
    guess ("ratio"; the value itself where there is no scale), or its logarithm ("log")."""

    link: Literal["ratio", "log"]
    scale: bool
    linear: bool
    curve: Literal["none", "gp", "trees"] = "none"

    @property
    def name(self) -> str:
        layers = [*["scale"] * self.scale, *["linear"] * self.linear, *[self.curve] * (self.curve != "none")]
        return f"{'+'.join(layers)} ({self.link})"


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted recipe."""

    recipe: Recipe
    scale: np.ndarray | None
    linear: RidgeCV | None
    curve: GaussianProcessRegressor | HistGradientBoostingRegressor | None
    floor: float

    def predict(self, rows: Rows) -> np.ndarray:
        """[n] values, in the unit that was fitted; never below `floor`. Runs on one thread."""
        total = np.zeros(len(rows))
        with _threads().limit(limits=1):
            if self.linear is not None:
                total = total + self.linear.predict(rows.encoded)
            if self.curve is not None:
                total = total + self.curve.predict(rows.encoded)
        if self.recipe.link == "log":
            total = np.exp(np.clip(total, -50, 50))
        elif self.linear is None and self.curve is None:
            total = np.ones(len(rows))
        if self.scale is not None:
            total = total * (_scale_columns(rows) @ self.scale)
        return np.maximum(total, self.floor)


@dataclass(frozen=True, eq=False)
class Choice:
    """The outcome of `choose`. `folds` [n]: the fold of each row, `fold_models[folds[i]]` did not see row i,
    `held_out` [n] its prediction of it; `weights` [n] of the rows; `scores`: recipe name -> cross-validated error."""

    model: Model
    fold_models: tuple[Model, ...]
    folds: np.ndarray
    held_out: np.ndarray
    weights: np.ndarray
    scores: dict[str, float]

    @property
    def robust(self) -> bool:
        """Rows that the rest contradicts were given less weight."""
        return bool((self.weights < 1).any())


def recipes(count: int, *, positive: bool, scale: bool, composed: bool) -> tuple[Recipe, ...]:
    """The recipes without a curve worth trying on `count` rows. With a composed guess all of them scale it, and
    corrections of it take 30 rows."""
    found = []
    if scale:
        found.append(Recipe("ratio", True, False))
        if count >= _FEWEST_TO_CORRECT:
            found += [Recipe("ratio", True, True), Recipe("log", True, True)]
    if not composed:
        found += [Recipe("ratio", False, True), *[Recipe("log", False, True)] * positive]
    return tuple(found)


def choose(rows: Rows, values: np.ndarray, candidates: Sequence[Recipe], *, positive: bool = True,
           seed: int = 0) -> Choice:
    """Fit the candidates, keep the one of the smallest mean cross-validated error (relative for positive values),
    and give it a curve where that lowers the error further.

    Leave-one-out up to 20 rows, 10 folds up to 100, else 5. Each fit is repeated with less weight on rows that the
    rest contradicts (Huber's weights on held-out residuals), as long as that lowers the error. A Gaussian process
    keeps the kernel that it was tuned to without the first fold. All of it runs on one thread.
    Raises ValueError with fewer than three rows.
    """
    if len(values) < 3:
        raise ValueError(f"cross-validation needs three rows, given {len(values)}")
    with _threads().limit(limits=1):
        return _choose(rows, values, candidates, positive, seed)


def _choose(rows: Rows, values: np.ndarray, candidates: Sequence[Recipe], positive: bool, seed: int) -> Choice:
    count = len(values)
    splits = count if count <= 20 else 10 if count <= 100 else 5
    folds = np.random.default_rng(seed).permutation(count) % splits
    trials = [_tried(recipe, rows, values, np.ones(count), folds, positive, seed) for recipe in candidates]
    best = min(trials, key=lambda trial: trial.error)
    if best.recipe.linear:
        curves = [*["gp"] * (count <= _MOST_FOR_GP), *["trees"] * (count >= _FEWEST_FOR_TREES)]
        trials += [_tried(replace(best.recipe, curve=curve), rows, values, best.weights, folds, positive, seed)
                   for curve in curves]
        best = min(trials, key=lambda trial: trial.error)
    model = fit(best.recipe, rows, values, best.weights, positive=positive, seed=seed)
    return Choice(model, best.models, folds, best.held_out, best.weights,
                  {trial.recipe.name: trial.error for trial in trials})


@dataclass(frozen=True, eq=False)
class _Trial:
    recipe: Recipe
    weights: np.ndarray
    models: tuple[Model, ...]
    held_out: np.ndarray
    error: float


def _tried(recipe: Recipe, rows: Rows, values: np.ndarray, weights: np.ndarray, folds: np.ndarray, positive: bool,
           seed: int) -> _Trial:
    best = _cross_fit(recipe, rows, values, weights, folds, positive, seed)
    for _ in range(4):
        weights = _huber(np.log(values / best.held_out) if positive else values - best.held_out)
        trial = _cross_fit(recipe, rows, values, weights, folds, positive, seed)
        if trial.error >= best.error:
            break
        best = trial
    return best


def fit(recipe: Recipe, rows: Rows, values: np.ndarray, weights: np.ndarray, *, positive: bool = True,
        seed: int = 0, kernel: Kernel | None = None) -> Model:
    """Fit one recipe. `weights` [n] in (0, 1]; `kernel`: of the Gaussian process, tuned already."""
    scale = linear = curve = None
    target = values
    if recipe.scale:
        scale = _fit_scale(rows, values, weights)
        target = values / np.maximum(_scale_columns(rows) @ scale, 1e-12)
    layer_weights = weights
    if recipe.link == "log":
        target = np.log(target)
    elif positive:
        layer_weights = weights * (np.median(values) / values) ** 2
    if recipe.linear:
        linear = RidgeCV(_ALPHAS).fit(rows.encoded, target, sample_weight=layer_weights)
        target = target - linear.predict(rows.encoded)
    if recipe.curve == "gp":
        curve = _fit_gp(rows.encoded, target, weights, kernel)
    elif recipe.curve == "trees":
        curve = HistGradientBoostingRegressor(
            max_iter=100, learning_rate=0.07, max_leaf_nodes=8, random_state=seed,
        ).fit(rows.encoded, target, sample_weight=layer_weights)
    return Model(recipe, scale, linear, curve, 0.5 * float(values.min()) if positive else -np.inf)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _cross_fit(recipe: Recipe, rows: Rows, values: np.ndarray, weights: np.ndarray, folds: np.ndarray,
               positive: bool, seed: int) -> _Trial:
    models, held_out, kernel = [], np.empty(len(values)), None
    for fold in range(int(folds.max()) + 1):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        model = fit(recipe, rows.take(inside), values[inside], weights[inside], positive=positive, seed=seed,
                    kernel=kernel)
        if recipe.curve == "gp":
            kernel = model.curve.kernel_
        models.append(model)
        held_out[outside] = model.predict(rows.take(outside))
    error = float(np.mean(np.abs(values - held_out) / (values if positive else 1.0)))
    return _Trial(recipe, weights, tuple(models), held_out, error)


def _huber(residuals: np.ndarray) -> np.ndarray:
    centred = np.abs(residuals - np.median(residuals))
    spread = max(1.4826 * float(np.median(centred)), 1e-12)
    return np.minimum(1.0, 1.5 * spread / np.maximum(centred, 1e-12)) ** 2


def _scale_columns(rows: Rows) -> np.ndarray:
    columns = [np.ones(len(rows)), rows.parts.astype(float)]
    if rows.composed is not None:
        columns.append(rows.composed)
    return np.stack(columns, axis=1)


def _fit_scale(rows: Rows, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    columns = _scale_columns(rows)
    typical = np.maximum(columns.mean(axis=0), 1e-12)
    relative = columns / typical / values[:, None]
    current = weights
    for _ in range(20):
        root = np.sqrt(current)
        found = LinearRegression(positive=True, fit_intercept=False).fit(relative * root[:, None], root).coef_
        off = np.abs(relative @ found - 1)
        spread = max(1.4826 * float(np.median(off)), 0.005)
        current = weights * np.minimum(1.0, 1.345 * spread / np.maximum(off, 1e-12))
    return found / typical


def _fit_gp(encoded: np.ndarray, target: np.ndarray, weights: np.ndarray,
            kernel: Kernel | None) -> GaussianProcessRegressor:
    if kernel is None:
        start = ConstantKernel(0.5, (1e-4, 1e2)) * RBF(4.0, (0.3, 50.0)) + WhiteKernel(0.5, (1e-5, 1e1))
        trusted = np.flatnonzero(weights > 0.5)[:_GP_TUNING_ROWS]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            kernel = GaussianProcessRegressor(start, normalize_y=True).fit(encoded[trusted], target[trusted]).kernel_
    extra = max(0.1, kernel.k2.noise_level) * (1 / np.maximum(weights, 1e-3) - 1)
    return GaussianProcessRegressor(kernel, alpha=1e-8 + extra, optimizer=None, normalize_y=True).fit(encoded, target)

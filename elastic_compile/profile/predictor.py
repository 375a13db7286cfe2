"""Latency predictors: fitted on few measured subnets, each prediction with a 90 % interval.

In: a space, measured configurations and their latencies in ms; where there is a table, the sum of each
subnet's entries; where another device is known, its predictor.
Out: a frozen `Predictor`, and from it `Prediction`s in ms with lower and upper ends.
Never: measures, reads a file, or predicts silently for a configuration unlike those it was fitted on.

    predictor = fit(space, configurations, latency_ms)
    predictor.predict([configuration]).high_ms
    other = transfer(predictor, ten_configurations, ten_latencies_ms)

Models and their choice: `regression`. Intervals: `conformal`.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from elastic_compile.errors import CompileError
from elastic_compile.profile import conformal, regression
from elastic_compile.profile.space import Categorical, Configuration, Decision, OutOfSpace, Real, Space

_OMITTED = 0.01
_NEIGHBOURS = (3, 9, 27)


class MeasurementError(CompileError):
    """Latencies, first guesses or times that no predictor can be fitted on or used with."""

    code = "EC603"


@dataclass(frozen=True, eq=False)
class Prediction:
    """Latencies of m configurations, each array [m] in ms. `high_ms` is infinite where too few measurements
    bound it. `outside[i]`: what about configuration i the predictor was not fitted for; when not empty, the
    interval was widened and its coverage is not known."""

    ms: np.ndarray
    low_ms: np.ndarray
    high_ms: np.ndarray
    outside: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Report:
    """What cross-validation says about a predictor.

    `samples`: measurements. `recipe`: the chosen model; `scores`: mean relative error of each one tried.
    `mean_error`, `within_10`: mean relative error and share within ±10 % of held-out measurements.
    `downweighted`: share of measurements that the rest contradicts. `order_correlation`: correlation of held-out
    residuals that follow each other in time (None without times): far from 0, the device changed its state while
    it was measured, and no function of the configuration can explain that part. `state`: how the device's state is
    read off measurements that are near in time: from how many, and by which factor, 0 where that does not pay.
    """

    samples: int
    recipe: str
    scores: dict[str, float]
    mean_error: float
    within_10: float
    downweighted: float
    order_correlation: float | None
    state: tuple[int, float]


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts latencies in a space. Made by `fit` and `transfer`."""

    space: Space
    coverage: float
    report: Report
    source: Predictor | None
    composed: bool
    _choice: regression.Choice = field(repr=False)
    _residuals: np.ndarray = field(repr=False)
    _times: np.ndarray | None = field(repr=False)
    _gaps: dict[str, _Gap] = field(repr=False)

    def predict(
        self,
        configurations: Sequence[Configuration],
        *,
        composed_ms: Sequence[float] | None = None,
        at: Sequence[float] | None = None,
        outside: Literal["refuse", "widen"] = "refuse",
    ) -> Prediction:
        """Latencies of `configurations`.

        `composed_ms` is asked for when the predictor was fitted with it. `at`, for a predictor fitted with times:
        when each configuration runs; the prediction then follows the state that the device was in around that
        time, as the measurements nearest in time show it. Without `at`, it is for the device's usual state.
        `outside="widen"` predicts for configurations outside the space, or with values that were never measured,
        with an interval that spans all known values of the decision in question; "refuse" raises `OutOfSpace`.

        Raises `OutOfSpace` and `MeasurementError`.
        """
        if not len(configurations):
            return Prediction(*np.empty((3, 0)), ())
        strange = [self._strange(configuration) for configuration in configurations]
        if outside == "refuse" and any(strange):
            row = next(index for index, problems in enumerate(strange) if problems)
            raise OutOfSpace(
                f"configuration {row} is unlike what the predictor was fitted on", strange[row],
                hint="measure such subnets and fit again, or predict with outside='widen'")
        guess = self._guess(configurations, composed_ms)
        known = [self._nearest(c) if problems else c for c, problems in zip(configurations, strange, strict=True)]
        rows = _rows(self.space, known, guess)
        centre, residuals = np.log(self._choice.model.predict(rows)), self._residuals
        shift = np.zeros(len(rows))
        if at is not None:
            if self._times is None:
                raise MeasurementError("the predictor knows no times", hint="fit it with at=")
            times = _numbers("at", at, len(rows), positive=False)
            count, factor = self.report.state
            if factor:
                shift = factor * _state(self._times, residuals, count, times)
                residuals = residuals - factor * _state(self._times, residuals, count)
        held_out = np.log(np.stack([model.predict(rows) for model in self._choice.fold_models]))
        low, high = conformal.interval(residuals, held_out[self._choice.folds], self.coverage)
        spread = np.array([
            self._spread(configuration, None if guess is None else float(guess[row])) if strange[row] else 0.0
            for row, configuration in enumerate(configurations)])
        low, high = np.minimum(low, centre) - spread, np.maximum(high, centre) + spread
        with np.errstate(over="ignore"):
            return Prediction(np.exp(centre + shift), np.exp(low + shift), np.exp(high + shift), tuple(strange))

    def _guess(self, configurations: Sequence[Configuration],
               composed_ms: Sequence[float] | None) -> np.ndarray | None:
        if self.composed != (composed_ms is not None):
            raise MeasurementError(
                "composed_ms is missing" if self.composed else "composed_ms was not expected",
                reason="a predictor takes composed sums exactly when it was fitted with them")
        if composed_ms is not None:
            return _numbers("composed_ms", composed_ms, len(configurations))
        if self.source is not None:
            return self.source.predict(configurations, outside="widen").ms
        return None

    def _strange(self, configuration: Configuration) -> tuple[str, ...]:
        problems = self.space.problems(configuration)
        if problems:
            return problems
        return tuple(
            f"{name} = {configuration[name]!r}, never measured: {self._gaps[name].describe()}"
            for name in self.space.active(configuration)
            if name in self._gaps and self._gaps[name].contains(configuration[name]))

    def _strange_decisions(self, configuration: Configuration) -> list[Decision]:
        names = self.space.active(configuration)
        return [decision for name, decision in self.space.by_name.items() if name in names and (
            name not in configuration or not decision.contains(configuration[name])
            or (name in self._gaps and self._gaps[name].contains(configuration[name])))]

    def _nearest(self, configuration: Configuration) -> dict:
        """`configuration` with each strange value replaced by the nearest known one."""
        known = {name: value for name, value in configuration.items() if name in self.space.by_name}
        while strange := self._strange_decisions(known):
            for decision in strange:
                known[decision.name] = self._choices(decision, known.get(decision.name))[0]
        return known

    def _choices(self, decision: Decision, value: object) -> list:
        """Known values of a decision, the nearest to `value` first."""
        gap = self._gaps.get(decision.name)
        if isinstance(decision, Real):
            known = ([max(gap.low, decision.low), min(gap.high, decision.high)] if gap
                     else [decision.low, decision.high])
        else:
            known = [v for v in decision.values if gap is None or not gap.contains(v)]
        if isinstance(decision, Categorical) or isinstance(value, (str, type(None))):
            return known
        return sorted(known, key=lambda candidate: abs(candidate - value))

    def _spread(self, configuration: Configuration, guess: float | None) -> float:
        """By how much, in log ms, the interval of a strange configuration is widened at each end: for each strange
        decision the range that its known values span, and as far again as a number lies beyond them."""
        strange = self._strange_decisions(configuration)
        if not strange:
            return float(np.quantile(np.abs(self._residuals), self.coverage))
        nearest, total = self._nearest(configuration), 0.0
        for decision in strange:
            value = configuration.get(decision.name)
            choices = self._choices(decision, value)
            variants = [{**nearest, decision.name: choice} for choice in choices]
            composed = None if guess is None else np.full(len(variants), guess)
            logs = np.log(self._choice.model.predict(_rows(self.space, variants, composed)))
            beyond = 1.0
            if not isinstance(decision, Categorical) and isinstance(value, (int, float)):
                if not np.isfinite(value):
                    return np.inf
                beyond += abs(choices[0] - value) / max(max(choices) - min(choices), 1e-9)
            total += beyond * float(logs.max() - logs.min())
        return total


def fit(
    space: Space,
    configurations: Sequence[Configuration],
    latency_ms: Sequence[float],
    *,
    composed_ms: Sequence[float] | None = None,
    at: Sequence[float] | None = None,
    coverage: float = 0.9,
    seed: int = 0,
) -> Predictor:
    """Fit a predictor on measured subnets: at least 3; 9 for an interval of 90 %, some hundreds for a good one.

    `composed_ms`: per subnet the sum of its parts' table entries (`elastic_runtime.latency_table.total_ms`), which
    the predictor then scales and corrects. `at`: when each was measured, in any unit.

    Raises `OutOfSpace` for a configuration outside the space, `MeasurementError` for numbers that are not positive
    and finite, of unequal count, or too few.
    """
    return _fit(space, configurations, latency_ms, composed_ms, None, at, coverage, seed)


def transfer(
    source: Predictor,
    configurations: Sequence[Configuration],
    latency_ms: Sequence[float],
    *,
    at: Sequence[float] | None = None,
    coverage: float = 0.9,
    seed: int = 0,
) -> Predictor:
    """A predictor for another device, or another setting of it, from few measurements there (some 10).

    The source's prediction takes the place of a table's sum: a fixed cost, a cost per active part and a throughput
    ratio are fitted, none of them negative, and from 30 measurements on a correction where it pays.

    Raises as `fit`, and `MeasurementError` for a source that itself needs composed sums.
    """
    if source.composed:
        raise MeasurementError("the source predictor needs composed sums of its own device",
                               hint="fit this device with composed_ms= instead: the sums take the source's place")
    return _fit(source.space, configurations, latency_ms, None, source, at, coverage, seed)


def _fit(space: Space, configurations: Sequence[Configuration], latency_ms: Sequence[float],
         composed_ms: Sequence[float] | None, source: Predictor | None, at: Sequence[float] | None,
         coverage: float, seed: int) -> Predictor:
    count = len(configurations)
    if not 0 < coverage < 1:
        raise MeasurementError(f"coverage has to lie between 0 and 1, given {coverage}")
    if count < 3:
        raise MeasurementError(f"{count} measurements are too few", hint="measure three subnets at least, better 30")
    values = _numbers("latency_ms", latency_ms, count)
    configurations = [space.canonical(configuration) for configuration in configurations]
    guess = None
    if composed_ms is not None:
        guess = _numbers("composed_ms", composed_ms, count)
    elif source is not None:
        guess = source.predict(configurations, outside="widen").ms
    times = None if at is None else _numbers("at", at, count, positive=False)
    rows = _rows(space, configurations, guess)
    composed = guess is not None
    candidates = regression.recipes(
        count, positive=True, scale=composed or bool(rows.parts.any()), composed=composed)
    choice = regression.choose(rows, values, candidates, seed=seed)
    residuals, tracking = np.log(values / choice.held_out), (0, 0.0)
    if times is not None:
        choice, residuals, tracking = _tracked(rows, values, candidates, seed, times, choice)
    errors = np.abs(choice.held_out / values - 1)
    report = Report(
        samples=count, recipe=choice.model.recipe.name, scores=choice.scores, mean_error=float(errors.mean()),
        within_10=float((errors <= 0.1).mean()), downweighted=float((choice.weights < 0.5).mean()),
        order_correlation=None if times is None else _order_correlation(times, residuals), state=tracking)
    gaps = dict(source._gaps) if source is not None else {}
    if choice.model.recipe.linear or not composed:
        gaps |= _gaps(space, configurations)
    return Predictor(space, coverage, report, source, composed_ms is not None, choice, residuals, times, gaps)


def _rows(space: Space, configurations: Sequence[Configuration], guess: np.ndarray | None) -> regression.Rows:
    return regression.Rows(space.encode(configurations), space.parts(configurations), guess)


def _numbers(name: str, given: Sequence[float], count: int, positive: bool = True) -> np.ndarray:
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MeasurementError(f"{name} are not numbers", reason=str(error)) from None
    if values.shape != (count,):
        raise MeasurementError(f"{name} has shape {values.shape}, expected one number for each of {count} "
                               "configurations")
    bad = ~np.isfinite(values) | (positive & (values <= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise MeasurementError(
            f"{name}[{row}] is {values[row]}, expected a finite number{' above zero' if positive else ''}",
            hint="measure it again, or leave it out")
    return values


def _state(times: np.ndarray, residuals: np.ndarray, count: int, at: np.ndarray | None = None) -> np.ndarray:
    """The device's state as a log factor: the median residual of the `count` measurements nearest in time. Without
    `at`: for each measurement, from the others."""
    distance = np.abs((times if at is None else at)[:, None] - times[None, :])
    if at is None:
        np.fill_diagonal(distance, np.inf)
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return np.median(residuals[nearest], axis=1)


def _tracked(rows: regression.Rows, values: np.ndarray, candidates: Sequence[regression.Recipe], seed: int,
             times: np.ndarray, choice: regression.Choice) -> tuple[regression.Choice, np.ndarray, tuple[int, float]]:
    """Fit again on measurements that the device's state at their time is taken out of, as long as that leaves less
    to explain. Also gives the held-out residuals, the state still in them, and how the state is read off them."""
    residuals = np.log(values / choice.held_out)
    tracking, left = _tracking(times, residuals)
    for _ in range(3):
        if not tracking[1]:
            break
        state = tracking[1] * _state(times, residuals, tracking[0])
        trial = regression.choose(rows, values / np.exp(state - np.median(state)), candidates, seed=seed)
        trial_residuals = np.log(values / trial.held_out)
        trial_tracking, trial_left = _tracking(times, trial_residuals)
        if trial_left >= left:
            break
        choice, residuals, tracking, left = trial, trial_residuals, trial_tracking, trial_left
    return choice, residuals, tracking


def _tracking(times: np.ndarray, residuals: np.ndarray) -> tuple[tuple[int, float], float]:
    """The number of neighbours and the factor that leave the smallest residuals, and their mean; no tracking unless
    it removes a twentieth of them."""
    untouched = float(np.abs(residuals).mean())
    best, chosen = 0.95 * untouched, (0, 0.0)
    for count in (count for count in _NEIGHBOURS if count < len(residuals)):
        state = _state(times, residuals, count)
        for factor in (0.25, 0.5, 0.75, 1.0):
            left = float(np.abs(residuals - factor * state).mean())
            if left < best:
                best, chosen = left, (count, factor)
    return chosen, best if chosen[1] else untouched


def _order_correlation(times: np.ndarray, residuals: np.ndarray) -> float:
    ordered = residuals[np.argsort(times, kind="stable")]
    ordered = ordered - ordered.mean()
    return float((ordered[1:] * ordered[:-1]).sum() / max(float((ordered * ordered).sum()), 1e-300))


# ------------------------------------------------------------------------------- what was never measured
@dataclass(frozen=True)
class _Gap:
    """What the measurements leave out of a decision: `values` of a categorical, or everything outside `low` to
    `high` of a number."""

    values: tuple = ()
    low: float = -np.inf
    high: float = np.inf

    def contains(self, value: object) -> bool:
        return value in self.values if self.values else not self.low <= value <= self.high

    def describe(self) -> str:
        return (f"no measurement has one of {self.values}" if self.values
                else f"the measurements reach from about {self.low:g} to {self.high:g}")


def _gaps(space: Space, configurations: Sequence[Configuration]) -> dict[str, _Gap]:
    """A categorical value is left out when its absence is no accident (by uniform draws it would have a chance
    below 1 %), a number when it lies beyond the measured ones by more than a tenth of their range."""
    gaps = {}
    for decision in space.decisions:
        seen = [c[decision.name] for c in configurations if decision.name in c]
        if not seen:
            continue
        if isinstance(decision, Categorical):
            missing = tuple(value for value in decision.values if value not in seen)
            if missing and (1 - 1 / len(decision.values)) ** len(seen) < _OMITTED:
                gaps[decision.name] = _Gap(values=missing)
        else:
            slack = 0.1 * (max(seen) - min(seen))
            low, high = min(seen) - slack, max(seen) + slack
            if low > decision.low or high < decision.high:
                gaps[decision.name] = _Gap(low=low, high=high)
    return gaps

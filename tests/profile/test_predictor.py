"""A predictor learns a device from few measurements and knows what it does not know."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from elastic_compile.profile import (
    Categorical,
    Integer,
    MeasurementError,
    OutOfSpace,
    Real,
    Space,
    When,
    fit,
    transfer,
)

SPACE = Space((
    Integer("depth", 1, 4),
    *(Categorical(f"k{i}", (3, 5, 7), when=When("depth", tuple(range(i, 5))), part=True) for i in range(1, 5)),
    Categorical("act", ("relu", "swish")), Integer("size", 128, 224, 8), Real("width", 0.5, 1.5),
))
COST = {3: 1.0, 5: 1.4, 7: 2.1}


def device(configurations, *, noise=0.01, seed=0, launch=0.0, fixed=0.5, speed=1.0) -> np.ndarray:
    """A device whose blocks cost more at larger sizes, and launching costs by block."""
    rng = np.random.default_rng(seed)
    out = []
    for c in configurations:
        blocks = sum(COST[c[f"k{i}"]] for i in range(1, c["depth"] + 1))
        work = blocks * (c["size"] / 128) ** 2 * c["width"] ** 1.5 * (1.2 if c["act"] == "swish" else 1.0)
        out.append(fixed + launch * c["depth"] + work / speed)
    return np.array(out) * rng.lognormal(0, noise, len(out))


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    return SPACE.sample(900, np.random.default_rng(0))


@pytest.fixture(scope="module")
def predictor(drawn):
    return fit(SPACE, drawn[:300], device(drawn[:300]))


def covered(prediction, values) -> float:
    return float(((prediction.low_ms <= values) & (values <= prediction.high_ms)).mean())


def test_unseen_subnets_are_predicted_with_honest_intervals(drawn, predictor):
    new, values = drawn[300:], device(drawn[300:], seed=5)
    prediction = predictor.predict(new)
    errors = np.abs(prediction.ms / values - 1)
    assert (errors <= 0.1).mean() >= 0.95
    assert 0.85 <= covered(prediction, values) <= 0.97
    assert (prediction.low_ms <= prediction.ms).all() and (prediction.ms <= prediction.high_ms).all()
    assert predictor.report.mean_error == pytest.approx(errors.mean(), rel=0.4)
    assert set(prediction.outside) == {()}


def test_the_coverage_test_fails_for_halved_intervals(drawn, predictor):
    values = device(drawn[300:], seed=5)
    prediction = predictor.predict(drawn[300:])
    halved = dataclasses.replace(
        prediction, low_ms=(prediction.low_ms + prediction.ms) / 2, high_ms=(prediction.high_ms + prediction.ms) / 2)
    assert covered(halved, values) < 0.85


def test_the_error_test_fails_for_shuffled_measurements(drawn):
    shuffled = np.random.default_rng(0).permutation(device(drawn[:100]))
    errors = np.abs(fit(SPACE, drawn[:100], shuffled).predict(drawn[300:]).ms / device(drawn[300:]) - 1)
    assert (errors <= 0.1).mean() < 0.5


def test_the_same_measurements_give_the_same_predictor(drawn):
    values = device(drawn[:80])
    one, other = (fit(SPACE, drawn[:80], values).predict(drawn[300:330]) for _ in range(2))
    assert (one.ms == other.ms).all() and (one.high_ms == other.high_ms).all()


def test_disturbed_measurements_do_not_move_the_prediction(drawn):
    values = device(drawn[:300])
    disturbed = values.copy()
    disturbed[::10] *= 1.5
    fits = [fit(SPACE, drawn[:300], v) for v in (values, disturbed)]
    clean, robust = (np.abs(f.predict(drawn[300:]).ms / device(drawn[300:], noise=0.0) - 1).mean() for f in fits)
    assert robust < 1.4 * clean
    assert fits[1].report.downweighted >= 0.08


def test_a_composed_sum_makes_few_measurements_enough(drawn):
    composed = device(drawn, noise=0.0, fixed=0.01)
    target = device(drawn, launch=0.4, fixed=1.0, speed=2.5, seed=3)
    few = fit(SPACE, drawn[:12], target[:12], composed_ms=composed[:12])
    prediction = few.predict(drawn[300:], composed_ms=composed[300:])
    alone = fit(SPACE, drawn[:12], target[:12]).predict(drawn[300:], outside="widen")
    error, error_alone = (np.abs(p.ms / target[300:] - 1).mean() for p in (prediction, alone))
    assert error < 0.03 and error < error_alone / 3
    assert covered(prediction, target[300:]) >= 0.8
    with pytest.raises(MeasurementError, match="composed_ms is missing"):
        few.predict(drawn[:2])
    with pytest.raises(MeasurementError, match="was not expected"):
        fit(SPACE, drawn[:12], target[:12]).predict(drawn[:2], composed_ms=[1.0, 1.0])


def test_ten_measurements_carry_a_predictor_to_another_device(drawn, predictor):
    target = device(drawn, launch=0.7, fixed=2.0, speed=4.0, seed=3)
    moved = transfer(predictor, drawn[300:310], target[300:310])
    prediction = moved.predict(drawn[310:])
    alone = fit(SPACE, drawn[300:310], target[300:310]).predict(drawn[310:], outside="widen")
    error, error_alone = (np.abs(p.ms / target[310:] - 1).mean() for p in (prediction, alone))
    assert error < 0.08 and error <= error_alone / 2
    assert covered(prediction, target[310:]) >= 0.8


def test_with_more_measurements_the_transfer_is_corrected(drawn, predictor):
    target = device(drawn, seed=3) * np.array([1.5 if c["act"] == "swish" else 1.0 for c in drawn])
    errors = {count: np.abs(transfer(predictor, drawn[:count], target[:count]).predict(
        drawn[400:]).ms / target[400:] - 1).mean() for count in (10, 60)}
    assert errors[60] < errors[10] / 2


def test_a_device_that_changes_state_is_followed_in_time(drawn):
    times = np.arange(900.0)
    state = np.where((times // 60) % 3 == 1, 1.4, 1.0)
    values = device(drawn) * state
    fitted = np.arange(0, 900, 3)
    rest = np.setdiff1d(np.arange(900), fitted)
    tracked = fit(SPACE, [drawn[i] for i in fitted], values[fitted], at=times[fitted])
    new = [drawn[i] for i in rest]
    plain, followed = tracked.predict(new), tracked.predict(new, at=times[rest])
    errors, followed_errors = (np.abs(p.ms / values[rest] - 1) for p in (plain, followed))
    assert (errors <= 0.1).mean() < 0.7 and (followed_errors <= 0.1).mean() > 0.85
    assert 0.85 <= covered(followed, values[rest]) <= 0.97 and 0.85 <= covered(plain, values[rest]) <= 0.97
    assert tracked.report.order_correlation > 0.5
    assert np.median(followed.high_ms / followed.low_ms) < np.median(plain.high_ms / plain.low_ms)


def test_a_steady_device_is_not_followed(drawn):
    steady = fit(SPACE, drawn[:200], device(drawn[:200]), at=np.arange(200.0))
    assert abs(steady.report.order_correlation) < 0.3 and steady.report.state == (0, 0.0)
    assert (steady.predict(drawn[200:210], at=np.arange(10.0)).ms == steady.predict(drawn[200:210]).ms).all()


# ------------------------------------------------------------------------------------- not knowing
GIVEN = {"depth": 2, "k1": 3, "k2": 5, "act": "relu", "size": 160, "width": 1.0}


@pytest.mark.parametrize(("change", "text"), [
    ({"k1": 9}, "k1 = 9"), ({"act": "gelu"}, "act = 'gelu'"), ({"size": 512}, "size = 512"),
    ({"size": 129}, "size = 129"), ({"width": 9.0}, "width = 9.0"), ({"width": float("nan")}, "width = nan"),
    ({"groups": 2}, "'groups'"), ({"depth": 3}, "k3 is missing")])
def test_what_is_outside_the_space_is_refused_or_widened(predictor, change, text):
    strange = {**GIVEN, **change}
    with pytest.raises(OutOfSpace, match="unlike") as caught:
        predictor.predict([GIVEN, strange])
    assert text in str(caught.value) and "configuration 1" in str(caught.value)
    prediction = predictor.predict([GIVEN, strange], outside="widen")
    assert prediction.outside[0] == () and any(text in problem for problem in prediction.outside[1])
    usual, wide = prediction.high_ms / prediction.low_ms
    assert wide > usual and not np.isnan(prediction.low_ms).any() and not np.isnan(prediction.high_ms).any()


def test_the_further_out_the_wider(predictor):
    prediction = predictor.predict([{**GIVEN, "size": size} for size in (224, 232, 300, 500)], outside="widen")
    assert (np.diff(prediction.high_ms / prediction.low_ms) > 0).all()


def test_widened_intervals_hold_what_they_did_not_know(drawn):
    small = [c for c in drawn if c["act"] == "relu" and c["size"] <= 192][:150]
    blind = fit(SPACE, small, device(small))
    new = [c for c in drawn if c["act"] == "swish" or c["size"] > 200]
    values = device(new, seed=9)
    prediction = blind.predict(new, outside="widen")
    assert all(prediction.outside)
    with pytest.raises(OutOfSpace, match="never measured"):
        blind.predict(new)
    large = [i for i, c in enumerate(new) if c["act"] == "relu"]
    assert ((prediction.low_ms <= values) & (values <= prediction.high_ms))[large].mean() >= 0.85


def test_few_measurements_bound_nothing_rather_than_guess(drawn):
    prediction = fit(SPACE, drawn[:5], device(drawn[:5])).predict(drawn[5:7], outside="widen")
    assert (prediction.high_ms == np.inf).all() and (prediction.low_ms == 0).all()


@pytest.mark.parametrize("bad", [-1.0, 0.0, float("nan"), float("inf"), None, "fast"])
def test_impossible_latencies_are_refused(drawn, bad):
    values = [*device(drawn[:9]), bad]
    with pytest.raises(MeasurementError):
        fit(SPACE, drawn[:10], values)


def test_missing_and_foreign_measurements_are_refused(drawn, predictor):
    with pytest.raises(MeasurementError, match="expected one number for each of 10"):
        fit(SPACE, drawn[:10], device(drawn[:9]))
    with pytest.raises(MeasurementError, match="too few"):
        fit(SPACE, drawn[:2], device(drawn[:2]))
    with pytest.raises(MeasurementError, match="coverage"):
        fit(SPACE, drawn[:10], device(drawn[:10]), coverage=90)
    with pytest.raises(OutOfSpace):
        fit(SPACE, [*drawn[:9], {**GIVEN, "k1": 9}], device(drawn[:10]))
    with pytest.raises(MeasurementError, match="knows no times"):
        predictor.predict(drawn[:2], at=[1.0, 2.0])


def test_nothing_asked_nothing_predicted(predictor):
    nothing = predictor.predict([])
    assert len(nothing.ms) == len(nothing.low_ms) == len(nothing.high_ms) == len(nothing.outside) == 0


def test_predictors_and_predictions_are_frozen(drawn, predictor):
    for thing, name in ((predictor, "space"), (predictor.predict(drawn[:1]), "ms"), (SPACE, "decisions")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, None)

"""The latency predictor on other people's measurements, beside a one-hot linear fit.

    python -m examples.benchmarks.predictor_published [--seeds 3] [--json FILE] [--ceiling]

In: the published files (see `published`). Out: a table on the terminal, a JSON file when asked for.
Never: changes a data set; rows that a device disturbed are tested on like all others.
"""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB

from elastic_compile.profile import Predictor, fit, transfer
from examples.benchmarks import published
from examples.benchmarks.published import Measured

FITTED = 1000


@dataclass(frozen=True)
class Score:
    """One predictor on test rows: mean relative error in percent, share within ±10 % in percent, coverage of the
    90 % interval in percent and its median width as high/low; None where there is no interval."""

    error: float
    within_10: float
    coverage: float | None = None
    width: float | None = None


def score(values: np.ndarray, ms: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> Score:
    errors = np.abs(ms / values - 1)
    plain = Score(100 * float(errors.mean()), 100 * float((errors <= 0.1).mean()))
    if low is None:
        return plain
    inside = (low <= values) & (values <= high)
    return Score(plain.error, plain.within_10, 100 * float(inside.mean()), float(np.median(high / low)))


def one_hot_linear(data: Measured, values: np.ndarray, fitted: np.ndarray, tested: np.ndarray) -> Score:
    encoded = data.space.encode(data.configurations)
    model = LinearRegression().fit(encoded[fitted], values[fitted])
    return score(values[tested], model.predict(encoded[tested]))


def many_measurements(data: Measured, name: str, seed: int, fitted_rows: int = FITTED) -> dict[str, Score]:
    """Fitted on random rows, tested on the rest. "predictor" knows the configuration alone; "followed in time" also
    when each row was measured, that is its place in the file, and the fitted rows around it."""
    values = data.values[name]
    order = np.random.default_rng(seed).permutation(len(values))
    fitted, tested = order[:fitted_rows], order[fitted_rows:]
    predictor = fit(data.space, [data.configurations[i] for i in fitted], values[fitted], at=fitted)
    new = [data.configurations[i] for i in tested]
    found = {"one-hot linear": one_hot_linear(data, values, fitted, tested)}
    for label, at in (("predictor", None), ("followed in time", tested)):
        prediction = predictor.predict(new, at=at, outside="widen")
        found[label] = score(values[tested], prediction.ms, prediction.low_ms, prediction.high_ms)
    return found


def disturbance(data: Measured, name: str) -> dict[str, float]:
    """What the device's changes of state do to a data set.

    "slow": share of rows more than 12 % above a robust fit of all rows, in percent. "by configuration" and
    "by order": how well a row's configuration, or the six rows measured around it, tell whether it is slow (area
    under the ROC curve; 0.5 is chance, NaN with fewer than 50 slow rows). "ceiling": where the configuration says
    nothing, the share of rows within ±10 % that the best function of the configuration can reach, in percent. "twins":
    the same from pairs of the most alike rows alone (see `twins`).
    """
    values, rows = data.values[name], np.arange(len(data.configurations))
    sample = rows[::5]
    predictor = fit(data.space, [data.configurations[i] for i in sample], values[sample])
    ratio = values / predictor.predict(data.configurations).ms
    slow = ratio > 1.12
    by_configuration = by_order = np.nan
    if slow.sum() >= 50:
        encoded = data.space.encode(data.configurations)
        guess = cross_val_predict(GaussianNB(), encoded, slow, cv=5, method="predict_proba")[:, 1]
        around = [np.median(np.r_[ratio[max(0, i - 3):i], ratio[i + 1:i + 4]]) for i in rows]
        by_configuration, by_order = roc_auc_score(slow, guess), roc_auc_score(slow, around)
    ordered = np.sort(ratio)
    reach = np.searchsorted(ordered, ordered * 1.1 / 0.9, side="right") - rows
    return {"slow": 100 * float(slow.mean()), "by configuration": float(by_configuration),
            "by order": float(by_order), "ceiling": 100 * float(reach.max() / len(rows)),
            "twins": twins(data, ratio)}


def twins(data: Measured, ratio: np.ndarray) -> float:
    """The most rows in percent that a function can have within ±10 % if it tells alike subnets no further apart than a
    fit of all rows does (`ratio`: value by fit). Rows are paired, each once: equal depths of all stages, the fewest
    other decisions different. Where the two of a pair differ by more than 1.1 / 0.9, one of them is off whatever
    factor the function gives both."""
    genes = data.space.genes(data.configurations)
    depths = [number for number, decision in enumerate(data.space.decisions) if decision.name.startswith("d")]
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(map(bytes, np.ascontiguousarray(genes[:, depths]))):
        groups.setdefault(key, []).append(row)
    paired = off = 0
    for rows in groups.values():
        distance = (genes[rows][:, None] != genes[rows][None]).sum(axis=2)
        free = np.ones(len(rows), dtype=bool)
        one, other = np.triu_indices(len(rows), 1)
        for pair in np.argsort(distance[one, other], kind="stable"):
            i, j = one[pair], other[pair]
            if free[i] and free[j]:
                free[i] = free[j] = False
                paired += 1
                low, high = sorted((ratio[rows[i]], ratio[rows[j]]))
                off += bool(high > low * 1.1 / 0.9)
    return 100 * (1 - off / paired / 2)


def ceiling(data: Measured) -> None:
    """Print what Titan RTX at batch 1 allows, beside two devices that kept their state."""
    state = disturbance(data, published.TITAN_1)
    print(f"""Once-for-All on Titan RTX, batch 1: subnets that a function of the configuration has within ±10 % at best
  {state["slow"]:.1f} % of the rows are slow: more than 12 % above a fit of all rows
  which ones, the configuration does not tell (area under the ROC curve {state["by configuration"]:.2f}; 0.5 is chance),
  the six rows measured before and after a row do ({state["by order"]:.2f}): the device changed its state meanwhile
  ceiling by the ratios of all rows to that fit:  {state["ceiling"]:.1f} %
  ceiling by how the most alike subnets disagree: {state["twins"]:.1f} %
  so 95 % {"can" if max(state["ceiling"], state["twins"]) >= 95 else "cannot"} be had from the configuration alone""",
          flush=True)
    for name in (published.TITAN_64, published.V100_64):
        steady = disturbance(data, name)
        print(f"the same for {name}: {steady['slow']:.1f} % slow, ceilings {steady['ceiling']:.1f} and "
              f"{steady['twins']:.1f} %", flush=True)


def few_measurements(data: Measured, source: Predictor, target: str, seed: int, count: int = 10) -> dict[str, Score]:
    """Fitted on `count` random rows of `target`, alone or carried over from `source`, tested on 1000 others."""
    values = data.values[target]
    order = np.random.default_rng(seed).permutation(len(values))
    fitted, tested = order[:count], order[count:count + 1000]
    known, new = ([data.configurations[i] for i in part] for part in (fitted, tested))
    encoded = data.space.encode(data.configurations)
    ridge = RidgeCV(np.logspace(-3, 3, 7)).fit(encoded[fitted], values[fitted])
    found = {"one-hot linear on the 10": score(values[tested], ridge.predict(encoded[tested]))}
    for label, predictor in (("predictor on the 10", fit(data.space, known, values[fitted])),
                             ("transfer with the 10", transfer(source, known, values[fitted]))):
        prediction = predictor.predict(new, outside="widen")
        found[label] = score(values[tested], prediction.ms, prediction.low_ms, prediction.high_ms)
    return found


def source_predictor(data: Measured, name: str, count: int = FITTED) -> Predictor:
    rows = np.random.default_rng(99).permutation(len(data.configurations))[:count]
    return fit(data.space, [data.configurations[i] for i in rows], data.values[name][rows])


def mean(scores: list[dict[str, Score]]) -> dict[str, Score]:
    return {label: Score(*(
        None if getattr(scores[0][label], part) is None else float(np.mean([getattr(s[label], part) for s in scores]))
        for part in ("error", "within_10", "coverage", "width"))) for label in scores[0]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--json")
    options.add_argument("--ceiling", action="store_true", help="only what Titan RTX at batch 1 allows")
    given = options.parse_args()
    gpu = published.gpu_latencies()
    found: dict[str, dict[str, Score]] = {}

    def show(title: str, scores: dict[str, Score]) -> None:
        found[title] = scores
        print(title)
        for label, line in scores.items():
            interval = "" if line.coverage is None else f"{line.coverage:9.1f}{line.width:9.2f}"
            print(f"  {label:26}{line.error:9.2f}{line.within_10:9.1f}{interval}", flush=True)

    if given.ceiling:
        ceiling(gpu)
        return
    print(f"{'':28}{'error %':>9}{'±10 %':>9}{'cover %':>9}{'width':>9}")
    for name in (published.TITAN_1, published.TITAN_64, published.V100_64):
        show(f"Once-for-All, {name}, {FITTED} fitted, 4000 tested",
             mean([many_measurements(gpu, name, seed) for seed in range(given.seeds)]))
    state = disturbance(gpu, published.TITAN_1)
    print(f"  Titan RTX at batch 1 changed its state meanwhile: {state['slow']:.1f} % of the rows are slow;\n"
          f"  ROC area by configuration {state['by configuration']:.2f}, by order {state['by order']:.2f}. What that "
          f"leaves to a function of the configuration: at most {state['ceiling']:.1f} % within ±10 %\n"
          f"  by all rows, {state['twins']:.1f} % by how often the most alike subnets disagree")
    for name in published.HAT_CPU:
        data = published.cpu_latencies(name)
        show(f"HAT {name}, encoder + decoder, {FITTED} fitted, 1000 tested",
             mean([many_measurements(data, "total", seed) for seed in range(given.seeds)]))
        spread = 100 * float(np.median(data.values["decoder_std"] / data.values["decoder"]))
        print(f"  repeatability of a single run, as published: {spread:.1f} %")
    source = source_predictor(gpu, published.TITAN_64)
    for target in (published.TITAN_1, published.V100_64):
        show(f"10 measurements of {target}, source {published.TITAN_64}",
             mean([few_measurements(gpu, source, target, seed) for seed in range(10 * given.seeds)]))
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"disturbance": state, "scores": {
                title: {label: asdict(line) for label, line in scores.items()} for title, scores in found.items()}},
                file, indent=1)


if __name__ == "__main__":
    main()

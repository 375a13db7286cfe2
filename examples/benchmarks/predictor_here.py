"""The predictor on this machine: three elastic networks, whole subnets that no fit has seen.

    python -m examples.benchmarks.predictor_here [--spaces vit,llama] [--work out/predictor] [--compile-only]

In: this machine; `--work`, where compiled subnets and tables stay, so that a stopped run goes on. Out: a table.
Never: tests on a subnet that was fitted on, or leaves out one that was measured badly.

Parts and `--anchors` subnets are measured and fitted on, 100 others are predicted and then measured. Repeatability is
the disagreement of two measurements of the same 100, taken one after the other: what no predictor can go below.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from elastic_compile.profile import Elastic, fit, measuring
from elastic_runtime import device, profiler
from elastic_runtime import latency_table as lt
from examples.benchmarks import elastic_spaces

BACKEND = "onnxruntime"


def configurations(elastic: Elastic, anchors: int, tests: int) -> tuple[list[dict], list[dict]]:
    """Random distinct subnets: those to fit on, those to test on."""
    drawn = elastic.space.sample(4 * (anchors + tests), np.random.default_rng(2024))
    distinct = list({elastic.space.key(one): one for one in drawn}.values())
    return distinct[:anchors], distinct[anchors:anchors + tests]


def measured(subjects: list[profiler.Subject], path: Path, threads: int, budget_s: float) -> lt.LatencyTable:
    machine, environment = device.describe("here"), profiler.environment(BACKEND, threads)
    known = lt.load(path) if path.exists() else None
    outcome = profiler.measure(
        subjects, machine, environment, profiler.Settings(budget_s), known=known, save=lambda t: lt.save(t, path),
        progress=lambda key, done, total: say(f"{path}: {done} of {total}"))
    entries = [entry for entry in outcome.table.entries if entry.timing is not None]
    print(f"{path}: {len(entries)} measured, {sum(bool(entry.flags) for entry in entries)} of them noisy")
    for key, why in outcome.failed.items():
        print(f"  {key}: {why}")
    if outcome.stopped or len(entries) < len({subject.id for subject in subjects}):
        raise SystemExit("stopped, or out of budget: run again to go on")
    return outcome.table


def say(text: str) -> None:
    """Progress, where somebody looks."""
    if sys.stdout.isatty():
        print(f"\r{text:78.78}", end="\r", flush=True)


def run(name: str, given: argparse.Namespace) -> None:
    elastic: Elastic = getattr(elastic_spaces, name)()
    folder = given.work / name
    folder.mkdir(parents=True, exist_ok=True)
    compiler = measuring.Compiler(BACKEND, given.threads, folder / "bundles")
    fitted, tested = configurations(elastic, given.anchors, given.tests)
    found = measuring.distinct_parts(elastic, (*fitted, *tested))
    parts = [measuring.dispatch(compiler), *measuring.parts(compiler, found)]
    anchors, tests = (measuring.anchors(compiler, elastic, part) for part in (fitted, tested))
    subjects = [*parts, *anchors, *tests]
    for number, subject in enumerate(subjects):
        say(f"{name}: compiled {number} of {len(subjects)}")
        subject.compile()
    print(f"{name}: {len(parts) - 1} distinct parts, {len(anchors)} anchors, {len(tests)} tests")
    if given.compile_only:
        return
    table = measured([*parts, *anchors], folder / "table.json", given.threads, given.budget_s)
    truth = measured(tests, folder / "truth.json", given.threads, given.budget_s)
    again = measured(tests, folder / "again.json", given.threads, given.budget_s)

    def ms(of: lt.LatencyTable, subjects: list[profiler.Subject]) -> np.ndarray:
        entries = of.by_id()
        return np.array([entries[subject.id].timing.ms for subject in subjects])

    sums = [np.array([measuring.composed_ms(elastic, table, one) for one in part]) for part in (fitted, tested)]
    predictor = fit(elastic.space, fitted, ms(table, anchors), composed_ms=sums[0])
    bare = fit(elastic.space, fitted, ms(table, anchors))
    values, second = ms(truth, tests), ms(again, tests)
    found_ms = predictor.predict(tested, composed_ms=sums[1], outside="widen")
    print(f"{name}, {len(fitted)} anchors, {len(tested)} tested, {values.min():.2f} to {values.max():.2f} ms, "
          f"{given.threads} thread(s), {predictor.report.recipe}")
    print(f"  {'':28}{'error %':>9}{'±10 %':>9}{'tau':>9}{'cover %':>9}{'width':>9}")
    for label, line, bounds in (
            ("sum of parts", sums[1], None), ("anchors alone", bare.predict(tested, outside="widen").ms, None),
            ("predictor", found_ms.ms, (found_ms.low_ms, found_ms.high_ms)), ("measured again", second, None)):
        off = np.abs(line / values - 1)
        inside = 0.0 if bounds is None else 100 * np.mean((bounds[0] <= values) & (values <= bounds[1]))
        tail = "" if bounds is None else f"{inside:9.1f}{np.median(bounds[1] / bounds[0]):9.3f}"
        print(f"  {label:28}{100 * off.mean():9.2f}{100 * np.mean(off <= 0.1):9.1f}"
              f"{kendalltau(line, values).statistic:9.3f}{tail}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--spaces", default="once_for_all,vit,llama")
    options.add_argument("--work", type=Path, default=Path("out/predictor"))
    options.add_argument("--anchors", type=int, default=40)
    options.add_argument("--tests", type=int, default=100)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--budget-s", type=float, default=300.0, help="of each of the three measurements of a space")
    options.add_argument("--compile-only", action="store_true")
    given = options.parse_args()
    for name in given.spaces.split(","):
        run(name, given)


if __name__ == "__main__":
    main()

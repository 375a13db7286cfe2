"""The predictor on this machine: three elastic networks, whole subnets that no fit has seen.

    python -m examples.benchmarks.predictor_here [--spaces vit,llama] [--work out/predictor] [--stop-after compile]

In: this machine; `--work`, where what was compiled and measured stays, so that a stopped run goes on. Out: a table.
Never: tests on a subnet that was fitted on, or leaves out one that was measured badly.

Parts and `--anchors` subnets are fitted on, 100 others are predicted; all are measured in one run, shuffled, so that
no group has better minutes than another. Repeatability is a second measurement of the same 100 (or of `--repeats` of
them) after that: what no predictor can go below. Measuring needs neither torch nor the networks: a plan made when
compiling says what to call.

How many of the 100 lie in their 90 % intervals depends on which 40 happen to be fitted on. So the 140 measured subnets
are also split anew at random, `--splits` times, and the coverages stand beside what exactly right intervals have.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import elastic_runtime as er
from elastic_runtime import device, profiler
from elastic_runtime import latency_table as lt

BACKEND = "onnxruntime"
SEED = 2024


@dataclass(frozen=True)
class Plan:
    """What was compiled, as JSON: `subjects` (id, key, kind, config, bundle), `parts`: per subnet the ids of its
    parts, `fitted` and `tested`: ids of subnets."""

    folder: Path
    threads: int
    content: dict[str, Any]

    @cached_property
    def subjects(self) -> dict[str, profiler.Subject]:
        return {one["id"]: profiler.Subject(
            one["id"], one["key"], one["kind"], lambda one=one: self._call(self.folder / one["bundle"]),
            config=one["config"]) for one in self.content["subjects"]}

    def _call(self, path: Path) -> Callable[[], Any]:
        model = er.load(path, threads=self.threads)
        entry, inputs = model.reference_inputs()[0]
        return lambda: model.call_flat(entry, inputs)

    def sums(self, table: lt.LatencyTable, ids: Sequence[str]) -> np.ndarray:
        """Per subnet the sum of its parts' entries in ms."""
        return np.array([lt.total_ms(table, self.content["parts"][id]) for id in ids])


def plan(name: str, given: argparse.Namespace) -> Plan:
    """The plan of a network, compiled unless it is there."""
    folder = given.work / name
    path = folder / f"plan-{given.anchors}-{given.tests}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(compiled(name, folder, given)))
    return Plan(folder, given.threads, json.loads(path.read_text()))


def compiled(name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    from elastic_compile.profile import measuring
    from examples.benchmarks import elastic_spaces

    elastic = getattr(elastic_spaces, name)()
    compiler = measuring.Compiler(BACKEND, given.threads, folder / "bundles")
    drawn = elastic.space.sample(4 * (given.anchors + given.tests), np.random.default_rng(SEED))
    distinct = list({elastic.space.key(one): one for one in drawn}.values())[:given.anchors + given.tests]
    found: dict[str, Any] = {}
    made_of = []
    for number, configuration in enumerate(distinct):
        say(f"{name}: parts of {number} of {len(distinct)} subnets")
        parts = elastic.made_of(configuration)
        made_of.append([part.key for part in parts])
        for part in parts:
            found.setdefault(part.key, part)
    subnets = measuring.anchors(compiler, elastic, distinct)
    subjects = [measuring.dispatch(compiler), *measuring.parts(compiler, found), *subnets]
    bundles = []
    for number, subject in enumerate(subjects):
        say(f"{name}: compiled {number} of {len(subjects)}")
        bundles.append(str(subject.compile().relative_to(folder)))
    ids = {subject.key: subject.id for subject in subjects}
    return {
        "subjects": [{"id": one.id, "key": one.key, "kind": one.kind, "config": dict(one.config), "bundle": bundle}
                     for one, bundle in zip(subjects, bundles, strict=True)],
        "parts": {subnet.id: [ids[key] for key in keys] for subnet, keys in zip(subnets, made_of, strict=True)},
        "fitted": [subnet.id for subnet in subnets[:given.anchors]],
        "tested": [subnet.id for subnet in subnets[given.anchors:]]}


def measured(subjects: list[profiler.Subject], path: Path, threads: int, budget_s: float) -> lt.LatencyTable:
    """The table at `path` with all of `subjects`, measured in an order of its own; noisy ones once more."""
    known = lt.load(path) if path.exists() else None
    order = np.random.default_rng(SEED).permutation(len(subjects))
    outcome = profiler.measure(
        [subjects[number] for number in order], device.describe("here"), profiler.environment(BACKEND, threads),
        profiler.Settings(budget_s), known=known, save=lambda table: lt.save(table, path),
        progress=lambda key, done, total: say(f"{path}: {done} of {total}"))
    entries = [entry for entry in outcome.table.entries if entry.timing is not None]
    print(f"{path}: {len(entries)} measured, {sum(bool(entry.flags) for entry in entries)} of them noisy", flush=True)
    for key, why in outcome.failed.items():
        print(f"  {key}: {why}")
    if outcome.stopped or len(entries) < len(subjects):
        raise SystemExit("stopped, or out of budget: run again to go on")
    return outcome.table


def say(text: str) -> None:
    """Progress, where somebody looks."""
    if sys.stdout.isatty():
        print(f"\r{text:78.78}", end="\r", flush=True)


def report(name: str, made: Plan, table: lt.LatencyTable, again: lt.LatencyTable, splits: int) -> None:
    from scipy.stats import betabinom, kendalltau

    from elastic_compile.profile import conformal, fit
    from examples.benchmarks import elastic_spaces

    space = getattr(elastic_spaces, name)().space
    fitted, tested = made.content["fitted"], made.content["tested"]

    def ms(of: lt.LatencyTable, ids: list[str]) -> np.ndarray:
        entries = of.by_id()
        return np.array([entries[id].timing.ms for id in ids])

    def configurations(ids: list[str]) -> list[dict]:
        return [dict(made.subjects[id].config) for id in ids]

    sums = made.sums(table, fitted), made.sums(table, tested)
    predictor = fit(space, configurations(fitted), ms(table, fitted), composed_ms=sums[0])
    bare = fit(space, configurations(fitted), ms(table, fitted))
    repeated = [number for number, id in enumerate(tested) if id in again.by_id()]
    values, second = ms(table, tested), ms(again, [tested[number] for number in repeated])
    found = predictor.predict(configurations(tested), composed_ms=sums[1], outside="widen")
    print(f"{name}, {len(fitted)} anchors, {len(tested)} tested, {values.min():.2f} to {values.max():.2f} ms, "
          f"{made.threads} thread(s), {predictor.report.recipe}")
    print(f"  {'':32}{'error %':>9}{'±10 %':>9}{'tau':>9}{'cover %':>9}{'width':>9}")
    for label, line, bounds in (
            ("sum of parts", sums[1], None),
            ("anchors alone", bare.predict(configurations(tested), outside="widen").ms, None),
            ("predictor", found.ms, (found.low_ms, found.high_ms)),
            (f"measured again, {len(repeated)} of them", second, None)):
        measured_ms = values if len(line) == len(values) else values[repeated]
        off = np.abs(line / measured_ms - 1)
        inside = 0.0 if bounds is None else 100 * np.mean((bounds[0] <= values) & (values <= bounds[1]))
        tail = "" if bounds is None else f"{inside:9.1f}{np.median(bounds[1] / bounds[0]):9.3f}"
        print(f"  {label:32}{100 * off.mean():9.2f}{100 * np.mean(off <= 0.1):9.1f}"
              f"{kendalltau(line, measured_ms).statistic:9.3f}{tail}", flush=True)
    if not splits:
        return
    everything = np.array(fitted + tested)
    found = []
    for seed in range(splits):
        say(f"{name}: split {seed} of {splits}")
        order = np.random.default_rng(seed).permutation(len(everything))
        known, new = (everything[part].tolist() for part in (order[:len(fitted)], order[len(fitted):]))
        predictor = fit(space, configurations(known), ms(table, known), composed_ms=made.sums(table, known))
        predicted = predictor.predict(configurations(new), composed_ms=made.sums(table, new), outside="widen")
        values = ms(table, new)
        found.append((np.mean(np.abs(predicted.ms / values - 1) <= 0.1), kendalltau(predicted.ms, values).statistic,
                      np.mean((predicted.low_ms <= values) & (values <= predicted.high_ms))))
    within, tau, covered = np.array(found).T
    right = betabinom(len(tested), *conformal.luck(len(fitted), 0.9))
    usual = right.cdf(np.floor(0.95 * len(tested))) - right.cdf(np.ceil(0.85 * len(tested)) - 1)
    print(f"  {splits} random splits: ±10 % {100 * within.mean():.1f} (least {100 * within.min():.1f}), tau "
          f"{tau.mean():.3f} (least {tau.min():.3f}), coverage {100 * covered.mean():.1f} % on average, "
          f"{100 * covered.min():.0f} to {100 * covered.max():.0f},\n  within 85 to 95 in "
          f"{100 * np.mean((covered >= 0.85) & (covered <= 0.95)):.0f} % of the splits; exactly right intervals from "
          f"{len(fitted)} anchors: {100 * right.mean() / len(tested):.1f} % on average, within 85 to 95 in "
          f"{100 * usual:.0f} %", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--spaces", default="once_for_all,vit,llama")
    options.add_argument("--work", type=Path, default=Path("out/predictor"))
    options.add_argument("--anchors", type=int, default=40)
    options.add_argument("--tests", type=int, default=100)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--budget-s", type=float, default=200.0, help="of the first measurement of a network; the "
                                                                     "second one has half of it")
    options.add_argument("--repeats", type=int, help="tests that are measured a second time; all of them by default")
    options.add_argument("--splits", type=int, default=20, help="other choices of the anchors")
    options.add_argument("--stop-after", choices=("compile", "measure"))
    given = options.parse_args()
    for name in given.spaces.split(","):
        made = plan(name, given)
        print(f"{name}: {len(made.subjects)} compiled", flush=True)
        if given.stop_after == "compile":
            continue
        tests = [made.subjects[id] for id in made.content["tested"][:given.repeats]]
        tables = (made.folder / f"{kind}-{given.threads}.json" for kind in ("table", "again"))
        table = measured(list(made.subjects.values()), next(tables), given.threads, given.budget_s)
        again = measured(tests, next(tables), given.threads, given.budget_s / 2)
        if given.stop_after != "measure":
            report(name, made, table, again, given.splits)


if __name__ == "__main__":
    main()

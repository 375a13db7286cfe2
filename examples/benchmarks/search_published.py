"""Guided search against plain NSGA-II: evaluations spent to reach the same hypervolume.

    python -m examples.benchmarks.search_published [--seeds 10] [--budget 1000] [--device TABLE] [--work out/search]

In: published accuracies and latencies of Once-for-All MobileNetV3 (see `published`); `--work`, where each finished seed
stays, so that a stopped run goes on. Out: a table.
Never: searches among the measured subnets alone: 2223 of 10^18 are too few to breed. Top-1 accuracy is what a model
fitted on all 2223 measured subnets says (its held-out error is printed); latency is the predictor's, fitted on 1000
subnets measured on a Titan RTX at batch 64, at 224 pixels; or, with `--device`, on sums of the parts that this table
of `make_profiles` measured, at 176 pixels.
"""
from __future__ import annotations

import argparse
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from elastic_compile.profile import Configuration, fit, measuring, regression
from elastic_compile.search import (
    Account,
    Candidate,
    Estimate,
    Limit,
    Objective,
    Problem,
    hypervolume,
    search,
)
from elastic_runtime import latency_table
from examples.benchmarks import elastic_spaces, published

REFERENCE = {"latency_ms": 60.0, "top1_percent": 70.0}


@dataclass(frozen=True, eq=False)
class Oracle:
    """Top-1 accuracy in percent of a configuration. `error`: mean held-out error in percent points."""

    accuracy: Callable[[Configuration], float]
    error: float

    def __call__(self, configuration: Configuration) -> Mapping[str, float]:
        return {"top1_percent": self.accuracy(configuration)}


def oracle(data: published.Measured) -> Oracle:
    values = data.values["top1_percent"]

    def rows(configurations) -> regression.Rows:
        return regression.Rows(data.space.encode(configurations), np.zeros(len(configurations)))

    choice = regression.choose(
        rows(data.configurations), values,
        regression.recipes(len(values), positive=False, scale=False, composed=False), positive=False)
    return Oracle(lambda configuration: float(choice.model.predict(rows([configuration]))[0]),
                  float(np.abs(values - choice.held_out).mean()))


def latency(data: published.Measured) -> Callable:
    order = np.random.default_rng(0).permutation(len(data.configurations))[:1000]
    predictor = fit(data.space, [data.configurations[i] for i in order], data.values[published.TITAN_64][order])

    def estimate(configurations) -> Estimate:
        found = predictor.predict([{**configuration, "r": 224} for configuration in configurations])
        return Estimate(found.ms, found.low_ms, found.high_ms)
    return estimate


def latency_of_table(path: str) -> Callable:
    """Latency by the parts' entries of a table, as a model of 300 sums (a sum itself takes a forward pass)."""
    elastic, table, rng = elastic_spaces.once_for_all(), latency_table.load(path), np.random.default_rng(0)
    configurations, sums = [], []
    while len(sums) < 300:
        configuration = {**elastic.space.sample(1, rng)[0], "r": 176}
        with suppress(latency_table.MissingEntry):
            sums.append(measuring.composed_ms(elastic, table, configuration))
            configurations.append(configuration)
    predictor = fit(elastic.space, configurations, sums)
    print(f"model of the sums: held-out error {100 * predictor.report.mean_error:.2f} %")

    def estimate(configurations) -> Estimate:
        found = predictor.predict([{**configuration, "r": 176} for configuration in configurations], outside="widen")
        return Estimate(found.ms, found.low_ms, found.high_ms)
    return estimate


def make_problem(limits: tuple[Limit, ...] = (), device: str | None = None) -> tuple[Problem, float]:
    """The search problem, and the accuracy model's error in percent points."""
    accuracies = published.accuracies()
    judge = oracle(accuracies)
    estimate = latency_of_table(device) if device else latency(published.gpu_latencies())
    objectives = (Objective("latency_ms", estimate=estimate), Objective("top1_percent", maximise=True))
    return Problem(accuracies.space, objectives, judge, limits), judge.error


class _Reached(Exception):
    """The wanted hypervolume is reached."""


def plain(problem: Problem, budget: int, seed: int) -> tuple[float, int]:
    """The hypervolume that NSGA-II reaches with `budget` evaluations, and after how many it had it."""
    evaluated = search(problem, budget, method="nsga2", seed=seed).evaluated
    volume = hypervolume(evaluated, problem.objectives, REFERENCE)
    return volume, needed(problem, evaluated, volume)


def guided(problem: Problem, budget: int, seed: int, target: float) -> tuple[float, int | None]:
    """The hypervolume of a guided search that ends when it reaches `target`, and after how many evaluations it did;
    None when `budget` did not suffice."""
    found: list[Candidate] = []
    volume = 0.0

    def judge(configuration: Configuration) -> Mapping[str, float]:
        nonlocal volume
        values = problem.evaluate(configuration)
        latency_ms = problem.estimates([configuration])["latency_ms"].value[0]
        found.append(Candidate(dict(configuration), {**values, "latency_ms": float(latency_ms)}))
        volume = hypervolume(found, problem.objectives, REFERENCE)
        return values

    def stop(account: Account) -> None:
        if volume >= target:
            raise _Reached

    with suppress(_Reached):
        search(replace(problem, evaluate=judge), budget, method="guided", seed=seed, progress=stop)
    return volume, needed(problem, found, target) if volume >= target else None


def needed(problem: Problem, candidates: Sequence[Candidate], target: float) -> int:
    """How many of the first candidates have the hypervolume `target`, which all of them have."""
    return bisect_left(range(len(candidates)), target,
                       key=lambda last: hypervolume(candidates[:last + 1], problem.objectives, REFERENCE)) + 1


def seed_of(problem: Problem, given: argparse.Namespace, folder: Path,
            seed: int) -> tuple[float, int, float, int | None]:
    """(hypervolume of NSGA-II, its evaluations, hypervolume of the guided search, its evaluations to reach that)."""
    path = folder / f"seed-{seed}-{given.budget}-{given.guided_budget}.json"
    if not path.exists():
        volume, spent = plain(problem, given.budget, seed)
        path.write_text(json.dumps([volume, spent, *guided(problem, given.guided_budget, seed, volume)]))
    return tuple(json.loads(path.read_text()))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--budget", type=int, default=1000)
    options.add_argument("--guided-budget", type=int, default=250)
    options.add_argument("--device", metavar="TABLE", help="a table of make_profiles with Once-for-All's parts")
    options.add_argument("--work", type=Path, default=Path("out/search"))
    given = options.parse_args()
    of = hashlib.sha256(Path(given.device).read_bytes()).hexdigest()[:12] if given.device else "titan-rtx"
    folder = given.work / of
    folder.mkdir(parents=True, exist_ok=True)
    problem, error = make_problem(device=given.device)
    print(f"accuracy model: held-out error {error:.3f} percent points; {problem.space.size():.1e} subnets")
    print(f"{'seed':>4} {'NSGA-II':>12} {'evaluations':>12} {'guided':>12} {'to reach it':>12} {'fewer':>8}")
    ratios = []
    for seed in range(given.seeds):
        volume, spent, reached, count = seed_of(problem, given, folder, seed)
        ratios.append(spent / count if count else 0.0)
        print(f"{seed:4} {volume:12.2f} {spent:12} {reached:12.2f} {count or '-':>12} {ratios[-1]:7.1f}x", flush=True)
    print(f"median {np.median(ratios):.1f}x, least {min(ratios):.1f}x")


if __name__ == "__main__":
    main()

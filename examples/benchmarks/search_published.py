"""Guided search against plain NSGA-II: evaluations spent to reach the same hypervolume.

    python -m examples.benchmarks.search_published [--seeds 10] [--budget 1000] [--device TABLE]

In: published accuracies and latencies of Once-for-All MobileNetV3 (see `published`). Out: a table.
Never: searches among the measured subnets alone: 2223 of 10^18 are too few to breed. Top-1 accuracy is what a model
fitted on all 2223 measured subnets says (its held-out error is printed); latency is the predictor's, fitted on 1000
subnets measured on a Titan RTX at batch 64, at 224 pixels; or, with `--device`, on sums of the parts that this table
of `make_profiles` measured, at 176 pixels.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from elastic_compile.profile import Configuration, fit, measuring, regression
from elastic_compile.search import Estimate, Limit, Objective, Problem, hypervolume, search
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


def history(problem: Problem, method: str, budget: int, seed: int) -> np.ndarray:
    """Hypervolume after each evaluation."""
    evaluated = search(problem, budget, method=method, seed=seed).evaluated
    found, kept = np.zeros(len(evaluated)), []
    for count, candidate in enumerate(evaluated):
        kept.append(candidate)
        found[count] = hypervolume(kept, problem.objectives, REFERENCE)
    return found


def needed(volumes: np.ndarray, target: float) -> int | None:
    """Evaluations until `target` is reached."""
    reached = np.flatnonzero(volumes >= target)
    return int(reached[0]) + 1 if len(reached) else None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--budget", type=int, default=1000)
    options.add_argument("--guided-budget", type=int, default=250)
    options.add_argument("--device", metavar="TABLE", help="a table of make_profiles with Once-for-All's parts")
    given = options.parse_args()
    problem, error = make_problem(device=given.device)
    print(f"accuracy model: held-out error {error:.3f} percent points; {problem.space.size():.1e} subnets")
    print(f"{'seed':>4} {'NSGA-II':>12} {'evaluations':>12} {'guided':>12} {'to reach it':>12} {'fewer':>8}")
    ratios = []
    for seed in range(given.seeds):
        plain = history(problem, "nsga2", given.budget, seed)
        guided = history(problem, "guided", given.guided_budget, seed)
        spent, count = needed(plain, plain[-1]), needed(guided, plain[-1])
        ratios.append(spent / count if count else 0.0)
        print(f"{seed:4} {plain[-1]:12.2f} {spent:12} {guided[-1]:12.2f} {count or '-':>12} {ratios[-1]:7.1f}x",
              flush=True)
    print(f"median {np.median(ratios):.1f}x, least {min(ratios):.1f}x")


if __name__ == "__main__":
    main()

"""The ways to search: exhaustive, NSGA-II, NSGA-II guided by surrogate models, and dynamic programming over layers.

In: a problem and a budget of evaluations. Out: a `SearchResult`.
Never: proposes a subnet that breaks a limit; never spends more evaluations than the budget.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from typing import Literal

import numpy as np

from elastic_compile.profile import regression
from elastic_compile.search import pareto
from elastic_compile.search.depth import select_depth
from elastic_compile.search.evaluation import Account, Cache, Evaluator
from elastic_compile.search.genetics import Evolution, evolve, silent, spread_out
from elastic_compile.search.problem import Problem, SearchError
from elastic_compile.search.result import SearchResult

Method = Literal["auto", "exhaustive", "nsga2", "guided", "depth"]

_POPULATION = 50
_INNER_POPULATION = 100
_INNER_GENERATIONS = 40
_FRUITLESS_GENERATIONS = 20
_FRUITLESS_ROUNDS = 3


def search(
    problem: Problem,
    budget: int,
    *,
    method: Method = "auto",
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: Callable[[Account], None] | None = None,
) -> SearchResult:
    """Search `problem` with at most `budget` evaluations.

    "exhaustive" evaluates every subnet; "nsga2" breeds them (`genetics`); "guided" alternates between fitting
    models of the measured objectives, breeding on the models, and evaluating a few of what came out (LINAS:
    Cummings et al., A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities,
    arXiv 2205.10358, 2022). "depth" is for spaces whose decisions say of each layer whether it is there (values 0 and
    1, or False and True), and whose one measured objective ranks the sets of layers: dynamic programming (`depth`)
    removes as many as the budget covers; also sets that break a limit are evaluated then, and left out of the front.
    "auto" takes the first when the budget covers it, the last when something is measured,
    else "nsga2".

    `cache`: a file of evaluations that a search of the same problem continues from. `progress` is called after each
    batch. A search with the same seed makes the same choices, whatever came from the cache.

    Raises `SearchError`, `EvaluationError`, `CacheError`, and `OutOfSpace` where a predictor does.
    """
    if budget < 1 or workers < 1:
        raise SearchError(f"budget and workers have to be at least 1, given {budget} and {workers}")
    size = problem.space.size()
    if method == "auto":
        method = "exhaustive" if size <= budget else "guided" if problem.measured else "nsga2"
    if method == "exhaustive" and size > budget:
        raise SearchError(f"the space has {size} subnets, the budget is {budget}",
                          hint="give a larger budget or another method")
    if method not in _METHODS:
        raise SearchError(f"there is no method {method!r}", hint=f"the methods are auto, {', '.join(_METHODS)}")
    with (Cache(problem.space, problem.measured, cache) as opened,
          Evaluator(problem, budget, opened, workers) as evaluator):
        _METHODS[method](problem, evaluator, seed, progress or (lambda _: None))
        evaluated = tuple(evaluator.candidates.values())
        allowed = [candidate for candidate in evaluated if candidate.keeps(problem.limits)]
        return SearchResult(problem.objectives, pareto.front(allowed, problem.objectives), evaluated, method,
                            evaluator.account)


def _exhaustive(problem: Problem, evaluator: Evaluator, seed: int, progress: Callable[[Account], None]) -> None:
    configurations = problem.space.enumerate()
    while batch := list(islice(configurations, _POPULATION)):
        evaluator.evaluate(batch)
        progress(evaluator.account)


def _nsga2(problem: Problem, evaluator: Evaluator, seed: int, progress: Callable[[Account], None]) -> None:
    first = _random(problem, min(_POPULATION, evaluator.budget), np.random.default_rng(seed))
    evolution = Evolution(problem.space, len(problem.objectives), first, seed)
    fruitless = 0
    while evaluator.remaining > 0 and fruitless < _FRUITLESS_GENERATIONS:
        genes = evolution.ask()
        if not len(genes):
            break
        before = evaluator.remaining
        objectives, violations = _judge(problem, evaluator, genes)
        fruitless = fruitless + 1 if evaluator.remaining == before else 0
        evolution.tell(objectives, violations)
        progress(evaluator.account)


def _depth(problem: Problem, evaluator: Evaluator, seed: int, progress: Callable[[Account], None]) -> None:
    decisions = problem.space.decisions
    if any(sorted(getattr(one, "values", ())) != [0, 1] or getattr(one, "when", None) for one in decisions):
        raise SearchError("this space does not say of each layer whether it is there",
                          hint="make every decision a Categorical of (0, 1) without when=, or use another method")
    if len(problem.measured) != 1:
        raise SearchError(f"layers are ranked by one measured objective, given {list(problem.measured)}")
    name = problem.measured[0]
    sign = next(1.0 if one.maximise else -1.0 for one in problem.objectives if one.name == name)

    def score(removed: tuple[int, ...]) -> float:
        configuration = {one.name: one.values[[int(value) for value in one.values].index(layer not in removed)]
                         for layer, one in enumerate(decisions)}
        candidate, = evaluator.evaluate([configuration], whatever_the_limits=True)
        progress(evaluator.account)
        return sign * candidate.values[name]

    layers = len(decisions)
    most = max((count for count in range(layers + 1)
                if 1 + sum(min(layer, count) for layer in range(1, layers + 1)) <= evaluator.budget), default=0)
    select_depth(layers, most, score)


def _judge(problem: Problem, evaluator: Evaluator, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    configurations = problem.space.configurations(genes)
    candidates = evaluator.evaluate(configurations)
    violations = problem.violations(problem.estimates(configurations), len(genes))
    objectives = np.zeros((len(genes), len(problem.objectives)))
    for row, candidate in enumerate(candidates):
        if candidate is None:
            violations[row] = max(violations[row], np.finfo(float).tiny)
            continue
        objectives[row] = pareto.points([candidate], problem.objectives)[0]
        for limit in problem.limits:
            if limit.name in problem.measured:
                value = np.array(candidate.values[limit.name])
                violations[row] += limit.violation(value, value, value)
    return objectives * problem.signs, violations


def _guided(problem: Problem, evaluator: Evaluator, seed: int, progress: Callable[[Account], None]) -> None:
    rng = np.random.default_rng(seed)
    start = max(6, min(_POPULATION // 2, evaluator.budget // 4))
    _first_batch(problem, evaluator, start, rng)
    progress(evaluator.account)
    fruitless = 0
    while evaluator.remaining > 0 and fruitless < _FRUITLESS_ROUNDS:
        seen = tuple(evaluator.candidates.values())
        if len(seen) < 3:
            raise SearchError("the limits leave too few subnets to begin with",
                              reason=f"{len(seen)} of {evaluator.account.ruled_out + len(seen)} random subnets keep "
                                     "them by prediction", hint="widen the limits, or give them by='point'")
        chosen = _proposals(problem, evaluator, max(4, len(seen) // 8), rng)
        before = evaluator.remaining
        evaluator.evaluate(chosen)
        fruitless = fruitless + 1 if evaluator.remaining == before else 0
        progress(evaluator.account)


def _first_batch(problem: Problem, evaluator: Evaluator, count: int, rng: np.random.Generator) -> None:
    """Random subnets that keep the limits by prediction; where these are rare, those bred to keep them."""
    for _ in range(_FRUITLESS_GENERATIONS):
        missing = min(count - len(evaluator.candidates), evaluator.remaining)
        if missing <= 0:
            return
        drawn = problem.space.sample(4 * missing, rng)
        allowed = problem.violations(problem.estimates(drawn), len(drawn)) <= 0
        evaluator.evaluate([c for c, keep in zip(drawn, allowed, strict=True) if keep][:missing])
    genes, _, violations = evolve(
        problem.space, _random(problem, _INNER_POPULATION, rng),
        lambda rows: _cheap(problem, rows), _INNER_GENERATIONS, int(rng.integers(1 << 31)))
    kept = genes[violations <= 0][-(count - len(evaluator.candidates)):]
    evaluator.evaluate(problem.space.configurations(kept))


def _cheap(problem: Problem, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    estimates = problem.estimates(problem.space.configurations(genes))
    values = [estimate.value for estimate in estimates.values()]
    return np.stack(values or [np.zeros(len(genes))], axis=1), problem.violations(estimates, len(genes))


def _proposals(problem: Problem, evaluator: Evaluator, count: int, rng: np.random.Generator) -> list[dict]:
    space, seen = problem.space, tuple(evaluator.candidates.values())
    known = silent(space, space.genes([candidate.configuration for candidate in seen]))
    models = {name: regression.choose(
        _rows(problem, known), np.array([candidate.values[name] for candidate in seen]),
        regression.recipes(len(seen), positive=False, scale=False, composed=False), positive=False,
        seed=int(rng.integers(1 << 31))).model for name in problem.measured}

    def judge(genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        estimates = problem.estimates(space.configurations(genes))
        rows = _rows(problem, genes)
        values = {name: model.predict(rows) for name, model in models.items()}
        violations = problem.violations(estimates, len(genes))
        for limit in problem.limits:
            if limit.name in values:
                violations += limit.violation(*[values[limit.name]] * 3)
        values |= {name: estimate.value for name, estimate in estimates.items()}
        objectives = np.stack([values[objective.name] for objective in problem.objectives], axis=1)
        return objectives * problem.signs, violations

    best = pareto.front([c for c in seen if c.keeps(problem.limits)] or seen, problem.objectives)
    elite = silent(space, space.genes([candidate.configuration for candidate in best]))[:_INNER_POPULATION // 2]
    first = np.concatenate([elite, _random(problem, _INNER_POPULATION - len(elite), rng)])
    genes, objectives, violations = evolve(space, first, judge, _INNER_GENERATIONS, int(rng.integers(1 << 31)))
    done = set(map(bytes, known))
    new = np.array([bytes(row) not in done for row in genes]) & (violations <= 0)
    if not new.any():
        return space.sample(count, rng)
    genes, objectives = genes[new], objectives[new]
    return space.configurations(genes[spread_out(objectives, count, rng)])


def _rows(problem: Problem, genes: np.ndarray) -> regression.Rows:
    return regression.Rows(problem.space.encode_genes(genes), np.zeros(len(genes)))


def _random(problem: Problem, count: int, rng: np.random.Generator) -> np.ndarray:
    sizes = [len(decision.values) for decision in problem.space.decisions]
    return silent(problem.space, rng.integers(0, sizes, (count, len(sizes))))


_METHODS = {"exhaustive": _exhaustive, "nsga2": _nsga2, "guided": _guided, "depth": _depth}

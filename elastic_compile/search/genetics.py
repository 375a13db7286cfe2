"""NSGA-II over a space (Deb, Pratap, Agarwal, Meyarivan, IEEE TEVC 2002), by pymoo.

In: a space, a first population, a function from genes to objectives and violations. Out: populations.
Never: knows what an objective means; all are made small here.

A configuration is a row of genes, one per decision (the position of its value). Genes of inactive decisions are
set to 0, so that equal subnets are equal rows and are not bred twice.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2, RankAndCrowding
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.problems.static import StaticProblem

from elastic_compile.profile import Categorical, Space

Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Genes [n, decisions] -> objectives to make small [n, objectives], violations [n] (0: feasible)."""


class Evolution:
    """One run of NSGA-II, a generation at a time."""

    def __init__(self, space: Space, objectives: int, first: np.ndarray, seed: int) -> None:
        """`first` [population, decisions]: genes to begin with; the population keeps their number."""
        sizes = np.array([len(decision.values) for decision in space.decisions])
        self._problem = Problem(n_var=len(sizes), n_obj=objectives, n_ieq_constr=1, xl=0, xu=sizes - 1, vtype=int)
        self._algorithm = NSGA2(
            pop_size=len(first), sampling=silent(space, first), crossover=UniformCrossover(prob=0.9),
            mutation=_Reset(space, sizes), repair=_Silence(space), eliminate_duplicates=True)
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=seed, verbose=False)
        self._asked = None

    def ask(self) -> np.ndarray:
        """The next generation's new genes [n, decisions]; fewer than a population, or none, once it breeds only
        rows that it has."""
        self._asked = self._algorithm.ask()
        return np.empty((0, self._problem.n_var), int) if self._asked is None else self._asked.get("X").astype(int)

    def tell(self, objectives: np.ndarray, violations: np.ndarray) -> None:
        """What the rows of the last `ask` are worth."""
        Evaluator().eval(StaticProblem(self._problem, F=objectives, G=violations[:, None]), self._asked)
        self._algorithm.tell(infills=self._asked)

    @property
    def genes(self) -> np.ndarray:
        """The current population's genes."""
        return self._algorithm.pop.get("X").astype(int)


def evolve(space: Space, first: np.ndarray, judge: Judge, generations: int,
           seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run `generations` with a cheap judge. Genes, objectives and violations of all distinct rows it saw."""
    rows, objectives, violations = [], [], []
    evolution = None
    for _ in range(generations):
        if evolution is None:
            evolution = Evolution(space, judge(first[:1])[0].shape[1], first, seed)
        asked = evolution.ask()
        if not len(asked):
            break
        found, broken = judge(asked)
        evolution.tell(found, broken)
        rows.append(asked)
        objectives.append(found)
        violations.append(broken)
    genes = np.concatenate(rows)
    _, kept = np.unique(genes, axis=0, return_index=True)
    kept.sort()
    return genes[kept], np.concatenate(objectives)[kept], np.concatenate(violations)[kept]


def spread_out(objectives: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of `count` rows: the least dominated, and of equal rank those in the emptiest regions."""
    population = Population.new(X=np.arange(len(objectives))[:, None], F=objectives)
    for individual in population:
        individual.evaluated.update({"F"})
    kept = RankAndCrowding().do(Problem(n_var=1, n_obj=objectives.shape[1]), population,
                                n_survive=min(count, len(objectives)), random_state=rng)
    return kept.get("X")[:, 0].astype(int)


def silent(space: Space, genes: np.ndarray) -> np.ndarray:
    """`genes` with those of inactive decisions set to 0."""
    return np.where(space.activity(genes), genes, 0)


class _Silence(Repair):
    def __init__(self, space: Space) -> None:
        super().__init__()
        self._space = space

    def _do(self, problem: Problem, X: np.ndarray, **_: object) -> np.ndarray:
        return silent(self._space, np.asarray(X).astype(int))


class _Reset(Mutation):
    """Each gene changes with probability 1 / active decisions: to any value, or for an ordered decision half of the
    times to a neighbouring one."""

    def __init__(self, space: Space, sizes: np.ndarray) -> None:
        super().__init__()
        self._space = space
        self._sizes = sizes
        self._ordered = np.array([not isinstance(decision, Categorical) for decision in space.decisions])

    def _do(self, problem: Problem, X: np.ndarray, random_state: np.random.Generator | None = None,
            **_: object) -> np.ndarray:
        genes = np.asarray(X).astype(int)
        active = self._space.activity(genes)
        change = random_state.random(genes.shape) < 1 / np.maximum(active.sum(axis=1, keepdims=True), 1)
        anywhere = random_state.integers(0, self._sizes, genes.shape)
        near = np.clip(genes + random_state.choice([-1, 1], genes.shape), 0, self._sizes - 1)
        stepping = self._ordered & (random_state.random(genes.shape) < 0.5)
        return np.where(change, np.where(stepping, near, anywhere), genes)

"""Search: which subnets of a space are worth shipping to a device.

In: a space, objectives (latency by a predictor, quality by the user's own measurement), limits, a budget of
evaluations. Out: a Pareto front with what it cost to find. Never: imports torch, a backend or an engine.

    problem = Problem(space, (Objective("latency_ms", estimate=predicted(predictor)),
                              Objective("quality", maximise=True)), evaluate, (Limit("latency_ms", most=12.0),))
    result = search(problem, budget=300, cache="evaluations.jsonl")

A family whose subnets are nested prefixes of one another (SortedNet, Valipour et al. 2023) needs no search: its
list of sizes is its front.
"""
from elastic_compile.search.depth import DepthChoice, select_depth, within
from elastic_compile.search.evaluation import Account, CacheError
from elastic_compile.search.methods import search
from elastic_compile.search.pareto import front, hypervolume
from elastic_compile.search.problem import (
    Candidate,
    Estimate,
    EvaluationError,
    Limit,
    Objective,
    Problem,
    SearchError,
    exactly,
    predicted,
)
from elastic_compile.search.result import SearchResult

__all__ = [
    "Account", "CacheError", "Candidate", "DepthChoice", "Estimate", "EvaluationError", "Limit", "Objective",
    "Problem", "SearchError", "SearchResult", "exactly", "front", "hypervolume", "predicted", "search",
    "select_depth", "within",
]

"""Latency of several callables, measured against each other in one run, and what a switch between subnets costs.

In: callables by name; a loaded model. Out: a `Timing` per name; medians.
Never: times candidates one after the other (a machine that slows down would favour the first), or drops samples.
"""
from __future__ import annotations

import gc
import statistics
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns

import numpy as np

from elastic_runtime.model import Model

_MAX_ROUNDS = 2_000_000
_FIFTHS = 5


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call. `percentiles_ms`: by percentile. `spread`: how far the medians of five consecutive
    fifths of the run lie apart, relative to the median. `throughput`: calls per second of time spent in calls."""

    name: str
    count: int
    median_ms: float
    mean_ms: float
    min_ms: float
    percentiles_ms: dict[float, float]
    spread: float
    throughput: float


def interleave(candidates: Mapping[str, Callable[[], object]], *, warmup_ms: float = 200.0, duration_s: float = 3.0,
               iterations: int = 10, percentiles: Sequence[float] = (50, 90, 99)) -> dict[str, Timing]:
    """Call all `candidates` in rounds, one call of each per round, rotating who begins.

    warmup_ms: of rounds before measuring, at least one. The measurement goes on for `duration_s` in all and for
    at least `iterations` rounds. The garbage collector rests while it lasts. Raises ValueError for no candidates
    or a percentile outside 0 to 100.
    """
    if not candidates or not all(0 <= percentile <= 100 for percentile in percentiles):
        raise ValueError("interleave needs at least one candidate, and percentiles between 0 and 100")
    calls = list(candidates.values())
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        _rounds(calls, warmup_ms / 1e3, 1)
        samples = _rounds(calls, duration_s, iterations)
    finally:
        if collecting:
            gc.enable()
    return {name: _timing(name, taken, percentiles) for name, taken in zip(candidates, samples, strict=True)}


@dataclass(frozen=True)
class AfterSwitch:
    """Medians in ms of one subnet: `first`, the run after a switch from another subnet that has just run; `steady`,
    the two runs after that; `cold`, a run without a switch, before which as much other memory was read as the model
    has weights. `penalty`: the median over rounds of first / steady, less 1; `refill`: of cold / steady, less 1, which
    is what caches alone cost."""

    first_ms: float
    steady_ms: float
    penalty: float
    cold_ms: float
    refill: float
    rounds: int


def switch_ns(model: Model, *, rounds: int = 20_000) -> float:
    """Median nanoseconds of `model.switch` from one subnet to the next, without what reading the clock takes."""
    names = list(model.subnets)
    taken, clock = array("q"), array("q")
    active = model.active
    for number in range(rounds):
        name = names[(number + 1) % len(names)]
        start = perf_counter_ns()
        model.switch(name)
        taken.append(perf_counter_ns() - start)
        start = perf_counter_ns()
        clock.append(perf_counter_ns() - start)
    model.switch(active)
    return max(0.0, float(np.median(taken)) - float(np.median(clock)))


def after_switch(model: Model, calls: Mapping[str, Callable[[], object]], *, duration_s: float = 3.0,
                 rounds: int = 10) -> dict[str, AfterSwitch]:
    """Per subnet the first run after a switch against the runs that follow, all subnets in turn.

    `calls`: what to run of each subnet. In a round every subnet is switched to once, from the one before it, and runs
    three times; then each runs twice more, with other memory read in between. At least `rounds` of them, for
    `duration_s` in all.
    """
    samples: dict[str, list[tuple[int, ...]]] = {name: [] for name in calls}
    other = np.ones(max(1, model.weight_bytes // 8))
    for call in (*calls.items(),) * 2:
        model.switch(call[0])
        call[1]()
    end = perf_counter() + duration_s
    while len(samples[next(iter(samples))]) < rounds or perf_counter() < end:
        for name, call in calls.items():
            model.switch(name)
            samples[name].append((*_timed(call), *_timed(call), *_timed(call)))
        for name, call in calls.items():
            model.switch(name)
            call()
            other.sum()
            samples[name][-1] += _timed(call)
    made = {}
    for name, taken in samples.items():
        first, *steady, cold = np.array(taken).T / 1e6
        usual = np.mean(steady, axis=0)
        made[name] = AfterSwitch(float(np.median(first)), float(np.median(usual)), float(np.median(first / usual)) - 1,
                                 float(np.median(cold)), float(np.median(cold / usual)) - 1, len(taken))
    return made


def _timed(call: Callable[[], object]) -> tuple[int]:
    start = perf_counter_ns()
    call()
    return perf_counter_ns() - start,


def _rounds(calls: Sequence[Callable[[], object]], duration_s: float, at_least: int) -> list[array]:
    samples = [array("q") for _ in calls]
    order = list(zip(calls, samples, strict=True))
    end, done = perf_counter() + duration_s, 0
    while done < at_least or (perf_counter() < end and done < _MAX_ROUNDS):
        for call, taken in order:
            start = perf_counter_ns()
            call()
            taken.append(perf_counter_ns() - start)
        order.append(order.pop(0))
        done += 1
    return samples


def _timing(name: str, taken: array, percentiles: Sequence[float]) -> Timing:
    times = np.frombuffer(taken, np.int64) / 1e6
    median = float(np.median(times))
    medians = [float(np.median(part)) for part in np.array_split(times, _FIFTHS) if part.size]
    return Timing(
        name=name, count=times.size, median_ms=median, mean_ms=statistics.fmean(times), min_ms=float(times.min()),
        percentiles_ms={float(p): float(np.percentile(times, p)) for p in percentiles},
        spread=(max(medians) - min(medians)) / median if median else 0.0,
        throughput=1e3 * times.size / float(times.sum()) if times.sum() else 0.0)

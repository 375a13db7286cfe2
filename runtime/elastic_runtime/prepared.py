"""One subnet of a loaded model: its program ready to run, and what its calls did.

In: a checked program, a kernel per region, the recorded calls and the first state.
Out: a `Prepared`: everything that a call needs, in one object, so that a call takes its subnet once, at its start.
Never: knows which subnet is active, or holds the state that calls leave: that is the model's. Where a switch leads is
known here, from one `Standing` to the next.
"""
from __future__ import annotations

import statistics
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from time import perf_counter_ns
from typing import Any

import numpy as np

from elastic_runtime.check import describe, fits
from elastic_runtime.engines import Kernel
from elastic_runtime.errors import SwitchRefused
from elastic_runtime.limits import Limits
from elastic_runtime.plan import Plan, Random, make_plan
from elastic_runtime.schema import Mode, Program, Reference, ScalarType, Subnet, TensorType, ValueType

_UNCOUNTED_PATHS = 256
_SHORT_PATH = 64
_SAMPLES = 4096
_ONE_THREAD_AT_A_TIME = getattr(sys, "_is_gil_enabled", lambda: True)()


@dataclass(frozen=True)
class RegionStatistics:
    """Time inside the engine's run call of one region while profiling (inside the whole kernel, where the kernel has
    no `around`): calls, their sum, and the median of the latest 4096."""

    name: str
    calls: int
    total_ms: float
    median_ms: float


@dataclass(frozen=True)
class Statistics:
    """What the calls so far did. `visits`: runs per block. `edges`: how often (from, to) was taken.
    `regions`: one per region while profiling, else empty. Concurrent calls may be counted roughly."""

    calls: int
    visits: tuple[int, ...]
    edges: dict[tuple[int, int], int]
    regions: tuple[RegionStatistics, ...]


class Timed:
    """`kernel`, as `self.kernel`, noting in `calls`, `total` and `samples` how many ns its engine's run call takes."""

    def __init__(self, kernel: Kernel) -> None:
        self.calls, self.total = 0, 0
        self.samples: deque[int] = deque(maxlen=_SAMPLES)
        self.kernel: Kernel = getattr(kernel, "around", lambda wrap: wrap(kernel))(self._around)

    def _around(self, run: Callable) -> Callable:
        def timed(*args):
            start = perf_counter_ns()
            made = run(*args)
            took = perf_counter_ns() - start
            self.calls += 1
            self.total += took
            self.samples.append(took)
            return made
        return timed

    def statistics(self, name: str) -> RegionStatistics:
        samples = list(self.samples) or [0]
        return RegionStatistics(name, self.calls, self.total / 1e6, statistics.median(samples) / 1e6)


@dataclass(frozen=True)
class Loaded:
    """What a bundle gives for one subnet. `initial`: mode 0's state; `tensors`: those that `reference` names."""

    about: Subnet
    program: Program
    kernels: tuple[Kernel, ...]
    initial: tuple[Any, ...]
    reference: Reference
    tensors: Mapping[str, np.ndarray]


class Standing:
    """Where a model stands between two calls: a subnet in one of its modes, with state of its own or, `fresh`, with
    that which it was loaded with. Two are equal when they are the same object.

    `after`: by subnet, where a switch leads from here, as far as that is known and does not depend on what the state
    holds. A switch reads and moves a pointer in one statement without a call in it, in which CPython does not change
    threads; where there is no GIL to keep it so, nothing is noted here, and a switch takes the lock.
    """

    __slots__ = ("_readers", "after", "entries", "fresh", "mode", "prepared")

    def __init__(self, prepared: Prepared, mode: int, fresh: bool) -> None:
        self.prepared, self.mode, self.fresh = prepared, prepared.program.modes[mode], fresh
        self.entries = self.mode.entries
        self.after: dict[str, Standing] = {}
        self.leads_to(self)
        self._readers: dict[Standing, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {}

    def leads_to(self, other: Standing) -> None:
        """Note where a switch to the subnet of `other` leads."""
        if _ONE_THREAD_AT_A_TIME:
            self.after[other.prepared.name] = other

    def taken(self, held: Standing, state: tuple[Any, ...]) -> tuple[Any, ...]:
        """The state here, out of that which was held in `held`, from where switches led here."""
        if self.fresh:
            return self.prepared.initial
        if held not in self._readers:
            places = [held.mode.names.index(name) for name in self.mode.names]
            self._readers[held] = itemgetter(*places) if len(places) > 1 else lambda values: tuple(
                [values[place] for place in places])
        return self._readers[held](state)


class Prepared:
    """A subnet with its plan. `profile` makes the plan anew; calls that run keep the one that they took."""

    def __init__(self, loaded: Loaded, hosts: Mapping[str, Callable], random: Random, limits: Limits,
                 records: dict[tuple[str, ...], type]) -> None:
        self.loaded, self.name, self.program = loaded, loaded.about.name, loaded.program
        self.kernels, self.initial = loaded.kernels, loaded.initial
        self.hosts, self.random, self.limits, self.records = hosts, random, limits, records
        self.deadline_s, self.max_regions = loaded.about.budget.deadline_s, loaded.about.budget.regions
        modes = self.program.modes
        self.stateful = len(modes) > 1 or bool(modes[0].state)
        self.blocks = tuple(entry.block for entry in self.program.entries)
        self.fresh = Standing(self, 0, True)
        self.standings = tuple(self.fresh if number == 0 and not mode.state else Standing(self, number, False)
                               for number, mode in enumerate(modes))
        self._lock = threading.Lock()
        self._single: Plan | None = None
        self._forget()

    def profile(self, on: bool) -> None:
        """Start counting anew, with (`on`) or without the time of each region."""
        self._timed = tuple(Timed(kernel) for kernel in self.kernels) if on else ()
        self.plan = self._planned(tuple(timed.kernel for timed in self._timed) or self.kernels)
        with self._lock:
            self._forget()

    def _planned(self, kernels: Sequence[Kernel], **how: bool) -> Plan:
        return make_plan(self.program, kernels, self.hosts, self.random, self.limits, records=self.records, **how)

    @property
    def single(self) -> Plan:
        """A plan whose values keep their own registers, for running blocks one by one."""
        if self._single is None:
            self._single = self._planned(self.kernels, coalesce=False)
        return self._single

    # ------------------------------------------------------------------------------------------------- counting
    def note(self, path: list[int]) -> None:
        """Count a path that a call took, or will have taken: the list may still grow."""
        self._uncounted.append(path)
        if len(self._uncounted) >= _UNCOUNTED_PATHS or len(path) > _SHORT_PATH:
            with self._lock:
                self._count()

    def statistics(self) -> Statistics:
        """Counts over all calls since loading or `profile`."""
        with self._lock:
            self._count()
            visits = tuple(self._visits[block] for block in range(len(self.program.blocks)))
            regions = zip(self._timed, self.program.regions, strict=False)
            return Statistics(self._calls, visits, dict(self._edges),
                              tuple(timed.statistics(region.name) for timed, region in regions))

    def _forget(self) -> None:
        self._calls, self._visits, self._edges = 0, Counter(), Counter()
        self._uncounted: deque[list[int]] = deque()

    def _count(self) -> None:
        paths = Counter(tuple(self._uncounted.popleft()) for _ in range(len(self._uncounted)))
        self._calls += paths.total()
        for path, times in paths.items():
            for block, visits in Counter(path).items():
                self._visits[block] += visits * times
            for edge, taken in Counter(pairwise(path)).items():
                self._edges[edge] += taken * times

    # ---------------------------------------------------------------------------------------------------- state
    def begin_beside(self, others: Iterable[Prepared]) -> None:
        """Let switches between the first states of this subnet and `others`, of the same model, be known."""
        for other in others:
            self.fresh.leads_to(other.fresh)

    def take_over(self, now: Standing, values: Callable[[], Mapping[str, Any]]) -> Standing:
        """Where this subnet goes on from `now`, noted there unless it depends on the state's `values`, by name.

        From another one's first state it starts from its own. Else it takes the state that it has under the same
        names and types, and the rest is dropped. Raises `SwitchRefused` when it needs more, or when the module differs
        from its first state in a way that this subnet has not been compiled for.
        """
        if now.fresh:
            return self.fresh
        before, told, certain = now.mode, len(now.mode.names) == len(now.mode.state), True
        known = {place for one in self.program.modes for place in (*one.names, *one.static)}
        carried = known.intersection((*before.names, *before.static))
        declared = dict(zip(before.names, before.state)) if told else {}
        lacking: list[str] = []
        for number, after in sorted(enumerate(self.program.modes), key=lambda item: -len(item[1].state)):
            if not after.static.items() <= before.static.items() or not carried <= {*after.names, *after.static}:
                continue
            if after.state and not (told and after.names):
                lacking.append("names of its state, which the bundle does not tell")
                continue
            missing = _missing(after, declared)
            if missing is None:
                certain, held = False, values()
                missing = _missing(after, {name: _type(held[name]) for name in declared})
            if not missing:
                if certain:
                    now.leads_to(self.standings[number])
                return self.standings[number]
            lacking += missing
        raise SwitchRefused(now.prepared.name, self.name, tuple(lacking))


def _missing(after: Mode, given: Mapping[str, ValueType]) -> list[str] | None:
    """What of the state of `after` has no counterpart in `given`; None where that depends on sizes that only the data
    decides."""
    wanted = dict(zip(after.names, after.state, strict=True))
    dims: dict[str, int | str] = {}
    lacking = [name for name, kind in wanted.items() if name not in given or not fits(given[name], kind, dims)]
    never = [name for name in lacking if name not in given or not _may_fit(given[name], wanted[name])]
    if lacking and not never and any(isinstance(size, str) for name in wanted
                                     for size in getattr(given[name], "shape", ())):
        return None
    return [f"{name}: {describe(wanted[name])}" for name in never or lacking]


def _may_fit(given: ValueType, wanted: ValueType) -> bool:
    """Whether there are sizes for which a value of type `given` can stand for `wanted`."""
    if isinstance(given, ScalarType) or isinstance(wanted, ScalarType):
        return given == wanted
    return given.dtype == wanted.dtype and len(given.shape) == len(wanted.shape) and all(
        isinstance(size, str) or isinstance(want, str) or size == want
        for size, want in zip(given.shape, wanted.shape))


def _type(value: Any) -> ValueType:
    """The type of a state value of a run."""
    if isinstance(value, np.ndarray):
        return TensorType(dtype=value.dtype.name, shape=value.shape)
    return ScalarType(kind=type(value).__name__)

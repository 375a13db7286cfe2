"""A loaded program: call it, look at what it did, set it back.

In: a bundle's path (`load`), then calls with NumPy arrays or anything that has `__array__` or `__dlpack__`.
Out: results with the structure that the compiled module gave, tensors as NumPy arrays.
Never: needs torch or the compiler, imports or evaluates anything from the bundle, or leaves a call half done: the
state changes when a call ends, or not at all.
"""
from __future__ import annotations

import os
import statistics
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter_ns
from typing import Any

import numpy as np

from elastic_runtime import engines, reference
from elastic_runtime.binding import Registers, signature_text
from elastic_runtime.bundle_reader import BundleReader, Contents
from elastic_runtime.check import describe
from elastic_runtime.engines import EngineOptions, Kernel
from elastic_runtime.errors import (
    BundleError,
    ElasticRuntimeError,
    HostOpMissing,
    InputError,
    ModelRaised,
    NativeCodeRefused,
)
from elastic_runtime.limits import DEFAULT_LIMITS, Limits
from elastic_runtime.plan import Exit, Plan, Random, choose, make_plan
from elastic_runtime.schema import Jump, Program, Provenance, RegionStep, Return, ScalarType

_UNCOUNTED_PATHS = 256
_SHORT_PATH = 64
_SAMPLES = 4096


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


@dataclass(frozen=True)
class BlockRun:
    """One block run on its own. `values`: its parameters and all that its steps made, by value number.
    `next`: the block it jumps to, or -1. `args`: what it passes there, or the state it leaves. `result`: what it
    returns. `raised`: the exception's type name and message when it raises."""

    values: dict[int, Any]
    next: int
    args: tuple[Any, ...]
    result: Any = None
    raised: tuple[str, str] | None = None


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


class Model:
    """A program ready to run; made by `load`.

    Calls of a model without state may run concurrently from several threads; calls of one with state wait for
    each other. `deadline_s`: seconds after which a call is ended between two blocks, None for never.
    """

    def __init__(self, program: Program, kernels: Sequence[Kernel], hosts: Mapping[str, Callable],
                 contents: Contents, limits: Limits, *, seed: int | None, profile: bool) -> None:
        self.program, self.limits = program, limits
        self.provenance: Provenance = contents.provenance
        self.deadline_s: float | None = None
        self._kernels, self._hosts = tuple(kernels), hosts
        self._reference = contents.reference, contents.reference_tensors
        self._weights_bytes = sum(array.nbytes for array in contents.weights.values())
        self._initial = tuple(
            contents.weights[name].item() if isinstance(kind, ScalarType) else contents.weights[name]
            for name, kind in zip(program.initial, program.modes[0].state, strict=True))
        self._max_steps = limits.max_steps
        self._stateful = len(program.modes) > 1 or bool(program.modes[0].state)
        self._blocks = tuple(entry.block for entry in program.entries)
        self._entries = tuple(mode.entries for mode in program.modes)
        self._random = Random(seed)
        self._records: dict[tuple[str, ...], type] = {}
        self._turn, self._lock = threading.RLock(), threading.Lock()
        self._single: Plan | None = None
        self._mode, self._state, self._path = 0, self._initial, []
        self._forget()
        self.profile(profile)

    # ---------------------------------------------------------------------------------------------- calls
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program on `args` and `kwargs`, by the first signature of the current mode that fits them.

        Raises `InputError` (arguments), `ModelRaised` (an exception of the model itself), `ExecutionError` (a
        region or host function failed), `LimitExceeded` and `DeadlineExceeded`; after each of them but a
        `ModelRaised` the state is what it was before the call.
        """
        if self._stateful:
            with self._turn:
                return self._call(args, kwargs)
        return self._call(args, kwargs)

    def call_flat(self, entry: int, inputs: Sequence[Any]) -> Any:
        """Run entry number `entry` on its inputs in order, without their structure. Raises as a call does."""
        if self._stateful:
            with self._turn:
                return self._call_flat(entry, inputs)
        return self._call_flat(entry, inputs)

    def _call_flat(self, entry: int, inputs: Sequence[Any]) -> Any:
        if entry not in self._entries[self._mode]:
            raise InputError(f"entry {entry}", "mode", f"mode {self._mode}",
                             f"a mode in which it can be called; now {self._entries[self._mode]}")
        plan = self._plan
        registers = plan.template.copy()
        plan.signatures[entry].bind_flat(inputs, registers)
        return self._run(plan, entry, registers)

    def _call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        plan = self._plan
        registers = plan.template.copy()
        entries = self._entries[self._mode]
        if len(entries) == 1:
            entry = entries[0]
            plan.signatures[entry].bind(args, kwargs, registers)
        else:
            entry = self._fitting(plan, entries, args, kwargs, registers)
        return self._run(plan, entry, registers)

    def _fitting(self, plan: Plan, entries: Sequence[int], args: tuple, kwargs: dict[str, Any],
                 registers: Registers) -> int:
        """The first entry that takes the arguments. Raises the `InputError` of the one that took most of them."""
        best: tuple[int, InputError] | None = None
        for entry in entries:
            registers[:] = plan.template
            try:
                plan.signatures[entry].bind(args, kwargs, registers)
                return entry
            except InputError as error:
                inputs = self.program.entries[entry].inputs
                bound = sum(registers[plan.place[value]] is not None for value in inputs)
                if best is None or bound > best[0]:
                    best = bound, error
        error = best[1]
        raise InputError(error.path, error.rule, error.given, error.expected,
                         f"None of the {len(entries)} compiled signatures fits; this is the closest. {error.hint}")

    def _run(self, plan: Plan, entry: int, registers: Registers) -> Any:
        path = self._path = []
        if self._stateful:
            given = [registers[plan.place[value]] for value in self.program.entries[entry].inputs]
            for register, value in zip(plan.state[entry], self._state, strict=True):
                registers[register] = value
        if self.deadline_s is None:
            end = plan.run(registers, self._blocks[entry], path, self._max_steps)
        else:
            end = plan.run_until(registers, self._blocks[entry], path, self._max_steps, self.deadline_s)
        self._uncounted.append(path)
        if len(self._uncounted) >= _UNCOUNTED_PATHS or len(path) > _SHORT_PATH:
            with self._lock:
                self._count()
        if self._stateful:
            self._commit(end, registers, given)
        if end.build is None:
            raise ModelRaised(*end.error)
        return end.build(registers)

    def _commit(self, end: Exit, registers: Registers, given: list[Any]) -> None:
        """Take over the state. What the caller also holds (an input, a result) is copied first, so that writing
        to it later does not change the state."""
        shared = {id(_owner(value)) for value in given}
        shared.update(id(_owner(registers[register])) for register in end.results)
        carried = (registers[register] for register in end.carry)
        self._state = tuple(value.copy() if isinstance(value, np.ndarray) and id(_owner(value)) in shared else value
                            for value in carried)
        self._mode = end.mode

    # ------------------------------------------------------------------------------------------ what it did
    @property
    def last_path(self) -> tuple[int, ...]:
        """The numbers of the blocks that the latest call took, in order."""
        return tuple(self._path)

    def statistics(self) -> Statistics:
        """Counts over all calls since loading or `profile`."""
        with self._lock:
            self._count()
            visits = tuple(self._visits[block] for block in range(len(self.program.blocks)))
            regions = zip(self._timed, self.program.regions, strict=False)
            return Statistics(self._calls, visits, dict(self._edges),
                              tuple(timed.statistics(region.name) for timed, region in regions))

    def profile(self, on: bool = True) -> None:
        """Start counting anew, with (`on`) or without the time of each region."""
        self._timed = tuple(Timed(kernel) for kernel in self._kernels) if on else ()
        kernels = tuple(timed.kernel for timed in self._timed) or self._kernels
        self._plan = make_plan(self.program, kernels, self._hosts, self._random, self.limits, records=self._records)
        with self._lock:
            self._forget()

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

    # -------------------------------------------------------------------------------------- state and checks
    def reset(self) -> None:
        """Set the state back to what it was when loaded. The random generator goes on."""
        with self._turn:
            self._mode, self._state = 0, self._initial

    def seed(self, seed: int | None) -> None:
        """Start the random generator anew: PCG64 seeded by `seed`, or by the system for None."""
        self._random.generator = Random(seed).generator

    def self_test(self) -> None:
        """Replay the bundle's reference calls from the first state, with the generator seeded by 0.

        The state, generator, path and statistics are afterwards as before. Raises `SelfTestFailed`.
        """
        calls, tensors = self._reference
        with self._turn:
            kept = self._mode, self._state, self._path, self._random.generator, self.deadline_s
            with self._lock:
                self._count()
                counts = self._calls, self._visits.copy(), self._edges.copy()
            try:
                self.reset()
                self.seed(0)
                self.deadline_s = None
                reference.replay(self, calls, tensors)
            finally:
                self._mode, self._state, self._path, self._random.generator, self.deadline_s = kept
                with self._lock:
                    self._uncounted.clear()
                    self._calls, self._visits, self._edges = counts

    def reference_inputs(self) -> list[tuple[int, list[np.ndarray]]]:
        """Entry number and flat inputs of each reference call, for `call_flat`."""
        calls, tensors = self._reference
        return [(call.entry, reference.inputs(self.program, call, tensors)) for call in calls.calls]

    def run_block(self, block: int, args: Sequence[Any]) -> BlockRun:
        """Run one block on `args`, its parameters in order, and say what it made and where it would go.

        Made for comparing a program block by block: nothing of the model's own state is read or changed. `args`
        are not checked. Raises as a call does.
        """
        if self._single is None:
            self._single = make_plan(self.program, self._kernels, self._hosts, self._random, self.limits,
                                     records=self._records, coalesce=False)
        what, registers = self.program.blocks[block], self._single.template.copy()
        for value, given in zip(what.params, args, strict=True):
            registers[value] = given
        steps, finish = self._single.blocks[block]
        for step in steps:
            step(registers)
        made = (*what.params, *(value for step in what.steps for value in step.outputs))
        values = {value: registers[value] for value in made}
        end = choose(what.terminator, registers.__getitem__)
        if isinstance(end, Jump):
            return BlockRun(values, end.block, tuple(registers[value] for value in end.args))
        carry = tuple(registers[value] for value in end.carry)
        if isinstance(end, Return):
            return BlockRun(values, -1, carry, result=finish(registers).build(registers))
        return BlockRun(values, -1, carry, raised=(end.type, end.message))

    # ------------------------------------------------------------------------------------------------ text
    def inspect(self) -> str:
        """The program on one page: signatures, regions and blocks."""
        program = self.program
        lines = [f"{program.name}: {len(program.blocks)} blocks, {len(program.regions)} regions, "
                 f"{self._weights_bytes / 1e6:.1f} MB of weights"]
        for entry in program.entries:
            types = ", ".join(describe(program.values[value]) for value in entry.inputs)
            lines.append(f"  entry {signature_text(entry)}: {types or 'no inputs'} -> block {entry.block}")
        for number, region in enumerate(program.regions):
            lines.append(f"  region {number} {region.name} ({region.engine}, {region.ops} ops): "
                         f"{', '.join(describe(port.type) for port in region.inputs)} -> "
                         f"{', '.join(describe(port.type) for port in region.outputs)}")
        for number, block in enumerate(program.blocks):
            regions = [step.region for step in block.steps if isinstance(step, RegionStep)]
            end = type(block.terminator).__name__.lower()
            lines.append(f"  block {number} {block.label}".rstrip() + f": {len(block.params)} live-ins, "
                         f"{len(block.steps)} steps, regions {regions}, {end}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<elastic_runtime.Model {self.program.name}: {len(self.program.blocks)} blocks>"


def load(path: str | os.PathLike[str], *, threads: int = 1, allow_native: bool = False, self_test: bool = False,
         host_ops: Mapping[str, Callable] | None = None, seed: int | None = None, limits: Limits = DEFAULT_LIMITS,
         profile: bool = False) -> Model:
    """Load the bundle at `path`; nothing in it is trusted.

    threads: intra-op threads of each engine. allow_native: run machine code that the bundle brings.
    self_test: replay the reference calls before giving the model out. host_ops: functions by name, for programs
    that call the application; a function gets its inputs in order and returns its output (a tuple if several).
    seed: of the random generator. limits: bounds on the bundle and on calls. profile: time each region.

    Raises `BundleError` (with `VersionError` for another schema version), `NativeCodeRefused`, `EngineMissing`,
    `HostOpMissing` and `SelfTestFailed`, all of them `ElasticRuntimeError`.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError("threads", "value", repr(threads), "an int of at least 1")
    with BundleReader(path, limits) as reader:
        program = reader.program
        made_by = {}
        for region in program.regions:
            made_by[region.engine] = engines.factory(region.engine)
            if engines.is_native(made_by[region.engine]) and not allow_native:
                raise NativeCodeRefused(region.engine, region.name)
        missing = tuple(host.name for host in program.host_ops if host.name not in (host_ops or {}))
        if missing:
            raise HostOpMissing(missing)
        contents = reader.contents()
    model = Model(program, _kernels(program, contents, made_by, EngineOptions(threads)), dict(host_ops or {}),
                  contents, limits, seed=seed, profile=profile)
    if self_test:
        model.self_test()
    return model


def _kernels(program: Program, contents: Contents, made_by: Mapping[str, engines.Factory],
             options: EngineOptions) -> list[Kernel]:
    made = {name: factory() for name, factory in made_by.items()}
    kernels = []
    for region in program.regions:
        files = {role: contents.files[name] for role, name in region.files.items()}
        weights = {use.name: contents.weights[use.tensor] for use in region.weights}
        try:
            kernels.append(made[region.engine].load(region, files, weights, options))
        except ElasticRuntimeError:
            raise
        except Exception as error:
            raise BundleError(next(iter(region.files.values()), region.name), "region",
                              f"{type(error).__name__}: {error}", f"an artifact that {region.engine} loads") from error
    return kernels


def _owner(value: Any) -> Any:
    """The array whose memory `value` is part of."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return value

"""A loaded model: call it, switch among its subnets, look at what it did, set it back.

In: a bundle's path (`load`), then calls with NumPy arrays or anything that has `__array__` or `__dlpack__`.
Out: results with the structure that the compiled module gave, tensors as NumPy arrays.
Never: needs torch or the compiler, imports or evaluates anything from the bundle, or leaves a call half done: the
state changes when a call ends, or not at all, and a call runs to its end on the subnet that it began on.
"""
from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any

import numpy as np

from elastic_runtime import engines, reference
from elastic_runtime.binding import Registers, Signature, signature_text
from elastic_runtime.bundle_reader import BundleReader, Contents
from elastic_runtime.check import describe
from elastic_runtime.engines import EngineOptions, Kernel, Part
from elastic_runtime.errors import (
    BudgetExceeded,
    BundleError,
    DeadlineExceeded,
    ElasticRuntimeError,
    HostOpMissing,
    InputError,
    LimitExceeded,
    ModelRaised,
    NativeCodeRefused,
    SwitchRefused,
)
from elastic_runtime.limits import DEFAULT_LIMITS, Limits
from elastic_runtime.plan import Exit, Plan, Random, choose
from elastic_runtime.prepared import Loaded, Prepared, Standing, Statistics
from elastic_runtime.private_cache import default_root
from elastic_runtime.schema import Jump, Program, Provenance, Region, RegionStep, Return, ScalarType, Subnet
from elastic_runtime.selection import Selector, Wish, fitting_table

_RUNNING = SimpleNamespace(after={})
"""Stands where the next call begins while none can begin: no switch leads on from here."""


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


class Model:
    """One or more subnets ready to run; made by `load`.

    Calls of a subnet without state may run concurrently from several threads; calls of one with state wait for
    each other. `deadline_s`: seconds after which a call is ended between two regions, `max_regions`: how many regions
    it may run; None for what the bundle declares. `fallback`: the subnet that then gives the result, "" for none.
    `rollback`: a call that fails leaves the state as it was before; when False, a call frees state as soon as nothing
    reads it any more, which takes less memory, and one that fails leaves the state as it was loaded.
    """

    def __init__(self, subnets: Sequence[Loaded], hosts: Mapping[str, Callable], provenance: Provenance,
                 limits: Limits, *, fallback: str = "", weight_bytes: int, seed: int | None, profile: bool,
                 tables: Mapping[str, bytes] | None = None, threads: int = 1) -> None:
        self.limits, self.provenance, self.weight_bytes = limits, provenance, weight_bytes
        self.deadline_s: float | None = None
        self.max_regions: int | None = None
        self.fallback = fallback
        self.rollback = True
        self._hosts = hosts
        self._tables, self._threads = tables or {}, threads
        self._selector: Selector | None = None
        self._random = Random(seed)
        records: dict[tuple[str, ...], type] = {}
        self._prepared = {
            loaded.about.name: Prepared(loaded, hosts, self._random, limits, records) for loaded in subnets}
        for prepared in self._prepared.values():
            prepared.begin_beside(self._prepared.values())
        self._max_steps = limits.max_steps
        self._stateful = any(prepared.stateful for prepared in self._prepared.values())
        self._turn = threading.RLock()
        self._ran = next(iter(self._prepared.values()))
        # Where the next call begins. While a call of a model with state runs, it is `_RUNNING`, and that call stands
        # in `_now`. The state lies as the subnet left it that ran last, in `_held`, until a call of another one begins.
        self._next = self._now = self._held = self._ran.fresh
        self._state, self._path = self._ran.initial, []
        self.profile(profile)

    # -------------------------------------------------------------------------------------------- subnets
    @property
    def subnets(self) -> tuple[str, ...]:
        """The names that `switch` takes."""
        return tuple(self._prepared)

    @property
    def active(self) -> str:
        """The subnet that the next call runs."""
        return self._active.name

    @property
    def _active(self) -> Prepared:
        following = self._next
        return (self._now if following is _RUNNING else following).prepared

    @property
    def program(self) -> Program:
        """The active subnet's program."""
        return self._active.program

    @property
    def last_subnet(self) -> str:
        """The subnet that gave the latest call's result: the one that was active, or the fallback."""
        return self._ran.name

    def switch(self, name: str) -> None:
        """Let the next call run the subnet `name`: a pointer move, from any thread; no weight is copied.

        A call in progress ends on the subnet that it began on. State that calls leave behind is known by the place
        in the module that it comes from: the other subnet takes what it has under the same name and type, the rest
        is dropped, and its memory is free when the next call begins. Where no call has changed the state yet, the
        other subnet starts from its own first state.

        Raises `InputError` for an unknown name, and `SwitchRefused` when the other subnet needs state that the
        active one does not have, or when a call of a model with state switches from inside itself (a host function).
        """
        try:
            self._next = self._next.after[name]  # one step under the GIL: see `Standing.after`
        except KeyError:
            with self._turn:
                self._next = self._followed(name)

    def _subnet(self, name: str) -> Prepared:
        found = self._prepared.get(name)
        if found is None:
            raise InputError("subnet", "unknown-subnet", repr(name), f"one of {', '.join(self._prepared)}")
        return found

    def _followed(self, name: str) -> Standing:
        """Where a switch to `name` leads that has not been made before, or may not be made now."""
        target, active = self._subnet(name), self._active
        if active is target:
            return self._next
        if self._next is _RUNNING:
            raise SwitchRefused(active.name, name, (), "a call of this thread is still running; switch when it has "
                                "ended")
        return target.take_over(self._next, self._named_state)

    def _named_state(self) -> dict[str, Any]:
        return dict(zip(self._held.mode.names, self._state))

    @property
    def threads(self) -> int:
        """Threads of each engine."""
        return self._threads

    def selector(self, *, insist: bool = False) -> Selector:
        """What chooses subnets for `select` and `Controller`, by the bundle's table of this device. From the first use
        on it learns from every call.

        Raises `InputError` for a bundle without a table, `TableError` for a damaged one, `TableMismatch` when none is
        of this device, engine version and thread count; with `insist` the first is used with a warning.
        """
        if self._selector is None:
            quality = {name: prepared.loaded.about.quality for name, prepared in self._prepared.items()}
            engines = {region.engine for prepared in self._prepared.values() for region in prepared.program.regions}
            self._selector = Selector(fitting_table(self._tables, engines, self._threads, insist), quality)
        return self._selector

    def select(self, latency_ms: float | None = None, memory_mb: float | None = None, min_quality: float | None = None,
               *, insist: bool = False) -> str:
        """Switch to the best subnet whose median latency, peak memory (MB) and quality are as asked, and give its name.

        Best is of the highest quality, where that is not known the slowest. Latencies are the table's, times what
        calls took lately over what the table says; the active subnet stays unless a better one fits with a tenth to
        spare. Raises `NoSubnetFits`, and as `selector` and `switch`.
        """
        name = self.selector(insist=insist).choose(self.active, Wish(latency_ms, memory_mb, min_quality))
        self.switch(name)
        return name

    # ---------------------------------------------------------------------------------------------- calls
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the active subnet on `args` and `kwargs`, by the first signature of the current mode that fits them.

        Raises `InputError` (arguments), `ModelRaised` (an exception of the model itself), `ExecutionError` (a
        region or host function failed), `LimitExceeded`, `BudgetExceeded` and `DeadlineExceeded`; after each but a
        `ModelRaised` the state is what it was before the call (see `rollback`).

        A call that its deadline, its budget or `Limits.max_steps` ends raises `DeadlineExceeded`, `BudgetExceeded` or
        `LimitExceeded`; where the bundle declares a fallback and nothing keeps state, the fallback runs instead, on
        the same arguments and without a deadline, and gives the result.
        """
        if self._stateful:
            return self._alone(self._call, args, kwargs)
        return self._call(self._next, args, kwargs)

    def bounded(self, *, deadline_s: float | None = None, max_regions: int | None = None) -> Callable[..., Any]:
        """What calls the model with a deadline and a budget of its own, whatever other threads use."""
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._stateful:
                return self._alone(self._call, args, kwargs, deadline_s, max_regions)
            return self._call(self._next, args, kwargs, deadline_s, max_regions)

        return call

    def call_flat(self, entry: int, inputs: Sequence[Any]) -> Any:
        """Run entry number `entry` on its inputs in order, without their structure. Raises as a call does."""
        if self._stateful:
            return self._alone(self._call_flat, entry, inputs)
        return self._call_flat(self._next, entry, inputs)

    def _alone(self, call: Callable, *given: Any) -> Any:
        """`call`, while other calls wait, switches of other threads too, and one of this thread is refused."""
        with self._turn:
            outermost = self._next is not _RUNNING
            if outermost:
                self._now, self._next = self._next, _RUNNING
            try:
                return call(self._now, *given)
            finally:
                if outermost:
                    self._next = self._now

    def _call_flat(self, now: Standing, entry: int, inputs: Sequence[Any]) -> Any:
        active = now.prepared
        if entry not in now.entries:
            raise InputError(f"entry {entry}", "mode", f"mode {active.program.modes.index(now.mode)}",
                             f"a mode in which it can be called; now {now.entries}")
        plan = active.plan
        registers = plan.template.copy()
        plan.signatures[entry].bind_flat(inputs, registers)
        try:
            return self._run(active, plan, entry, registers)
        except (DeadlineExceeded, BudgetExceeded, LimitExceeded) as error:
            return self._fall_back(error, active, lambda signature, given: signature.bind_flat(inputs, given))

    def _call(self, now: Standing, args: tuple, kwargs: dict[str, Any], deadline_s: float | None = None,
              max_regions: int | None = None) -> Any:
        active, entries = now.prepared, now.entries
        plan = active.plan
        registers = plan.template.copy()
        if len(entries) == 1:
            entry = entries[0]
            plan.signatures[entry].bind(args, kwargs, registers)
        else:
            entry = self._fitting(active, plan, entries, args, kwargs, registers)
        try:
            return self._run(active, plan, entry, registers, deadline_s, max_regions)
        except (DeadlineExceeded, BudgetExceeded, LimitExceeded) as error:
            return self._fall_back(error, active, lambda signature, given: signature.bind(args, kwargs, given))

    def _fall_back(self, error: ElasticRuntimeError, active: Prepared,
                   bind: Callable[[Signature, Registers], None]) -> Any:
        """The result of the fallback for the same arguments. Raises `error` where there is no fallback for it."""
        fallback = self._prepared.get(self.fallback)
        if fallback is None or fallback is active or self._stateful:
            raise error
        plan = fallback.plan
        for entry in fallback.fresh.entries:
            registers = plan.template.copy()
            try:
                bind(plan.signatures[entry], registers)
            except InputError:
                continue
            return self._run(fallback, plan, entry, registers, math.inf, sys.maxsize)
        raise error

    def _fitting(self, active: Prepared, plan: Plan, entries: Sequence[int], args: tuple, kwargs: dict[str, Any],
                 registers: Registers) -> int:
        """The first entry that takes the arguments. Raises the `InputError` of the one that took most of them."""
        best: tuple[int, InputError] | None = None
        for entry in entries:
            registers[:] = plan.template
            try:
                plan.signatures[entry].bind(args, kwargs, registers)
                return entry
            except InputError as error:
                inputs = active.program.entries[entry].inputs
                bound = sum(registers[plan.place[value]] is not None for value in inputs)
                if best is None or bound > best[0]:
                    best = bound, error
        error = best[1]
        raise InputError(error.path, error.rule, error.given, error.expected,
                         f"None of the {len(entries)} compiled signatures fits; this is the closest. {error.hint}")

    def _run(self, active: Prepared, plan: Plan, entry: int, registers: Registers, deadline_s: float | None = None,
             max_regions: int | None = None) -> Any:
        path = self._path = []
        self._ran = active
        seconds = self.deadline_s if deadline_s is None else deadline_s
        seconds = active.deadline_s if seconds is None else seconds
        regions = self.max_regions if max_regions is None else max_regions
        regions = active.max_regions if regions is None else regions
        given: list[Any] = []
        if active.stateful:
            given = [registers[plan.place[value]] for value in active.program.entries[entry].inputs]
            self._enter(plan.state[entry], registers)
        selector = self._selector
        start = perf_counter_ns() if selector is not None else 0
        if seconds is None and regions is None:
            end = plan.run(registers, active.blocks[entry], path, self._max_steps)
        else:
            end = plan.run_bounded(registers, active.blocks[entry], path, self._max_steps,
                                   math.inf if seconds is None else seconds, math.inf if regions is None else regions)
        if selector is not None:
            selector.observe(active.name, path, (perf_counter_ns() - start) / 1e6)
        active.note(path)
        if active.stateful:
            self._commit(end, registers, given)
        if end.build is None:
            raise ModelRaised(*end.error)
        return end.build(registers)

    def _enter(self, places: Sequence[int], registers: Registers) -> None:
        """Give the state to the registers, which alone hold it then, unless a call that fails is to find it again."""
        now = self._now
        if self._held is not now:
            self._held, self._state = now, now.taken(self._held, self._state)
        for register, value in zip(places, self._state, strict=True):
            registers[register] = value
        if not self.rollback:
            self._now = self._held = now.prepared.fresh
            self._state = now.prepared.initial

    def _commit(self, end: Exit, registers: Registers, given: list[Any]) -> None:
        """Take over the state. What the caller also holds (an input, a result) is copied first, so that writing
        to it later does not change the state."""
        shared = {id(_owner(value)) for value in given}
        shared.update(id(_owner(registers[register])) for register in end.results)
        carried = (registers[register] for register in end.carry)
        self._state = tuple(value.copy() if isinstance(value, np.ndarray) and id(_owner(value)) in shared else value
                            for value in carried)
        self._now = self._held = self._now.prepared.standings[end.mode]

    # ------------------------------------------------------------------------------------------ what it did
    @property
    def last_path(self) -> tuple[int, ...]:
        """The numbers of the blocks that the latest call took, in order."""
        return tuple(self._path)

    def statistics(self) -> Statistics:
        """Counts over all calls of the active subnet since loading or `profile`."""
        return self._active.statistics()

    def profile(self, on: bool = True) -> None:
        """Start counting anew, with (`on`) or without the time of each region."""
        for prepared in self._prepared.values():
            prepared.profile(on)

    # -------------------------------------------------------------------------------------- state and checks
    def reset(self) -> None:
        """Set the state back to what it was when loaded. The active subnet stays, the random generator goes on."""
        with self._turn:
            if self._next is _RUNNING:
                self._held = self._now = self._now.prepared.fresh
            else:
                self._next = self._next.prepared.fresh  # one step, as a switch is
                self._held = self._next
            self._state = self._held.prepared.initial

    def seed(self, seed: int | None) -> None:
        """Start the random generator anew: PCG64 seeded by `seed`, or by the system for None."""
        self._random.generator = Random(seed).generator

    def self_test(self) -> None:
        """Replay the reference calls of every subnet from its first state, with the generator seeded by 0.

        It is done beside the model, whose state, generator, path and statistics are not touched.
        Raises `SelfTestFailed`.
        """
        beside = Model([prepared.loaded for prepared in self._prepared.values()], self._hosts, self.provenance,
                       self.limits, fallback=self.fallback, weight_bytes=self.weight_bytes, seed=0, profile=False)
        beside.deadline_s, beside.max_regions = math.inf, sys.maxsize
        for name, prepared in beside._prepared.items():
            beside.reset()
            beside.switch(name)
            beside.seed(0)
            reference.replay(beside, prepared.loaded.reference, prepared.loaded.tensors)

    def reference_inputs(self) -> list[tuple[int, list[np.ndarray]]]:
        """Entry number and flat inputs of each reference call of the active subnet, for `call_flat`."""
        loaded = self._active.loaded
        return [(call.entry, reference.inputs(loaded.program, call, loaded.tensors))
                for call in loaded.reference.calls]

    def loaded(self, name: str) -> Loaded:
        """What the bundle gave for the subnet `name`. Raises `InputError` for an unknown name."""
        return self._subnet(name).loaded

    def region_inputs(self) -> list[tuple[Region, Kernel, list[np.ndarray]]]:
        """Each region of the active subnet that its reference calls reach, its kernel, and the inputs that its first
        run gets. It is done beside the model, as `self_test` is."""
        loaded, taken = self._active.loaded, {}

        def recording(number: int, kernel: Kernel) -> Kernel:
            def record(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
                if number not in taken:
                    taken[number] = [array.copy() for array in arrays]
                return kernel(arrays)
            return record

        kernels = tuple(recording(number, kernel) for number, kernel in enumerate(loaded.kernels))
        beside = Model([replace(loaded, kernels=kernels)], self._hosts, self.provenance, self.limits,
                       weight_bytes=self.weight_bytes, seed=0, profile=False)
        for entry, inputs in beside.reference_inputs():
            beside.reset()
            with suppress(ElasticRuntimeError):
                beside.call_flat(entry, inputs)
        return [(loaded.program.regions[number], loaded.kernels[number], inputs)
                for number, inputs in sorted(taken.items())]

    def run_block(self, block: int, args: Sequence[Any]) -> BlockRun:
        """Run one block of the active subnet on `args`, its parameters in order, and say what it made and where it
        would go.

        Made for comparing a program block by block: nothing of the model's own state is read or changed. `args`
        are not checked. Raises as a call does.
        """
        active = self._active
        what, registers = active.program.blocks[block], active.single.template.copy()
        for value, given in zip(what.params, args, strict=True):
            registers[value] = given
        steps, finish = active.single.blocks[block]
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
        """The active subnet's program on one page: signatures, regions and blocks."""
        program = self.program
        lines = [f"{program.name}: {len(program.blocks)} blocks, {len(program.regions)} regions, "
                 f"{self.weight_bytes / 1e6:.1f} MB of weights"]
        if len(self._prepared) > 1:
            lines.append(f"  subnets {', '.join(self._prepared)}; active: {self.active}")
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
         profile: bool = False, cache: str | os.PathLike[str] | bool = True,
         subnets: Sequence[str] | None = None) -> Model:
    """Load the bundle at `path`; nothing in it is trusted.

    threads: intra-op threads of each engine. allow_native: run machine code that the bundle brings.
    self_test: replay the reference calls before giving the model out. host_ops: functions by name, for programs
    that call the application; a function gets its inputs in order and returns its output (a tuple if several).
    seed: of the random generator. limits: bounds on the bundle and on calls. profile: time each region.
    cache: where an engine may keep the weights of a family as it computes with them, so that loading again is quick
    and processes share them: a directory, True for the user's (`private_cache.default_root`), False for none.
    subnets: which of the bundle's subnets to make ready, the first one active; None for all of them. A fallback
    that is not among them is not there.

    Raises `BundleError` (with `VersionError` for another schema version), `NativeCodeRefused`, `EngineMissing`,
    `HostOpMissing` and `SelfTestFailed`, all of them `ElasticRuntimeError`.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError("threads", "value", repr(threads), "an int of at least 1")
    with BundleReader(path, limits) as reader:
        chosen = _chosen(reader.manifest.subnets, subnets)
        programs = {about.name: reader.programs[about.name] for about in chosen}
        made_by = {}
        for program in programs.values():
            for region in program.regions:
                made_by[region.engine] = engines.factory(region.engine)
                if engines.is_native(made_by[region.engine]) and not allow_native:
                    raise NativeCodeRefused(region.engine, region.name)
        missing = dict.fromkeys(host.name for program in programs.values() for host in program.host_ops
                                if host.name not in (host_ops or {}))
        if missing:
            raise HostOpMissing(tuple(missing))
        contents = reader.contents()
    place = (default_root() if cache else None) if isinstance(cache, bool) else Path(cache)
    kernels = _Kernels(contents, made_by, EngineOptions(threads, reader.digest, place))
    kernels.prepare(region for program in programs.values() for region in program.regions)
    loaded = []
    for about in chosen:
        program = programs[about.name]
        initial = tuple(
            contents.weights[name].item() if isinstance(kind, ScalarType) else contents.weights.contiguous(name)
            for name, kind in zip(program.initial, program.modes[0].state, strict=True))
        loaded.append(Loaded(about, program, tuple(map(kernels.of, program.regions)), initial,
                             *contents.references[about.name]))
    model = Model(loaded, dict(host_ops or {}), contents.provenance, limits,
                  fallback=reader.manifest.fallback, seed=seed, profile=profile,
                  weight_bytes=sum(array.nbytes for array in contents.weights.stored.values()),
                  tables={name: bytes(raw) for name, raw in contents.tables.items()}, threads=threads)
    del contents, kernels
    _give_back(reader.mapped)
    if self_test:
        model.self_test()
    return model


def _chosen(held: Sequence[Subnet], names: Sequence[str] | None) -> list[Subnet]:
    if names is None:
        return list(held)
    by_name = {about.name: about for about in held}
    unknown = [name for name in names if name not in by_name]
    if unknown or not names or len(set(names)) != len(names):
        raise InputError("subnets", "unknown-subnet" if unknown else "value", repr(names),
                         f"different names of {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _give_back(mapped: Sequence[mmap.mmap]) -> None:
    """Memory that loading needed and running may not: pages of mapped files, which come back when they are read, and
    what the heap keeps of freed buffers."""
    for one in mapped:
        one.madvise(mmap.MADV_DONTNEED)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


class _Kernels:
    """Kernels by what makes them: regions that are equal, in whatever subnets, are loaded once."""

    def __init__(self, contents: Contents, made_by: Mapping[str, engines.Factory], options: EngineOptions) -> None:
        self.contents, self.options = contents, options
        self.engines = {name: factory() for name, factory in made_by.items()}
        self.made: dict[Any, Kernel] = {}

    def prepare(self, regions: Iterable[Region]) -> None:
        """Let the engines see all regions that `of` will be asked for."""
        parts: dict[str, dict[Any, Part]] = {name: {} for name, engine in self.engines.items()
                                             if hasattr(engine, "prepare")}
        for region in regions:
            if region.engine in parts:
                parts[region.engine].setdefault(_key(region), self._part(region))
        for name, found in parts.items():
            self.engines[name].prepare(list(found.values()), self.options)

    def of(self, region: Region) -> Kernel:
        key = _key(region)
        if key not in self.made:
            part = self._part(region)
            try:
                self.made[key] = self.engines[region.engine].load(region, part.files, part.weights, self.options)
            except ElasticRuntimeError:
                raise
            except Exception as error:
                raise BundleError(
                    next(iter(region.files.values()), region.name), "region", f"{type(error).__name__}: {error}",
                    f"an artifact that {region.engine} loads") from error
        return self.made[key]

    def _part(self, region: Region) -> Part:
        contents = self.contents
        strided = getattr(self.engines[region.engine], "strided", False)
        get = contents.weights.__getitem__ if strided else contents.weights.contiguous
        return Part(region, {role: contents.files[name] for role, name in region.files.items()},
                    {use.name: get(use.tensor) for use in region.weights})


def _key(region: Region) -> object:
    return (region.engine, tuple(sorted(region.files.items())), region.inputs, region.outputs, region.weights,
            tuple(sorted(region.options.items())))


def _owner(value: Any) -> Any:
    """The array whose memory `value` is part of."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return value

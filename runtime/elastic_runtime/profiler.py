"""Measures latencies on this machine and puts them into a latency table.

In: subjects (what to call, under which id; `subjects` gives those of a bundle), settings. Out: a `LatencyTable`,
given out to be saved after every batch, so that a stop loses none that was finished.
Never: needs torch or the compiler, takes a subject's time while another one runs, or leaves out that a time was
taken under noise.

How: subjects are measured in batches; a batch is gone through in rounds, in a rotating order, one sample of each per
round, so that drift meets all alike. Untimed calls before it bring back into the caches what the others drove out:
after one, networks of 20 MB took a fifth longer than call after call, after four some percent. A subject leaves the
rounds when the 95 % confidence interval of its median lies within the wanted precision. An entry gets the flag "noisy"
when the budget ended before that, when others used the cores meanwhile, or when its first and second half differ.
"""
from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from time import perf_counter, perf_counter_ns
from typing import Any

import msgspec
import numpy as np

from elastic_runtime import device
from elastic_runtime import latency_table as lt
from elastic_runtime.errors import InputError

_CLOCK_NS = 50_000
_MOST_INNER = 1000
_DISTRIBUTIONS = {"tvm": "apache-tvm"}


@dataclass(frozen=True)
class Subject:
    """One thing to measure. `id`, `key`, `kind`, `config`: its entry's. `prepare` gives the call to time; what it
    loads lives as long as the call. `memory`: measures the peak memory in bytes, where that is known how."""

    id: str
    key: str
    kind: str
    prepare: Callable[[], Callable[[], Any]] = field(repr=False)
    config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    memory: Callable[[], int | None] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Settings:
    """`budget_s`: seconds for all of it; a batch that has begun gets `least` rounds even beyond it. `precision`: half
    the width of the median's 95 % interval, relative, at which a subject is done. `together`: subjects in a batch.
    `least`, `most`: samples of a subject; `untimed`: calls before each. `noise`: the share of the cores that others may
    take. `keep`: store the samples."""

    budget_s: float = 60.0
    precision: float = 0.02
    together: int = 16
    least: int = 10
    most: int = 2000
    untimed: int = 4
    noise: float = 0.05
    keep: bool = False


@dataclass(frozen=True)
class Outcome:
    """`failed`: why, by key. `left`: keys of subjects that the budget or a stop left out, or left noisy: measuring
    again goes on with them. `stopped`: by the user."""

    table: lt.LatencyTable
    failed: Mapping[str, str]
    left: tuple[str, ...]
    stopped: bool = False


def measure(
    subjects: Sequence[Subject],
    machine: lt.Device,
    environment: lt.Environment,
    settings: Settings = Settings(),
    *,
    known: lt.LatencyTable | None = None,
    save: Callable[[lt.LatencyTable], None] = lambda table: None,
    progress: Callable[[str, int, int], None] = lambda key, done, total: None,
) -> Outcome:
    """Measure `subjects`, those of the same id once.

    `known`: a table to go on with; its entries stay, those that were noisy or failed are measured again. `save` gets
    the table after every batch. A KeyboardInterrupt ends the measurement with what there is (`Outcome.stopped`).
    Raises `TableMismatch` when `known` is of another device or environment, `InputError` for settings that make no
    sense.
    """
    if settings.budget_s <= 0 or settings.together < 1 or not 1 <= settings.least <= settings.most:
        raise InputError("settings", "value", settings, "a budget above 0, together >= 1, 1 <= least <= most")
    table = lt.table(machine, environment)
    if known is not None:
        table = lt.merge(known, table)
    done = {entry.id for entry in table.entries if entry.timing is not None and not entry.flags}
    distinct = {subject.id: subject for subject in subjects}
    waiting = [subject for subject in distinct.values() if subject.id not in done]
    measured_before = table.by_id()
    waiting.sort(key=lambda subject: subject.id in measured_before)  # the noisy ones after those without a time
    total, failed, left, stopped = len(distinct), {}, [], False
    end = perf_counter() + settings.budget_s
    with device.pinned(environment.threads):
        while waiting:
            batch, rest = waiting[:settings.together], waiting[settings.together:]
            now = perf_counter()
            if now >= end:
                break
            progress(batch[0].key, total - len(waiting), total)
            share = (end - now) * len(batch) / len(waiting)
            measured, why, stopped = _batch(batch, environment, settings, now + share)
            failed |= why
            table = lt.merge(table, lt.table(machine, table.environment, measured))
            save(table)
            left += [entry.key for entry in measured if entry.timing is not None and entry.flags]
            waiting = rest
            if stopped:
                finished = {entry.id for entry in measured}
                waiting = [subject for subject in batch if subject.id not in finished] + rest
                break
    progress("", total - len(waiting), total)
    return Outcome(table, failed, (*left, *(subject.key for subject in waiting)), stopped)


def _batch(batch: Sequence[Subject], environment: lt.Environment, settings: Settings,
           end: float) -> tuple[list[lt.Entry], dict[str, str], bool]:
    """The entries of a batch, why some failed, and whether the user stopped it."""
    runs: list[_Run] = []
    failed: dict[str, str] = {}
    cores = environment.pinned or device.usable_cores()[:environment.threads]
    stopped, others = False, device.Others(cores)
    with _quiet():
        try:
            for subject in batch:
                try:
                    runs.append(_Run(subject))
                except Exception as error:
                    failed[subject.key] = f"{type(error).__name__}: {error}"
            active = list(runs)
            while active and (perf_counter() < end or len(active[0].samples) < settings.least):
                for run in active:
                    run.sample(settings.untimed)
                active = [run for run in active if not run.settled(settings)]
                active = active[1:] + active[:1]
        except KeyboardInterrupt:
            stopped = True
        share = others.share()
        told = device.conditions(cores[0] if cores else 0)
        measured = [run for run in runs if len(run.samples) >= (settings.least if stopped else 1)]
        entries = [run.entry(settings, share, told) for run in measured]
        try:
            entries = [run.completed(entry) for run, entry in zip(measured, entries, strict=True)]
        except KeyboardInterrupt:
            stopped = True
    if not stopped:
        entries += [lt.Entry(id=subject.id, key=subject.key, kind=subject.kind, config=dict(subject.config),
                             flags=(lt.FAILED,), measured=_now())
                    for subject in batch if subject.key in failed]
    return entries, failed, stopped


class _Run:
    """A subject while it is measured."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.samples = subject, []
        self.call = subject.prepare()
        self.call()
        once = self._timed(1)
        self.inner = min(_MOST_INNER, max(1, math.ceil(_CLOCK_NS / max(once, 1))))
        self.next_look = 0

    def _timed(self, times: int) -> float:
        call = self.call
        start = perf_counter_ns()
        for _ in range(times):
            call()
        return (perf_counter_ns() - start) / times

    def sample(self, untimed: int) -> None:
        for _ in range(untimed):
            self.call()
        self.samples.append(self._timed(self.inner) / 1e6)

    def settled(self, settings: Settings) -> bool:
        count = len(self.samples)
        if count >= settings.most:
            return True
        if count < settings.least or count < self.next_look:
            return False
        self.next_look = count + max(2, count // 8)
        return self._precise(settings)

    def _precise(self, settings: Settings) -> bool:
        timing = lt.summarise(self.samples)
        return (timing.low_ms is not None
                and timing.high_ms - timing.low_ms <= 2 * settings.precision * timing.median_ms)

    def entry(self, settings: Settings, others: float | None, told: lt.Conditions) -> lt.Entry:
        timing = lt.summarise(self.samples, keep=settings.keep)
        half = len(self.samples) // 2
        drift = abs(np.median(self.samples[:half]) / np.median(self.samples[half:]) - 1) if half else 0.0
        noisy = (not self._precise(settings) or bool(drift > 2 * settings.precision)
                 or (others is not None and others > settings.noise))
        subject = self.subject
        return lt.Entry(
            id=subject.id, key=subject.key, kind=subject.kind, timing=timing, flags=(lt.NOISY,) * noisy,
            config=dict(subject.config), measured=_now(), conditions=told)

    def completed(self, entry: lt.Entry) -> lt.Entry:
        """With peak memory and energy, where there is a way to know them."""
        memory = self.subject.memory() if self.subject.memory else None
        return msgspec.structs.replace(entry, memory_bytes=memory, energy_mj=_energy_mj(self.call, entry.timing.ms))


def _energy_mj(call: Callable[[], Any], ms: float) -> float | None:
    """Millijoules per call, over half a second of calls; None where the system does not count energy."""
    counter = device.Energy()
    if not counter.available:
        return None
    times = max(1, round(500 / ms))
    counter.used_mj()
    for _ in range(times):
        call()
    used = counter.used_mj()
    return used / times if used else None  # none at all: the counter is too coarse, or stands still


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection meanwhile."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(engine: str, threads: int, *, settings: Mapping[str, str] | None = None) -> lt.Environment:
    """How this process would measure regions of `engine` now."""
    versions = [_version(_DISTRIBUTIONS.get(name, name)) or "unknown" for name in engine.split(",")]
    packages = {name: _version(name) for name in ("elastic-runtime", "numpy", "onnxruntime", "apache-tvm")}
    cores = device.usable_cores()[:threads] if hasattr(os, "sched_setaffinity") else ()
    uname = os.uname()
    return lt.Environment(
        backend=engine, version=",".join(versions), threads=threads, settings=dict(settings or {}),
        packages={name: version for name, version in packages.items() if version},
        system=f"{uname.sysname} {uname.release}", pinned=cores,
        conditions=device.conditions(cores[0] if cores else 0))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""

"""Latency tables: what was measured on one device, as plain frozen data.

In: a table file (JSON), or timings to put into one. Out: a checked `LatencyTable`, its file, a merge, a
difference, CSV, or the sum of some of its entries.
Never: measures anything, guesses a missing number, takes a zero for one, or uses a table of another device,
backend version or thread count without being told to.

The file is one JSON object, schema version 1; each structure below is an object with these very keys, unknown
or repeated keys are refused, `null` means "not known". Times are milliseconds and end in `_ms`; the key `unit`
has to say so. An entry is named by `id`, a hash of what was measured (`content_id`), so equal work is measured
once whatever number of networks uses it; `key` is for people.
"""
from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from elastic_runtime import schema
from elastic_runtime.errors import BundleError, _Told
from elastic_runtime.limits import Limits
from elastic_runtime.schema import Data
from elastic_runtime.strict_json import decode_json

FORMAT = "elastic-latency-table"
VERSION = 1
UNIT = "ms"

#: What an entry measures: one region, one dispatch of an empty region, or a whole subnet (an anchor).
KINDS = ("region", "dispatch", "subnet")

NOISY = "noisy"
"""Flag: measured while something else used the machine, or before the median settled."""
UNSTABLE = "unstable"
"""Flag: two measurements of the same entry differ beyond their noise."""
INVALID = "invalid"
"""Flag: the file held an impossible number here; the entry has no timing."""
FAILED = "failed"
"""Flag: the measurement was tried and failed; the entry has no timing."""

_QUANTILES = (1.0, 10.0, 50.0, 90.0, 99.0)
_FEWEST_FOR_INTERVAL = 6
_ID = re.compile(r"[0-9a-f]{64}")
_FLAG = re.compile(r"[a-z][a-z0-9-]{0,39}")


class TableError(_Told):
    """A latency table breaks a rule. `file` names it, `rule` is a stable slug."""

    def __init__(self, file: str, rule: str, given: object, expected: object,
                 hint: str = "Measure it again, or take the table from where it was made.") -> None:
        super().__init__(file, rule, given, expected, hint)

    @property
    def file(self) -> str:
        return self.subject


class TableMismatch(TableError):
    """The table is of another device, backend, backend version or thread count than was asked for."""


class MissingEntry(TableError):
    """A sum needs an entry that the table does not have, or has without a timing."""


class TableMismatchWarning(UserWarning):
    """A table that does not fit is used because the caller insisted."""


class Conditions(Data):
    """What the system told about itself while measuring: CPU frequency governor, frequency in MHz, one-minute
    load average, temperature in degrees Celsius."""

    governor: str | None = None
    frequency_mhz: float | None = None
    load: float | None = None
    temperature_c: float | None = None


class Device(Data):
    """The machine. All but `name` and `memory_bytes` identify it: `model` (CPU or accelerator), `architecture`
    ("x86_64"), `cores`, `features` (instruction set extensions, sorted) and `emulation`: empty for the real
    machine, else how it was restricted or slowed down."""

    name: str
    model: str
    architecture: str
    cores: int
    features: tuple[str, ...] = ()
    emulation: str = ""
    memory_bytes: int | None = None


class Environment(Data):
    """How it was measured: backend and its version, intra-op threads, backend settings, other package versions,
    operating system, the cores that the process was pinned to, the conditions at the start."""

    backend: str
    version: str
    threads: int
    settings: dict[str, str] = msgspec.field(default_factory=dict)
    packages: dict[str, str] = msgspec.field(default_factory=dict)
    system: str = ""
    pinned: tuple[int, ...] = ()
    conditions: Conditions = Conditions()


class Timing(Data):
    """A latency in ms. `ms`, its representative value, is the median, or the mean where only that is known.

    `spread_ms`: standard deviation, robust (1.4826 × median absolute deviation) where there is a median.
    `low_ms`, `high_ms`: a 95 % confidence interval of `ms`, unknown below 6 runs. `quantiles`: (percent, ms).
    """

    count: int
    median_ms: float | None = None
    mean_ms: float | None = None
    spread_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    quantiles: tuple[tuple[float, float], ...] = ()
    samples_ms: tuple[float, ...] = ()

    @property
    def ms(self) -> float:
        value = self.median_ms if self.median_ms is not None else self.mean_ms
        if value is None:
            raise ValueError("a timing without median and mean")
        return value


class Entry(Data):
    """One measured thing. `timing` is absent where measuring failed. `config`: a subnet's decisions by name.
    `memory_bytes`: peak memory; `energy_mj`: millijoules per run where the system counts energy.
    `measured`: ISO 8601 time."""

    id: str
    key: str
    kind: str
    timing: Timing | None = None
    flags: tuple[str, ...] = ()
    config: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    memory_bytes: int | None = None
    energy_mj: float | None = None
    measured: str = ""
    conditions: Conditions | None = None


class LatencyTable(Data):
    """The file. `entries` have distinct ids."""

    format: str
    version: int
    unit: str
    device: Device
    environment: Environment
    entries: tuple[Entry, ...]

    def by_id(self) -> dict[str, Entry]:
        return {entry.id: entry for entry in self.entries}


class Wanted(Data):
    """What a user of a table expects of it; None: any. Of `device`, what identifies it is compared."""

    device: Device | None = None
    backend: str | None = None
    version: str | None = None
    threads: int | None = None


class Change(Data):
    """One line of a difference. `verdict`: "added" | "removed" | "same" | "slower" | "faster" | "unjudged"
    (too few runs, a noisy entry, or no timing). `ratio`: after / before."""

    id: str
    key: str
    verdict: str
    before_ms: float | None = None
    after_ms: float | None = None
    ratio: float | None = None


def table(device: Device, environment: Environment, entries: Iterable[Entry] = ()) -> LatencyTable:
    """A checked table. Raises `TableError`."""
    made = LatencyTable(format=FORMAT, version=VERSION, unit=UNIT, device=device, environment=environment,
                        entries=tuple(entries))
    return check(made)


def content_id(kind: str, content: Mapping[str, Any]) -> str:
    """The id of an entry: SHA-256 over its kind and `content` (JSON values: graph hash, shapes, settings, …)."""
    text = json.dumps([kind, content], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def summarise(samples_ms: Sequence[float], keep: bool = False) -> Timing:
    """The timing of repeated runs, in ms; `keep` stores the samples too.

    The interval of the median is the distribution-free one from order statistics (David and Nagaraja, Order
    Statistics, 7.1). It takes runs to be independent: drift makes it too narrow.
    Raises ValueError when there is no sample, or one is not a positive finite number.
    """
    values = np.sort(np.asarray(samples_ms, dtype=np.float64))
    if values.ndim != 1 or not values.size or not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError(f"samples have to be positive finite milliseconds, given {list(samples_ms)[:5]}")
    count = int(values.size)
    median = float(np.median(values))
    low = high = None
    if count >= _FEWEST_FOR_INTERVAL:
        rank = max(1, math.floor((count - 1.96 * math.sqrt(count)) / 2))
        low, high = float(values[rank - 1]), float(values[count - rank])
    return Timing(
        count=count, median_ms=median, mean_ms=float(values.mean()),
        spread_ms=float(1.4826 * np.median(np.abs(values - median))), low_ms=low, high_ms=high,
        quantiles=tuple((q, float(np.percentile(values, q))) for q in _QUANTILES),
        samples_ms=tuple(float(value) for value in samples_ms) if keep else ())


# ---------------------------------------------------------------------------------- reading and writing
def load(path: str | os.PathLike[str], *, wanted: Wanted | None = None, insist: bool = False,
         damaged: Literal["refuse", "mark"] = "refuse") -> LatencyTable:
    """Read and check a table file.

    `damaged="mark"`: an entry with impossible numbers loses its timing and gets the flag "invalid" instead of
    the file being refused. `wanted` and `insist` are `accept`'s. Raises `TableError`, `TableMismatch`, OSError.
    """
    found = parse(Path(path).read_bytes(), file=str(path), damaged=damaged)
    return found if wanted is None else accept(found, wanted, insist=insist, file=str(path))


def parse(raw: bytes, *, file: str = "table", damaged: Literal["refuse", "mark"] = "refuse") -> LatencyTable:
    """`load` from bytes. Raises `TableError`."""
    limits = Limits()
    try:
        head = decode_json(raw, dict[str, Any], file, limits)
        if head.get("format") != FORMAT:
            raise TableError(file, "format", head.get("format"), FORMAT, "This is no latency table.")
        if head.get("version") != VERSION:
            raise TableError(file, "version", head.get("version"), VERSION,
                             "Use the elastic-runtime that wrote it, or measure it again.")
        if head.get("unit") != UNIT:
            raise TableError(file, "unit", head.get("unit"), UNIT, "Times without this unit are not guessed at.")
        found = decode_json(raw, LatencyTable, file, limits)
    except BundleError as error:
        hint = "The file is incomplete or damaged: measure again." if error.rule == "json-syntax" else ""
        raise TableError(file, error.rule, error.given, error.expected, hint) from None
    return check(found, file=file, damaged=damaged)


def save(written: LatencyTable, path: str | os.PathLike[str]) -> None:
    """Check and write a table; a file at `path` is replaced in one step, or left as it was.

    Raises `TableError` for a table that `load` would refuse, OSError.
    """
    raw = schema.encode(check(written))
    _replace(Path(path), raw)


def _replace(path: Path, raw: bytes) -> None:
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.part-")
    try:
        with open(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def check(checked: LatencyTable, *, file: str = "table",
          damaged: Literal["refuse", "mark"] = "refuse") -> LatencyTable:
    """`checked`, or with `damaged="mark"` a copy whose impossible entries are marked. Raises `TableError`."""
    for rule, expected in (("format", FORMAT), ("version", VERSION), ("unit", UNIT)):
        given = getattr(checked, rule)
        if given != expected:
            raise TableError(file, rule, given, expected)
    if checked.device.cores < 1 or checked.environment.threads < 1:
        given = (checked.device.cores, checked.environment.threads)
        raise TableError(file, "count", given, "cores and threads >= 1")
    _check_conditions(checked.environment.conditions, f"{file}: environment")
    entries, seen = [], set()
    for entry in checked.entries:
        where = f"{file}: {entry.key or entry.id}"
        if not _ID.fullmatch(entry.id):
            raise TableError(where, "id", entry.id, "64 lower-case hex digits")
        if entry.id in seen:
            raise TableError(where, "duplicate-entry", entry.id, "each id once")
        seen.add(entry.id)
        if entry.kind not in KINDS:
            raise TableError(where, "kind", entry.kind, KINDS)
        for flag in entry.flags:
            if not _FLAG.fullmatch(flag):
                raise TableError(where, "flag", flag, "lower-case letters, digits and hyphens")
        try:
            _check_numbers(entry, where)
        except TableError:
            if damaged != "mark":
                raise
            entry = msgspec.structs.replace(
                entry, timing=None, memory_bytes=None, energy_mj=None, conditions=None,
                flags=tuple(dict.fromkeys((*entry.flags, INVALID))))
        entries.append(entry)
    return msgspec.structs.replace(checked, entries=tuple(entries))


def _check_conditions(conditions: Conditions, where: str) -> None:
    for name, least in (("frequency_mhz", 1e-9), ("load", 0.0), ("temperature_c", -math.inf)):
        value = getattr(conditions, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise TableError(where, "conditions", f"{name} = {value}", "a finite number that is possible, or null")


def _check_numbers(entry: Entry, where: str) -> None:
    if entry.timing is None:
        if not entry.flags:
            raise TableError(where, "timing", None, f"a timing, or a flag such as {FAILED!r} that says why not")
    else:
        _check_timing(entry.timing, where)
    for name in ("memory_bytes", "energy_mj"):
        value = getattr(entry, name)
        if value is not None and (not math.isfinite(value) or value <= 0):
            raise TableError(where, name.replace("_", "-"), value, "a finite number above zero, or null")
    for name, value in entry.config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise TableError(where, "config", f"{name} = {value}", "finite numbers")
    if entry.conditions is not None:
        _check_conditions(entry.conditions, where)


def _check_timing(timing: Timing, where: str) -> None:
    if timing.count < 1:
        raise TableError(where, "count", timing.count, ">= 1 run")
    if timing.median_ms is None and timing.mean_ms is None:
        raise TableError(where, "missing", "neither median_ms nor mean_ms", "one of them")
    quantiles = [ms for _, ms in timing.quantiles]
    for name, values in (
            ("median_ms", [timing.median_ms]), ("mean_ms", [timing.mean_ms]), ("low_ms", [timing.low_ms]),
            ("high_ms", [timing.high_ms]), ("quantiles", quantiles), ("samples_ms", timing.samples_ms)):
        for value in values:
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TableError(where, "latency", f"{name} = {value}", "a finite number of ms above zero")
    if timing.spread_ms is not None and not (math.isfinite(timing.spread_ms) and timing.spread_ms >= 0):
        raise TableError(where, "spread", timing.spread_ms, "a finite number of ms, zero or more")
    interval = (timing.low_ms, timing.ms, timing.high_ms)
    if None not in interval and list(interval) != sorted(interval):
        raise TableError(where, "interval", interval, "low <= value <= high")
    levels = [level for level, _ in timing.quantiles]
    rising = levels == sorted(set(levels)) and quantiles == sorted(quantiles)
    if not rising or any(not 0 <= level <= 100 for level in levels):
        raise TableError(where, "quantiles", timing.quantiles, "percents and times that both rise")
    if len(timing.samples_ms) > timing.count:
        raise TableError(where, "samples", len(timing.samples_ms), f"at most count = {timing.count}")


# ------------------------------------------------------------------------------------------- using tables
def accept(found: LatencyTable, wanted: Wanted, *, insist: bool = False, file: str = "table") -> LatencyTable:
    """`found` where it is what `wanted` asks for. Else raises `TableMismatch`, or with `insist` warns
    (`TableMismatchWarning`) and gives it all the same."""
    differing: list[tuple[str, object, object]] = []
    if wanted.device is not None and identity(wanted.device) != identity(found.device):
        differing.append(("device", identity(found.device), identity(wanted.device)))
    for name in ("backend", "version", "threads"):
        expected, given = getattr(wanted, name), getattr(found.environment, name)
        if expected is not None and expected != given:
            differing.append((name, given, expected))
    if differing:
        error = TableMismatch(
            file, "-".join(name for name, _, _ in differing), [given for _, given, _ in differing],
            [expected for _, _, expected in differing],
            "Measure a table with these settings, or insist on this one where that is offered (insist=True, --insist).")
        if not insist:
            raise error
        warnings.warn(f"used as insisted on, though it does not fit: {error}", TableMismatchWarning, stacklevel=3)
    return found


def identity(device: Device) -> tuple[object, ...]:
    """What tells a device from another."""
    return device.model, device.architecture, device.cores, tuple(sorted(device.features)), device.emulation


def total_ms(summed: LatencyTable, ids: Iterable[str], *, file: str = "table") -> float:
    """The sum of entries in ms; an id given twice counts twice. Raises `MissingEntry`: no entry counts as zero."""
    entries, total = summed.by_id(), 0.0
    for id in ids:
        entry = entries.get(id)
        if entry is None or entry.timing is None:
            what = "no such entry" if entry is None else f"{entry.key}: {', '.join(entry.flags)}, no timing"
            raise MissingEntry(file, "missing-entry", f"{id}: {what}", "a measured entry for each part")
        total += entry.timing.ms
    return total


def merge(first: LatencyTable, second: LatencyTable) -> LatencyTable:
    """Both tables' entries. Where both have one, the unflagged, then the one of more runs, then the later stays;
    it gets the flag "unstable" when the two differ beyond their noise.

    Raises `TableMismatch` unless device, backend, version, threads and settings agree.
    """
    accept(second, Wanted(device=first.device, backend=first.environment.backend,
                          version=first.environment.version, threads=first.environment.threads), file="merge")
    if first.environment.settings != second.environment.settings:
        raise TableMismatch("merge", "settings", second.environment.settings, first.environment.settings)
    entries = first.by_id()
    for entry in second.entries:
        other = entries.get(entry.id)
        entries[entry.id] = entry if other is None else _better(other, entry)
    return check(msgspec.structs.replace(first, entries=tuple(entries.values())), file="merge")


def _better(one: Entry, other: Entry) -> Entry:
    if one == other:
        return one

    def rank(entry: Entry) -> tuple[bool, bool, int, str]:
        return (entry.timing is not None, not entry.flags, entry.timing.count if entry.timing else 0,
                entry.measured)

    best = max(other, one, key=rank)
    if _verdict(one, other, 0.0) in ("slower", "faster"):
        return msgspec.structs.replace(best, flags=tuple(dict.fromkeys((*best.flags, UNSTABLE))))
    return best


def diff(before: LatencyTable, after: LatencyTable, *, tolerance: float = 0.02) -> tuple[Change, ...]:
    """How each entry moved, largest relative change first. It moved when the confidence intervals do not touch and
    the values differ by more than `tolerance` (relative); without both intervals, or with a noisy entry, it is
    not judged."""
    old, new = before.by_id(), after.by_id()
    changes = []
    for id in dict.fromkeys((*old, *new)):
        one, other = old.get(id), new.get(id)
        if one is None or other is None:
            present = one or other
            changes.append(Change(
                id=id, key=present.key, verdict="added" if one is None else "removed",
                before_ms=_ms(one), after_ms=_ms(other)))
            continue
        a, b = _ms(one), _ms(other)
        changes.append(Change(id=id, key=other.key, verdict=_verdict(one, other, tolerance), before_ms=a, after_ms=b,
                              ratio=None if a is None or b is None else b / a))
    return tuple(sorted(changes, key=lambda change: -abs(math.log(change.ratio)) if change.ratio else 0.0))


def _ms(entry: Entry | None) -> float | None:
    return None if entry is None or entry.timing is None else entry.timing.ms


def _verdict(one: Entry, other: Entry, tolerance: float) -> str:
    a, b = one.timing, other.timing
    if a is None or b is None or NOISY in one.flags or NOISY in other.flags:
        return "unjudged"
    if a.low_ms is None or a.high_ms is None or b.low_ms is None or b.high_ms is None:
        return "unjudged"
    if abs(b.ms / a.ms - 1) <= tolerance or (a.low_ms <= b.high_ms and b.low_ms <= a.high_ms):
        return "same"
    return "slower" if b.ms > a.ms else "faster"


def to_csv(listed: LatencyTable) -> str:
    """The entries as CSV with a header line; an unknown value is an empty field."""
    percents = sorted({level for entry in listed.entries if entry.timing for level, _ in entry.timing.quantiles})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "kind", "key", "count", "median_ms", "mean_ms", "spread_ms", "low_ms", "high_ms",
                     *(f"p{level:g}_ms" for level in percents), "memory_bytes", "energy_mj", "flags", "measured",
                     "device", "backend", "version", "threads"])
    environment = listed.environment
    for entry in listed.entries:
        timing = entry.timing
        quantiles = dict(timing.quantiles) if timing else {}
        writer.writerow([
            entry.id, entry.kind, entry.key,
            *(getattr(timing, name) if timing else None
              for name in ("count", "median_ms", "mean_ms", "spread_ms", "low_ms", "high_ms")),
            *(quantiles.get(level) for level in percents), entry.memory_bytes, entry.energy_mj,
            " ".join(entry.flags), entry.measured, listed.device.name, environment.backend, environment.version,
            environment.threads])
    return out.getvalue()

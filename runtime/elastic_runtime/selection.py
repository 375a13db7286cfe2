"""Which subnet to run: by a latency table, corrected by what calls really take on this device.

In: the subnets, their quality, a latency table, latencies as they are observed; what is asked for.
Out: a name. Never: runs or switches anything, reads the clock, or takes a subnet without a measured entry for a fast
one.

The correction is one factor for all subnets: what slows one down (another load, a lower frequency) slows the others
too, so a subnet that is not running needs no trial. It is the median of the latest observations over their table
entries.
"""
from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from elastic_runtime import device, latency_table, profiler
from elastic_runtime.errors import InputError, NoSubnetFits
from elastic_runtime.latency_table import LatencyTable

_RECENT = 9


def path_key(name: str, path: Sequence[int], only: bool) -> str:
    """The key of a subnet's entry: its name, with the blocks of the path where it has several; a long path as its
    length and a hash."""
    if only:
        return name
    text = "-".join(map(str, path))
    if len(text) > 60:
        text = f"{len(path)} blocks {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return f"{name} @ {text}"


@dataclass(frozen=True)
class Wish:
    """What is asked for; None for whatever. Median latency, peak memory in MB (10^6 bytes), quality."""

    latency_ms: float | None = None
    memory_mb: float | None = None
    min_quality: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ms", "memory_mb"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(name, "value", value, "a finite number above 0")


class Selector:
    """Chooses among the subnets of a table. `margin`: a better subnet than the running one is taken only when it keeps
    the wish with this much to spare (the hysteresis)."""

    def __init__(self, table: LatencyTable, quality: Mapping[str, float | None], margin: float = 0.1) -> None:
        """`quality`: by name, of all subnets. Raises `InputError` when the table knows none of them."""
        self.margin = margin
        self.quality = dict(quality)
        self.expected: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        for entry in table.entries:
            name = entry.key.partition(" @ ")[0]
            if entry.kind != "subnet" or name not in quality or entry.timing is None:
                continue
            self.expected[entry.key] = entry.timing.ms
            if entry.memory_bytes is not None:
                self.memory[name] = max(self.memory.get(name, 0), entry.memory_bytes)
        self.table_ms: dict[str, float] = {}
        for key, ms in self.expected.items():
            name = key.partition(" @ ")[0]
            self.table_ms[name] = max(self.table_ms.get(name, 0.0), ms)
        if not self.table_ms:
            raise InputError("table", "subnets", "no measured entry of a subnet of this bundle",
                             f"entries named {', '.join(list(quality)[:4])}",
                             "Profile this very bundle: elastic-run profile BUNDLE -o TABLE.")
        self._recent: deque[float] = deque(maxlen=_RECENT)

    # ------------------------------------------------------------------------------------------ what is known
    def observe(self, name: str, path: Sequence[int], ms: float) -> None:
        """A call of the subnet `name` through the blocks `path` took `ms`. One that the table does not know, or that is
        no positive time, is left out."""
        expected = self.expected.get(name) or self.expected.get(path_key(name, path, False))
        if expected is None or not (math.isfinite(ms) and ms > 0):
            return
        self._recent.append(ms / expected)

    @property
    def scale(self) -> float:
        """How much slower than the table the device is now."""
        return median(self._recent) if self._recent else 1.0

    def estimate_ms(self, name: str) -> float:
        """What a call of `name` takes now, on its longest measured path. Raises KeyError for one without entry."""
        return self.table_ms[name] * self.scale

    # ------------------------------------------------------------------------------------------------- choosing
    def choose(self, active: str, wish: Wish, at_least: float = 0.0, below_ms: float = math.inf) -> str:
        """The best subnet that keeps `wish`: of the highest quality, where that is not known the slowest.

        `active` stays while it keeps the wish and no better one keeps it with `margin` to spare. `at_least`: the factor
        of the table's latencies to expect, where calls do not show a larger one. `below_ms`: only subnets whose table
        entry is less, or the fastest one.
        Raises `NoSubnetFits`, naming the one that comes nearest.
        """
        factor = max(self.scale, at_least)
        estimates = {name: ms * factor for name, ms in self.table_ms.items()}
        allowed = [name for name in estimates if self._allowed(name, wish)]
        allowed = ([name for name in allowed if self.table_ms[name] < below_ms]
                   or sorted(allowed, key=self.table_ms.__getitem__)[:1])
        fitting = [name for name in allowed if wish.latency_ms is None or estimates[name] <= wish.latency_ms]
        if not fitting:
            nearest = min(allowed or estimates, key=estimates.__getitem__)
            raise NoSubnetFits(
                wish, nearest, f"{nearest} takes {estimates[nearest]:.3g} ms"
                if allowed else f"none of {len(estimates)} measured subnets has that memory and quality")
        best = max(fitting, key=self._rank)
        if active in fitting and best != active and wish.latency_ms is not None:
            spare = [name for name in fitting if estimates[name] <= wish.latency_ms * (1 - self.margin)]
            best = max((*spare, active), key=self._rank)
        return best

    def _allowed(self, name: str, wish: Wish) -> bool:
        if wish.memory_mb is not None and not self.memory.get(name, math.inf) <= wish.memory_mb * 1e6:
            return False
        quality = self.quality[name]
        return wish.min_quality is None or (quality is not None and quality >= wish.min_quality)

    def _rank(self, name: str) -> tuple[float, float]:
        quality = self.quality[name]
        return (-math.inf if quality is None else quality, self.table_ms[name])


def fitting_table(tables: Mapping[str, bytes], engines: set[str], threads: int, insist: bool) -> LatencyTable:
    """The first of a bundle's tables that is of this device, its engine's version and `threads`.

    Raises `InputError` when there is none at all, `TableError` for a damaged one, `TableMismatch` when none fits,
    unless `insist`: then the first is given, with a `TableMismatchWarning`.
    """
    if not tables:
        raise InputError("tables", "no-table", "a bundle without a latency table", "one with a table of this device",
                         "Write one into it: elastic-compile build, or compile_family(..., tables=).")
    here = device.describe("here")
    refused: latency_table.TableMismatch | None = None
    for file, raw in tables.items():
        found = latency_table.parse(bytes(raw), file=file)
        backend = found.environment.backend
        wanted = latency_table.Wanted(
            device=here, backend=backend if backend in engines else sorted(engines)[0] if engines else backend,
            version=profiler.environment(backend, threads).version, threads=threads)
        try:
            return latency_table.accept(found, wanted, file=file)
        except latency_table.TableMismatch as error:
            refused = refused or error
    file, raw = next(iter(tables.items()))
    if not insist:
        raise refused
    found = latency_table.parse(bytes(raw), file=file)
    wanted = latency_table.Wanted(device=here, threads=threads)
    return latency_table.accept(found, wanted, insist=True, file=file)

"""The machine that runs the runtime: what it is, what it is doing, and how much of it others use.

In: what Linux tells under /proc and /sys. Out: `Device` and `Conditions` of a latency table, the share of cores
that other processes take, energy, peak memory.
Never: invents a number: what the system does not tell is None; never changes a setting but the process's own cores.
"""
from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from elastic_runtime.errors import InputError
from elastic_runtime.latency_table import Conditions, Device

_ROOT = Path("/")
#: Instruction set extensions that kernels are chosen by.
_FEATURES = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)


def describe(name: str, *, emulation: str = "", root: Path = _ROOT) -> Device:
    """This machine as a latency table's device. `name`: what people call it; `emulation`: in words, how it is
    restricted or slowed down, empty for the real machine."""
    cpu = cpu_info(root)
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return Device(
        name=name, model=cpu.get("model name") or platform.processor() or "unknown", architecture=platform.machine(),
        cores=len(usable_cores()), features=tuple(sorted(flag for flag in _FEATURES if flag in flags)),
        emulation=emulation, memory_bytes=_memory_bytes(root))


def cpu_info(root: Path = _ROOT) -> dict[str, str]:
    """The first processor's fields in /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = (root / "proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _memory_bytes(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def conditions(core: int = 0, *, root: Path = _ROOT) -> Conditions:
    """What the system tells about itself now; frequency and governor are those of `core`."""
    cpufreq = root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
    kilohertz = _number(cpufreq / "scaling_cur_freq")
    megahertz = kilohertz / 1e3 if kilohertz is not None else _float(cpu_info(root).get("cpu MHz", ""))
    return Conditions(
        governor=_text(cpufreq / "scaling_governor"), frequency_mhz=megahertz, load=_load(root),
        temperature_c=_temperature(root))


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _float(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _number(path: Path) -> float | None:
    return _float(_text(path))


def _load(root: Path) -> float | None:
    text = _text(root / "proc/loadavg")
    return _float(text.split()[0]) if text else None


def _temperature(root: Path) -> float | None:
    """The hottest zone in degrees Celsius."""
    zones = [_number(path) for path in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))]
    known = [zone / 1e3 for zone in zones if zone is not None]
    return max(known) if known else None


# ------------------------------------------------------------------------------------------------- our share of it
@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Keep this thread, and those that it starts meanwhile, on the first `threads` of its cores; gives their numbers,
    none where the system cannot pin. Raises `InputError` when there are fewer cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = usable_cores()
    if threads > len(before):
        raise InputError("threads", "cores", threads, f"at most the {len(before)} cores that this process may use",
                         "More threads than cores wait for each other.")
    chosen = before[:threads]
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


class Others:
    """How much of some cores went to other processes, or was taken by the hypervisor, since the last look."""

    def __init__(self, cores: Sequence[int], *, root: Path = _ROOT) -> None:
        self._cores, self._root = tuple(cores), root
        self._before = self._read()

    def share(self) -> float | None:
        """From 0 to 1; None where the system does not tell or too little time has passed."""
        before, after = self._before, self._read()
        if before is None or after is None or after[0] - before[0] < 0.1:
            return None
        self._before = after
        elapsed, busy, own = (new - old for new, old in zip(after, before, strict=True))
        return min(1.0, max(0.0, (busy - own) / (elapsed * len(self._cores))))

    def _read(self) -> tuple[float, float, float] | None:
        """The time, busy seconds of the cores, seconds of this process."""
        try:
            lines = (self._root / "proc/stat").read_text().splitlines()
            rows = {fields[0]: [int(field) for field in fields[1:]] for fields in map(str.split, lines)
                    if fields and fields[0].startswith("cpu")}
            tick = os.sysconf("SC_CLK_TCK")
            # user, nice, system, idle, iowait, irq, softirq, steal
            busy = sum(sum(rows[f"cpu{core}"][:3]) + sum(rows[f"cpu{core}"][5:8]) for core in self._cores) / tick
        except (OSError, ValueError, KeyError):
            return None
        return (time.perf_counter(), busy, time.process_time()) if self._cores else None


class Crowd:
    """How many threads want the machine's cores at this moment, from Linux's count of runnable ones; a look takes a
    few microseconds."""

    def __init__(self, *, root: Path = _ROOT, cores: int | None = None) -> None:
        """`cores`: of the machine, as many as it says."""
        self._path = root / "proc/loadavg"
        self._cores = cores or os.cpu_count() or 1

    def share(self, threads: int = 1) -> float:
        """By which factor a call that runs on `threads` threads of its own has to expect to be slowed down: threads
        per core, rounded up, since a core that two share may be this one's. 1 where the system does not tell."""
        text = _text(self._path)
        try:
            runnable = int(text.split()[3].partition("/")[0])
        except (AttributeError, ValueError, IndexError):
            return 1.0
        return float(max(1, -(-(max(runnable - 1, 0) + threads) // self._cores)))


class Energy:
    """Energy that the processor packages used, from Linux's RAPL counters (powercap). `available`: whether there are
    any that can be read."""

    def __init__(self, *, root: Path = _ROOT) -> None:
        zones = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]*"))
        self._zones = [zone for zone in zones
                       if zone.name.count(":") == 1 and _number(zone / "energy_uj") is not None]
        self._before = self._read()

    @property
    def available(self) -> bool:
        return bool(self._zones)

    def used_mj(self) -> float | None:
        """Millijoules since the last look; a counter that started anew counts on from its range."""
        before, after = self._before, self._read()
        if not self._zones or None in before or None in after:
            return None
        self._before = after
        total = 0.0
        for zone, old, new in zip(self._zones, before, after, strict=True):
            if new < old:
                span = _number(zone / "max_energy_range_uj")
                if span is None:
                    return None
                new += span
            total += new - old
        return total / 1e3

    def _read(self) -> list[float | None]:
        return [_number(zone / "energy_uj") for zone in self._zones]


def peak_memory_bytes(*, root: Path = _ROOT) -> int | None:
    """The most physical memory that this process has held, in bytes."""
    return _status("VmHWM", root)


def memory_bytes(*, root: Path = _ROOT) -> int | None:
    """The physical memory that this process holds, in bytes."""
    return _status("VmRSS", root)


def _status(field: str, root: Path) -> int | None:
    for line in (_text(root / "proc/self/status") or "").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None

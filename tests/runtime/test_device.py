"""What the system tells is taken over; what it does not tell stays unknown."""
from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from elastic_runtime import device
from elastic_runtime.errors import InputError
from elastic_runtime.latency_table import Conditions


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_system_that_tells_nothing(tmp_path):
    assert device.conditions(root=tmp_path) == Conditions()
    found = device.describe("bare", root=tmp_path)
    assert found.features == () and found.memory_bytes is None
    assert device.peak_memory_bytes(root=tmp_path) is None
    energy = device.Energy(root=tmp_path)
    assert not energy.available and energy.used_mj() is None
    others = device.Others((0,), root=tmp_path)
    time.sleep(0.11)
    assert others.share() is None


def test_a_system_that_tells_everything(tmp_path):
    write(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name : A CPU\nflags : avx2 fma sse\n\nprocessor : 1\n")
    write(tmp_path, "proc/meminfo", "MemTotal: 2048 kB\n")
    write(tmp_path, "proc/loadavg", "0.25 0.1 0.1 1/100 7\n")
    write(tmp_path, "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance\n")
    write(tmp_path, "sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq", "2400000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "41000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "52500\n")
    assert device.conditions(3, root=tmp_path) == Conditions(
        governor="performance", frequency_mhz=2400.0, load=0.25, temperature_c=52.5)
    found = device.describe("it", emulation="half speed", root=tmp_path)
    assert (found.name, found.model, found.features, found.emulation) == ("it", "A CPU", ("avx2", "fma"), "half speed")
    assert found.memory_bytes == 2048 * 1024


def test_energy_counts_over_the_counters_end(tmp_path):
    zone = "sys/class/powercap/intel-rapl:0"
    write(tmp_path, f"{zone}/max_energy_range_uj", "100000\n")
    counter = write(tmp_path, f"{zone}/energy_uj", "90000\n")
    write(tmp_path, "sys/class/powercap/intel-rapl:0:0/energy_uj", "5\n")  # a part of the package: not counted twice
    energy = device.Energy(root=tmp_path)
    assert energy.available
    counter.write_text("95000\n")
    assert energy.used_mj() == 5.0
    counter.write_text("2000\n")
    assert energy.used_mj() == 7.0


def test_the_share_of_others(tmp_path, monkeypatch):
    ticks = os.sysconf("SC_CLK_TCK")
    clock = {"now": 100.0, "own": 0.0}
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(device.time, "process_time", lambda: clock["own"])
    stat = write(tmp_path, "proc/stat", "cpu 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n")
    others = device.Others((0, 1), root=tmp_path)
    clock.update(now=110.0, own=8.0)  # in ten seconds on two cores: 8 ours, 2 theirs, 1 stolen
    stat.write_text(f"cpu0 {10 * ticks} 0 0 0 0 0 0 {ticks} 0 0\ncpu1 0 0 0 {10 * ticks} 0 0 0 0 0 0\n")
    assert others.share() == pytest.approx(3 / 20)


def test_pinning_is_taken_back():
    before = device.usable_cores()
    with device.pinned(1) as cores:
        assert device.usable_cores() == cores == before[:1]
    assert device.usable_cores() == before
    with pytest.raises(InputError, match="cores"), device.pinned(len(before) + 1):
        pass


def test_this_machine():
    found = device.describe("here")
    assert found.cores == len(device.usable_cores()) and found.architecture


@pytest.mark.parametrize(("loadavg", "threads", "share"), [
    ("0.5 0.5 0.5 1/80 7", 1, 1), ("0.5 0.5 0.5 2/80 7", 1, 1), ("0.5 0.5 0.5 3/80 7", 1, 2),
    ("0.5 0.5 0.5 7/80 7", 1, 4), ("0.5 0.5 0.5 1/80 7", 2, 1), ("0.5 0.5 0.5 2/80 7", 2, 2), ("nothing", 1, 1)])
def test_how_many_want_a_core(tmp_path, loadavg, threads, share):
    write(tmp_path, "proc/loadavg", loadavg)
    assert device.Crowd(root=tmp_path, cores=2).share(threads) == share


def test_a_crowd_that_the_system_does_not_tell(tmp_path):
    assert device.Crowd(root=tmp_path).share() == 1.0
    assert device.Crowd().share() >= 1.0

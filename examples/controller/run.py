"""Holds a latency objective while other load comes and goes, against every fixed subnet under the same load.

    python -m examples.controller.run [--out out/controller] [--seconds 25] [--seeds 8]

In: this machine. Out: a table per trace of load, one of all of them, `controller.json` and a picture of the first
trace, `controller.png`.
Never: compares different moments: in each round the controller and every fixed subnet serve one request, in an order
drawn anew; or starts a process while it measures: the load's processes are there from the start, and wait.

The load is drawn by the seed: more than half of the time none, else one to six busy processes per core, for one to
three seconds each. It begins and ends by the clock, whatever request runs then.

The objective is: 99 % of the requests within `--slack` times what the largest subnet takes on the idle machine. A
contender holds it in a trace when 99 % of the trace's requests are within that time, and in a window when 99 of 100
requests in a row are. The one to beat is the fixed subnet of the highest quality that holds the objective; the
controller has to hold it in at least as many traces and windows, at a higher mean quality. The plain share of requests
within the time stands beside it: there no contender beats the smallest subnet that is large enough, since the same
request is never slower with a smaller one.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

import elastic_runtime as er
from examples.controller.model import WIDTHS, Digits

PACE_S = 0.004
PERCENTILE = 99
WINDOW = 100
MOST_LOAD = 6


def burn() -> None:
    """Other load on the cores."""
    while True:
        sum(range(20_000))


@contextmanager
def load() -> Iterator:
    """Gives a function that sets how many busy processes there are per core."""
    cores = len(er.device.usable_cores())
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=burn, daemon=True) for _ in range(MOST_LOAD * cores)]
    for process in processes:
        process.start()
        os.kill(process.pid, signal.SIGSTOP)

    def set_to(level: int) -> None:
        for number, process in enumerate(processes):
            os.kill(process.pid, signal.SIGCONT if number < level * cores else signal.SIGSTOP)

    try:
        time.sleep(1.0)
        yield set_to
    finally:
        for process in processes:
            process.kill()
            process.join()


def trace(seconds: float, seed: int) -> list[tuple[float, int]]:
    """(second at which it begins, busy processes per core), idle at the start and in between."""
    rng, now, found = np.random.default_rng(seed), 0.0, []
    while now < seconds:
        found.append((now, 0))
        now += rng.uniform(1.0, 5.0)
        found.append((now, int(rng.integers(1, MOST_LOAD + 1))))
        now += rng.uniform(1.0, 3.0)
    return [phase for phase in found if phase[0] < seconds]


def bundle(path: Path) -> dict[str, float]:
    """Write the family with a table of this machine; quality by subnet."""
    from elastic_compile.elastic import compile_family
    from elastic_compile.profile import measuring

    digits = Digits()
    quality = {f"w{width}": digits.accuracy[width] for width in WIDTHS}
    family = compile_family(digits, {f"w{width}": width for width in WIDTHS}, [(digits.request,)], quality=quality)
    family, table = measuring.with_table(family, "here", 1, 8.0)
    family.save(path)
    for entry in table.entries:
        if entry.kind == "subnet":
            print(f"{entry.key}: {entry.timing.ms:.3f} ms{' (noisy)' * ('noisy' in entry.flags)}, "
                  f"{quality[entry.key]:.1f} % right")
    np.save(path.with_suffix(".npy"), digits.request.numpy())
    return quality


def serve(path: Path, set_load: Callable[[int], None], seconds: float, slack: float, seed: int) -> dict:
    """A trace: per contender its latencies (ms) and, for the controller, its subnets; the objective."""
    request = np.load(path.with_suffix(".npy"))
    model, fixed = er.load(path), er.load(path)
    objective = slack * max(model.selector().table_ms.values())
    controller = er.Controller(model, slo_ms=objective, percentile=PERCENTILE)
    contenders = ("controller", *fixed.subnets)
    found: dict = {"objective_ms": objective, "seed": seed, "time_s": [], "load": [], "subnet": [],
                   "ms": {name: [] for name in contenders}}
    order, level = np.random.default_rng(seed), [0]
    for name in fixed.subnets:
        fixed.switch(name)
        fixed(request)
    start = time.perf_counter()

    def come_and_go() -> None:
        for at, busy in trace(seconds, seed):
            time.sleep(max(0.0, at - (time.perf_counter() - start)))
            set_load(busy)
            level[0] = busy

    loading = threading.Thread(target=come_and_go)
    loading.start()
    while (now := time.perf_counter() - start) < seconds:
        found["time_s"].append(now)
        found["load"].append(level[0])
        for number in order.permutation(len(contenders)):
            name = contenders[number]
            time.sleep(PACE_S)
            if name == "controller":
                controller(request)
                found["ms"][name].append(controller.last.latency_ms)
                found["subnet"].append(controller.last.subnet)
            else:
                fixed.switch(name)
                began = time.perf_counter()
                fixed(request)
                found["ms"][name].append((time.perf_counter() - began) * 1e3)
    loading.join()
    set_load(0)
    return found


@dataclass(frozen=True)
class Row:
    """A contender over some traces: of how many requests how many were `within` the time; in how many traces and
    windows the objective held; mean quality in percent; p50 and p99 in ms."""

    requests: int
    within: int
    traces: int
    traces_held: int
    windows: int
    windows_held: int
    quality: float
    p50: float
    p99: float

    @property
    def share(self) -> float:
        return 100 * self.within / self.requests

    @property
    def holds(self) -> bool:
        return self.share >= PERCENTILE


def rows(runs: list[dict], quality: dict[str, float]) -> dict[str, Row]:
    """Per contender, the controller first."""
    found = {}
    for name in runs[0]["ms"]:
        values = np.concatenate([run["ms"][name] for run in runs])
        within = [np.array(run["ms"][name]) <= run["objective_ms"] for run in runs]
        worth = ([quality[subnet] for run in runs for subnet in run["subnet"]] if name == "controller"
                 else [quality[name]])
        windows = [one[begin:begin + WINDOW].mean() >= PERCENTILE / 100 for one in within
                   for begin in range(0, len(one) - WINDOW + 1, WINDOW)]
        found[name] = Row(
            len(values), int(sum(map(np.sum, within))), len(runs),
            sum(bool(one.mean() >= PERCENTILE / 100) for one in within), len(windows), int(sum(windows)),
            float(np.mean(worth)), float(np.percentile(values, 50)), float(np.percentile(values, 99)))
    return found


def best_fixed(found: dict[str, Row]) -> str | None:
    """The fixed subnet of the highest quality that holds the objective."""
    holding = [name for name, row in found.items() if name != "controller" and row.holds]
    return max(holding, key=lambda name: found[name].quality, default=None)


def report(runs: list[dict], quality: dict[str, float]) -> None:
    print(f"\nobjective: {PERCENTILE} % of the requests within {runs[0]['objective_ms']:.2f} ms\n")
    print(f"{'trace':>5}{'requests':>10}  {'best fixed that holds it':26}{'within %':>9}{'windows':>9}{'right %':>9}"
          f"  {'controller':>10} %{'windows':>9}{'right %':>9}")
    for run in runs:
        found = rows([run], quality)
        ours, best = found["controller"], best_fixed(found)
        theirs = (f"{best:26}{found[best].share:9.2f}{found[best].windows_held:6}/{found[best].windows:<2}"
                  f"{found[best].quality:9.2f}" if best else f"{'none':53}")
        print(f"{run['seed']:5}{ours.requests:10}  {theirs}  {ours.share:12.2f}{ours.windows_held:6}/{ours.windows:<2}"
              f"{ours.quality:9.2f}")
    found = rows(runs, quality)
    print(f"\n{'all traces':12}{'within %':>9}{'missed':>8}{'traces':>9}{'windows':>10}{'right %':>9}{'p50 ms':>9}"
          f"{'p99 ms':>9}")
    for name, row in found.items():
        print(f"{name:12}{row.share:9.2f}{row.requests - row.within:8}{row.traces_held:6}/{row.traces:<2}"
              f"{row.windows_held:6}/{row.windows:<3}{row.quality:9.2f}{row.p50:9.2f}{row.p99:9.2f}")
    ours, best = found["controller"], best_fixed(found)
    if best is None:
        print("no fixed subnet holds the objective")
        return
    theirs = found[best]
    as_often = ours.traces_held >= theirs.traces_held and ours.windows_held >= theirs.windows_held
    better = ours.quality > theirs.quality
    print(f"\nagainst {best}, the best fixed subnet that holds the objective, the controller holds it "
          f"{'at least as often' if as_often else 'LESS OFTEN'}\n({ours.traces_held} and {theirs.traces_held} traces, "
          f"{ours.windows_held} and {theirs.windows_held} windows) at a mean quality that is "
          f"{'higher' if better else 'NOT HIGHER'} ({ours.quality:.2f} and {theirs.quality:.2f});\n"
          f"requests within the time: {ours.share - theirs.share:+.2f} percent points")


def draw(found: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    times, names = np.array(found["time_s"]), [name for name in found["ms"] if name != "controller"]
    for name in names:
        above.plot(times, found["ms"][name], ".", ms=1, alpha=0.35, label=name)
    above.plot(times, found["ms"]["controller"], "k.", ms=2, label="controller")
    above.axhline(found["objective_ms"], color="r", lw=1, label="objective")
    above.set_yscale("log")
    above.set_ylabel("latency, ms")
    above.legend(loc="upper right", markerscale=6, fontsize=8)
    below.step(times, [names.index(subnet) for subnet in found["subnet"]], "k", where="post", lw=1)
    below.set_yticks(range(len(names)), names)
    below.set_ylabel("chosen")
    below.set_xlabel("s")
    load = np.array(found["load"])
    changes = [0, *(np.flatnonzero(np.diff(load)) + 1).tolist(), len(load)]
    for begin, end in pairwise(changes):
        if load[begin]:
            for axes in (above, below):
                axes.axvspan(times[begin], times[end - 1], color="C1", alpha=0.08 * load[begin])
    figure.savefig(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("out/controller"))
    options.add_argument("--seconds", type=float, default=25.0, help="of each trace")
    options.add_argument("--seeds", type=int, default=8, help="traces of load")
    options.add_argument("--slack", type=float, default=3.0, help="objective, in latencies of the largest subnet")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "digits.elastic"
    quality = bundle(path)
    with load() as set_load:
        runs = [serve(path, set_load, given.seconds, given.slack, seed) for seed in range(given.seeds)]
    report(runs, quality)
    (given.out / "controller.json").write_text(json.dumps({"quality": quality, "runs": runs}) + "\n")
    draw(runs[0], given.out / "controller.png")
    print(f"wrote {given.out / 'controller.json'} and controller.png")


if __name__ == "__main__":
    main()

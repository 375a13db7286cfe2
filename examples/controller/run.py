"""Holds a latency objective while other load comes and goes, against every fixed subnet under the same load.

    python -m examples.controller.run [--out out/controller] [--seconds 25] [--seeds 4]

In: this machine. Out: a table, `controller.json` and a picture of the first seed, `controller.png`.
Never: compares different moments: in each round the controller and every fixed subnet serve one request, in an order
drawn anew; or starts a process while it measures: the load's processes are there from the start, and wait.

The load is drawn by the seed: more than half of the time none, else one to six busy processes per core, for one to
three seconds each. The objective is `--slack` times what the largest subnet takes on the idle machine, for 99 % of the
requests: "windows" is the share of stretches of 100 requests in which that holds.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def serve(path: Path, set_load, seconds: float, slack: float, seed: int) -> dict:
    """A run: per contender its latencies (ms) and, for the controller, its subnets; the objective."""
    request = np.load(path.with_suffix(".npy"))
    model, fixed = er.load(path), er.load(path)
    objective = slack * max(model.selector().table_ms.values())
    controller = er.Controller(model, slo_ms=objective, percentile=PERCENTILE)
    contenders = ("controller", *fixed.subnets)
    found: dict = {"objective_ms": objective, "seed": seed, "time_s": [], "load": [], "subnet": [],
                   "ms": {name: [] for name in contenders}}
    order, phases = np.random.default_rng(seed), trace(seconds, seed)
    for name in fixed.subnets:
        fixed.switch(name)
        fixed(request)
    start, level = time.perf_counter(), 0
    while (now := time.perf_counter() - start) < seconds:
        while phases and phases[0][0] <= now:
            level = phases.pop(0)[1]
            set_load(level)
        found["time_s"].append(now)
        found["load"].append(level)
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
    set_load(0)
    return found


def report(runs: list[dict], quality: dict[str, float]) -> dict[str, dict[str, float]]:
    """Per contender over all runs: requests within the objective, the range of that over the runs, windows of `WINDOW`
    requests in which the percentile is, mean quality, all in percent; missed requests; p50 and p99 in ms."""
    rows = {}
    for name in runs[0]["ms"]:
        values = np.concatenate([run["ms"][name] for run in runs])
        held = [np.array(run["ms"][name]) <= run["objective_ms"] for run in runs]
        worth = ([quality[subnet] for run in runs for subnet in run["subnet"]] if name == "controller"
                 else [quality[name]])
        shares = [100 * float(np.mean(one)) for one in held]
        windows = [one[begin:begin + WINDOW].mean() for one in held
                   for begin in range(0, len(one) - WINDOW + 1, WINDOW)]
        rows[name] = {"held": 100 * float(np.mean(np.concatenate(held))), "least": min(shares), "most": max(shares),
                      "missed": int(sum((~one).sum() for one in held)), "windows": len(windows),
                      "windows_held": 100 * float(np.mean(np.array(windows) >= PERCENTILE / 100)),
                      "quality": float(np.mean(worth)),
                      "p50": float(np.percentile(values, 50)), "p99": float(np.percentile(values, 99))}
    return rows


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
    options.add_argument("--seconds", type=float, default=25.0, help="of each seed")
    options.add_argument("--seeds", type=int, default=4)
    options.add_argument("--slack", type=float, default=2.0, help="objective, in latencies of the largest subnet")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "digits.elastic"
    quality = bundle(path)
    with load() as set_load:
        runs = [serve(path, set_load, given.seconds, given.slack, seed) for seed in range(given.seeds)]
    rows = report(runs, quality)
    print(f"\nobjective {runs[0]['objective_ms']:.2f} ms, {sum(len(run['time_s']) for run in runs)} requests each, "
          f"{given.seeds} load traces")
    print(f"{'':12}{'held %':>9}{'missed':>8}{'per trace %':>17}{'windows %':>11}{'right %':>9}{'p50 ms':>9}"
          f"{'p99 ms':>9}")
    for name, row in rows.items():
        print(f"{name:12}{row['held']:9.2f}{row['missed']:8}{row['least']:9.2f}{row['most']:8.2f}"
              f"{row['windows_held']:11.1f}{row['quality']:9.2f}{row['p50']:9.2f}{row['p99']:9.2f}")
    holding = [name for name in quality if rows[name]["held"] >= PERCENTILE]
    if holding:
        best = max(holding, key=lambda name: quality[name])
        more = {what: rows["controller"][what] - rows[best][what] for what in ("held", "windows_held", "quality")}
        print(f"against {best}, the best fixed subnet that holds it, the controller has {more['held']:+.2f} percent "
              f"points of requests, {more['windows_held']:+.1f} of windows, quality {more['quality']:+.2f}")
    (given.out / "controller.json").write_text(json.dumps({"rows": rows, "runs": runs}) + "\n")
    draw(runs[0], given.out / "controller.png")
    print(f"wrote {given.out / 'controller.json'} and controller.png")


if __name__ == "__main__":
    main()

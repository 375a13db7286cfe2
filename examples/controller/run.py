"""Holds a latency objective while another load comes and goes, against every fixed subnet in the same seconds.

    python -m examples.controller.run [--out out/controller] [--seconds 40]

In: this machine. Out: a table, `controller.json` and a picture, `controller.png`.
Never: compares different moments: in each round the controller and every fixed subnet serve one request.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np

import elastic_runtime as er
from elastic_compile.elastic import compile_family
from elastic_compile.profile import measuring
from examples.controller.model import WIDTHS, Digits

#: (share of the run, processes of other load per core)
PHASES = ((0.25, 0), (0.2, 1), (0.2, 3), (0.35, 0))
PACE_S = 0.004


def burn(stop) -> None:
    """Other load on the cores."""
    while not stop.is_set():
        sum(range(20_000))


def bundle(path: Path) -> dict[str, float]:
    """Write the family with a table of this machine; quality by subnet."""
    digits = Digits()
    quality = {f"w{width}": digits.accuracy[width] for width in WIDTHS}
    family = compile_family(digits, {f"w{width}": width for width in WIDTHS}, [(digits.request,)], quality=quality)
    family, table = measuring.with_table(family, "here", 1, 20.0)
    family.save(path)
    for entry in table.entries:
        if entry.kind == "subnet":
            print(f"{entry.key}: {entry.timing.ms:.3f} ms{' (noisy)' * ('noisy' in entry.flags)}, "
                  f"{quality[entry.key]:.1f} % right")
    np.save(path.with_suffix(".npy"), digits.request.numpy())
    return quality


def serve(path: Path, seconds: float, slack: float) -> dict:
    """The run: per contender its latencies (ms) and, for the controller, its subnets; the objective."""
    request = np.load(path.with_suffix(".npy"))
    model, fixed = er.load(path), er.load(path)
    largest = max(model.selector().table_ms.values())
    objective = slack * largest
    controller = er.Controller(model, slo_ms=objective, percentile=99)
    stop = multiprocessing.get_context("spawn").Event()
    cores = er.device.usable_cores()
    found: dict = {"objective_ms": objective, "time_s": [], "load": [], "subnet": [],
                   "ms": {name: [] for name in ("controller", *fixed.subnets)}}
    start, burners = time.perf_counter(), []
    try:
        for phase, (share, load) in enumerate(PHASES):
            stop.clear()
            context = multiprocessing.get_context("spawn")
            burners = [context.Process(target=burn, args=(stop,), daemon=True) for _ in range(load * len(cores))]
            for process in burners:
                process.start()
            end = start + seconds * sum(part for part, _ in PHASES[:phase + 1])
            while time.perf_counter() < end:
                now = time.perf_counter()
                found["time_s"].append(now - start)
                found["load"].append(load)
                controller(request)
                found["ms"]["controller"].append(controller.last.latency_ms)
                found["subnet"].append(controller.last.subnet)
                for name in fixed.subnets:
                    fixed.switch(name)
                    began = time.perf_counter()
                    fixed(request)
                    found["ms"][name].append((time.perf_counter() - began) * 1e3)
                time.sleep(PACE_S)
            stop.set()
            for process in burners:
                process.join()
    finally:
        stop.set()
        for process in burners:
            process.terminate()
    return found


def report(found: dict, quality: dict[str, float]) -> dict[str, dict[str, float]]:
    """Per contender: requests within the objective and mean quality, in percent; p50 and p99 in ms."""
    rows = {}
    for name, ms in found["ms"].items():
        values = np.array(ms)
        worth = [quality[subnet] for subnet in found["subnet"]] if name == "controller" else [quality[name]]
        rows[name] = {"held": 100 * float(np.mean(values <= found["objective_ms"])), "quality": float(np.mean(worth)),
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
    for axes in (above, below):
        for level in sorted(set(load.tolist()) - {0}):
            chosen = np.flatnonzero(load == level)
            axes.axvspan(times[chosen[0]], times[chosen[-1]], color="C1", alpha=0.08 * level)
    figure.savefig(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("out/controller"))
    options.add_argument("--seconds", type=float, default=40.0)
    options.add_argument("--slack", type=float, default=1.5, help="objective, in latencies of the largest subnet")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    quality = bundle(given.out / "digits.elastic")
    found = serve(given.out / "digits.elastic", given.seconds, given.slack)
    rows = report(found, quality)
    print(f"\nobjective {found['objective_ms']:.2f} ms, {len(found['time_s'])} requests each")
    print(f"{'':12}{'held %':>9}{'right %':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for name, row in rows.items():
        print(f"{name:12}{row['held']:9.2f}{row['quality']:9.2f}{row['p50']:9.2f}{row['p99']:9.2f}")
    (given.out / "controller.json").write_text(json.dumps({"rows": rows, **found}) + "\n")
    draw(found, given.out / "controller.png")
    print(f"wrote {given.out / 'controller.json'} and controller.png")


if __name__ == "__main__":
    main()

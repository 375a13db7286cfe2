"""Latency and cache memory of depth schedules at the size of VAR-d16, 256 x 256 images, eager and compiled.

    python examples/var/benchmark.py [--threads 1] [--rounds 5] [--depth 16] [--width 1024] [--json report.json]

In: nothing; weights are random. Out: tables. The family is compiled once (minutes) and kept in `out/`.
Never: measures a contender in another run than the rest: each round runs every schedule in both forms, in an order
that turns from round to round; ratios are taken within a round.
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from schedules import Timing, cache_peak, compiled, eager_cache_peak, peak_rows, run, run_eager
from transformer import SIZES, VAR, gumbel
from vqvae import Quantiser

import elastic_runtime as er

HEADS_OF, CODES, CHANNELS, CLASSES = 64, 4096, 32, 1000
SWITCH = 6
PUBLISHED = {"d16": (30, 16), "d8": (30, 8), "d2": (30, 2)}
console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 4, 2], help="of the scales after the switch")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    var = random_var(options.depth, options.width)
    label, noise = torch.tensor([207]), gumbel(1, var.ends[-1], CODES, seed=0)
    path = bundle(var, [options.depth, *options.depths], label, noise, options.output)
    model = er.load(path, threads=options.threads)
    model.rollback = False  # caches go as soon as nothing reads them
    schedules = {f"d{depth}": [options.depth] * SWITCH + [depth] * (len(SIZES) - SWITCH)
                 for depth in (options.depth, *options.depths)}
    formula()
    with torch.no_grad():
        report = measure(var, model, label, noise, schedules, options.rounds)
    tables(report, options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0 if all(row["difference"] <= 1e-3 for row in report.values()) else 1


def random_var(depth: int, width: int) -> VAR:
    """Random weights whose first scales already matter: conditioning and residual branches are alive."""
    torch.manual_seed(0)
    return VAR(Quantiser(CODES, CHANNELS, SIZES), width, depth, width // HEADS_OF, CLASSES).eval()


def bundle(var: VAR, depths: list[int], label: torch.Tensor, noise: torch.Tensor, output: Path) -> Path:
    """The compiled family, from `output` where an earlier run left it."""
    output.mkdir(exist_ok=True)
    path = output / f"var-{'-'.join(map(str, depths))}-{var.position.shape[-1]}.elastic"
    if not path.exists():
        start = time.perf_counter()
        with Progress(console=console, transient=True) as bars:
            task = bars.add_task("compile", total=None)
            family = compiled(var, depths, label, noise, lambda stage, done, total: bars.update(
                task, description=stage, completed=done, total=total))
            family.save(path)
        console.print(f"compiled {len(depths)} depths in {time.perf_counter() - start:.0f} s")
    return path


def measure(var: VAR, model: er.Model, label: torch.Tensor, noise: torch.Tensor, schedules: dict[str, list[int]],
            rounds: int) -> dict[str, dict]:
    """Per schedule: timings of each round, cache peaks, and how far the two forms are apart."""
    arrays = label.numpy(), noise.numpy()
    report: dict[str, dict] = {}
    steady: dict[str, list[Timing]] = {name: [] for name in schedules}
    for name, schedule in schedules.items():
        with eager_cache_peak(var) as eager:
            expected, _ = run_eager(var, label, noise, schedule)
        with cache_peak() as bundled:
            given, _ = run(model, *arrays, schedule)
        report[name] = {"eager": [], "bundle": [], "switch_us": [], "after_switch": [], "unswitched": [],
                        "eager_cache": eager[0], "bundle_cache": bundled[0],
                        "difference": float(np.abs(expected.numpy() - given).max())}
    with Progress(console=console, transient=True) as bars:
        for number in bars.track(range(rounds), description="measure"):
            names = list(schedules)
            for name in names[number % len(names):] + names[: number % len(names)]:
                row = report[name]
                row["eager"].append(run_eager(var, label, noise, schedules[name])[1].total)
                _, timing = run(model, *arrays, schedules[name])
                row["bundle"].append(timing.total)
                row["switch_us"] += [seconds * 1e6 for seconds in timing.switches]
                row["after_switch"].append(timing.scales[SWITCH])
                depth = schedules[name][-1]
                model.switch(f"d{depth}")
                _, alone = run(model, *arrays, [depth] * len(SIZES))
                steady[name].append(alone)
                row["unswitched"].append(alone.scales[SWITCH])
    return report


def formula() -> None:
    """Peak cache of a network of 30 layers, as published and with what is dead dropped."""
    table = Table(title="peak cache by formula, 30 layers, the last 4 scales on a subnet", title_justify="left")
    for name in ("subnet", "kept to the end", "dropped when dead"):
        table.add_column(name, justify="left" if name == "subnet" else "right")
    for name, (layers, depth) in PUBLISHED.items():
        whole = layers * sum(size * size for size in SIZES)
        schedule = [layers] * SWITCH + [depth] * (len(SIZES) - SWITCH)
        kept, dropped = (peak_rows(layers, SIZES, schedule, drop=drop) / whole for drop in (False, True))
        table.add_row(name, f"{kept:.1%}", f"{dropped:.1%}")
    console.print(table)


def tables(report: dict[str, dict], options: argparse.Namespace) -> None:
    whole = next(iter(report.values()))["eager_cache"]
    title = (f"one image, {options.depth} layers of width {options.width}, {options.threads} thread(s), "
             f"{options.rounds} interleaved rounds; transformer and sampling, without the decoder")
    table = Table(title=title, title_justify="left")
    for name in ("schedule", "eager s", "bundle s", "eager / bundle\nmedian (min-max)", "cache MiB\neager",
                 "cache MiB\nbundle", "of full\nnetwork's", "by\nformula", "largest\ndifference"):
        table.add_column(name, justify="left" if name == "schedule" else "right")
    for name, row in report.items():
        ratios = [eager / own for eager, own in zip(row["eager"], row["bundle"], strict=True)]
        schedule = [options.depth] * SWITCH + [int(name[1:])] * (len(SIZES) - SWITCH)
        share = peak_rows(options.depth, SIZES, schedule) / (options.depth * sum(size * size for size in SIZES))
        table.add_row(
            name, f"{statistics.median(row['eager']):.3f}", f"{statistics.median(row['bundle']):.3f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{row['eager_cache'] / 2**20:.1f}", f"{row['bundle_cache'] / 2**20:.1f}",
            f"{row['bundle_cache'] / whole:.1%}", f"{share:.1%}", f"{row['difference']:.1e}")
    console.print(table)
    switches = Table(title="the switch between two scales", title_justify="left")
    for name in ("to", "switch µs", "scale after it ms", "same scale of an image\nthat never switched ms"):
        switches.add_column(name, justify="left" if name == "to" else "right")
    for name, row in report.items():
        if row["switch_us"] and int(name[1:]) < options.depth:
            switches.add_row(name, f"{statistics.median(row['switch_us']):.1f}",
                             f"{statistics.median(row['after_switch']) * 1e3:.1f}",
                             f"{statistics.median(row['unswitched']) * 1e3:.1f}")
    console.print(switches)


if __name__ == "__main__":
    sys.exit(main())

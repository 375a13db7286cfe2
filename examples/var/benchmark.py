"""Latency and memory of depth schedules at the size of VAR-d16, 256 x 256 images, eager and compiled.

    python examples/var/benchmark.py [--threads 1 2] [--rounds 3] [--depth 16] [--width 1024]

In: nothing; weights are random. Out: tables; beside a number that has been set a limit, whether it is met. The family
is compiled once (minutes) and kept in `out/`, beside what was measured so far: a run that was stopped goes on where it
was.
Never: measures a contender in another run than the rest: each round runs every schedule in both forms, in an order
that turns from round to round, and the matrix products of the whole network alone, in both libraries; ratios are taken
within a round. Counts no memory twice: each figure is the
proportional set size of a fresh process in which every subnet has run.
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from schedules import cache_peak, compiled, eager_cache_peak, peak_rows, run, run_eager
from torch import nn
from transformer import SIZES, VAR, gumbel
from vqvae import Quantiser

import elastic_runtime as er
from elastic_runtime.residence import measure
from examples.benchmarks.limits import limit

HEADS_OF, CODES, CHANNELS, CLASSES = 64, 4096, 32, 1000
SWITCH = 6
FASTER, CLOSE = 1.5, 1e-5
LAYERS = 30
#: By depth of the last scales, the most that the peak cache may be of the whole network's, in per cent; at 16 layers
#: the same shares of the depth are measured.
PUBLISHED = {16: 34.5, 8: 17.9, 2: 13.4}
MEASURED = {8: 34.5, 4: 17.9, 2: 13.4}
IN_MEMORY, ON_DISK = 1.05, 1.02
console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 4, 2], help="of the scales after the switch")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "out")
    options = parser.parse_args()
    var = random_var(options.depth, options.width)
    label, noise = torch.tensor([207]), gumbel(1, var.ends[-1], CODES, seed=0)
    path = bundle(var, [options.depth, *options.depths], label, noise, options.output)
    schedules = {f"d{depth}": [options.depth] * SWITCH + [depth] * (len(SIZES) - SWITCH)
                 for depth in (options.depth, *options.depths)}
    formula()
    kept = path.with_suffix(".json")
    report = json.loads(kept.read_text()) if kept.exists() else {}
    for threads in map(str, options.threads):
        torch.set_num_threads(int(threads))
        with torch.no_grad():
            for so_far in measured(var, path, label, noise, schedules, options.rounds, report.get(threads, {})):
                report[threads] = so_far
                kept.write_text(json.dumps(report))
        tables(report[threads], options, threads)
    if "memory" not in report:
        report["memory"] = memory(path, f"d{options.depth}")
        kept.write_text(json.dumps(report))
    residence(report["memory"])
    rows = [row for threads in map(str, options.threads) for row in report[threads]["schedules"].values()]
    return 0 if all(row["difference"] <= CLOSE for row in rows) else 1


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


def measured(var: VAR, path: Path, label: torch.Tensor, noise: torch.Tensor, schedules: dict[str, list[int]],
             rounds: int, report: dict) -> Iterator[dict]:
    """The report after each round that is still to be run. Per schedule: timings of each round, cache peaks, and how
    far the two forms are apart. And the time of the whole network's matrix products alone: in each library, and at the
    speed of one large product."""
    if report and len(report["bare"]["PyTorch"]) >= rounds:
        return
    alone = {"PyTorch": in_pytorch(var), "ONNX Runtime": in_onnxruntime(var, torch.get_num_threads())}
    model = er.load(path, threads=torch.get_num_threads())
    model.rollback = False  # caches go as soon as nothing reads them
    arrays = label.numpy(), noise.numpy()
    report = report or {"bare": {name: [] for name in alone}, "large": [], "schedules": {}}
    for name, schedule in schedules.items():
        with eager_cache_peak(var) as eager:
            expected, _ = run_eager(var, label, noise, schedule)
        with cache_peak() as bundled:
            given, _ = run(model, *arrays, schedule)
        row = report["schedules"].setdefault(
            name, {"eager": [], "bundle": [], "switch_us": [], "after_switch": [], "unswitched": []})
        row |= {"eager_cache": eager[0], "bundle_cache": bundled[0],
                "difference": float(np.abs(expected.numpy() - given).max())}
    with Progress(console=console, transient=True) as bars:
        for number in bars.track(range(len(report["bare"]["PyTorch"]), rounds), description="measure"):
            names = list(schedules)
            for name in names[number % len(names):] + names[: number % len(names)]:
                row = report["schedules"][name]
                row["eager"].append(run_eager(var, label, noise, schedules[name])[1].total)
                _, timing = run(model, *arrays, schedules[name])
                row["bundle"].append(timing.total)
                row["switch_us"] += [seconds * 1e6 for seconds in timing.switches]
                row["after_switch"].append(timing.scales[SWITCH])
                depth = schedules[name][-1]
                model.switch(f"d{depth}")
                _, unswitched = run(model, *arrays, [depth] * len(SIZES))
                row["unswitched"].append(unswitched.scales[SWITCH])
            for name, multiply in alone.items():
                report["bare"][name].append(sum(multiply(2 * size * size) for size in SIZES))
            report["large"].append(large(var))
            yield report


def linear_layers(var: VAR) -> list[nn.Linear]:
    """All whose products depend on the scale; those of the conditioning do not, and are made once per image."""
    return [each for block in var.blocks for each in (
        block.attention.query, block.attention.key, block.attention.value, block.attention.out,
        block.feed_forward[0], block.feed_forward[2])] + [var.head.linear]


def in_pytorch(var: VAR) -> Callable[[int], float]:
    """Seconds of all products with so many rows, in PyTorch: what no eager program in this precision can save."""
    layers = linear_layers(var)

    def multiply(rows: int) -> float:
        inputs = {width: torch.randn(rows, width) for width in {each.in_features for each in layers}}
        start = time.perf_counter()
        for each in layers:
            each(inputs[each.in_features])
        return time.perf_counter() - start
    return multiply


def in_onnxruntime(var: VAR, threads: int) -> Callable[[int], float]:
    """The same in ONNX Runtime, with weights packed ahead; of each result one row goes out, the rest is freed."""
    layers = linear_layers(var)
    widths = sorted({each.in_features for each in layers})
    graph = helper.make_graph(
        [node for number, each in enumerate(layers) for node in (
            helper.make_node("MatMul", [f"x{each.in_features}", f"w{number}"], [f"y{number}"]),
            helper.make_node("Slice", [f"y{number}", "0", "1", "0"], [f"z{number}"]))], "products",
        [helper.make_tensor_value_info(f"x{width}", TensorProto.FLOAT, ["rows", width]) for width in widths],
        [helper.make_tensor_value_info(f"z{number}", TensorProto.FLOAT, [1, each.out_features])
         for number, each in enumerate(layers)],
        [helper.make_tensor(name, TensorProto.INT64, [1], [int(name)]) for name in "01"]
        + [helper.make_tensor(f"w{number}", TensorProto.FLOAT, (each.in_features, each.out_features),
                              each.weight.detach().numpy().T.tobytes(), raw=True)
           for number, each in enumerate(layers)])
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def multiply(rows: int) -> float:
        inputs = {f"x{width}": np.random.default_rng(0).standard_normal((rows, width), np.float32) for width in widths}
        start = time.perf_counter()
        session.run(None, inputs)
        return time.perf_counter() - start
    return multiply


def large(var: VAR, size: int = 2048) -> float:
    """Seconds that as many multiplications take in PyTorch as one large product: the machine's peak."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    start = time.perf_counter()
    a @ b
    took = time.perf_counter() - start
    rows = sum(2 * side * side for side in SIZES)
    return took * rows * sum(each.weight.numel() for each in linear_layers(var)) / size**3


def memory(path: Path, largest: str) -> dict[str, dict[str, float]]:
    """MiB of the family and of its largest subnet alone: in memory, after all have run, and on disk (alone: what of the
    bundle that subnet needs)."""
    size = {file.name: file.stat().st_size for file in path.iterdir()}
    programs = {name: json.loads((path / name).read_text()) for name in size if name.startswith("program.")}
    files = {name: {file for region in program["regions"] for file in region["files"].values()}
             for name, program in programs.items()}
    mine = f"program.{largest}.json"
    others = set().union(*(each for name, each in files.items() if name != mine)) - files[mine]
    others |= {name for name in size if name.startswith(("program.", "reference.")) and name.endswith(".json")}
    others -= {mine, f"reference.{largest}.json"}
    sharing = json.loads((path / "sharing.json").read_text())
    more = sum(size[name] for name in others) + sharing["stored"] - sharing["alone"][largest]
    report = {}
    for name, subnets, disk in (("largest alone", [largest], sum(size.values()) - more),
                                ("family", None, sum(size.values()))):
        found = measure(path, [subnets])
        report[name] = {"run": found.run, "models": found.models, "disk": disk / 2**20}
    return report


def residence(found: dict[str, dict[str, float]]) -> None:
    table = Table(title="memory after every subnet has run, and disk, MiB", title_justify="left")
    for name in ("", "PSS", "x", "of the models", "x", "disk", "x"):
        table.add_column(name, justify="right" if name else "left")
    first = next(iter(found.values()))
    for name, row in found.items():
        table.add_row(name, *(text for key in ("run", "models", "disk")
                              for text in (f"{row[key]:.1f}", f"{row[key] / first[key]:.3f}")))
    console.print(table)
    family = found["family"]
    console.print(f"memory: {limit(family['run'] / first['run'], IN_MEMORY)}; "
                  f"disk: {limit(family['disk'] / first['disk'], ON_DISK)}")


def formula() -> None:
    """Peak cache of a network of 30 layers, as published and with what is dead dropped."""
    table = Table(title=f"peak cache by formula, {LAYERS} layers, the last 4 scales on a subnet", title_justify="left")
    for name in ("subnet", "kept to the end", "dropped when dead", ""):
        table.add_column(name, justify="left" if name in ("subnet", "") else "right")
    whole = LAYERS * sum(size * size for size in SIZES)
    for depth, most in PUBLISHED.items():
        schedule = [LAYERS] * SWITCH + [depth] * (len(SIZES) - SWITCH)
        kept, dropped = (100 * peak_rows(LAYERS, SIZES, schedule, drop=drop) / whole for drop in (False, True))
        table.add_row(f"d{depth}", f"{kept:.1f} %", f"{dropped:.1f} %", limit(round(dropped, 1), most, unit=" %"))
    console.print(table)


def tables(report: dict, options: argparse.Namespace, threads: str) -> None:
    rows = report["schedules"]
    whole = next(iter(rows.values()))
    title = (f"one image, {options.depth} layers of width {options.width}, {threads} thread(s), "
             f"{len(report['large'])} interleaved rounds; transformer and sampling, without the decoder")
    table = Table(title=title, title_justify="left")
    for name in ("schedule", "eager s", "bundle s", "eager / bundle\nmedian (min-max)", "cache MiB\neager",
                 "cache MiB\nbundle", "of full\nnetwork's", "by\nformula", "largest\ndifference"):
        table.add_column(name, justify="left" if name == "schedule" else "right")
    for name, row in rows.items():
        ratios = [eager / own for eager, own in zip(row["eager"], row["bundle"], strict=True)]
        schedule = [options.depth] * SWITCH + [int(name[1:])] * (len(SIZES) - SWITCH)
        share = peak_rows(options.depth, SIZES, schedule) / (options.depth * sum(size * size for size in SIZES))
        table.add_row(
            name, f"{statistics.median(row['eager']):.3f}", f"{statistics.median(row['bundle']):.3f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{row['eager_cache'] / 2**20:.1f}", f"{row['bundle_cache'] / 2**20:.1f}",
            f"{row['bundle_cache'] / whole['eager_cache']:.1%}", f"{share:.1%}", f"{row['difference']:.1e}")
    console.print(table)
    furthest = max(row["difference"] for row in rows.values())
    console.print(f"largest difference {furthest:.1e}: {limit(furthest, CLOSE)}")
    full = statistics.median(eager / own for eager, own in zip(whole["eager"], whole["bundle"], strict=True))
    console.print(f"at full depth {full:.2f} x as fast as eager: {limit(full, FASTER, least=True)}")
    for depth, most in MEASURED.items():
        if options.depth == 16 and f"d{depth}" in rows:
            share = round(100 * rows[f"d{depth}"]["bundle_cache"] / whole["eager_cache"], 1)
            console.print(f"measured peak cache with {depth} layers from scale {SWITCH} on: {share} %, "
                          f"{limit(share, most, unit=' %')}")
    bound(report, whole)
    switches = Table(title="the switch between two scales", title_justify="left")
    for name in ("to", "switch µs", "scale after it ms", "same scale of an image\nthat never switched ms"):
        switches.add_column(name, justify="left" if name == "to" else "right")
    for name, row in rows.items():
        if row["switch_us"] and int(name[1:]) < options.depth:
            switches.add_row(name, f"{statistics.median(row['switch_us']):.1f}",
                             f"{statistics.median(row['after_switch']) * 1e3:.1f}",
                             f"{statistics.median(row['unswitched']) * 1e3:.1f}")
    console.print(switches)


def bound(report: dict, whole: dict) -> None:
    """What of eager's time its matrix products are, which the bundle has to make too."""
    table = Table(title="matrix products of the linear layers, those of the conditioning left out",
                  title_justify="left", caption_justify="left",
                  caption="eager / this: how many times as fast as eager a program would be that did nothing else; at "
                  "peak: at the speed of one product of 2048 x 2048 matrices")
    for name in ("full depth", "s", "eager / this\nmedian (min-max)"):
        table.add_column(name, justify="left" if name == "full depth" else "right")
    rows = {"eager": whole["eager"], "bundle": whole["bundle"],
            **{f"its products alone, {name}": taken for name, taken in report["bare"].items()},
            "its products at peak": report["large"]}
    for name, taken in rows.items():
        ratios = [eager / this for eager, this in zip(whole["eager"], taken, strict=True)]
        table.add_row(name, f"{statistics.median(taken):.3f}",
                      f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

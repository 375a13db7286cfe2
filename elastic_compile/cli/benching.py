"""`elastic-compile bench`: how fast a bundle is, path by path, against PyTorch in the same run.

In: a bundle, and where it is at hand the module it comes from. Out: a table; times in ms, inferences per second.
Never: compares numbers from two runs.
"""
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from elastic_compile import bench
from elastic_compile.bundle.provenance import device, versions
from elastic_compile.cli import switching
from elastic_compile.cli.console import (
    AllowNative,
    Json,
    Source,
    Threads,
    out,
    progress,
    reporting,
    write_json,
)
from elastic_compile.cli.target import load_target
from elastic_runtime import load

_STATEFUL = dict.fromkeys(
    (bench.EAGER, bench.COMPILED), "the module keeps state from call to call, which cannot be set back for each call")


def _percentiles(text: str) -> str:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not all(0 <= value <= 100 for value in values):
        raise typer.BadParameter(f"given {text!r}, expected numbers from 0 to 100 such as 50,90,99")
    return text


@reporting
def bench_bundle(
    bundle: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="One or more bundles of the same program.",
                                                 show_default=False)],
    source: Source = None,
    threads: Threads = 1,
    warmup_ms: Annotated[float, typer.Option("--warmup-ms", min=0, help="Per path, before measuring.")] = 200.0,
    duration_s: Annotated[float, typer.Option("--duration-s", min=0, help="Of measuring, per path.")] = 3.0,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="At least this many, per path.")] = 10,
    percentiles: Annotated[str, typer.Option(
        "--percentiles", callback=_percentiles, metavar="P,P,...", help="Of the latency.")] = "50,90,99",
    seed: Annotated[int, typer.Option("--seed", help="Of the bundle's and of PyTorch's random generator.")] = 0,
    switch: Annotated[bool, typer.Option(
        "--switch", help="Time the subnets of a family, switching among them, and measure the memory they take; "
        "--source is then what `family` takes.")] = False,
    allow_native: AllowNative = False,
    json: Json = None,
) -> None:
    """Time every path of a bundle; with --source, against eager PyTorch and torch.compile, interleaved."""
    if switch:
        if len(bundle) != 1:
            raise typer.BadParameter("--switch takes one bundle, a family", param_hint="BUNDLE")
        switching.report(bundle[0], source, threads, duration_s, allow_native, json)
        return
    settings = bench.Settings(warmup_ms, duration_s, iterations, tuple(map(float, percentiles.split(","))))
    loaded = {path.name: load(path, threads=threads, allow_native=allow_native, seed=seed) for path in bundle}
    if len(loaded) < len(bundle):
        raise typer.BadParameter("two bundles have the same name", param_hint="BUNDLE")
    failed: dict[str, str] = {}
    with progress() as report:
        if source is None:
            models = {name: (model, bench.reference_calls(model)) for name, model in loaded.items()}
            others: dict[str, list[bench.Thunk]] = {}
        else:
            report("torch.compile", 0, None)
            module, calls = _examples(source, seed)
            models = {name: (model, bench.example_calls(model, calls)) for name, model in loaded.items()}
            others, failed = ({}, _STATEFUL) if any(map(bench.keeps_state, loaded.values())) else \
                bench.torch_calls(module, calls, threads)
        rows = bench.compare(models, others, settings, lambda done, total: report("measure", done, total))
    console = out(json)
    console.print(table(rows, settings.percentiles))
    for name, why in failed.items():
        console.print(f"{name} is missing: {why}", markup=False)
    write_json(json, {
        "bundles": [str(path) for path in bundle], "threads": threads, "settings": asdict(settings),
        "device": device(), "versions": versions(), "missing": failed,
        "paths": [{"path": list(row.path), "call": row.call, "host_us_per_region": dict(row.host_us),
                   "timings": {name: asdict(timing) for name, timing in row.timings.items()}} for row in rows],
    })


def table(rows: list[bench.PathTimings], percentiles: tuple[float, ...]) -> Table:
    """A line per path and contender; the first contender of a path is what the others are compared with."""
    made = Table(title="latency in ms", title_justify="left", header_style="bold", caption_justify="left",
                 caption="host: the time outside the engines' run calls, without what reading the clock adds")
    made.add_column("path", overflow="fold")
    made.add_column("run by")
    for percentile in percentiles:
        made.add_column(f"p{percentile:g}", justify="right")
    for name in ("inf/s", "speed-up", "host µs/region"):
        made.add_column(name, justify="right")
    for row in rows:
        base = next(iter(row.timings.values())).median_ms
        for number, (name, timing) in enumerate(row.timings.items()):
            host = row.host_us.get(name)
            made.add_row(
                path_text(row.path) if not number else "", name,
                *(f"{timing.percentiles_ms[percentile]:.4f}" for percentile in percentiles),
                f"{timing.throughput:.0f}", f"{base / timing.median_ms:.2f}×",
                "" if host is None else f"{host:.2f}", end_section=number == len(row.timings) - 1)
    return made


def path_text(path: tuple[int, ...], most: int = 8) -> str:
    """Blocks taken, the middle of a long path left out."""
    if len(path) <= most:
        return "→".join(map(str, path))
    return f"{'→'.join(map(str, path[:most - 2]))}→…→{path[-1]} ({len(path)} blocks)"


def _examples(source: str, seed: int) -> tuple[Any, list[tuple[tuple, dict[str, Any]]]]:
    module, examples = load_target(source)
    import torch

    from elastic_compile.capture.signature import normalise

    torch.manual_seed(seed)
    return module, [(call.args, call.kwargs) for call in normalise(examples)]

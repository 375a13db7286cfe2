"""`elastic-compile inspect`: a bundle as text or as a picture.

In: a bundle. Out: text, an SVG or PNG file. Never: runs a region for the text alone.
"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from elastic_compile.cli.console import AllowNative, Bundle, Json, Threads, out, reporting, write_json
from elastic_compile.inspect import render_sharing, render_text
from elastic_compile.inspect.text import cost
from elastic_runtime import Limits, Statistics, load
from elastic_runtime import latency_table as lt
from elastic_runtime.bundle_reader import BundleReader
from elastic_runtime.subjects import worst_ms

_RUNS = 20


@reporting
def inspect_bundle(
    bundle: Bundle,
    graph: Annotated[Path | None, typer.Option(
        "--graph", metavar="FILE", help="Draw the program as .svg or .png, with times and frequencies measured on "
        "the bundle's reference inputs.")] = None,
    subnet: Annotated[str | None, typer.Option("--subnet", metavar="NAME", help="Show, or draw, this one.")] = None,
    threads: Threads = 1,
    allow_native: AllowNative = False,
    json: Json = None,
) -> None:
    """Show the programs of a bundle: blocks, regions, branches and their source lines; what its subnets share."""
    if graph is not None and graph.suffix not in (".svg", ".png"):
        raise typer.BadParameter(f"given {graph.name!r}, expected a name that ends in .svg or .png",
                                 param_hint="--graph")
    with BundleReader(bundle, Limits()) as reader:
        programs, manifest, sharing = reader.programs, reader.manifest, reader.sharing()
        formation = reader.provenance().formation
        worst = _worst(reader)
    if subnet not in (None, *programs):
        raise typer.BadParameter(f"given {subnet!r}, expected one of {', '.join(programs)}", param_hint="--subnet")
    shown = [subnet] if subnet else list(programs)
    program = programs[shown[0]]
    size = next(entry.size for entry in manifest.files if entry.name == manifest.weights)
    statistics = None
    if graph is not None:
        statistics = _measure(bundle, shown[0], threads, allow_native)
        from elastic_compile.inspect.drawing import draw
        draw(program, graph, statistics)
    console = out(json)
    if len(programs) > 1:
        console.print(render_sharing(manifest.subnets, sharing, manifest.fallback, worst), markup=False)
    else:
        console.print(cost(manifest.subnets[0].budget, manifest.subnets[0].worst, worst[shown[0]]), markup=False)
    for name in shown:
        console.print(f"subnet {name}\n" if len(programs) > 1 else "", end="", markup=False)
        console.print(render_text(programs[name], statistics if name == shown[0] else None, weight_bytes=size,
                                  formation=formation),
                      end="" if name == shown[-1] else "\n", markup=False)
    if graph is not None:
        console.print(f"\ndrawing: {graph}", markup=False)
    write_json(json, {
        "bundle": str(bundle), "weight_bytes": size, "sharing": msgspec.to_builtins(sharing),
        "subnets": {one.name: {"config": one.config, "quality": one.quality,
                               "worst_regions": one.worst, "worst_ms": worst[one.name],
                               "program": msgspec.to_builtins(programs[one.name])} for one in manifest.subnets}})


def _worst(reader: BundleReader) -> dict[str, dict[str, float]]:
    """Per subnet, by the device of each of the bundle's tables, what its costliest path takes in ms where known."""
    digests = {entry.name: entry.sha256 for entry in reader.manifest.files}
    tables = [lt.parse(bytes(raw), file=name, damaged="mark") for name, raw in reader.tables().items()]
    found = {name: {table.device.name: worst_ms(program, digests, table) for table in tables}
             for name, program in reader.programs.items()}
    return {name: {device: ms for device, ms in by_device.items() if ms is not None}
            for name, by_device in found.items()}


def _measure(bundle: Path, subnet: str, threads: int, allow_native: bool) -> Statistics:
    """What the reference calls do, after one round to warm up."""
    model = load(bundle, threads=threads, allow_native=allow_native, self_test=True, profile=True)
    model.switch(subnet)
    for _ in range(_RUNS):
        for entry, inputs in model.reference_inputs():
            model.reset()
            model.call_flat(entry, inputs)
    return model.statistics()

"""`elastic-compile inspect`: a bundle as text or as a picture.

In: a bundle. Out: text, an SVG or PNG file. Never: runs a region for the text alone.
"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from elastic_compile.cli.console import AllowNative, Bundle, Json, Threads, out, reporting, write_json
from elastic_compile.inspect import render_text
from elastic_runtime import Limits, Statistics, load
from elastic_runtime.bundle_reader import BundleReader

_RUNS = 20


@reporting
def inspect_bundle(
    bundle: Bundle,
    graph: Annotated[Path | None, typer.Option(
        "--graph", metavar="FILE", help="Draw the program as .svg or .png, with times and frequencies measured on "
        "the bundle's reference inputs.")] = None,
    threads: Threads = 1,
    allow_native: AllowNative = False,
    json: Json = None,
) -> None:
    """Show the program of a bundle: blocks, regions, branches and their source lines."""
    if graph is not None and graph.suffix not in (".svg", ".png"):
        raise typer.BadParameter(f"given {graph.name!r}, expected a name that ends in .svg or .png",
                                 param_hint="--graph")
    with BundleReader(bundle, Limits()) as reader:
        program, manifest = reader.program, reader.manifest
    size = next(entry.size for entry in manifest.files if entry.name == manifest.weights)
    statistics = None
    if graph is not None:
        statistics = _measure(bundle, threads, allow_native)
        from elastic_compile.inspect.drawing import draw
        draw(program, graph, statistics)
    console = out(json)
    console.print(render_text(program, statistics, weight_bytes=size), end="", markup=False)
    if graph is not None:
        console.print(f"\ndrawing: {graph}", markup=False)
    write_json(json, {"bundle": str(bundle), "program": msgspec.to_builtins(program), "weight_bytes": size})


def _measure(bundle: Path, threads: int, allow_native: bool) -> Statistics:
    """What the reference calls do, after one round to warm up."""
    model = load(bundle, threads=threads, allow_native=allow_native, self_test=True, profile=True)
    for _ in range(_RUNS):
        for entry, inputs in model.reference_inputs():
            model.reset()
            model.call_flat(entry, inputs)
    return model.statistics()

"""`elastic-compile profile`: measures on this machine what a bundle or an elastic network is made of.

In: a bundle, or a `file.py:factory`. Out: a latency table, written as it grows.
Never: goes on with a table of another device, or calls an entry good that was taken under noise.
"""
from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from elastic_compile.cli import tables
from elastic_compile.cli.console import AllowNative, Json, Threads, out, progress, reporting, write_json
from elastic_compile.cli.target import load_target, made_by
from elastic_compile.profile import Elastic, measuring
from elastic_runtime import device, load, profiler, subjects
from elastic_runtime import latency_table as lt

STOPPED = 130


class _OrMeasure(TyperGroup):
    """`profile TARGET` is `profile measure TARGET`."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["measure", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_OrMeasure, no_args_is_help=True, help=(
    "Measure latencies on this machine: profile BUNDLE|FILE:FACTORY --device NAME -o TABLE (see: profile measure "
    "--help), and work with tables."))
app.command("diff")(reporting(tables.diff))
app.command("merge")(reporting(tables.merge))
app.command("csv")(reporting(tables.csv))
app.command("import")(reporting(tables.import_yaml))


@app.command("measure")
@reporting
def measure(
    target: Annotated[str, typer.Argument(
        metavar="BUNDLE|FILE:FACTORY", show_default=False,
        help="A bundle; or a function that returns (module, example_inputs) or an Elastic.")],
    name: Annotated[str, typer.Option("--device", help="What you call this machine.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="TABLE", help="Where the table goes. One that is "
                                                                               "there is gone on with.")],
    threads: Threads = 1,
    budget_s: Annotated[float, typer.Option("--budget-s", min=0.1, help="Seconds of measuring.")] = 120.0,
    precision: Annotated[float, typer.Option(
        "--precision", min=0.001, help="Half the 95 % interval of the median, relative, at which an entry is done.")]
    = 0.02,
    backend: Annotated[str, typer.Option(help="What compiles a factory's parts.")] = "onnxruntime",
    anchors: Annotated[int, typer.Option("--anchors", min=0, help="Whole random subnets of an elastic network.")] = 40,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of anchors.")] = 0,
    emulation: Annotated[str, typer.Option("--emulation", help="How this machine is restricted or slowed down, in "
                                                             "words.")] = "",
    memory: Annotated[bool, typer.Option(
        "--memory", help="The anchors' peak memory too, each in a process of its own.")] = False,
    samples: Annotated[bool, typer.Option("--samples", help="Store the raw samples too.")] = False,
    allow_native: AllowNative = False,
    json: Json = None,
) -> None:
    """Measure each distinct region, dispatch and whole subnets, until each median is known or the budget ends."""
    known = lt.load(output) if output.exists() else None
    settings = profiler.Settings(budget_s, precision, keep=samples)
    machine = device.describe(name, emulation=emulation)
    folder = output.with_name(f".{output.name}.work")
    with progress() as report:
        if Path(target).is_dir():
            engine, found = of_bundle(Path(target), folder, threads, allow_native)
        else:
            engine, found = backend, _of_factory(
                target, measuring.Compiler(backend, threads, folder), anchors, seed, memory)
        for number, subject in enumerate(found):
            if isinstance(subject, measuring.CompiledSubject):
                report("compile", number, len(found))
                subject.compile()
        outcome = profiler.measure(
            found, machine, profiler.environment(engine, threads), settings, known=known,
            save=lambda table: lt.save(table, output),
            progress=lambda key, done, total: report("measure", done, total))
    if not outcome.stopped and not outcome.left:
        shutil.rmtree(folder, ignore_errors=True)
    table = outcome.table
    flags = Counter(flag for entry in table.entries for flag in entry.flags)
    console = out(json)
    console.print(f"{len(table.entries)} entries in {output}" + "".join(f", {n} {flag}" for flag, n in flags.items()))
    for key, why in outcome.failed.items():
        console.print(f"failed: {key}: {why}", markup=False)
    if outcome.left:
        console.print(f"{len(outcome.left)} left out or noisy: the same command goes on with them")
    write_json(json, {"table": str(output), "entries": len(table.entries), "flags": flags,
                      "failed": dict(outcome.failed), "left": list(outcome.left), "stopped": outcome.stopped})
    if outcome.stopped:
        raise typer.Exit(STOPPED)


def of_bundle(path: Path, folder: Path, threads: int, allow_native: bool) -> tuple[str, list[profiler.Subject]]:
    """The engine of a bundle, and what to measure of it."""
    model = load(path, threads=threads, allow_native=allow_native)
    engine = subjects.engine_of(model)
    dispatch = measuring.dispatch(measuring.Compiler(engine, threads, folder))
    return engine, [dispatch, *subjects.of_bundle(path, model, threads=threads)]


def _of_factory(target: str, compiler: measuring.Compiler, anchors: int, seed: int,
                memory: bool) -> list[profiler.Subject]:
    """The parts and some subnets of an elastic network, or the regions of a module that is compiled for it."""
    given = made_by(target)
    if not isinstance(given, Elastic):
        module, calls = load_target(target)
        id = lt.content_id("subnet", {"target": target})
        path = compiler.ready(id, lambda: (module, calls))
        model = load(path, threads=compiler.threads, allow_native=True)
        return [measuring.dispatch(compiler), *subjects.of_bundle(path, model, threads=compiler.threads)]
    return measuring.of_elastic(compiler, given, anchors, seed, memory)

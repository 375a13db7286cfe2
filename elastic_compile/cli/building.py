"""`elastic-compile build`: from an elastic network and a device's table to one bundle for several budgets.

In: a `file.py:factory`, a latency table, budgets in ms. Out: a bundle with its own latency table.
Never: takes a table of another backend version for one of this, or ships a subnet that was not compared with eager
PyTorch and measured.
"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from elastic_compile.cli.console import Seed, Threads, out, progress, reporting
from elastic_compile.cli.searching import (
    Count,
    Evaluate,
    Insist,
    Profile,
    Target,
    Workers,
    _elastic,
    cache_of,
    spent,
)
from elastic_compile.inspect.text import bytes_text
from elastic_compile.profile import measuring
from elastic_runtime import latency_table as lt
from elastic_runtime import profiler


def _budgets(text: str) -> str:
    try:
        fine = all(float(part) > 0 for part in text.split(","))
    except ValueError:
        fine = False
    if not fine:
        raise typer.BadParameter(f"given {text!r}, expected milliseconds above 0 such as 5,10,20")
    return text


@reporting
def build_target(
    target: Target, profile: Profile,
    budgets_ms: Annotated[str, typer.Option("--budgets-ms", callback=_budgets, metavar="MS,MS,...")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="Where the bundle goes.")],
    memory_mb: Annotated[float | None, typer.Option(
        "--memory-mb", min=0, help="Most memory (10^6 bytes) that loading the bundle and calling every subnet takes "
        "at its peak, measured: subnets are left out, the largest first.")] = None,
    evaluations: Count = 1000,
    workers: Workers = 1,
    backend: Annotated[str, typer.Option(help="What compiles the regions.")] = "onnxruntime",
    threads: Threads = 1,
    measure_s: Annotated[float, typer.Option("--measure-s", min=0.1, help="Seconds of measuring the result.")] = 60.0,
    insist: Insist = False,
    seed: Seed = 0,
) -> None:
    """Search, choose the subnets to ship, compile them into one bundle, verify, measure, write the table into it."""
    from elastic_compile.elastic import compile_family
    from elastic_compile.search import SearchError, search
    from elastic_compile.search.shipping import LATENCY, QUALITY, problem, ship_set

    budgets = [float(part) for part in budgets_ms.split(",")]
    version = profiler.environment(backend, threads).version
    table = lt.load(profile, wanted=lt.Wanted(backend=backend, version=version, threads=threads), insist=insist)
    elastic = _elastic(target)
    asked = problem(elastic, table, ("latency", "quality"), (f"latency_ms<={max(budgets)}",), evaluate=Evaluate(target))
    console = out()
    with progress() as report:
        result = search(asked, evaluations, seed=seed, cache=cache_of(output, asked), workers=workers,
                        progress=lambda account: report("search", account.evaluations, evaluations))
        chosen = list(ship_set(result.evaluated, budgets))
        while True:
            family = compile_family(
                elastic.supernet, {one.name: one.candidate.configuration for one in chosen}, elastic.example_inputs,
                backend=backend, recalibrate=elastic.recalibrate,
                quality={one.name: one.candidate.values[QUALITY] for one in chosen}, progress=report)
            stored = family.sharing.stored
            if memory_mb is None:
                break
            peak = measuring.peak_bytes(family, threads)
            if peak <= memory_mb * 1e6:
                break
            if len(chosen) == 1:
                raise SearchError(f"{chosen[0].name} alone takes {peak / 1e6:.1f} MB at its peak",
                                  reason=f"the limit is {memory_mb:g} MB", hint="give a larger --memory-mb")
            console.print(f"left out for memory, with which the peak is {peak / 1e6:.1f} MB: {chosen.pop(0).name}")
        family, measured = measuring.with_table(
            family, table.device, threads, measure_s, lambda done, total: report("measure", done, total))
    family.save(output)
    entries = {entry.key: entry for entry in measured.entries if entry.kind == "subnet"}
    made = Table(header_style="bold", title="latency in ms", title_justify="left")
    for name in ("subnet", "budgets", "quality", "predicted", "measured", "peak MB", "holds"):
        made.add_column(name, justify="left" if name == "subnet" else "right")
    for one in chosen:
        entry = next(found for key, found in entries.items() if key.partition(" @ ")[0] == one.name)
        low, high = one.candidate.bounds[LATENCY]
        holds = entry.timing.ms <= min(one.budgets_ms)
        made.add_row(one.name, " ".join(f"{budget:g}" for budget in one.budgets_ms),
                     f"{one.candidate.values[QUALITY]:.4g}",
                     f"{one.candidate.values[LATENCY]:.3f} ({low:.3f} to {high:.3f})",
                     f"{entry.timing.ms:.3f}{' noisy' if lt.NOISY in entry.flags else ''}",
                     "" if entry.memory_bytes is None else f"{entry.memory_bytes / 1e6:.1f}", "yes" if holds else "no")
    console.print(made)
    most = "" if memory_mb is None else f", {peak / 1e6:.1f} MB at the peak of all"
    console.print(f"wrote {output}: {len(chosen)} subnets, {bytes_text(stored)} of weights{most}")
    console.print(spent(result))


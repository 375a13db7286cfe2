"""`elastic-compile bench --switch`: what it costs to have all subnets of a family at hand, and to change among them.

In: a family's bundle, and where it is at hand the supernet. Out: two tables; times in ms, memory in MiB.
Never: measures memory in a process that does something else, or compares times of two runs.

Against: each subnet loaded alone, a model for each of them in one process, and the supernet in eager PyTorch.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from elastic_compile import bench
from elastic_compile.bundle.provenance import device, versions
from elastic_compile.cli.console import out, progress, write_json
from elastic_compile.cli.target import load_family
from elastic_runtime import load
from elastic_runtime.bench import AfterSwitch, Timing, after_switch, interleave, switch_ns
from elastic_runtime.residence import Residence, measure

FAMILY, ALONE = "in the family", "alone"


def report(bundle: Path, source: str | None, threads: int, duration_s: float, allow_native: bool,
           json: Path | None) -> None:
    """Measure and print. `duration_s`: seconds per subnet. Raises `typer.BadParameter` for a bundle of one subnet."""
    with progress() as tell:
        tell("load", 0, None)
        model = load(bundle, threads=threads, allow_native=allow_native)
        names = model.subnets
        if len(names) < 2:
            raise typer.BadParameter(f"{bundle} has one subnet, and switching takes two", param_hint="BUNDLE")
        eager = _eager(source) if source else {}
        timings: dict[str, dict[str, Timing]] = {}
        for done, name in enumerate(names):
            tell("time", done, len(names))
            single = load(bundle, threads=threads, allow_native=allow_native, subnets=[name])
            model.switch(name)
            contenders = {FAMILY: _all(model), ALONE: _all(single)}
            if name in eager:
                contenders[bench.EAGER] = eager[name](threads)
            timings[name] = interleave(contenders, duration_s=duration_s)
        tell("switch", 0, None)
        calls = {}
        for name in names:
            model.switch(name)
            calls[name] = _all(model)
        after = after_switch(model, calls, duration_s=duration_s * len(names))
        nanoseconds = switch_ns(model)
        groups = {f"{count} of {len(names)} subnets": [names[:count]] for count in range(1, len(names) + 1)}
        groups[f"{len(names)} models of one subnet"] = [[name] for name in names]
        memory = {}
        for done, (title, group) in enumerate(groups.items()):
            tell("memory", done, len(groups))
            memory[title] = measure(bundle, group, threads=threads, allow_native=allow_native)
    console = out(json)
    console.print(f"switch() takes {nanoseconds:.0f} ns")
    console.print(_times(timings, after))
    console.print(_memory(memory))
    write_json(json, {
        "bundle": str(bundle), "threads": threads, "device": device(), "versions": versions(),
        "switch_ns": nanoseconds, "after_switch": {name: asdict(one) for name, one in after.items()},
        "timings": {name: {who: asdict(one) for who, one in row.items()} for name, row in timings.items()},
        "memory_mib": {title: {"runtime": one.runtime, "loaded": one.loaded, "run": one.run, "private": one.private,
                               "load_s": one.load_s} for title, one in memory.items()}})


def _all(model: Any) -> Callable[[], object]:
    """Runs the reference calls of the active subnet, one after the other."""
    calls = bench.reference_calls(model)
    return calls[0] if len(calls) == 1 else lambda: [call() for call in calls]


def _eager(source: str) -> dict[str, Callable[[int], Callable[[], object]]]:
    """Per subnet: given a number of threads, what runs its examples in PyTorch, activation included."""
    supernet, configs, examples, _ = load_family(source)
    import torch

    from elastic_compile.capture.signature import normalise
    from elastic_compile.elastic import examples_of, subnet_of

    def of(name: str, config: Any) -> Callable[[int], Callable[[], object]]:
        calls = normalise(examples_of(examples, name, config))
        kept = subnet_of(supernet, name, config) if callable(getattr(supernet, "subnet", None)) else None

        def start(threads: int) -> Callable[[], object]:
            torch.set_num_threads(threads)

            def run() -> None:
                module = subnet_of(supernet, name, config) if kept is None else kept
                with torch.no_grad():
                    for call in calls:
                        module(*call.args, **call.kwargs)
            return run
        return start

    return {name: of(name, config) for name, config in configs.items()}


def _times(timings: dict[str, dict[str, Timing]], after: dict[str, AfterSwitch]) -> Table:
    made = Table(title="latency in ms, medians", title_justify="left", header_style="bold", caption_justify="left",
                 caption="first: the run after a switch from another subnet; steady: those that follow; cold caches: a "
                         "run without a switch, after other memory of the size of all weights was read")
    made.add_column("subnet", overflow="fold")
    others = list(dict.fromkeys(name for row in timings.values() for name in row if name != FAMILY))
    made.add_column(FAMILY, justify="right")
    for name in others:
        made.add_column(name, justify="right")
        made.add_column("×", justify="right")
    for name in ("first", "steady", "penalty", "cold caches"):
        made.add_column(name, justify="right")
    for name, row in timings.items():
        inside, switched = row[FAMILY].median_ms, after[name]
        cells = [cell for other in others for cell in (
            (f"{row[other].median_ms:.4f}", f"{row[other].median_ms / inside:.2f}") if other in row else ("", ""))]
        made.add_row(name, f"{inside:.4f}", *cells, f"{switched.first_ms:.4f}", f"{switched.steady_ms:.4f}",
                     f"{100 * switched.penalty:+.1f} %",
                     f"{100 * switched.refill:+.1f} %")
    return made


def _memory(memory: dict[str, Residence]) -> Table:
    made = Table(title="memory in MiB after all have run (proportional set size)", title_justify="left",
                 header_style="bold", caption_justify="left",
                 caption="of the models: less what the runtime takes without a model")
    made.add_column("in one process")
    for name in ("whole", "of the models", "×", "private", "load, s"):
        made.add_column(name, justify="right")
    first = next(iter(memory.values()))
    for title, one in memory.items():
        made.add_row(title, f"{one.run:.1f}", f"{one.models:.1f}", f"{one.models / first.models:.2f}",
                     f"{one.private:.1f}", f"{one.load_s:.2f}")
    return made

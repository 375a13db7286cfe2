"""`elastic-compile family`: subnets of a supernet become one bundle.

In: `file.py:factory`. Out: a bundle, and what its subnets share. Never: leaves a bundle that was not compared with
eager PyTorch.
"""
from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from elastic_compile.cli.console import BudgetRegions, DeadlineMs, Json, out, progress, reporting, write_json
from elastic_compile.cli.target import budget_of, load_family
from elastic_compile.inspect.text import bytes_text, render_sharing


@reporting
def compile_family(
    target: Annotated[str, typer.Argument(
        metavar="FILE:FACTORY", show_default=False,
        help="A function that returns (supernet, {name: configuration}, example_inputs), or a fourth item: a dict of "
        "more arguments of compile_family, such as recalibrate and quality.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="Where the bundle goes.")],
    backend: Annotated[str, typer.Option(help="What compiles the regions: onnxruntime, tvm, one installed, or "
                                         "several with commas, of which the first that takes a region compiles it.")]
    = "onnxruntime",
    name: Annotated[str | None, typer.Option(help="The family's name. [default: the supernet's class]")] = None,
    budget: BudgetRegions = None,
    deadline_ms: DeadlineMs = None,
    fallback: Annotated[str | None, typer.Option(
        "--fallback", metavar="NAME", help="The subnet that gives the result of a call of another that its budget or "
        "deadline ends.")] = None,
    json: Json = None,
) -> None:
    """Compile subnets of a supernet into one bundle, compare each with eager PyTorch, and write it."""
    start = time.perf_counter()
    supernet, configs, examples, more = load_family(target)
    with progress() as report:
        report("import torch", 0, None)
        from elastic_compile.elastic import compile_family
        limit = budget_of(budget, deadline_ms)
        more = {**more, **({"budget": limit} if limit else {}), **({"fallback": fallback} if fallback else {})}
        family = compile_family(
            supernet, configs, examples, backend=backend, name=name, progress=report, **more)
        report("save", 0, None)
        family.save(output)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in output.iterdir())
    console = out(json)
    console.print(render_sharing(family.packed.subnets, family.sharing, family.fallback), markup=False)
    console.print(f"wrote {output} ({bytes_text(size)}) in {seconds:.1f} s")
    write_json(json, {
        "bundle": str(output), "name": family.name, "backend": backend, "seconds": seconds, "bytes": size,
        "subnets": list(family.programs), "sharing": msgspec.to_builtins(family.sharing)})

"""`elastic-compile compile`: a module becomes a bundle.

In: `file.py:factory`. Out: a bundle. Never: leaves a bundle that was not compared with eager PyTorch.
"""
from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from elastic_compile.cli.console import BudgetRegions, DeadlineMs, Json, out, progress, reporting, write_json
from elastic_compile.cli.target import budget_of, load_target, method
from elastic_compile.inspect.text import bytes_text, cost, summary
from elastic_runtime.worst import worst_path


@reporting
def compile_target(
    target: Annotated[str, typer.Argument(
        metavar="FILE:FACTORY", show_default=False,
        help="A function that returns (module, example_inputs), such as model.py:factory.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="Where the bundle goes.")],
    backend: Annotated[str, typer.Option(help="What compiles the regions: onnxruntime, tvm, one installed, or "
                                         "several with commas, of which the first that takes a region compiles it.")]
    = "onnxruntime",
    formation: Annotated[str, typer.Option(help="How regions are formed: split (between decisions), or auto (by what "
                                           "they cost on this machine).")] = "split",
    name: Annotated[str | None, typer.Option(help="The program's name. [default: the module's class]")] = None,
    budget: BudgetRegions = None,
    deadline_ms: DeadlineMs = None,
    fallback: Annotated[str | None, typer.Option(
        "--fallback", metavar="METHOD", help="The module's method, with the same arguments, that gives the result of a "
        "call that its budget or deadline ends.")] = None,
    onnx: Annotated[Path | None, typer.Option(
        "--onnx", metavar="FILE", help="Also write the program as one ONNX model with If and Loop.")] = None,
    dump_dir: Annotated[Path | None, typer.Option(
        "--dump-dir", help="Write every stage as readable files here.")] = None,
    json: Json = None,
) -> None:
    """Compile a module, compare it with eager PyTorch, and write the bundle."""
    start = time.perf_counter()
    module, examples = load_target(target)
    with progress() as report:
        report("import torch", 0, None)
        from elastic_compile.api import compile as compile_module
        program = compile_module(
            module, examples, backend=backend, formation=formation, name=name, dump_dir=dump_dir, progress=report,
            budget=budget_of(budget, deadline_ms), fallback=fallback and method(module, fallback))
        report("save", 0, None)
        program.save(output)
        one_file = None if onnx is None else program.save_onnx(onnx)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in output.iterdir())
    weights = sum(array.nbytes for array in program.weights.values())
    console = out(json)
    console.print(summary(program.program, weight_bytes=weights))
    console.print(cost(program.budget, worst_path(program.program)) + (
        f"; {fallback} takes over when a call exceeds it" if fallback else ""))
    console.print(f"verified on {len(program.reference.calls)} example calls; "
                  f"wrote {output} ({bytes_text(size)}) in {seconds:.1f} s")
    if one_file is not None:
        console.print(f"wrote {onnx} ({bytes_text(onnx.stat().st_size)}), compared on {one_file.calls} example calls; "
                      f"blocks that none of them takes: {', '.join(map(str, one_file.unchecked)) or 'none'}")
    write_json(json, {
        "bundle": str(output), "name": program.program.name, "backend": backend, "seconds": seconds,
        "bytes": size, "weight_bytes": weights, "blocks": len(program.program.blocks),
        "regions": len(program.program.regions), "examples": len(program.reference.calls),
        "paths": [list(call.path) for call in program.reference.calls],
    })

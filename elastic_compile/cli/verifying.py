"""`elastic-compile verify`: does a bundle compute what it should on this machine?

In: a bundle, and where it is at hand the module it comes from. Out: what was compared; status 1 for a difference.
Never: compares against anything but recorded or present eager PyTorch.
"""
from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from elastic_compile.cli.console import (
    AllowNative,
    Bundle,
    Json,
    Seed,
    Source,
    Threads,
    fail,
    out,
    progress,
    reporting,
    write_json,
)
from elastic_compile.cli.target import load_target
from elastic_runtime import Model, load
from elastic_runtime.errors import SelfTestFailed
from elastic_runtime.reference import replay


@reporting
def verify_bundle(
    bundle: Bundle,
    source: Source = None,
    random: Annotated[int, typer.Option(
        "--random", min=0, help="With --source: this many random variations of the example calls.")] = 50,
    seed: Seed = 0,
    threads: Threads = 1,
    allow_native: AllowNative = False,
    json: Json = None,
) -> None:
    """Replay the bundle's reference calls; with --source, compare with eager PyTorch on new inputs."""
    model = load(bundle, threads=threads, allow_native=allow_native, self_test=True)
    recorded = len(model.reference_inputs())
    console = out(json)
    console.print(f"reference calls: {recorded} of {recorded} as recorded")
    model.profile(False)
    report: dict[str, Any] = {"bundle": str(bundle), "reference_calls": recorded, "eager_calls": 0, "differences": []}
    if source is not None:
        report |= _against_eager(model, source, random, seed)
        equal = report["eager_calls"] - len(report["differences"])
        console.print(f"eager PyTorch: {equal} of {report['eager_calls']} calls equal, "
                      f"{report['blocks_visited']} of {len(model.program.blocks)} blocks visited")
    write_json(json, report)
    if report["differences"]:
        fail("VerificationError", "the bundle differs from eager PyTorch\n" + "\n".join(report["differences"][:5]))


def _against_eager(model: Model, source: str, count: int, seed: int) -> dict[str, Any]:
    """Make the same calls in both, in order, so that a state that calls leave behind is compared too."""
    module, examples = load_target(source)
    with progress() as report:
        report("import torch", 0, None)
        from elastic_compile import verify
        from elastic_compile.capture.signature import normalise, shapes
        from elastic_compile.perturb import varied

        function = module.forward if hasattr(module, "forward") else module
        calls = normalise(examples)
        calls = (*calls, *varied(shapes(function, calls), count, seed))
        reference, tensors = verify.reference_calls(function, shapes(function, calls))
        differences = []
        program, mode = model.program, 0
        for number, call in enumerate(reference.calls):
            report("compare", number, len(reference.calls))
            call = msgspec.structs.replace(call, entry=program.modes[mode].entries[call.entry])
            try:
                replay(model, msgspec.structs.replace(reference, calls=(call,)), tensors)
            except SelfTestFailed as error:
                differences.append(f"call {number}: {error.leaf} is {error.given}, eager gives {error.expected}")
                if program.modes[mode].state:
                    break  # what follows starts from another state
            mode = program.blocks[model.last_path[-1]].terminator.mode
    visited = sum(visits > 0 for visits in model.statistics().visits)
    return {"eager_calls": len(reference.calls), "differences": differences, "blocks_visited": visited}

"""`elastic-compile verify`: does a bundle compute what it should on this machine?

In: a bundle, and where it is at hand the module it comes from. Out: what was compared; status 1 for a difference.
Never: compares against anything but recorded or present eager PyTorch.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any

import msgspec
import typer

from elastic_compile.bundle import FALLBACK, ONLY
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
from elastic_compile.cli.target import TargetError, load_family, load_target
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
    console = out(json)
    report: dict[str, Any] = {"bundle": str(bundle), "subnets": {}}
    if source is not None:
        eager = _eager(source, model)
    differences = []
    for name in model.subnets:
        model.reset()
        model.switch(name)
        label = f"subnet {name}: " if len(model.subnets) > 1 else ""
        recorded = len(model.reference_inputs())
        console.print(f"{label}reference calls: {recorded} of {recorded} as recorded")
        one: dict[str, Any] = {"reference_calls": recorded, "eager_calls": 0, "differences": []}
        if source is not None and not (name == FALLBACK and ONLY in model.subnets):
            with eager(name) as (module, examples):
                one |= _against_eager(model, module, examples, random, seed)
            equal = one["eager_calls"] - len(one["differences"])
            console.print(f"{label}eager PyTorch: {equal} of {one['eager_calls']} calls equal, "
                          f"{one['blocks_visited']} of {len(model.program.blocks)} blocks visited")
        report["subnets"][name] = one
        differences += [label + difference for difference in one["differences"]]
    write_json(json, report | {"differences": differences})
    if differences:
        fail("VerificationError", "the bundle differs from eager PyTorch\n" + "\n".join(differences[:5]))


def _eager(source: str, model: Model) -> Callable[[str], AbstractContextManager[tuple[Any, Any]]]:
    """What gives a subnet's eager module, with the statistics that it was compiled with, and its example calls."""
    if model.subnets[0] == ONLY:
        made = load_target(source)
        return lambda name: nullcontext(made)
    supernet, configs, examples, more = load_family(source)
    if missing := [name for name in model.subnets if name not in configs]:
        raise TargetError(f"{source} has no configuration named {missing[0]}",
                          reason=f"the bundle's subnets are {', '.join(model.subnets)}")

    @contextmanager
    def subnet(name: str) -> Iterator[tuple[Any, Any]]:
        from elastic_compile.elastic import examples_of, own_statistics, subnet_of
        module = subnet_of(supernet, name, configs[name])
        with own_statistics(module, more.get("recalibrate")):
            yield module, examples_of(examples, name, configs[name])

    return subnet


def _against_eager(model: Model, module: Any, examples: Any, count: int, seed: int) -> dict[str, Any]:
    """Make the same calls in both, in order, so that a state that calls leave behind is compared too."""
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

"""The public entry point: a module and example calls in, a compiled program out.

In: an `nn.Module` (or a bound method, or a function) and example calls.
Out: a `CompiledProgram`, compared with eager PyTorch before it is handed over.
Never: changes the module, or returns a program that disagrees with it on an example.
"""
from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from elastic_compile import backends, bundle, dump, tuning
from elastic_compile.bundle.pack import NO_BUDGET
from elastic_compile.bundle.provenance import collect
from elastic_compile.capture.build import build
from elastic_compile.capture.explore import EntryInput, Exploration, explore, survey
from elastic_compile.capture.signature import normalise, shapes
from elastic_compile.errors import BackendError, ExampleError, Refusal, TrainingModeError
from elastic_compile.inspect import render_text
from elastic_compile.passes import STANDARD, run
from elastic_compile.passes.simplify import rename, rename_tree
from elastic_compile.program.ir import Program
from elastic_compile.verify import reference_calls, verify_compiled
from elastic_runtime import Statistics, schema
from elastic_runtime.worst import worst_path

if TYPE_CHECKING:
    from elastic_compile.onnx_file import OnnxFile

Progress = Callable[[str, int, "int | None"], None]
SPLIT, AUTO = "split", "auto"


@dataclass(frozen=True)
class CompiledProgram:
    """A compiled program, ready to save.

    `program` is what the runtime executes; `files` the region artefacts by file name; `weights` the store, each
    distinct tensor once; `reference` recorded eager calls over `reference_tensors`; `source` the same program
    before the backend, for reports; `host_ops` the functions that it calls, which no bundle holds; `budget` what a
    call may cost, and `fallback` the program that gives the result of one that would cost more.
    """

    program: schema.Program
    backend: str
    files: Mapping[str, bytes]
    weights: Mapping[str, np.ndarray]
    reference: schema.Reference
    reference_tensors: Mapping[str, np.ndarray]
    provenance: schema.Provenance
    source: Program
    host_ops: Mapping[str, Callable[..., Any]]
    budget: schema.Budget = NO_BUDGET
    fallback: CompiledProgram | None = None

    def inspect(self) -> str:
        """The host program as a person reads it: blocks, regions, branches, source lines."""
        return render_text(self.program, weight_bytes=sum(array.nbytes for array in self.weights.values()),
                           formation=self.provenance.formation)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bundle at `path` (a directory), atomically; an existing bundle there is replaced."""
        other = self.fallback
        bundle.write(path, bundle.pack(
            self.program.name, [self.member(bundle.ONLY), *([other.member(bundle.FALLBACK)] if other else [])],
            {**self.files, **(other.files if other else {})}, self.provenance,
            fallback=bundle.FALLBACK if other else ""))

    def member(
        self, name: str, config: Mapping[str, bool | int | float | str] | None = None, quality: float | None = None
    ) -> bundle.Member:
        """The program as the subnet `name` of a bundle."""
        return bundle.Member(name, self.program, self.weights, self.reference, self.reference_tensors, config or {},
                             quality, self.budget)

    def save_onnx(self, path: str | os.PathLike[str]) -> OnnxFile:
        """Write the program as one ONNX model with `If` and `Loop`, for hosts in other languages, and compare it on the
        reference calls. Raises `OnnxFileError` for what ONNX cannot say."""
        from elastic_compile import onnx_file  # it imports the ONNX exporter, which no other backend needs

        return onnx_file.write(self, path)


def compile(
    module_or_bound_method: Any,
    example_inputs: Sequence[Any],
    *,
    backend: str | backends.Backend = "onnxruntime",
    formation: str = SPLIT,
    recorded: Statistics | None = None,
    name: str | None = None,
    dump_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    budget: schema.Budget | None = None,
    fallback: Callable[..., Any] | None = None,
) -> CompiledProgram:
    """Compile a network, every path of it.

    `example_inputs`: a list of calls; a call is a tuple of positional arguments, or `ec.call(*args, **kwargs)`.
    Tensors in the examples are run-time inputs of that dtype and shape; Python numbers that differ between examples
    are run-time scalars; everything else is fixed, and a later call with another value is refused by the runtime.
    `backend`: the name of one, or one that is at hand; of "tvm,onnxruntime" the first that takes a region compiles it.

    `formation`: "split" makes each stretch between two decisions a region. "auto" measures the regions on this machine
    and if-converts, tail-duplicates or speculates branches where that lowers the latency of the example calls; the
    result is timed against the split program and only kept when faster. `recorded`: what `Model.statistics()` says of
    a run of the split program, for how often branches go which way, in place of the example calls.

    `budget`: how many regions a call may run and how long it may take, looked at between regions; the application
    may set others. `fallback`: a cheap way to a result, a bound method or function with the module's arguments, that
    is compiled beside it and runs when a call exceeds its budget; neither may keep state between calls, and the
    fallback must have no loop without a bound.

    Raises `ExampleError`, `TrainingModeError`, `Refusal` (a construct that is not accepted, with its position),
    `BackendUnavailable`, `BackendError`, `VerificationError`.
    """
    report = progress or (lambda stage, done, total: None)
    engine = backends.get(backend) if isinstance(backend, str) else backend
    if formation not in (SPLIT, AUTO):
        raise ExampleError(f"formation is {formation!r}", reason="there are two ways of forming regions",
                           hint='write formation="split" or formation="auto"')
    with torch.no_grad():
        captured = _capture(module_or_bound_method, example_inputs, name, dump_dir, report)

        def finish(program: Program) -> CompiledProgram:
            """Compile the regions, bind them, and compare with eager PyTorch."""
            made = captured.compiled(program, engine, formation, report)
            report("verify", 0, None)
            return verify_compiled(made, native=engine.native)

        result = finish(captured.program)
        if formation == AUTO:
            report("form regions", 0, None)
            result = tuning.fastest(result, finish, engine, recorded)
    if budget is not None:
        result = dataclasses.replace(result, budget=budget)
    if fallback is None:
        return result
    other = compile(fallback, example_inputs, backend=engine, name=f"{captured.program.name}.{bundle.FALLBACK}",
                    progress=progress)
    check_fallback(bundle.FALLBACK, other, [result])
    return dataclasses.replace(result, fallback=other, host_ops={**result.host_ops, **other.host_ops})


def unverified(
    module_or_bound_method: Any, example_inputs: Sequence[Any], *, backend: backends.Backend, name: str,
    progress: Progress | None = None,
) -> CompiledProgram:
    """What `compile` makes before it compares: its caller is to do that (`elastic_compile.verify.verified`). Raises as
    `compile` does."""
    report = progress or (lambda stage, done, total: None)
    with torch.no_grad():
        captured = _capture(module_or_bound_method, example_inputs, name, None, report)
        return captured.compiled(captured.program, backend, SPLIT, report)


@dataclass(frozen=True)
class _Captured:
    """A captured program, what eager PyTorch gives for the example calls, and where it comes from."""

    program: Program
    reference: schema.Reference
    tensors: Mapping[str, np.ndarray]
    exploration: Exploration
    stages: dump.Stages

    def compiled(self, program: Program, engine: backends.Backend, formation: str, report: Progress) -> CompiledProgram:
        """`program`, a form of the captured one, with its regions compiled. Raises `BackendError`."""
        try:
            compiled = engine.compile(
                tuning.sources(program), lambda done, total, region: report("compile", done, total))
        except BackendError as error:
            raise located(error, program) from error.__cause__
        self.stages.regions(program, compiled)
        made = assemble(program, compiled)
        return CompiledProgram(
            program=made.program, backend=engine.name, files=made.files, weights=made.weights,
            reference=self.reference, reference_tensors=dict(self.tensors), source=program,
            provenance=collect(
                [template.source for template in self.exploration.hooks.templates],
                {"backend": engine.name, "formation": formation}),
            host_ops={name: one.function for name, one in self.exploration.tracer.host_functions.items()},
        )


def _capture(
    module_or_bound_method: Any, example_inputs: Sequence[Any], name: str | None,
    dump_dir: str | os.PathLike[str] | None, report: Progress,
) -> _Captured:
    module, function = _target(module_or_bound_method)
    title = name or type(module).__name__ if module is not None else name or function.__name__
    calls = normalise(example_inputs)
    _check_mode(module)
    entry_shapes = shapes(function, calls)
    exploration = explore(
        module_or_bound_method,
        [EntryInput(shape.leaves, shape.arguments) for shape in entry_shapes],
        [*([("self", module)] if module is not None else []), ("", function)],
        lambda segments: report("capture", segments, None),
    )
    program = build(title, exploration, [shape.params for shape in entry_shapes])
    stages = dump.Stages(dump_dir)
    stages.rewritten(exploration.hooks)
    stages.program("captured", program)
    program = run(program, STANDARD, stages.program)
    with exploration.preserved():
        reference, tensors = reference_calls(function, entry_shapes)
    return _Captured(program, reference, tensors, exploration, stages)


def refusals(
    module_or_bound_method: Any, example_inputs: Sequence[Any], *, progress: Progress | None = None
) -> tuple[Refusal, ...]:
    """Everything in a network that `compile` refuses, in the order of the source, not only the first. Behind a refused
    operation the search goes on with a result of the same type. Raises `ExampleError`, `TrainingModeError`."""
    report = progress or (lambda stage, done, total: None)
    module, function = _target(module_or_bound_method)
    calls = normalise(example_inputs)
    _check_mode(module)
    try:
        entry_shapes = shapes(function, calls)
    except Refusal as refusal:
        return (refusal,)
    with torch.no_grad():
        return survey(
            module_or_bound_method,
            [EntryInput(shape.leaves, shape.arguments) for shape in entry_shapes],
            [*([("self", module)] if module is not None else []), ("", function)],
            lambda segments: report("capture", segments, None),
        )


def check_fallback(name: str, fallback: CompiledProgram, others: Sequence[CompiledProgram]) -> None:
    """Raise `ExampleError` where `fallback` cannot take over from any of `others` at any time."""
    keeps = [one for one in (fallback, *others) if len(one.program.modes) > 1 or one.program.modes[0].state]
    if keeps:
        raise ExampleError(
            f"{keeps[0].program.name} keeps state between calls, and {name} is declared as a fallback",
            reason="a call that is ended half way leaves no state that the fallback could go on from",
            hint="leave the fallback out and catch DeadlineExceeded, or pass the state as arguments")
    if worst_path(fallback.program) is None:
        raise ExampleError(
            f"the fallback {name} has a loop that only the data ends",
            reason="it runs without a deadline, so what it costs must be known",
            hint="choose a way without a loop, or with a loop over a range that is fixed")


def located(error: BackendError, program: Program) -> BackendError:
    """A backend's refusal with the user's line: that of the operation it names, else the first of its region."""
    region = re.search(r"region_(\d+)", error.message)
    if region and not error.file:
        ops = program.graphs[int(region[1])].ops
        named = next((op for op in ops if str(op.target) in error.message), ops[0] if ops else None)
        if named is not None and named.source >= 0:
            place = program.sources[named.source]
            error.file, error.line, error.source, error.width = place.file, place.line, place.text, len(place.text)
    return error


@dataclass(frozen=True)
class Assembled:
    """A program bound to its compiled regions, with the files and weights that these need."""

    program: schema.Program
    files: Mapping[str, bytes]
    weights: Mapping[str, np.ndarray]


def assemble(program: Program, compiled: Sequence[backends.CompiledRegion]) -> Assembled:
    """Bind regions to files and to a weight store in which each distinct tensor stands once."""
    files: dict[str, bytes] = {}
    names: dict[bytes, str] = {}
    store: dict[str, np.ndarray] = {}
    stored: dict[Any, str] = {}
    known: dict[str, str] = {}

    def file_of(data: bytes, role: str) -> str:
        digest = hashlib.sha256(data).digest()
        if digest not in names:
            names[digest] = f"{role}-{digest.hex()[:16]}.bin"
            files[names[digest]] = data
        return names[digest]

    def tensor_of(weight: str) -> str:
        if weight not in known:
            array = program.weights[weight].detach().cpu().resolve_conj().resolve_neg().numpy()
            bits = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            key = (str(array.dtype), array.shape, hashlib.sha256(bits).digest())
            if key not in stored:
                stored[key] = weight
                store[weight] = array
            known[weight] = stored[key]
        return known[weight]

    regions = tuple(
        schema.Region(
            name=one.name, engine=one.engine, files={role: file_of(data, role) for role, data in one.payload.items()},
            inputs=one.inputs, outputs=one.outputs,
            weights=tuple(schema.WeightUse(name=n, tensor=tensor_of(w)) for n, w in one.weights.items()),
            options=dict(one.options), ops=one.ops,
        )
        for one in compiled
    )
    host = schema.Program(
        name=program.name, values=program.values, blocks=program.blocks, entries=program.entries, regions=regions,
        modes=program.modes, initial=program.initial, sources=program.sources, host_ops=program.host_ops,
    )
    host = msgspec.structs.replace(
        _compact_values(host), initial=tuple(tensor_of(weight) for weight in program.initial))
    return Assembled(host, files, store)


def _compact_values(program: schema.Program) -> schema.Program:
    """The program with only the values that its blocks define, numbered in order."""
    order = [v for block in program.blocks for v in (*block.params, *(o for s in block.steps for o in s.outputs))]
    numbers = {value: i for i, value in enumerate(order)}
    blocks = tuple(
        schema.Block(
            params=tuple(numbers[p] for p in block.params), steps=tuple(rename(s, numbers) for s in block.steps),
            terminator=rename(block.terminator, numbers), label=block.label,
        )
        for block in program.blocks
    )
    entries = tuple(
        schema.Entry(
            name=entry.name, block=entry.block, inputs=tuple(numbers[i] for i in entry.inputs),
            params=tuple(
                schema.Parameter(name=p.name, kind=p.kind, default=p.default, tree=rename_tree(p.tree, numbers))
                for p in entry.params
            ),
        )
        for entry in program.entries
    )
    return schema.Program(
        name=program.name, values=tuple(program.values[v] for v in order), blocks=blocks, entries=entries,
        regions=program.regions, modes=program.modes, initial=program.initial, sources=program.sources,
        host_ops=program.host_ops,
    )


def _target(target: Any) -> tuple[torch.nn.Module | None, Callable[..., Any]]:
    """The module and the function whose signature the calls bind to."""
    if isinstance(target, torch.nn.Module):
        return target, target.forward
    if isinstance(target, types.MethodType) and isinstance(target.__self__, torch.nn.Module):
        return target.__self__, target
    if inspect.isfunction(target) or inspect.ismethod(target):
        return None, target
    raise ExampleError(
        f"cannot compile a {type(target).__name__}", reason="the compiler takes an nn.Module, a bound method or a "
        "function", hint="pass the module itself, or module.method",
    )


def _check_mode(module: torch.nn.Module | None) -> None:
    if module is None:
        return
    for path, part in module.named_modules():
        if part.training:
            where = path or "the module"
            raise TrainingModeError(
                f"{where} ({type(part).__name__}) is in training mode",
                reason="dropout and batch statistics behave differently in training, and a bundle runs inference",
                hint="call module.eval() first",
            )

"""The correctness gate: what was compiled is compared with eager PyTorch before anyone gets it.

In: the user's function, its example calls, and the compiled program.
Out: the program, with reference calls recorded by eager PyTorch and the paths that the runtime took on them.
Never: loosens a tolerance. Floats: rtol 1e-3, atol 1e-4 (float16: 1e-2); everything else exactly equal. On data that
only forced branches lead to, what PyTorch itself decides by its rounding is not compared.
"""
from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

import elastic_runtime as er
from elastic_compile.capture.signature import CallShape
from elastic_compile.capture.structure import take_apart, to_schema
from elastic_compile.errors import VerificationError
from elastic_compile.program.export import run_eager
from elastic_compile.program.ir import Program, jumps
from elastic_compile.program.rounding import undecided, unsolved
from elastic_runtime import schema

if TYPE_CHECKING:
    from elastic_compile.api import CompiledProgram

RTOL, ATOL = 1e-3, 1e-4
RUNS_PER_BLOCK = 2


def reference_calls(
    function: Any, shapes: Sequence[CallShape]
) -> tuple[schema.Reference, dict[str, np.ndarray]]:
    """Run every example call in eager PyTorch, in order, and record what it gives. A call's `entry` counts the shapes;
    `verify_compiled` turns it into the entry of the mode that the calls before leave."""
    tensors: dict[str, np.ndarray] = {}
    calls: list[schema.ReferenceCall] = []

    def store(array: np.ndarray) -> str:
        name = f"t{len(tensors)}"
        tensors[name] = np.array(array, order="C")
        return name

    for entry, shape in enumerate(shapes):
        for one in shape.calls:
            leaves = shape.leaves_of(one)
            inputs = tuple(store(_array(leaf)) for leaf in leaves)
            args, kwargs = shape.arguments([_fresh(leaf) for leaf in leaves], one)
            outputs: list[str] = []
            try:
                with torch.no_grad():
                    result = function(*args, **kwargs)
            except Exception as error:
                calls.append(schema.ReferenceCall(
                    entry=entry, inputs=inputs, outputs=(), result=schema.ConstLeaf(v=None),
                    raises=type(error).__name__,
                ))
                continue
            tree = _result_tree(result, outputs, store)
            calls.append(schema.ReferenceCall(entry=entry, inputs=inputs, outputs=tuple(outputs), result=tree))
    return schema.Reference(tensors="reference.safetensors", calls=tuple(calls), rtol=RTOL, atol=ATOL), tensors


def verify_compiled(result: CompiledProgram, native: bool) -> CompiledProgram:
    """Load the program as an application would, and see that it is `verified`."""
    with tempfile.TemporaryDirectory(prefix="elastic-verify-") as directory:
        path = Path(directory) / "verify.elastic"
        result.save(path)
        return verified(result, er.load(path, allow_native=native, host_ops=result.host_ops, cache=False))


def verified(result: CompiledProgram, model: er.Model) -> CompiledProgram:
    """Replay the reference calls in `model`, which runs the program and is as it was loaded, and run every block with
    both outcomes of every branch against eager PyTorch. The reference calls receive the entries and paths that they
    take.

    A program that draws random numbers has no eager result to equal: its references are its own, with the seed 0 that
    the self-test uses, and its blocks are compared on the numbers drawn.

    Raises VerificationError naming the first difference.
    """
    random = any(isinstance(step, schema.RandomStep) for block in result.program.blocks for step in block.steps)
    model.seed(0)
    calls = []
    mode = 0
    for number, call in enumerate(result.reference.calls):
        call = msgspec.structs.replace(call, entry=result.program.modes[mode].entries[call.entry])
        if random:
            call = own_reference(model, call, result.reference_tensors)
            calls.append(call)
            mode = result.program.blocks[call.path[-1]].terminator.mode
            continue
        one = msgspec.structs.replace(result.reference, calls=(call,))
        try:
            er.reference.replay(model, one, result.reference_tensors)
        except er.SelfTestFailed as error:
            raise VerificationError(
                f"the compiled program differs from eager PyTorch on example call {number}", reason=str(error),
                hint="this is a defect of the compiler or of the backend; compile with dump_dir= and report it",
            ) from error
        calls.append(msgspec.structs.replace(call, path=tuple(model.last_path)))
        mode = result.program.blocks[model.last_path[-1]].terminator.mode
    reference = msgspec.structs.replace(result.reference, calls=tuple(calls))
    check_blocks(result.source, result.program, model, reference, result.reference_tensors)
    if random:
        result = without_unused(result, reference)
    return dataclasses.replace(result, reference=reference)


def own_reference(
    model: Any, call: schema.ReferenceCall, tensors: dict[str, np.ndarray]
) -> schema.ReferenceCall:
    """The call with what the compiled program itself gives. `tensors` receives it."""
    outputs: list[str] = []

    def store(array: np.ndarray) -> str:
        tensors[f"t{len(tensors)}"] = np.array(array, order="C")
        return f"t{len(tensors) - 1}"

    try:
        result = model.call_flat(call.entry, er.reference.inputs(model.program, call, tensors))
    except er.ModelRaised as error:
        return msgspec.structs.replace(
            call, outputs=(), result=schema.ConstLeaf(v=None), raises=error.type, path=tuple(model.last_path))
    tree = _result_tree(result, outputs, store)
    return msgspec.structs.replace(
        call, outputs=tuple(outputs), result=tree, raises="", path=tuple(model.last_path))


def without_unused(result: CompiledProgram, reference: schema.Reference) -> CompiledProgram:
    """The program without the reference tensors that no call names."""
    used = {name for call in reference.calls for name in (*call.inputs, *call.outputs)}
    return dataclasses.replace(
        result, reference_tensors={name: t for name, t in result.reference_tensors.items() if name in used})


def check_blocks(
    source: Program, program: schema.Program, model: Any, reference: schema.Reference,
    tensors: dict[str, np.ndarray],
) -> set[int]:
    """Run every block reachable by forcing branch outcomes, and compare each region in it with the captured
    operations run by PyTorch on the same data. Returns the blocks that were run."""
    def shape_of(call: schema.ReferenceCall) -> int:
        return next(mode.entries.index(call.entry) for mode in program.modes if call.entry in mode.entries)

    def enter(mode: int, state: Sequence[Any], natural: bool) -> None:
        for call in reference.calls:
            block = program.entries[program.modes[mode].entries[shape_of(call)]].block
            queue.append((block, (*er.reference.inputs(program, call, tensors), *state), natural))

    queue: deque[tuple[int, tuple[Any, ...], bool]] = deque()
    enter(0, [
        source.weights[name].item() if isinstance(kind, schema.ScalarType) else _array(source.weights[name])
        for name, kind in zip(source.initial, program.modes[0].state)
    ], True)
    visits: dict[int, int] = {}
    while queue:
        number, args, natural = queue.popleft()
        if visits.get(number, 0) >= RUNS_PER_BLOCK:
            continue
        visits[number] = visits.get(number, 0) + 1
        try:
            ran = model.run_block(number, args)
        except er.ElasticRuntimeError:
            if _eager_block_fails(source, program, number, args):
                continue
            raise
        block = program.blocks[number]
        for index, step in enumerate(block.steps):
            if isinstance(step, schema.RegionStep):
                _check_region(source, number, index, step, ran.values, natural)
        end = block.terminator
        if isinstance(end, (schema.Return, schema.Raise)) and end.mode:
            enter(end.mode, [ran.values[v] for v in end.carry], natural)
        for jump in jumps(end):
            taken = natural and jump.block == ran.next
            (queue.appendleft if taken else queue.append)(
                (jump.block, tuple(ran.values[v] for v in jump.args), taken))
    return set(visits)


def _check_region(
    source: Program, block: int, index: int, step: schema.RegionStep, values: dict[int, Any], natural: bool
) -> None:
    """Compare one region on the data at hand. On data that was forced past a branch which it would not take, PyTorch
    may refuse to compute at all: then there is nothing to compare."""
    graph = source.graphs[step.region]
    inputs = [torch.from_numpy(np.array(values[v])) for v in step.inputs]
    try:
        expected = run_eager(source, graph, inputs)
    except (RuntimeError, IndexError):
        if natural:
            raise
        return
    either: list[torch.Tensor] | None = None
    for place, (value, wanted) in enumerate(zip(step.outputs, expected)):
        given, wanted_array = np.asarray(values[value]), _array(wanted)
        if same(given, wanted_array):
            continue
        if either is None:
            either = (unsolved(source, graph, inputs, expected) if natural
                      else undecided(source, graph, inputs, expected, RTOL, ATOL))
        if not same(given, wanted_array, ~either[place].numpy()):
            raise VerificationError(
                f"region {step.region} in block {block} differs from eager PyTorch",
                reason=difference(given, wanted_array),
                hint="this is a defect of the backend; compile with dump_dir= and report it",
            )


def _eager_block_fails(source: Program, program: schema.Program, number: int, args: tuple[Any, ...]) -> bool:
    """Whether PyTorch cannot run the block on this data either (a forced branch whose data would never take it)."""
    values = dict(zip(program.blocks[number].params, args))
    for step in program.blocks[number].steps:
        if not isinstance(step, schema.RegionStep):
            return True
        try:
            inputs = [torch.from_numpy(np.array(values[v])) for v in step.inputs]
            outputs = run_eager(source, source.graphs[step.region], inputs)
        except (RuntimeError, IndexError, KeyError):
            return True
        values.update(zip(step.outputs, map(_array, outputs)))
    return False


def same(given: np.ndarray, expected: np.ndarray, where: np.ndarray | None = None) -> bool:
    """Equal in dtype and shape, and in data: floats within the tolerances, everything else exactly. `where` is a mask
    of the data that counts."""
    if given.dtype != expected.dtype:
        return False
    if given.shape != expected.shape:
        return where is not None and not where.any()
    if given.dtype.kind in "fc":
        loose = 10 if given.dtype == np.float16 else 1
        alike = np.isclose(given, expected, rtol=RTOL * loose, atol=ATOL * loose, equal_nan=True)
    else:
        alike = given == expected
    return bool(np.all(alike if where is None else alike | ~where))


def difference(given: np.ndarray, expected: np.ndarray) -> str:
    """How two arrays differ, for a message."""
    if given.dtype != expected.dtype or given.shape != expected.shape:
        return f"got {given.dtype}{list(given.shape)}, expected {expected.dtype}{list(expected.shape)}"
    if given.dtype.kind in "fc":
        gap = np.abs(given - expected)
        where = np.unravel_index(int(np.nanargmax(gap)), gap.shape) if gap.size else ()
        return f"largest difference {np.nanmax(gap):.3g} at {[int(i) for i in where]}, of values up to " \
               f"{np.nanmax(np.abs(expected)):.3g}"
    return f"{int(np.sum(given != expected))} of {given.size} elements differ"


def _fresh(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else copy.deepcopy(leaf)


def _array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().cpu().numpy()
    return np.asarray(leaf)


def _result_tree(value: Any, outputs: list[str], store: Any) -> schema.Tree:
    """The structure of an eager result, with its tensors and numbers stored."""

    def leaf(item: Any) -> schema.Tree | None:
        if isinstance(item, (torch.Tensor, np.ndarray)) or type(item) in (bool, int, float):
            outputs.append(store(_array(item)))
            return schema.ValueLeaf(id=len(outputs) - 1)
        return None

    return to_schema(take_apart(value, lambda item: item), leaf)

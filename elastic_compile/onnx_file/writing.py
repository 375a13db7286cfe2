"""Writes a program as one ONNX file, and compares it.

In: a compiled program (any backend: regions are translated from their captured operations).
Out: the file, with its weights inside, or beside it in `<name>.data` where they exceed what a protobuf holds.
Never: writes a file that ONNX Runtime did not run on the reference calls with equal results.

Inputs and outputs are named by their place in the call's arguments and result (`x`, `mask[0]`, `out.logits`). A host
scalar is a 0-d bool, int64 or float64 tensor. State is an input `state.<i>`, whose default is the first state, and an
output `next_state.<i>`, which the host gives to the next call. The metadata property `elastic_compile.result` holds the
result's structure: JSON in which a leaf {"output": name} is an output and anything else a constant.
"""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import helper

from elastic_compile.backends import RegionSource, onnx_export
from elastic_compile.errors import OnnxFileError
from elastic_compile.onnx_file import scalars
from elastic_compile.onnx_file.control import EXIT, RAISE, Control, Irreducible, Outcome
from elastic_compile.onnx_file.graph import Builder, Kind, Listed, Text, described, dtype_of, rank_of
from elastic_compile.program.export import export
from elastic_compile.program.ir import Program
from elastic_runtime import schema
from elastic_runtime.binding import builder
from elastic_runtime.reference import compare

if TYPE_CHECKING:
    from elastic_compile.api import CompiledProgram

INLINE_BYTES = 1 << 30
"""Weights of more than this stand in a file of their own: a protobuf holds less than 2 GiB."""

RESULT = "elastic_compile.result"


@dataclass(frozen=True)
class OnnxFile:
    """What was written. `calls`: reference calls compared; `unchecked`: blocks of the program that none of them takes,
    whose regions were compared with eager PyTorch when the program was compiled, but not in this file."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: int
    unchecked: tuple[int, ...]


def write(compiled: CompiledProgram, path: str | os.PathLike[str]) -> OnnxFile:
    """Write `compiled` to `path` and, where its weights need it, `<path>.data`; existing files are replaced.

    Raises `OnnxFileError`, with the line where there is one, for what ONNX cannot say (random numbers, host functions,
    several signatures, static states that change, results whose structure depends on the path, loops with two entries)
    and when ONNX Runtime's results differ; `BackendError` for an operator that ONNX lacks; OSError.
    """
    path = Path(path)
    writer = _Writer(compiled.source)
    model = writer.model()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.part-") as folder:
        made = Path(folder) / path.name
        large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > INLINE_BYTES
        onnx.save_model(model, made, save_as_external_data=large, location=f"{path.name}.data")
        calls, taken = _check(made, writer, compiled)
        for file in sorted(made.parent.iterdir(), key=lambda file: file == made):
            os.replace(file, path.with_name(file.name))
    return OnnxFile(path, writer.input_names, writer.output_names, calls,
                    tuple(sorted(set(range(len(compiled.program.blocks))) - taken)))


def leaf_names(tree: schema.Tree, name: str) -> Iterator[tuple[str, schema.Tree]]:
    """The leaves of a tree with their places, as Python writes them."""
    if isinstance(tree, (schema.ValueLeaf, schema.ConstLeaf, schema.FloatLeaf)):
        yield name, tree
        return
    for key, item in zip(_keys(tree), tree.items, strict=True):
        yield from leaf_names(item, name + key)


def _aligned(trees: Sequence[schema.Tree], place: str) -> Iterator[tuple[str, tuple[schema.Tree, ...]]]:
    """The places where all trees have a leaf, or sequences of several lengths, with what each has there.

    Raises `_Differ` where their structures differ otherwise.
    """
    first = trees[0]
    if isinstance(first, (schema.ValueLeaf, schema.ConstLeaf, schema.FloatLeaf)):
        if not all(isinstance(tree, (schema.ValueLeaf, schema.ConstLeaf, schema.FloatLeaf)) for tree in trees):
            raise _Differ(place)
        yield place, tuple(trees)
        return
    if any(type(tree) is not type(first) or getattr(tree, "kind", "") != getattr(first, "kind", "") for tree in trees):
        raise _Differ(place)
    names = {tree.fields if isinstance(tree, schema.RecordNode) else getattr(tree, "keys", ()) for tree in trees}
    lengths = {len(tree.items) for tree in trees}
    if len(names) > 1 or (len(lengths) > 1 and not isinstance(first, schema.SequenceNode)):
        raise _Differ(place)
    if len(lengths) > 1:
        yield place, tuple(trees)
        return
    for index, key in enumerate(_keys(first)):
        yield from _aligned([tree.items[index] for tree in trees], place + key)


def _keys(tree: schema.Tree) -> list[str]:
    if isinstance(tree, schema.RecordNode):
        return [f".{key}" for key in tree.fields]
    if isinstance(tree, schema.MapNode):
        return [f"[{key!r}]" for key in tree.keys]
    return [f"[{i}]" for i in range(len(tree.items))]


class _Differ(Exception):
    """Results whose structures differ at a place."""


@dataclass(frozen=True)
class _Slot:
    """A place in the result: an output of `kind`, or, where that is None, the constant `leaf`."""

    place: str
    kind: Kind | None
    leaf: schema.Tree | None = None


def _plain(leaf: schema.Tree) -> Any:
    return schema.decode_float(leaf.v) if isinstance(leaf, schema.FloatLeaf) else leaf.v


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.build = Builder()
        self.regions: dict[int, tuple[onnx.ModelProto, dict[str, str]]] = {}
        self._refuse_what_onnx_lacks()
        self.entry = program.entries[0]
        returns = [block.terminator for block in program.blocks if isinstance(block.terminator, schema.Return)]
        self.trees = tuple(one.tree for one in returns)
        self.slots = self._results(returns)
        self.state = program.modes[0].state
        self.input_names: tuple[str, ...] = ()
        self.output_names: tuple[str, ...] = ()

    def refuse(self, what: str, reason: str, hint: str, source: int = -1) -> OnnxFileError:
        error = OnnxFileError(f"ONNX cannot say this: {what}", reason=reason, hint=f"{hint}, or ship the bundle")
        if source >= 0:
            place = self.program.sources[source]
            error.file, error.line, error.source, error.width = place.file, place.line, place.text, len(place.text)
        return error

    def _refuse_what_onnx_lacks(self) -> None:
        program = self.program
        if len(program.entries) != 1 and len(program.modes) == 1:
            raise self.refuse(f"{len(program.entries)} signatures", "an ONNX graph has one list of inputs",
                              "compile one program per signature")
        if len(program.modes) != 1:
            raise self.refuse(
                f"a module with {len(program.modes)} static states", "an attribute is None, or changes its shape or "
                "structure, between calls; an ONNX graph has one list of inputs", "create the state in __init__")
        for block in program.blocks:
            for step in block.steps:
                if isinstance(step, schema.RandomStep):
                    raise self.refuse("random numbers from the call's seed", "ONNX's random operators take no seed at "
                                      "run time", "make the noise an input", step.source)
                if isinstance(step, schema.HostCallStep):
                    raise self.refuse(f"the host function {step.name!r}", "ONNX calls nothing outside the model",
                                      "write it with tensor operators", step.source)
        raising = next((end for end in (block.terminator for block in program.blocks)
                        if isinstance(end, schema.Raise)), None)
        if raising is not None and program.modes[0].state:
            raise self.refuse("an exception of a module with state", "a run that fails has no outputs, and what the "
                              "module changed before it raised would be lost", "check before the call", raising.source)
        for value in program.values:
            if isinstance(value, schema.TensorType) and value.dtype.startswith("complex"):
                raise self.refuse("complex tensors between regions", "ONNX Runtime has no complex tensors",
                                  "return view_as_real(x)")

    def _results(self, returns: Sequence[schema.Return]) -> tuple[_Slot, ...]:
        """The places of the result, in order."""
        if not returns:
            raise self.refuse("a program that never returns", "every path raises", "return a result")
        try:
            aligned = list(_aligned([one.tree for one in returns], "out"))
        except _Differ as error:
            raise self.refuse(f"{error}, whose structure depends on the path", "a graph has one list of outputs",
                              "return the same structure on every path", returns[-1].source) from None
        slots = []
        for place, trees in aligned:
            kinds = [self._kind(tree) for tree in trees]
            if all(isinstance(tree, (schema.ConstLeaf, schema.FloatLeaf)) for tree in trees) and len(set(trees)) == 1:
                slots.append(_Slot(place, None, trees[0]))
            elif None not in kinds and len({(type(kind), dtype_of(kind), rank_of(kind)) for kind in kinds}) == 1:
                slots.append(_Slot(place, kinds[0]))
            else:
                told = sorted({"nothing" if kind is None else str(kind) for kind in kinds})
                raise self.refuse(f"{place}, whose type depends on the path", f"it is one of {', '.join(told)}, and an "
                                  "output has one type", "return the same type on every path", returns[-1].source)
        if all(slot.kind is None for slot in slots):
            raise self.refuse("a result without numbers", "a graph has at least one output", "return a tensor")
        return tuple(slots)

    def _kind(self, tree: schema.Tree) -> Kind | None:
        """What type of output holds a part of a result; None where none does."""
        if isinstance(tree, schema.ValueLeaf):
            return self.program.values[tree.id]
        if isinstance(tree, schema.SequenceNode):
            kinds = [self._kind(item) for item in tree.items]
            dtypes = {kind.dtype if isinstance(kind, schema.TensorType) else None for kind in kinds} or {"float32"}
            return None if None in dtypes or len(dtypes) > 1 else Listed(dtypes.pop())
        value = _plain(tree)
        if isinstance(value, str):
            return Text()
        return scalars.literal_type(value) if isinstance(value, (bool, int, float)) else None

    # ------------------------------------------------------------------------------------------ the graph
    def model(self) -> onnx.ModelProto:
        program, build, entry = self.program, self.build, self.entry
        block = program.blocks[entry.block]
        named = [(name, leaf.id) for param in entry.params for name, leaf in leaf_names(param.tree, param.name)
                 if isinstance(leaf, schema.ValueLeaf)]
        places = {value: name for name, value in named}
        inputs = [(places[value], program.values[value]) for value in entry.inputs]
        state = [(f"state.{i}", kind) for i, kind in enumerate(self.state)]
        for (name, _), weight in zip(state, program.initial, strict=True):
            build.initializer(name, _array(program.weights[weight]))
        results = [*(slot.kind for slot in self.slots if slot.kind is not None), *self.state]
        try:
            control = Control(build, program, entry.block, results, self._returned, self._step)
        except Irreducible as error:
            raise self.refuse("a loop with two entries", f"block {error.block} is entered from inside and outside of "
                              "its loop at different places", "restructure the loop") from None
        control.env.update(zip(block.params, [name for name, _ in (*inputs, *state)], strict=True))
        out = control.run(entry.block)
        names = self._ending(control, out, results)
        outputs = [slot.place for slot in self.slots if slot.kind is not None]
        outputs += [f"next_state.{i}" for i in range(len(self.state))]
        for name, given in zip(outputs, names, strict=True):
            build.append(helper.make_node("Identity", [given], [name]))
        self.input_names, self.output_names = tuple(name for name, _ in (*inputs, *state)), tuple(outputs)
        model = build.model(
            program.name, [described(name, kind, getattr(kind, "shape", ())) for name, kind in (*inputs, *state)],
            [described(name, kind, [None] * rank_of(kind)) for name, kind in zip(outputs, results, strict=True)],
            {RESULT: json.dumps(self._result_text())}, onnx_export.OPSET)
        return model

    def _ending(self, control: Control, out: Outcome, results: Sequence[Kind]) -> tuple[str, ...]:
        """The values returned; where the program can raise, from an `If` that fails when it does."""
        if RAISE not in out.to:
            return out.to[EXIT]
        build = self.build
        raised = build.node("Equal", out.next, control.place(RAISE))

        def fail() -> Outcome:
            """The first result depends on what cannot be read: element `next`, 2, of a table of one."""
            first, *others = results
            scalar = build.node("Gather", build.constant([0], "int64"), build.node("Abs", out.next), axis=0)
            if isinstance(first, Listed):
                made = build.node("SequenceConstruct", build.cast(scalar, first.dtype))
            else:
                ones = build.constant(np.ones(rank_of(first), np.int64), "int64")
                made = build.node("Reshape", build.cast(scalar, dtype_of(first)), ones)
            return Outcome({EXIT: (made, *map(build.dummy, others))})

        return control.choose(raised, fail, lambda: Outcome({EXIT: out.to[EXIT]})).to[EXIT]

    def _returned(self, end: schema.Return, env: Mapping[int, str]) -> tuple[str, ...]:
        given = [trees[-1] for _, trees in _aligned([*self.trees, end.tree], "out")]
        names = [self._value(tree, slot.kind, env) for tree, slot in zip(given, self.slots, strict=True)
                 if slot.kind is not None]
        return (*names, *(env[value] for value in end.carry))

    def _value(self, tree: schema.Tree, kind: Kind, env: Mapping[int, str]) -> str:
        if isinstance(tree, schema.ValueLeaf):
            return env[tree.id]
        if isinstance(tree, schema.SequenceNode):
            items = [env[item.id] for item in tree.items]
            return self.build.node("SequenceConstruct", *items) if items else self.build.dummy(kind)
        return self.build.constant(_plain(tree), dtype_of(kind))

    def _step(self, step: schema.Step, env: dict[int, str]) -> None:
        if isinstance(step, schema.RegionStep):
            model, weights = self._region(step.region)
            made = self.build.region(model, f"region_{step.region}.", [env[value] for value in step.inputs], weights)
            env.update(zip(step.outputs, made, strict=True))
            return
        operands = [(env[value], self.program.values[value]) for value in step.inputs]
        for position, text in step.literals:
            value = schema.decode_literal(text)
            try:
                kind = scalars.literal_type(value)
            except ValueError as error:
                raise self.refuse(str(error), "ONNX's integers have 64 bits", "use a smaller number",
                                  step.source) from None
            operands.insert(position, (self.build.constant(value, dtype_of(kind)), kind))
        output = step.outputs[0]
        try:
            env[output] = scalars.write(self.build, step.op, operands, self.program.values[output])
        except KeyError:
            raise self.refuse(f"the host operation {step.op!r}", scalars.UNSUPPORTED.get(step.op, "ONNX lacks it"),
                              "compute it on a tensor", step.source) from None

    def _region(self, number: int) -> tuple[onnx.ModelProto, dict[str, str]]:
        if number not in self.regions:
            program, graph = self.program, self.program.graphs[number]
            made = onnx_export.export(RegionSource(
                name=f"region_{number}", exported=export(program, graph, f"region_{number}"),
                inputs=tuple(program.values[value] for value in graph.inputs),
                outputs=tuple(program.values[value] for value in graph.outputs)))
            weights = {name: self.build.initializer(f"weight.{key}", _array(program.weights[key]))
                       for name, key in made.weights.items()}
            self.regions[number] = onnx.load_model_from_string(made.model), weights
        return self.regions[number]

    def _result_text(self) -> Any:
        slots = {slot.place: slot for slot in self.slots}

        def text(tree: schema.Tree, place: str) -> Any:
            if place in slots:
                return _plain(slots[place].leaf) if slots[place].kind is None else {"output": place}
            items = [text(item, place + key) for key, item in zip(_keys(tree), tree.items, strict=True)]
            if isinstance(tree, schema.MapNode):
                return {"map": [[key, item] for key, item in zip(tree.keys, items, strict=True)]}
            if isinstance(tree, schema.RecordNode):
                return {"record": tree.name, "fields": dict(zip(tree.fields, items, strict=True))}
            return {tree.kind: items}

        return text(self.trees[0], "out")


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().cpu().numpy()


# ------------------------------------------------------------------------------------------------ the check
def _check(path: Path, writer: _Writer, compiled: CompiledProgram) -> tuple[int, set[int]]:
    """Run the reference calls. Returns how many, and the blocks that the bundle takes on them."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise OnnxFileError("ONNX Runtime does not load the file", reason=str(error).splitlines()[0],
                            hint="ship the bundle") from error
    state = [_array(compiled.source.weights[name]) for name in compiled.source.initial]
    taken: set[int] = set()
    for number, call in enumerate(compiled.reference.calls):
        taken.update(call.path)
        given = [compiled.reference_tensors[name] for name in call.inputs]
        kinds = [compiled.source.values[value] for value in writer.entry.inputs]
        feed = {name: array if isinstance(kind, schema.TensorType) else array.astype(dtype_of(kind)).reshape(())
                for name, array, kind in zip(writer.input_names, given, kinds, strict=False)}
        feed |= zip(writer.input_names[len(given):], state, strict=True)
        try:
            made = session.run(list(writer.output_names), feed)
        except Exception as error:
            if call.raises:
                continue
            raise OnnxFileError(f"ONNX Runtime fails on example call {number}", reason=str(error).splitlines()[0],
                                hint="ship the bundle") from error
        if call.raises:
            raise OnnxFileError(f"the file gives a result on example call {number}, where the model raises "
                                f"{call.raises}", hint="this is a defect of the compiler: report it")
        outputs = dict(zip(writer.output_names, made, strict=True))
        state = [outputs[f"next_state.{i}"] for i in range(len(state))]
        expected = [compiled.reference_tensors[name] for name in call.outputs]
        difference = compare(call.result, _result(writer, outputs), expected, compiled.reference.rtol,
                             compiled.reference.atol, "out")
        if difference:
            raise OnnxFileError(f"the file differs from the program on example call {number}",
                                reason=f"{difference[0]}: {difference[1]} for {difference[2]}",
                                hint="this is a defect of the compiler: report it")
    return len(compiled.reference.calls), taken


def _result(writer: _Writer, outputs: Mapping[str, Any]) -> Any:
    """The result as the runtime gives it, from a run's outputs by name."""
    slots = {slot.place: slot for slot in writer.slots}
    values: list[Any] = []

    def value(made: Any) -> schema.Tree:
        values.append(made)
        return schema.ValueLeaf(id=len(values) - 1)

    def filled(tree: schema.Tree, place: str) -> schema.Tree:
        if place in slots:
            slot, made = slots[place], outputs.get(place)
            if slot.kind is None:
                return slot.leaf
            if isinstance(slot.kind, Listed):
                return msgspec.structs.replace(tree, items=tuple(map(value, made)))
            if isinstance(slot.kind, Text):
                return schema.ConstLeaf(v=str(made))
            return value(made if isinstance(slot.kind, schema.TensorType) else made.item())
        items = tuple(filled(item, place + key) for key, item in zip(_keys(tree), tree.items, strict=True))
        return msgspec.structs.replace(tree, items=items)

    tree = filled(writer.trees[0], "out")
    return builder(tree, lambda value: value, {})(values)

"""Frozen data structures of the intermediate representation, and its verifier.

In: nothing. Out: `Program`: the runtime's own block structures (elastic_runtime.schema) whose region steps point
at `Graph`s of functional ATen operations that are not compiled yet.
Never: holds a compiled artefact or a reference to the user's module.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree

from elastic_compile.errors import InternalError
from elastic_runtime import schema


@dataclass(frozen=True)
class Use:
    """Value `id` as an operation's argument."""

    id: int


@dataclass(frozen=True)
class Weight:
    """The weight called `name` as an operation's argument."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A symbolic number as an operation's argument; its free symbols are bound by `Graph.symbols`."""

    expr: sympy.Basic


@dataclass(frozen=True)
class Op:
    """One functional ATen operation. `args` and `kwargs` are trees over Use, Weight, Symbol and constants;
    `outputs` gives one value per flat tensor output, None where it is not a tensor or not used; `total` says that it
    gives a result for all data, although its operator does not promise that."""

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int | None, ...]
    source: int = -1
    total: bool = False


@dataclass(frozen=True)
class Graph:
    """A static region: `outputs` computed from `inputs` (values, all tensors) by `ops` in order.

    `symbols` binds each symbol used: (symbol, value, axis) reads the size of a tensor along `axis`; axis None
    reads a 0-d integer or float tensor.
    """

    inputs: tuple[int, ...]
    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    symbols: tuple[tuple[sympy.Symbol, int, int | None], ...] = ()

    def weights(self) -> tuple[str, ...]:
        """Names of the weights used, in order of first use."""
        names: dict[str, None] = {}
        for op in self.ops:
            for leaf in pytree.tree_leaves((op.args, dict(op.kwargs))):
                if isinstance(leaf, Weight):
                    names[leaf.name] = None
        return tuple(names)


@dataclass(frozen=True)
class Program:
    """A host program over uncompiled regions. `values` gives each value's type, `fakes` each tensor's stand-in
    (shape, dtype and strides as PyTorch sees them), `weights` the data by name, `decisions` what passes made of
    branches."""

    name: str
    values: tuple[schema.ValueType, ...]
    fakes: Mapping[int, torch.Tensor]
    blocks: tuple[schema.Block, ...]
    entries: tuple[schema.Entry, ...]
    graphs: tuple[Graph, ...]
    weights: Mapping[str, torch.Tensor]
    modes: tuple[schema.Mode, ...] = (schema.Mode(entries=(0,)),)
    initial: tuple[str, ...] = ()
    sources: tuple[schema.Source, ...] = ()
    host_ops: tuple[schema.HostSignature, ...] = ()
    decisions: tuple[schema.BranchDecision, ...] = ()

    def replace(self, **changes: Any) -> Program:
        return dataclasses.replace(self, **changes)


def jumps(terminator: schema.Terminator) -> tuple[schema.Jump, ...]:
    """The jumps that a terminator may take."""
    if isinstance(terminator, schema.Jump):
        return (terminator,)
    if isinstance(terminator, schema.Branch):
        return (terminator.then, terminator.orelse)
    if isinstance(terminator, schema.Switch):
        return (*(jump for _, jump in terminator.cases), terminator.default)
    return ()


def terminator_values(terminator: schema.Terminator) -> list[int]:
    """The values that a terminator reads."""
    out = [arg for jump in jumps(terminator) for arg in jump.args]
    if isinstance(terminator, schema.Branch):
        out.append(terminator.cond)
    elif isinstance(terminator, schema.Switch):
        out.append(terminator.index)
    elif isinstance(terminator, (schema.Return, schema.Raise)):
        out.extend(terminator.carry)
        if isinstance(terminator, schema.Return):
            out.extend(tree_values(terminator.tree))
    return out


def tree_values(tree: schema.Tree) -> list[int]:
    """The values at the leaves of a tree, in order."""
    if isinstance(tree, schema.ValueLeaf):
        return [tree.id]
    return [value for item in getattr(tree, "items", ()) for value in tree_values(item)]


def step_values(step: schema.Step) -> list[int]:
    """The values that a step reads."""
    if isinstance(step, schema.RandomStep):
        return [int(size[1:]) for size in step.sizes if isinstance(size, str)]
    return list(step.inputs)


def verify(program: Program) -> Program:
    """Check the rules of the representation; returns `program`. Raises InternalError naming block and rule."""

    def fail(where: str, what: str) -> None:
        raise InternalError(f"the compiler made an invalid program: {where}: {what}")

    defined_once: set[int] = set()

    def define(block: int, here: set[int], values: Any) -> None:
        for value in values:
            if value in defined_once:
                fail(f"block {block}", f"value {value} is defined twice")
            defined_once.add(value)
            here.add(value)

    for b, block in enumerate(program.blocks):
        here: set[int] = set()
        define(b, here, block.params)
        for step in block.steps:
            for value in step_values(step):
                if value not in here:
                    fail(f"block {b}", f"a step reads value {value}, which the block does not define")
            if isinstance(step, schema.RegionStep):
                graph = program.graphs[step.region]
                if len(graph.inputs) != len(step.inputs) or len(graph.outputs) != len(step.outputs):
                    fail(f"block {b}", f"region {step.region} is called with another number of values")
                for given, wanted in zip((*step.inputs, *step.outputs), (*graph.inputs, *graph.outputs)):
                    if program.values[given] != program.values[wanted] and not _symbolic(program.values[given]):
                        fail(f"block {b}", f"region {step.region} is given {program.values[given]} for "
                                           f"{program.values[wanted]}")
            define(b, here, step.outputs)
        for value in terminator_values(block.terminator):
            if value not in here:
                fail(f"block {b}", f"the terminator reads value {value}, which the block does not define")
        for jump in jumps(block.terminator):
            target = program.blocks[jump.block]
            if len(jump.args) != len(target.params):
                fail(f"block {b}", f"a jump gives {len(jump.args)} values to the {len(target.params)} of {jump.block}")
            for arg, param in zip(jump.args, target.params):
                a, p = program.values[arg], program.values[param]
                if type(a) is not type(p) or (isinstance(a, schema.ScalarType) and a != p) or (
                    isinstance(a, schema.TensorType) and (a.dtype, len(a.shape)) != (p.dtype, len(p.shape))
                ) or (isinstance(a, schema.TensorType) and any(
                    isinstance(q, int) and isinstance(r, int) and q != r for q, r in zip(a.shape, p.shape)
                )):
                    fail(f"block {b}", f"a jump gives {a} for the parameter {p} of block {jump.block}")
    for g, graph in enumerate(program.graphs):
        known = set(graph.inputs)
        for op in graph.ops:
            for leaf in pytree.tree_leaves((op.args, dict(op.kwargs))):
                if isinstance(leaf, Use) and leaf.id not in known:
                    fail(f"region {g}", f"{op.target} reads value {leaf.id}, which nothing before it computes")
                if isinstance(leaf, Weight) and leaf.name not in program.weights:
                    fail(f"region {g}", f"{op.target} reads weight {leaf.name!r}, which does not exist")
            known.update(o for o in op.outputs if o is not None)
        if missing := set(graph.outputs) - known:
            fail(f"region {g}", f"outputs {sorted(missing)} are not computed")
    for entry in program.entries:
        if program.blocks[entry.block].params[: len(entry.inputs)] != entry.inputs:
            fail(f"entry {entry.name!r}", "its inputs are not the first parameters of its block")
    return program


def _symbolic(kind: schema.ValueType) -> bool:
    return isinstance(kind, schema.TensorType) and any(isinstance(size, str) for size in kind.shape)

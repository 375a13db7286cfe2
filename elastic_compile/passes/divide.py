"""Regions that read many weights are divided where little passes from one part to the next: at the layers.

In: a program. Out: an equivalent one whose large regions are several smaller ones, one after another.
Never: divides where the parts would have more to hand on than at the best place.

Next to reading the weights a dispatch costs nothing, and the parts are worth more than the whole: layers of equal
structure are compiled once, subnets have those in common that both run, a deadline is looked at between them, and
what the engine needs while it makes a kernel is needed for one part at a time.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch.utils._pytree as pytree

from elastic_compile.passes.simplify import Deduplicate, op_uses, prune
from elastic_compile.program.ir import Graph, Op, Program, Symbol, Weight
from elastic_runtime import schema

FREE = 64
"""What a size that only the data decides is taken for."""


@dataclass(frozen=True)
class DivideLarge:
    """`from_bytes`: weights from which on a region is divided; `part_bytes`: the least that a part reads."""

    from_bytes: int = 1 << 26
    part_bytes: int = 1 << 24

    def __call__(self, program: Program) -> Program:
        values, fakes, graphs = list(program.values), dict(program.fakes), list(program.graphs)
        parts = {number: self._parts(program, graph) for number, graph in enumerate(program.graphs)}
        divided: dict[int, list[int]] = {}
        for number, found in parts.items():
            if len(found) > 1:
                divided[number] = list(range(len(graphs), len(graphs) + len(found)))
                graphs += found
        if not divided:
            return program

        def steps_of(step: schema.Step) -> Iterator[schema.Step]:
            if not isinstance(step, schema.RegionStep) or step.region not in divided:
                yield step
                return
            graph = program.graphs[step.region]
            outer = dict(zip(graph.inputs, step.inputs)) | dict(zip(graph.outputs, step.outputs))
            for number in divided[step.region]:
                part = graphs[number]
                for value in part.outputs:
                    if value not in outer:
                        values.append(values[value])
                        outer[value] = len(values) - 1
                        fakes[outer[value]] = fakes[value]
                yield schema.RegionStep(
                    region=number, inputs=tuple(outer[value] for value in part.inputs),
                    outputs=tuple(outer[value] for value in part.outputs), source=part.ops[0].source)

        blocks = tuple(schema.Block(
            params=block.params, steps=tuple(made for step in block.steps for made in steps_of(step)),
            terminator=block.terminator, label=block.label) for block in program.blocks)
        return Deduplicate().regions(program.replace(
            blocks=blocks, values=tuple(values), fakes=fakes, graphs=tuple(graphs)))

    def _parts(self, program: Program, graph: Graph) -> list[Graph]:
        """The graphs that, one after another, compute what `graph` does."""
        read = _read(program, graph)
        if read[-1] < self.from_bytes:
            return [graph]
        inner = [at for at in range(len(graph.ops)) if self.part_bytes <= read[at] <= read[-1] - self.part_bytes]
        passed = _passed(program, graph)
        least = min((passed[at] for at in inner), default=0)
        cuts = [0]
        for at in inner:
            if passed[at] == least and read[at] - read[cuts[-1]] >= self.part_bytes:
                cuts.append(at)
        made: list[Graph] = []
        wanted = set(graph.outputs)
        for begin, end in zip(reversed(cuts), (len(graph.ops), *reversed(cuts[1:]))):
            ops = graph.ops[begin:end]
            own = {value: None for op in ops for value in op.outputs if value is not None}
            reads = dict.fromkeys(value for op in ops for value in _reads(graph, op) if value not in own)
            part = prune(Graph(tuple(reads), ops, tuple(value for value in own if value in wanted), graph.symbols))
            wanted.update(part.inputs)
            made.append(part)
        return [part for part in reversed(made) if part.outputs]


def _reads(graph: Graph, op: Op) -> list[int]:
    """The values that an operation reads, those too of which it needs a size only."""
    symbols = {symbol for leaf in pytree.tree_leaves((op.args, dict(op.kwargs))) if isinstance(leaf, Symbol)
               for symbol in leaf.expr.free_symbols}
    return [*op_uses(op), *(value for symbol, value, _ in graph.symbols if symbol in symbols)]


def _read(program: Program, graph: Graph) -> list[int]:
    """The bytes of weights that the first n operations read, for each n."""
    read, seen = [0], set()
    for op in graph.ops:
        new = {leaf.name for leaf in pytree.tree_leaves((op.args, dict(op.kwargs))) if isinstance(leaf, Weight)} - seen
        seen |= new
        weights = [program.weights[name] for name in new]
        read.append(read[-1] + sum(weight.numel() * weight.element_size() for weight in weights))
    return read


def _passed(program: Program, graph: Graph) -> list[int]:
    """The bytes that would pass from the first n operations to the others, for each n, and do not leave anyway."""
    last = {value: at for at, op in enumerate(graph.ops) for value in _reads(graph, op)}
    change = [0] * (len(graph.ops) + 1)
    for at, op in enumerate(graph.ops):
        for value in op.outputs:
            if value is not None and value in last and value not in graph.outputs:
                change[at + 1] += _size(program.values[value])
                change[last[value] + 1] -= _size(program.values[value])
    return list(accumulate(change))


def _size(kind: schema.TensorType) -> int:
    sizes = [size if isinstance(size, int) else FREE for size in kind.shape]
    return math.prod(sizes) * np.dtype(kind.dtype).itemsize

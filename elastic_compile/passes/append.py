"""Growing tensors leave the regions: what is concatenated to a cache is written behind it instead.

In: a program. Out: an equivalent one in which a concatenation to a tensor that lives on between calls or rounds, large
enough to be worth a dispatch, is an `AppendStep` between two regions.
Never: divides a region whose sizes only the data decides, or one for a tensor that is concatenated only once.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import torch

from elastic_compile.passes.simplify import drop_unused_graphs, op_uses, prune
from elastic_compile.program.ir import Graph, Program, Use, jumps
from elastic_runtime import schema


@dataclass(frozen=True)
class Growth:
    """Operation `index` of a region appends the value `rows` to its input `prefix` along `axis`, giving `whole`."""

    index: int
    prefix: int
    rows: int
    whole: int
    axis: int


@dataclass(frozen=True)
class AppendInPlace:
    """`from_bytes`: size of the tensor from which on not copying it pays for one more dispatch."""

    from_bytes: int = 1 << 16

    def __call__(self, program: Program) -> Program:
        found = {number: growths(program, graph) for number, graph in enumerate(program.graphs)}
        longest = _longest(program, found)
        values, fakes, graphs = list(program.values), dict(program.fakes), list(program.graphs)
        blocks = []
        for block in program.blocks:
            steps: list[schema.Step] = []
            for step in block.steps:
                taken = {}
                if isinstance(step, schema.RegionStep):
                    inside = dict(zip(program.graphs[step.region].inputs, step.inputs))
                    taken = {growth: longest[inside[growth.prefix]] for growth in found[step.region]
                             if inside[growth.prefix] in longest
                             and _bytes(program.values[growth.prefix]) >= self.from_bytes}
                if not taken:
                    steps.append(step)
                    continue
                steps.extend(_divided(program.graphs[step.region], step, taken, values, fakes, graphs))
            blocks.append(schema.Block(
                params=block.params, steps=tuple(steps), terminator=block.terminator, label=block.label))
        return drop_unused_graphs(program.replace(
            blocks=tuple(blocks), values=tuple(values), fakes=fakes, graphs=tuple(graphs)))


def growths(program: Program, graph: Graph) -> list[Growth]:
    """The operations of a region that append to one of its inputs."""
    if graph.symbols:
        return []
    found = []
    for index, op in enumerate(graph.ops):
        if op.target is not torch.ops.aten.cat.default or len(op.args[0]) != 2:
            continue
        prefix, rows = op.args[0]
        if not (isinstance(prefix, Use) and isinstance(rows, Use)) or prefix.id not in graph.inputs or (
                prefix.id == rows.id):
            continue
        kinds = [program.values[value] for value in (prefix.id, rows.id, op.outputs[0])]
        sizes = [size for kind in kinds for size in kind.shape]
        axis = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % len(kinds[0].shape)
        if all(isinstance(size, int) for size in sizes) and len({(k.dtype, len(k.shape)) for k in kinds}) == 1 and all(
                kind.shape[:axis] == (1,) * axis for kind in kinds):
            found.append(Growth(index, prefix.id, rows.id, op.outputs[0], axis))
    return found


def _bytes(kind: schema.TensorType) -> int:
    return math.prod(kind.shape) * np.dtype(kind.dtype).itemsize


def _longest(program: Program, found: Mapping[int, list[Growth]]) -> dict[int, int]:
    """For each value that is appended to, where the result of it or of a later append lives on in another block or
    call: the greatest size that it reaches."""
    same = nx.Graph()
    sizes: dict[Any, int] = {}
    passed: set[int] = set()
    for block in program.blocks:
        for number, step in enumerate(block.steps):
            if not isinstance(step, schema.RegionStep):
                continue
            graph = program.graphs[step.region]
            inside, outside = dict(zip(graph.inputs, step.inputs)), dict(zip(graph.outputs, step.outputs))
            for growth in found[step.region]:
                prefix, whole = inside[growth.prefix], outside.get(growth.whole, (id(block), number, growth.whole))
                same.add_edge(prefix, whole)
                sizes[whole] = program.values[growth.whole].shape[growth.axis]
        given = [(jump.args, program.blocks[jump.block].params) for jump in jumps(block.terminator)]
        if isinstance(block.terminator, (schema.Return, schema.Raise)):
            entries = [program.entries[number] for number in program.modes[block.terminator.mode].entries]
            given += [(block.terminator.carry, program.blocks[entry.block].params[len(entry.inputs):])
                      for entry in entries]
        for args, params in given:
            same.add_edges_from(zip(args, params))
            passed.update(args)
    out: dict[int, int] = {}
    for together in nx.connected_components(same):
        grown = [value for value in together if value in sizes]
        if any(value in passed for value in grown):
            out.update(dict.fromkeys(together, max(sizes[value] for value in grown)))
    return out


def _divided(
    graph: Graph, step: schema.RegionStep, taken: Mapping[Growth, int], values: list[schema.ValueType],
    fakes: dict[int, Any], graphs: list[Graph],
) -> Iterator[schema.Step]:
    """The steps that do what `step` did: regions and, between them, the growths in `taken`."""
    appends = {growth.index: growth for growth in taken}
    place = _places(graph, appends)
    outer = dict(zip(graph.inputs, step.inputs)) | dict(zip(graph.outputs, step.outputs))
    last: dict[int, float] = dict.fromkeys(graph.outputs, math.inf)
    for index, op in enumerate(graph.ops):
        for value in (appends[index].prefix, appends[index].rows) if index in appends else op_uses(op):
            last[value] = max(last.get(value, 0.0), place[index])

    def outside(value: int) -> int:
        if value not in outer:
            values.append(values[value])
            outer[value] = len(values) - 1
            fakes[outer[value]] = fakes[value]
        return outer[value]

    for number in sorted(set(place.values())):
        here = [index for index in range(len(graph.ops)) if place[index] == number]
        ops = tuple(graph.ops[index] for index in here if index not in appends)
        leaving = tuple(value for op in ops for value in op.outputs
                        if value is not None and last.get(value, -1.0) > number)
        if leaving:
            made = {value for op in ops for value in op.outputs}
            read = dict.fromkeys(value for op in ops for value in op_uses(op) if value not in made)
            part = prune(Graph(inputs=tuple(read), ops=ops, outputs=leaving))
            graphs.append(part)
            yield schema.RegionStep(
                region=len(graphs) - 1, inputs=tuple(outside(value) for value in part.inputs),
                outputs=tuple(outside(value) for value in leaving), source=ops[0].source)
        for growth in (appends[index] for index in here if index in appends):
            yield schema.AppendStep(
                inputs=(outside(growth.prefix), outside(growth.rows)), outputs=(outside(growth.whole),),
                axis=growth.axis, capacity=taken[growth], source=graph.ops[growth.index].source)


def _places(graph: Graph, appends: Mapping[int, Growth]) -> dict[int, float]:
    """For each operation where it goes: numbers in the order in which the parts run. Appends lie halfway between two
    whole numbers; the part that follows some appends and leads to others is cut in two at a quarter, where there is
    one value through which all that it makes of the former goes: a layer that another subnet has too, followed by
    another one, is then a part of its own that they share."""
    level = _levels(graph, appends)
    place = {index: number + 0.5 if index in appends else float(number) for index, number in level.items()}
    for number in range(1, max(level.values())):
        grown = {growth.whole for growth in appends.values() if level[growth.index] == number - 1}
        here = [index for index, at in level.items() if at == number and index not in appends]
        before = _before_bottleneck(graph, sorted(here), grown)
        if before is not None and len(before) < len(here):
            place.update((index, number + 0.25) for index in here if index not in before)
    return place


def _before_bottleneck(graph: Graph, here: list[int], grown: set[int]) -> set[int] | None:
    """Those of the operations `here` that are needed for the last value through which everything goes that they make
    of `grown`; None where there is no such value."""
    flow = nx.DiGraph()
    maker = {}
    inside = set(here)
    used_later = {value for index, op in enumerate(graph.ops) if index not in inside for value in op_uses(op)}
    used_later.update(graph.outputs)
    for index in here:
        op = graph.ops[index]
        made = [value for value in op.outputs if value is not None]
        maker.update(dict.fromkeys(made, index))
        for use in op_uses(op):
            if use in grown or use in flow:
                flow.add_edges_from(("start" if use in grown else use, value) for value in made)
    flow.add_edges_from((value, "end") for value in list(flow) if value in used_later)
    if "end" not in flow:
        return None
    bottleneck = nx.immediate_dominators(flow, "start")["end"]
    if bottleneck == "start":
        return None
    needed: set[int] = set()
    stack = [bottleneck]
    while stack:
        index = maker.get(stack.pop())
        if index is not None and index not in needed:
            needed.add(index)
            stack.extend(op_uses(graph.ops[index]))
    return needed


def _levels(graph: Graph, appends: Mapping[int, Growth]) -> dict[int, int]:
    """For each operation the region that it goes to, as late as its readers allow; an append stands behind the region
    of its level."""
    early: dict[int, int] = {}
    for index, op in enumerate(graph.ops):
        if index in appends:
            early[appends[index].whole] = early.get(appends[index].rows, 0) + 1
            continue
        level = max((early.get(value, 0) for value in op_uses(op)), default=0)
        early.update((value, level) for value in op.outputs if value is not None)
    last = max(early.values(), default=0)
    wanted: dict[int, int] = dict.fromkeys(graph.outputs, last)
    level: dict[int, int] = {}
    for index in range(len(graph.ops) - 1, -1, -1):
        op = graph.ops[index]
        if index in appends:
            growth = appends[index]
            level[index] = early[growth.whole] - 1
            reads: list[int] = [growth.rows]
        else:
            level[index] = min((wanted[v] for v in op.outputs if v is not None and v in wanted), default=last)
            reads = op_uses(op)
        for value in reads:
            wanted[value] = min(wanted.get(value, last), level[index])
    return level

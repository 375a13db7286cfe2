"""Passes that make the host program small: chains merged, dead parameters dropped, equal regions shared.

In: a program. Out: an equivalent program. Never: changes what a path computes.
"""
from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
import torch.utils._pytree as pytree

from elastic_compile.passes.effects import obstacle
from elastic_compile.program.ir import (
    Graph,
    Op,
    Program,
    Symbol,
    Use,
    Weight,
    jumps,
    step_values,
    terminator_values,
)
from elastic_runtime import schema


def control_flow(program: Program) -> nx.DiGraph:
    """The program's blocks and the jumps between them, with `entries` reachable from the node -1."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(program.blocks)))
    graph.add_edges_from((-1, entry.block) for entry in program.entries)
    for b, block in enumerate(program.blocks):
        graph.add_edges_from((b, jump.block) for jump in jumps(block.terminator))
    return graph


def rename(item: Any, names: dict[int, int]) -> Any:
    """A step or terminator with its values renamed."""
    def new(value: int) -> int:
        return names.get(value, value)

    def many(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new(v) for v in values)

    if isinstance(item, schema.Jump):
        return _with(item, args=many(item.args))
    if isinstance(item, schema.Branch):
        return _with(item, cond=new(item.cond), then=rename(item.then, names), orelse=rename(item.orelse, names))
    if isinstance(item, schema.Switch):
        return _with(item, index=new(item.index), default=rename(item.default, names),
                     cases=tuple((n, rename(j, names)) for n, j in item.cases))
    if isinstance(item, schema.Return):
        return _with(item, tree=rename_tree(item.tree, names), carry=many(item.carry))
    if isinstance(item, schema.Raise):
        return _with(item, carry=many(item.carry))
    if isinstance(item, schema.RandomStep):
        return _with(item, sizes=tuple(f"v{new(int(s[1:]))}" if isinstance(s, str) else s for s in item.sizes),
                     outputs=many(item.outputs))
    return _with(item, inputs=many(item.inputs), outputs=many(item.outputs))


def rename_tree(tree: schema.Tree, names: dict[int, int]) -> schema.Tree:
    """A tree with its values renamed."""
    if isinstance(tree, schema.ValueLeaf):
        return schema.ValueLeaf(id=names.get(tree.id, tree.id))
    if hasattr(tree, "items"):
        return _with(tree, items=tuple(rename_tree(item, names) for item in tree.items))
    return tree


def _with(item: Any, **changes: Any) -> Any:
    return type(item)(**{**{f: getattr(item, f) for f in item.__struct_fields__}, **changes})


@dataclass(frozen=True)
class MergeChains:
    """A block whose only successor has no other predecessor becomes one block with it; adjacent regions of one
    block that do not wait for a host scalar become one region."""

    def __call__(self, program: Program) -> Program:
        graph = control_flow(program)
        blocks: list[schema.Block | None] = list(program.blocks)
        for b in range(len(blocks)):
            _absorb(blocks, graph, b)
        return _fuse_regions(_compact(program, blocks))


def absorb(program: Program, number: int) -> Program:
    """The program whose block `number` has taken in the next block, where only it leads there; else the same program.
    Other blocks keep their numbers."""
    blocks: list[schema.Block | None] = list(program.blocks)
    graph = control_flow(program)
    reached = nx.descendants(graph, -1)
    _absorb(blocks, graph.subgraph((*reached, -1)), number, at_most=1)
    return blank(program.replace(blocks=tuple(made or _NOTHING for made in blocks)))


#: What stands in the place of a block that nothing leads to, until blocks are numbered anew.
_NOTHING = schema.Block(params=(), steps=(), terminator=schema.Raise(type="Unreachable", message=""))


def blank(program: Program) -> Program:
    """The program in which blocks that nothing leads to are empty; the others keep their numbers."""
    reached = nx.descendants(control_flow(program), -1)
    return program.replace(blocks=tuple(
        block if b in reached else _NOTHING for b, block in enumerate(program.blocks)))


def _absorb(
    blocks: list[schema.Block | None], graph: nx.DiGraph, b: int, at_most: int | None = None
) -> None:
    """Merge the block with its only successor while this has no other predecessor, `at_most` so often; what was merged
    becomes None."""
    while blocks[b] is not None and isinstance(blocks[b].terminator, schema.Jump) and at_most != 0:
        at_most = None if at_most is None else at_most - 1
        jump = blocks[b].terminator
        target = jump.block
        if target == b or graph.in_degree(target) != 1 or blocks[target] is None:
            break
        after = blocks[target]
        names = dict(zip(after.params, jump.args))
        blocks[b] = schema.Block(
            params=blocks[b].params,
            steps=(*blocks[b].steps, *(rename(step, names) for step in after.steps)),
            terminator=rename(after.terminator, names),
            label=blocks[b].label,
        )
        blocks[target] = None


def _compact(program: Program, blocks: list[schema.Block | None]) -> Program:
    """The program without the blocks that are None or unreachable."""
    numbers: dict[int, int] = {}
    stack = [entry.block for entry in reversed(program.entries)]
    order: list[int] = []
    while stack:
        b = stack.pop()
        if b in numbers:
            continue
        numbers[b] = len(order)
        order.append(b)
        stack.extend(jump.block for jump in reversed(jumps(blocks[b].terminator)))

    def retarget(jump: schema.Jump) -> schema.Jump:
        return _with(jump, block=numbers[jump.block])

    return program.replace(
        blocks=tuple(_with(blocks[b], terminator=_map_jumps(blocks[b].terminator, retarget)) for b in order),
        entries=tuple(_with(entry, block=numbers[entry.block]) for entry in program.entries),
    )


def _map_jumps(terminator: schema.Terminator, change: Any) -> schema.Terminator:
    if isinstance(terminator, schema.Jump):
        return change(terminator)
    if isinstance(terminator, schema.Branch):
        return _with(terminator, then=change(terminator.then), orelse=change(terminator.orelse))
    if isinstance(terminator, schema.Switch):
        return _with(terminator, default=change(terminator.default),
                     cases=tuple((n, change(j)) for n, j in terminator.cases))
    return terminator


def _fuse_regions(program: Program) -> Program:
    """Within each block, one region per stretch that no host step divides."""
    graphs = list(program.graphs)
    values, fakes = list(program.values), dict(program.fakes)
    blocks = []
    for block in program.blocks:
        steps: list[schema.Step] = []
        pending = list(in_batches(program, block.steps))
        for position, step in enumerate(pending):
            last = steps[-1] if steps else None
            if isinstance(step, schema.RegionStep) and isinstance(last, schema.RegionStep):
                second = _apart(graphs[last.region], graphs[step.region], values, fakes)
                if second is not None:
                    read = {v for s in pending[position + 1:] for v in step_values(s)}
                    read.update(terminator_values(block.terminator))
                    fused, merged = _concatenate(graphs[last.region], last, second, step, read)
                    graphs.append(fused)
                    steps[-1] = _with(merged, region=len(graphs) - 1)
                    continue
            steps.append(step)
        blocks.append(_with(block, steps=tuple(steps)))
    return drop_unused_graphs(program.replace(
        blocks=tuple(blocks), graphs=tuple(graphs), values=tuple(values), fakes=fakes))


def in_batches(program: Program, steps: tuple[schema.Step, ...]) -> list[schema.Step]:
    """The steps in an order in which as few host steps as possible divide regions. Steps with an effect, and host
    operations that may fail, keep their order."""
    kept = [isinstance(step, (schema.HostCallStep, schema.RandomStep)) or (
        isinstance(step, schema.ScalarStep) and bool(obstacle(program, step))) for step in steps]
    if sum(isinstance(step, schema.RegionStep) for step in steps) < 2:
        return list(steps)
    maker = {output: i for i, step in enumerate(steps) for output in step.outputs}
    waits: list[set[int]] = []
    before: int | None = None
    for i, step in enumerate(steps):
        waits.append({maker[v] for v in step_values(step) if v in maker})
        if kept[i]:
            waits[i] |= {before} if before is not None else set()
            before = i
    order: list[int] = []
    done: set[int] = set()
    regions = False
    while len(order) < len(steps):
        for i, step in enumerate(steps):
            if i not in done and isinstance(step, schema.RegionStep) == regions and waits[i] <= done:
                done.add(i)
                order.append(i)
        regions = not regions
    return [steps[i] for i in order]


def _apart(first: Graph, second: Graph, values: list[schema.ValueType], fakes: dict[int, torch.Tensor]) -> Graph | None:
    """`second` with no value in common with `first`: values that both have become new ones. None where the two use
    one symbol for two sizes."""
    places = {symbol: place for symbol, *place in first.symbols}
    if any(symbol in places for symbol, *_ in second.symbols) and _values(first) & _values(second):
        return None
    common = _values(first) & _values(second)
    names: dict[int, int] = {}
    for value in sorted(common):
        names[value] = len(values)
        values.append(values[value])
        if value in fakes:
            fakes[names[value]] = fakes[value]
    return rename_graph(second, names) if names else second


def _values(graph: Graph) -> set[int]:
    return {*graph.inputs, *(o for op in graph.ops for o in op.outputs if o is not None)}


def rename_graph(graph: Graph, names: dict[int, int]) -> Graph:
    """The same region on values of other numbers."""
    def many(values: Iterable[int | None]) -> tuple[Any, ...]:
        return tuple(names.get(v, v) for v in values)

    return Graph(
        many(graph.inputs), tuple(
            dataclasses.replace(rename_op(op, names), outputs=many(op.outputs)) for op in graph.ops),
        many(graph.outputs), tuple((s, names.get(v, v), axis) for s, v, axis in graph.symbols),
    )


def _concatenate(
    first: Graph, a: schema.RegionStep, second: Graph, b: schema.RegionStep, read: set[int]
) -> tuple[Graph, schema.RegionStep]:
    """Two regions that run one after the other as one; `read` are the values needed after both."""
    inside = dict(zip(a.outputs, first.outputs))
    given = dict(zip(a.inputs, first.inputs))
    names: dict[int, int] = {}
    inputs, outer = list(first.inputs), list(a.inputs)
    for value, inner in zip(b.inputs, second.inputs):
        if value in inside:
            names[inner] = inside[value]
        elif value in given:
            names[inner] = given[value]
        else:
            inputs.append(inner)
            outer.append(value)
            given[value] = inner
    ops = (*first.ops, *(rename_op(op, names) for op in second.ops))
    results = [
        (value, inner) for value, inner in zip((*a.outputs, *b.outputs),
                                               (*first.outputs, *(names.get(o, o) for o in second.outputs)))
        if value in read
    ]
    symbols = {s: (s, v, axis) for s, v, axis in first.symbols}
    for s, v, axis in second.symbols:
        symbols.setdefault(s, (s, names.get(v, v), axis))
    graph = prune(Graph(tuple(inputs), ops, tuple(inner for _, inner in results), tuple(symbols.values())))
    kept = set(graph.inputs)
    return graph, schema.RegionStep(
        region=-1, inputs=tuple(v for v, inner in zip(outer, inputs) if inner in kept),
        outputs=tuple(value for value, _ in results), source=a.source if a.source >= 0 else b.source,
    )


def rename_op(op: Op, names: dict[int, int]) -> Op:
    """An operation with its operands renamed."""
    args, kwargs = pytree.tree_map_only(Use, lambda use: Use(names.get(use.id, use.id)), (op.args, dict(op.kwargs)))
    return dataclasses.replace(op, args=args, kwargs=kwargs)


def op_uses(op: Op) -> list[int]:
    """The values that an operation reads directly."""
    return [leaf.id for leaf in pytree.tree_leaves((op.args, dict(op.kwargs))) if isinstance(leaf, Use)]


def prune(graph: Graph) -> Graph:
    """The graph without operations and inputs that nothing needs."""
    needed = set(graph.outputs)
    ops: list[Op] = []
    symbols: set[Any] = set()
    places = {s: v for s, v, _ in graph.symbols}
    for op in reversed(graph.ops):
        if not needed.intersection(o for o in op.outputs if o is not None):
            continue
        needed.update(op_uses(op))
        for leaf in pytree.tree_leaves((op.args, dict(op.kwargs))):
            if isinstance(leaf, Symbol):
                symbols.update(leaf.expr.free_symbols)
                needed.update(places[s] for s in leaf.expr.free_symbols)
        outputs = tuple(o if o in needed else None for o in op.outputs)
        ops.append(dataclasses.replace(op, outputs=outputs))
    return Graph(
        tuple(i for i in graph.inputs if i in needed), tuple(reversed(ops)), graph.outputs,
        tuple(entry for entry in graph.symbols if entry[0] in symbols),
    )


def drop_unused_graphs(program: Program) -> Program:
    """The program without regions that no block runs, numbered in order of first use."""
    numbers: dict[int, int] = {}
    for block in program.blocks:
        for step in block.steps:
            if isinstance(step, schema.RegionStep):
                numbers.setdefault(step.region, len(numbers))
    blocks = tuple(
        _with(block, steps=tuple(
            _with(step, region=numbers[step.region]) if isinstance(step, schema.RegionStep) else step
            for step in block.steps
        ))
        for block in program.blocks
    )
    return program.replace(blocks=blocks, graphs=tuple(program.graphs[g] for g in numbers))


@dataclass(frozen=True)
class ThreadJumps:
    """A jump to a block that does nothing but jump on goes straight to where that leads; a branch that leads to one
    place either way becomes a jump."""

    def __call__(self, program: Program) -> Program:
        def through(jump: schema.Jump) -> schema.Jump:
            seen = {jump.block}
            while True:
                block = program.blocks[jump.block]
                if block.steps or not isinstance(block.terminator, schema.Jump) or block.terminator.block in seen:
                    return jump
                jump = _with(
                    rename(block.terminator, dict(zip(block.params, jump.args))),
                    source=jump.source if jump.source >= 0 else block.terminator.source,
                )
                seen.add(jump.block)

        return _compact(program, [
            _with(block, terminator=_same_way(_map_jumps(block.terminator, through))) for block in program.blocks
        ])


def _same_way(terminator: schema.Terminator) -> schema.Terminator:
    """A branch that goes to the same place with the same values either way is a jump."""
    if isinstance(terminator, schema.Branch):
        then, orelse = terminator.then, terminator.orelse
        if (then.block, then.args) == (orelse.block, orelse.args):
            return _with(then, source=terminator.source)
    return terminator


@dataclass(frozen=True)
class PruneParameters:
    """Block parameters, region inputs and outputs that nothing reads are dropped, to a fixed point."""

    def __call__(self, program: Program) -> Program:
        while True:
            smaller = self.once(program)
            if smaller == program or ([b.params for b in smaller.blocks] == [b.params for b in program.blocks] and (
                [b.steps for b in smaller.blocks] == [b.steps for b in program.blocks]
            )):
                return smaller
            program = smaller

    def once(self, program: Program) -> Program:
        entries = {entry.block for entry in program.entries}
        graphs = list(program.graphs)
        kept: list[tuple[int, ...]] = []
        blocks: list[schema.Block] = []
        for b, block in enumerate(program.blocks):
            read = set(terminator_values(block.terminator))
            steps: list[schema.Step] = []
            for step in reversed(block.steps):
                if not read.intersection(step.outputs) and not isinstance(step, schema.HostCallStep):
                    continue
                if isinstance(step, schema.RegionStep) and not set(step.outputs) <= read:
                    graph = graphs[step.region]
                    pairs = [(v, o) for v, o in zip(step.outputs, graph.outputs) if v in read]
                    smaller = prune(dataclasses.replace(graph, outputs=tuple(o for _, o in pairs)))
                    alive = set(smaller.inputs)
                    step = _with(
                        step, region=len(graphs), outputs=tuple(v for v, _ in pairs),
                        inputs=tuple(v for v, i in zip(step.inputs, graph.inputs) if i in alive),
                    )
                    graphs.append(smaller)
                read.update(step_values(step))
                steps.append(step)
            keep = block.params if b in entries else tuple(p for p in block.params if p in read)
            kept.append(keep)
            blocks.append(_with(block, params=keep, steps=tuple(reversed(steps))))

        def shorten(jump: schema.Jump) -> schema.Jump:
            params = program.blocks[jump.block].params
            alive = set(kept[jump.block])
            return _with(jump, args=tuple(a for a, p in zip(jump.args, params) if p in alive))

        return drop_unused_graphs(program.replace(
            graphs=tuple(graphs),
            blocks=tuple(_with(block, terminator=_map_jumps(block.terminator, shorten)) for block in blocks),
        ))


@dataclass(frozen=True)
class Deduplicate:
    """Regions with the same operations and the same weights become one; then blocks that are equal up to the
    names of their values become one."""

    def __call__(self, program: Program) -> Program:
        return self.blocks(self.regions(program))

    def regions(self, program: Program) -> Program:
        first: dict[Any, int] = {}
        numbers = {g: first.setdefault(_region_key(program, graph), g) for g, graph in enumerate(program.graphs)}
        return drop_unused_graphs(program.replace(blocks=tuple(
            _with(block, steps=tuple(
                _with(step, region=numbers[step.region]) if isinstance(step, schema.RegionStep) else step
                for step in block.steps
            ))
            for block in program.blocks
        )))

    def blocks(self, program: Program) -> Program:
        """Partition refinement: blocks are assumed equal until their steps or successors tell them apart."""
        entries = {entry.block for entry in program.entries}
        classes = [_block_key(program, b) if b not in entries else ("entry", b) for b in range(len(program.blocks))]
        count = 0
        while True:
            numbers: dict[Any, int] = {}
            ids = [numbers.setdefault(key, len(numbers)) for key in classes]
            if len(numbers) == count:
                break
            count = len(numbers)
            classes = [
                (ids[b], tuple(ids[jump.block] for jump in jumps(block.terminator)))
                for b, block in enumerate(program.blocks)
            ]
        representative = {}
        for b, number in enumerate(ids):
            representative.setdefault(number, b)

        def retarget(jump: schema.Jump) -> schema.Jump:
            return _with(jump, block=representative[ids[jump.block]])

        return _compact(program, [
            _with(block, terminator=_map_jumps(block.terminator, retarget)) for block in program.blocks
        ])


def _region_key(program: Program, graph: Graph) -> Any:
    """Equal for regions that compute the same with the same weights."""
    numbers: dict[int, int] = {value: i for i, value in enumerate(graph.inputs)}
    parts: list[Any] = [tuple(_type_key(program.values[v]) for v in graph.inputs)]
    renamed: dict[Any, int] = {}

    def leaf(value: Any) -> Any:
        if isinstance(value, Use):
            return ("use", numbers[value.id])
        if isinstance(value, Weight):
            return ("weight", value.name)
        if isinstance(value, Symbol):
            for s in sorted(value.expr.free_symbols, key=str):
                renamed.setdefault(s, len(renamed))
            return ("symbol", str(value.expr.subs({s: f"n{n}" for s, n in renamed.items()})))
        if isinstance(value, float):
            return ("float", struct.pack("<d", value))
        return (type(value).__name__, str(value) if isinstance(value, (torch.dtype, torch.device, torch.layout,
                                                                       torch.memory_format)) else value)

    for op in graph.ops:
        flat, spec = pytree.tree_flatten((op.args, dict(op.kwargs)))
        parts.append((str(op.target), tuple(leaf(v) for v in flat), str(spec)))
        for output in op.outputs:
            if output is not None:
                numbers[output] = len(numbers)
        parts.append(tuple(o is not None for o in op.outputs))
    parts.append(tuple(numbers[o] for o in graph.outputs))
    parts.append(tuple((renamed[s], numbers[v], axis) for s, v, axis in graph.symbols if s in renamed))
    return tuple(parts)


def _type_key(kind: schema.ValueType) -> Any:
    if isinstance(kind, schema.TensorType):
        return (kind.dtype, kind.shape)
    return kind.kind


def _block_key(program: Program, b: int) -> Any:
    """Equal for blocks that do the same, their successors aside."""
    block = program.blocks[b]
    numbers = {value: i for i, value in enumerate(block.params)}
    parts: list[Any] = [tuple(_type_key(program.values[p]) for p in block.params)]
    for step in block.steps:
        plain = rename(step, dict.fromkeys(step.outputs, 0))
        fields = {f: getattr(plain, f) for f in plain.__struct_fields__ if f not in ("inputs", "outputs", "source")}
        reads = tuple(numbers[v] for v in step_values(step))
        for output in step.outputs:
            numbers[output] = len(numbers)
        if isinstance(step, schema.RandomStep):
            fields["sizes"] = tuple("v" if isinstance(s, str) else s for s in step.sizes)
        parts.append((type(step).__name__, tuple(sorted(fields.items(), key=lambda kv: kv[0])), reads))
    end = block.terminator
    parts.append((type(end).__name__, tuple(numbers[v] for v in terminator_values(end))))
    if isinstance(end, schema.Return):
        parts.append((repr(rename_tree(end.tree, numbers)), end.mode))
    elif isinstance(end, schema.Raise):
        parts.append((end.type, end.message, end.mode))
    elif isinstance(end, schema.Switch):
        parts.append(tuple(n for n, _ in end.cases))
    return tuple(parts)

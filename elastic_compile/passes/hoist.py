"""What depends only on state that does not change is computed once, when that state comes to be.

In: a program. Out: an equivalent one whose calls leave such results to the calls that follow, as more state.
Never: computes anything that the program did not, or keeps a result that takes more memory than the weights it spares
reading.

State "does not change" along calls that hand a value on as they were given it. Where it comes from (its origin), the
operations on it and on weights alone are found in the same call or added to it; later calls take their results. This
is partial redundancy elimination (Morel and Renvoise, 1979) with calls for rounds of a loop: conditioning of a
generative model that each step would compute anew is computed once for each thing generated.
"""
from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import torch.utils._pytree as pytree

from elastic_compile.passes.simplify import control_flow, drop_unused_graphs, op_uses, prune
from elastic_compile.program.ir import Graph, Op, Program, Symbol, Use, Weight, jumps
from elastic_runtime import schema

Slot = tuple[int, int]
"""A mode and the position of a value in its state."""

STATE = ("state",)
"""The key of the unchanging state itself."""


@dataclass
class Known:
    """What is known of a region's values: `key` of those computed from the state and weights alone, `weights` the
    bytes of weights in those computed from weights alone, `made` the operation that makes each."""

    key: dict[int, Any] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)
    made: dict[int, Op] = field(default_factory=dict)


@dataclass(frozen=True)
class HoistState:
    """`least`: bytes of weights that a result must spare reading to become state."""

    least: int = 1 << 10

    def __call__(self, program: Program) -> Program:
        reach = _reachable(program)
        if reach is None:
            return program
        passes, origins = _hand_overs(program, reach)
        for slots in map(sorted, nx.connected_components(passes)):
            if len({mode for mode, _ in slots}) == len(slots) and all(mode for mode, _ in slots):
                program = _Hoist(program, dict(slots), reach, origins, self.least).run()
        return drop_unused_graphs(program)


def _reachable(program: Program) -> dict[int, list[int]] | None:
    """The blocks of each mode; None where modes have blocks in common."""
    graph = control_flow(program)
    reach = {}
    for number, mode in enumerate(program.modes):
        starts = [program.entries[entry].block for entry in mode.entries]
        reach[number] = sorted({*starts, *(block for start in starts for block in nx.descendants(graph, start))})
    blocks = [block for each in reach.values() for block in each]
    return reach if len(blocks) == len(set(blocks)) and len(reach) > 1 else None


def _carries(program: Program, blocks: list[int]) -> Iterator[tuple[int, schema.Return | schema.Raise]]:
    for number in blocks:
        end = program.blocks[number].terminator
        if isinstance(end, (schema.Return, schema.Raise)):
            yield number, end


def _states(program: Program, mode: int) -> dict[int, int]:
    """The values of a mode's state, by its entries' parameters: value -> position."""
    return {value: position for entry in (program.entries[number] for number in program.modes[mode].entries)
            for position, value in enumerate(program.blocks[entry.block].params[len(entry.inputs):])}


def _roots(program: Program, blocks: list[int], states: Mapping[int, int]) -> dict[int, int]:
    """The values of a mode's blocks that are a state value handed on unchanged: value -> position in the state."""
    root = dict(states)
    given: dict[int, set[int]] = defaultdict(set)
    for number in blocks:
        for jump in jumps(program.blocks[number].terminator):
            for arg, param in zip(jump.args, program.blocks[jump.block].params):
                given[param].add(arg)
    while True:
        more = {}
        for param, args in given.items():
            places = {root.get(arg) for arg in args if arg != param}
            if param not in root and len(places) == 1 and None not in places:
                more[param] = places.pop()
        if not more:
            return root
        root.update(more)


def _hand_overs(program: Program, reach: Mapping[int, list[int]]) -> tuple[nx.Graph, dict[Slot, list[tuple[int, int]]]]:
    """Slots that hold the same value because calls hand it on; and for each slot (block, position in its carry) of
    the values that come from elsewhere."""
    passes = nx.Graph()
    origins: dict[Slot, list[tuple[int, int]]] = defaultdict(list)
    for mode, blocks in reach.items():
        root = _roots(program, blocks, _states(program, mode))
        for number, end in _carries(program, blocks):
            for position, value in enumerate(end.carry):
                if value in root:
                    passes.add_edge((mode, root[value]), (end.mode, position))
                else:
                    origins[(end.mode, position)].append((number, position))
    return passes, origins


class _Hoist:
    """Hoists what depends on one value alone, which has the place `slots[mode]` in the state of each mode."""

    def __init__(self, program: Program, slots: dict[int, int], reach: Mapping[int, list[int]],
                 origins: Mapping[Slot, list[tuple[int, int]]], least: int) -> None:
        self.program, self.slots, self.reach, self.least = program, slots, reach, least
        self.origins = [place for slot in slots.items() for place in origins.get(slot, ())]
        self.values, self.fakes = list(program.values), dict(program.fakes)
        self.graphs, self.blocks = list(program.graphs), list(program.blocks)
        self.examples: dict[Any, int] = {}

    def run(self) -> Program:
        wanted = self.wanted()
        if not wanted:
            return self.program
        self.names = {key: self.name(key) for key in wanted}
        for block, position in self.origins:
            self.originate(block, position, wanted)
        for mode in self.slots:
            self.thread(mode, wanted)
        modes = tuple(
            self.longer(mode, wanted) if number in self.slots else mode
            for number, mode in enumerate(self.program.modes))
        return self.program.replace(values=tuple(self.values), fakes=self.fakes, graphs=tuple(self.graphs),
                                    blocks=tuple(self.blocks), modes=modes)

    # -- what to hoist
    def wanted(self) -> list[Any]:
        """Keys of the results to keep, those that more than one mode or repeated calls of one would compute."""
        uses: dict[Any, set[int]] = defaultdict(set)
        for mode in self.slots:
            for _, step, known in self.regions(mode):
                graph = self.graphs[step.region]
                for value in self.leaving(graph, known):
                    uses[known.key[value]].add(mode)
                    self.examples.setdefault(known.key[value], value)
        again = {mode for mode, place in self.slots.items() for block, end in _carries(self.program, self.reach[mode])
                 if end.mode == mode and (block, place) not in self.origins}
        return [key for key, modes in uses.items() if len(modes) > 1 or modes & again]

    def regions(self, mode: int) -> Iterator[tuple[int, schema.RegionStep, Known]]:
        """The regions of a mode that read the state: block, step, and what is known inside."""
        states = {value: place for value, place in _states(self.program, mode).items() if place == self.slots[mode]}
        root = _roots(self.program, self.reach[mode], states)
        for number in self.reach[mode]:
            for step in self.blocks[number].steps:
                if isinstance(step, schema.RegionStep) and root.keys() & set(step.inputs):
                    graph = self.graphs[step.region]
                    yield number, step, self.known(
                        graph, {inner for inner, outer in zip(graph.inputs, step.inputs) if outer in root})

    def known(self, graph: Graph, seeds: set[int]) -> Known:
        """Follow the operations on `seeds`, which are the state, and on weights."""
        known = Known(key=dict.fromkeys(seeds, STATE))
        weights: dict[int, Any] = {}
        for op in graph.ops:
            leaves = pytree.tree_leaves((op.args, dict(op.kwargs)))
            uses = op_uses(op)
            if any(isinstance(leaf, Symbol) for leaf in leaves) or not all(
                    use in known.key or use in weights for use in uses):
                known.made.update((value, op) for value in op.outputs if value is not None)
                continue
            flat, spec = pytree.tree_flatten((op.args, dict(op.kwargs)))
            parts = tuple(
                (known.key[leaf.id] if leaf.id in known.key else weights[leaf.id]) if isinstance(leaf, Use)
                else ("weight", leaf.name) if isinstance(leaf, Weight) else (type(leaf).__name__, str(leaf))
                for leaf in flat)
            held = sum(known.weights.get(use, 0) for use in uses) + sum(
                _size(self.program.weights[leaf.name]) for leaf in leaves if isinstance(leaf, Weight))
            for position, value in enumerate(op.outputs):
                if value is None:
                    continue
                known.made[value] = op
                key = (str(op.target), parts, str(spec), position)
                if any(use in known.key for use in uses):
                    known.key[value] = key
                else:
                    weights[value], known.weights[value] = key, held
        return known

    def spares(self, known: Known, value: int) -> bool:
        """Whether the operation that makes `value` reads more bytes of weights than it gives."""
        kind = self.values[value]
        if value not in known.made or any(isinstance(size, str) for size in kind.shape):
            return False
        op = known.made[value]
        read = sum(known.weights.get(use, 0) for use in op_uses(op)) + sum(
            _size(self.program.weights[leaf.name])
            for leaf in pytree.tree_leaves((op.args, dict(op.kwargs))) if isinstance(leaf, Weight))
        return read >= self.least and read > math.prod(kind.shape) * np.dtype(kind.dtype).itemsize

    def leaving(self, graph: Graph, known: Known) -> list[int]:
        """The costly values nearest to where the rest of the region uses them."""
        used = [value for value in graph.outputs if value in known.key]
        for op in graph.ops:
            if not any(value in known.key for value in op.outputs if value is not None):
                used += [value for value in op_uses(op) if value in known.key]
        found: dict[int, None] = {}
        seen: set[int] = set()
        while used:
            value = used.pop()
            if value in seen or value not in known.made:
                continue
            seen.add(value)
            if self.spares(known, value):
                found[value] = None
            else:
                used += [use for use in op_uses(known.made[value]) if use in known.key]
        return [value for value in known.made if value in found]

    # -- doing it
    def new(self, like: int) -> int:
        self.values.append(self.values[like])
        self.fakes[len(self.values) - 1] = self.fakes[like]
        return len(self.values) - 1

    def originate(self, number: int, position: int, wanted: list[Any]) -> None:
        """Compute the results in the block where the state comes to be, and leave them with it."""
        block = self.blocks[number]
        state = block.terminator.carry[position]
        steps, found = [], {}
        for step in block.steps:
            if isinstance(step, schema.RegionStep) and state in step.outputs:
                graph = self.graphs[step.region]
                known = self.known(graph, {graph.outputs[step.outputs.index(state)]})
                inner = {}
                for value, key in known.key.items():
                    if key in wanted:
                        inner.setdefault(key, value)
                found = {key: self.new(value) for key, value in inner.items()}
                self.graphs.append(Graph(graph.inputs, graph.ops, (*graph.outputs, *inner.values()), graph.symbols))
                step = schema.RegionStep(region=len(self.graphs) - 1, inputs=step.inputs, source=step.source,
                                         outputs=(*step.outputs, *found.values()))
            steps.append(step)
        missing = [key for key in wanted if key not in found]
        if missing:
            graph, source = self.alone(missing)
            found.update((key, self.new(self.examples[key])) for key in missing)
            self.graphs.append(graph)
            steps.append(schema.RegionStep(region=len(self.graphs) - 1, inputs=(state,), source=source,
                                           outputs=tuple(found[key] for key in missing)))
        self.blocks[number] = _with(block, steps=tuple(steps), terminator=_with(
            block.terminator, carry=(*block.terminator.carry, *(found[key] for key in wanted))))

    def alone(self, keys: list[Any]) -> tuple[Graph, int]:
        """A region that computes the results of `keys` from the state."""
        for mode in self.slots:
            for _, step, known in self.regions(mode):
                held = {key: value for value, key in known.key.items()}
                if all(key in held for key in keys):
                    graph = self.graphs[step.region]
                    outputs = tuple(held[key] for key in keys)
                    seed = next(value for value, key in known.key.items() if key == STATE)
                    ops = tuple(op for op in graph.ops if all(
                        value in known.key or value in known.weights for value in op.outputs if value is not None))
                    made = prune(Graph((seed,), ops, outputs))
                    return made, made.ops[0].source
        raise AssertionError("results that a region computes are computed nowhere")

    def thread(self, mode: int, wanted: list[Any]) -> None:
        """Hand the results from the entries of a mode through its blocks to the calls that follow, and let its regions
        take them."""
        reading = list(self.regions(mode))
        local = {number: {key: self.new(self.examples[key]) for key in wanted} for number in self.reach[mode]}
        changed: dict[tuple[int, int], schema.RegionStep] = {}
        for number, step, known in reading:
            graph = self.graphs[step.region]
            taken = {value: known.key[value] for value in self.leaving(graph, known) if known.key[value] in wanted}
            if not taken:
                continue
            # an operation whose result comes in must not make it again
            ops = tuple(_without_outputs(op, taken) for op in graph.ops)
            outer = dict(zip(graph.inputs, step.inputs)) | {
                value: local[number][key] for value, key in taken.items()}
            smaller = prune(Graph((*graph.inputs, *taken), ops, graph.outputs, graph.symbols))
            self.graphs.append(smaller)
            changed[(number, id(step))] = schema.RegionStep(
                region=len(self.graphs) - 1, inputs=tuple(outer[value] for value in smaller.inputs),
                outputs=step.outputs, source=step.source)
        origins = {block for block, _ in self.origins}
        for number in self.reach[mode]:
            block, mine = self.blocks[number], tuple(local[number].values())
            steps = tuple(changed.get((number, id(step)), step) for step in block.steps)
            end = block.terminator
            if isinstance(end, (schema.Return, schema.Raise)):
                if end.mode in self.slots and number not in origins:
                    end = _with(end, carry=(*end.carry, *mine))
            else:
                end = _longer_jumps(end, mine)
            self.blocks[number] = _with(block, params=(*block.params, *mine), steps=steps, terminator=end)

    def longer(self, mode: schema.Mode, wanted: list[Any]) -> schema.Mode:
        kinds = tuple(self.values[self.examples[key]] for key in wanted)
        told = len(mode.names) == len(mode.state)
        names = (*mode.names, *(self.names[key] for key in wanted)) if told else ()
        return _with(mode, state=(*mode.state, *kinds), names=names)

    def name(self, key: Any) -> str:
        """A name that any program with the same computation gives to its result."""
        return f"hoisted {hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"


def _size(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size()


def _with(item: Any, **changes: Any) -> Any:
    return type(item)(**{**{f: getattr(item, f) for f in item.__struct_fields__}, **changes})


def _without_outputs(op: Op, values: Mapping[int, Any]) -> Op:
    return Op(op.target, op.args, op.kwargs, tuple(None if v in values else v for v in op.outputs), op.source)


def _longer_jumps(end: schema.Terminator, more: tuple[int, ...]) -> schema.Terminator:
    if isinstance(end, schema.Jump):
        return _with(end, args=(*end.args, *more))
    if isinstance(end, schema.Branch):
        return _with(end, then=_longer_jumps(end.then, more), orelse=_longer_jumps(end.orelse, more))
    return _with(end, default=_longer_jumps(end.default, more),
                 cases=tuple((value, _longer_jumps(jump, more)) for value, jump in end.cases))

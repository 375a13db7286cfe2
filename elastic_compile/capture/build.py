"""From the explored segments to a program of basic blocks and regions.

In: an exploration. Out: a verified `Program`, one block per segment, dead operations gone.
Never: reorders anything with an effect; the operations left are functional.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import sympy
import torch
import torch.utils._pytree as pytree

from elastic_compile.capture.explore import Exploration, Root
from elastic_compile.capture.liveness import Liveness
from elastic_compile.capture.scalars import steps_for
from elastic_compile.capture.structure import to_schema
from elastic_compile.capture.symbols import as_expr
from elastic_compile.capture.tracer import (
    DTYPES,
    CarryEvent,
    Decision,
    Goto,
    HostCallEvent,
    ItemEvent,
    OpEvent,
    Raised,
    RandomEvent,
    Ref,
    ScalarEvent,
    Segment,
    SymRef,
)
from elastic_compile.errors import Refusal
from elastic_compile.program.ir import Graph, Op, Program, Symbol, Use, Weight, verify
from elastic_runtime import schema


def build(name: str, exploration: Exploration, params: Sequence[tuple[schema.Parameter, ...]]) -> Program:
    """The program of an exploration. `params`: each entry's signature, its value leaves counting its inputs."""
    return Builder(name, exploration).build(params)


class Builder:
    def __init__(self, name: str, exploration: Exploration) -> None:
        self.name = name
        self.exploration = exploration
        self.values: list[schema.ValueType] = []
        self.fakes: dict[int, torch.Tensor] = {}
        self.blocks: list[schema.Block | None] = []
        self.graphs: list[Graph] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.weight_names: dict[int, str] = {}
        self.sources: dict[schema.Source, int] = {}
        self.entries: list[schema.Entry] = []

    def build(self, params: Sequence[tuple[schema.Parameter, ...]]) -> Program:
        exploration = self.exploration
        modes = []
        for number, mode in enumerate(exploration.modes):
            first = len(self.entries)
            for root in exploration.roots:
                if root.mode == number:
                    self.entry(root, params[root.entry])
            names = tuple(map(readable, mode.names))
            modes.append(schema.Mode(
                entries=tuple(range(first, len(self.entries))), state=tuple(self.kind(v) for v in mode.values),
                names=names if all(names) and len(set(names)) == len(names) else (),
                static={readable(label): text for label, text in mode.static.items()}))
        initial = []
        for value in exploration.initial:
            known = isinstance(value, torch.Tensor)
            real = value if known else torch.tensor(value, dtype=torch.int64 if type(value) is int else torch.float64)
            name = exploration.tracer.values[exploration.tracer.weight(value)].name if known else "state"
            initial.append(self.weight_name(real, name or "state"))
        return verify(Program(
            name=self.name,
            values=tuple(self.values),
            fakes=dict(self.fakes),
            blocks=tuple(self.blocks),
            entries=tuple(self.entries),
            graphs=tuple(self.graphs),
            weights=dict(self.weights),
            modes=tuple(modes),
            initial=tuple(initial),
            sources=tuple(self.sources),
            host_ops=tuple(f.signature for f in exploration.tracer.host_functions.values()),
        ))

    def kind(self, value: int) -> schema.ValueType:
        """The type of a traced value."""
        described = self.exploration.tracer.values[value]
        return tensor_type(described.fake) if described.fake is not None else schema.ScalarType(kind=described.python)

    def entry(self, root: Root, params: tuple[schema.Parameter, ...]) -> None:
        tracer = self.exploration.tracer
        live = Liveness(root.segment, tracer)
        order = list(nx.dfs_preorder_nodes(live.graph, root.segment))
        first = len(self.blocks)
        numbers = {segment: first + i for i, segment in enumerate(order)}
        self.blocks.extend([None] * len(order))
        emitters = {segment: BlockEmitter(self, live, segment, numbers) for segment in order}
        emitters[root.segment].params = list(root.inputs)
        for segment in order:
            self.blocks[numbers[segment]] = emitters[segment].emit(emitters)
        inputs = root.inputs[: len(root.inputs) - len(self.exploration.modes[root.mode].values)]
        mapping = dict(zip(inputs, self.blocks[first].params))
        self.entries.append(schema.Entry(
            name=f"call{root.entry or ''}" + (f".{root.mode}" if root.mode else ""),
            params=tuple(
                schema.Parameter(
                    name=p.name, kind=p.kind, default=p.default, tree=_renumber(p.tree, inputs, mapping))
                for p in params
            ),
            block=first,
            inputs=tuple(mapping[i] for i in inputs),
        ))

    def new_value(self, kind: schema.ValueType, fake: torch.Tensor | None = None) -> int:
        self.values.append(kind)
        if fake is not None:
            self.fakes[len(self.values) - 1] = fake
        return len(self.values) - 1

    def weight_name(self, real: torch.Tensor, name: str) -> str:
        key = id(real)
        if key not in self.weight_names:
            clean = readable(name) or f"constant_{len(self.weight_names)}"
            while clean in self.weights:
                clean += "_"
            self.weight_names[key] = clean
            self.weights[clean] = real.detach()
        return self.weight_names[key]

    def source(self, site: Any) -> int:
        if site is None:
            return -1
        entry = schema.Source(file=site.file, line=site.line, text=site.text.strip().splitlines()[0][:200]
                              if site.text.strip() else "")
        return self.sources.setdefault(entry, len(self.sources))


class BlockEmitter:
    """Makes the block of one segment."""

    def __init__(self, builder: Builder, live: Liveness, segment: Segment, numbers: dict[Segment, int]) -> None:
        self.builder = builder
        self.live = live
        self.tracer = live.tracer
        self.segment = segment
        self.numbers = numbers
        self.params: list[int] = sorted(live.live_in[segment])
        self.local: dict[int, int] = {}
        self.level: dict[int, int] = {}
        self.made_by_regions: set[int] = set()
        self.symbol_local: dict[sympy.Symbol, int] = {}
        self.steps: list[schema.Step] = []
        self.host_level = 0

    def emit(self, emitters: dict[Segment, BlockEmitter]) -> schema.Block:
        for value in self.params:
            self.local[value] = self.declare(value)
            self.level[value] = 0
        _, events = self.live.needed(self.segment)
        end = self.segment.end
        returned: list[Op] = []
        for event in events:
            self.level_event(event)
        clones = self.weights_leaving()
        top = max([self.level[v] for e in events for v in _outputs(e)], default=0)
        for level in range(top + 1):
            self.host_steps([e for e in events if self.event_level(e) == level and not isinstance(e, OpEvent)])
            ops = [e for e in events if isinstance(e, OpEvent) and self.event_level(e) == level]
            if level == top:
                returned = clones
            if ops or returned:
                self.region(ops, returned, events)
        terminator = self.terminator(end, emitters)
        return schema.Block(
            params=tuple(self.local[v] for v in self.params),
            steps=tuple(self.steps),
            terminator=terminator,
            label=self.label(),
        )

    def label(self) -> str:
        if self.segment.join is not None:
            return "loop" if self.segment.join.loop and self.live.graph.in_degree(self.segment) > 1 else "join"
        parent = self.segment.parent
        if parent is None:
            return "entry"
        return "then" if parent.end.then is self.segment else "else"

    # -- values
    def declare(self, value: int) -> int:
        described = self.tracer.values[value]
        if described.fake is not None:
            return self.builder.new_value(tensor_type(described.fake), described.fake)
        return self.builder.new_value(schema.ScalarType(kind=described.python))

    # -- levels: a region may start when the host scalars that it takes are known
    def event_level(self, event: Any) -> int:
        return self.level[next(v for v in _outputs(event))]

    def level_event(self, event: Any) -> None:
        uses = [self.level.get(value, 0) for value in self.live.event_uses(event, self.segment)]
        level = max(uses, default=0)
        if isinstance(event, (ItemEvent, ScalarEvent, CarryEvent, RandomEvent)):
            # What the host reads of a tensor (its number, a size) it reads when the region that makes it has run.
            read = [value for value in self.live.event_uses(event, self.segment)
                    if value in self.made_by_regions and value not in self.params]
            level = max([level, *(self.level[value] + 1 for value in read)])
        if isinstance(event, HostCallEvent):
            made_here = any(value in self.level and value not in self.params for value in event.inputs)
            level = self.host_level = max(level + 1 if made_here else level, self.host_level)
        for value in _outputs(event):
            self.level.setdefault(value, level)
            if isinstance(event, OpEvent):
                self.made_by_regions.add(value)

    # -- steps
    def host_steps(self, events: list[Any]) -> None:
        for event in events:
            for output in _outputs(event):
                self.local[output] = self.declare(output)
            source = self.builder.source(event.site)
            if isinstance(event, HostCallEvent):
                self.steps.append(schema.HostCallStep(
                    name=event.function.name, inputs=tuple(self.local[v] for v in event.inputs),
                    outputs=tuple(self.local[v] for v in event.outputs), source=source,
                ))
                continue
            if isinstance(event, RandomEvent):
                self.steps.append(schema.RandomStep(
                    kind=event.kind, outputs=(self.local[event.output],), source=source,
                    sizes=tuple(size if isinstance(size, int) else f"v{self.expression(size, 'int', source)}"
                                for size in event.sizes),
                ))
            elif isinstance(event, CarryEvent):
                kind = "int" if self.tracer.values[event.output].fake.dtype == torch.int64 else "float"
                self.steps.append(schema.ScalarStep(
                    op=f"tensor_{kind}", inputs=(self.expression(event.expr, kind, source),),
                    outputs=(self.local[event.output],), source=source,
                ))
            elif isinstance(event, ItemEvent):
                self.steps.append(schema.ScalarStep(
                    op="item", inputs=(self.local[event.tensor],), outputs=(self.local[event.output],), source=source,
                ))
            else:
                self.expression(event.expr, self.tracer.values[event.output].python, source, self.local[event.output])

    def expression(self, expr: Any, kind: str, source: int, output: int | None = None) -> int:
        """Steps that compute a symbolic expression; the value that holds it."""
        try:
            return steps_for(expr, kind, self.scalar_of, self.builder.new_value, self.steps, source, output)
        except Refusal as error:
            if source >= 0:
                place = list(self.builder.sources)[source]
                error.file, error.line, error.source, error.width = (
                    place.file, place.line, place.text, len(place.text))
            raise

    def scalar_of(self, symbol: sympy.Symbol) -> int:
        """The host scalar value of a symbol."""
        if symbol in self.symbol_local:
            return self.symbol_local[symbol]
        source = self.live.symbol_source(symbol, self.segment)
        if source[0] == "scalar":
            return self.local[source[1]]
        output = self.builder.new_value(schema.ScalarType(kind="int"))
        self.steps.append(schema.ScalarStep(
            op="size", inputs=(self.local[source[1]],), outputs=(output,),
            literals=((1, schema.encode_literal(source[2])),),
        ))
        self.symbol_local[symbol] = output
        return output

    def region(self, events: list[OpEvent], clones: list[int], all_events: list[Any]) -> None:
        """One region of the operations of one level."""
        own = {v for e in events for v in _outputs(e)}
        wanted = self.used_outside(own, all_events)
        inputs: dict[int, int] = {}
        inner: dict[int, int] = {}
        symbols: dict[sympy.Symbol, tuple[int, int | None]] = {}
        ops: list[Op] = []

        def use(value: int) -> Any:
            described = self.tracer.values[value]
            if described.kind == "weight":
                return Weight(self.builder.weight_name(described.real, described.name))
            if value not in inner:
                inner[value] = self.builder.new_value(tensor_type(described.fake), described.fake)
                inputs[value] = inner[value]
            return Use(inner[value])

        def bind(symbol: sympy.Symbol) -> None:
            if symbol in symbols:
                return
            source = self.live.symbol_source(symbol, self.segment)
            if source[0] == "dim":
                symbols[symbol] = (use(source[1]).id, source[2])
                return
            scalar = self.scalar_of(symbol)
            kind = self.builder.values[scalar].kind
            fake = self.tracer.fake_mode.from_tensor(
                torch.zeros((), dtype=torch.int64 if kind == "int" else torch.float64), static_shapes=True)
            carried = self.builder.new_value(tensor_type(fake), fake)
            self.steps.append(schema.ScalarStep(op=f"tensor_{kind}", inputs=(scalar,), outputs=(carried,)))
            entered = self.builder.new_value(tensor_type(fake), fake)
            inputs[("carried", carried)] = entered  # type: ignore[index]
            symbols[symbol] = (entered, None)

        def leaf(value: Any) -> Any:
            if isinstance(value, Ref):
                return use(value.id)
            if isinstance(value, SymRef):
                for symbol in sorted(value.expr.free_symbols, key=str):
                    bind(symbol)
                return Symbol(value.expr)
            return value

        for event in events:
            args, kwargs = pytree.tree_map(leaf, (event.args, event.kwargs))
            outputs: list[int | None] = []
            for output in event.outputs:
                if output is None or output in inner:
                    outputs.append(None)
                    continue
                described = self.tracer.values[output]
                inner[output] = self.builder.new_value(tensor_type(described.fake), described.fake)
                outputs.append(inner[output])
            ops.append(Op(event.target, args, kwargs, tuple(outputs), self.builder.source(event.site)))
        for value in clones:
            described = self.tracer.values[value]
            made = self.builder.new_value(tensor_type(described.fake), described.fake)
            ops.append(Op(torch.ops.aten.clone.default, (use(value),), {}, (made,)))
            inner[("leaving", value)] = made  # type: ignore[index]
        outputs_inner: list[int] = []
        outputs_local: list[int] = []
        for value in [*wanted, *(("leaving", v) for v in clones)]:
            tensor = value[1] if isinstance(value, tuple) else value
            outputs_inner.append(inner[value])
            self.local[tensor] = self.declare(tensor)
            outputs_local.append(self.local[tensor])
        given = tuple(key[1] if isinstance(key, tuple) else self.local[key] for key in inputs)
        self.builder.graphs.append(Graph(
            inputs=tuple(inputs.values()), ops=tuple(ops), outputs=tuple(outputs_inner),
            symbols=tuple((symbol, *place) for symbol, place in symbols.items()),
        ))
        self.steps.append(schema.RegionStep(
            region=len(self.builder.graphs) - 1, inputs=given, outputs=tuple(outputs_local),
            source=ops[0].source if ops else -1,
        ))

    def used_outside(self, own: set[int], events: list[Any]) -> list[int]:
        """Which of the values made by one region anything else needs."""
        used: set[int] = set()
        for event in events:
            if not (isinstance(event, OpEvent) and own.intersection(_outputs(event))):
                used.update(self.live.event_uses(event, self.segment))
        used.update(self.live.terminator_uses(self.segment))
        return sorted(own & used)

    def weights_leaving(self) -> list[int]:
        """Weights that are returned, passed on or read by the host: they leave through a region."""
        uses = dict.fromkeys(self.live.terminator_uses(self.segment))
        return [value for value in uses if self.tracer.values[value].kind == "weight"]

    # -- terminators
    def terminator(self, end: Any, emitters: dict[Segment, BlockEmitter]) -> schema.Terminator:
        if isinstance(end, Goto):
            given = dict(self.live.passed(end))
            return schema.Jump(
                block=self.numbers[end.target], args=tuple(self.local[given[v]] for v in emitters[end.target].params),
            )
        source = self.builder.source(end.site)
        if isinstance(end, Decision):
            known = end.tensor is not None
            cond = self.local[end.tensor] if known else self.expression(end.expr, "bool", source)
            then, orelse = (
                schema.Jump(block=self.numbers[s], args=tuple(self.local[v] for v in emitters[s].params))
                for s in (end.then, end.orelse)
            )
            return schema.Branch(cond=cond, then=then, orelse=orelse, source=source)
        if isinstance(end, Raised):
            carry = tuple(self.local[v] for v in end.carry)
            return schema.Raise(type=end.type, message=end.message, mode=end.mode, carry=carry, source=source)
        return schema.Return(
            tree=self.tree(end.tree, source), mode=end.mode, carry=tuple(self.local[v] for v in end.carry),
            source=source,
        )

    def tree(self, tree: Any, source: int) -> schema.Tree:
        def leaf(item: Any) -> schema.Tree | None:
            if isinstance(item, Ref):
                return schema.ValueLeaf(id=self.local[item.id])
            if isinstance(item, SymRef):
                return schema.ValueLeaf(id=self.expression(item.expr, _kind_of(item.expr), source))
            return None

        return to_schema(tree, leaf)


def tensor_type(fake: torch.Tensor) -> schema.TensorType:
    """The type of a traced tensor; symbolic sizes by name."""
    return schema.TensorType(
        dtype=DTYPES[fake.dtype],
        shape=tuple(size if as_expr(size) is None else _dim_name(as_expr(size)) for size in fake.shape),
    )


def readable(label: str) -> str:
    """A heap label as a dotted name: self['_modules']['fc']['_parameters']['weight'] -> fc.weight."""
    parts = [p.strip("'\"") for p in label.replace("]", "").split("[")]
    kept = [p for p in parts if p not in ("self", "_modules", "_parameters", "_buffers", "")]
    return "".join(ch if ch.isalnum() or ch in "._-" else "_" for ch in ".".join(kept)).lstrip(".")[:120]


def _outputs(event: Any) -> list[int]:
    if isinstance(event, OpEvent):
        return [output for output in event.outputs if output is not None]
    return list(event.outputs) if isinstance(event, HostCallEvent) else [event.output]


def _kind_of(expr: sympy.Basic) -> str:
    return "int" if expr.is_integer else "float"


def _dim_name(expr: sympy.Basic) -> str:
    """A name of a size, other for other expressions."""
    said = {"+": "plus", "-": "minus", "*": "times", "/": "over"}
    text = "".join(said.get(ch, ch if ch.isalnum() else "_") for ch in str(expr))
    return text if text[:1].isalpha() else f"d_{text}"


def _renumber(tree: schema.Tree, inputs: tuple[int, ...], mapping: dict[int, int]) -> schema.Tree:
    """An input tree whose value leaves count inputs, over the entry block's values instead."""
    if isinstance(tree, schema.ValueLeaf):
        return schema.ValueLeaf(id=mapping[inputs[tree.id]])
    if hasattr(tree, "items"):
        changes = {name: getattr(tree, name) for name in tree.__struct_fields__}
        changes["items"] = tuple(_renumber(item, inputs, mapping) for item in tree.items)
        return type(tree)(**changes)
    return tree

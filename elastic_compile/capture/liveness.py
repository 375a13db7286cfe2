"""Which values each segment needs from outside (its live-ins), and which joins are therefore unsound.

In: a finished graph of segments. Out: live-ins per segment, needed events, and the positions of joins behind which
a value is used that the joined state does not account for.
Never: changes the graph.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import networkx as nx
import sympy
import torch.utils._pytree as pytree

from elastic_compile.capture.structure import leaves
from elastic_compile.capture.symbols import as_expr
from elastic_compile.capture.tracer import (
    CarryEvent,
    Decision,
    End,
    Goto,
    HostCallEvent,
    ItemEvent,
    LiteralEvent,
    OpEvent,
    Raised,
    RandomEvent,
    Ref,
    ScalarEvent,
    Segment,
    SymRef,
    Tracer,
)


class Liveness:
    """Backward data flow over the segments reachable from `root`, to a fixed point."""

    def __init__(self, root: Segment, tracer: Tracer) -> None:
        self.root = root
        self.tracer = tracer
        self.graph = segment_graph(root)
        self.order: list[Segment] = list(nx.dfs_postorder_nodes(self.graph, root))
        self.live_in: dict[Segment, set[int]] = {segment: set() for segment in self.order}
        self.unaccounted: set[Any] = set()
        changed = True
        while changed:
            changed = False
            for segment in self.order:
                needed, _ = self.needed(segment)
                live = needed - self.defined(segment)
                if live != self.live_in[segment]:
                    self.live_in[segment] = live
                    changed = True
        for segment in self.order:
            joined = segment.join
            if joined is None or self.only_follows(segment):
                continue
            if not self.live_in[segment] <= set(joined.values):
                self.unaccounted.add(joined.position)

    def only_follows(self, segment: Segment) -> bool:
        """Whether the one way into a segment is the path on which it was found. Another entry may reach it by one other
        way only, from a segment that has not computed what its parent has."""
        return list(self.graph.predecessors(segment)) == [segment.parent]

    def defined(self, segment: Segment) -> set[int]:
        """Values that the segment's events define."""
        out: set[int] = set()
        for event in segment.events:
            out.update(event_outputs(event))
        return out

    def needed(self, segment: Segment) -> tuple[set[int], list[Any]]:
        """Values needed at the segment's start, not yet less those it defines; and the events that must run."""
        needed = set(self.terminator_uses(segment))
        events = []
        for event in reversed(segment.events):
            outputs = event_outputs(event)
            if needed.intersection(outputs) or isinstance(event, HostCallEvent):
                needed.update(self.event_uses(event, segment))
                events.append(event)
        return {v for v in needed if self.tracer.values[v].kind != "weight"}, events[::-1]

    def terminator_uses(self, segment: Segment) -> Iterator[int]:
        end = segment.end
        if isinstance(end, Goto):
            yield from (arg for _, arg in self.passed(end))
        elif isinstance(end, Decision):
            if end.tensor is not None:
                yield end.tensor
            else:
                yield from self.expr_uses(end.expr, segment)
            yield from self.live_in.get(end.then, ())
            yield from self.live_in.get(end.orelse, ())
        if isinstance(end, (End, Raised)):
            yield from end.carry
        if isinstance(end, End):
            for leaf in leaves(end.tree):
                if isinstance(leaf, Ref):
                    yield leaf.id
                elif isinstance(leaf, SymRef):
                    yield from self.expr_uses(leaf.expr, segment)

    def passed(self, end: Goto) -> list[tuple[int, int]]:
        """(value in the target, value here) for each live-in of the target. A value that the join does not list
        is itself on both sides (sound only with one way in, which `unaccounted` checks)."""
        given = dict(zip(end.target.join.values, end.args))
        return [(value, given.get(value, value)) for value in sorted(self.live_in.get(end.target, ()))]

    def event_uses(self, event: Any, segment: Segment) -> Iterator[int]:
        if isinstance(event, OpEvent):
            for leaf in pytree.tree_leaves((event.args, event.kwargs)):
                if isinstance(leaf, Ref):
                    yield leaf.id
                elif isinstance(leaf, SymRef):
                    yield from self.expr_uses(leaf.expr, segment)
        elif isinstance(event, HostCallEvent):
            yield from event.inputs
        elif isinstance(event, RandomEvent):
            for size in event.sizes:
                if isinstance(size, sympy.Basic):
                    yield from self.expr_uses(size, segment)
        elif isinstance(event, ItemEvent):
            yield event.tensor
        elif isinstance(event, (ScalarEvent, CarryEvent)) and hasattr(event.expr, "free_symbols"):
            yield from self.expr_uses(event.expr, segment)

    def expr_uses(self, expr: Any, segment: Segment) -> Iterator[int]:
        for symbol in expr.free_symbols:
            yield self.symbol_source(symbol, segment)[1]

    def symbol_source(self, symbol: sympy.Symbol, segment: Segment) -> tuple[Any, ...]:
        """Where `symbol` is read in `segment`: ("scalar", value) or ("dim", tensor, axis)."""
        tracer = self.tracer
        original = tracer.symbol_value[symbol]
        node: Segment | None = segment
        while node is not None:
            if original[1] in self.defined(node):
                return original
            if node.join is not None:
                for value in node.join.values:
                    described = tracer.values[value]
                    if described.symbol == symbol:
                        return ("scalar", value)
                    if described.fake is not None:
                        for axis, size in enumerate(described.fake.shape):
                            if as_expr(size) == symbol:
                                return ("dim", value, axis)
                if not self.only_follows(node):
                    return original
            node = node.parent
        return original


def event_outputs(event: Any) -> Iterable[int]:
    """The values that an event defines."""
    if isinstance(event, OpEvent):
        return [output for output in event.outputs if output is not None]
    if isinstance(event, LiteralEvent):
        return []
    if isinstance(event, HostCallEvent):
        return event.outputs
    return [event.output]


def segment_graph(root: Segment) -> nx.DiGraph:
    """The graph of the segments reachable from `root`."""
    graph = nx.DiGraph()
    graph.add_node(root)
    stack = [root]
    while stack:
        segment = stack.pop()
        for successor in successors(segment):
            if successor not in graph:
                stack.append(successor)
            graph.add_edge(segment, successor)
    return graph


def successors(segment: Segment) -> list[Segment]:
    """The segments that may run next."""
    if isinstance(segment.end, Goto):
        return [segment.end.target]
    if isinstance(segment.end, Decision):
        return [segment.end.then, segment.end.orelse]
    return []

"""Explores every path of a program, once, and joins those that come to the same.

In: a function and its example call. Out: the graph of segments reachable from the call, with its inputs and values.
Never: assumes that two paths are one unless their stack of frames, live locals, changed objects and known facts
are equal (DESIGN: state = point stack, static live values, shapes and dtypes of live tensors).

A fork is explored by running the program again along the known prefix, where recorded results are returned
instead of computed; a loop whose state recurs up to Python numbers is run again with those numbers carried as
run-time scalars.
"""
from __future__ import annotations

import ctypes
import sys
import types
from dataclasses import dataclass
from typing import Any, Callable

import torch

from elastic_compile.capture.hooks import DATA_TEXT, Call, Hooks
from elastic_compile.capture.liveness import Liveness
from elastic_compile.capture.state import Heap, State, Walker
from elastic_compile.capture.structure import take_apart
from elastic_compile.capture.symbols import as_expr
from elastic_compile.capture.tracer import (
    Decision,
    End,
    Goto,
    Join,
    OpEvent,
    PathEnd,
    Raised,
    Ref,
    ScalarEvent,
    Segment,
    SymRef,
    Tracer,
)
from elastic_compile.errors import CompileError, InternalError
from elastic_compile.refusals import refuse

MAX_SEGMENTS = 20_000


class Redo(BaseException):
    """A loop head is to be explored anew with more of its state carried at run time."""


@dataclass(frozen=True)
class Exploration:
    """Everything reachable from one entry: the root segment, the value numbers of the flat inputs, and names."""

    root: Segment
    inputs: tuple[int, ...]
    tracer: Tracer
    hooks: Hooks


@dataclass(frozen=True)
class InputLeaf:
    """A place in the arguments for run-time input number `index`."""

    index: int


def explore(
    function: Callable[..., Any],
    arguments: Callable[[list[Any]], tuple[tuple[Any, ...], dict[str, Any]]],
    inputs: list[torch.Tensor | int | float],
    roots: list[tuple[str, Any]],
    progress: Callable[[int], None] | None = None,
) -> Exploration:
    """Trace `function` on every path.

    `inputs`: example leaves (tensors, or Python numbers that vary from call to call); `arguments(leaves)` builds
    fresh arguments from stand-ins for them; `roots`: named objects whose state the function can reach.
    """
    return Explorer(function, arguments, inputs, roots, progress).run()


class Explorer:
    def __init__(self, function: Any, arguments: Any, inputs: list[Any], roots: Any, progress: Any) -> None:
        self.function = function
        self.arguments = arguments
        self.progress = progress
        self.tracer = Tracer()
        self.hooks = Hooks(self.tracer)
        self.hooks.on_point = self.point
        self.heap = Heap(roots)
        self.joins: dict[Any, Segment] = {}
        self.widened: dict[Any, frozenset[Any]] = {}
        self.unjoined: set[Any] = set()
        self.stand_ins: list[Any] = []
        self.input_values: list[int] = []
        for i, leaf in enumerate(inputs):
            self.add_input(i, leaf)
        self.wrappers: dict[int, torch.Tensor] = {}

    def add_input(self, index: int, leaf: Any) -> None:
        tracer = self.tracer
        if isinstance(leaf, torch.Tensor):
            fake = tracer.fake_mode.from_tensor(leaf.detach(), static_shapes=True)
            self.stand_ins.append(fake)
            self.input_values.append(tracer.new_value("input", fake=fake, name=f"input{index}"))
        else:
            number, symbolic = tracer.scalar("float" if isinstance(leaf, float) else "int")
            self.stand_ins.append(symbolic)
            self.input_values.append(number)

    # -- the loop over paths
    def run(self) -> Exploration:
        tracer = self.tracer
        try:
            while True:
                root = tracer.new_segment(None)
                tracer.pending.append(root)
                while tracer.pending:
                    if len(tracer.segments) > MAX_SEGMENTS:
                        raise refuse("EC110", tracer.site)
                    self.path(tracer.pending.pop())
                    if self.progress:
                        self.progress(len(tracer.segments))
                unaccounted = Liveness(root, tracer).unaccounted
                if not unaccounted:
                    return Exploration(root, tuple(self.input_values), tracer, self.hooks)
                self.unjoined.update(unaccounted)
                self.joins.clear()
        finally:
            self.heap.uninstall()

    def path(self, target: Segment) -> None:
        """Run the program once, to the end of the path that leads through `target`."""
        tracer = self.tracer
        tracer.begin(target)
        self.hooks.stack.clear()
        self.install()
        try:
            with tracer.active():
                leaves = [
                    torch._to_functional_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf
                    for leaf in self.stand_ins
                ]
                args, kwargs = self.arguments(leaves)
                self.argument_heap = Heap([(f"arguments{k}", v) for k, v in _named(args, kwargs)])
                self.input_wrappers = leaves
                self.call(args, kwargs)
        except Redo:
            pass
        finally:
            self.heap.reset()

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tracer = self.tracer
        try:
            result = self.hooks.invoke(None, sys._getframe(), self.function, args, kwargs)
            if tracer.dead:
                return
            self.check_state()
            tree = self.result(result)
        except PathEnd:
            return
        except (CompileError, RecursionError):
            raise
        except Exception as error:
            if tracer.dead:
                return
            if _is_limit_of_tracing(error):
                raise refuse("EC131", tracer.site, operator=f"{type(error).__name__}: {_first_line(error)}") from error
            self.check_state()
            message = "".join("<data>" if ch == DATA_TEXT else ch for ch in str(error))
            tracer.finish(Raised(type(error).__name__, message, tracer.site))
            return
        tracer.finish(End(tree, tracer.site))

    # -- state that exists before the call
    def install(self) -> None:
        """Put stand-ins in place of every tensor that the module and its closures hold."""
        tracer = self.tracer
        replaced = {}
        for ident, real in self.heap.tensors.items():
            wrapper = self.wrappers.get(ident)
            if wrapper is None or self.was_mutated(ident, wrapper):
                number = tracer.weight(real, self.heap.tensor_names[ident])
                wrapper = torch._to_functional_tensor(tracer.values[number].fake)
                if isinstance(real, torch.nn.Parameter):
                    wrapper._is_param = True
                self.wrappers[ident] = wrapper
                replaced[ident] = wrapper
        self.heap.install(replaced)

    def was_mutated(self, ident: int, wrapper: torch.Tensor) -> bool:
        number = self.tracer.by_weight[ident]
        torch._sync(wrapper)
        return torch._from_functional_tensor(wrapper) is not self.tracer.values[number].fake

    def mutated(self) -> list[int]:
        return [ident for ident, wrapper in self.wrappers.items() if self.was_mutated(ident, wrapper)]

    def check_state(self) -> None:
        """Refuse what a call leaves behind, which the bundle would lose."""
        for number in self.heap.changed():
            raise refuse("EC150", self.tracer.site, name=_pretty(self.heap.names[number]))
        for ident in self.mutated():
            raise refuse("EC150", self.tracer.site, name=_pretty(self.heap.tensor_names[ident]))
        for number in self.argument_heap.changed():
            raise refuse("EC151", self.tracer.site, name=_pretty(self.argument_heap.names[number]))
        for stand_in, wrapper in zip(self.stand_ins, self.input_wrappers):
            if isinstance(wrapper, torch.Tensor) and self.tracer.inner(wrapper) is not stand_in:
                raise refuse("EC151", self.tracer.site, name="a tensor")

    # -- points
    def point(self, site: Any, stack: list[Call]) -> None:
        """A point where paths may join: end the path, go on in a new segment, or widen a loop."""
        tracer = self.tracer
        if tracer.paused:
            return
        if tracer.replaying:
            self.replay_point(stack)
            return
        position = tuple((call.frame.f_code, call.frame.f_lasti) for call in stack)
        if position in self.unjoined:
            return
        state, symbols = self.state(stack, self.widened.get(position, frozenset()))
        key = (position, state.key, tracer.symbols.facts(symbols), self.relevant_facts(symbols))
        target = self.joins.get(key)
        args, rewrites = self.join_arguments(state)
        if target is not None:
            tracer.segment.end = Goto(target, args)
            tracer.dead = True
            raise PathEnd
        if site.kind == "head":
            self.consider_widening(position, state)
        here = tracer.segment
        values = list(args)
        writes: dict[Any, Any] = {}
        for index, slots in rewrites.items():
            number, symbolic = tracer.scalar("int" if isinstance(state.scalars[index], (int, torch.SymInt)) else "float")
            values[len(state.tensors) + index] = number
            for path in slots:
                writes[path] = symbolic
        joined = tracer.new_segment(here)
        joined.join = Join(key, position, tuple(values), state, writes, site.kind == "head")
        here.end = Goto(joined, args)
        self.joins[key] = joined
        self.enter(joined, state)
        tracer.advance(joined)

    def replay_point(self, stack: list[Call]) -> None:
        tracer = self.tracer
        if tracer.cursor != len(tracer.segment.events) or not isinstance(tracer.segment.end, Goto):
            if tracer.cursor == len(tracer.segment.events) and tuple(
                (call.frame.f_code, call.frame.f_lasti) for call in stack
            ) in self.unjoined:
                return
            if tracer.segment.end is None or not isinstance(tracer.segment.end, Goto):
                return
            raise refuse("EC120", tracer.site)
        joined = tracer.path[tracer.position + 1]
        if joined.join.rewrites:
            state, _ = self.state(stack, self.widened.get(joined.join.position, frozenset()))
            self.enter(joined, state)
        else:
            self.enter(joined, None)
        tracer.advance()

    def enter(self, joined: Segment, state: State | None) -> None:
        """Go on behind a join: numbers carried at run time are written into the program's own variables, and
        nothing computed before is a constant any more."""
        if joined.join.rewrites:
            for path, symbolic in joined.join.rewrites.items():
                state.slots[path].write(symbolic)
        self.tracer.fresh.clear()
        self.tracer.items.clear()

    def state(self, stack: list[Call], widened: frozenset[Any]) -> tuple[State, frozenset[Any]]:
        """The state at a point, and the symbols in it."""
        tracer = self.tracer
        aliases: dict[int, int] = {}
        classes: dict[Any, int] = {}
        symbols: set[Any] = set()

        def size(value: Any) -> Any:
            expr = as_expr(value)
            if expr is None:
                return value
            symbols.update(expr.free_symbols)
            return ("size", classes.setdefault(expr, len(classes)))

        def describe(tensor: torch.Tensor, state: State) -> Any:
            number = tracer.tensor_value(tensor)
            value = tracer.values[number]
            storage = id(tensor) if not torch._is_functional_tensor(tensor) else tensor.untyped_storage()._cdata
            alias = aliases.setdefault(storage, len(aliases))
            if value.kind == "weight":
                return ("weight", number, alias)
            state.tensors.append(tensor)
            fake = value.fake
            strides = tuple(fake.stride()) if all(isinstance(s, int) for s in fake.stride()) else "symbolic"
            return (
                "tensor", str(fake.dtype), tuple(size(s) for s in fake.shape), strides, alias, type(tensor).__name__,
            )

        walker = Walker(describe, self.heap.number, widened)
        for depth, call in enumerate(stack):
            names = call.frame.f_locals
            walker.state.tokens.append(("frame", depth))
            for name in call.site.live:
                if name in names:
                    walker.state.tokens.append(name)
                    walker.walk(names[name], (depth, name), _local_writer(call.frame, name))
        handled = sys.exc_info()[1]
        if handled is not None and not isinstance(handled, PathEnd):
            walker.state.tokens.append("handling")
            walker.walk(handled, ("handling",))
        for number in self.heap.changed():
            walker.state.tokens.append(("changed", number))
            walker.state.tokens.append(len(self.heap.objects[number]) if hasattr(self.heap.objects[number], "__len__") else 0)
            self.walk_changed(walker, number)
        for ident in self.mutated():
            walker.state.tokens.append(("mutated", self.heap.tensor_names[ident]))
            walker.walk(self.wrappers[ident], ("mutated", ident))
        for scalar in walker.state.scalars:
            expr = as_expr(scalar)
            if expr is not None:
                symbols.update(expr.free_symbols)
        return walker.state, frozenset(symbols)

    def walk_changed(self, walker: Walker, number: int) -> None:
        value = self.heap.objects[number]
        name = self.heap.names[number]
        if isinstance(value, dict):
            for key, item in dict.items(value):
                walker.walk(key, (name, "key"))
                walker.walk(item, (name, key if isinstance(key, (str, int)) else repr(key)),
                            lambda new, d=value, k=key: dict.__setitem__(d, k, new))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walker.walk(item, (name, i), lambda new, d=value, k=i: d.__setitem__(k, new))
        elif isinstance(value, types.CellType):
            walker.walk(value.cell_contents, (name, "cell"), lambda new, c=value: setattr(c, "cell_contents", new))
        else:
            walker.walk(sorted(map(repr, value)), (name, "set"))

    def relevant_facts(self, symbols: frozenset[Any]) -> tuple[Any, ...]:
        return tuple(sorted(
            (str(expr), outcome) for expr, outcome in self.tracer.facts.items() if expr.free_symbols & symbols
        ))

    def join_arguments(self, state: State) -> tuple[tuple[int, ...], dict[int, list[Any]]]:
        """The values that the join takes here, and which scalars (by index) must be carried in fresh symbols
        (with the slots that hold them): compound expressions, and Python numbers being widened."""
        tracer = self.tracer
        args = [tracer.tensor_value(tensor) for tensor in state.tensors]
        rewrites: dict[int, list[Any]] = {}
        for index, scalar in enumerate(state.scalars):
            expr = as_expr(scalar)
            source = tracer.symbol_value.get(expr) if expr is not None and expr.is_Symbol else None
            if source is not None and source[0] == "scalar":
                args.append(source[1])
                continue
            output = tracer.new_value("scalar", python="int" if isinstance(scalar, (int, torch.SymInt)) else "float")
            tracer.record(ScalarEvent(scalar if expr is None else expr, output, tracer.site))
            args.append(output)
            slots = [path for path, number in state.scalar_slots.items() if number == index]
            if any(state.slots[path].write is None for path in slots):
                raise refuse("EC110", tracer.site)
            rewrites[index] = slots
        return tuple(args), rewrites

    # -- loops
    def consider_widening(self, position: tuple[Any, ...], state: State) -> None:
        """At the head of a loop that came round again: if only Python numbers changed, and the last two rounds
        did the same operations, explore the loop anew with those numbers carried at run time."""
        tracer = self.tracer
        rounds = [segment for segment in tracer.path if segment.join is not None and segment.join.position == position]
        if len(rounds) < 2:
            return
        before = rounds[-1].join.state
        changed = _changed_slots(before, state)
        if changed is None:
            return
        index = [tracer.path.index(segment) for segment in rounds[-2:]]
        last = _signature(tracer.path[index[1]:])
        if last != _signature(tracer.path[index[0]:index[1]]):
            return
        first = rounds[0]
        if any(slot not in first.join.state.slots for slot in changed):
            return
        self.widened[position] = self.widened.get(position, frozenset()) | changed
        self.forget(first)
        tracer.pending.append(first.parent)
        first.parent.end = None
        tracer.dead = True
        raise Redo

    def forget(self, first: Segment) -> None:
        """Drop `first` and everything discovered since."""
        tracer = self.tracer
        self.joins = {k: s for k, s in self.joins.items() if s.number < first.number}
        tracer.pending = [s for s in tracer.pending if s.number < first.number]

    # -- results
    def result(self, value: Any) -> Any:
        """The output as a plain tree of Ref, SymRef and constants."""
        return take_apart(value, self.result_leaf)

    def result_leaf(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return Ref(self.tracer.tensor_value(value))
        if isinstance(value, torch.SymBool):
            return bool(value)
        expr = as_expr(value)
        if expr is not None:
            return SymRef(expr)
        if isinstance(value, str) and DATA_TEXT in value:
            raise refuse("EC141", self.tracer.site)
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise refuse("EC140", self.tracer.site, kind=type(value).__qualname__)


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"[{i}]", v) for i, v in enumerate(args)] + [(f"[{k!r}]", v) for k, v in kwargs.items()]


def _pretty(label: str) -> str:
    """A heap label as a person would write it: attribute dictionaries are attributes."""
    for name in ("_parameters", "_buffers", "_modules"):
        label = label.replace(f"[{name!r}]", "")
    return label


def _local_writer(frame: types.FrameType, name: str) -> Callable[[Any], None]:
    def write(value: Any) -> None:
        frame.f_locals[name] = value
        if sys.version_info < (3, 13):
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))

    return write


def _changed_slots(before: State, now: State) -> frozenset[Any] | None:
    """The slots whose Python numbers alone tell the two states apart; None when something else does."""
    if len(before.tokens) != len(now.tokens):
        return None
    changed = set()
    for i, (a, b) in enumerate(zip(before.tokens, now.tokens)):
        if a == b:
            continue
        slot = now.slot_at.get(i)
        if slot not in now.slots or before.slot_at.get(i) != slot or now.slots[slot].write is None:
            return None
        if a[0] != b[0] and "scalar" not in (a[0], b[0]):
            return None
        changed.add(slot)
    return frozenset(changed) or None


def _signature(path: list[Segment]) -> tuple[Any, ...]:
    """The operations of a stretch of path, without their numbers."""
    out: list[Any] = []
    for segment in path:
        out.extend(
            event.target if isinstance(event, OpEvent) else type(event) for event in segment.events
            if not isinstance(event, ScalarEvent)
        )
        if isinstance(segment.end, Decision):
            out.append("decision")
    return tuple(out)


def _is_limit_of_tracing(error: Exception) -> bool:
    """Whether `error` comes from the stand-ins and not from the program."""
    names = {
        "GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException",
        "UnsupportedFakeTensorException", "ConstraintViolationError", "UserError", "UncapturedHigherOrderOpError",
    }
    return any(kind.__name__ in names for kind in type(error).__mro__) or isinstance(error, NotImplementedError)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else ""


__all__ = ["Exploration", "InternalError", "explore"]

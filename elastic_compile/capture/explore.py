"""Explores every path of a program, once, and joins those that come to the same.

In: a function and its example call. Out: the graph of segments reachable from the call, with its inputs and values.
Never: assumes that two paths are one unless their stack of frames, live locals, changed objects and known facts
are equal (DESIGN: state = point stack, static live values, shapes and dtypes of live tensors).

A fork is explored by running the program again along the known prefix, where recorded results are returned
instead of computed. A run that comes to a known join goes on behind it to the next fork with an unexplored side, so
that a chain of forks takes as many runs as one of them has sides. A loop whose state recurs up to Python numbers is
run again with those numbers carried as run-time scalars.
"""
from __future__ import annotations

import collections
import contextlib
import contextvars
import copy
import decimal
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch

from elastic_compile.capture.blame import Watch, WatchedTracer
from elastic_compile.capture.hooks import Call, Hooks
from elastic_compile.capture.liveness import Liveness, segment_graph, successors
from elastic_compile.capture.state import (
    ATOMS,
    Heap,
    State,
    Walker,
    attributes,
    changed_context,
    content_of,
    local_writer,
    put_back,
)
from elastic_compile.capture.structure import keys, take_apart
from elastic_compile.capture.symbols import as_expr
from elastic_compile.capture.text import is_data, readable
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
    changed_in_place,
    memory_of,
)
from elastic_compile.capture.widening import (
    GENERAL,
    Group,
    Widening,
    difference,
    distances,
    expr_of,
    has,
    is_size,
    order_of,
    outline,
    plan,
    strides_for,
)
from elastic_compile.errors import CompileError, InternalError, Refusal
from elastic_compile.refusals import Place, Stopped, stop

MAX_SEGMENTS = 20_000
MAX_MODES = 16
#: Errors of a path that takes a variable for something else than it holds.
ACCIDENTAL = ("TypeError", "AttributeError", "UnboundLocalError")
MAX_ROUNDS = 256


class Restart(BaseException):
    """All is to be explored anew: what was taken to hang together at a loop head does not."""


NOTHING = Widening()


class Redo(BaseException):
    """A loop head is to be explored anew with more of its state carried at run time."""


@dataclass(frozen=True)
class EntryInput:
    """One way of calling the function: example leaves (tensors, or Python numbers that vary from call to call), and
    what builds fresh arguments from stand-ins for them."""

    leaves: tuple[torch.Tensor | int | float, ...]
    arguments: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True)
class Root:
    """Where the program begins for entry `entry` called in mode `mode`: its first segment and its parameters."""

    entry: int
    mode: int
    segment: Segment
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class ModeState:
    """The state that one call leaves to the next: what changed in objects that exist before the call.

    `key` is its static part; `content` the changed objects' content with `StateHole`s for run-time values;
    `values` the values that stand for them, the parameters of every root of the mode. `names`: where each of the
    values lives, as a heap label; `static`: the changed content that is no run-time value, by label, as text.
    """

    key: Any
    content: tuple[tuple[int, Any], ...]
    values: tuple[int, ...]
    tensors: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    static: Mapping[str, str]


@dataclass(frozen=True)
class StateHole:
    """The place of run-time state value `index` in saved content."""

    index: int

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return memo.get(("hole", self.index), self)


@dataclass(frozen=True)
class Exploration:
    """Everything reachable: roots (per mode and entry), modes, and the initial values of mode 0's state."""

    roots: tuple[Root, ...]
    modes: tuple[ModeState, ...]
    initial: tuple[Any, ...]
    tracer: Tracer
    hooks: Hooks
    heap: Heap

    def accidents(self) -> int:
        """How many paths end in an error that a program seldom raises on purpose."""
        ends = {id(segment): segment.end for root in self.roots for segment in segment_graph(root.segment)}
        return sum(isinstance(end, Raised) and end.type in ACCIDENTAL for end in ends.values())

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Within, the function may be called for real: the state that it changes is put back after."""
        held = [(t, t.detach().clone()) for t in self.initial if isinstance(t, torch.Tensor)]
        try:
            yield
        finally:
            self.heap.uninstall()
            with torch.no_grad():
                for tensor, data in held:
                    tensor.copy_(data)


def explore(
    function: Callable[..., Any],
    entries: Sequence[EntryInput],
    roots: list[tuple[str, Any]],
    progress: Callable[[int], None] | None = None,
    survey: Survey | None = None,
) -> Exploration:
    """Trace `function` on every path of every entry, in every static state that a call can leave behind.

    `roots`: named objects whose state the function can reach (the module, the function with its closure).
    `survey`: takes note of refusals in place of the first one being raised; such an exploration is not to be built.
    """
    state_tensors: frozenset[int] = frozenset()
    state_numbers: frozenset[Any] = frozenset()
    pinned: frozenset[Any] = frozenset()
    found: Exploration | None = None
    while found is None:
        try:
            found = Explorer(
                function, entries, roots, state_tensors, state_numbers - pinned, pinned, progress, survey).run()
        except MoreState as more:
            state_tensors |= more.tensors
            state_numbers |= more.numbers
        except Stopped as stopped:
            if not state_numbers - pinned:
                raise stopped.refusal from stopped.__cause__
            pinned = state_numbers
    accidents = found.accidents() if survey is None and state_numbers - pinned else 0
    if accidents:
        # A number that was taken for any number may have few values, and with none of them come to such a path.
        with contextlib.suppress(Stopped, MoreState):
            other = Explorer(
                function, entries, roots, state_tensors, frozenset(), state_numbers, progress, survey).run()
            if other.accidents() < accidents:
                return other
    return found


class Survey:
    """All that is refused in a program. `found`: the refusals; `skipped`: the places at which explorations go on with
    something unknown."""

    #: Refusals of a whole loop, call or program: there is no one operation that could be passed over.
    OF_A_PATH = frozenset({"EC110", "EC120", "EC140", "EC150", "EC151", "EC152", "EC154"})

    def __init__(self) -> None:
        self.found: dict[Any, Refusal] = {}
        self.skipped: set[Place] = set()

    def note(self, refusal: Refusal) -> bool:
        """Keep a refusal; whether it is new."""
        place = refusal.file, refusal.line, refusal.column, refusal.width
        new = (refusal.code, place) not in self.found
        self.found.setdefault((refusal.code, place), refusal)
        if refusal.code not in self.OF_A_PATH:
            self.skipped.add(place)
        return new


def survey(
    function: Callable[..., Any], entries: Sequence[EntryInput], roots: list[tuple[str, Any]],
    progress: Callable[[int], None] | None = None,
) -> tuple[Refusal, ...]:
    """Everything that `explore` refuses in a program, in the order of the source: explored again and again, each time
    past what is known to be refused, until nothing new is found."""
    made = Survey()
    known = -1
    while len(made.found) > known:
        known = len(made.found)
        try:
            explore(function, entries, roots, progress, made)
        except Refusal as refusal:
            made.note(refusal)
        except InternalError:
            if not known:
                raise
    return tuple(sorted(made.found.values(), key=lambda one: (one.file, one.line, one.column)))


class MoreState(BaseException):
    """A call changes module state that was taken for constant: explore anew with it as run-time state."""

    def __init__(self, tensors: frozenset[int] = frozenset(), numbers: frozenset[Any] = frozenset()) -> None:
        super().__init__("more state")
        self.tensors = tensors
        self.numbers = numbers


class Explorer:
    """One exploration. `state_tensors`: ids of tensors that are state from the start; `state_numbers`: (heap object,
    key) of Python numbers that are; `pinned`: those whose every value is a mode of its own instead."""

    def __init__(
        self, function: Any, entries: Sequence[EntryInput], roots: Any, state_tensors: frozenset[int],
        state_numbers: frozenset[Any], pinned: frozenset[Any], progress: Any, survey: Survey | None,
    ) -> None:
        self.function = function
        self.pinned = pinned
        self.entries = entries
        self.progress = progress
        self.tracer = Tracer()
        self.hooks = Hooks(self.tracer)
        self.hooks.on_point = self.point
        self.survey = survey if not state_numbers else None
        if survey is not None:
            self.hooks.skipped = frozenset(survey.skipped)
        self.heap = Heap(roots)
        #: How many objects the heap has before functions are met that name more: the next exploration has them too.
        self.at_start = len(self.heap.objects)
        self.hooks.on_function = self.heap.watch_function
        self.hooks.surviving = self.heap.iterators
        self.joins: dict[Any, Segment] = {}
        self.widened: dict[Any, frozenset[Any]] = {}
        self.growing: dict[Any, dict[Any, Widening]] = {}
        self.fixed_sizes = False
        #: Whether runs go on behind known joins, the earliest forks first; whether this has made a difference so far.
        self.goes_on = survey is None
        self.reordered = False
        self.unjoined: set[Any] = set()
        self.unrolled: set[Any] = set()
        self.wrappers: dict[int, torch.Tensor] = {}
        self.memory: dict[int, int] = {}
        self.attributes: dict[int, dict[str, int]] = {}
        self.fakes: dict[int, torch.Tensor] = {}
        self.stand_ins = [[self.stand_in(leaf) for leaf in entry.leaves] for entry in entries]
        self.inputs: dict[int, dict[int, torch.Tensor]] = {}
        self.roots: list[Root] = []
        self.initial: list[Any] = []
        self.state_symbols: dict[Any, Any] = {}
        self.mode_symbols: dict[int, Any] = {}
        self.modes = [self.first_mode(state_tensors, state_numbers)]

    def stand_in(self, leaf: Any) -> tuple[int, Any]:
        """The value of a run-time input, and what stands for it in the running program."""
        tracer = self.tracer
        if isinstance(leaf, torch.Tensor):
            with tracer.recording_off():
                fake = tracer.fake_mode.from_tensor(leaf.detach(), static_shapes=True)
            return tracer.new_value("input", fake=fake), fake
        return tracer.scalar("float" if isinstance(leaf, float) else "int")

    def first_mode(self, state_tensors: frozenset[int], state_numbers: frozenset[Any]) -> ModeState:
        """Mode 0: nothing has changed; tensors and numbers known to be state are parameters."""
        values: list[int] = []
        names: list[str] = []
        tensors: list[tuple[int, int]] = []
        for ident in sorted(state_tensors, key=lambda i: list(self.heap.tensors).index(i)):
            real = self.heap.tensors[ident]
            number, _ = self.stand_in(real)
            tensors.append((ident, number))
            values.append(number)
            names.append(self.heap.tensor_names[ident])
            self.initial.append(real)
        content: list[tuple[int, Any]] = []
        for owner, key in sorted(state_numbers, key=repr):
            original = self.heap.objects[owner][key]
            number, symbolic = self.stand_in(original)
            self.state_symbols[(owner, key)] = symbolic
            content.append((owner, (key, symbolic)))
            values.append(number)
            names.append(f"{self.heap.names[owner]}[{key!r}]")
            self.initial.append(original)
        return ModeState((), tuple(content), tuple(values), tuple(tensors), tuple(names), {})

    # -- the loop over paths
    def run(self) -> Exploration:
        tracer = self.tracer
        try:
            while True:
                self.roots = []
                self.reordered = False
                explored = 0
                for entry in range(len(self.entries)):
                    self.add_root(entry, 0)
                try:
                    while explored < len(self.roots):
                        root = self.roots[explored]
                        explored += 1
                        self.explore_root(root)
                except Restart:
                    self.forget_all()
                    continue
                except (Stopped, InternalError) as failure:
                    if self.reordered:
                        self.goes_on = False
                    elif isinstance(failure, Stopped) and (self.widened or self.growing):
                        self.widen_less()
                    else:
                        raise
                    self.forget_all()
                    continue
                unaccounted = {p for root in self.roots for p in Liveness(root.segment, tracer).unaccounted}
                if not unaccounted:
                    return Exploration(
                        tuple(self.roots), tuple(self.modes), tuple(self.initial), tracer, self.hooks, self.heap)
                self.unjoined.update(unaccounted)
                self.forget_all()
        finally:
            self.heap.uninstall()

    def forget_all(self) -> None:
        self.joins.clear()
        del self.modes[1:]

    def widen_less(self) -> None:
        """After a refusal: loops whose sizes were carried at run time are unrolled instead; when there are none, those
        whose numbers were."""
        if self.growing:
            self.fixed_sizes = True
            for position in self.growing:
                self.widened.pop(position, None)  # a bound of such a loop may be among its numbers
            self.growing.clear()
        else:
            self.unrolled.update(self.widened)
            self.widened.clear()

    def explore_root(self, root: Root) -> None:
        tracer = self.tracer
        tracer.pending = [root.segment]
        while tracer.pending:
            if len(tracer.segments) > MAX_SEGMENTS:
                raise stop("EC110", tracer.site)
            self.reordered |= self.goes_on and len(tracer.pending) > 1
            target = tracer.pending.pop(0 if self.goes_on else -1)
            try:
                self.path(target)
            except (Stopped, InternalError) as stopped:
                if self.survey is None or self.widened or self.growing:
                    raise
                if isinstance(stopped, Stopped):
                    self.survey.note(stopped.refusal)
                target.end = target.end or Raised("Refused", "", tracer.site)
            if self.progress:
                self.progress(len(tracer.segments))

    def add_root(self, entry: int, mode: int) -> None:
        inputs = (*(number for number, _ in self.stand_ins[entry]), *self.modes[mode].values)
        self.roots.append(Root(entry, mode, self.tracer.new_segment(None), inputs))

    def path(self, target: Segment) -> None:
        """Run the program once, to the end of the path that leads through `target`; once more where it is refused for
        what it changed, to see where."""
        try:
            self.run_path(target)
        except Stopped as stopped:
            if stopped.watch is not None:
                self.blame(stopped)
            raise

    def blame(self, stopped: Stopped) -> None:
        """Say where the change is that a path was refused for."""
        tracer = self.tracer
        tracer.__class__, tracer.watch = WatchedTracer, stopped.watch
        try:
            self.run_path(tracer.path[-1])
        except (Stopped, CompileError):
            pass
        finally:
            tracer.__class__ = Tracer
        stopped.watch.step(None)
        if stopped.watch.place is not None:
            stopped.stands_at(stopped.watch.place)

    def changed_by(self, code: str, content: Callable[[], tuple[Any, ...]], key: Any, name: str) -> Stopped:
        """The refusal of a change of `content()`: of an attribute called `key`, or of an item."""
        stopped = stop(code, self.tracer.site, name=name)
        stopped.watch = Watch(content, key)
        return stopped

    def changed_object(self, code: str, heap: Callable[[], Heap], number: int) -> Stopped:
        """The refusal of a change of object `number` of a heap, which is another one when the path is run again."""
        key = next((key for key, _, _ in heap().differences(number)), None)
        label = heap().names[number] if not isinstance(key, str) else f"{heap().names[number]}[{key!r}]"
        return self.changed_by(code, lambda: content_of(heap().objects[number]), key, _pretty(label))

    def run_path(self, target: Segment) -> None:
        tracer = self.tracer
        tracer.begin(target)
        root = next(r for r in self.roots if r.segment is tracer.path[0])
        self.root = root
        self.hooks.stack.clear()
        dtype = torch.get_default_dtype()
        try:
            self.install(self.modes[root.mode])
            with tracer.active():
                leaves = self.input_tensors(root)
                args, kwargs = self.entries[root.entry].arguments(leaves)
                self.argument_heap = Heap([(f"arguments{k}", v) for k, v in _named(args, kwargs)])
                self.input_wrappers = leaves
                decimal.getcontext()  # it comes to be when PyTorch first needs it, and is none of the program's state
                self.context = contextvars.copy_context()
                self.context.copy().run(self.call, args, kwargs)
        except Redo:
            pass
        finally:
            torch.set_default_dtype(dtype)  # a path that ends within a `try` does not run what follows
            self.heap.reset()
        if tracer.failure is not None:
            raise tracer.failure

    def input_tensors(self, root: Root) -> list[Any]:
        """The tensors that the running program sees as inputs: those of the last path, unless it changed them."""
        kept = self.inputs.setdefault(root.segment.number, {})
        for i, (_, one) in enumerate(self.stand_ins[root.entry]):
            if isinstance(one, torch.Tensor) and (i not in kept or changed_in_place(kept[i])):
                kept[i] = torch._to_functional_tensor(one)
        return [kept.get(i, one) for i, (_, one) in enumerate(self.stand_ins[root.entry])]

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tracer = self.tracer
        try:
            result = self.hooks.invoke(None, sys._getframe(), self.function, args, kwargs)
            if tracer.dead:
                return
            self.check_arguments()
            tree = self.result(result)
            tracer.finish(End(tree, tracer.site, *self.exit_state()))
        except PathEnd:
            return
        except (CompileError, RecursionError):
            raise
        except Exception as error:
            if tracer.dead:
                return
            if _names_a_stand_in(error):
                raise stop("EC133", tracer.site, message=_first_line(error)) from error
            if _is_own(error) and not getattr(error, "of_the_program", False):
                raise InternalError(f"the capture failed: {type(error).__name__}: {_first_line(error)}") from error
            self.check_arguments()
            tracer.finish(Raised(type(error).__name__, readable(str(error)), tracer.site, *self.exit_state()))

    # -- state that exists before the call
    def install(self, mode: ModeState) -> None:
        """Put stand-ins in place of every tensor that the module and its closures hold, and the state of `mode` in
        place of what it changed."""
        tracer = self.tracer
        state = dict(mode.tensors)
        replaced = {}
        for ident, real in self.heap.tensors.items():
            number = state.get(ident)
            if number is None:
                number = tracer.weight(real, self.heap.tensor_names[ident])
            fake = tracer.values[number].fake
            wrapper = self.wrappers.get(ident)
            if wrapper is None or self.fakes[ident] is not fake or self.was_mutated(ident) or (
                attributes(wrapper) != self.attributes[ident]
            ):
                wrapper = torch._to_functional_tensor(fake)
                vars(wrapper).update(vars(real))
                if isinstance(real, torch.nn.Parameter):
                    wrapper._is_param = True
                if ident in self.wrappers:
                    del self.memory[memory_of(self.wrappers[ident])]
                self.memory[memory_of(wrapper)] = ident
                self.wrappers[ident] = wrapper
                self.attributes[ident] = attributes(wrapper)
                self.fakes[ident] = fake
                replaced[ident] = wrapper
        self.heap.install(replaced)
        if mode is self.modes[0]:
            for owner, (key, symbolic) in mode.content:
                self.heap.objects[owner][key] = symbolic
            return
        memo: dict[Any, Any] = {id(o): o for o in self.heap.objects}
        for index, number in enumerate(mode.values):
            described = tracer.values[number]
            memo[("hole", index)] = (
                torch._to_functional_tensor(described.fake) if described.fake is not None
                else self.mode_symbols[number]
            )
        for owner, content in copy.deepcopy(mode.content, memo):
            put_back(self.heap.objects[owner], content)

    def was_mutated(self, ident: int) -> bool:
        return changed_in_place(self.wrappers[ident])

    def mutated(self) -> list[int]:
        wrappers = self.wrappers.values()
        if not any(map(torch._functionalize_has_data_mutation, wrappers)) and not any(
            map(torch._functionalize_has_metadata_mutation, wrappers)
        ):
            return []
        return [ident for ident in self.wrappers if self.was_mutated(ident)]

    def check_arguments(self) -> None:
        """Refuse changes to the caller's own arguments, which a bundle would lose."""
        for number in self.argument_heap.changed():
            raise self.changed_object("EC151", lambda: self.argument_heap, number)
        for (_, stand_in), wrapper in zip(self.stand_ins[self.root.entry], self.input_wrappers):
            if isinstance(wrapper, torch.Tensor) and self.tracer.inner(wrapper) is not stand_in:
                raise stop("EC151", self.tracer.made_at(self.tracer.tensor_value(wrapper)), name="a tensor")

    def exit_state(self) -> tuple[int, tuple[int, ...]]:
        """The mode in which the call leaves the module, and the values of that mode's state."""
        changed = self.heap.changed()
        for owner, name in self.heap.changed_names():
            raise self.changed_by(
                "EC150", lambda owner=owner, name=name: (vars(owner).get(name),), name,
                f"{getattr(owner, '__qualname__', owner.__name__)}.{name}")
        for ident, wrapper in self.wrappers.items():
            if attributes(wrapper) != self.attributes[ident]:
                was = self.attributes[ident]
                raise self.changed_by(
                    "EC150", lambda ident=ident: tuple(vars(self.wrappers[ident]).values()),
                    next((name for name, one in vars(wrapper).items() if id(one) != was.get(name)), None),
                    f"attributes of {_pretty(self.heap.tensor_names[ident])}")
        first = self.modes[0]
        fresh = frozenset(self.mutated()) - {ident for ident, _ in first.tensors}
        if fresh:
            raise MoreState(tensors=fresh)
        numbers = frozenset(
            (owner, key) for owner in changed if owner < self.at_start
            for key, before, now in self.heap.differences(owner)
            if type(before) in (int, float) and (type(now) is type(before) or as_expr(now) is not None)
        ) - set(self.state_symbols) - self.pinned
        if numbers:
            raise MoreState(numbers=numbers)
        return self.mode_after(changed)
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
        before = tracer.cursor
        state, sizes = self.state(stack, position)
        synced = tracer.cursor != before
        args, rewrites, kept = self.join_arguments(state, sizes)
        key = (position, state.key, self.knowledge(kept))
        target = self.joins.get(key)
        if target is not None:
            tracer.segment.end = Goto(target, args)
            if self.go_on(target, state, args):
                return
            tracer.dead = True
            raise PathEnd
        if site.kind == "head":
            self.consider_widening(position, state)
        here = tracer.segment
        values = list(args)
        writes: dict[Any, Any] = {}
        for index, slots in rewrites.items():
            number, symbolic = tracer.scalar(_kind_of(state.scalars[index]))
            tracer.symbols.constrain(symbolic, *state.ranges.get(index, ()))
            values[len(state.tensors) + index] = number
            for path in slots:
                writes[path] = symbolic
        grown = self.grow(state, values, writes)
        joined = tracer.new_segment(here)
        joined.join = Join(key, position, tuple(values), state, writes, grown, site.kind == "head", synced, before)
        here.end = Goto(joined, args)
        self.joins[key] = joined
        self.enter(joined, state)
        tracer.advance(joined)

    def go_on(self, joined: Segment, state: State, args: tuple[int, ...]) -> bool:
        """At a known join: go on as the path on which it was found, to the first fork behind it with an unexplored
        side, if there is one and what is live here can be taken for what was live there."""
        tracer = self.tracer
        if not self.goes_on or joined.join.grown or tracer.texts.numbers:
            return False
        target = unexplored(joined)
        if target is None or not self.take_for(joined, state, args):
            return False
        tracer.pending.remove(target)
        self.reordered = True
        tracer.go_on(joined, target)
        self.enter(joined, state)
        return True

    def take_for(self, joined: Segment, state: State, args: tuple[int, ...]) -> bool:
        """Make what is live here denote the values of a known join, if that can be: tensors that the path has made
        itself, of no other memory, and numbers in places that can be written."""
        tracer, join = self.tracer, joined.join
        count = len(state.tensors)
        wanted: dict[int, int] = {}
        for tensor, there in zip(state.tensors, join.values):
            if wanted.setdefault(id(tensor), there) != there:
                return False
        held = {id(tensor): tensor for tensor in state.tensors}
        changing = {id(tensor): tensor for tensor, here in zip(state.tensors, args) if wanted[id(tensor)] != here}
        if not all(torch._is_functional_tensor(one) and type(one) is torch.Tensor for one in changing.values()):
            return False
        others = [one for ident, one in held.items() if ident not in changing and torch._is_functional_tensor(one)]
        others.extend(one for one in self.input_wrappers if isinstance(one, torch.Tensor))
        memory = set(map(memory_of, changing.values()))
        if len(memory) < len(changing) or any(
            one in self.memory for one in memory) or not memory.isdisjoint(map(memory_of, others)):
            return False
        if not all(path in state.slots for path in join.rewrites):
            return False
        writes = []
        for path, number in state.scalar_slots.items():
            if path in join.rewrites or args[count + number] == join.values[count + number]:
                continue
            there = join.state.slots.get(path)
            if state.slots[path].write is None or there is None:
                return False
            writes.append((state.slots[path].write, there.value))
        for ident, tensor in changing.items():
            tracer.stand_in_for(tensor, tracer.values[wanted[ident]].fake)
        with self.argument_heap.renaming():
            for write, value in writes:
                write(value)
        return True

    def replay_point(self, stack: list[Call]) -> None:
        tracer = self.tracer
        events = tracer.segment.events
        state = None
        ahead = tracer.path[tracer.position + 1] if tracer.position + 1 < len(tracer.path) else None
        position = tuple((call.frame.f_code, call.frame.f_lasti) for call in stack)
        if position in self.unjoined:
            return
        if ahead is not None and ahead.join is not None and ahead.join.synced and ahead.join.position == position:
            state, _ = self.state(stack, position)
        while tracer.cursor < len(events) and isinstance(events[tracer.cursor], ScalarEvent) and (
            events[tracer.cursor].result is None
        ):
            tracer.cursor += 1
        if tracer.cursor != len(tracer.segment.events) or not isinstance(tracer.segment.end, Goto):
            if tracer.segment.end is None or not isinstance(tracer.segment.end, Goto):
                return
            raise stop("EC120", tracer.site)
        joined = tracer.path[tracer.position + 1]
        if (joined.join.rewrites or joined.join.grown) and state is None:
            state, _ = self.state(stack, joined.join.position)
        self.enter(joined, state)
        tracer.advance()

    def enter(self, joined: Segment, state: State | None) -> None:
        """Go on behind a join: numbers carried at run time are written into the program's own variables, tensors whose
        sizes are get a stand-in of such sizes, and nothing computed before is a constant any more."""
        if joined.join.rewrites:
            with self.argument_heap.renaming():
                for path, symbolic in joined.join.rewrites.items():
                    state.slots[path].write(symbolic)
        for index, fake in joined.join.grown.items():
            self.tracer.stand_in_for(state.tensors[index], fake)
        self.tracer.fresh.clear()
        self.tracer.items.clear()
        self.tracer.decided.clear()

    def state(self, stack: list[Call], position: tuple[Any, ...]) -> tuple[State, Sequence[Any]]:
        """The state at a point, and the symbolic sizes of its tensors that are not widened."""
        numbers = self.widened.get(position, frozenset())
        plain = self.described(stack, Widening(numbers))
        if position not in self.growing:
            return plain
        kind = outline(plain[0])
        widening = self.growing[position].get(kind, NOTHING)
        while widening.groups:
            state, sizes = self.described(stack, Widening(numbers, widening.groups))
            unready = [group for group in widening.groups if not self.ready(group, state)]
            if not unready:
                self.relate(position, kind, widening, state)
                return state, sizes
            widening = widening.without(unready)
        return plain

    def described(self, stack: list[Call], widening: Widening) -> tuple[State, Sequence[Any]]:
        walker, sizes = self.walker(widening)
        for depth, call in enumerate(stack):
            names = call.frame.f_locals
            walker.state.tokens.append(("frame", depth))
            for name in call.site.live:
                if name in names:
                    walker.state.tokens.append(name)
                    walker.walk(names[name], (depth, name), local_writer(call.frame, name))
        handled = sys.exc_info()[1]
        if handled is not None and not isinstance(handled, PathEnd):
            walker.state.tokens.append("handling")
            walker.walk(handled, ("handling",))
        for var, value in changed_context(self.context):
            walker.state.tokens.append(("context", id(var)))
            walker.walk(value, ("context", var.name))
        self.walk_heap(walker, self.heap.changed())
        for ident in dict.fromkeys((*(ident for ident, _ in self.modes[0].tensors), *self.mutated())):
            walker.state.tokens.append(("state", self.heap.tensor_names[ident]))
            walker.walk(self.wrappers[ident], ("state", ident))
        return walker.state, list(sizes)

    def ready(self, group: Group, state: State) -> bool:
        """Whether the sizes of a group can be carried from this visit on: their tensors are the path's own, of no
        other memory and without gaps, and none is known to be 0 or 1, of which PyTorch has its own opinions."""
        tracer = self.tracer
        for path, _ in group.members:
            if path not in state.members:
                return False
            if not is_size(path):
                continue
            tensor = state.tensors[state.tensor_at[path[:-2]]]
            own = torch._is_functional_tensor(tensor) and type(tensor) is torch.Tensor
            storage = memory_of(tensor) if own else 0
            shared = own and any(
                other is not tensor and torch._is_functional_tensor(other)
                and memory_of(other) == storage for other in state.tensors)
            value = tracer.values[tracer.tensor_value(tensor)]
            size = state.members[path]
            if not own or shared or value.kind != "op" or order_of(value.fake) is None or (
                isinstance(size, int) and size < GENERAL
            ):
                return False
        return True

    def relate(self, position: Any, kind: Any, widening: Widening, state: State) -> None:
        """Add to a state's key how its widened sizes stand to one another. Those that are found not to hang together
        are taken apart, and all is explored anew."""
        loose: list[Any] = []
        for group in widening.groups:
            found = distances(group, state, self.tracer.symbols.proves)
            loose.extend(path for (path, _), offset in zip(group.members, found.offsets) if offset is None)
            state.tokens.append(("group", tuple(path for path, _ in group.members), found.offsets, found.general))
            state.groups[group] = found
        if loose:
            self.widen(position, kind, self.growing[position][kind].loosened(loose))
            self.tracer.dead = True
            raise Restart

    def widen(self, position: Any, kind: Any, wider: Widening) -> None:
        self.widened[position] = self.widened.get(position, frozenset()) | wider.numbers
        if wider.groups:
            self.growing.setdefault(position, {})[kind] = replace(wider, numbers=frozenset())

    def grow(self, state: State, values: list[int], writes: dict[Any, Any]) -> dict[int, torch.Tensor]:
        """At a new join: fresh sizes for the groups of its state, as values of their tensors and writes of their
        numbers. Gives the tensors' stand-ins, by their number in the state."""
        tracer = self.tracer
        sizes: dict[Any, Any] = {}
        for group, found in state.groups.items():
            base = tracer.symbols.create_unbacked_symint()
            tracer.symbols.pending_fresh_unbacked_symbols.clear()
            torch._check(base >= (found.least if found.general else max(
                0, *(-(offset // ratio) for (path, ratio), offset in zip(group.members, found.offsets)
                     if is_size(path)))))
            for (path, ratio), offset in zip(group.members, found.offsets):
                sizes[path] = base * ratio + offset
                state.members[path] = sizes[path]
                if is_size(path):
                    state.sizes[path] = expr_of(sizes[path])
                else:
                    writes[path] = sizes[path]
                    state.slots[path] = replace(state.slots[path], value=sizes[path])
        grown: dict[int, torch.Tensor] = {}
        made: dict[int, int] = {}
        for path, index in state.tensor_at.items():
            axes = [axis for axis in range(state.tensors[index].dim()) if (*path, "size", axis) in sizes]
            if not axes:
                continue
            tensor = state.tensors[index]
            if id(tensor) not in made:
                old = tracer.values[tracer.tensor_value(tensor)].fake
                shape = tuple(sizes.get((*path, "size", axis), size) for axis, size in enumerate(old.shape))
                with tracer.recording_off(), tracer.fake_mode:
                    fake = torch.empty_strided(shape, strides_for(shape, order_of(old)), dtype=old.dtype)
                made[id(tensor)] = tracer.new_value("op", fake=fake)
                tracer.bind_dims(made[id(tensor)], fake)
                grown[index] = fake
            values[index] = made[id(tensor)]
        return grown

    def walker(self, widening: Widening, weights_are_static: bool = True) -> tuple[Walker, dict[Any, int]]:
        """A walker that describes tensors by type, sizes and aliasing; and the symbolic sizes that it meets."""
        tracer = self.tracer
        aliases: dict[int, int] = {}
        classes: dict[Any, int] = {}

        def size(value: Any) -> Any:
            expr = as_expr(value)
            if expr is None:
                return value
            return ("size", classes.setdefault(expr, len(classes)))

        def describe(tensor: torch.Tensor, state: State, path: tuple[Any, ...]) -> Any:
            number = tracer.tensor_value(tensor)
            value = tracer.values[number]
            storage = memory_of(tensor) if torch._is_functional_tensor(tensor) else id(tensor)
            alias = aliases.setdefault(storage, len(aliases))
            if value.kind == "weight" and weights_are_static:
                return ("weight", number, alias)
            state.tensor_at[path] = len(state.tensors)
            state.tensors.append(tensor)
            fake = value.fake
            shape: list[Any] = []
            layout: Any = (*fake.stride(), fake.storage_offset())
            for axis, length in enumerate(fake.shape):
                place = (*path, "size", axis)
                expr = as_expr(length)
                state.sizes[place] = length if expr is None else expr
                if walker.is_grouped(place):
                    state.members[place] = state.sizes[place]
                    shape.append(("grouped",))
                    layout = order_of(fake)
                else:
                    shape.append(size(length))
            if ("grouped",) not in shape and not all(isinstance(s, int) for s in layout):
                layout = "symbolic"
            return ("tensor", str(fake.dtype), tuple(shape), alias, type(tensor).__name__, layout)

        walker = Walker(describe, self.heap.number, self.hooks.codes, widening.numbers, widening.grouped)
        walker.state.tokens.append((str(torch.get_default_dtype()), torch.is_autocast_enabled("cpu")))
        return walker, classes

    def walk_heap(self, walker: Walker, changed: Sequence[int]) -> None:
        """Describe what changed in objects that exist before the call."""
        for number in changed:
            value, name = self.heap.objects[number], self.heap.names[number]
            walker.state.tokens.append(("changed", number))
            if isinstance(value, dict):
                walker.state.tokens.append(("items", len(value)))
                for key, item in dict.items(value):
                    walker.walk(key, (number, "key"))
                    walker.walk(item, (number, key if isinstance(key, (str, int)) else repr(key)),
                                lambda new, d=value, k=key: dict.__setitem__(d, k, new))
            elif isinstance(value, list):
                walker.state.tokens.append(("items", len(value)))
                for i, item in enumerate(value):
                    walker.walk(item, (number, i), lambda new, d=value, k=i: d.__setitem__(k, new))
            elif isinstance(value, types.CellType):
                walker.walk(value.cell_contents, (number, "cell"),
                            lambda new, c=value: setattr(c, "cell_contents", new))
            else:
                walker.walk(sorted(map(repr, value)), (number, name))

    def mode_after(self, changed: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """The mode that a call leaves, new when its static state is; and the values of that mode's state."""
        tracer = self.tracer
        first = self.modes[0]
        held = tuple(tracer.tensor_value(self.wrappers[ident]) for ident, _ in first.tensors)
        structural = [
            number for number in changed
            if any((number, key) not in self.state_symbols for key, _, _ in self.heap.differences(number))
        ]
        walker, _ = self.walker(Widening(frozenset(self.state_symbols)), weights_are_static=False)
        if not structural:
            for owner, (key, _) in first.content:
                walker.walk(self.heap.objects[owner][key], (owner, key), lambda new: None)
            args, _, _ = self.join_arguments(walker.state)
            if len(args) != len(first.content):
                args = tuple(args[walker.state.scalar_slots[(owner, key)]] for owner, (key, _) in first.content)
            return 0, (*held, *args)
        self.walk_heap(walker, changed)
        state = walker.state
        args, _, _ = self.join_arguments(state)
        if len(self.modes) > MAX_MODES:
            raise self.changed_object("EC150", lambda: self.heap, structural[0])
        number = next((i for i, mode in enumerate(self.modes) if i and mode.key == state.key), None)
        if number is None:
            number = self.new_mode(state, changed)
        return number, (*args, *held)

    def new_mode(self, state: State, changed: Sequence[int]) -> int:
        """Save the changed objects' content with holes for run-time values, and plan the mode's roots."""
        tracer = self.tracer
        memo: dict[Any, Any] = {id(o): o for o in self.heap.objects}
        values: list[int] = []
        for tensor in state.tensors:
            fake = tracer.values[tracer.tensor_value(tensor)].fake
            if any(as_expr(size) is not None for size in fake.shape):
                raise stop("EC152", tracer.made_at(tracer.tensor_value(tensor)))
            memo[id(tensor)] = StateHole(len(values))
            with tracer.recording_off(), tracer.fake_mode:
                stand_in = torch.empty_strided(tuple(fake.shape), fake.stride(), dtype=fake.dtype)
            values.append(tracer.new_value("input", fake=stand_in))
        for index, scalar in enumerate(state.scalars):
            number, symbolic = tracer.scalar(_kind_of(scalar))
            self.mode_symbols[number] = symbolic
            for path, owner in state.scalar_slots.items():
                if owner == index:
                    if state.slots[path].write is None:
                        raise stop("EC152", tracer.site)
                    state.slots[path].write(StateHole(len(values)))
            values.append(number)
        content = tuple((i, copy.deepcopy(content_of(self.heap.objects[i]), memo)) for i in changed)
        places, static = self.labels(content)
        names = [places.get(index, "") for index in range(len(values))]
        tensors = []
        for ident, _ in self.modes[0].tensors:
            number, _ = self.stand_in(self.heap.tensors[ident])
            tensors.append((ident, number))
            values.append(number)
            names.append(self.heap.tensor_names[ident])
        self.modes.append(ModeState(state.key, content, tuple(values), tuple(tensors), tuple(names), static))
        for entry in range(len(self.entries)):
            self.add_root(entry, len(self.modes) - 1)
        return len(self.modes) - 1

    def labels(self, content: Sequence[tuple[int, Any]]) -> tuple[dict[int, str], dict[str, str]]:
        """Of saved content: where each hole is, by its index, and what else differs from the first state."""
        places: dict[int, str] = {}
        static: dict[str, str] = {}

        def walk(value: Any, label: str) -> None:
            if isinstance(value, StateHole):
                places.setdefault(value.index, label)
            elif isinstance(value, dict):
                for key, item in value.items():
                    walk(item, f"{label}[{key!r}]")
            elif isinstance(value, (list, tuple)):
                static[label] = f"{type(value).__name__} of {len(value)}"
                for index, item in enumerate(value):
                    walk(item, f"{label}[{index}]")
            elif hasattr(value, "__dict__") and not isinstance(value, (torch.Tensor, type, types.FunctionType)):
                static[label] = type(value).__name__
                walk(vars(value), label)
            else:
                static[label] = repr(value)[:200] if type(value) in ATOMS else type(value).__name__

        for number, items in content:
            saved = dict(zip(items[: len(items) // 2], items[len(items) // 2:])) if isinstance(
                self.heap.objects[number], dict) else dict(enumerate(items))
            for key, _, _ in self.heap.differences(number):
                if key in saved:
                    walk(saved[key], f"{self.heap.names[number]}[{key!r}]")
                else:
                    static[f"{self.heap.names[number]}[{key!r}]"] = "absent"
        return places, static

    def knowledge(self, symbols: Sequence[Any]) -> tuple[Any, ...]:
        """What the path knows of the symbols that live on behind a join, in names that do not depend on the path."""
        tracer = self.tracer
        names = {symbol: sympy.Symbol(f"known{i}") for i, symbol in enumerate(symbols)}
        return (
            tuple(str(tracer.symbols.var_to_range.get(symbol)) for symbol in symbols),
            tuple(sorted(
                (str(expr.xreplace(names)), outcome) for expr, outcome in tracer.facts.items()
                if expr.free_symbols and expr.free_symbols <= set(symbols)
            )),
        )

    def join_arguments(
        self, state: State, sizes: Sequence[Any] = ()
    ) -> tuple[tuple[int, ...], dict[int, list[Any]], list[Any]]:
        """The values that the join takes here; which scalars (by index) go on as fresh symbols, with the slots that
        hold them; and the symbols that go on as they are: those of tensor sizes, and of numbers in places that
        cannot be written."""
        tracer = self.tracer
        args = [tracer.tensor_value(tensor) for tensor in state.tensors]
        rewrites: dict[int, list[Any]] = {}
        kept = [symbol for expr in sizes for symbol in sorted(expr.free_symbols, key=str)]
        for index, scalar in enumerate(state.scalars):
            expr = as_expr(scalar)
            slots = [path for path, number in state.scalar_slots.items() if number == index]
            fixed = any(state.slots[path].write is None for path in slots)
            source = tracer.symbol_value.get(expr) if expr is not None and expr.is_Symbol else None
            if source is not None and source[0] == "scalar":
                args.append(source[1])
                if fixed or expr in kept:
                    kept.append(expr)
                else:
                    rewrites[index] = slots
                continue
            output = tracer.new_value("scalar", python=_kind_of(scalar))
            tracer.record(ScalarEvent(scalar if expr is None else expr, output, tracer.site))
            args.append(output)
            if fixed:
                raise stop("EC110", tracer.site)
            rewrites[index] = slots
        return tuple(args), rewrites, list(dict.fromkeys(kept))

    # -- loops
    def consider_widening(self, position: tuple[Any, ...], state: State) -> None:
        """At the head of a loop that came round again: if only Python numbers and sizes of tensors changed, and the
        last two rounds did the same operations (or there were as many as are unrolled), explore the loop anew, from the
        first round that has them all, with those carried at run time. Sizes are carried where data decides how many
        rounds there are, not otherwise."""
        tracer = self.tracer
        rounds = [segment for segment in tracer.path if segment.join is not None and segment.join.position == position]
        if len(rounds) > MAX_ROUNDS:
            raise stop("EC110", tracer.site)
        if len(rounds) < 2 or position in self.unrolled:
            return
        before = rounds[-1].join.state
        changed = difference(before, state)
        if changed is None:
            return
        sized = any(map(is_size, changed))
        if sized and self.fixed_sizes:
            return
        index = [tracer.path.index(segment) for segment in rounds[-2:]]
        last = _signature(tracer.path[index[1]:])
        alike = last == _signature(tracer.path[index[0]:index[1]])
        if not (alike or len(rounds) == MAX_ROUNDS) or (sized and "decision" not in last):
            return
        kind = outline(state)
        old = replace(
            self.growing.get(position, {}).get(kind, NOTHING), numbers=self.widened.get(position, frozenset()))
        wider = plan(old, changed, before, state)
        if wider == old:
            return
        first = next(segment for segment in rounds if all(has(segment.join.state, path) for path in changed))
        if self.reordered:
            self.goes_on = False
            tracer.dead = True
            raise Restart
        self.goes_on = False
        self.widen(position, kind, wider)
        self.forget(first)
        tracer.pending.append(first.parent)
        first.parent.end = None
        del first.parent.events[first.join.begun:]
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
        tree = take_apart(value, self.result_leaf)
        if any(map(is_data, keys(tree))):
            raise stop("EC141", self.tracer.site)
        return tree

    def result_leaf(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return Ref(self.tracer.tensor_value(value))
        if isinstance(value, torch.SymBool):
            return bool(value)
        expr = as_expr(value)
        if expr is not None:
            return SymRef(expr)
        if is_data(value):
            raise stop("EC141", self.tracer.site)
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise stop("EC140", self.tracer.site, kind=type(value).__qualname__)


def unexplored(joined: Segment) -> Segment | None:
    """The nearest segment behind a join that no path has been through, among those found behind it."""
    behind = collections.deque([joined])
    while behind:
        segment = behind.popleft()
        if segment.end is None:
            return segment
        behind.extend(after for after in successors(segment) if after.parent is segment)
    return None


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"[{i}]", v) for i, v in enumerate(args)] + [(f"[{k!r}]", v) for k, v in kwargs.items()]


def _kind_of(number: Any) -> str:
    """The kind of host scalar that carries a number."""
    return "int" if isinstance(number, (int, torch.SymInt)) else "float"


def _pretty(label: str) -> str:
    """A heap label as a person would write it: attribute dictionaries are attributes."""
    for name in ("_parameters", "_buffers", "_modules"):
        label = label.replace(f"[{name!r}]", "")
    return label


def _signature(path: list[Segment]) -> tuple[Any, ...]:
    """The operations of a stretch of path and the weights they read, without their numbers."""
    out: list[Any] = []
    for segment in path:
        out.extend(
            (event.target, *event.weights) if isinstance(event, OpEvent) else type(event) for event in segment.events
            if not isinstance(event, ScalarEvent)
        )
        if isinstance(segment.end, Decision):
            out.append("decision")
    return tuple(out)


def _names_a_stand_in(error: Exception) -> bool:
    """Whether an error speaks of what stands in for data: the program with real data would not have raised it."""
    return any(name in str(error) for name in ("SymInt", "SymFloat", "SymBool", "FakeTensor"))


def _is_own(error: Exception) -> bool:
    """Whether the error was raised by the compiler's own code, not by the program that runs under it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    name = trace.tb_frame.f_globals.get("__name__", "")
    own = name.startswith("elastic_compile.") and name != "elastic_compile.capture.emulation"
    return own and trace.tb_frame.f_code not in Hooks.TRANSPARENT


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else ""

"""One path of the program at a time: operations recorded, decisions taken, known prefixes replayed.

In: tensor operations of a program that Python itself runs on fake tensors.
Out: a graph of segments (straight lines of functional ATen operations between decisions and joins).
Never: computes with real data, except to fold a decision that depends on weights alone.

In-place operations and views are functionalised by PyTorch before they are recorded, so that a mutation seen
through an alias is data flow here, whatever decision lies between the two.
"""
from __future__ import annotations

import contextlib
import dis
import math
import operator
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from elastic_compile.capture.composites import COMPOSITES, batch_norm_in_training
from elastic_compile.capture.randomness import RANDOM
from elastic_compile.capture.symbols import Symbols, as_expr
from elastic_compile.capture.text import Texts
from elastic_compile.errors import CompileError, InternalError
from elastic_compile.hostop import HostFunction
from elastic_compile.refusals import Stopped, stop

aten = torch.ops.aten


class PathEnd(BaseException):
    """Unwinds the Python stack when a traced path has ended; not an Exception, so user handlers let it pass."""


# ---------------------------------------------------------------------------------------- values
@dataclass(frozen=True)
class Ref:
    """A reference to value `id` among an operation's arguments."""

    id: int


@dataclass(frozen=True)
class SymRef:
    """A symbolic number among an operation's arguments."""

    expr: sympy.Basic


@dataclass(frozen=True)
class Value:
    """A tensor or host scalar of the traced program.

    `kind`: "input" | "weight" | "op" | "scalar". `fake` is the tensor's stand-in; `real` a weight's data;
    `symbol` a scalar's symbol, `python` its type.
    """

    id: int
    kind: str
    fake: Any = None
    real: torch.Tensor | None = None
    symbol: sympy.Symbol | None = None
    python: str = ""
    name: str = ""


# ---------------------------------------------------------------------------------------- events
@dataclass(frozen=True)
class OpEvent:
    """A functional ATen operation. `args`/`kwargs` hold Ref and SymRef; `outputs` one id per flat output
    (None where the output is not a tensor); `result` what the program was given, for replay."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]
    result: Any
    site: Any
    weights: tuple[int, ...] = ()


@dataclass(frozen=True)
class ItemEvent:
    """A one-element tensor read as a host scalar."""

    tensor: int
    output: int
    result: Any
    site: Any


@dataclass(frozen=True)
class HostOp:
    """One host scalar operation (a name of `schema.HOST_OPS`) on symbols and Python numbers, rounded as Python
    rounds: floating-point expressions are kept step by step, never rearranged."""

    op: str
    operands: tuple[Any, ...]

    @property
    def free_symbols(self) -> set[sympy.Symbol]:
        return {s for operand in self.operands if isinstance(operand, sympy.Basic) for s in operand.free_symbols}

    def xreplace(self, names: dict[sympy.Symbol, sympy.Symbol]) -> HostOp:
        """The operation with symbols renamed."""
        return HostOp(self.op, tuple(
            operand.xreplace(names) if isinstance(operand, sympy.Basic) else operand for operand in self.operands))


@dataclass(frozen=True)
class ScalarEvent:
    """A host scalar computed from others: `expr` is a symbolic expression, a HostOp or a Python number.
    `result` is what the program was given; None when a join computes it for its own use."""

    expr: Any
    output: int
    site: Any
    result: Any = None


@dataclass(frozen=True)
class CarryEvent:
    """A host scalar made a 0-d tensor (int64 or float64), to be data of tensor operations."""

    expr: sympy.Basic
    output: int
    result: Any
    site: Any


@dataclass(frozen=True)
class HostCallEvent:
    """A call of a host function; it runs whether or not its results are used."""

    function: HostFunction
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    result: tuple[Any, ...]
    site: Any


@dataclass(frozen=True)
class RandomEvent:
    """A tensor of random numbers, drawn by the runtime. `sizes`: ints or symbolic expressions."""

    kind: str
    sizes: tuple[Any, ...]
    output: int
    result: Any
    site: Any


@dataclass(frozen=True)
class LiteralEvent:
    """A tensor written in the program text (torch.tensor([1.0, 2.0])): a constant, like a weight."""

    output: int
    result: Any


@dataclass(frozen=True)
class Decision:
    """A fork. `tensor`: the id of a one-element bool tensor, or None with `expr` a symbolic condition. `within`: the
    operator that asks about its operands' sizes, before its own event. `refined`: more is known of sizes than at the
    decision before, so that what was a question there may be none here."""

    tensor: int | None
    expr: sympy.Basic | HostOp | None
    then: Segment
    orelse: Segment
    site: Any
    snapshot: dict[str, Any]
    within: Any = None
    refined: bool = False


@dataclass(frozen=True)
class Goto:
    """A jump to a join; `args[i]` is the value given for `target.join.values[i]`."""

    target: Segment
    args: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """The program returned `tree`, whose leaves are Ref, SymRef or plain constants; its state is then that of
    `mode`, with the values `carry`."""

    tree: Any
    site: Any
    mode: int = 0
    carry: tuple[int, ...] = ()


@dataclass(frozen=True)
class Raised:
    """The program raised."""

    type: str
    message: str
    site: Any
    mode: int = 0
    carry: tuple[int, ...] = ()


@dataclass
class Join:
    """Where paths with equal static state become one. `begun`: how many events its parent had when its path came here;
    those that follow describe the state."""

    key: Any
    position: tuple[Any, ...]
    values: tuple[int, ...]
    state: Any
    rewrites: dict[Any, Any]
    grown: dict[int, torch.Tensor]
    loop: bool
    synced: bool
    begun: int


@dataclass(frozen=True)
class Known:
    """What a library call that began at some event did: its name, its operands, whether its result shares their memory,
    how many events it made, its result and the tensors in it; the values that its operations made, and the numbers that
    were read of tensors."""

    name: str
    operands: tuple[Any, ...]
    views: bool
    events: int
    result: Any
    tensors: tuple[torch.Tensor, ...]
    fresh: tuple[int, ...]
    items: dict[int, Any]

    def of(self, name: str, operands: Sequence[Any]) -> bool:
        """Whether another call at the same place has the same outcome."""
        return self.name == name and len(self.operands) == len(operands) and all(
            _identical(a, b) or (not self.views and isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor))
            for a, b in zip(self.operands, operands))


@dataclass(eq=False)
class Segment:
    """A straight line of events; grows while its path is traced, then never changes."""

    number: int
    parent: Segment | None
    join: Join | None = None
    events: list[Any] = field(default_factory=list)
    end: Any = None
    known: dict[int, Known] = field(default_factory=dict)

    def lineage(self) -> list[Segment]:
        """The segments from the root to this one."""
        out: list[Segment] = []
        node: Segment | None = self
        while node is not None:
            out.append(node)
            node = node.parent
        return out[::-1]


# ---------------------------------------------------------------------------------------- tracer
class Tracer:
    """Records one path after another into a shared graph of segments."""

    def __init__(self) -> None:
        self.symbols = Symbols(self.decide_expr)
        self.fake_mode = FakeTensorMode(shape_env=self.symbols, allow_non_fake_inputs=True)
        self.values: list[Value] = []
        self.by_fake: dict[int, int] = {}
        self.by_weight: dict[int, int] = {}
        self.producer: dict[int, OpEvent | CarryEvent] = {}
        self.constants: dict[int, torch.Tensor | None] = {}
        self.literals: dict[Any, int] = {}
        self.host_functions: dict[str, HostFunction] = {}
        self.aliases: list[torch.Tensor] = []
        self.stood_in: dict[int, torch.Tensor] = {}
        self.handed: dict[int, torch.Tensor] = {}
        self.unknown_arrays: dict[int, Any] = {}
        self.gathered: set[int] = set()
        self.symbol_value: dict[sympy.Symbol, tuple[Any, ...]] = {}
        self.segments: list[Segment] = []
        self.pending: list[Segment] = []
        self.site: Any = None
        self.suspended: Sequence[Any] = ()
        self.computing: Any = None
        self.latest: dict[str, Any] | None = None
        self.ahead: list[dict[str, Any]] = []
        self.paused = 0
        self.calling = False
        self.dead = False
        self.failure: Stopped | None = None
        self.decisions = 0
        self.path: list[Segment] = []
        self.position = 0
        self.cursor = 0
        self.fresh: set[int] = set()
        self.items: dict[int, Any] = {}
        self.texts = Texts()
        self.decided: dict[int, bool] = {}
        self.facts: dict[sympy.Basic, bool] = {}

    # -- values
    def new_value(self, kind: str, **fields: Any) -> int:
        number = len(self.values)
        self.values.append(Value(number, kind, **fields))
        fake = fields.get("fake")
        if fake is not None:
            self.by_fake[id(fake)] = number
        if fields.get("symbol") is not None:
            self.symbol_value[fields["symbol"]] = ("scalar", number)
        return number

    def weight(self, tensor: torch.Tensor, name: str = "") -> int:
        """The value of a tensor that exists before the call: a parameter, buffer or constant."""
        number = self.by_weight.get(id(tensor))
        if number is None:
            with self.recording_off():
                fake = self.fake_mode.from_tensor(tensor.detach(), static_shapes=True)
            number = self.new_value("weight", fake=fake, real=tensor, name=name)
            self.by_weight[id(tensor)] = number
        return number

    def scalar(self, python: str) -> tuple[int, Any]:
        """A fresh host scalar: its value number, and the symbolic number that stands for it in Python."""
        if python == "int":
            symbolic = self.symbols.create_unbacked_symint()
        elif python == "float":
            symbolic = self.symbols.create_unbacked_symfloat()
        else:
            raise InternalError(f"no symbolic stand-in for a {python}")
        self.symbols.pending_fresh_unbacked_symbols.clear()
        return self.new_value("scalar", symbol=symbolic.node.expr, python=python), symbolic

    def tensor_value(self, tensor: torch.Tensor) -> int:
        """The value number that a tensor of the running program denotes now."""
        return self.value_of_inner(self.inner(tensor))

    def inner(self, tensor: torch.Tensor) -> torch.Tensor:
        if torch._is_functional_tensor(tensor):
            torch._sync(tensor)
            return torch._from_functional_tensor(tensor)
        return tensor

    def value_of_inner(self, tensor: torch.Tensor) -> int:
        number = self.by_fake.get(id(tensor))
        if number is not None:
            return number
        if isinstance(tensor, FakeTensor):
            raise InternalError("a tensor of unknown origin reached the trace")
        return self.weight(tensor)

    def stand_in_for(self, tensor: torch.Tensor, fake: torch.Tensor) -> None:
        """Make a tensor of the running program, wherever the program holds it, denote the value of `fake`."""
        torch._C._swap_tensor_impl(tensor, torch._to_functional_tensor(fake))
        self.stood_in[id(tensor)] = tensor

    @contextlib.contextmanager
    def recording_off(self) -> Iterator[None]:
        """Neither functionalise nor record."""
        enabled = torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.Functionalize)
        if enabled:
            torch._disable_functionalization()
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1
            if enabled:
                torch._enable_functionalization(reapply_views=True)

    # -- paths
    def new_segment(self, parent: Segment | None, join: Join | None = None) -> Segment:
        segment = Segment(len(self.segments), parent, join)
        self.segments.append(segment)
        return segment

    def begin(self, target: Segment) -> None:
        """Prepare to run the program along the known prefix that leads to `target`, then record."""
        self.path = target.lineage()
        self.position = 0
        self.cursor = 0
        self.dead = False
        self.failure = None
        self.decisions = 0
        self.fresh = set()
        self.items = {}
        self.texts = Texts()
        self.decided = {}
        self.facts = {}
        self.recall()

    def recall(self) -> None:
        """Know of sizes what was known when the rest of the path was traced."""
        ends = [segment.end for segment in self.path[self.position:-1] if isinstance(segment.end, Decision)]
        known = [end.snapshot for end in ends]
        self.latest = known[-1] if known else None
        self.ahead = []
        if any(end.refined for end in ends):
            self.ahead = known[1:]
            self.symbols.restore(known[0])
        elif known:
            self.symbols.restore(known[-1])

    def go_on(self, joined: Segment, target: Segment) -> None:
        """Go on behind a join that is known, as the path on which it was found did, along the prefix to `target`."""
        self.path = target.lineage()
        self.position = self.path.index(joined)
        self.cursor = 0
        self.facts = {}
        for segment, after in zip(self.path[:self.position], self.path[1:]):
            if isinstance(segment.end, Decision):
                self.learn(segment.end, after is segment.end.then)
        self.recall()

    @property
    def segment(self) -> Segment:
        return self.path[self.position]

    @property
    def replaying(self) -> bool:
        return self.position < len(self.path) - 1 or self.cursor < len(self.segment.events)

    def next_known(self) -> Any:
        """The next event of the known prefix."""
        if self.cursor >= len(self.segment.events):
            raise stop("EC120", self.site)
        event = self.segment.events[self.cursor]
        self.cursor += 1
        return event

    def record(self, event: Any) -> None:
        self.segment.events.append(event)
        self.cursor += 1

    def advance(self, segment: Segment | None = None) -> None:
        if segment is not None:
            self.path.append(segment)
        self.position += 1
        self.cursor = 0

    def finish(self, end: Any) -> None:
        if self.replaying:
            raise stop("EC120", self.site)
        self.segment.end = end

    # -- library calls
    def library(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`known_call`, with an error of PyTorch turned into a refusal: whether the program itself would fail here or
        only its tracing does cannot be told apart, so neither a handler of the program nor the bundle may take it
        for the program's own."""
        try:
            return self.known_call(fn, args, kwargs)
        except Exception as error:
            ours = isinstance(error, CompileError) or getattr(error, "of_the_program", False)
            if ours or not (kwargs or any(map(_touches_torch, (fn, *args)))):
                raise
            if self.fails_untraced(fn, args, kwargs, type(error)):
                raise of_the_program(error) from None
            message = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise stop("EC133", self.site, message=message) from error

    def fails_untraced(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kind: type[Exception]) -> bool:
        """Whether a call fails without tracing too, whatever the data (a question to a device that is not there, shapes
        that do not fit): then the error is the program's own. An object that may hold tensors cannot be tried."""
        owner = getattr(fn, "__self__", None)
        leaves = pytree.tree_leaves((owner, args, kwargs))
        sizes = [size for leaf in leaves if isinstance(leaf, torch.Tensor) for size in leaf.shape]
        if not all(map(_can_be_tried, leaves)) or any(as_expr(leaf) is not None for leaf in (*leaves, *sizes)):
            return False
        return all(self.fails(fn, owner, args, kwargs, kind, filled) for filled in (torch.zeros, torch.ones))

    def fails(
        self, fn: Any, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kind: type[Exception], filled: Any
    ) -> bool:
        """Whether a call fails in this way on real tensors that `filled` makes."""
        def real(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            held = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype)
            return held.copy_(filled(leaf.shape, dtype=leaf.dtype))

        with self.plain_torch():
            given, named = pytree.tree_map(real, (args, kwargs))
            called = getattr(real(owner), fn.__name__) if isinstance(owner, torch.Tensor) else fn
            try:
                called(*given, **named)
            except Exception as error:
                return type(error) is kind
        return False

    def known_call(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of PyTorch. Along a known prefix, a call gives the very tensors that it first gave, unless
        any of them has since been changed in place. Where they are views of what it was called on, that must be the
        very tensors that it was first called on."""
        owner = getattr(fn, "__self__", None)
        operands: list[Any] = []
        if self.calling or not (_owned(owner) and _flatten((owner, args, kwargs), operands)):
            return fn(*args, **kwargs)
        for one in operands:
            if isinstance(one, torch.Tensor) and changed_in_place(one):
                torch._sync(one)
        name = getattr(fn, "__name__", "")
        if self.replaying:
            known = self.segment.known.get(self.cursor)
            if known is not None and known.of(name, operands) and not any(
                changed_in_place(one) or id(one) in self.stood_in for one in known.tensors
            ):
                self.fresh.update(known.fresh)
                self.items.update(known.items)
                self.cursor += known.events
                return list(known.result) if type(known.result) is list else known.result
            return fn(*args, **kwargs)
        given = [one for one in operands if isinstance(one, torch.Tensor)]
        for one in operands:
            if isinstance(one, torch.nn.Module):
                given.extend((*one.parameters(), *one.buffers()))
        before = [changed_in_place(one) and id(torch._from_functional_tensor(one)) for one in given]
        segment, start = self.segment, self.cursor
        self.calling = True
        try:
            result = fn(*args, **kwargs)
        finally:
            self.calling = False
        found: list[Any] = []
        if self.segment is not segment or self.cursor == start or not _flatten(result, found):
            return result
        tensors = [leaf for leaf in found if isinstance(leaf, torch.Tensor)]
        nested = any(type(leaf) is tuple and leaf[0] in (list, dict) for leaf in found[1:])
        if not tensors or nested or type(result) is dict or any(map(changed_in_place, tensors)) or before != [
            changed_in_place(one) and id(torch._from_functional_tensor(one)) for one in given
        ]:
            return result
        memory = set(map(memory_of, given))
        views = any(memory_of(one) in memory for one in tensors)
        if not (views and any(map(changed_in_place, given))):
            made = segment.events[start:self.cursor]
            segment.known[start] = Known(
                name, tuple(operands), views, len(made), list(result) if type(result) is list else result,
                tuple(tensors),
                tuple(o for e in made if isinstance(e, OpEvent) for o in e.outputs if o is not None),
                {e.tensor: e.result for e in made if isinstance(e, ItemEvent)})
        return result

    # -- decisions
    def decide(self, tensor: int | None, expr: sympy.Basic | HostOp | None) -> bool:
        """Which way the path goes where data decides."""
        if self.dead:
            raise PathEnd
        if expr is not None and expr in self.facts:
            return self.facts[expr]
        if tensor is not None and tensor in self.decided:
            return self.decided[tensor]
        if tensor is not None:
            constant = self.constant(tensor)
            if constant is not None:
                with self.plain_torch():
                    return bool(constant)
        if self.replaying:
            end = self.segment.end
            if self.cursor != len(self.segment.events) or not isinstance(end, Decision):
                raise stop("EC120", self.site)
            return self.replay_decision()
        self.decisions += 1
        here = self.segment
        then, orelse = self.new_segment(here), self.new_segment(here)
        before, self.latest = self.latest, self.symbols.snapshot()
        refined = before is not None and self.symbols.knows_more(before)
        here.end = Decision(tensor, expr, then, orelse, self.site, self.latest, self.computing, refined)
        self.pending.append(orelse)
        self.advance(then)
        self.learn(here.end, True)
        return True

    def replay_decision(self) -> bool:
        """Go the way that the known prefix goes at the decision that ends this segment."""
        end = self.segment.end
        outcome = self.path[self.position + 1] is end.then
        self.decisions += 1
        self.advance()
        self.learn(end, outcome)
        if self.ahead:
            self.symbols.restore(self.ahead.pop(0))
        return outcome

    def learn(self, decision: Decision, outcome: bool) -> None:
        if decision.tensor is not None:
            self.decided[decision.tensor] = outcome
        if decision.expr is not None:
            self.facts[decision.expr] = outcome
            if isinstance(decision.expr, sympy.Basic):
                self.facts[sympy.Not(decision.expr)] = not outcome

    def decide_expr(self, expr: sympy.Basic, python: type) -> Any:
        """A guard on data-dependent numbers: a condition forks, a number is refused."""
        if self.dead:
            return python(1)
        if python is bool:
            return self.decide(None, expr)
        self.fail(stop("EC111", self.site))
        return python(1)

    def fail(self, failure: Stopped) -> None:
        """End the path with a refusal at the next step of the program: this is called from inside PyTorch's own
        code, through which an exception must not pass."""
        if self.failure is None:
            for call in reversed(self.suspended):
                failure.called_at(call.site)
            self.failure = failure
        self.dead = True

    def item(self, tensor: int) -> Any:
        """A one-element tensor read as a Python scalar."""
        if self.dead:
            raise PathEnd
        fake = self.values[tensor].fake
        if fake.dtype == torch.bool:
            return self.decide(tensor, None)
        constant = self.constant(tensor)
        if constant is not None:
            with self.plain_torch():
                return constant.item()
        if fake.dtype.is_complex:
            raise stop("EC112", self.site)
        known = self.number_of(tensor)
        if known is not None:
            return known
        if self.replaying:
            event = self.next_known()
            if not isinstance(event, ItemEvent) or event.tensor != tensor:
                raise stop("EC120", self.site)
        else:
            output, symbolic = self.scalar("float" if fake.dtype.is_floating_point else "int")
            self.symbols.constrain(symbolic, *self.range_of(tensor))
            event = ItemEvent(tensor, output, symbolic, self.site)
            self.record(event)
        self.items[tensor] = event.result
        return event.result

    def number_of(self, tensor: int) -> Any:
        """The host scalar that a one-element tensor is known to hold: one that was read from it, or the sum, difference
        or product of such integers; None where it is not known."""
        if tensor in self.items:
            return self.items[tensor]
        event = self.producer.get(tensor)
        if tensor not in self.fresh or event is None or self.values[tensor].fake.dtype != torch.int64:
            return None
        if isinstance(event, CarryEvent):
            return self.symbols.create_symintnode(event.expr, hint=None)
        if event.target in SAME_NUMBER and self.values[event.args[0].id].fake.dtype == torch.int64:
            return self.number_of(event.args[0].id)
        python = ARITHMETIC.get(event.target)
        if python is None or len(event.args) != 2 or event.kwargs:
            return None
        operands = [
            self.number_of(arg.id) if isinstance(arg, Ref) and self.values[arg.id].kind == "op" else
            arg if type(arg) is int else None for arg in event.args
        ]
        if any(operand is None for operand in operands):
            return None
        return python(*operands)

    def host(self, op: str, operands: tuple[Any, ...], python: str) -> Any:
        """The symbolic number that a host operation on symbolic and Python numbers gives."""
        if self.dead:
            raise PathEnd
        if self.replaying:
            event = self.next_known()
            if not isinstance(event, ScalarEvent) or not isinstance(event.expr, HostOp) or event.expr.op != op:
                raise stop("EC120", self.site)
            return event.result
        plain = tuple(operand if as_expr(operand) is None else as_expr(operand) for operand in operands)
        output, symbolic = self.scalar(python)
        self.record(ScalarEvent(HostOp(op, plain), output, self.site, symbolic))
        return symbolic

    def made_at(self, number: int) -> Any:
        """The site that made a tensor's value; of one that holds what was written into a part of it, that of what was
        written."""
        event = self.producer.get(number)
        while isinstance(event, OpEvent) and "_scatter" in str(event.target) and isinstance(event.args[1], Ref) and (
            event.args[1].id in self.producer
        ):
            event = self.producer[event.args[1].id]
        return self.site if event is None else event.site

    def carry(self, number: Any) -> torch.Tensor:
        """A symbolic number as a 0-d tensor of the running program."""
        if self.dead:
            raise PathEnd
        if self.replaying:
            event = self.next_known()
            if not isinstance(event, CarryEvent):
                raise stop("EC120", self.site)
        else:
            dtype = torch.int64 if isinstance(number, torch.SymInt) else torch.float64
            with self.recording_off():
                fake = torch.empty((), dtype=dtype)
            event = CarryEvent(as_expr(number), self.new_value("op", fake=fake), fake, self.site)
            self.producer[event.output] = event
            self.record(event)
        self.fresh.add(event.output)
        return self.handed_out(event.output)

    def handed_out(self, number: int) -> torch.Tensor:
        """A tensor of the running program for a value, the one that other runs have been given where none of them
        changed it."""
        held = self.handed.get(number)
        if held is None or changed_in_place(held) or id(held) in self.stood_in:
            held = self.handed[number] = torch._to_functional_tensor(self.values[number].fake)
        return held

    def literal(self, tensor: torch.Tensor) -> torch.Tensor:
        """A constant tensor that the program makes from Python numbers; equal ones are one."""
        if isinstance(tensor, FakeTensor):
            return tensor
        if self.replaying:
            event = self.next_known()
            if not isinstance(event, LiteralEvent):
                raise stop("EC120", self.site)
            return event.result
        with self.plain_torch():
            key = (tensor.dtype, tuple(tensor.shape), tensor.numpy().tobytes())
        if key not in self.literals:
            self.literals[key] = self.weight(tensor, f"literal_{len(self.literals)}")
        number = self.literals[key]
        self.record(LiteralEvent(number, self.values[number].fake))
        return self.values[number].fake

    @contextlib.contextmanager
    def plain_torch(self) -> Iterator[None]:
        """Compute with real tensors, as if nothing were traced."""
        with (
            self.recording_off(), torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction(),
            torch._C._DisableAutocast(),
        ):
            yield

    def range_of(self, number: int) -> tuple[int | None, int | None]:
        """The smallest and the largest integer that a value can hold, as the operation that made it says: positions
        in a tensor are never negative and below its length, a clamped number is within its bounds, a count within what
        is counted. None where nothing is said."""
        if self.values[number].fake.dtype != torch.int64:
            return None, None
        event = self.producer.get(number)
        while isinstance(event, OpEvent) and event.target in RANGE_KEPT and (
            self.values[event.args[0].id].fake.dtype in (torch.int64, torch.int32)
        ):
            number = event.args[0].id
            event = self.producer.get(number)
        if not isinstance(event, OpEvent) or not isinstance(event.args[0], Ref):
            return None, None
        given, target = self.values[event.args[0].id].fake, event.target
        size: Any = None
        if target in FINDS_POSITIONS and number == event.outputs[-1]:
            dim = (*event.args, None, None, None)[POSITION_OF_DIM.get(target, -1)]
            if target in OF_ALL and dim is None:
                size = math.prod(given.shape)
            elif target in POSITION_OF_DIM:
                size = given.shape[-1 if dim is None else dim] if given.dim() else 1
            return 0, size - 1 if isinstance(size, int) and size else None
        if target is aten.sum.default and given.dtype == torch.bool:
            size = math.prod(given.shape)
            return 0, size if isinstance(size, int) else None
        if target is aten.clamp.default and not given.dtype.is_floating_point:
            low, high = (bound if type(bound) is int else None for bound in (*event.args[1:], None, None)[:2])
            return (None, None) if low is not None and high is not None and low > high else (low, high)
        return None, None

    def constant(self, number: int) -> torch.Tensor | None:
        """The data of a value that only weights determine, or None.

        Only operations since the last join count: what crosses a join is a block parameter there, which other
        paths may give another value.
        """
        value = self.values[number]
        if value.kind == "weight":
            with self.plain_torch():
                return None if self.unknown_arrays and value.real.data_ptr() in self.unknown_arrays else value.real
        if value.kind != "op" or number not in self.fresh:
            return None
        if number in self.constants:
            return self.constants[number]
        self.constants[number] = None
        event = self.producer.get(number)
        if not isinstance(event, OpEvent) or event.target in NOT_FOLDED:
            return None
        real: dict[int, torch.Tensor] = {}
        leaves = pytree.tree_leaves((event.args, event.kwargs))
        if any(isinstance(leaf, SymRef) for leaf in leaves):
            return None
        for leaf in leaves:
            if isinstance(leaf, Ref):
                data = self.constant(leaf.id)
                if data is not None:
                    real[leaf.id] = data
        if any(isinstance(leaf, Ref) and leaf.id not in real for leaf in leaves):
            self.constants[number] = self.absorbed(event, real)
            return self.constants[number]
        with self.plain_torch():
            args, kwargs = pytree.tree_map_only(Ref, lambda ref: real[ref.id], (event.args, event.kwargs))
            result = event.target(*args, **kwargs)
        for output, data in zip(event.outputs, pytree.tree_leaves(result)):
            if output is not None and isinstance(data, torch.Tensor):
                self.constants[output] = data
        return self.constants[number]

    def absorbed(self, event: OpEvent, known: dict[int, torch.Tensor]) -> torch.Tensor | None:
        """The result of an operation of which one operand alone decides: `false and x`, `true or x`, `0 & x`."""
        value = ABSORBING.get(event.target)
        fake = self.values[event.outputs[0]].fake
        if value is None or (value and fake.dtype != torch.bool) or any(as_expr(n) is not None for n in fake.shape):
            return None
        with self.plain_torch():
            if not any(bool((data == value).all()) for data in known.values() if data.numel()):
                return None
            return torch.full(tuple(fake.shape), value, dtype=fake.dtype)

    # -- operations
    def operation(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], compute: Any) -> Any:
        """Record (or replay) `target(*args, **kwargs)`, where tensors are fakes or weights."""
        if self.dead:
            raise PathEnd
        if target is aten._scaled_dot_product_flash_attention_for_cpu.default:
            return self.attention(*args, **kwargs)
        if target is aten.as_strided.default:
            gathered = self.as_strided(*args, **kwargs)
            if gathered is not None:
                return gathered
        if target is aten.topk.default:  # in order where the program leaves it open: every backend gives the same
            args, kwargs = args[:4], {name: value for name, value in kwargs.items() if name != "sorted"}
        if torch.Tag.nondeterministic_seeded in target.tags and target not in WITHOUT_DROPOUT:
            return self.random(target, args, kwargs)
        if target in SQUEEZES and any(as_expr(size) is not None for size in args[0].shape):
            return self.squeeze(*args)
        if target in OF_SOMETHING:
            self.check_not_empty(target, args, kwargs)
        while self.replaying and self.cursor == len(self.segment.events) and isinstance(self.segment.end, Decision):
            self.replay_decision()
        while self.replaying and self.cursor == len(self.segment.events) and (
            isinstance(self.segment.end, Decision) and self.segment.end.within is target
        ):
            self.replay_decision()
        if self.replaying:
            event = self.next_known()
            if not isinstance(event, OpEvent) or event.target is not target:
                raise stop("EC120", self.site)
            self.fresh.update(o for o in event.outputs if o is not None)
            return self.again(event)
        plain_args, plain_kwargs = self.plain(args), self.plain(kwargs)
        fake_args, fake_kwargs = pytree.tree_map_only(
            torch.Tensor, lambda t: self.values[self.value_of_inner(t)].fake, (args, kwargs)
        )
        self.computing = target
        try:
            result = compute(*fake_args, **fake_kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
            raise stop("EC131", self.site, operator=str(target)) from error
        finally:
            self.computing = None
        outputs: list[int | None] = []
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                if leaf.dtype not in DTYPES:
                    raise stop("EC132", self.site, dtype=str(leaf.dtype).removeprefix("torch."))
                known = self.by_fake.get(id(leaf))
                outputs.append(self.new_value("op", fake=leaf) if known is None else known)
                self.bind_dims(outputs[-1], leaf)
            elif as_expr(leaf) is not None:
                raise stop("EC131", self.site, operator=str(target))
            else:
                outputs.append(None)
        self.symbols.pending_fresh_unbacked_symbols.clear()
        weights = tuple(
            leaf.id for leaf in pytree.tree_leaves((plain_args, plain_kwargs))
            if isinstance(leaf, Ref) and self.values[leaf.id].kind == "weight"
        )
        event = OpEvent(target, plain_args, plain_kwargs, tuple(outputs), result, self.site, weights)
        for output in outputs:
            if output is not None and self.values[output].kind == "op":
                self.producer.setdefault(output, event)
                self.fresh.add(output)
        self.record(event)
        return result

    def check_not_empty(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A reduction that has no result of nothing: whether there is something is decided here, and where there is
        not, the program gets PyTorch's own error."""
        tensor = args[0]
        symbolic = [i for i, size in enumerate(tensor.shape) if as_expr(size) is not None]
        if not symbolic:
            return
        dims = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("dims"))
        dims = list(range(tensor.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        reduced = {dim % tensor.dim() for dim in dims}
        for axis in symbolic:
            if axis in reduced and bool(tensor.shape[axis] == 0):
                shape = [0 if i == axis else 1 if i in symbolic else n for i, n in enumerate(tensor.shape)]
                try:
                    with self.plain_torch():
                        target(torch.empty(shape, dtype=tensor.dtype), *args[1:], **kwargs)
                except Exception as error:
                    raise of_the_program(error) from None

    def check_solved(self, info: torch.Tensor, name: str, *, is_matrix: bool) -> None:
        """Whether a solver or a decomposition failed on this data: a decision, and PyTorch's own error where it did."""
        failed = self.operation(aten.ne.Scalar, (info, 0), {}, aten.ne.Scalar)
        if info.dim():
            failed = self.operation(aten.any.default, (failed,), {}, aten.any.default)
        if self.item(self.value_of_inner(failed)):
            try:
                with self.plain_torch():
                    aten._linalg_check_errors.default(torch.ones((), dtype=info.dtype), name, is_matrix=True)
            except Exception as error:
                raise of_the_program(error) from None

    def rows(self, tensor: torch.Tensor, dim: int, wanted: int | None) -> tuple[torch.Tensor, ...]:
        """As many parts of a tensor along `dim` as the program unpacks; whether there are so many is decided here."""
        if wanted is None:
            raise stop("EC115", self.site)
        if not bool(tensor.shape[dim] == wanted):
            raise of_the_program(ValueError(f"not {wanted} values to unpack"))
        return tuple(tensor.select(dim, i) for i in range(wanted))

    def squeeze(self, tensor: torch.Tensor, dims: Any = None) -> torch.Tensor:
        """`tensor` without those of `dims` (all where None) whose size is 1, where sizes that data decides are asked
        for: what is recorded has as many dimensions as the path says."""
        given = range(tensor.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
        result = self.operation(aten.alias.default, (tensor,), {}, aten.alias.default)
        for dim in sorted((dim % max(tensor.dim(), 1) for dim in given), reverse=True):
            if tensor.dim() and bool(tensor.shape[dim] == 1):
                result = self.operation(aten.select.int, (result, dim, 0), {}, aten.select.int)
        return result

    def attention(
        self, query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, *,
        attn_mask: Any = None, scale: float | None = None,
    ) -> tuple[Any, Any]:
        """Attention as PyTorch's CPU kernel does it, recorded as attention; the kernel's second result, which only
        its backward reads, is given as a stand-in that belongs to no value."""
        if dropout_p:
            raise stop("EC130", self.site, operator="attention with dropout")
        target = aten.scaled_dot_product_attention.default

        def compute(*fakes: Any, **named: Any) -> Any:
            with self.recording_off():
                return target(*fakes, **named)

        output = self.operation(
            target, (query, key, value, attn_mask, 0.0, is_causal), {"scale": scale} if scale else {}, compute)
        with self.recording_off(), self.fake_mode:
            return output, torch.empty(tuple(output.shape[:-1]), dtype=torch.float32)

    def as_strided(self, tensor: Any, size: Any, stride: Any, offset: Any = None) -> Any:
        """A view by strides of memory that is not the tensor's elements in order: the elements that eager PyTorch would
        find there, gathered. None where the elements are in order: then the operator says it itself."""
        fake = self.values[self.value_of_inner(tensor)].fake
        first = fake.storage_offset() if offset is None else offset
        numbers = (*fake.shape, *fake.stride(), fake.storage_offset(), *size, *stride, first)
        if any(as_expr(number) is not None for number in numbers) or memory_of(fake) in self.gathered:
            raise stop("EC131", self.site, operator="aten.as_strided of memory whose layout only the data decides")
        if fake.is_contiguous() and fake.storage_offset() == 0:
            return None
        with self.plain_torch():
            where = torch.full((fake.untyped_storage().nbytes() // fake.element_size(),), -1)
            order = torch.arange(fake.numel()).view(fake.shape)
            where.as_strided(fake.shape, fake.stride(), fake.storage_offset()).copy_(order)
            index = where.as_strided(size, stride, first).reshape(-1)
            outside = bool((index < 0).any())
        if outside:
            raise stop("EC131", self.site, operator="aten.as_strided beyond the elements of its tensor")
        flat = self.operation(aten.reshape.default, (tensor, [-1]), {}, aten.reshape.default)
        chosen = self.operation(
            aten.index_select.default, (flat, 0, self.literal(index)), {}, aten.index_select.default)
        self.gathered.add(memory_of(chosen))
        return self.operation(aten.view.default, (chosen, list(size)), {}, aten.view.default)

    def random(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A random operation, made of draws and deterministic operations."""
        if torch.initial_seed() != UNSEEDED:
            raise stop("EC121", self.site, function="torch.manual_seed")
        build = RANDOM.get(target)
        if build is None or kwargs.get("generator") is not None:
            raise stop("EC130", self.site, operator=str(target))
        options = {name: value for name, value in kwargs.items() if name == "dtype"}

        def operate(inner: Any, *inner_args: Any, **inner_kwargs: Any) -> Any:
            return self.operation(inner, inner_args, inner_kwargs, inner)

        return build(self.draw, operate, *args, **options)

    def draw(self, kind: str, sizes: tuple[Any, ...], dtype: torch.dtype) -> torch.Tensor:
        """Random numbers of `kind`, as `schema.RandomStep` defines it."""
        if self.replaying:
            event = self.next_known()
            if not isinstance(event, RandomEvent) or event.kind != kind:
                raise stop("EC120", self.site)
            return event.result
        with self.recording_off(), self.fake_mode:
            fake = torch.empty(sizes, dtype=dtype)
        number = self.new_value("op", fake=fake)
        self.record(RandomEvent(
            kind, tuple(size if as_expr(size) is None else as_expr(size) for size in sizes), number, fake, self.site))
        return fake

    def made_here(self, tensor: torch.Tensor) -> int:
        """The value of a tensor that is handed to the host; a weight is handed over by a region, as its copy."""
        inner = self.inner(tensor)
        if self.values[self.value_of_inner(inner)].kind != "weight":
            return self.value_of_inner(inner)

        def clone(fake: torch.Tensor) -> torch.Tensor:
            with self.recording_off(), self.fake_mode:
                return aten.clone.default(fake)

        return self.value_of_inner(self.operation(aten.clone.default, (inner,), {}, clone))

    def host_call(self, function: HostFunction, tensors: Sequence[Any]) -> Any:
        """Call a host function: its results are new tensors of the declared types."""
        if self.dead:
            raise PathEnd
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            raise stop("EC171", self.site, name=function.name)
        inputs = tuple(self.made_here(tensor) for tensor in tensors)
        if self.replaying:
            event = self.next_known()
            if not isinstance(event, HostCallEvent):
                raise stop("EC120", self.site)
        else:
            sizes = function.check([self.values[number].fake for number in inputs])
            made = []
            for kind in function.outputs:
                for size in kind.shape:
                    if isinstance(size, str) and size not in sizes:
                        sizes[size] = self.symbols.create_unbacked_symint()
                        torch._check(sizes[size] >= 0)
                self.symbols.pending_fresh_unbacked_symbols.clear()
                with self.recording_off(), self.fake_mode:
                    made.append(torch.empty(
                        [sizes[s] if isinstance(s, str) else s for s in kind.shape], dtype=getattr(torch, kind.dtype)))
            outputs = tuple(self.new_value("op", fake=fake) for fake in made)
            for number, fake in zip(outputs, made):
                self.bind_dims(number, fake)
            event = HostCallEvent(function, inputs, outputs, tuple(made), self.site)
            self.record(event)
            self.host_functions[function.name] = function
        results = tuple(map(self.handed_out, event.outputs))
        return results[0] if len(results) == 1 else results

    def again(self, event: OpEvent) -> Any:
        """A recorded result for another run. A view is a new tensor object each time, as autograd's bookkeeping of
        views demands, that denotes the same value."""
        if not any(returned.alias_info for returned in event.target._schema.returns):
            return event.result

        def alias(tensor: torch.Tensor) -> torch.Tensor:
            with self.recording_off(), self.fake_mode:
                made = aten.alias.default(tensor)
            self.by_fake[id(made)] = self.by_fake[id(tensor)]
            self.aliases.append(made)
            return made

        return pytree.tree_map_only(torch.Tensor, alias, event.result)

    def plain(self, tree: Any) -> Any:
        """`tree` with tensors as Ref and symbolic numbers as SymRef or the number they are known to be."""

        def leaf(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return Ref(self.value_of_inner(value))
            expr = as_expr(value)
            if expr is None:
                return value
            if expr.is_number:
                return int(expr) if isinstance(value, torch.SymInt) else float(expr)
            return SymRef(expr)

        return pytree.tree_map(leaf, tree)

    def bind_dims(self, number: int, fake: torch.Tensor) -> None:
        """Remember where the symbols of a data-dependent size can be read."""
        for axis, size in enumerate(fake.shape):
            expr = as_expr(size)
            if isinstance(expr, sympy.Symbol) and expr not in self.symbol_value:
                self.symbol_value[expr] = ("dim", number, axis)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The modes under which a path is traced."""
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        torch._enable_functionalization(reapply_views=True)
        generator = torch.get_rng_state()
        torch.default_generator.manual_seed(UNSEEDED)
        try:
            with torch.no_grad(), self.fake_mode, Recorder(self), Composites(self):
                yield
        finally:
            torch.set_rng_state(generator)
            torch._disable_functionalization()
            torch.backends.mha.set_fastpath_enabled(fast)


#: What PyTorch's generator has for a seed while a path is traced. With another one, native code that the rewriting does
#: not reach has given it the program's own seed.
UNSEEDED = 0x5EED_0F_0A_9A7

#: Ways in which a tensor's memory is handed to other libraries; a traced tensor has none.
READS_DATA = frozenset({
    torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.data_ptr, torch.Tensor.__dlpack__, torch.from_dlpack,
    torch.Tensor.__reduce_ex__, torch.Tensor.tolist, torch.Tensor.share_memory_, torch.Tensor.apply_,
    torch.Tensor.map_, torch.Tensor.map2_, torch.Tensor.storage, torch.Tensor.untyped_storage,
    torch.Tensor._typed_storage,
})


#: The types of a program's tensors, by the names that a bundle has for them.
DTYPES = {
    torch.bool: "bool", torch.int8: "int8", torch.uint8: "uint8", torch.int16: "int16", torch.int32: "int32",
    torch.int64: "int64", torch.float16: "float16", torch.float32: "float32", torch.float64: "float64",
    torch.complex64: "complex64", torch.complex128: "complex128",
}
SIMPLE = frozenset({
    torch.Tensor, torch.nn.Parameter, int, float, bool, str, type(None), torch.dtype, torch.device, type(...),
    torch.memory_format, torch.layout, torch.SymInt, torch.SymFloat,
})


def _can_be_tried(leaf: Any) -> bool:
    """Whether an argument means the same in a call outside the trace: a tensor, that others stand for there, or what
    holds none."""
    if isinstance(leaf, slice):
        return all(part is None or type(part) is int for part in (leaf.start, leaf.stop, leaf.step))
    return leaf is None or isinstance(leaf, (
        torch.Tensor, bool, int, float, complex, str, type, types.ModuleType, type(Ellipsis), torch.device, torch.dtype,
        torch.layout, torch.memory_format))


def _owned(owner: Any) -> bool:
    """Whether what a function is bound to is nothing, a tensor, or no object of the program's: not its list, say."""
    return owner is None or isinstance(owner, (torch.Tensor, type, types.ModuleType, types.GetSetDescriptorType))


def _flatten(value: Any, out: list[Any]) -> bool:
    """Put what a call takes or gives into one list, containers as their kind and length; False where there is something
    else than tensors, modules and plain values in it."""
    kind = type(value)
    if kind in SIMPLE or kind is type or isinstance(
        value, (torch.nn.Module, types.ModuleType, types.GetSetDescriptorType)
    ):
        out.append(value)
        return True
    if isinstance(value, tuple) or kind is list:
        out.append((kind, len(value)))
        return all(_flatten(item, out) for item in value)
    if kind is dict:
        out.append((kind, *value))
        return all(_flatten(item, out) for item in value.values())
    if kind is slice:
        out.append(kind)
        return all(_flatten(item, out) for item in (value.start, value.stop, value.step))
    return False


def _touches_torch(value: Any) -> bool:
    """Whether a function or operand makes a call one of PyTorch's."""
    return isinstance(value, (torch.Tensor, torch.nn.Module)) or (
        (getattr(value, "__module__", None) or "").partition(".")[0] == "torch"
        or isinstance(getattr(value, "__self__", None), torch.Tensor)
    )


def unpacked(frame: types.FrameType | None) -> int | None:
    """How many names the statement assigns that iterates over a tensor (`a, b = tensor`), where that is what calls."""
    while frame is not None and frame.f_code is not torch.Tensor.__iter__.__code__:
        frame = frame.f_back if frame.f_globals.get("__name__", "").startswith("torch") else None
    caller = frame.f_back if frame is not None else None
    while caller is not None and caller.f_globals.get("__name__", "").startswith("torch."):
        caller = caller.f_back
    if caller is None:
        return None
    code = caller.f_code.co_code
    at = caller.f_lasti
    return code[at + 1] if dis.opname[code[at]] == "UNPACK_SEQUENCE" else None


def _identical(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, (torch.Tensor, torch.nn.Module)):
        return False
    expr = as_expr(a)
    return a == b if expr is None else expr == as_expr(b)


def of_the_program(error: Exception) -> Exception:
    """An error that the program itself would raise on real data, raised on its behalf."""
    error.of_the_program = True  # type: ignore[attr-defined]
    return error


def changed_in_place(tensor: torch.Tensor) -> bool:
    """Whether a tensor of the running program, or an alias of it, was written to since it was made."""
    return torch._is_functional_tensor(tensor) and (
        torch._functionalize_has_data_mutation(tensor) or torch._functionalize_has_metadata_mutation(tensor)
    )


def memory_of(tensor: torch.Tensor) -> int:
    """What tells the memory of a tensor from other memory, as long as it lives."""
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata


#: Random only by their dropout, which is off wherever they are recorded.
WITHOUT_DROPOUT = {aten.scaled_dot_product_attention.default, aten.lstm.input, aten.gru.input}
OF_SOMETHING = {
    aten.max.default, aten.min.default, aten.max.dim, aten.min.dim, aten.amax.default, aten.amin.default,
    aten.argmax.default, aten.argmin.default, aten.aminmax.default, aten.median.dim, aten.mode.default,
    aten.kthvalue.default,
}
SQUEEZES = {aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims}
FINDS_POSITIONS = {
    aten.argmax.default, aten.argmin.default, aten.topk.default, aten.sort.default, aten.argsort.default,
    aten.nonzero.default, aten.max.dim, aten.min.dim,
}
RESHAPING = {
    aten.select.int, aten.view.default, aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default,
    aten.slice.Tensor, aten.alias.default,
}
#: Operators whose result, of one-element integer tensors, is a number that Python can compute.
ARITHMETIC = {
    aten.add.Tensor: operator.add, aten.sub.Tensor: operator.sub, aten.mul.Tensor: operator.mul,
    aten.rsub.Scalar: lambda a, b: b - a,
}
#: Operators whose result holds integers that their operand holds.
RANGE_KEPT = RESHAPING | {aten._to_copy.default, aten.clone.default}
#: Where the dimension stands among the arguments of what finds positions along it; and which search all of them.
POSITION_OF_DIM = {
    aten.argmax.default: 1, aten.argmin.default: 1, aten.topk.default: 2, aten.sort.default: 1, aten.argsort.default: 1,
    aten.max.dim: 1, aten.min.dim: 1,
}
OF_ALL = {aten.argmax.default, aten.argmin.default}
SAME_NUMBER = RESHAPING - {aten.select.int, aten.slice.Tensor} | {aten._to_copy.default, aten.clone.default}
#: Of which operand value the result does not depend on the other operand, and is that value.
ABSORBING = {
    aten.bitwise_and.Tensor: 0, aten.logical_and.default: 0, aten.bitwise_or.Tensor: 1, aten.logical_or.default: 1,
}
#: Operators that ask for nothing else than the ordinary ones, and that stand-ins do not have.
EVERY_OR_ANY = {aten._is_all_true.default: aten.all.default, aten._is_any_true.default: aten.any.default}
NOT_FOLDED = {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default}
IGNORED = {torch.ops.prim.device.default}


class Recorder(TorchDispatchMode):
    """Sees every ATen operation below functionalisation."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tracer = self.tracer
        if func in IGNORED or tracer.paused:
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return tracer.item(tracer.value_of_inner(args[0]))
        if func in (aten.equal.default, aten.allclose.default):
            compare = aten.eq.Tensor if func is aten.equal.default else aten.isclose.default
            same = tracer.operation(compare, args, {}, compare)
            every = tracer.operation(aten.all.default, (same,), {}, aten.all.default)
            return tracer.item(tracer.value_of_inner(every))
        if func in EVERY_OR_ANY:
            return tracer.operation(EVERY_OR_ANY[func], args, {}, EVERY_OR_ANY[func])
        if func is aten.lift_fresh.default:
            return tracer.literal(args[0])
        if func is aten._linalg_check_errors.default:
            return tracer.check_solved(*args, **kwargs)
        if func._schema.is_mutable:
            raise stop("EC131", tracer.site, operator=str(func))
        return tracer.operation(func, args, kwargs, func)


class Composites(TorchFunctionMode):
    """Keeps operations whole that a compiler wants whole (a linear layer, an attention, an LSTM)."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        entry = COMPOSITES.get(func)
        tracer = self.tracer
        if tracer.paused:
            return func(*args, **kwargs)
        if func in READS_DATA:
            raise stop("EC134", tracer.site, function=func.__name__)
        if func is torch.Tensor.__deepcopy__:
            return args[0].clone()
        if func in (torch.Tensor.unbind, torch.unbind):
            tensor, dim = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
            if as_expr(tensor.shape[dim]) is not None:
                return tracer.rows(tensor, dim, unpacked(sys._getframe(1)))
        if func in (torch.Tensor.__repr__, torch.Tensor.__format__):
            return tracer.texts.place()
        if entry is None or torch.is_autocast_enabled("cpu"):  # which says itself what is computed in which type
            return tracer.known_call(func, args, kwargs)
        call = entry(args, kwargs)
        if call is None:
            return (batch_norm_in_training if func is F.batch_norm else func)(*args, **kwargs)
        target, inner_args, inner_kwargs = call
        inner_args = pytree.tree_map_only(torch.Tensor, tracer.inner, inner_args)

        def compute(*fakes: Any, **named: Any) -> Any:
            with tracer.recording_off():
                return target(*fakes, **named)

        result = tracer.operation(target, inner_args, inner_kwargs, compute)
        return pytree.tree_map_only(torch.Tensor, torch._to_functional_tensor, result)

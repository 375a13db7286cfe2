"""The static state of a running program: what two paths must share to be one.

In: live locals of a stack of frames, and objects that existed before the call.
Out: a hashable key of everything static, with the tensors and host scalars found, in a canonical order.
Never: changes an object, but for `Heap`, which lends stand-ins for tensors and undoes what a traced path changed.

Objects are described by content; what cannot be described is described by identity, which differs between two
executions, so that an object the key cannot account for forbids a join instead of allowing a wrong one.
"""
from __future__ import annotations

import collections
import contextlib
import contextvars
import copyreg
import ctypes
import enum
import gc
import itertools
import operator
import sys
import types
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from elastic_compile.capture.symbols import as_expr
from elastic_compile.refusals import stop

ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
#: Built-in types whose objects hold more than their attributes; a class of the user's may derive from them.
WITH_CONTENT = (int, float, complex, str, bytes, bytearray, collections.deque)
BY_IDENTITY = (
    type, contextvars.ContextVar, types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType,
    types.WrapperDescriptorType, torch.SymInt, torch.SymFloat, torch.SymBool, torch.dtype, torch.layout,
    torch.memory_format, torch._ops.OpOverload, torch._ops.OpOverloadPacket, enum.Enum,
)
#: Iterators over dictionaries, which do not say where they are but by what is left.
DICT_ITERATORS = {type(iter({}.values())), type(iter({}.items())), type(iter({}.keys()))}


#: What a Python module holds that is no value of a program's.
DEFINITIONS = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)

#: As many values as a number may have for a path to be made for each.
FEW = 64


@dataclass(frozen=True)
class Slot:
    """A place in the state that holds a Python number, and how to write another value there."""

    path: tuple[Any, ...]
    value: Any
    write: Callable[[Any], None] | None


@dataclass
class State:
    """The outcome of a walk: `key` (hashable), `tensors` and `scalars` in canonical order, number `slots`; `sizes` of
    tensors (ints or expressions) and `members`, the numbers and sizes that are related to one another, by path."""

    tokens: list[Any] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    scalars: list[Any] = field(default_factory=list)
    slots: dict[tuple[Any, ...], Slot] = field(default_factory=dict)
    slot_at: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    scalar_slots: dict[tuple[Any, ...], int] = field(default_factory=dict)
    sizes: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    tensor_at: dict[tuple[Any, ...], int] = field(default_factory=dict)
    members: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    groups: dict[Any, Any] = field(default_factory=dict)
    ranges: dict[int, tuple[int, ...]] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(self.tokens)


class Rebuilt:
    """A tuple, or slice, at `path`, that is made anew in all `places` that hold it when an item gets another value."""

    def __init__(self, items: Iterable[Any], make: Callable[[list[Any]], Any], path: tuple[Any, ...]) -> None:
        self.items = list(items)
        self.make = make
        self.path = path
        self.places: list[Callable[[Any], None]] = []

    def __setitem__(self, index: int, value: Any) -> None:
        self.items[index] = value
        made = self.make(self.items)
        for write in self.places:
            write(made)


class Walker:
    """Describes objects as tokens. `describe_tensor(tensor, state, path)` gives a tensor's token; `widened` holds
    the slot paths whose numbers are run-time values of their own, `grouped` those that hang together with sizes;
    `codes` the rewritten code, whose suspended frames hold nothing but their locals; `known` maps ids of objects that
    existed before the call to their number in the heap."""

    def __init__(
        self,
        describe_tensor: Callable[[torch.Tensor, State, tuple[Any, ...]], Any],
        known: dict[int, int],
        codes: Container[types.CodeType] = (),
        widened: frozenset[tuple[Any, ...]] = frozenset(),
        grouped: frozenset[tuple[Any, ...]] = frozenset(),
    ) -> None:
        self.describe_tensor = describe_tensor
        self.known = known
        self.codes = codes
        self.widened = widened
        self.grouped = grouped
        self.state = State()
        self.seen: dict[int, int] = {}
        self.scalar_class: dict[Any, int] = {}
        self.rebuilt: dict[int, Rebuilt] = {}

    def is_grouped(self, path: tuple[Any, ...]) -> bool:
        """Whether what is at a path, met for the first time, is to be related to others."""
        return path in self.grouped and path not in self.state.members

    def number(self, value: Any, path: tuple[Any, ...], write: Callable[[Any], None] | None) -> None:
        """A Python or symbolic number that a loop may change."""
        state = self.state
        expr = as_expr(value)
        if self.is_grouped(path) and write is not None and type(value) in (int, torch.SymInt):
            state.slots[path] = Slot(path, value, write)
            state.members[path] = value
            state.tokens.append(("grouped",))
            return
        if expr is not None:
            state.slots[path] = Slot(path, value, write)
            state.slot_at[len(state.tokens)] = path
            number = self.scalar_class.setdefault(expr, len(self.scalar_class))
            if number == len(state.scalars):
                state.scalars.append(value)
            state.scalar_slots[path] = number
            known = self.range_of(value, path)
            if known:
                state.ranges[number] = known
            state.tokens.append(("scalar", type(value).__name__, number, *known))
            return
        if path in self.widened and type(value) in (int, float):
            state.slots[path] = Slot(path, value, write)
            number = len(self.scalar_class)
            self.scalar_class[("slot", path)] = number
            state.scalars.append(value)
            state.slot_at[len(state.tokens)] = path
            state.scalar_slots[path] = number
            state.tokens.append(("scalar", "SymInt" if type(value) is int else "SymFloat", number))
            return
        if type(value) in (int, float):
            state.slots[path] = Slot(path, value, write)
            state.slot_at[len(state.tokens)] = path
        state.tokens.append((type(value).__name__, repr(value) if isinstance(value, (float, complex)) else value))

    def range_of(self, value: Any, path: tuple[Any, ...]) -> tuple[int, ...]:
        """Between which two numbers a symbolic integer is, where both are known and it may be an index: paths join only
        where they know the same. What a loop carries is taken to be any number."""
        if type(value) is not torch.SymInt or path in self.widened or not value.node.expr.is_Symbol:
            return ()
        low, high = value.node.shape_env.bounds(value)
        return () if low is None or high is None or high - low >= FEW else (low, high)

    def walk(self, value: Any, path: tuple[Any, ...] = (), write: Callable[[Any], None] | None = None) -> None:
        """Append the description of `value`."""
        tokens = self.state.tokens
        kind = type(value)
        if kind in ATOMS or isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            self.number(value, path, write)
            return
        if isinstance(value, torch.Tensor):
            tokens.append(self.describe_tensor(value, self.state, path))
            if getattr(value, "__dict__", None):
                self.walk(value.__dict__, (*path, "attributes"))
            return
        if kind in (types.BuiltinFunctionType, types.MethodWrapperType) and not (
            value.__self__ is None or isinstance(value.__self__, types.ModuleType)
        ):
            tokens.append(("builtin method", value.__name__))
            self.walk(value.__self__, (*path, "self"))
            return
        if isinstance(value, BY_IDENTITY):
            self.identity(value)
            return
        if kind is torch.device:
            tokens.append(("device", str(value)))
            return
        ident = id(value)
        if ident in self.seen:
            tokens.append(("again", self.seen[ident]))
            self.held_again(self.rebuilt.get(ident), write)
            return
        self.seen[ident] = len(self.seen)
        self.state.keep.append(value)
        if ident in self.known:
            tokens.append(("known", self.known[ident]))
            return
        self.compound(value, kind, path, write)

    def identity(self, value: Any) -> None:
        self.state.keep.append(value)
        self.state.tokens.append(("is", id(value)))

    def compound(
        self, value: Any, kind: type, path: tuple[Any, ...], write: Callable[[Any], None] | None = None
    ) -> None:
        tokens = self.state.tokens
        if isinstance(value, (tuple, list)):
            tokens.append((kind.__qualname__, id(kind), len(value)))
            self.state.keep.append(kind)
            holder, items = value, list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value)
            if not isinstance(value, list):
                make = _size if kind is torch.Size else tuple if kind is tuple else getattr(kind, "_make", None)
                held = () if make is None else tuple.__iter__(value)
                holder = None if make is None else self.rebuild(value, held, make, path, write)
            self.items(items, holder, path)
            self.attributes(value, path)
        elif isinstance(value, dict):
            tokens.append(("dict", id(kind), len(value)))
            for name, item in value.items():
                self.walk(name, (*path, "key"))
                self.walk(item, (*path, name if isinstance(name, (str, int)) else repr(name)),
                          _item_writer(value, name))
            self.attributes(value, path)
        elif isinstance(value, (set, frozenset)):
            tokens.append(("set", len(value)))
            if all(type(item) in ATOMS for item in value):
                tokens.append(tuple(sorted((type(item).__name__, repr(item)) for item in value)))
            else:
                self.identity(value)
        elif kind is slice:
            parts = (value.start, value.stop, value.step)
            self.items(parts, self.rebuild(value, parts, lambda made: slice(*made), path, write), path)
        elif kind is types.MethodType:
            tokens.append("method")
            self.walk(value.__func__, (*path, "function"))
            self.walk(value.__self__, (*path, "self"))
        elif kind is types.FunctionType:
            tokens.append(("function", id(value.__code__)))
            self.state.keep.append(value.__code__)
            self.walk(value.__defaults__, (*path, "defaults"))
            self.walk(value.__kwdefaults__, (*path, "kwdefaults"))
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
                if not name.startswith("__ec"):
                    self.walk(cell, (*path, name))
        elif kind is types.CellType:
            tokens.append("cell")
            try:
                self.walk(value.cell_contents, (*path, "cell"), _cell_writer(value))
            except ValueError:
                tokens.append("empty")
        elif kind is types.GeneratorType:
            self.generator(value, path)
        elif kind is contextvars.Token:
            tokens.append(("token", id(value.var), " used " in repr(value)))
            self.state.keep.append(value.var)
            self.walk(value.old_value, (*path, "old"))
        elif isinstance(value, BaseException):
            tokens.append(("exception", id(kind)))
            self.walk(value.args, (*path, "args"))
            self.attributes(value, path)
        elif hasattr(value, "__dict__") and kind.__reduce_ex__ is object.__reduce_ex__ and not (
            _has_state_methods(kind) or isinstance(value, WITH_CONTENT)
        ):
            tokens.append(("object", id(kind)))
            self.state.keep.append(kind)
            self.attributes(value, path)
            self.slots_of(value, kind, path)
        else:
            self.reduced(value, kind, path)

    def items(self, values: Iterable[Any], holder: Any, path: tuple[Any, ...]) -> None:
        for i, item in enumerate(values):
            self.walk(item, (*path, i), None if holder is None else _item_writer(holder, i))

    def rebuild(
        self, value: Any, items: Iterable[Any], make: Callable[[list[Any]], Any], path: tuple[Any, ...],
        write: Callable[[Any], None] | None,
    ) -> Rebuilt | None:
        """What gives items of an immutable object other values; None where its place cannot hold another one."""
        if write is None:
            return None
        rebuilt = self.rebuilt[id(value)] = Rebuilt(items, make, path)
        rebuilt.places.append(write)
        return rebuilt

    def held_again(self, rebuilt: Rebuilt | None, write: Callable[[Any], None] | None) -> None:
        """Another place holds an immutable object: it gets the new one too, or its numbers stay as they are."""
        if rebuilt is None:
            return
        if write is not None:
            rebuilt.places.append(write)
            return
        for path, slot in self.state.slots.items():
            if path[: len(rebuilt.path)] == rebuilt.path:
                self.state.slots[path] = Slot(path, slot.value, None)

    def attributes(self, value: Any, path: tuple[Any, ...]) -> None:
        content = getattr(value, "__dict__", None)
        if not content:
            return
        self.state.tokens.append(("attributes", len(content)))
        for name, item in content.items():
            self.state.tokens.append(name)
            self.walk(item, (*path, name), _item_writer(content, name))

    def slots_of(self, value: Any, kind: type, path: tuple[Any, ...]) -> None:
        for name in copyreg._slotnames(kind):
            if hasattr(value, name):
                self.state.tokens.append(name)
                self.walk(getattr(value, name), (*path, name), _attribute_writer(value, name))

    def generator(self, value: types.GeneratorType, path: tuple[Any, ...]) -> None:
        frame = value.gi_frame
        if frame is None:
            self.state.tokens.append("finished")
            return
        if frame.f_code not in self.codes:
            # All that its frame holds: variables, and what the interpreter keeps of statements not yet finished.
            self.state.keep.append(frame.f_code)
            self.state.tokens.append(("native generator", id(frame.f_code), frame.f_lasti))
            held = [one for one in gc.get_referents(value) if not isinstance(one, (types.FrameType, types.CodeType))]
            self.fixed(held, (*path, "held"))
            return
        self.state.keep.append(frame.f_code)
        self.state.tokens.append(("generator", id(frame.f_code), frame.f_lasti))
        for name, item in sorted(frame.f_locals.items()):
            if name.startswith("__ec_n") or name in ("__ec", "__ec_s"):
                continue
            self.state.tokens.append(name)
            self.walk(item, (*path, name), local_writer(frame, name))
        self.walk(value.gi_yieldfrom, (*path, "from"))

    def reduced(self, value: Any, kind: type, path: tuple[Any, ...]) -> None:
        """Objects that describe themselves for copying: iterators, deques, user classes with slots."""
        if kind in DICT_ITERATORS:
            held = next((one for one in gc.get_referents(value) if id(one) in self.known), None)
            if held is not None:
                self.state.tokens.append((kind.__name__, operator.length_hint(value)))
                self.walk(held, (*path, "of"))
                return
        try:
            parts = value.__reduce_ex__(4)
        except Exception:
            self.identity(value)
            return
        if isinstance(parts, str):
            self.identity(value)
            return
        function, arguments, *rest = parts
        self.state.tokens.append(("reduced", id(kind), len(rest)))
        self.state.keep.extend((kind, parts))
        self.walk(function, (*path, "function"))
        self.fixed(arguments, (*path, "arguments"))
        if rest and rest[0] is not None:
            self.fixed(rest[0], (*path, "state"))
        for extra in rest[1:3]:
            if extra is not None:
                self.fixed(list(extra), (*path, "items"))

    def fixed(self, value: Any, path: tuple[Any, ...]) -> None:
        """Walk a description's parts: nothing in it can be written, so its numbers cannot be widened."""
        before = set(self.state.slots)
        self.walk(value, ("fixed", *path))
        for added in set(self.state.slots) - before:
            if as_expr(self.state.slots[added].value) is None:
                del self.state.slots[added]


def changed_context(before: contextvars.Context) -> list[tuple[contextvars.ContextVar[Any], Any]]:
    """Context variables whose value is not, by identity, what it was; absent ones are not counted."""
    return [(var, now) for var, now in contextvars.copy_context().items() if before.get(var, _ABSENT) is not now]


def _has_state_methods(kind: type) -> bool:
    return any(
        "__getstate__" in vars(base) or "__reduce__" in vars(base) for base in kind.__mro__[:-1]
    )


def _size(numbers: list[Any]) -> torch.Size:
    """A `torch.Size`, which holds numbers only: what stands for a number of a later call has no place in it."""
    if not all(isinstance(number, (int, torch.SymInt)) for number in numbers):
        raise stop("EC152")
    return torch.Size(numbers)


def _item_writer(container: Any, key: Any) -> Callable[[Any], None]:
    return lambda value: container.__setitem__(key, value)


def _attribute_writer(target: Any, name: str) -> Callable[[Any], None]:
    return lambda value: setattr(target, name, value)


def local_writer(frame: types.FrameType, name: str) -> Callable[[Any], None]:
    """What gives a local variable of a frame another value."""

    def write(value: Any) -> None:
        frame.f_locals[name] = value
        if sys.version_info < (3, 13):
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))

    return write


def _cell_writer(cell: types.CellType) -> Callable[[Any], None]:
    return lambda value: setattr(cell, "cell_contents", value)


# ------------------------------------------------------------------------------------------ heap
class Heap:
    """Mutable objects that exist before the call (module attributes, closures, argument containers).

    They are compared by identity of their contents with how they were; what a traced path changed is part of
    its state key, is undone before the next path, and says at the end of the call which state survives it.
    """

    LIMIT = 200_000

    def __init__(self, roots: Iterable[tuple[str, Any]]) -> None:
        self.number: dict[int, int] = {}
        self.objects: list[Any] = []
        self.names: list[str] = []
        self.saved: list[tuple[Any, ...]] = []
        self.tensors: dict[int, torch.Tensor] = {}
        self.tensor_names: dict[int, str] = {}
        self.stretches: list[Stretch] | None = None
        self.iterators: dict[int, Any] = {}
        self.namespaces: dict[type | types.ModuleType, dict[str, Any]] = {}
        for name, root in roots:
            self.watch(root, name)
        self.original = list(self.saved)

    def watch(self, root: Any, name: str) -> None:
        """Add `root` and everything mutable that it reaches."""
        stack = [(root, name)]
        self.stretches = None
        while stack:
            if len(self.objects) > self.LIMIT:
                raise stop("EC154", count=self.LIMIT)
            value, label = stack.pop()
            kind = type(value)
            if kind in ATOMS or isinstance(value, (torch.device, *BY_IDENTITY)) or id(value) in self.number:
                continue
            if isinstance(value, torch.Tensor):
                self.tensors.setdefault(id(value), value)
                self.tensor_names.setdefault(id(value), label)
                stack.extend((item, f"{label}.{name}") for name, item in vars(value).items())
                continue
            if hasattr(kind, "__next__"):
                self.iterators[id(value)] = value
            for base in kind.__mro__:
                if base.__module__.partition(".")[0] not in LIBRARIES and base not in self.namespaces:
                    self.namespaces[base] = dict(vars(base))
            children = _children(value, label)
            if children is None:
                continue
            self.number[id(value)] = len(self.objects)
            self.objects.append(value)
            self.names.append(label)
            self.saved.append(content_of(value))
            stack.extend(reversed(children))

    def watch_function(self, fn: types.FunctionType) -> None:
        """Add what a function reaches besides its arguments: its closure, its defaults, and the global containers
        and objects that it names. A library's function, as a decorator makes one in every call, only passes on to the
        program's, which are met themselves."""
        if fn.__globals__.get("__name__", "").partition(".")[0] in LIBRARIES:
            return
        self.watch(fn, fn.__qualname__)
        self.watch((fn.__defaults__, fn.__kwdefaults__), f"{fn.__qualname__} defaults")
        for name in fn.__code__.co_names:
            value = fn.__globals__.get(name)
            if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] not in LIBRARIES and (
                value not in self.namespaces
            ):
                self.namespaces[value] = dict(vars(value))
            if isinstance(value, (dict, list, set)) or (
                hasattr(value, "__dict__") and not isinstance(value, (*BY_IDENTITY, types.FunctionType))
                and type(value).__module__.partition(".")[0] not in ("torch", "logging", "typing")
            ):
                self.watch(value, name)
        self.original.extend(self.saved[len(self.original):])

    def install(self, wrappers: dict[int, torch.Tensor]) -> None:
        """Put `wrappers` (by id of the original tensor) where the tensors are; that is the content to return to."""
        if not wrappers:
            return
        for i, value in enumerate(self.objects):
            original = self.original[i]
            if any(_tensor_id(item) in wrappers for item in original):
                self.stretches = None
                current = self.saved[i]
                self.saved[i] = tuple(_stand_in(o, c, wrappers) for o, c in zip(original, current))
                if not isinstance(value, tuple):
                    put_back(value, self.saved[i])

    def changed_names(self) -> list[tuple[type | types.ModuleType, str]]:
        """Attributes of classes and Python modules that are not what they were, by owner and name. What a module
        imports or defines meanwhile is not state."""
        return [
            (owner, name) for owner, before in self.namespaces.items() for name in {**before, **vars(owner)}
            if vars(owner).get(name, _ABSENT) is not before.get(name, _ABSENT) and not name.startswith("__")
            and not (isinstance(owner, types.ModuleType) and isinstance(vars(owner).get(name), DEFINITIONS))
        ]

    def reset(self) -> None:
        """Undo what a path changed."""
        for owner, name in self.changed_names():
            if name in self.namespaces[owner]:
                setattr(owner, name, self.namespaces[owner][name])
            else:
                delattr(owner, name)
        for i in self.changed():
            put_back(self.objects[i], self.saved[i])

    @contextlib.contextmanager
    def renaming(self) -> Iterator[None]:
        """Within, numbers get other names: an object that was unchanged before is unchanged after."""
        changed = set(self.changed())
        yield
        for number in self.changed():
            if number not in changed:
                self.stretches = None
                self.saved[number] = content_of(self.objects[number])

    def uninstall(self) -> None:
        """Give every object its original content back."""
        for value, content, saved in zip(self.objects, self.original, self.saved):
            if not _same(content_of(value), content) and not isinstance(value, tuple):
                put_back(value, content)
        self.saved = list(self.original)
        self.stretches = None

    def differences(self, number: int) -> list[tuple[Any, Any, Any]]:
        """(key, before, now) for each item of object `number` that changed; None for an absent side."""
        now, before = content_of(self.objects[number]), self.saved[number]
        if isinstance(self.objects[number], dict):
            half, size = len(before) // 2, len(now) // 2
            was = dict(zip(before[:half], before[half:]))
            has = dict(zip(now[:size], now[size:]))
            return [(k, was.get(k), has.get(k)) for k in {**was, **has}
                    if k not in was or k not in has or was[k] is not has[k]]
        longest = max(len(now), len(before))
        pad = (None,) * longest
        return [(i, a, b) for i, (a, b) in enumerate(zip((before + pad)[:longest], (now + pad)[:longest]))
                if a is not b or i >= min(len(now), len(before))]

    def changed(self) -> list[int]:
        """Numbers of the objects whose content is not, by identity, what it was."""
        if self.stretches is None:
            holds = [(i, o) for i, o in enumerate(self.objects) if isinstance(o, (dict, list, set, types.CellType))]
            self.empty = [(i, o) for i, o in holds if not self.saved[i] and not isinstance(o, types.CellType)]
            empty = {i for i, _ in self.empty}
            full = [(i, o) for i, o in holds if i not in empty]
            self.stretches = [Stretch(full[at:at + STRETCH]) for at in range(0, len(full), STRETCH)]
            kinds = (dict, list, set, collections.OrderedDict)
            self.empty_plain = [o for _, o in self.empty if type(o) in kinds]
            self.empty_others = [o for _, o in self.empty if type(o) not in kinds]
        changed = [i for stretch in self.stretches for i in stretch.changed(self.saved)]
        if any(self.empty_plain) or any(map(len, self.empty_others)):
            changed = sorted(changed + [i for i, o in self.empty if len(o)])
        return changed


#: Of how many objects it is seen at a glance whether any of them has changed.
STRETCH = 128


class Stretch:
    """Some of a heap's objects, by number, whose content is compared at once."""

    def __init__(self, members: list[tuple[int, Any]]) -> None:
        self.members = members
        self.objects = [value for _, value in members]
        self.dicts = [value for value in self.objects if isinstance(value, dict)]
        self.plain = all(type(value) in (dict, list, set, types.CellType) for value in self.objects)
        self.unchanged: Any = None

    def changed(self, saved: Sequence[tuple[Any, ...]]) -> list[int]:
        """Numbers of those whose content is not, by identity, as in `saved`, which must be the same at each call."""
        now = self.glance() if self.plain else None
        if now is not None and now == self.unchanged:
            return []
        changed = [i for i, value in self.members if not _unchanged(value, saved[i])]
        if not changed:
            self.unchanged = now
        return changed

    def glance(self) -> tuple[bytes, bytes]:
        """Which objects these hold: those that dictionaries have for keys, and all the others."""
        return identities(itertools.chain.from_iterable(self.dicts)), identities(gc.get_referents(*self.objects))


def identities(objects: Iterable[Any]) -> bytes:
    """The identities of objects, which tell them apart as long as they live: the items of a tuple as they lie in
    memory."""
    held = tuple(objects)
    return ctypes.string_at(id(held) + tuple.__basicsize__, len(held) * tuple.__itemsize__)


def _tensor_id(item: Any) -> int:
    """The id of a tensor, or of the tensor that a weak reference (as recurrent layers keep of theirs) points to."""
    return id(item() if type(item) is weakref.ref else item)


def _stand_in(original: Any, current: Any, wrappers: dict[int, torch.Tensor]) -> Any:
    wrapper = wrappers.get(_tensor_id(original))
    if wrapper is None:
        return current
    return weakref.ref(wrapper) if type(original) is weakref.ref else wrapper


_ABSENT = object()
#: Packages whose classes are not looked into: their attributes are not the user's.
LIBRARIES = frozenset({
    "torch", "builtins", "typing", "abc", "collections", "numpy", "functools", "itertools", "enum", "dataclasses",
    "types", "weakref", "threading", "logging", "contextlib", "re", "_thread", "elastic_compile",
})


def _children(value: Any, label: str) -> list[tuple[Any, str]] | None:
    """What a mutable object holds, with names; None for what cannot change or cannot be looked into."""
    if isinstance(value, dict):
        inner = [(v, f"{label}[{k!r}]") for k, v in dict.items(value)]
        if getattr(value, "__dict__", None):
            inner.append((value.__dict__, label))
        return inner
    if isinstance(value, (list, tuple)):
        return [(v, f"{label}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, set):
        return [(v, f"{label}{{}}") for v in value]
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or ())
        own = ((cell, f"{label}.{name}") for name, cell in cells if not name.startswith("__ec"))
        return [(value.__dict__, label), *own]
    if isinstance(value, types.CellType):
        try:
            return [(value.cell_contents, label)]
        except ValueError:
            return []
    if isinstance(value, types.MethodType):
        return [(value.__self__, label), (value.__func__, label)]
    if hasattr(value, "__dict__") and isinstance(value.__dict__, dict):
        shared = [
            (item, f"{label}.{name}")
            for kind in type(value).__mro__ if kind.__module__.partition(".")[0] not in ("torch", "builtins", "typing")
            for name, item in vars(kind).items() if type(item) in (dict, list, set) and not name.startswith("__")
        ]
        return [(value.__dict__, label), *shared]
    return None


def attributes(tensor: torch.Tensor) -> dict[str, int]:
    """The attributes that a program gave a tensor, by identity."""
    return {name: id(value) for name, value in vars(tensor).items()}


def content_of(value: Any) -> tuple[Any, ...]:
    """What a heap object holds: a dict's keys then values, a list's or set's items, a cell's content."""
    if isinstance(value, dict):
        return (*dict.keys(value), *dict.values(value))
    if isinstance(value, (list, set)):
        return tuple(value)
    if isinstance(value, types.CellType):
        try:
            return (value.cell_contents,)
        except ValueError:
            return ()
    return ()


def _same(now: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _unchanged(value: Any, before: tuple[Any, ...]) -> bool:
    """`_same(content_of(value), before)`, quick for dictionaries."""
    if type(value) is dict:
        half = len(value)
        return 2 * half == len(before) and all(map(operator.is_, value, before)) and all(
            map(operator.is_, value.values(), before[half:]))
    return _same(content_of(value), before)


def put_back(value: Any, content: tuple[Any, ...]) -> None:
    """Give a heap object the content that `content_of` described."""
    if isinstance(value, dict):
        half = len(content) // 2
        dict.clear(value)
        for key, item in zip(content[:half], content[half:]):
            dict.__setitem__(value, key, item)
    elif isinstance(value, list):
        value[:] = content
    elif isinstance(value, set):
        value.clear()
        value.update(content)
    elif isinstance(value, types.CellType):
        if content:
            value.cell_contents = content[0]
        else:
            del value.cell_contents

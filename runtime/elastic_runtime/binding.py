"""Between a Python call and the flat values of a program: arguments in, results out.

In: an entry's parameters or a return's tree, and where each value lives in the register list.
Out: binders that check an argument and store its values, and builders that make a result from them.
Never: copies a tensor that already has the layout that engines need, imports the library that an argument
comes from, or accepts a value that the program was not compiled for.
"""
from __future__ import annotations

import difflib
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from elastic_runtime.check import describe
from elastic_runtime.errors import InputError, shorten
from elastic_runtime.schema import (
    ConstLeaf,
    Entry,
    FloatLeaf,
    MapNode,
    Parameter,
    RecordNode,
    ScalarType,
    SequenceNode,
    TensorType,
    Tree,
    ValueLeaf,
    ValueType,
    decode_float,
    encode_float,
)

Registers = list[Any]
Binder = Callable[[Any, Registers, dict[str, tuple[int, str]]], None]
"""Checks a value and stores its leaves; the dict holds the sizes that dimension names took in this call."""

Builder = Callable[[Registers], Any]

_READY = 0x101  # numpy's flag bits C_CONTIGUOUS and ALIGNED
_MISSING = object()
_COMPILE_FOR_IT = "The program was compiled for its example calls: add an example call of this form and compile again."


def tell(value: object) -> str:
    """What a value is, for a message: never its elements."""
    if isinstance(value, np.ndarray):
        return describe(TensorType(str(value.dtype), value.shape))
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return repr(shorten(value, 40))
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with keys {shorten(list(value), 60)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------------------ arguments
def to_array(value: object, path: str) -> np.ndarray:
    """`value` as an array of its own memory where possible. Raises `InputError`."""
    kind = type(value)
    try:
        if hasattr(kind, "__array__"):
            return np.asarray(value)
        if hasattr(kind, "__dlpack__"):
            return np.from_dlpack(value)
    except Exception as error:
        raise InputError(path, "unreadable", f"a {kind.__name__} ({shorten(str(error))})", "a tensor in host memory",
                         "Detach it from the gradient graph, move it to the CPU, use a dtype of NumPy's.") from error
    raise InputError(path, "not-a-tensor", tell(value), "a NumPy array, or an object with __array__ or __dlpack__")


def _tensor(kind: TensorType, register: int, path: str) -> Binder:
    dtype, shape, rank = np.dtype(kind.dtype), kind.shape, len(kind.shape)
    named = any(isinstance(size, str) for size in shape)

    def refuse(value: np.ndarray) -> InputError:
        rule = "dtype" if value.dtype != dtype else "rank" if value.ndim != rank else "shape"
        hint = f"Convert it, for example with .astype('{dtype}')." if rule == "dtype" else _COMPILE_FOR_IT
        return InputError(path, rule, tell(value), describe(kind), hint)

    def sizes(value: np.ndarray, dims: dict[str, tuple[int, str]]) -> None:
        for axis, (given, wanted) in enumerate(zip(value.shape, shape, strict=True)):
            if given == wanted:
                continue
            if not isinstance(wanted, str):
                raise refuse(value)
            size, where = dims.setdefault(wanted, (given, path))
            if size != given:
                raise InputError(path, "shape", f"{tell(value)}, where {wanted} is {given}",
                                 f"{describe(kind)}, where {wanted} is {size}, as in {where}",
                                 f"Dimension {axis} must have the same size in both.")

    def bind(value, registers, dims):
        if type(value) is not np.ndarray:
            value = to_array(value, path)
        if value.dtype != dtype:
            raise refuse(value)
        if value.shape != shape:
            if not named or value.ndim != rank:
                raise refuse(value)
            sizes(value, dims)
        if value.flags.num & _READY != _READY:
            value = np.require(value, requirements="CA") if rank else value.copy()
        registers[register] = value

    return bind


def _scalar(kind: ScalarType, register: int, path: str) -> Binder:
    convert = {"bool": bool, "int": int, "float": float}[kind.kind]
    accepted = {"bool": (bool, np.bool_), "int": (int, np.integer), "float": (float, np.floating)}[kind.kind]

    def bind(value, registers, dims):
        if not isinstance(value, accepted) or (convert is int and isinstance(value, bool)):
            raise InputError(path, "scalar", tell(value), f"a Python {kind.kind}",
                             f"Convert it with {kind.kind}(...), or compile with an example of the other kind.")
        registers[register] = convert(value)

    return bind


def _equals(wanted: object) -> Callable[[object], bool]:
    """Whether a value is `wanted` itself: equal, of its kind (True is not 1), with the sign of a zero."""
    if isinstance(wanted, bool) or wanted is None:
        return lambda value: value is wanted
    if isinstance(wanted, float):
        text = encode_float(wanted)
        return lambda value: isinstance(value, float) and encode_float(float(value)) == text
    if isinstance(wanted, int):
        return lambda value: (isinstance(value, (int, np.integer)) and not isinstance(value, bool)
                              and value == wanted)
    return lambda value: isinstance(value, str) and value == wanted


def _constant(wanted: object, path: str) -> Binder:
    same = _equals(wanted)

    def bind(value, registers, dims):
        if not same(value):
            raise InputError(path, "constant", tell(value), f"{wanted!r}, the value compiled into the program",
                             _COMPILE_FOR_IT)

    return bind


def _sequence(tree: SequenceNode, binders: list[Binder], path: str) -> Binder:
    kind, count = {"tuple": tuple, "list": list}[tree.kind], len(binders)

    def bind(value, registers, dims):
        if not isinstance(value, kind) or len(value) != count:
            raise InputError(path, "structure", tell(value), f"{tree.kind} of {count}", _COMPILE_FOR_IT)
        for bind_item, item in zip(binders, value, strict=True):
            bind_item(item, registers, dims)

    return bind


def _map(tree: MapNode, binders: list[Binder], path: str) -> Binder:
    def bind(value, registers, dims):
        if not isinstance(value, Mapping) or tuple(value) != tree.keys:
            raise InputError(path, "structure", tell(value), f"a dict with the keys {list(tree.keys)}, in this order",
                             _COMPILE_FOR_IT)
        for bind_item, item in zip(binders, value.values(), strict=True):
            bind_item(item, registers, dims)

    return bind


def _record(tree: RecordNode, binders: list[Binder], path: str) -> Binder:
    fields = tree.fields
    expected = f"{tree.name}({', '.join(fields)}), or a dict with these keys"

    def items(value: object) -> Sequence[object]:
        if tree.kind == "namedtuple" and isinstance(value, tuple):
            return value if getattr(value, "_fields", fields) == fields and len(value) == len(fields) else ()
        if isinstance(value, Mapping):
            if not set(value) <= set(fields):
                return ()
            return [value[name] if name in value else getattr(value, name, _MISSING) for name in fields]
        return [getattr(value, name, _MISSING) for name in fields]

    def bind(value, registers, dims):
        given = items(value)
        if len(given) != len(fields) or any(item is _MISSING for item in given):
            raise InputError(path, "structure", tell(value), expected, _COMPILE_FOR_IT)
        for bind_item, item in zip(binders, given, strict=True):
            bind_item(item, registers, dims)

    return bind


def binder(tree: Tree, path: str, values: Sequence[ValueType], place: Callable[[int], int]) -> Binder:
    """A binder of `tree`; `values` are the program's types, `place` maps a value to its register."""
    if isinstance(tree, ValueLeaf):
        kind = values[tree.id]
        return (_tensor if isinstance(kind, TensorType) else _scalar)(kind, place(tree.id), path)
    if isinstance(tree, ConstLeaf):
        return _constant(tree.v, path)
    if isinstance(tree, FloatLeaf):
        return _constant(decode_float(tree.v), path)
    if isinstance(tree, SequenceNode):
        items = [binder(item, f"{path}[{i}]", values, place) for i, item in enumerate(tree.items)]
        return _sequence(tree, items, path)
    if isinstance(tree, MapNode):
        items = [binder(item, f"{path}[{key!r}]", values, place)
                 for key, item in zip(tree.keys, tree.items, strict=True)]
        return _map(tree, items, path)
    items = [binder(item, f"{path}.{name}", values, place)
             for name, item in zip(tree.fields, tree.items, strict=True)]
    return _record(tree, items, path)


class Signature:
    """One entry as something to call: binds arguments to registers with Python's rules."""

    def __init__(self, entry: Entry, values: Sequence[ValueType], place: Callable[[int], int]) -> None:
        self.entry = entry
        self.binders = {param.name: binder(param.tree, param.name, values, place) for param in entry.params}
        self.by_kind: dict[str, list[Parameter]] = {}
        for param in entry.params:
            self.by_kind.setdefault(param.kind, []).append(param)
        self.positional = self.by_kind.get("positional", []) + self.by_kind.get("standard", [])
        self.named = {p.name: p for p in self.by_kind.get("standard", []) + self.by_kind.get("keyword", [])}
        self.varargs, self.varkw = (next(iter(self.by_kind.get(kind, ())), None) for kind in ("varargs", "varkw"))
        self.plain = tuple(enumerate(self.binders[p.name] for p in self.positional))
        self.plain_count = len(entry.params) if len(self.plain) == len(entry.params) else -1
        self.flat = tuple((number, binder(ValueLeaf(value), f"{entry.name} input {number}", values, place))
                          for number, value in enumerate(entry.inputs))

    def bind(self, args: tuple, kwargs: dict[str, object], registers: Registers) -> None:
        """Check the arguments and store their values. Raises `InputError`."""
        dims: dict[str, tuple[int, str]] = {}
        if len(args) == self.plain_count and not kwargs:
            for index, bind in self.plain:
                bind(args[index], registers, dims)
            return
        for name, value in self.arguments(args, kwargs).items():
            self.binders[name](value, registers, dims)

    def bind_flat(self, given: Sequence[object], registers: Registers) -> None:
        """Check and store the entry's inputs given one by one, without their structure. Raises `InputError`."""
        if len(given) != len(self.flat):
            raise InputError(self.entry.name, "input-count", len(given), len(self.flat))
        dims: dict[str, tuple[int, str]] = {}
        for number, bind in self.flat:
            bind(given[number], registers, dims)

    def arguments(self, args: tuple, kwargs: Mapping[str, object]) -> dict[str, object]:
        """The arguments by parameter, without those left to their default. Raises `InputError`."""
        entry, given = self.entry, {}
        if len(args) > len(self.positional) and self.varargs is None:
            raise InputError(entry.name, "extra-argument", f"{len(args)} positional arguments",
                             f"at most {len(self.positional)}", f"It takes {signature_text(entry)}.")
        for param, value in zip(self.positional, args, strict=False):
            given[param.name] = value
        if self.varargs is not None:
            given[self.varargs.name] = args[len(self.positional):]
        rest = {}
        for name, value in kwargs.items():
            if name not in self.named:
                rest[name] = value
            elif name in given:
                raise InputError(name, "repeated-argument", "by position and by name", "once")
            else:
                given[name] = value
        if self.varkw is not None:
            given[self.varkw.name] = rest
        elif rest:
            name = next(iter(rest))
            near = difflib.get_close_matches(name, self.named, 1)
            raise InputError(name, "unknown-argument", f"an argument named {name!r}", signature_text(entry),
                             f"Did you mean {near[0]!r}?" if near else "")
        for param in entry.params:
            if param.name not in given and not param.default:
                raise InputError(param.name, "missing-argument", "nothing", tree_text(param.tree),
                                 f"It takes {signature_text(entry)}.")
        return given


def tree_text(tree: Tree) -> str:
    """The outline of a tree for a message."""
    if isinstance(tree, ValueLeaf):
        return "a value"
    if isinstance(tree, (ConstLeaf, FloatLeaf)):
        return repr(tree.v)
    return f"a {tree.kind}" if not isinstance(tree, MapNode) else f"a dict with keys {list(tree.keys)}"


def signature_text(entry: Entry) -> str:
    """The entry's signature as Python writes it, without annotations."""
    parts: list[str] = []
    last = ""
    for param in entry.params:
        if last == "positional" and param.kind != "positional":
            parts.append("/")
        if param.kind == "keyword" and last not in ("keyword", "varargs"):
            parts.append("*")
        star = {"varargs": "*", "varkw": "**"}.get(param.kind, "")
        parts.append(f"{star}{param.name}" + ("=..." if param.default else ""))
        last = param.kind
    if last == "positional":
        parts.append("/")
    return f"{entry.name}({', '.join(parts)})"


# -------------------------------------------------------------------------------------------------- results
def builder(tree: Tree, place: Callable[[int], int], records: dict[tuple[str, ...], type]) -> Builder:
    """What makes the result of `tree` from the registers. `records` keeps one type per namedtuple."""
    if isinstance(tree, ValueLeaf):
        register = place(tree.id)
        return lambda registers: registers[register]
    if isinstance(tree, (ConstLeaf, FloatLeaf)):
        constant = decode_float(tree.v) if isinstance(tree, FloatLeaf) else tree.v
        return lambda registers: constant
    if isinstance(tree, MapNode) or tree.kind == "dataclass":
        keys = tree.keys if isinstance(tree, MapNode) else tree.fields
        return _filled(dict.fromkeys(keys), keys, tree.items, place, records)
    items = _filled([None] * len(tree.items), range(len(tree.items)), tree.items, place, records)
    if isinstance(tree, RecordNode):
        key = (tree.name, *tree.fields)
        kind = records.setdefault(key, records.get(key) or namedtuple(tree.name, tree.fields))
        return lambda registers: kind(*items(registers))
    if tree.kind == "list":
        return items
    return lambda registers: tuple(items(registers))


def _filled(empty: dict | list, keys: Sequence[Any], trees: Sequence[Tree], place: Callable[[int], int],
            records: dict[tuple[str, ...], type]) -> Builder:
    """What copies `empty`, which holds all constants by then, and sets what a call computed."""
    values, nested = [], []
    for key, tree in zip(keys, trees, strict=True):
        if isinstance(tree, ValueLeaf):
            values.append((key, place(tree.id)))
        elif isinstance(tree, (ConstLeaf, FloatLeaf)):
            empty[key] = builder(tree, place, records)([])
        else:
            nested.append((key, builder(tree, place, records)))

    def build(registers):
        made = empty.copy()
        for key, register in values:
            made[key] = registers[register]
        for key, item in nested:
            made[key] = item(registers)
        return made

    return build

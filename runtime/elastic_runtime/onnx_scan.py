"""What an ONNX model may hold before ONNX Runtime sees it.

In: the bytes of a serialised ModelProto, and the names of the weights that the bundle's store gives it.
Out: nothing; a model that could reach outside those bytes, or that is malformed, raises `BundleError`.
Never: resolves a path, decodes tensor data, or needs the onnx package.

The walk reads the protobuf wire format (protobuf.dev, "Encoding") against the field numbers of onnx.proto
(ONNX IR version 13). It is stricter than a protobuf parser, so that both read the same model: fields unknown
to it, groups, repetitions of a singular field and wire types that a parser would skip are refused.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator

from elastic_runtime import wire
from elastic_runtime.errors import BundleError

SENTINEL = "elastic-weights"
"""The only `location` that an external tensor may name: its data come from the store, never from a file."""

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator domains that ONNX Runtime itself implements; others need a function inside the model."""

REFUSED_OPERATORS = frozenset({("com.microsoft", "EPContext")})
"""Operators of those domains that open files or libraries by name."""

MAX_DEPTH = 64
MAX_FIELDS = 5_000_000
MAX_TEXT = 4096

# message -> field number -> (field name, what it holds, repeated). A holding of "int" or "text" is read,
# a message's name is walked, "skip" is stepped over (whatever its wire type), "refuse" ends the scan.
_ONE, _MANY = False, True
_SKIP = ("", "skip", _MANY)


def _message(skip: tuple[int, ...] = (), **fields: tuple[int, str, bool]) -> dict[int, tuple[str, str, bool]]:
    return dict.fromkeys(skip, _SKIP) | {
        number: (name, holds, repeated) for name, (number, holds, repeated) in fields.items()}


_MESSAGES = {
    "model": _message(skip=(1, 2, 3, 4, 5, 6, 8, 14), graph=(7, "graph", _ONE),
                      functions=(25, "function", _MANY), training_info=(20, "refuse", _MANY),
                      configuration=(26, "refuse", _MANY)),
    "graph": _message(skip=(2, 10, 14, 16), node=(1, "node", _MANY), initializer=(5, "tensor", _MANY),
                      sparse_initializer=(15, "sparse", _MANY), input=(11, "value", _MANY),
                      output=(12, "value", _MANY), value_info=(13, "value", _MANY)),
    "function": _message(skip=(4, 5, 6, 8, 9, 14), name=(1, "text", _ONE), domain=(10, "text", _ONE),
                         overload=(13, "text", _ONE), node=(7, "node", _MANY),
                         attribute_proto=(11, "attribute", _MANY), value_info=(12, "value", _MANY)),
    "node": _message(skip=(1, 2, 3, 6, 9), op_type=(4, "text", _ONE), domain=(7, "text", _ONE),
                     overload=(8, "text", _ONE), attribute=(5, "attribute", _MANY),
                     device_configurations=(10, "refuse", _MANY)),
    "attribute": _message(skip=(1, 2, 3, 4, 7, 8, 9, 13, 20, 21), t=(5, "tensor", _ONE), g=(6, "graph", _ONE),
                          sparse_tensor=(22, "sparse", _ONE), tp=(14, "type", _ONE),
                          tensors=(10, "tensor", _MANY), graphs=(11, "graph", _MANY),
                          sparse_tensors=(23, "sparse", _MANY), type_protos=(15, "type", _MANY)),
    "tensor": _message(skip=(1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 16), segment=(3, "refuse", _ONE),
                       name=(8, "text", _ONE), external_data=(13, "entry", _MANY),
                       data_location=(14, "int", _ONE)),
    "sparse": _message(skip=(3,), values=(1, "tensor", _ONE), indices=(2, "tensor", _ONE)),
    "entry": _message(key=(1, "text", _ONE), value=(2, "text", _ONE)),
    "value": _message(skip=(1, 3, 4), type=(2, "type", _ONE)),
    "type": _message(skip=(1, 6, 8), sequence_type=(4, "sequence", _ONE), map_type=(5, "map", _ONE),
                     optional_type=(9, "sequence", _ONE), opaque_type=(7, "refuse", _ONE)),
    "sequence": _message(elem_type=(1, "type", _ONE)),
    "map": _message(skip=(1,), value_type=(2, "type", _ONE)),
}


def scan(model: bytes | memoryview, allowed: Collection[str], file: str = "model.onnx") -> None:
    """Refuse `model` unless it is self-contained but for the weights named in `allowed`.

    External data may stand only in an initializer of the main graph whose name is in `allowed` and whose
    location is `SENTINEL`. Raises `BundleError` naming `file` and one of the rules "onnx-malformed",
    "onnx-depth", "onnx-size", "onnx-field", "onnx-external-data", "onnx-domain", "onnx-operator".
    """
    _Scan(frozenset(allowed), file).run(memoryview(model).cast("B"))


class _Scan:
    def __init__(self, allowed: frozenset[str], file: str) -> None:
        self.allowed, self.file = allowed, file
        self.fields = 0
        self.called: dict[tuple[str, str], None] = {}
        self.defined: set[tuple[str, str]] = set()
        self.external: set[str] = set()

    def refuse(self, rule: str, given: object, expected: object) -> BundleError:
        return BundleError(self.file, rule, given, expected)

    def run(self, model: memoryview) -> None:
        if "graph" not in self.walk("model", model, 0, ()):
            raise self.refuse("onnx-malformed", "a model without a graph", "a ModelProto with a graph")
        for domain, operator in self.called:
            if (domain, operator) in REFUSED_OPERATORS:
                raise self.refuse("onnx-operator", f"{domain}::{operator}", "operators that open no files")
            if domain not in DOMAINS and (domain, operator) not in self.defined:
                raise self.refuse("onnx-domain", f"{domain}::{operator}",
                                  f"a domain of {sorted(DOMAINS)} or a function that the model defines")

    def walk(self, kind: str, view: memoryview, depth: int, path: tuple[str, ...]) -> dict[str, object]:
        """Check one message and those inside it; returns what it read, by field name."""
        if depth > MAX_DEPTH:
            raise self.refuse("onnx-depth", f"more than {MAX_DEPTH} messages inside each other", f"<= {MAX_DEPTH}")
        known, read = _MESSAGES[kind], {}
        for number, kind_on_wire, value, _, _ in self.wire_fields(view):
            if number not in known:
                raise self.refuse("onnx-field", f"field {number} in a {kind}", f"one of {sorted(known)}")
            name, holds, repeated = known[number]
            if holds == "skip":
                continue
            if holds == "refuse":
                raise self.refuse("onnx-field", f"{name} in a {kind}", "none")
            if kind_on_wire != (wire.VARINT if holds == "int" else wire.LEN):
                raise self.refuse("onnx-malformed", f"wire type {kind_on_wire} for {kind}.{name}",
                                  "the type of the field")
            if not repeated and name in read:
                raise self.refuse("onnx-field", f"{name} twice in a {kind}", "once")
            if holds == "text":
                value = self.text(value)
            elif holds != "int":
                value = self.walk(holds, value, depth + 1, (*path, f"{kind}.{name}"))
            if repeated and holds != "entry":
                read[name] = True
            elif repeated:
                read.setdefault(name, []).append(value)
            else:
                read[name] = value
        if kind == "tensor":
            self.check_tensor(read, path)
        elif kind == "node":
            self.called[read.get("domain", ""), read.get("op_type", "")] = None
        elif kind == "function":
            self.check_function(read.get("domain", ""), read.get("name", ""))
        return read

    def check_function(self, domain: str, name: str) -> None:
        if domain in DOMAINS:
            raise self.refuse("onnx-domain", f"a function in domain {domain!r}", "a domain of the model's own")
        self.defined.add((domain, name))

    def check_tensor(self, read: dict[str, object], path: tuple[str, ...]) -> None:
        entries, location = read.get("external_data", []), read.get("data_location", 0)
        if not entries and not location:
            return
        name = read.get("name", "")
        keys = [entry.get("key", "") for entry in entries]
        given = {entry.get("key", ""): entry.get("value", "") for entry in entries}
        if path != ("model.graph", "graph.initializer"):
            problem = f"external data in {'/'.join(path[1:])}"
        elif location != 1 or len(keys) != len(set(keys)) or set(keys) - {"location", "offset", "length"}:
            problem = f"data_location {location} with keys {keys}"
        elif given.get("location") != SENTINEL:
            problem = f"location {given.get('location')!r} of {name!r}"
        elif name not in self.allowed or name in self.external:
            problem = f"{name!r} " + ("twice" if name in self.external else "which the region does not declare")
        else:
            self.external.add(name)
            return
        raise self.refuse("onnx-external-data", problem,
                          f"initializers of the main graph that are weights of the region, at {SENTINEL!r}")

    def text(self, value: memoryview) -> str:
        if len(value) > MAX_TEXT:
            raise self.refuse("onnx-size", f"a name of {len(value)} bytes", f"<= {MAX_TEXT}")
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse("onnx-malformed", "a name that is not UTF-8", "UTF-8") from None

    def wire_fields(self, view: memoryview) -> Iterator[wire.Field]:
        try:
            for field in wire.fields(view):
                self.fields += 1
                if self.fields > MAX_FIELDS:
                    raise self.refuse("onnx-size", f"more than {MAX_FIELDS} fields", f"<= {MAX_FIELDS}")
                yield field
        except wire.Malformed as error:
            raise self.refuse("onnx-malformed", error.given, error.expected) from None

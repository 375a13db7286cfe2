"""Host scalar operations as ONNX operators, with Python's meaning.

In: an operation of the runtime's closed set, names and types of its operands. Out: the name of its result.
Never: wraps an integer silently: what leaves 64 bits, or raises in Python, makes the model fail when it is run.

A bool, int or float is a 0-d bool, int64 or float64 tensor. A check that has to fail reads past the end of a
one-element table: every implementation reports that as an error.
"""
from __future__ import annotations

import numpy as np

from elastic_compile.onnx_file.graph import SCALAR_DTYPES, Builder
from elastic_runtime.schema import ScalarType, TensorType, ValueType

Operand = tuple[str, ValueType]

_LARGEST = float(2**63 - 1024)
_EXACT = float(2**53)
_ORDER = ("bool", "int", "float")
_KINDS = {dtype: kind for kind, dtype in SCALAR_DTYPES.items()}

UNSUPPORTED = {
    "pow": "ONNX has no power of integers that fails when it leaves 64 bits",
    "lshift": "ONNX shifts no signed integers", "rshift": "ONNX shifts no signed integers",
    "round_digits": "ONNX rounds to whole numbers only",
    "cos": "ONNX Runtime has no cosine of float64", "tanh": "ONNX's tanh of float64 is not Python's",
    "sin": "ONNX's sine of float64 is not Python's", "log2": "ONNX has no binary logarithm",
}


def write(build: Builder, op: str, operands: list[Operand], made: ValueType) -> str:
    """Append the nodes of `op`. Raises KeyError for one in `UNSUPPORTED`."""
    return _Writer(build).run(op, operands, made)


def truth(build: Builder, name: str, kind: ValueType) -> str:
    """A value as a 0-d bool."""
    if isinstance(kind, TensorType):
        name = build.node("Reshape", name, build.constant([], "int64"))
    return name if _dtype(kind) == "bool" else build.cast(name, "bool")


def _dtype(kind: ValueType) -> str:
    return SCALAR_DTYPES[kind.kind] if isinstance(kind, ScalarType) else kind.dtype


class _Writer:
    def __init__(self, build: Builder) -> None:
        self.build = build

    def run(self, op: str, operands: list[Operand], made: ValueType) -> str:
        node = self.build.node
        if op in ("item", "size"):
            return getattr(self, op)(operands, made)
        names = [name for name, _ in operands]
        kinds = [kind.kind for _, kind in operands]
        widest = max(kinds, key=_ORDER.index)
        to = made.kind if isinstance(made, ScalarType) else _KINDS[made.dtype]
        if op == "const" or op.startswith("tensor_"):
            return self.to(names[0], kinds[0], to)
        if op in ("int", "float", "bool", "trunc"):
            return self.to(names[0], kinds[0], to)
        if op in ("add", "sub", "mul"):
            return self.arithmetic(op.capitalize(), [self.to(n, k, to) for n, k in zip(names, kinds)], to)
        if op in ("floordiv", "mod"):
            return self.division(op, [self.to(n, k, to) for n, k in zip(names, kinds)], to)
        if op == "truediv":
            a, b = (self.to(n, k, "float") for n, k in zip(names, kinds))
            self_b = self.must(node("Not", node("Equal", b, self.number(0.0, "float"))), b, "float")
            return node("Div", a, self_b)
        if op in ("neg", "abs"):
            return node(op.capitalize(), self.to(names[0], kinds[0], to))
        if op in ("min", "max"):
            a, b = (self.to(n, k, widest if widest != "bool" else "int") for n, k in zip(names, kinds))
            better = node("Less", b, a) if op == "min" else node("Greater", b, a)
            return self.choose(better, *[self.to(n, k, to) for n, k in zip(names[::-1], kinds[::-1])])
        if op in ("and", "or"):
            a, b = (self.to(n, k, to) for n, k in zip(names, kinds))
            first = self.to(names[0], kinds[0], "bool")
            return self.choose(first, b, a) if op == "and" else self.choose(first, a, b)
        if op == "select":
            a, b = (self.to(n, k, to) for n, k in zip(names[1:], kinds[1:]))
            return self.choose(self.to(names[0], kinds[0], "bool"), a, b)
        if op == "not":
            return node("Not", self.to(names[0], kinds[0], "bool"))
        if op in ("bitand", "bitor", "bitxor"):
            a, b = (self.to(n, k, to) for n, k in zip(names, kinds))
            return node(("" if to == "bool" else "Bitwise") + op[3:].capitalize(), a, b)
        if op in ("eq", "ne", "lt", "le", "gt", "ge"):
            return self.compare(op, names, kinds, widest)
        if op in ("floor", "ceil", "round"):
            value = self.to(names[0], kinds[0], widest)
            return self.to(node(op.capitalize(), value), "float", "int") if widest == "float" else \
                self.to(value, widest, "int")
        if op in ("isnan", "isinf"):
            return node({"isnan": "IsNaN", "isinf": "IsInf"}[op], self.to(names[0], kinds[0], "float"))
        if op in ("sqrt", "exp", "log"):
            return self.function(op, self.to(names[0], kinds[0], "float"))
        raise KeyError(op)

    def item(self, operands: list[Operand], made: ScalarType) -> str:
        (name, kind), = operands
        scalar = self.build.node("Reshape", name, self.build.constant([], "int64"))
        wanted = SCALAR_DTYPES[made.kind]
        return scalar if kind.dtype == wanted else self.build.cast(scalar, wanted)

    def size(self, operands: list[Operand], made: ScalarType) -> str:
        (tensor, _), (dim, _) = operands
        return self.build.node("Gather", self.build.node("Shape", tensor), dim)

    def number(self, value: float, kind: str) -> str:
        return self.build.constant(value, SCALAR_DTYPES[kind])

    def to(self, name: str, kind: str, wanted: str) -> str:
        """`int(x)`, `float(x)` and `bool(x)`; a float that is no int64 makes the run fail, as NaN does in Python."""
        if kind == wanted:
            return name
        if (kind, wanted) == ("float", "int"):
            inside = self.build.node("Less", self.build.node("Abs", name), self.number(_LARGEST, "float"))
            return self.must(inside, self.build.cast(name, "int64"), "int")
        return self.build.cast(name, SCALAR_DTYPES[wanted])

    def choose(self, condition: str, a: str, b: str) -> str:
        """`a` where the condition holds, else `b`. ONNX Runtime's Where has no bools and loses the sign of a zero."""
        node, one = self.build.node, self.build.constant([1], "int64")
        table = node("Concat", node("Reshape", b, one), node("Reshape", a, one), axis=0)
        return node("Gather", table, self.build.cast(condition, "int64"), axis=0)

    def must(self, condition: str, value: str, kind: str) -> str:
        """`value`, from a model that fails where `condition` is false."""
        index = self.build.cast(self.build.node("Not", condition), "int64")
        zero = self.build.constant([-0.0 if kind == "float" else 0], SCALAR_DTYPES[kind])
        return self.build.node("Add", value, self.build.node("Gather", zero, index))

    def arithmetic(self, op: str, operands: list[str], kind: str) -> str:
        made = self.build.node(op, *operands)
        if kind == "float":
            return made
        about = self.build.node(op, *(self.build.cast(name, "float64") for name in operands))
        inside = self.build.node("Less", self.build.node("Abs", about), self.number(_LARGEST, "float"))
        return self.must(inside, made, "int")

    def division(self, op: str, operands: list[str], kind: str) -> str:
        """Python's floor division and remainder, whose sign is the divisor's (CPython, Objects/floatobject.c)."""
        node = self.build.node
        a, b = operands
        zero = self.number(0, kind)
        b = self.must(node("Not", node("Equal", b, zero)), b, kind)
        if kind == "int":
            remainder = node("Mod", a, b)
            return remainder if op == "mod" else node("Div", node("Sub", a, remainder), b)
        remainder = node("Mod", a, b, fmod=1)
        negative = node("Less", b, zero)
        wrong = node("And", node("Not", node("Equal", remainder, zero)),
                     node("Xor", node("Less", remainder, zero), negative))
        if op == "mod":
            signed = self.choose(negative, self.number(-0.0, "float"), zero)
            return self.choose(node("Equal", remainder, zero), signed,
                               self.choose(wrong, node("Add", remainder, b), remainder))
        quotient = node("Div", node("Sub", a, remainder), b)
        quotient = self.choose(wrong, node("Sub", quotient, self.number(1.0, "float")), quotient)
        floor = node("Floor", quotient)
        above = node("Greater", node("Sub", quotient, floor), self.number(0.5, "float"))
        rounded = self.choose(above, node("Add", floor, self.number(1.0, "float")), floor)
        return self.choose(node("Equal", quotient, zero), node("Mul", node("Div", a, b), zero), rounded)

    def compare(self, op: str, names: list[str], kinds: list[str], widest: str) -> str:
        node = self.build.node
        kind = "int" if widest == "bool" else widest
        operands = []
        for name, given in zip(names, kinds):
            value = self.to(name, given, kind)
            if (given, kind) == ("int", "float"):
                exact = node("LessOrEqual", node("Abs", value), self.number(_EXACT, "float"))
                value = self.must(exact, value, "float")
            operands.append(value)
        if op == "ne":
            return node("Not", node("Equal", *operands))
        return node({"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}[op],
                    *operands)

    def function(self, op: str, value: str) -> str:
        """Python raises for a root or logarithm outside its domain and for an exponential that overflows."""
        node, zero = self.build.node, self.number(0.0, "float")
        if op == "exp":
            made = node("Exp", value)
            overflow = node("And", node("IsInf", made), node("Not", node("IsInf", value)))
            return self.must(node("Not", overflow), made, "float")
        outside = node("Less" if op == "sqrt" else "LessOrEqual", value, zero)
        return node(op.capitalize(), self.must(node("Not", outside), value, "float"))


def literal_type(value: bool | int | float) -> ScalarType:
    """The type of a literal operand. Raises ValueError for an int that 64 bits do not hold."""
    kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
    if kind == "int" and not np.iinfo(np.int64).min <= value <= np.iinfo(np.int64).max:
        raise ValueError(f"{value} is no 64-bit integer")
    return ScalarType(kind=kind)

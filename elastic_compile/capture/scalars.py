"""Host scalar expressions as steps of the runtime's closed set of operations.

In: a symbolic expression. Out: scalar steps in Python's own arithmetic.
Never: an operation outside `schema.HOST_OPS`; what has none is refused.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import sympy

from elastic_compile.capture.tracer import HostOp
from elastic_compile.refusals import refuse
from elastic_runtime import schema

BINARY = {
    "Add": "add", "Mul": "mul", "Pow": "pow", "PowByNatural": "pow", "FloatPow": "pow", "FloorDiv": "floordiv",
    "CleanDiv": "floordiv", "Mod": "mod", "PythonMod": "mod", "IntTrueDiv": "truediv", "FloatTrueDiv": "truediv",
    "Max": "max", "Min": "min", "LShift": "lshift", "RShift": "rshift",
    "Equality": "eq", "Unequality": "ne", "StrictLessThan": "lt", "LessThan": "le",
    "StrictGreaterThan": "gt", "GreaterThan": "ge", "And": "and", "Or": "or",
    "BitwiseFn_bitwise_and": "bitand", "BitwiseFn_bitwise_or": "bitor", "BitwiseFn_bitwise_xor": "bitxor",
}
UNARY = {
    "Not": "not", "ToFloat": "float", "TruncToInt": "trunc", "TruncToFloat": "trunc", "FloorToInt": "floor",
    "CeilToInt": "ceil", "RoundToInt": "round", "Abs": "abs",
    "OpaqueUnaryFn_sqrt": "sqrt", "OpaqueUnaryFn_exp": "exp", "OpaqueUnaryFn_log": "log",
    "OpaqueUnaryFn_log2": "log2", "OpaqueUnaryFn_sin": "sin", "OpaqueUnaryFn_cos": "cos",
    "OpaqueUnaryFn_tanh": "tanh",
}
#: Operations on ints that give ints, where the expression itself does not say so.
INTEGER = {
    "LShift", "RShift", "FloorDiv", "CleanDiv", "Mod", "PythonMod", "PowByNatural", "TruncToInt", "FloorToInt",
    "CeilToInt", "RoundToInt", "BitwiseFn_bitwise_and", "BitwiseFn_bitwise_or", "BitwiseFn_bitwise_xor",
}
COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"}


def steps_for(
    expr: Any,
    kind: str,
    scalar_of: Callable[[sympy.Symbol], int],
    new_value: Callable[[schema.ValueType], int],
    steps: list[schema.Step],
    source: int,
    output: int | None = None,
) -> int:
    """Append the steps that compute `expr` (a sympy expression or a Python constant) as a scalar of `kind`;
    the value that holds it (`output` when given)."""

    def make(op: str, operands: list[Any], made: str, into: int | None) -> int:
        target = new_value(schema.ScalarType(kind=made)) if into is None else into
        literals = tuple((i, schema.encode_literal(x.value)) for i, x in enumerate(operands) if isinstance(x, Literal))
        steps.append(schema.ScalarStep(
            op=op, inputs=tuple(x for x in operands if not isinstance(x, Literal)), outputs=(target,),
            literals=literals, source=source,
        ))
        return target

    def operand(node: Any) -> Any:
        if isinstance(node, (bool, int, float)):
            return Literal(node)
        if node in (sympy.true, sympy.false):
            return Literal(bool(node))
        if node.is_Symbol:
            return scalar_of(node)
        if node.is_Integer:
            return Literal(int(node))
        if node.is_Float or node.is_Rational or node.is_infinite or node is sympy.nan:
            return Literal(float(node))
        return compute(node, None)

    def compute(node: Any, into: int | None) -> int:
        name = type(node).__name__
        whole = getattr(node, "is_integer", None)
        made = "int" if whole or (whole is None and name in INTEGER) else "float"
        if name in UNARY:
            op = UNARY[name]
            return make(op, [operand(node.args[0])], "bool" if op in COMPARISONS else made, into)
        if name in BINARY:
            op = BINARY[name]
            made = "bool" if op in COMPARISONS else made
            if name == "Mul" and node.args[0] == -1 and len(node.args) == 2:
                return make("neg", [operand(node.args[1])], made, into)
            operands = [operand(arg) for arg in node.args]
            first = functools.reduce(lambda a, b: make(op, [a, b], made, None), operands[:-1])
            return make(op, [first, operands[-1]], made, into)
        raise refuse("EC113", None, expression=str(node))

    if isinstance(expr, HostOp):
        return make(expr.op, [operand(part) for part in expr.operands], kind, output)
    atom = operand(expr) if not isinstance(expr, sympy.Basic) or expr.is_Atom else None
    if atom is None:
        return compute(expr, output)
    if isinstance(atom, Literal):
        value = {"bool": bool, "int": int, "float": float}[kind](atom.value)
        return make("const", [Literal(value)], kind, output)
    return atom if output is None else make(kind, [atom], kind, output)


class Literal:
    """A constant operand."""

    __slots__ = ("value",)

    def __init__(self, value: bool | int | float) -> None:
        self.value = value

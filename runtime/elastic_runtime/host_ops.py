"""The closed set of host scalar operations: what each takes, what it gives, and how it is computed.

In: an operation of `schema.HOST_OPS` and the types of its operands.
Out: the types its result may have, and a function of that many operands.
Never: does arithmetic other than Python's own (`math` and `operator`), or lets an integer grow without bound.
"""
from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from elastic_runtime.errors import ExecutionError
from elastic_runtime.schema import ScalarType, TensorType, ValueType

BOOL, INT, FLOAT = ScalarType("bool"), ScalarType("int"), ScalarType("float")
_ORDER = (BOOL, INT, FLOAT)
_TENSORS = {
    "tensor_bool": TensorType("bool", ()), "tensor_int": TensorType("int64", ()),
    "tensor_float": TensorType("float64", ()),
}
_ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "pow", "neg", "abs")
_CHOOSE = ("min", "max", "and", "or", "select")
_BITS = ("bitand", "bitor", "bitxor")
_TO_BOOL = ("not", "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "bool")
_TO_INT = ("int", "floor", "ceil", "trunc", "round", "lshift", "rshift")
_ITEM = {"b": BOOL, "i": INT, "u": INT, "f": FLOAT}

_FUNCTIONS: dict[str, Callable] = {
    "int": int, "float": float, "bool": bool, "add": operator.add, "sub": operator.sub,
    "truediv": operator.truediv, "floordiv": operator.floordiv, "mod": operator.mod, "neg": operator.neg,
    "abs": abs, "min": min, "max": max, "and": lambda a, b: a and b, "or": lambda a, b: a or b,
    "not": operator.not_, "bitand": operator.and_, "bitor": operator.or_, "bitxor": operator.xor,
    "rshift": operator.rshift, "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "round": round, "floor": math.floor,
    "ceil": math.ceil, "trunc": math.trunc, "sqrt": math.sqrt, "exp": math.exp, "log": math.log,
    "log2": math.log2, "sin": math.sin, "cos": math.cos, "tanh": math.tanh, "isnan": math.isnan,
    "isinf": math.isinf, "select": lambda condition, a, b: a if condition else b, "const": lambda value: value,
    "tensor_bool": lambda value: np.array(value, np.bool_),
    "tensor_int": lambda value: np.array(value, np.int64),
    "tensor_float": lambda value: np.array(value, np.float64),
    "size": lambda tensor, dim: tensor.shape[dim],
}


def result_kind(op: str, operands: Sequence[ValueType],
                literals: Mapping[int, bool | int | float] = {}) -> tuple[ValueType, ...] | None:
    """The types that `op` may give for `operands`; None when it does not take them.

    `literals` holds the operands known beforehand, by position. An int power gives an int or, for a negative
    exponent, a float: both are possible. min, max, and, or, select give the wider of their operands' kinds.
    """
    if op == "item":
        tensor = operands[0]
        if not isinstance(tensor, TensorType) or any(size != 1 for size in tensor.shape if isinstance(size, int)):
            return None
        kind = _ITEM.get(np.dtype(tensor.dtype).kind)
        return None if kind is None else (kind,)
    if op == "size":
        tensor, dim = operands
        if not isinstance(tensor, TensorType) or dim != INT:
            return None
        rank = len(tensor.shape)
        return (INT,) if -rank <= literals.get(1, -1 if rank else 0) < rank else None
    if not all(isinstance(operand, ScalarType) for operand in operands):
        return None
    widest = max(operands, key=_ORDER.index)
    if op == "const":
        return (operands[0],)
    if op in _TENSORS:
        return (_TENSORS[op],) if _ORDER.index(widest) <= list(_TENSORS).index(op) else None
    if op in _BITS:
        return None if widest == FLOAT else (widest,)
    if op in ("lshift", "rshift"):
        return None if widest == FLOAT else (INT,)
    if op in _TO_BOOL:
        return (BOOL,)
    if op in _TO_INT:
        return (INT,)
    if op == "round_digits":
        return ((FLOAT,) if operands[0] == FLOAT else (INT,)) if operands[1] == INT else None
    if op in _CHOOSE:
        return (max(operands[-2:], key=_ORDER.index),)
    if op in _ARITHMETIC:
        return (FLOAT,) if widest == FLOAT else (INT, FLOAT) if op == "pow" else (INT,)
    return (FLOAT,)


def function(op: str, made: ValueType, int_bits: int) -> Callable:
    """The function that computes `op` and gives a `made`.

    It raises what Python raises (ZeroDivisionError, OverflowError, ValueError, IndexError), and `ExecutionError`
    for an integer of more than `int_bits` bits, a power that is not a `made`, an integer chosen that no float is, and
    `item` of several elements.
    """
    if op == "item":
        return _item
    if op in _CHOOSE:
        return _choosing(op, made)
    if op == "round_digits":
        return _round
    if op in ("mul", "pow", "lshift"):
        return _bounded(op, made, int_bits)
    return _FUNCTIONS[op]


def _item(tensor: np.ndarray) -> bool | int | float:
    if tensor.size != 1:
        raise ExecutionError("item", "one-element", f"a tensor of shape {list(tensor.shape)}", "one element")
    return tensor.item()


def _round(value: int | float, digits: int) -> int | float:
    """`round(value, digits)`, without the power of ten that Python makes to find out that nothing is left."""
    if isinstance(value, int) and digits < -value.bit_length() - 1:
        return 0
    return round(value, digits)


def _choosing(op: str, made: ScalarType) -> Callable:
    compute, convert = _FUNCTIONS[op], _FUNCTIONS[made.kind]

    def choose(*operands):
        chosen = compute(*operands)
        result = convert(chosen)
        if result != chosen and chosen == chosen:
            raise ExecutionError(op, "result-type", f"{chosen!r}, which is no {made.kind}", made.kind)
        return result

    return choose


def _bounded(op: str, made: ScalarType, int_bits: int) -> Callable:
    def refuse(bits: int) -> ExecutionError:
        return ExecutionError(op, "int-bits", f"an integer of {bits} bits", f"<= {int_bits} (Limits.int_bits)")

    def mul(a, b):
        result = a * b
        if type(result) is int and result.bit_length() > int_bits:
            raise refuse(result.bit_length())
        return result

    def lshift(a, b):
        if a.bit_length() + b > int_bits:
            raise refuse(a.bit_length() + b)
        return a << b

    def power(a, b):
        if type(a) is type(b) is int and b > 0 and abs(a) > 1 and a.bit_length() * b > int_bits:
            raise refuse(a.bit_length() * b)
        result = a ** b
        if type(result).__name__ != made.kind:
            raise ExecutionError(op, "result-type", f"{result!r} from {a!r} ** {b!r}", made.kind)
        return result

    return {"mul": mul, "lshift": lshift, "pow": power}[op]

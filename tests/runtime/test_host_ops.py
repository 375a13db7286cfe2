"""Host scalar operations have exactly Python's meaning, and the types that the checker says."""
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_runtime import host_ops
from elastic_runtime.errors import ExecutionError
from elastic_runtime.schema import HOST_OPS, ScalarType, TensorType

PYTHON = {
    "const": lambda a: a, "int": int, "float": float, "bool": bool,
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b, "floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b,
    "pow": lambda a, b: a ** b, "neg": lambda a: -a, "abs": abs, "min": min, "max": max,
    "and": lambda a, b: a and b, "or": lambda a, b: a or b, "not": lambda a: not a,
    "bitand": lambda a, b: a & b, "bitor": lambda a, b: a | b, "bitxor": lambda a, b: a ^ b,
    "lshift": lambda a, b: a << b, "rshift": lambda a, b: a >> b, "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b, "round": round, "round_digits": round, "floor": math.floor, "ceil": math.ceil,
    "trunc": math.trunc, "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "log2": math.log2, "sin": math.sin,
    "cos": math.cos, "tanh": math.tanh, "isnan": math.isnan, "isinf": math.isinf,
    "select": lambda c, a, b: a if c else b,
}
ON_TENSORS = {"item", "size", "tensor_bool", "tensor_int", "tensor_float"}
SCALARS = st.one_of(st.booleans(), st.integers(-70, 70), st.integers(), st.floats())


def outcome(function, *operands):
    try:
        return function(*operands)
    except (ArithmeticError, ValueError) as error:
        return type(error)


def kind_of(value: object) -> ScalarType:
    return ScalarType(kind=type(value).__name__)


def test_every_operation_is_covered():
    assert set(PYTHON) | ON_TENSORS == set(HOST_OPS)


@pytest.mark.parametrize("op", sorted(PYTHON))
@given(st.data())
def test_operations_mean_what_python_means(op, data):
    operands = [data.draw(SCALARS) for _ in range(HOST_OPS[op])]
    if op in ("lshift", "pow"):
        operands[1] = data.draw(st.integers(-9, 200) | st.floats(-3, 3))
    if op == "round_digits":
        operands[1] = data.draw(st.integers(-50, 50))
    kinds = host_ops.result_kind(op, list(map(kind_of, operands)))
    if kinds is None:
        assert op == "round_digits" or any(isinstance(value, float) for value in operands)
        return
    expected = outcome(PYTHON[op], *operands)
    for kind in kinds:
        try:
            made = outcome(host_ops.function(op, kind, 1 << 20), *operands)
        except ExecutionError as error:
            assert op in ("pow", "min", "max", "and", "or", "select")
            assert error.rule == "result-type" and kind_of(expected) != kind
            continue
        if isinstance(expected, type):
            assert made is expected
        else:
            assert kind_of(made) == kind
            assert made == expected or (made != made and expected != expected)


def test_an_integer_that_no_float_is_is_not_rounded():
    smaller = host_ops.function("min", ScalarType(kind="float"), 1 << 20)
    assert smaller(-(1 << 53), 0.0) == -(1 << 53)
    with pytest.raises(ExecutionError):
        smaller(-(1 << 53) - 1, 0.0)


@pytest.mark.parametrize("op,operands", [
    ("mul", (1 << 70, 1 << 70)), ("pow", (10, 10 ** 9)), ("pow", (-3, 1000)), ("lshift", (1, 1 << 40))])
def test_integers_are_bounded_before_they_are_made(op, operands):
    with pytest.raises(ExecutionError, match="int-bits"):
        host_ops.function(op, ScalarType(kind="int"), 128)(*operands)


def test_rounding_to_far_digits_takes_no_time():
    made = host_ops.function("round_digits", ScalarType(kind="int"), 64)
    assert made(12345, -10 ** 30) == 0 and made(-7, -4) == 0 and made(12345, -2) == 12300 and made(1, 10 ** 30) == 1


@pytest.mark.parametrize("dtype,kind", [
    ("bool", "bool"), ("int8", "int"), ("uint8", "int"), ("int64", "int"), ("float16", "float"), ("float64", "float")])
def test_item_gives_a_python_scalar(dtype, kind):
    assert host_ops.result_kind("item", [TensorType(dtype=dtype, shape=(1, "n"))]) == (ScalarType(kind=kind),)
    assert type(host_ops.function("item", ScalarType(kind=kind), 64)(np.ones((1, 1), dtype))).__name__ == kind


def test_operations_on_tensors_check_their_types():
    x = TensorType(dtype="float32", shape=(2, "n"))
    integer, number = ScalarType(kind="int"), ScalarType(kind="float")
    assert host_ops.result_kind("item", [x]) is None
    assert host_ops.result_kind("item", [TensorType(dtype="complex64", shape=())]) is None
    assert host_ops.result_kind("size", [x, integer], {1: -2}) == (integer,)
    assert host_ops.result_kind("size", [x, integer], {1: 2}) is None
    assert host_ops.result_kind("size", [x, number]) is None
    assert host_ops.result_kind("add", [x, integer]) is None
    assert host_ops.result_kind("tensor_int", [number]) is None
    for op, value in (("tensor_bool", True), ("tensor_int", 1 << 40), ("tensor_float", 0.1)):
        kind, = host_ops.result_kind(op, [kind_of(value)])
        made = host_ops.function(op, kind, 64)(value)
        assert (made.dtype, made.shape) == (kind.dtype, ()) and made.item() == value
    assert host_ops.function("size", integer, 64)(np.zeros((2, 5)), 1) == 5

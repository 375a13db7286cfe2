"""Host scalar operations as ONNX nodes, against Python: every operation, every kind of operand, every edge."""
from __future__ import annotations

import itertools
import math

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from elastic_compile.onnx_file import scalars
from elastic_compile.onnx_file.graph import Builder, described, dtype_of
from elastic_runtime import host_ops
from elastic_runtime.schema import HOST_OPS, ScalarType, TensorType

KINDS = {bool: ScalarType(kind="bool"), int: ScalarType(kind="int"), float: ScalarType(kind="float")}
VALUES = [True, False, 0, 1, -1, 2, -3, 7, -7, 2**40, 0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e300, math.inf, -math.inf,
          math.nan]
TESTED = [op for op in HOST_OPS if op not in ("item", "size") and op not in scalars.UNSUPPORTED]


def run(op, operands, made):
    """The model's result for the operands; None where it fails."""
    build = Builder()
    kinds = [KINDS[type(value)] for value in operands]
    given = [(f"x{i}", kind) for i, kind in enumerate(kinds)]
    build.append(helper.make_node("Identity", [scalars.write(build, op, list(given), made)], ["y"]))
    model = build.model("scalar", [described(name, kind, ()) for name, kind in given],
                        [described("y", made, ())], {}, 20)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        return session.run(None, {name: np.array(value, dtype_of(kind))
                                  for (name, kind), value in zip(given, operands, strict=True)})[0].item()
    except Exception:
        return None


def python(op, operands, made):
    """What the runtime computes; None where it raises or leaves 64 bits."""
    try:
        value = host_ops.function(op, made, 64)(*operands)
        value = value.item() if isinstance(value, np.ndarray) else value
    except Exception:
        return None
    return value if not isinstance(value, int) or abs(value) < 2**62 else None


def cases(op):
    for operands in itertools.product(VALUES, repeat=HOST_OPS[op]) if HOST_OPS[op] < 3 else \
            itertools.product((True, False), (1, 2.5), (3, -1.5)):
        kinds = host_ops.result_kind(op, [KINDS[type(value)] for value in operands])
        if kinds is not None and (op != "select" or type(operands[1]) is type(operands[2])):
            yield operands, kinds[0]


@pytest.mark.parametrize("op", TESTED)
def test_as_in_python(op):
    seen = 0
    for operands, made in cases(op):
        expected, given = python(op, operands, made), run(op, operands, made)
        seen += 1
        if expected is None:
            assert given is None or isinstance(made, TensorType), (operands, given)
        elif isinstance(expected, float) and not math.isnan(expected):
            assert given == expected, operands
            assert math.copysign(1, given) == math.copysign(1, expected), operands
        elif isinstance(expected, float):
            assert math.isnan(given), operands
        else:
            assert given == expected and type(given) is type(expected), (operands, given, expected)
    assert seen


def test_every_other_operation_says_why_it_is_refused():
    assert set(scalars.UNSUPPORTED) | set(TESTED) | {"item", "size"} == set(HOST_OPS)

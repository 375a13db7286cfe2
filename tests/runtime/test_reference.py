"""The self-test finds what differs, names it, and leaves the model as it was."""
from __future__ import annotations

import math

import numpy as np
import pytest

import elastic_runtime as er
from elastic_runtime import schema as s
from elastic_runtime.reference import compare
from tests.runtime.handmade import (
    BOOL0,
    FLOAT,
    INT,
    ON_SIGN_WEIGHTS,
    RUNNING_SUM_WEIGHTS,
    block,
    branch,
    const,
    entry,
    give,
    jump,
    leaf,
    on_sign,
    param,
    program,
    running_sum,
)

RESULT = s.MapNode(keys=("y", "kind"), items=(leaf(0), const("out")))
TENSORS = {"x": np.array([1, 2], np.float32), "y": np.array([2, 4], np.float32),
           "u": np.array([-1, -2], np.float32), "v": np.array([9, 8], np.float32)}


def call(x="x", y="y", path=(0, 1, 3), result=RESULT, raises="") -> s.ReferenceCall:
    return s.ReferenceCall(entry=0, inputs=(x,), outputs=(y,), result=result, path=path, raises=raises)


GOOD = [call(), call("u", "v", (0, 2, 3))]


def test_a_good_model_passes(load, numpy_engine):
    load(on_sign(), ON_SIGN_WEIGHTS, calls=GOOD, tensors=TENSORS, self_test=True)
    assert numpy_engine.called.count("positive") == 2


@pytest.mark.parametrize("calls,tensors,number,leaf_", [
    ([call(), call("u", "y", (0, 2, 3))], {}, 1, "output['y'][0]"),
    ([call()], {"y": np.array([2, 4.1], np.float32)}, 0, "output['y'][1]"),
    ([call()], {"y": np.array([2, math.nan], np.float32)}, 0, "output['y'][1]"),
    ([call()], {"y": np.array([2, 4], np.float64)}, 0, "output['y']"),
    ([call()], {"y": np.array([2, 4, 6], np.float32)}, 0, "output['y']"),
    ([call(path=(0, 2, 3))], {}, 0, "path"),
    ([call(raises="ValueError")], {}, 0, "result"),
    ([call()], {"x": np.array([1, 2], np.float64)}, 0, "the call"),
    ([call(result=s.MapNode(keys=("y", "kind"), items=(leaf(0), const("in"))))], {}, 0, "output['kind']"),
    ([call(result=s.MapNode(keys=("y",), items=(leaf(0),)))], {}, 0, "output"),
    ([call(result=leaf(0))], {}, 0, "output"),
])
def test_a_difference_is_named(load, calls, tensors, number, leaf_):
    with pytest.raises(er.SelfTestFailed) as caught:
        load(on_sign(), ON_SIGN_WEIGHTS, calls=calls, tensors=TENSORS | tensors, self_test=True)
    assert (caught.value.call, caught.value.leaf) == (number, leaf_), caught.value
    assert "expected" in str(caught.value) and "compile it again" in str(caught.value)


def test_a_wrong_weight_is_found(load):
    model = load(on_sign(), {"w": np.array([10.1], np.float32)}, calls=GOOD, tensors=TENSORS)
    with pytest.raises(er.SelfTestFailed, match=r"reference call 1: output\['y'\]\[0\]"):
        model.self_test()


def test_floats_within_the_tolerance_pass(load):
    load(on_sign(), {"w": np.array([10.0001], np.float32)}, calls=GOOD, tensors=TENSORS, self_test=True)


def state_calls() -> list[s.ReferenceCall]:
    result = s.SequenceNode(kind="tuple", items=(leaf(0), leaf(1)))
    return [s.ReferenceCall(entry=0, inputs=("x",), outputs=(f"total{n}", f"count{n}"), result=result)
            for n in (1, 2)]


STATE_TENSORS = {"x": np.array([1, 2], np.float32), "total1": np.array([1, 2], np.float32),
                 "total2": np.array([2, 4], np.float32), "count1": np.array(1), "count2": np.array(2)}


def test_state_is_replayed_from_the_start_and_put_back(load):
    model = load(running_sum(), RUNNING_SUM_WEIGHTS, calls=state_calls(), tensors=STATE_TENSORS)
    model(np.ones(2, np.float32))
    before, path = model.statistics(), model.last_path
    model.self_test()
    assert (model.statistics(), model.last_path) == (before, path)
    assert model(np.ones(2, np.float32))[1] == 2


def test_state_is_put_back_after_a_failure_too(load):
    model = load(running_sum(), RUNNING_SUM_WEIGHTS, calls=state_calls(),
                 tensors=STATE_TENSORS | {"count2": np.array(3)})
    model(np.ones(2, np.float32))
    with pytest.raises(er.SelfTestFailed, match=r"call 1: output\[1\] is"):
        model.self_test()
    assert model(np.ones(2, np.float32))[1] == 2


def test_the_generator_is_seeded_and_put_back(load):
    made = program([s.TensorType(dtype="float64", shape=(2,))], [
        block([], [s.RandomStep(kind="normal", sizes=(2,), outputs=(0,))], give(leaf(0)))], [entry([], [])])
    expected = np.random.Generator(np.random.PCG64(0)).standard_normal(2)
    model = load(made, calls=[s.ReferenceCall(entry=0, inputs=(), outputs=("r",), result=leaf(0))],
                 tensors={"r": expected}, seed=5)
    first = model()
    model.seed(5)
    model.self_test()
    np.testing.assert_array_equal(model(), first)


def test_recorded_exceptions(load):
    made = program([BOOL0], [block([0], [], branch(0, jump(1), jump(2))),
                             block([], [], s.Raise(type="KeyError", message="no")), block([], [], give(const(1)))],
                   [entry([param("c", leaf(0))], [0])])
    tensors = {"yes": np.array(True), "no": np.array(False)}
    raising = s.ReferenceCall(entry=0, inputs=("yes",), outputs=(), result=const(None), raises="KeyError", path=(0, 1))
    quiet = s.ReferenceCall(entry=0, inputs=("no",), outputs=(), result=const(1), path=(0, 2))
    load(made, calls=[raising, quiet], tensors=tensors, self_test=True)
    for wrong in ({"raises": "ValueError"}, {"raises": ""}):
        with pytest.raises(er.SelfTestFailed, match="call 0: exception"):
            load(made, calls=[s.ReferenceCall(entry=0, inputs=("yes",), outputs=(), result=const(None), **wrong)],
                 tensors=tensors, self_test=True)


def test_scalar_inputs_are_stored_as_tensors(load):
    made = program([INT, FLOAT], [block([0, 1], [], give(s.SequenceNode(kind="list", items=(leaf(0), leaf(1)))))],
                   [entry([param("i", leaf(0)), param("f", leaf(1))], [0, 1])])
    result = s.SequenceNode(kind="list", items=(leaf(0), leaf(1)))
    load(made, calls=[s.ReferenceCall(entry=0, inputs=("i", "f"), outputs=("i", "f"), result=result)],
         tensors={"i": np.array(3), "f": np.array(2.5)}, self_test=True)


@pytest.mark.parametrize("given,expected,same", [
    (np.array([1, 2]), np.array([1, 2]), True), (np.array([1, 2]), np.array([1, 3]), False),
    (np.array([1, 2], np.int32), np.array([1, 2]), False), (np.array(True), np.array(True), True),
    (np.array([1.0, np.inf]), np.array([1.0005, np.inf]), True), (np.array([np.inf]), np.array([-np.inf]), False),
    (np.array([1 + 1j]), np.array([1 + 1.0005j]), True), (np.array([1 + 1j]), np.array([1 - 1j]), False),
    (np.zeros((0, 3)), np.zeros((0, 3)), True), (2.5, np.array(2.5), True), (2.5, np.array(2.6), False),
    (2, np.array(2), True), (2, np.array(2.0), False), (2, np.array(True), False), (True, np.array(True), True),
    (1 << 70, np.array(2), False), ("2", np.array(2), False), (None, np.array(2), False),
])
def test_leaves_are_compared_by_type_and_value(given, expected, same):
    assert (compare(leaf(0), given, [expected], 1e-3, 1e-4) is None) is same


@pytest.mark.parametrize("wanted,given,same", [
    (None, None, True), (1, True, False), (True, 1, False), (1, 1, True), (0.0, -0.0, False),
    (math.nan, math.nan, True), ("a", "b", False), (1.0, 1, False)])
def test_constants_are_compared_exactly(wanted, given, same):
    assert (compare(const(wanted), given, [], 1e-3, 1e-4) is None) is same

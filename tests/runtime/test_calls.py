"""Arguments: what a call accepts, and what it says about what it does not."""
from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

import elastic_runtime as er
from elastic_runtime import schema as s
from tests.runtime.handmade import (
    BOOL,
    FLOAT,
    INT,
    block,
    const,
    entry,
    f32,
    give,
    leaf,
    param,
    program,
    region,
    run,
)


def echo(*params: s.Parameter, values: tuple[s.ValueType, ...]) -> s.Program:
    """A program that returns its inputs as a list."""
    numbers = range(len(values))
    return program(values, [block(numbers, [], give(s.SequenceNode(kind="list", items=tuple(map(leaf, numbers)))))],
                   [entry(params, numbers)])


def one(kind: s.ValueType) -> s.Program:
    return echo(param("x", leaf(0)), values=(kind,))


def refused(call, path: str, rule: str) -> er.InputError:
    with pytest.raises(er.InputError) as caught:
        call()
    assert (caught.value.path, caught.value.rule) == (path, rule)
    assert caught.value.given and caught.value.expected
    return caught.value


# ------------------------------------------------------------------------------------------------------ tensors
class ByArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class ByDlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("requires grad")


@pytest.mark.parametrize("wrap", [lambda array: array, ByArray, ByDlpack])
def test_tensors_come_in_without_a_copy(load, wrap):
    given = np.arange(4, dtype=np.float32)
    result, = load(one(f32(4)))(wrap(given))
    assert np.shares_memory(result, given)


def test_tensors_come_in_contiguous_and_aligned(load):
    model = load(one(f32(4)))
    odd = np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float32)
    for given in (np.arange(8, dtype=np.float32)[::2], odd):
        result, = model(given)
        assert result.flags.c_contiguous and result.flags.aligned
        np.testing.assert_array_equal(result, given)
    scalar, = load(one(f32()))(np.float32(3))
    assert scalar.shape == () and scalar == 3


@pytest.mark.parametrize("given,rule", [
    (np.zeros(4, np.float64), "dtype"), (np.zeros(4, ">f4"), "dtype"), (np.array([None] * 4), "dtype"),
    (np.zeros((4, 1), np.float32), "rank"), (np.float32(1), "rank"), (np.zeros(5, np.float32), "shape"),
    ([1.0, 2.0, 3.0, 4.0], "not-a-tensor"), (1.0, "not-a-tensor"), (None, "not-a-tensor"),
    (Unreadable(), "unreadable"),
])
def test_wrong_tensors_are_refused(load, numpy_engine, given, rule):
    x = f32(4)
    model = load(program([x, x], [block([0], [run(0, [0], [1])], give(leaf(1)))], [entry([param("x", leaf(0))], [0])],
                         [region("double", [x], [x])]))
    error = refused(lambda: model(given), "x", rule)
    assert numpy_engine.called == []
    assert "float32[4]" in error.expected or rule in ("not-a-tensor", "unreadable")


def test_named_dimensions_agree_within_a_call(load):
    model = load(echo(param("a", leaf(0)), param("b", leaf(1)), values=(f32("n", 2), f32("n"))))
    for n in (1, 5, 0):
        model(np.zeros((n, 2), np.float32), np.zeros(n, np.float32))
    error = refused(lambda: model(np.zeros((3, 2), np.float32), np.zeros(4, np.float32)), "b", "shape")
    assert "n is 4" in error.given and "n is 3, as in a" in error.expected
    refused(lambda: model(np.zeros((3, 9), np.float32), np.zeros(3, np.float32)), "a", "shape")


# ------------------------------------------------------------------------------------------------------ scalars
@pytest.mark.parametrize("kind,good,bad", [
    (INT, [3, np.int32(3)], [3.0, True, "3", None, np.array(3)]),
    (FLOAT, [2.5, np.float32(2.5)], [2, True, None]),
    (BOOL, [True, np.False_], [1, 0, None]),
])
def test_scalars(load, kind, good, bad):
    model = load(one(kind))
    for value in good:
        result, = model(value)
        assert result == value and type(result).__name__ == kind.kind
    for value in bad:
        refused(lambda value=value: model(value), "x", "scalar")


# ---------------------------------------------------------------------------------------------------- constants
@pytest.mark.parametrize("compiled,bad", [
    (None, [0, False]), (True, [1, False, None]), (3, [3.0, True, 4]), (1, [True]), ("mean", ["sum", None]),
    (0.5, [0.25, 1]), (-0.0, [0.0]), (float("nan"), [0.0]),
])
def test_constants_must_be_given_as_compiled(load, compiled, bad):
    model = load(echo(param("x", const(compiled)), values=()))
    assert model(compiled) == []
    for value in bad:
        assert "compiled" in str(refused(lambda value=value: model(value), "x", "constant"))


# ---------------------------------------------------------------------------------------------------- structures
Pair = namedtuple("Pair", "left right")


@dataclass
class Batch:
    ids: object
    mask: object


NESTED = s.MapNode(keys=("pair", "batch", "more"), items=(
    s.RecordNode(kind="namedtuple", name="Pair", fields=("left", "right"), items=(leaf(0), leaf(1))),
    s.RecordNode(kind="dataclass", name="Batch", fields=("ids", "mask"), items=(leaf(2), const(None))),
    s.SequenceNode(kind="list", items=(leaf(3), s.SequenceNode(kind="tuple", items=(leaf(4),))))))


def nested(**changes):
    return {"pair": Pair(0, 1), "batch": Batch(2, None), "more": [3, (4,)]} | changes


@pytest.mark.parametrize("given", [
    nested(), nested(pair=(0, 1)), nested(pair={"right": 1, "left": 0}), nested(batch={"ids": 2, "mask": None})])
def test_structures_are_taken_apart(load, given):
    assert load(echo(param("x", NESTED), values=(INT,) * 5))(given) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("given,path,rule", [
    (None, "x", "structure"), ([], "x", "structure"),
    (nested(extra=1), "x", "structure"), ({"batch": 0}, "x", "structure"),
    (dict(reversed(nested().items())), "x", "structure"),
    (nested(pair=(0, 1, 2)), "x['pair']", "structure"), (nested(pair=(0, "1")), "x['pair'].right", "scalar"),
    (nested(pair=namedtuple("Other", "a b")(0, 1)), "x['pair']", "structure"),
    (nested(batch={"ids": 2}), "x['batch']", "structure"), (nested(batch=object()), "x['batch']", "structure"),
    (nested(batch={"ids": 2, "mask": None, "more": 1}), "x['batch']", "structure"),
    (nested(batch=Batch(2, 0)), "x['batch'].mask", "constant"),
    (nested(more=(3, (4,))), "x['more']", "structure"), (nested(more=[3, [4]]), "x['more'][1]", "structure"),
    (nested(more=[3, (4, 5)]), "x['more'][1]", "structure"), (nested(more=[3, ("4",)]), "x['more'][1][0]", "scalar"),
])
def test_wrong_structures_are_named_by_path(load, given, path, rule):
    refused(lambda: load(echo(param("x", NESTED), values=(INT,) * 5))(given), path, rule)


def test_a_mapping_that_leaves_out_empty_fields(load):
    class Output(dict):  # as transformers' ModelOutput does
        mask = None

    tree = s.RecordNode(kind="dataclass", name="Output", fields=("ids", "mask"), items=(leaf(0), const(None)))
    assert load(echo(param("x", tree), values=(INT,)))(Output(ids=2)) == [2]


# ----------------------------------------------------------------------------------------------------- signatures
def full() -> s.Program:
    """def forward(a, /, b, c=7, *rest, d, e="x", **more), compiled for one more positional and more={"k": ...}."""
    return echo(
        param("a", leaf(0), "positional"), param("b", leaf(1)), param("c", const(7), default=True),
        param("rest", s.SequenceNode(kind="tuple", items=(leaf(2),)), "varargs"), param("d", leaf(3), "keyword"),
        param("e", const("x"), "keyword", True),
        param("more", s.MapNode(keys=("k",), items=(leaf(4),)), "varkw"), values=(INT,) * 5)


def test_every_kind_of_parameter(load):
    model = load(full())
    assert model(0, 1, 7, 2, d=3, k=4) == [0, 1, 2, 3, 4]
    assert model(0, 1, 7, 2, k=4, e="x", d=3) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("args,kwargs,path,rule", [
    ((0, 1, 7, 2), {"k": 4}, "d", "missing-argument"), ((), {"d": 3, "k": 4}, "a", "missing-argument"),
    ((0, 1), {"d": 3, "k": 4}, "rest", "structure"), ((0, 1, 7, 2), {"d": 3}, "more", "structure"),
    ((0, 1, 7, 2), {"d": 3, "k": 4, "z": 1}, "more", "structure"),
    ((0, 1, 7, 2), {"d": 3, "k": 4, "b": 1}, "b", "repeated-argument"),
    ((0, 1, 8, 2), {"d": 3, "k": 4}, "c", "constant"), ((0, 1, 7, 2), {"d": 3, "k": 4, "e": "y"}, "e", "constant"),
])
def test_wrong_calls_of_every_kind_of_parameter(load, args, kwargs, path, rule):
    refused(lambda: load(full())(*args, **kwargs), path, rule)


def test_calls_of_a_plain_signature(load):
    model = load(echo(param("image", leaf(0)), param("scale", leaf(1)), values=(INT, INT)))
    assert model(1, 2) == model(1, scale=2) == model(scale=2, image=1) == [1, 2]
    refused(lambda: model(1, 2, 3), "forward", "extra-argument")
    assert "forward(image, scale)" in str(refused(lambda: model(1), "scale", "missing-argument"))
    assert "Did you mean 'image'?" in str(refused(lambda: model(imag=1, scale=2), "imag", "unknown-argument"))


def test_the_first_signature_that_fits_is_called(load):
    made = program([INT, FLOAT, INT, INT], [
        block([0], [], give(const("int"))), block([1], [], give(const("float"))),
        block([2, 3], [], give(const("two")))],
        [entry([param("x", leaf(0))], [0], 0, "one"), entry([param("x", leaf(1))], [1], 1, "other"),
         entry([param("x", leaf(2)), param("y", leaf(3))], [2, 3], 2, "both")],
        modes=(s.Mode(entries=(0, 1, 2)),))
    model = load(made)
    assert [model(1), model(1.0), model(1, 2)] == ["int", "float", "two"]
    error = refused(lambda: model(1, "2"), "y", "scalar")
    assert "None of the 3 compiled signatures fits" in str(error)


def test_flat_calls(load):
    model = load(full())
    assert model.call_flat(0, [0, 1, 2, 3, 4]) == [0, 1, 2, 3, 4]
    refused(lambda: model.call_flat(0, [0]), "forward", "input-count")
    refused(lambda: model.call_flat(0, [0, 1, 2, 3, "4"]), "forward input 4", "scalar")


def test_torch_tensors_are_read_in_place(load):
    torch = pytest.importorskip("torch")
    model = load(one(f32(3)))
    given = torch.arange(3, dtype=torch.float32)
    result, = model(given)
    given += 1
    np.testing.assert_array_equal(result, [1, 2, 3])
    assert "Detach it" in str(refused(lambda: model(torch.zeros(3, requires_grad=True)), "x", "unreadable"))

"""The text form says all that a program does, in a notation that a Python programmer reads."""
from __future__ import annotations

import msgspec
import pytest

from elastic_compile.inspect import render_text
from elastic_compile.inspect.text import bytes_text, expression_text, tree_text
from elastic_runtime import RegionStatistics, Statistics, schema
from tests.programs import exits_program, scalar_program

SCALAR = """\
program doubler: 3 blocks, 0 regions (0 compiled), 0 operators, weights 1.5 KiB

entry forward(x=v0) -> 0 entry
    v0: f32[]

block 0 entry(v0: f32[])
    v1: float = v0.item()
    v2: bool = v1 > 0.0
    if v2                                                         # model.py:7  if x.item() > 0:
        then -> 1 positive(v1)
        else -> 2 other()

block 1 positive(v3: float)
    v4: float = v3 * 2.0
    return v4                                                     # model.py:8  return 2.0 * x.item()

block 2 other()
    return -1.0                                                   # model.py:9  return -1.0
"""


def test_a_whole_program():
    assert render_text(scalar_program(), weight_bytes=1536) == SCALAR


def test_a_source_line_stands_beside_the_last_of_its_operations_shortened():
    program = exits_program()
    long = schema.Source(file="/home/me/nets/model.py", line=20, text="    features = " + "self.stem(image) + " * 9)
    program = msgspec.structs.replace(program, sources=(long, *program.sources[1:]))
    text = render_text(program)
    assert "# model.py:20  features = self.stem(image) + self.stem(image) …\n" in text
    assert render_text(scalar_program()).count("model.py:7") == 1


def test_region_calls_switches_raises_and_results():
    text = render_text(exits_program())
    assert "program exits: 5 blocks, 2 regions (2 compiled), 19 operators, onnxruntime\n" in text
    assert "v1: f32[1, 32, 8, 8], v2: f32[1, 10], v3: bool[] = stem_0(v0)  [7 operators]" in text
    assert "    switch v6" in text and "        case 0 -> 1 refine(v7, v6)" in text
    assert "        default -> 3 late(v8, v6)" in text
    assert "return {'scores': v12, 'exit': v14}" in text
    assert 'raise ValueError("no decision after 8 rounds")' in text


def test_what_was_measured_stands_beside_what_was_measured():
    seen = Statistics(
        calls=100, visits=(100, 120, 80, 20, 0), edges={},
        regions=(RegionStatistics("stem_0", 100, 4.0, 0.041), RegionStatistics("refine_0", 0, 0.0, 0.0)))
    text = render_text(exits_program(), seen)
    assert "block 0 stem(v0: f32[1, 1, 8, 8])  [100%]" in text
    assert "block 1 refine(v4: f32[1, 32, 8, 8], v6: int)  [1.2 ×]" in text
    assert "block 4()  [never]" in text
    assert "[7 operators, 0.041 ms]" in text and "[12 operators]" in text


def test_state_signatures_and_host_functions():
    state = schema.TensorType(dtype="float16", shape=(1, "s0"))
    number = schema.ConstLeaf(v=3)
    program = msgspec.structs.replace(
        scalar_program(), modes=(schema.Mode(entries=(0,), state=(state,)),), initial=("cache",),
        host_ops=(schema.HostSignature(name="blur", inputs=(state,), outputs=(state,)),),
        entries=(schema.Entry(name="step", block=0, inputs=(0,), params=(
            schema.Parameter(name="a", kind="positional", tree=schema.ValueLeaf(id=0)),
            schema.Parameter(name="b", kind="standard", tree=number, default=True),
            schema.Parameter(name="c", kind="keyword", tree=number),
            schema.Parameter(name="rest", kind="varkw", tree=schema.MapNode(keys=(), items=())))),))
    text = render_text(program)
    assert "entry step(a=v0, /, b=3 (optional), *, c=3, **rest={}) -> 0 entry" in text
    assert "mode 0: calls step; keeps f16[1, s0]\nstarts from cache" in text
    assert "needs host function blur(f16[1, s0]) -> f16[1, s0]" in text


def test_a_state_that_a_result_leaves():
    block = schema.Block(params=(0,), steps=(), terminator=schema.Return(
        tree=schema.ConstLeaf(v=None), mode=1, carry=(0,)))
    assert "return None; next call in mode 1 with (v0)" in render_text(
        msgspec.structs.replace(scalar_program(), blocks=(block,)))


@pytest.mark.parametrize(("op", "inputs", "literals", "text"), [
    ("add", (1, 2), (), "v1 + v2"),
    ("sub", (1,), ((0, "i1"),), "1 - v1"),
    ("and", (1, 2), (), "v1 and v2"),
    ("not", (1,), (), "not v1"),
    ("neg", (1,), (), "-v1"),
    ("select", (1, 2), ((2, "b1"),), "v2 if v1 else True"),
    ("size", (1,), ((1, "i0"),), "v1.shape[0]"),
    ("item", (1,), (), "v1.item()"),
    ("const", (), ((0, "fnan"),), "nan"),
    ("min", (1, 2), (), "min(v1, v2)"),
    ("tensor_int", (1,), (), "tensor_int(v1)"),
])
def test_host_operations_read_like_python(op, inputs, literals, text):
    assert expression_text(schema.ScalarStep(op=op, inputs=inputs, outputs=(3,), literals=literals)) == text


def test_every_host_operation_has_a_text():
    for op, arity in schema.HOST_OPS.items():
        step = schema.ScalarStep(op=op, inputs=tuple(range(arity)), outputs=(9,))
        assert all(f"v{number}" in expression_text(step) for number in range(arity)), op


@pytest.mark.parametrize(("tree", "text"), [
    (schema.SequenceNode(kind="tuple", items=(schema.ValueLeaf(id=1),)), "(v1,)"),
    (schema.SequenceNode(kind="list", items=(schema.ConstLeaf(v="a"), schema.ValueLeaf(id=2))), "['a', v2]"),
    (schema.FloatLeaf(v="inf"), "inf"),
    (schema.RecordNode(kind="namedtuple", name="O", fields=("x",), items=(schema.ValueLeaf(id=4),)), "O(x=v4)"),
])
def test_trees_read_like_python(tree, text):
    assert tree_text(tree) == text


@pytest.mark.parametrize(("size", "text"), [
    (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 40, "3072.0 GiB")])
def test_sizes(size, text):
    assert bytes_text(size) == text

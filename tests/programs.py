"""Small programs built by hand, for tests that need a program and no compiler."""
from __future__ import annotations

import numpy as np

from elastic_compile.bundle import ONLY, Member, Packed, pack
from elastic_runtime import schema

SOURCE = "model.py"


def scalar_program(constant: float = 2.0, name: str = "doubler") -> schema.Program:
    """`float(x) * constant if float(x) > 0 else -1.0`, without any region: no engine is needed to run it."""
    values = (
        schema.TensorType(dtype="float32", shape=()),
        schema.ScalarType(kind="float"),
        schema.ScalarType(kind="bool"),
        schema.ScalarType(kind="float"),
        schema.ScalarType(kind="float"),
    )
    blocks = (
        schema.Block(
            label="entry",
            params=(0,),
            steps=(
                schema.ScalarStep(op="item", inputs=(0,), outputs=(1,)),
                schema.ScalarStep(
                    op="gt", inputs=(1,), outputs=(2,), source=0,
                    literals=((1, schema.encode_literal(0.0)),)),
            ),
            terminator=schema.Branch(
                cond=2, then=schema.Jump(block=1, args=(1,)), orelse=schema.Jump(block=2, args=()), source=0),
        ),
        schema.Block(
            label="positive",
            params=(3,),
            steps=(
                schema.ScalarStep(
                    op="mul", inputs=(3,), outputs=(4,), literals=((1, schema.encode_literal(constant)),)),
            ),
            terminator=schema.Return(tree=schema.ValueLeaf(id=4), source=1),
        ),
        schema.Block(
            label="other", params=(), steps=(),
            terminator=schema.Return(tree=schema.FloatLeaf(v=schema.encode_float(-1.0)), source=2),
        ),
    )
    return schema.Program(
        name=name,
        values=values,
        blocks=blocks,
        entries=(
            schema.Entry(
                name="forward", block=0, inputs=(0,),
                params=(schema.Parameter(name="x", kind="standard", tree=schema.ValueLeaf(id=0)),)),
        ),
        regions=(),
        sources=(
            schema.Source(file=SOURCE, line=7, text="if x.item() > 0:"),
            schema.Source(file=SOURCE, line=8, text="return 2.0 * x.item()"),
            schema.Source(file=SOURCE, line=9, text="return -1.0"),
        ),
    )


def scalar_parts(constant: float = 2.0) -> Packed:
    """What `bundle.write` takes for `scalar_program(constant)`: one reference call per path."""
    tensors = {
        "in0": np.array(3.0, np.float32), "out0": np.array(3.0 * constant),
        "in1": np.array(-3.0, np.float32),
    }
    calls = (
        schema.ReferenceCall(
            entry=0, inputs=("in0",), outputs=("out0",), result=schema.ValueLeaf(id=0), path=(0, 1)),
        schema.ReferenceCall(
            entry=0, inputs=("in1",), outputs=(), result=schema.FloatLeaf(v=schema.encode_float(-1.0)),
            path=(0, 2)),
    )
    made = scalar_program(constant)
    reference = schema.Reference(tensors="reference.safetensors", calls=calls)
    provenance = schema.Provenance(
        created="2026-01-01T00:00:00+00:00", versions={}, source_sha256="0" * 64, device={}, options={})
    return pack(made.name, [Member(ONLY, made, {}, reference, tensors)], {}, provenance)


def exits_program() -> schema.Program:
    """An early-exit classifier with a refinement loop: regions, a branch, a loop, two returns, a raise.

    Its regions name artefacts that no test has: it can be shown, not run.
    """
    features = schema.TensorType(dtype="float32", shape=(1, 32, 8, 8))
    scores = schema.TensorType(dtype="float32", shape=(1, 10))
    truth = schema.TensorType(dtype="bool", shape=())
    count = schema.ScalarType(kind="int")
    flag = schema.ScalarType(kind="bool")
    values = (
        schema.TensorType(dtype="float32", shape=(1, 1, 8, 8)),              # 0: image
        features, scores, truth,                                             # 1-3: block 0
        features, count, count, features, scores, truth, flag,               # 4-10: block 1
        scores,                                                              # 11: block 2
        scores, count, count,                                                # 12-14: block 3
    )

    def region(name: str, ops: int, inputs, outputs) -> schema.Region:
        return schema.Region(
            name=name, engine="onnxruntime", files={"model": f"{name}.onnx"}, ops=ops,
            inputs=tuple(schema.Port(name=f"x{i}", type=kind) for i, kind in enumerate(inputs)),
            outputs=tuple(schema.Port(name=f"y{i}", type=kind) for i, kind in enumerate(outputs)),
            weights=(schema.WeightUse(name="w", tensor=f"{name}_w"),))

    one = schema.encode_literal(1)
    blocks = (
        schema.Block(
            label="stem", params=(0,),
            steps=(
                schema.RegionStep(region=0, inputs=(0,), outputs=(1, 2, 3), source=0),
                schema.ScalarStep(
                    op="const", inputs=(), outputs=(5,), literals=((0, schema.encode_literal(0)),)),
            ),
            terminator=schema.Branch(
                cond=3, source=1, then=schema.Jump(block=2, args=(2,)),
                orelse=schema.Jump(block=1, args=(1, 5)))),
        schema.Block(
            label="refine", params=(4, 6),
            steps=(
                schema.RegionStep(region=1, inputs=(4,), outputs=(7, 8, 9), source=2),
                schema.ScalarStep(
                    op="lt", inputs=(6,), outputs=(10,), literals=((1, schema.encode_literal(8)),)),
            ),
            terminator=schema.Switch(
                index=6, source=3,
                cases=((0, schema.Jump(block=1, args=(7, 6))), (8, schema.Jump(block=4, args=()))),
                default=schema.Jump(block=3, args=(8, 6)))),
        schema.Block(
            label="early", params=(11,), steps=(),
            terminator=schema.Return(tree=schema.MapNode(keys=("scores", "exit"), items=(
                schema.ValueLeaf(id=11), schema.ConstLeaf(v=0))), source=4)),
        schema.Block(
            label="late", params=(12, 13),
            steps=(schema.ScalarStep(op="add", inputs=(13,), outputs=(14,), literals=((1, one),)),),
            terminator=schema.Return(tree=schema.MapNode(keys=("scores", "exit"), items=(
                schema.ValueLeaf(id=12), schema.ValueLeaf(id=14))), source=4)),
        schema.Block(
            label="", params=(), steps=(),
            terminator=schema.Raise(type="ValueError", message="no decision after 8 rounds", source=5)),
    )
    image = schema.Parameter(name="image", kind="standard", tree=schema.ValueLeaf(id=0))
    return schema.Program(
        name="exits", values=values, blocks=blocks, regions=(
            region("stem_0", 7, values[0:1], values[1:4]), region("refine_0", 12, values[4:5], values[7:10])),
        entries=(schema.Entry(name="forward", block=0, inputs=(0,), params=(image,)),),
        sources=tuple(schema.Source(file=SOURCE, line=line, text=text) for line, text in (
            (20, "features = self.stem(image)"), (22, "if is_sure(scores, self.confident):"),
            (25, "features = self.refine(features)"), (26, "while not is_sure(scores, self.confident):"),
            (30, 'return {"scores": scores, "exit": depth}'),
            (28, 'raise ValueError("no decision after 8 rounds")'))))

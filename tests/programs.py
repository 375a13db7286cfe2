"""Small programs built by hand, for tests that need a program and no compiler."""
from __future__ import annotations

import numpy as np

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


def scalar_parts(constant: float = 2.0) -> dict[str, object]:
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
    return {
        "program": scalar_program(constant),
        "files": {},
        "weights": {},
        "reference": schema.Reference(tensors="reference.safetensors", calls=calls),
        "reference_tensors": tensors,
        "provenance": schema.Provenance(
            created="2026-01-01T00:00:00+00:00", versions={}, source_sha256="0" * 64, device={}, options={}),
    }

"""The verifier of the representation: a valid program passes, each broken rule is named."""
from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from elastic_compile.errors import InternalError
from elastic_compile.program.ir import Use, jumps, verify
from elastic_runtime import schema
from tests.capture.test_explore import program


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        if x.sum() > 0:
            x = self.linear(x)
        return x * 2


@pytest.fixture(scope="module")
def valid():
    return program(Branching(), torch.ones(1, 2))


def with_block(program, number, **changes):
    blocks = list(program.blocks)
    blocks[number] = msgspec.structs.replace(blocks[number], **changes)
    return program.replace(blocks=tuple(blocks))


def test_a_valid_program_passes(valid):
    assert verify(valid) is valid


def broken(valid):
    entry = valid.blocks[0]
    then = jumps(entry.terminator)[0].block
    region = next(s for s in entry.steps if isinstance(s, schema.RegionStep))
    graph = valid.graphs[region.region]
    yield "defined twice", with_block(valid, then, params=entry.params)
    yield "does not define", with_block(valid, 0, steps=())
    yield "another number of values", with_block(
        valid, 0, steps=(msgspec.structs.replace(region, inputs=()),))
    yield "a jump gives", with_block(valid, 0, terminator=msgspec.structs.replace(
        entry.terminator, then=msgspec.structs.replace(entry.terminator.then, args=())))
    yield "its inputs are not", valid.replace(
        entries=(msgspec.structs.replace(valid.entries[0], inputs=(999,)),))
    yield "nothing before it computes", valid.replace(graphs=(
        *valid.graphs[:region.region],
        type(graph)((), graph.ops, graph.outputs, graph.symbols),
        *valid.graphs[region.region + 1:],
    )).replace(blocks=with_block(valid, 0, steps=(msgspec.structs.replace(region, inputs=()),)).blocks)
    yield "does not exist", valid.replace(weights={})


def test_each_broken_rule_is_named(valid):
    for message, wrong in broken(valid):
        with pytest.raises(InternalError, match=message):
            verify(wrong)


def test_arguments_are_references(valid):
    assert any(isinstance(arg, Use) for graph in valid.graphs for op in graph.ops for arg in op.args)

"""Weight-only computation is done when compiling: fewer operators, the same results, slices still shared."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import elastic_compile as ec
from elastic_compile.passes import FoldWeights
from elastic_compile.program.ir import Weight


def ops(compiled) -> list[str]:
    return [op.target._schema.name for graph in compiled.source.graphs for op in graph.ops]


class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 48)

    def forward(self, x):
        if x.sum() > 0:
            x = x * 2
        return F.linear(x, self.layer.weight[:40, :16], self.layer.bias[:40])


def test_slices_become_views_of_the_supernets_memory():
    module = Sliced().eval()
    compiled = ec.compile(module, [(torch.ones(2, 16),), (-torch.ones(2, 16),)])
    assert "aten::slice" not in ops(compiled)
    folded = [tensor for name, tensor in compiled.source.weights.items() if name.endswith("~")]
    assert sorted(tuple(tensor.shape) for tensor in folded) == [(40,), (40, 16)] or len(folded) >= 2
    storage = {module.layer.weight.untyped_storage().data_ptr(), module.layer.bias.untyped_storage().data_ptr()}
    assert all(tensor.untyped_storage().data_ptr() in storage for tensor in folded)


class Normed(nn.Module):
    """A weight norm, a kernel transformed by a matrix, and a table looked up at fixed places."""

    def __init__(self):
        super().__init__()
        self.direction, self.size = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.rand(8, 1))
        self.kernel, self.matrix = nn.Parameter(torch.randn(6, 1, 5)), nn.Parameter(torch.randn(3, 3))
        self.table = nn.Embedding(16, 8)
        self.register_buffer("places", torch.arange(4))

    def forward(self, x):
        x = x @ (self.direction * self.size / self.direction.norm(dim=1, keepdim=True)).t()
        x = x + self.table(self.places)
        kernel = F.linear(self.kernel[:4, :, 1:4], self.matrix)
        return F.conv1d(x[:, None].expand(4, 4, 8), kernel, groups=4)


def test_arithmetic_of_weights_is_done_once():
    compiled = ec.compile(Normed().eval(), [(torch.randn(4, 4),)])
    left = ops(compiled)
    assert not {"aten::div", "aten::embedding", "aten::linear", "aten::slice"} & set(left), left


class Reordered(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64))

    def forward(self, x):
        return x @ self.weight.t(), x + self.weight.view(64, 8, 8).sum(2).repeat(1, 8)


def test_a_whole_weight_in_another_order_and_what_grows_stay():
    module = Reordered().eval()
    compiled = ec.compile(module, [(torch.randn(64, 64),)])
    kept = [leaf for graph in compiled.source.graphs for op in graph.ops for leaf in op.args
            if isinstance(leaf, Weight)]
    assert Weight(next(name for name in compiled.source.weights if not name.endswith("~"))) in kept
    assert "aten::t" in ops(compiled) or "aten::transpose" in ops(compiled) or "aten::permute" in ops(compiled)
    before = module.weight.numel()
    assert all(tensor.numel() <= before for tensor in compiled.source.weights.values())


class Returned(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        part = self.weight[:2]
        return part, x @ part.t()


def test_a_result_that_is_a_part_of_a_weight_is_still_returned():
    compiled = ec.compile(Returned().eval(), [(torch.randn(3, 4),)])
    assert len(compiled.program.entries) == 1  # compile() compared both results with eager


@pytest.mark.parametrize("kind", [Sliced, Normed, Reordered, Returned])
def test_folding_twice_changes_nothing(kind):
    shape = {Sliced: (2, 16), Normed: (4, 4), Reordered: (64, 64), Returned: (3, 4)}[kind]
    program = ec.compile(kind().eval(), [(torch.randn(shape),)]).source
    again = FoldWeights()(program)
    assert [len(graph.ops) for graph in again.graphs] == [len(graph.ops) for graph in program.graphs]

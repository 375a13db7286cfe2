"""Linear layers in blocks compute what they compute whole, whatever form the exporter gave them."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from elastic_compile.backends import onnx_blocks
from elastic_compile.backends.onnxruntime import OnnxRuntimeBackend
from elastic_runtime.engines import EngineOptions
from elastic_runtime.engines.onnxruntime import OnnxRuntimeEngine
from elastic_runtime.schema import WeightUse
from tests.backends.regions import described, source, weights_of


class Turned(nn.Module):
    """GPT-2's layer: the output features are the columns of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(48, 64)), nn.Parameter(torch.randn(64))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Twice(nn.Module):
    """One weight in two layers, and a bias of one element that is no bias per feature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shift = nn.Linear(48, 48), nn.Parameter(torch.randn(1))

    def forward(self, x):
        return self.layer(torch.relu(self.layer(x))) @ self.layer.weight.T + self.shift


class Looked(nn.Module):
    """A weight that something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 64)

    def forward(self, x):
        return self.layer(x), self.layer.weight.sum(1)


MODELS = {
    "gemm, bias in the model": (nn.Linear(48, 64), (5, 48)),
    "gemm, bias outside": (nn.Linear(48, 512), (5, 48)),
    "gemm without a bias": (nn.Linear(48, 64, bias=False), (5, 48)),
    "matmul and addition": (nn.Linear(48, 64), (2, 5, 48)),
    "matmul, bias outside": (nn.Linear(48, 512), (2, 5, 48)),
    "matmul without a bias": (nn.Linear(48, 64, bias=False), (2, 5, 48)),
    "one vector": (nn.Linear(48, 64), (48,)),
    "columns": (Turned(), (5, 48)),
    "one weight, two layers": (Twice(), (2, 3, 48)),
    "layers in a row": (nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 96), nn.ReLU(),
                                      nn.Linear(96, 33)), (3, 48)),
}


def region(module: nn.Module, x: torch.Tensor):
    made_from = source(module, (x,))
    compiled, = OnnxRuntimeBackend().compile([made_from])
    return described(compiled), compiled.payload["model"], weights_of(compiled, made_from.exported)


def run(described, model: bytes, weights, x: torch.Tensor):
    kernel = OnnxRuntimeEngine().load(described, {"model": memoryview(model)}, weights, EngineOptions())
    return kernel([x.numpy()])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("places", [(16,), (1, 7, 32)])
def test_blocks_compute_what_the_whole_does(name, places):
    module, shape = MODELS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    known, model, weights = region(module.eval(), x)
    axes = onnx_blocks.linear_axes(model)
    assert axes and set(axes) <= set(weights)
    made = onnx_blocks.divide(model, dict.fromkeys(axes, places))
    blocks = {new: weights[what] if isinstance(what, str) else np.take(
        weights[what.of], range(what.start, what.stop), what.axis) for new, what in made.weights.items()}
    kept = {what for what in made.weights.values() if isinstance(what, str)}
    assert not kept & set(axes) and len(blocks) >= len(axes) * (len(places) + 1)
    uses = tuple(WeightUse(name=new, tensor=new) for new in blocks)
    divided = known.__class__(**{**{f: getattr(known, f) for f in known.__struct_fields__}, "weights": uses})
    given, expected = run(divided, made.model, blocks, x), run(known, model, weights, x)
    for one, other in zip(given, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert made == onnx_blocks.divide(model, dict.fromkeys(axes, places))


def test_a_weight_that_something_else_reads_is_left():
    _, model, weights = region(Looked().eval(), torch.randn(2, 48))
    assert weights and onnx_blocks.linear_axes(model) == {}


def test_a_model_of_other_operators_has_nothing_to_divide():
    _, model, _ = region(nn.Conv2d(3, 64, 3).eval(), torch.randn(1, 3, 8, 8))
    assert onnx_blocks.linear_axes(model) == {}

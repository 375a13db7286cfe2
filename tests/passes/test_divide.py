"""Regions of many weights are divided at the layers; what is computed stays the same."""
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile import api
from elastic_compile.passes import STANDARD, DivideLarge
from elastic_runtime import schema

#: Wide enough for biases to stay outside the models.
WIDTH, TOKENS = 256, 3


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    """Regions are divided that read more than one layer's weights."""
    matrix = WIDTH * WIDTH * 4
    monkeypatch.setattr(api, "STANDARD", tuple(
        DivideLarge(from_bytes=7 * matrix, part_bytes=3 * matrix) if isinstance(one, DivideLarge) else one
        for one in STANDARD))


class Layer(nn.Module):
    """Attention over rows and two residual branches; twelve matrices' worth of weights."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, condition):
        q, k, v = (part(self.norm(x) * condition) for part in self.attention[:3])
        x = x + self.attention[3](torch.softmax(q @ k.transpose(-1, -2), -1) @ v)
        return x + self.feed_forward(self.norm(x))


class Stack(nn.Module):
    """`depth` layers, then two ways through their first and last again; each layer's mean is a result too."""

    def __init__(self, depth: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(depth))
        self.condition = nn.Linear(1, WIDTH)

    def activate(self, config):
        self.running = config

    def forward(self, x):
        condition = torch.sigmoid(self.condition(x.sum().view(1)))
        means = []
        for number in getattr(self, "running", range(len(self.layers))):
            x = self.layers[number](x, condition)
            means.append(x.mean(-1))
        x = self.layers[0](x, condition) if x.sum() > 0 else self.layers[-1](self.layers[0](x, condition), condition)
        return x, means


def inputs() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, TOKENS, WIDTH) + shift for shift in (-1.0, 0.0, 1.0, 2.0)]


def regions_of(program: schema.Program) -> list[tuple[str, ...]]:
    return [tuple(region.files.values()) for region in program.regions]


def same(module: nn.Module, model: er.Model) -> None:
    for x in inputs():
        with torch.no_grad():
            expected, means = module(x)
        given, others = model(x.numpy())
        np.testing.assert_allclose(given, expected.numpy(), rtol=1e-4, atol=1e-5)
        for one, other in zip(means, others, strict=True):
            np.testing.assert_allclose(other, one.numpy(), rtol=1e-4, atol=1e-5)


def test_parts_are_layers_and_equal_ones_have_one_model(tmp_path):
    torch.manual_seed(0)
    module = Stack().eval()
    compiled = ec.compile(module, [(x,) for x in inputs()])
    files = regions_of(compiled.program)
    assert len(files) >= 5
    assert max(Counter(files).values()) >= 2, "layers of one structure were compiled one by one"
    for region in compiled.program.regions:
        assert all(len(port.type.shape) <= 3 for port in region.outputs)
        size = sum(compiled.weights[use.tensor].nbytes for use in region.weights)
        assert size <= 13 * WIDTH * WIDTH * 4 + 16 * WIDTH * 4, "a part is more than one layer"
    compiled.save(tmp_path / "b")
    same(module, er.load(tmp_path / "b", self_test=True))


def test_subnets_have_the_layers_in_common(tmp_path):
    torch.manual_seed(0)
    module = Stack(6).eval()
    family = ec.compile_family(
        module, {"all": [0, 1, 2, 3, 4, 5], "some": [0, 2, 5]}, [(x,) for x in inputs()], backend="onnxruntime")
    _, taken_over = family.regions
    assert taken_over >= 2
    family.save(tmp_path / "b")
    model = er.load(tmp_path / "b", self_test=True)
    for name, config in (("some", [0, 2, 5]), ("all", [0, 1, 2, 3, 4, 5])):
        model.switch(name)
        module.activate(config)
        same(module, model)


def test_a_program_of_small_regions_is_left_alone():
    module = Stack(1).eval()
    program = ec.compile(module, [(x,) for x in inputs()]).source
    assert DivideLarge()(program) is program


class Free(nn.Module):
    """Layers over the rows that are positive, whose number some of them read."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(12))

    def forward(self, x):
        x = x[x.sum(-1) > 0]
        for layer in self.layers:
            x = torch.tanh(layer(x)) + torch.arange(x.shape[0], dtype=torch.float32)[:, None] / 8
        return x


def test_sizes_may_be_free(tmp_path):
    torch.manual_seed(0)
    module = Free().eval()
    compiled = ec.compile(module, [(torch.randn(4, WIDTH),)])
    assert len(compiled.program.regions) >= 4
    assert max(Counter(regions_of(compiled.program)).values()) >= 2
    compiled.save(tmp_path / "b")
    model = er.load(tmp_path / "b", self_test=True)
    for rows in range(5):
        x = torch.randn(4, WIDTH).abs() * torch.where(torch.arange(4) < rows, 1.0, -1.0)[:, None]
        np.testing.assert_allclose(model(x.numpy()), module(x).detach().numpy(), rtol=1e-4, atol=1e-5)

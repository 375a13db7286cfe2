"""Caches that grow leave the regions and are written in place; everything else stays as it was."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile import api
from elastic_compile.passes import STANDARD, AppendInPlace
from elastic_runtime import schema
from elastic_runtime.growing import Buffer


@pytest.fixture
def eager_to_append(monkeypatch):
    """Growing pays from the first byte."""
    monkeypatch.setattr(api, "STANDARD", tuple(
        AppendInPlace(0) if isinstance(one, AppendInPlace) else one for one in STANDARD))


def appends(program: schema.Program) -> list[schema.AppendStep]:
    return [step for block in program.blocks for step in block.steps if isinstance(step, schema.AppendStep)]


class Layer(nn.Module):
    def __init__(self, axis: int):
        super().__init__()
        self.axis, self.cache = axis, None
        self.key = nn.Linear(4, 4)

    def forward(self, x):
        k = self.key(x)
        if self.cache is not None:
            k = torch.cat((self.cache, k), self.axis)
        self.cache = k
        return x + k.mean(self.axis, keepdim=True)


class Cached(nn.Module):
    """Two layers whose caches grow for three calls, and are then forgotten."""

    def __init__(self, axis: int, length: int = 3):
        super().__init__()
        self.layers = nn.ModuleList([Layer(axis), Layer(axis)])
        self.calls, self.length = 0, length

    def forward(self, x):
        # the rows of one call are as many as the calls so far, so that every call has a shape of its own
        x = torch.cat([x] * (self.calls + 1), self.layers[0].axis)
        for layer in self.layers:
            x = layer(x)
        self.calls += 1
        if self.calls == self.length:
            self.calls = 0
            for layer in self.layers:
                layer.cache = None
        return x


def compiled(module: nn.Module, x: torch.Tensor, tmp_path, calls: int = 3) -> er.Model:
    ec.compile(module.eval(), [(x,)] * calls).save(tmp_path / "bundle")
    return er.load(tmp_path / "bundle", self_test=True)


def same_calls(module: nn.Module, model: er.Model, shape: tuple[int, ...], calls: int) -> None:
    """Inputs differ, and results are kept to the end: nothing that was given out may change later."""
    pairs = []
    for _ in range(calls):
        x = torch.randn(shape)
        with torch.no_grad():
            pairs.append((module(x).numpy(), model(x.numpy())))
    for expected, given in pairs:
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("axis", "shape"), [(0, (2, 3, 4)), (1, (1, 2, 4))])
def test_caches_are_appended_to_in_place(axis, shape, eager_to_append, tmp_path):
    torch.manual_seed(0)
    module = Cached(axis)
    model = compiled(module, torch.randn(shape), tmp_path)
    assert [step.capacity for step in appends(model.program)] == [shape[axis] * 6] * 4
    same_calls(module, model, shape, 7)
    model(np.zeros(shape, np.float32))
    grown = [value for value in model._state if Buffer.of(value) is not None]
    assert len(grown) == 2 and all(value.shape[axis] == shape[axis] * 3 for value in grown)
    held = [value.ctypes.data for value in grown]
    assert not [value for value in held if held.count(value) > 1]


def test_small_caches_stay_in_their_regions(tmp_path):
    torch.manual_seed(0)
    module = Cached(0)
    model = compiled(module, torch.randn(2, 3, 4), tmp_path)
    assert not appends(model.program)
    same_calls(module, model, (2, 3, 4), 4)


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 3, 4))])
def test_a_cache_whose_rows_are_not_behind_each_other_in_memory_stays(axis, shape, eager_to_append, tmp_path):
    torch.manual_seed(0)
    module = Cached(axis)
    model = compiled(module, torch.randn(shape), tmp_path)
    assert not appends(model.program)
    same_calls(module, model, shape, 4)


def test_a_concatenation_that_does_not_live_on_stays(eager_to_append, tmp_path):
    class Plain(nn.Module):
        def forward(self, x, y):
            return torch.cat((x, y * 2)), x

    ec.compile(Plain().eval(), [(torch.ones(2, 3), torch.ones(1, 3))]).save(tmp_path / "bundle")
    assert not appends(er.load(tmp_path / "bundle").program)


class Diamond(nn.Module):
    """The rows depend on the grown tensor of the other cache, and the grown tensors are results too."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.calls = None, None, None, 0

    def forward(self, x):
        if self.calls == 0:
            self.first, self.second, self.third = x, x * 2, x * 3
        else:
            third = torch.cat((self.third, x.exp()))
            self.first = torch.cat((self.first, x + 1))
            self.second = torch.cat((self.second, x + self.first.sum(0, keepdim=True)))
            self.third = third
        out = self.second.sum() + self.third.sum(), self.first
        self.calls += 1
        if self.calls == 3:
            self.first, self.second, self.third, self.calls = None, None, None, 0
        return out


def test_growing_tensors_that_depend_on_each_other_and_are_given_out(eager_to_append, tmp_path):
    module = Diamond()
    model = compiled(module, torch.randn(1, 3), tmp_path)
    assert len(appends(model.program)) == 6
    kept = []
    for _ in range(7):
        x = torch.randn(1, 3)
        with torch.no_grad():
            kept.append((module(x), model(x.numpy())))
        kept[-1][1][1][...] = kept[-1][0][1].numpy()
    for (total, first), (given, given_first) in kept:
        np.testing.assert_allclose(given, total.numpy(), rtol=1e-5)
        np.testing.assert_allclose(given_first, first.numpy(), rtol=1e-5)

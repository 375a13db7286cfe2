"""What depends on unchanging state alone is computed in one call and kept; what does not is left where it is."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_runtime import schema


class Conditioned(nn.Module):
    """A condition set by the first of `length` calls, which each of them projects anew."""

    def __init__(self, length: int = 4):
        super().__init__()
        self.embed, self.project, self.mix = nn.Embedding(5, 16), nn.Linear(16, 32), nn.Linear(16, 16)
        self.length, self.calls, self.condition = length, 0, None

    def forward(self, label, x):
        if self.calls == 0:
            self.condition = self.embed(label)
        scale, shift = self.project(torch.tanh(self.condition)).chunk(2, -1)
        x = self.mix(x) * (1 + scale) + shift * self.calls
        self.calls += 1
        if self.calls == self.length:
            self.calls, self.condition = 0, None
        return x


def compiled(module: nn.Module, calls: list[tuple], tmp_path) -> er.Model:
    ec.compile(module.eval(), calls).save(tmp_path / "bundle")
    return er.load(tmp_path / "bundle", self_test=True)


def readers(model: er.Model, weight: str) -> int:
    """How many steps run a region that reads a weight."""
    steps = [step for block in model.program.blocks for step in block.steps if isinstance(step, schema.RegionStep)]
    return sum(use.tensor == weight for step in steps for use in model.program.regions[step.region].weights)


def equal(module: nn.Module, model: er.Model, calls: list[tuple]) -> None:
    for args in calls:
        with torch.no_grad():
            expected = module(*args)
        given = model(*(arg.numpy() if isinstance(arg, torch.Tensor) else arg for arg in args))
        np.testing.assert_allclose(given, expected.numpy(), rtol=1e-5, atol=1e-6)


def given(count: int) -> list[tuple]:
    return [(torch.randint(5, (2,)), torch.randn(2, 16)) for _ in range(count)]


def test_a_projection_of_the_condition_is_computed_once_for_all_calls(tmp_path):
    torch.manual_seed(0)
    module = Conditioned()
    model = compiled(module, given(4), tmp_path)
    assert readers(model, "project.weight") == 1
    assert readers(model, "mix.weight") == 4
    equal(module, model, given(13))


class Elsewhere(Conditioned):
    """The call that sets the condition does not project it."""

    def forward(self, label, x):
        if self.calls == 0:
            self.condition, self.calls = self.embed(label), 1
            return x
        return super().forward(label, x)


def test_a_projection_that_the_first_call_does_not_need_moves_there(tmp_path):
    torch.manual_seed(0)
    module = Elsewhere()
    model = compiled(module, given(4), tmp_path)
    assert readers(model, "project.weight") == 1
    equal(module, model, given(13))


class Branching(nn.Module):
    """A condition that survives any number of calls, read behind a branch, until a call sets another."""

    def __init__(self):
        super().__init__()
        self.project, self.mix, self.condition = nn.Linear(16, 16), nn.Linear(16, 16), None

    def forward(self, x):
        if self.condition is None or x.sum() > 5:
            self.condition = x * 2
            return x
        if x.sum() > 0:
            x = self.mix(x)
            if x.mean() > 0:
                return x + self.project(self.condition)
        return x - self.project(self.condition)


def test_a_condition_that_calls_keep_or_replace_on_different_paths(tmp_path):
    torch.manual_seed(0)
    module = Branching()
    calls = [(torch.full((1, 16), value),) for value in (0.1, 0.2, -0.3, 0.01, 1.0, 0.15, -0.2, 0.02, 2.0)]
    model = compiled(module, calls, tmp_path)
    setting = {number for number, block in enumerate(model.program.blocks)
               for step in block.steps if hasattr(step, "region")
               and any(use.tensor == "project.weight" for use in model.program.regions[step.region].weights)}
    module.condition = None
    taken = []
    for x, in [*calls, *((torch.randn(1, 16) * 0.5,) for _ in range(40))]:
        with torch.no_grad():
            expected = module(x).numpy()
        np.testing.assert_allclose(model(x.numpy()), expected, rtol=1e-5, atol=1e-6)
        taken.append(bool(setting & set(model.last_path)))
    assert 0 < sum(taken) < len(taken) / 2


class Changing(Conditioned):
    """The condition changes a little in every call: nothing of it can be kept."""

    def forward(self, label, x):
        out = super().forward(label, x)
        if self.condition is not None:
            self.condition = self.condition * 0.5
        return out


class Large(nn.Module):
    """The result would take more memory than the weights that make it."""

    def __init__(self):
        super().__init__()
        self.project, self.calls, self.condition = nn.Linear(2, 256), 0, None

    def forward(self, label, x):
        if self.calls == 0:
            self.condition = x.reshape(-1, 2)
        x = x + self.project(self.condition).mean()
        self.calls += 1
        if self.calls == 3:
            self.calls, self.condition = 0, None
        return x


@pytest.mark.parametrize(("kind", "modes"), [(Changing, 4), (Large, 3)])
def test_what_changes_or_is_too_large_is_computed_anew(kind, modes, tmp_path):
    torch.manual_seed(0)
    module = kind()
    model = compiled(module, given(modes), tmp_path)
    assert readers(model, "project.weight") == modes
    equal(module, model, given(3 * modes + 1))

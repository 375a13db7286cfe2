"""Statistics of each subnet are those that a calibration of the extracted subnet gives, computed here by hand."""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.elastic.adapters import Sliced
from tests.elastic.supernets import ActiveNet, scramble

WIDTHS = {"w512": 512, "w320": 320, "w256": 256}


class Normed(nn.Module):
    """Two batch norms, of which the second sees what the first's statistics make of its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 1), nn.BatchNorm2d(width, eps=1e-3)
        self.second, self.between = nn.Linear(width, width), nn.BatchNorm1d(width, momentum=0.3)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x))).mean((2, 3))
        return self.head(torch.tanh(self.between(self.second(x))))


class ByHand(nn.Module):
    """In place of a batch norm: normalises by the batch at hand, and remembers its mean and unbiased variance."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.seen = norm, []

    def forward(self, x):
        axes = [axis for axis in range(x.dim()) if axis != 1]
        like = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        count, mean = x.numel() // x.shape[1], x.double().mean(axes)
        variance = ((x.double() - mean.view(like)) ** 2).mean(axes)
        self.seen.append((mean, variance * count / (count - 1)))
        scaled = (x.double() - mean.view(like)) / (variance.view(like) + self.norm.eps).sqrt()
        return (scaled * self.norm.weight.double().view(like) + self.norm.bias.double().view(like)).float()


def calibrated(module: nn.Module, calls) -> nn.Module:
    made = copy.deepcopy(module)
    made.norm, made.between = ByHand(made.norm), ByHand(made.between)
    with torch.no_grad():
        for call in calls:
            made(*call)
    done = copy.deepcopy(module)
    for name in ("norm", "between"):
        means, variances = zip(*getattr(made, name).seen)
        done.get_buffer(f"{name}.running_mean").data = torch.stack(means).mean(0).float()
        done.get_buffer(f"{name}.running_var").data = torch.stack(variances).mean(0).float()
    return done.eval()


def test_each_subnet_has_the_statistics_of_a_calibration_of_itself(tmp_path):
    net = scramble(Normed(512))
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    supernet, generator = Sliced(net, Normed), torch.Generator().manual_seed(2)
    calls = [(torch.randn(n, 3, 5, 5, generator=generator) * n,) for n in (4, 9, 6)]
    x = torch.randn(3, 3, 5, 5, generator=generator)
    family = ec.compile_family(supernet, WIDTHS, [(x,)], recalibrate=calls)
    family.save(tmp_path / "f.elastic")
    model = er.load(tmp_path / "f.elastic")
    for name, width in WIDTHS.items():
        expected = calibrated(supernet.subnet(width), calls)
        held = family.programs[name].weights
        for buffer, value in expected.named_buffers():
            if buffer in held:
                np.testing.assert_allclose(held[buffer], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {buffer}")
        assert {"norm.running_mean", "norm.running_var", "between.running_mean"} <= set(held)
        model.switch(name)
        with torch.no_grad():
            np.testing.assert_allclose(model(x.numpy()), expected(x), rtol=1e-3, atol=1e-4)
            apart = (expected(x) - supernet.subnet(width)(x)).abs().max()
        assert apart > 0.05, "the supernet's statistics would be noticed"
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, kept[name]), "the supernet keeps its own"


def test_a_batch_norm_that_the_calibration_cannot_reach_is_told():
    """The forward slices the supernet's statistics itself: calls through it leave no trace in them."""
    x = torch.randn(4, 16)
    with pytest.raises(ec.ExampleError, match="subnet w32: the calibration reaches none of the batch norms"):
        ec.compile_family(scramble(ActiveNet()), {"w32": 32, "w16": 16}, [(x,)], recalibrate=[(x,)])


def test_a_function_may_calibrate_what_calls_do_not_reach():
    def shift(module):
        seen.append(module)
        module.norm.running_mean[:] = 3

    seen, x = [], torch.randn(4, 16)
    family = ec.compile_family(scramble(ActiveNet()), {"w32": 32}, [(x,)], recalibrate=shift)
    assert len(seen) == 1 and family.programs

"""Example calls are captured and compared as they are written: what a decorator of forward sees of a call counts."""
from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.capture.signature import normalise, shapes
from elastic_compile.errors import Refusal, VerificationError

X = torch.tensor([1.0, 2.0])


def completing(forward):
    """Gives forward an argument of its own where the caller leaves it out, as some libraries do."""

    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        if "scale" in kwargs or len(args) > 1:
            return forward(self, *args, **kwargs) + 1
        return forward(self, *args, scale=3, **kwargs)

    return wrapper


class Completed(nn.Module):
    @completing
    def forward(self, x, scale=2, *, shift=0):
        return x * scale + shift if x.sum() > 0 else x


CALLS = [ec.call(X), ec.call(x=X), ec.call(X, 2), ec.call(X, scale=2), ec.call(X, shift=5), ec.call(x=X, scale=4)]


@pytest.mark.parametrize("one", CALLS)
def test_a_call_is_captured_in_the_form_in_which_it_is_written(one, tmp_path):
    ec.compile(Completed().eval(), [one]).save(tmp_path / "m.elastic")
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.Tensor.numpy, (one.args, one.kwargs))
    given = er.load(tmp_path / "m.elastic")(*args, **kwargs)
    assert np.array_equal(given, Completed()(*one.args, **one.kwargs).numpy())


def test_two_forms_of_one_call_that_differ_are_not_accepted():
    with pytest.raises(VerificationError):
        ec.compile(Completed().eval(), [(X,), (X, 2)])


@pytest.mark.parametrize("one", CALLS)
def test_arguments_are_given_as_in_the_example(one):
    shape, = shapes(Completed().forward, normalise([one]))
    args, kwargs = shape.arguments(shape.leaves_of(one), one)
    assert (args, kwargs) == (one.args, one.kwargs)


class Seeded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        torch.manual_seed(3)
        return x + torch.randn(2)


class SeedsItself(nn.Module):
    def forward(self, x):
        return Seeded.apply(x)


def test_a_seed_that_native_code_sets_is_refused():
    """The program's own seed makes its numbers the same in each call, which the runtime's seed would not."""
    before = torch.get_rng_state()
    with pytest.raises(Refusal) as refused:
        ec.compile(SeedsItself().eval(), [(X,)])
    assert refused.value.code == "EC121" and "return Seeded.apply(x)" in str(refused.value)
    assert torch.equal(torch.get_rng_state(), before)

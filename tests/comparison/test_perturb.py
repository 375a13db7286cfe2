"""Varied calls look like the examples, differ from them, and are the same for the same seed."""
from __future__ import annotations

from typing import NamedTuple

import torch

from elastic_compile.capture.signature import call, normalise, shapes
from elastic_compile.perturb import varied


class Pair(NamedTuple):
    ids: torch.Tensor
    mask: torch.Tensor


def function(x, pair, *, n, name="a"):
    raise NotImplementedError


EXAMPLES = [
    call(torch.randn(3, 4, dtype=torch.float64), Pair(torch.tensor([5, 9, 7]), torch.tensor([True, False])), n=n)
    for n in (2, 6)
]


def some(seed: int = 0):
    return list(varied(shapes(function, normalise(EXAMPLES)), 30, seed))


def test_structure_dtypes_and_shapes_are_kept():
    for one in some():
        x, pair = one.args
        assert type(pair) is Pair and x.dtype == torch.float64 and x.shape == (3, 4)
        assert pair.mask.dtype == torch.bool and pair.ids.dtype == torch.int64
        assert one.kwargs["name"] == "a" if "name" in one.kwargs else True


def test_integers_stay_between_those_seen_and_numbers_are_those_seen():
    calls = some()
    assert all(5 <= int(value) <= 9 for one in calls for value in one.args[1].ids)
    assert {one.kwargs["n"] for one in calls} == {2, 6}


def test_floats_differ_from_the_examples_and_from_each_other():
    floats = [one.args[0] for one in some()]
    assert not any(torch.equal(a, b) for i, a in enumerate(floats) for b in floats[i + 1:])


def test_the_seed_decides():
    def numbers(calls):
        return torch.stack([one.args[0] for one in calls])
    assert torch.equal(numbers(some(1)), numbers(some(1)))
    assert not torch.equal(numbers(some(1)), numbers(some(2)))


def test_empty_and_constant_tensors():
    examples = normalise([(torch.empty(0, 3), torch.zeros(4))])
    one, = varied(shapes(lambda a, b: None, examples), 1, 0)
    assert one.args[0].shape == (0, 3) and one.args[1].isfinite().all()

"""If-conversion, tail duplication and speculation: exact to the bit, and refused where a side must not be run."""
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.passes.branches import IfConvert, Illegal, Speculate, TailDuplicate
from elastic_compile.passes.formation import CONVERTED, KINDS
from elastic_compile.program.ir import jumps
from elastic_runtime import schema
from tests.fuzz import torch_engine
from tests.passes.everywhere import formed_everywhere


def formed(module, calls, path, kinds=KINDS):
    with formed_everywhere(kinds) as log:
        compiled = ec.compile(module.eval(), calls)
    compiled.save(path / "formed.elastic")
    return compiled, er.load(path / "formed.elastic"), log


class Choose(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, flag, x, y):
        return x.to(self.dtype) if flag.sum() > 0 else y.to(self.dtype)


SPECIAL = [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1.0, -1.5]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("shape", [(7,), (1, 7), (7, 1), ()], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_selection_is_exact_to_the_bit(dtype, shape, tmp_path):
    whole = not dtype.is_floating_point
    values = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0] if whole else SPECIAL)
    x, y = values, values.roll(3)
    pick = (lambda t: t[0].reshape(())) if shape == () else (lambda t: t.reshape(shape))
    calls = [(torch.tensor([sign]), pick(x), pick(y)) for sign in (1.0, -1.0)]
    compiled, model, _ = formed(Choose(dtype), calls, tmp_path, (CONVERTED,))
    assert len(compiled.program.blocks) == 1
    for (flag, *given), wanted in zip(calls, (pick(x), pick(y))):
        result = model(flag.numpy(), *(one.numpy() for one in given))
        assert result.tobytes() == wanted.to(dtype).numpy().tobytes()


class Guarded(torch.nn.Module):
    """The side that is not taken divides by zero and takes a logarithm of a negative number."""

    def forward(self, x):
        total, steps = x.sum(), 0
        if total > 0:
            x, steps = torch.log(x) / total, steps + 1
        if x[0, 0] > 0:
            x, steps = torch.sqrt(x) * float("inf"), steps + 2
        return {"x": x, "steps": steps, "sure": total > 0}


def test_nothing_of_the_side_that_is_not_taken_is_left(tmp_path):
    calls = [(torch.tensor([[a, b]]),) for a, b in itertools.product((-3.0, 0.0, 0.5, 20.0), repeat=2)]
    compiled, model, log = formed(Guarded(), calls, tmp_path, (CONVERTED,))
    assert set(log) == {CONVERTED} and len(compiled.program.blocks) == 1
    for call in calls:
        wanted, given = Guarded()(*call), model(call[0].numpy())
        assert np.array_equal(given["x"], wanted["x"].numpy(), equal_nan=True)
        assert (given["steps"], given["sure"]) == (wanted["steps"], wanted["sure"])
        assert type(given["steps"]) is int


class EarlyReturn(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return {"y": x * 2, "exit": 0, "sure": 0.5}
        return {"y": x - 1, "exit": 1, "sure": 0.25}


def test_two_returns_become_one(tmp_path):
    calls = [(torch.ones(3),), (-torch.ones(3),)]
    compiled, model, _ = formed(EarlyReturn(), calls, tmp_path, (CONVERTED,))
    assert len(compiled.program.blocks) == 1
    for call in calls:
        wanted, given = EarlyReturn()(*call), model(call[0].numpy())
        assert np.array_equal(given["y"], wanted["y"].numpy())
        assert (given["exit"], given["sure"]) == (wanted["exit"], wanted["sure"])



SIDES = {
    "index": (lambda x, i: x[i], "index"),
    "integer division": (lambda x, i: (7 // i).float() + x, "on integers"),
    "remainder": (lambda x, i: (7 % i).float() + x, "on integers"),
    "data-dependent size": (lambda x, i: x[x > 0].sum().reshape(1) + x, "may fail|only data decides"),
    "random": (lambda x, i: x + torch.rand(4), "random"),
    "raise": (None, "one place"),
    "gather": (lambda x, i: torch.gather(x, 0, i), "may fail"),
    "host division": (lambda x, i: x + 1 / x.max().item(), "may fail|one place"),
}


class Side(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.side = SIDES[name][0]

    def forward(self, x, i):
        if x.sum() > 0:
            if self.side is None:
                raise ValueError("positive")
            x = self.side(x, i)
        return x * 2


@pytest.mark.parametrize("name", SIDES)
def test_a_side_that_may_fail_or_has_an_effect_is_not_run(name):
    calls = [(torch.ones(4), torch.tensor([1, 2, 3, 1])), (-torch.ones(4), torch.tensor([1, 2, 3, 1]))]
    with torch_engine.installed():
        program = ec.compile(Side(name).eval(), calls, backend=torch_engine.NAME).source
    branch = next(b for b, block in enumerate(program.blocks) if isinstance(block.terminator, schema.Branch))
    with pytest.raises(Illegal, match=SIDES[name][1]):
        IfConvert(branch)(program)
    if name not in ("raise", "host division"):
        with pytest.raises(Illegal):
            Speculate(branch, 0)(program)


def test_blocks_that_end_otherwise_are_refused():
    program = ec.compile(EarlyReturn().eval(), [(torch.ones(3),)]).source
    leaf = next(b for b, block in enumerate(program.blocks) if not jumps(block.terminator))
    for change in (IfConvert(leaf), Speculate(leaf, 0), TailDuplicate(leaf)):
        with pytest.raises(Illegal):
            change(program)


class Loop(torch.nn.Module):
    def forward(self, x):
        rounds = 0
        while x.abs().max() > 1:
            x, rounds = x * 0.5, rounds + 1
        return x, rounds


def test_a_loop_needs_one_dispatch_per_round(tmp_path):
    calls = [(torch.full((2,), 100.0),), (torch.full((2,), 0.5),)]
    _, model, _ = formed(Loop(), calls, tmp_path, ("tail-duplicated",))
    for call in calls:
        x, rounds = Loop()(*call)
        given = model(call[0].numpy())
        assert np.array_equal(given[0], x.numpy()) and given[1] == rounds
    model.profile(True)
    model(calls[0][0].numpy())
    ran = sum(region.calls for region in model.statistics().regions)
    assert ran == 1 + Loop()(*calls[0])[1]

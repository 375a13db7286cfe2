"""Exploration: growth with the number of decisions, loops, replay, and what must not be joined."""
from __future__ import annotations

import random
import time

import pytest
import torch
from torch import nn

from elastic_compile.capture.build import build
from elastic_compile.capture.explore import EntryInput, explore
from elastic_compile.capture.liveness import Liveness
from elastic_compile.capture.signature import normalise, shapes
from elastic_compile.capture.tracer import Decision, Goto, OpEvent, Tracer
from elastic_compile.errors import Refusal
from elastic_compile.passes import STANDARD, run
from elastic_compile.refusals import Stopped
from examples.benchmarks.growth import Loop


def explored(module, *args):
    module.eval()
    found = shapes(module.forward, normalise([args]))
    with torch.no_grad():
        return explore(module, [EntryInput(s.leaves, s.arguments) for s in found], [("self", module)]), found


def program(module, *args):
    exploration, found = explored(module, *args)
    return run(build("p", exploration, [s.params for s in found]), STANDARD)


class Gates(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(n))

    def forward(self, x):
        for layer in self.layers:
            if x.mean() > 0:
                x = x + layer(x)
        return x


@pytest.mark.parametrize("n", [1, 4, 16])
def test_blocks_grow_with_the_number_of_gates(n):
    assert len(program(Gates(n), torch.ones(1, 2)).blocks) == 2 * n + 1


def test_operations_are_recorded_once_however_many_paths_run_through_them():
    exploration, _ = explored(Gates(12), torch.ones(1, 2))
    events = [e for s in Liveness(exploration.roots[0].segment, exploration.tracer).order for e in s.events]
    linear = [e for e in events if isinstance(e, OpEvent) and e.target is torch.ops.aten.linear.default]
    assert len(linear) == 12


def test_a_loop_costs_the_same_whatever_its_bound():
    sizes = {limit: len(program(Loop(limit, width=2), torch.ones(1, 2)).blocks) for limit in (10, 1000)}
    assert sizes[10] == sizes[1000]


class Hidden(nn.Module):
    """The temporaries of an expression are alive while a callee decides."""

    def inner(self, x):
        if x.sum() > 0:
            return x * 2
        return x * 3

    def forward(self, x):
        first = [self.inner(x), self.inner(x + 1)]
        return first + [self.inner(x - 1)] * len(first)


def test_joins_inside_expressions_keep_their_temporaries():
    exploration, _ = explored(Hidden(), torch.ones(2))
    live = Liveness(exploration.roots[0].segment, exploration.tracer)
    assert not live.unaccounted
    joins = [s for s in live.order if live.graph.in_degree(s) > 1]
    assert len(joins) == 3


class Throughnative(nn.Module):
    """`sorted` is C: what it holds while it calls the key is invisible."""

    def forward(self, x):
        def order(i):
            if x[i] > 0:
                return 1
            return 0

        picked = sorted([0, 1], key=order)
        return x[picked[0]] * 2


def test_nothing_is_joined_below_a_native_callee():
    exploration, _ = explored(Throughnative(), torch.ones(2))
    live = Liveness(exploration.roots[0].segment, exploration.tracer)
    below = [s for s in live.order if s.join and any(code.co_name == "order" for code, _ in s.join.position)]
    assert below == []


class Alias(nn.Module):
    """A view taken before a branch sees what the branch writes."""

    def forward(self, x):
        y = x * 2
        view = y[0]
        if x.sum() > 0:
            y.add_(1)
        return view * 1


def test_a_mutation_under_a_branch_is_seen_through_the_alias():
    compiled = program(Alias(), torch.ones(2, 2))
    from elastic_compile.program.export import run_eager

    for x in (torch.ones(2, 2), -torch.ones(2, 2)):
        values, block = {compiled.entries[0].inputs[0]: x}, compiled.entries[0].block
        while True:
            here = compiled.blocks[block]
            for step in here.steps:
                outputs = run_eager(compiled, compiled.graphs[step.region], [values[v] for v in step.inputs])
                values.update(zip(step.outputs, outputs))
            end = here.terminator
            if type(end).__name__ == "Return":
                assert torch.equal(values[end.tree.id], Alias()(x))
                break
            if type(end).__name__ == "Branch":
                end = end.then if bool(values[end.cond]) else end.orelse
            block = end.block
            values = dict(zip(compiled.blocks[block].params, [values[a] for a in end.args]))


class Clock(nn.Module):
    def forward(self, x):
        return x * random.random()


class Timed(nn.Module):
    def forward(self, x):
        return x * time.perf_counter()


class Global(nn.Module):
    def forward(self, x):
        global SEEN
        SEEN = 1
        return x


SEEN = 0


@pytest.mark.parametrize(("module", "code"), [(Clock(), "EC121"), (Timed(), "EC121"), (Global(), "EC153")])
def test_what_the_host_decides_is_refused(module, code):
    with pytest.raises(Refusal) as refused:
        explored(module, torch.ones(2))
    assert refused.value.code == code and refused.value.line


class Swallows(nn.Module):
    """A handler of the program must not catch a refusal and go on with the other path."""

    def forward(self, x):
        try:
            return torch.from_numpy(x.numpy() * 2)
        except Exception:
            return x


def test_no_handler_of_the_program_swallows_a_refusal():
    with pytest.raises(Refusal) as refused:
        explored(Swallows(), torch.ones(2))
    assert refused.value.code == "EC134"


class Drifts(nn.Module):
    """Not deterministic: each run does another operation."""

    runs = iter(range(1_000_000))

    def forward(self, x):
        x = x + 1 if next(DRIFT) % 2 else x * 2
        if x.sum() > 0:
            x = x - 1
        return x


DRIFT = iter(range(1_000_000))


def test_a_program_that_differs_from_run_to_run_is_refused():
    with pytest.raises(Refusal) as refused:
        explored(Drifts(), torch.ones(2))
    assert refused.value.code in ("EC120", "EC150")


def test_the_module_is_left_as_it_was():
    module = Gates(3)
    before = dict(module.named_parameters())
    explored(module, torch.ones(1, 2))
    assert all(module.get_parameter(name) is tensor for name, tensor in before.items())


def test_liveness_reports_a_live_in_that_a_join_does_not_list():
    """The oracle can fail: a join that forgets one of its values is found."""
    exploration, _ = explored(Gates(2), torch.ones(1, 2))
    live = Liveness(exploration.roots[0].segment, exploration.tracer)
    joined = next(s for s in live.order if live.graph.in_degree(s) > 1)
    joined.join.values = ()
    assert joined.join.position in Liveness(exploration.roots[0].segment, exploration.tracer).unaccounted


def test_both_outcomes_of_every_decision_are_explored():
    exploration, _ = explored(Gates(3), torch.ones(1, 2))
    live = Liveness(exploration.roots[0].segment, exploration.tracer)
    decisions = [s.end for s in live.order if isinstance(s.end, Decision)]
    assert len(decisions) == 3
    assert all(d.then.end is not None and d.orelse.end is not None for d in decisions)
    assert any(isinstance(s.end, Goto) for s in live.order)


def test_a_guard_inside_pytorch_never_raises_through_it():
    tracer = Tracer()
    tracer.begin(tracer.new_segment(None))
    _, symbolic = tracer.scalar("int")
    assert tracer.decide_expr(symbolic.node.expr, int) == 1
    assert tracer.dead and isinstance(tracer.failure, Stopped)


SCALES = {"scale": 2.0}


class WritesGlobal(nn.Module):
    """Counts in a dictionary that only a function names."""

    def forward(self, x):
        SCALES["scale"] = SCALES["scale"] + 1
        return x * SCALES["scale"]


def test_a_number_that_a_function_keeps_in_a_global_is_refused_with_its_place():
    with pytest.raises(Refusal) as refused:
        program(WritesGlobal(), torch.ones(2, 3))
    assert "SCALES" in str(refused.value)
    assert SCALES == {"scale": 2.0}


class SetsDtype(nn.Module):
    def forward(self, x):
        try:
            torch.set_default_dtype(torch.float64)
            if x.sum() > 0:
                x = x + 1
            return x + torch.ones(3, dtype=torch.float32).sum()
        finally:
            torch.set_default_dtype(torch.float32)


def test_no_path_begins_with_the_default_dtype_that_another_ended_with():
    program(SetsDtype(), torch.ones(2, 3))
    assert torch.get_default_dtype() == torch.float32

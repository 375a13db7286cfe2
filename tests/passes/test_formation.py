"""The cost model: what it takes and leaves on programs whose costs are given, and what a compilation reports."""
from __future__ import annotations

import dataclasses

import pytest
import torch

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile import tuning
from elastic_compile.passes import SMALLER, Form, run
from elastic_compile.passes.formation import CONVERTED, DUPLICATED, SPECULATED, SPLIT
from elastic_compile.program.ir import jumps
from tests.passes.everywhere import unknown_costs


class Gate(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = torch.tanh(x) + 1
        return x * 2


class Exits(torch.nn.Module):
    def forward(self, x):
        for scale in (2.0, 3.0, 4.0):
            x = torch.tanh(x) * scale
            if x.sum() > 100:
                return x, "early"
        return x - 1, "late"


CALLS = [(torch.ones(4),), (-torch.ones(4),)]


@pytest.fixture(scope="module")
def gate():
    return ec.compile(Gate().eval(), CALLS)


@pytest.fixture(scope="module")
def exits():
    return ec.compile(Exits().eval(), CALLS)


def kinds(program, **known):
    costs = dataclasses.replace(unknown_costs(program), **known)
    return [decision.kind for decision in run(program, (Form(costs), *SMALLER)).decisions]


def each(program, time):
    return (time,) * len(program.graphs)


def likely(program, then):
    """Branches go to their first side with probability `then`."""
    return tuple(
        (then, 1 - then) if len(jumps(block.terminator)) == 2 else (1.0,) * len(jumps(block.terminator))
        for block in program.blocks)


def test_cheap_sides_are_computed_both(gate):
    assert kinds(gate.source, dispatch=10.0, regions=each(gate.source, 3.0)) == [CONVERTED]


def test_a_dear_side_is_computed_only_when_it_is_taken(gate):
    found = kinds(gate.source, dispatch=10.0, regions=each(gate.source, 500.0))
    assert CONVERTED not in found and SPECULATED not in found and DUPLICATED in found


def test_a_side_that_is_always_taken_is_computed_ahead(exits):
    dear = each(exits.source, 50.0)
    assert set(kinds(exits.source, regions=dear, odds=likely(exits.source, 0.001))) == {SPECULATED}
    assert set(kinds(exits.source, regions=dear, odds=likely(exits.source, 0.5))) == {SPLIT}


def test_nothing_is_done_where_dispatches_are_free(gate):
    free = dataclasses.replace(unknown_costs(gate.source), dispatch=0.0, floor=0.0)
    formed = Form(free)(gate.source)
    assert [decision.kind for decision in formed.decisions] == [SPLIT]
    assert formed.blocks == gate.source.blocks
    assert "both sides" in formed.decisions[0].reason


def test_visits_are_a_balance_of_flow(exits):
    costs = dataclasses.replace(unknown_costs(exits.source), odds=likely(exits.source, 0.25))
    visits = costs.visits(exits.source)
    ends = [b for b, block in enumerate(exits.source.blocks) if not jumps(block.terminator)]
    assert sum(visits[b] for b in ends) == pytest.approx(1.0)
    assert sorted(v for b, v in enumerate(visits) if b not in ends) == pytest.approx([0.5625, 0.75, 1.0])


def test_what_a_run_counted_gives_the_odds(gate, tmp_path):
    gate.save(tmp_path / "gate.elastic")
    model = er.load(tmp_path / "gate.elastic")
    for _ in range(9):
        model(CALLS[0][0].numpy())
    model(CALLS[1][0].numpy())
    odds, entered = tuning.flows(gate.source, model.statistics(), 10)
    branch = next(b for b, block in enumerate(gate.source.blocks) if len(jumps(block.terminator)) == 2)
    assert odds[branch][0] == pytest.approx((0.9 + 0.05) / 1.1)
    assert entered == tuple(float(b == gate.source.entries[0].block) for b in range(len(gate.source.blocks)))


def test_counts_of_another_program_are_refused(gate, exits, tmp_path):
    exits.save(tmp_path / "exits.elastic")
    model = er.load(tmp_path / "exits.elastic")
    model(CALLS[0][0].numpy())
    with pytest.raises(ec.ExampleError, match="another program"):
        tuning.flows(gate.source, model.statistics(), 1)


def test_formation_is_reported_and_kept_in_the_bundle(tmp_path):
    compiled = ec.compile(Gate().eval(), CALLS, formation="auto")
    formation = compiled.provenance.formation
    assert set(formation.measured) == {"dispatch", "floor", "select", "split", "formed"}
    assert formation.measured["dispatch"] >= formation.measured["floor"] > 0
    assert [decision.branch for decision in formation.decisions] == ["test_formation.py:20  if x.sum() > 0:"]
    assert formation.decisions[0].reason in compiled.inspect()
    compiled.save(tmp_path / "auto.elastic")
    model = er.load(tmp_path / "auto.elastic", self_test=True)
    assert model.provenance.formation == formation
    for (x,) in CALLS:
        assert torch.allclose(torch.from_numpy(model(x.numpy())), Gate()(x))


def test_a_form_that_is_not_faster_is_not_kept(monkeypatch):
    def slower(candidates, **options):
        made = real(candidates, **options)
        return {name: dataclasses.replace(one, median_ms=1.0) if name in ("0", "1", "2", "3") else one
                for name, one in made.items()}

    real = tuning.interleave
    monkeypatch.setattr(tuning, "interleave", slower)
    compiled = ec.compile(Gate().eval(), CALLS, formation="auto")
    assert len(compiled.program.blocks) == len(ec.compile(Gate().eval(), CALLS).program.blocks)
    assert all(decision.kind == SPLIT for decision in compiled.provenance.formation.decisions)


def test_an_unknown_formation_is_refused():
    with pytest.raises(ec.ExampleError, match="formation"):
        ec.compile(Gate().eval(), CALLS, formation="fast")

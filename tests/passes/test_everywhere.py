"""Every change of a branch, made wherever it is legal: equal to eager PyTorch on every path of every construct, and on
random programs."""
from __future__ import annotations

import random

import pytest

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.passes.formation import CONVERTED, DUPLICATED, KINDS, SPECULATED, SPLIT
from tests.constructs import oracle
from tests.constructs.build import eager, random_calls, run
from tests.constructs.compare import difference
from tests.constructs.registry import load
from tests.fuzz import harness, torch_engine
from tests.fuzz.generator import Writer
from tests.passes.everywhere import formed_everywhere

CASES = {name: case for name, case in load().items() if case.exact and not case.broken and not case.pending}
PROGRAMS = 40
made: set[str] = set()


def check(name, kinds, tmp_path):
    case = CASES[name]
    with torch_engine.installed(), formed_everywhere(kinds) as log:
        compiled = ec.compile(*case.make(), backend=torch_engine.NAME)
        compiled.save(tmp_path / "formed.elastic")
        model = er.load(tmp_path / "formed.elastic", host_ops=case.host_ops)
        made.update(log)
        calls = list(oracle.arguments(*case.make()))
        target = case.make()[0]
        for call in calls if case.sequence else [*calls, *random_calls(calls, 12)]:
            if not case.sequence:
                model.reset()
                target = case.make()[0]
            assert difference(run(model, call), eager(target, call)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_all_changes_together_on_every_construct(name, tmp_path):
    check(name, KINDS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DUPLICATED, SPECULATED])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.family == "joins"])
def test_one_kind_of_change_on_joins(name, kind, tmp_path):
    check(name, (kind,), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [KINDS, (CONVERTED,), (DUPLICATED, SPECULATED)], ids="+".join)
def test_random_programs(kinds):
    outcomes = []
    for seed in range(PROGRAMS):
        with formed_everywhere(kinds) as log:
            source = Writer(random.Random(seed)).program()
            outcome = harness.check(source, forced=False)
        if outcome.kind == "wrong":  # not by the changes, if it is wrong without them too
            assert harness.check(source, forced=False).label == outcome.label, f"program {seed}: {outcome}"
        outcomes.append(outcome.kind)
        made.update(log)
    assert outcomes.count("equal") > PROGRAMS // 2


@pytest.mark.slow
def test_every_kind_of_change_was_made():
    assert made >= {CONVERTED, DUPLICATED, SPECULATED, SPLIT}

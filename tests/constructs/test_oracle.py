"""The oracle of forced paths finds every fault that is seeded into a compiled program."""
from __future__ import annotations

import dataclasses

import pytest

import elastic_runtime as er
from tests.constructs import faults, registry
from tests.constructs.build import build, forced
from tests.constructs.compare import difference
from tests.constructs.eager_forced import run_forced
from tests.constructs.oracle import Disagreement, arguments

CASES = registry.load()

#: Programs none of whose faults leaves the results equal: no weight or test is such that two sides agree.
FAULTY = (
    "if_elif_else", "early_exit_by_exception", "joined_paths_keep_their_values", "branchynet", "deq_fixed_point",
    "while_true_with_break", "host_scalars_carried_by_a_loop", "range_of_int_of_tensor", "nested_while_on_tensors",
    "alias_outlives_a_branch", "running_statistics", "kv_cache_object", "module_counter",
    "dataclass_state", "cache_passed_in_and_out",
)
SEEDED = {"swapped branch": 20, "stale live-in": 40, "lost mutation": 10, "wrong join": 50}


def faulty_programs(name, kind, tmp_path):
    built = build(CASES[name])
    for number, program in enumerate(faults.FAULTS[kind](built.compiled.program)):
        path = tmp_path / f"{name}{number}.elastic"
        dataclasses.replace(built.compiled, program=program).save(path)
        yield built, program, er.load(path)


@pytest.mark.parametrize("kind", faults.FAULTS)
def test_every_seeded_fault_is_found(kind, tmp_path):
    seeded, survived = 0, []
    for name in FAULTY:
        for number, (built, program, model) in enumerate(faulty_programs(name, kind, tmp_path)):
            seeded += 1
            try:
                forced(built, program, model).check(built.calls)
            except Disagreement:
                continue
            survived.append((name, number))
    assert not survived
    assert seeded >= SEEDED[kind]


def test_the_programs_without_faults_pass():
    for name in FAULTY:
        built = build(CASES[name])
        assert forced(built).check(built.calls).paths >= len(built.calls)


# ------------------------------------------------------------------------- forcing the eager side
def test_a_forced_outcome_changes_the_path():
    case = CASES["if_elif_else"]
    (call, *_) = arguments(*case.make())
    args, kwargs = call.eager()
    natural = run_forced(case.make()[0], args, kwargs)
    assert [test.taken for test in natural.tests] == [True]
    other = run_forced(case.make()[0], *call.eager(), outcomes=(False, False, True))
    assert [(test.natural, test.taken) for test in other.tests] == [(True, False), (True, False), (True, True)]
    assert difference(other.result, natural.result)


def test_a_number_that_decided_once_decides_the_same_way_again():
    case = CASES["the_same_number_decides_twice"]
    call = arguments(*case.make())[0]
    run = run_forced(case.make()[0], *call.eager(), outcomes=(True,))
    assert [(test.kind, test.taken) for test in run.tests] == [("free", True), ("known", True), ("free", False)]


def test_weights_are_not_forced():
    case = CASES["attributes_by_name"]
    call = arguments(*case.make())[0]
    run = run_forced(case.make()[0], *call.eager())
    assert {test.kind for test in run.tests if "temperature" in _line(test)} <= {"fixed"}
    assert any(test.kind == "fixed" for test in run.tests) and any(test.kind == "free" for test in run.tests)


def _line(test):
    with open(test.file) as file:
        return file.read().splitlines()[test.line - 1]

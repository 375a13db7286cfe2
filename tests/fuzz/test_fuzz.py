"""Random programs behave alike in all their forms, and the comparison finds faults that are put into the compiler."""
from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import faults, harness
from tests.fuzz.found import FOUND
from tests.fuzz.generator import programs, write

PROGRAMS = 300
SEARCHED = 40

several = settings(
    max_examples=PROGRAMS, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck))


@pytest.mark.slow
def test_random_programs_are_equal_in_all_their_forms():
    outcomes: Counter[str] = Counter()

    @several
    @given(programs())
    def compare(source: str) -> None:
        outcome = harness.check(source, poison=True, onnxruntime=outcomes.total() % 50 == 49)
        outcomes[outcome.kind] += 1
        if outcome.kind in ("wrong", "broken"):
            pytest.fail(f"{outcome.label}: {outcome.detail}\n{source}")

    compare()
    assert outcomes.total() >= PROGRAMS
    assert outcomes["equal"] > 0.6 * PROGRAMS, outcomes
    assert outcomes["refused"] < 0.05 * PROGRAMS, outcomes


@pytest.mark.parametrize("found", FOUND)
def test_programs_that_were_wrong_once(found):
    outcome = harness.check(FOUND[found], poison=True)
    assert outcome.kind == "equal", outcome


def found(fault: str) -> bool:
    """Whether any of the first programs is told to be wrong by a compiler with the fault."""
    with faults.seeded(fault):
        for number in range(SEARCHED):
            source = write(random.Random(f"fault {number}"))
            if harness.check(source, forced=False, seconds=10.0).kind == "wrong":
                break
        else:
            return False
    assert harness.check(source, forced=False).kind != "wrong"
    return True


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_faults_are_found(fault):
    assert found(fault)

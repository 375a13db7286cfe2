"""The corpus itself, on eager PyTorch alone: its calls take every path that they should."""
from __future__ import annotations

import pytest
import torch

from tests.constructs import oracle, registry
from tests.constructs.compare import Raised, difference, plain
from tests.constructs.eager_forced import run_forced

CASES = registry.load()


def natural_runs(case):
    """One run per call, unforced."""
    target, calls = case.make()
    for call in oracle.arguments(target, calls):
        args, kwargs = call.eager()
        yield call, run_forced(target if case.sequence else case.make()[0], args, kwargs)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact and not case.pending])
def test_following_data_does_not_change_the_program(name):
    case = CASES[name]
    target = case.make()[0]
    for call, run in natural_runs(case):
        args, kwargs = call.plain()
        try:
            with torch.no_grad():
                expected = plain((target if case.sequence else case.make()[0])(*args, **kwargs))
        except Exception as error:
            expected = Raised(type(error).__name__)
        assert difference(run.result, expected) == ""


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exact and case.paths is not None])
def test_the_calls_take_every_path(name):
    case = CASES[name]
    outcomes: dict[tuple[str, int, int], set[bool]] = {}
    signatures = set()
    for call, run in natural_runs(case):
        signatures.add(case.path(call, run))
        for test in run.tests:
            if test.kind == "free":
                outcomes.setdefault((test.file, test.line, test.column), set()).add(test.taken)
    one_sided = [site for site, seen in outcomes.items() if len(seen) == 1]
    assert not one_sided
    assert len(signatures) == case.paths


def test_the_corpus_is_as_large_as_it_claims():
    assert len(CASES) >= 120
    assert {case.family for case in CASES.values()} == {
        "decisions", "loops", "values", "state", "results", "structure", "randomness", "host_ops", "idioms", "traps",
        "joins", "libraries", "combined",
    }

"""Whole networks of published families, as a reader of their papers writes them: equal to eager on every path."""
from __future__ import annotations

import pytest

from tests.constructs import registry
from tests.constructs.build import build, eager, forced, random_calls, run
from tests.constructs.compare import difference

CASES = registry.load("published")
#: Those that take more than ten seconds.
SLOW = frozenset({
    "beam_search_over_objects", "deepseek_sorts_tokens_by_expert", "detector_with_nms",
    "adaframe_chooses_where_to_look", "anderson_acceleration_with_a_list_of_residuals", "token_merging_by_similarity",
})


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES])
def test_equal_to_eager_on_every_path(name):
    case = CASES[name]
    built = build(case)
    for calls in (built.calls, random_calls(built.calls, 8)):
        built.model.reset()
        target = case.make()[0]
        for call in calls:
            if not case.sequence:
                target = case.make()[0]
            assert difference(run(built.model, call), eager(target, call)) == "", call.leaves
    report = forced(built).check((*built.calls, *random_calls(built.calls, 0 if case.forced else 30)), limit=400)
    missing = {(block, side) for block in report.forceable for side in (0, 1) if (block, side) not in report.edges}
    assert not missing or not case.forced

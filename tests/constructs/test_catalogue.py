"""The catalogue holds: each construct has cases that are compiled, and compared on every path, nested as well.

`python -m tests.constructs` prints the table.
"""
from __future__ import annotations

import pytest

from tests.constructs import catalogue
from tests.constructs.catalogue import CATALOGUE, cases, is_test, proofs, prove_nested
from tests.constructs.test_published import SLOW

CONSTRUCTS = {
    f"{group}: {construct}": names for group, found in CATALOGUE.items() for construct, names in found.items()}


@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_each_construct_has_cases_that_are_compared_on_every_path(construct):
    assert CONSTRUCTS[construct]
    for name in CONSTRUCTS[construct]:
        if is_test(name):
            assert callable(catalogue.test_function(name))
        else:
            case = cases()[name]
            assert not case.pending and not case.broken
            assert case.forced or not case.exact


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in proofs() if not is_test(name)])
def test_equal_to_eager_three_modules_deep(name):
    prove_nested(cases()[name])

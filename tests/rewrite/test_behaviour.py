"""A rewritten function does what the original does: results, exceptions, side effects and their order."""
from __future__ import annotations

import copy
from typing import Any

import pytest

from elastic_compile.rewrite import NEUTRAL, Hooks, rewrite
from tests.rewrite.corpus import CASES, Derived
from tests.rewrite.oracle import PoisonHooks
from tests.rewrite.traced import LOG, settled


def outcome(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[str]]:
    """What a call gives or raises, and the log of what it did."""
    args = tuple(Derived() if a == "SELF" else copy.deepcopy(a) for a in args)
    LOG.clear()
    try:
        result = ("value", repr(fn(*args, **copy.deepcopy(kwargs))))
    except Exception as error:
        result = ("raised", type(error), str(error))
    return result, settled(LOG)


def label(case: Any) -> str:
    fn, args, kwargs = case
    return f"{fn.__qualname__}-{args}-{kwargs}"


@pytest.mark.parametrize("case", CASES, ids=label)
@pytest.mark.parametrize("hooks", [NEUTRAL, None], ids=["neutral", "poison"])
def test_same_behaviour(case: Any, hooks: Hooks | None) -> None:
    fn, args, kwargs = case
    bound = PoisonHooks().bind(fn) if hooks is None else rewrite(fn).bind(fn, hooks)
    # The function's own cells are shared, so each of the two starts from what the cells held before.
    cells = [(cell, cell.cell_contents) for cell in fn.__closure__ or () if isinstance(cell.cell_contents, int)]
    expected = outcome(fn, args, kwargs)
    for cell, content in cells:
        cell.cell_contents = content
    assert outcome(bound, args, kwargs) == expected

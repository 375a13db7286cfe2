"""Random programs behave alike in their original and rewritten forms."""
from __future__ import annotations

import inspect
import linecache
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elastic_compile.rewrite import NEUTRAL, rewrite
from tests.rewrite.oracle import PoisonHooks
from tests.rewrite.programs import load, sources
from tests.rewrite.traced import LOG, settled


def run(fn: Any, a: int, b: int) -> Any:
    """The outcome of a program, the log of its calls included; a generator is run to its end."""
    LOG.clear()
    try:
        result = fn(a, b)
        if inspect.isgenerator(result):
            seen = []
            while True:
                try:
                    seen.append(next(result) if not seen else result.send(len(seen) % 3))
                except StopIteration as stop:
                    result = seen, stop.value
                    break
        return repr(result), settled(LOG)
    except Exception as error:
        return type(error), str(error), settled(LOG)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources(), st.integers(-2, 4), st.integers(-2, 4))
def test_random_programs_behave_alike(text: str, a: int, b: int) -> None:
    try:
        program = load(text)
    except SyntaxError:
        return
    expected = run(program, a, b)
    assert run(rewrite(program).bind(program, NEUTRAL), a, b) == expected
    assert run(PoisonHooks().bind(program), a, b) == expected
    linecache.cache.pop(program.__code__.co_filename)

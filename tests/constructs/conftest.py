"""Ends a test that hangs: a compiler that explores for ever must not stop the others."""
from __future__ import annotations

import signal

import pytest

from tests.constructs.build import Stuck

LIMIT_S = 60


@pytest.fixture(autouse=True)
def not_for_ever():
    def stop(number, frame):
        raise Stuck(f"no end after {LIMIT_S} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)

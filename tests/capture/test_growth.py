"""What a capture does grows with the network as its graph does: counted, not timed."""
from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from elastic_compile.capture.build import build
from elastic_compile.capture.explore import EntryInput, Explorer, explore
from elastic_compile.capture.signature import normalise, shapes
from elastic_compile.capture.tracer import Tracer
from elastic_compile.passes import STANDARD, run
from examples.benchmarks.growth import Exits, Loop, gates


@dataclass
class Work:
    """`runs` of the program, `operations` of PyTorch seen in them, `blocks` of the result."""

    runs: int = 0
    operations: int = 0
    blocks: int = 0


@pytest.fixture
def work(monkeypatch):
    """Captures a network and counts."""
    done = Work()

    def counted(owner, name, field):
        inner = getattr(owner, name)

        def call(*args, **kwargs):
            setattr(done, field, getattr(done, field) + 1)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(Explorer, "path", "runs")
    counted(Tracer, "operation", "operations")

    def capture(module, x):
        module.eval()
        found = shapes(module.forward, normalise([(x,)]))
        done.runs = done.operations = 0
        with torch.no_grad():
            exploration = explore(module, [EntryInput(s.leaves, s.arguments) for s in found], [("self", module)])
        program = run(build("p", exploration, [s.params for s in found]), STANDARD)
        return Work(done.runs, done.operations, len(program.blocks))

    return capture


SIZES = 8, 32, 128


def linear(numbers) -> bool:
    """Whether numbers for SIZES lie on a line."""
    small, middle, large = numbers
    return (middle - small) * 4 == large - middle


def test_gates_take_as_many_runs_whatever_their_number(work):
    """One with all gates open; one with the first closed, behind which `x` is the caller's; one with the others."""
    done = [work(gates(n), torch.ones(2, 16)) for n in SIZES]
    assert [one.blocks for one in done] == [2 * n + 1 for n in SIZES]
    assert [one.runs for one in done] == [3, 3, 3]
    assert linear([one.operations for one in done])


def test_each_exit_takes_a_run_that_makes_no_operation_again(work):
    done = [work(Exits(n), torch.ones(2, 16)) for n in SIZES]
    assert [one.runs for one in done] == [n + 1 for n in SIZES]
    assert linear([one.operations for one in done])
    assert linear([one.blocks for one in done])


def test_the_capture_of_a_loop_does_not_depend_on_its_bound(work):
    small, large = (work(Loop(limit), torch.ones(2, 16)) for limit in (8, 100_000))
    assert small == large

"""Every construct, compiled and run without PyTorch, against eager PyTorch on every path."""
from __future__ import annotations

import networkx as nx
import pytest

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.program.ir import jumps
from elastic_compile.verify import check_blocks
from elastic_runtime import schema
from tests.constructs import registry
from tests.constructs.build import Built, build, compile_case, eager, fewest, forced, random_calls, run
from tests.constructs.cases.traps import LOUD
from tests.constructs.compare import difference, plain

CASES = registry.load()
READY = [case for case in CASES.values() if not case.pending]
EXACT = [case for case in READY if case.exact]
LOOPS = [case for case in READY if case.loop]


def has_cycle(program: schema.Program) -> bool:
    graph = nx.DiGraph(
        (b, jump.block) for b, block in enumerate(program.blocks) for jump in jumps(block.terminator))
    return not nx.is_directed_acyclic_graph(graph)


def assert_equal_in_order(built: Built, calls) -> None:
    """Replay the calls on both sides from the first state."""
    built.model.reset()
    target = built.case.make()[0]
    for call in calls:
        if not built.case.sequence:
            target = built.case.make()[0]
        expected = eager(target, call)
        assert difference(run(built.model, call), expected) == "", call.leaves


@registry.parametrize(EXACT)
def test_equal_to_eager_on_every_path(name):
    built = build(CASES[name])
    assert_equal_in_order(built, built.calls)


@registry.parametrize(EXACT)
def test_equal_to_eager_on_random_inputs(name):
    built = build(CASES[name])
    assert_equal_in_order(built, random_calls(built.calls, 10))


@registry.parametrize(EXACT)
def test_equal_to_eager_on_paths_that_no_example_takes(name):
    case = CASES[name]
    built = compile_case(case, fewest)
    calls = build(case).calls
    assert_equal_in_order(built, calls)
    assert_equal_in_order(built, random_calls(calls, 10, seed=1))


@registry.parametrize(READY)
def test_every_block_was_run(name):
    built = build(CASES[name])
    compiled = built.compiled
    ran = check_blocks(
        compiled.source, compiled.program, built.model, compiled.reference, compiled.reference_tensors)
    assert ran == set(range(len(compiled.program.blocks)))


@registry.parametrize(case for case in EXACT if case.forced)
def test_equal_to_eager_along_forced_paths(name):
    built = build(CASES[name])
    report = forced(built).check(built.calls)
    assert report.paths >= len(built.calls)
    missing = {
        (block, side) for block in report.forceable for side in (0, 1)
        if (block, side) not in report.edges and not fails_in_arithmetic(built.compiled.program, block, side)
    }
    assert not missing


def fails_in_arithmetic(program, block, side):
    """Whether a side of a branch is where Python's arithmetic raises: there is no test to force in the source."""
    end = program.blocks[jumps(program.blocks[block].terminator)[side].block].terminator
    return isinstance(end, schema.Raise) and end.type in ("ZeroDivisionError", "ValueError", "OverflowError")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=broken)) if broken else name
    for name, (*_, broken) in LOUD.items()
])
def test_what_fails_in_eager_fails_in_the_runtime(name, tmp_path):
    program, works, fails, _ = LOUD[name]
    with pytest.raises((RuntimeError, IndexError)):
        program(*fails)
    ec.compile(program, [works]).save(tmp_path / "m.elastic")
    model = er.load(tmp_path / "m.elastic")
    assert difference(model(*works), plain(program(*works))) == ""
    with pytest.raises((er.ModelRaised, er.ExecutionError)):
        model(*fails)


@registry.parametrize(LOOPS)
def test_loops_are_loops(name):
    assert has_cycle(build(CASES[name]).compiled.program)


@registry.parametrize(case for case in LOOPS if case.longer)
def test_the_number_of_blocks_does_not_depend_on_the_trips(name):
    case = CASES[name]
    longer = compile_case(case, **case.longer)
    assert len(longer.compiled.program.blocks) == len(build(case).compiled.program.blocks)


@registry.parametrize(case for case in CASES.values() if case.pending)
def test_what_is_not_compiled_yet_is_refused(name):
    case = CASES[name]
    with pytest.raises(ec.Refusal) as refused:
        ec.compile(*case.make())
    assert refused.value.code == case.pending
    assert refused.value.reason and refused.value.hint

"""Compares a compiled program with eager PyTorch along forced paths.

In: a case, its compiled program and a loaded model. Out: how many paths were compared, and the edges taken.
Never: uses the compiler's capture, joins, segments or verification: the user's own program is run on real tensors
with the outcomes of its tests forced, the compiled blocks are run with the same outcomes, the results must be equal.

The two sides are aligned test by test. A branch of the program stands for a truth test of the original; tests that
no data decides, and conditions decided before, may have no branch; a branch that no test stands for (a loop that
counts on the host, a size that PyTorch itself asks for) follows its own condition.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import elastic_runtime as er
from elastic_runtime import schema
from tests.constructs.compare import Raised, difference
from tests.constructs.eager_forced import Run, Test, data_number, run_forced

Edge = tuple[int, int]
MAX_BLOCKS = 4000
LIKELY = {"free": 0, "known": 0, "fixed": 1}


class Disagreement(AssertionError):
    """The compiled program does something else than the user's program with the same outcomes of its tests."""


@dataclass
class Report:
    """What was compared. `paths`: forced paths, `edges`: (block, index of the jump) taken, `forceable`: branch
    blocks that stand for a test that data decides, `skipped`: forced paths that do not end."""

    paths: int = 0
    skipped: int = 0
    edges: set[Edge] = field(default_factory=set)
    forceable: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Arguments:
    """One call: fresh eager arguments, and the flat inputs of the program's entry."""

    shape: Any
    leaves: tuple[Any, ...]
    entry: int

    def eager(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for the user's program; numbers that vary from call to call are data."""
        return self.shape.arguments([
            leaf.clone() if isinstance(leaf, torch.Tensor) else data_number(leaf, ("input", i))
            for i, leaf in enumerate(self.leaves)
        ])

    def plain(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for the user's program as it is, or for the runtime."""
        return self.shape.arguments([
            leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves])

    def flat(self) -> list[Any]:
        return [leaf.numpy().copy() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]


@dataclass(frozen=True)
class State:
    """Where the compiled program stands between two calls."""

    mode: int
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Walk:
    """The compiled side of a path: its plain result, the edges taken, the branch block of each test used, and the
    state left. `failed`: a region or the host could not compute on the data of a forced path, where eager must fail
    too."""

    result: Any
    edges: tuple[Edge, ...]
    used: dict[int, int]
    state: State | None = None
    failed: bool = False


@dataclass(frozen=True)
class Oracle:
    """The two sides to compare. `make()`: a fresh target with its calls, since a run may change it. `weights`: the
    store that `program.initial` names the first state in. `sequence`: calls follow one another, each from the state
    that the one before left."""

    make: Callable[[], tuple[Any, list[Any]]]
    program: schema.Program
    model: er.Model
    weights: Mapping[str, np.ndarray]
    sequence: bool = False

    def check(self, calls: Sequence[Arguments], limit: int = 40) -> Report:
        """Compare along the natural path of every call, then along forced ones until every branch that data decides
        has gone both ways or `limit` forced paths are done. Raises `Disagreement`."""
        report = Report()
        sessions = [tuple(calls)] if self.sequence else [(call,) for call in calls]
        queue: list[tuple[tuple[Arguments, ...], int, tuple[bool, ...], Edge | None]] = [
            (session, -1, (), None) for session in sessions]
        forced = 0
        while queue:
            session, at, outcomes, wanted = queue.pop(0)
            if wanted is not None and (wanted in report.edges or forced >= limit):
                continue
            forced += wanted is not None
            for number, (run, walk) in enumerate(self.runs(session, at, outcomes)):
                if run is None:
                    report.skipped += 1
                    break
                report.paths += 1
                report.edges.update(walk.edges)
                if number >= at:
                    fixed = outcomes if number == at else ()
                    for choice, edge in self.others(run, walk, fixed, report):
                        queue.append((session, number, choice, edge))
        return report

    def others(
        self, run: Run, walk: Walk, fixed: tuple[bool, ...], report: Report
    ) -> Iterator[tuple[tuple[bool, ...], Edge]]:
        """Outcomes that take the other side of a branch of this path, beyond those that were forced already."""
        taken: list[bool] = []
        for i, test in enumerate(run.tests):
            if test.kind != "free":
                continue
            block = walk.used.get(i)
            if block is not None:
                report.forceable.add(block)
                other = (block, 1 if test.taken else 0)
                if other not in report.edges and len(taken) >= len(fixed):
                    yield (*taken, not test.taken), other
            taken.append(bool(test.taken))

    def runs(
        self, session: Sequence[Arguments], at: int, outcomes: tuple[bool, ...]
    ) -> Iterator[tuple[Run | None, Walk | None]]:
        """The calls of a session on both sides, call number `at` forced."""
        target = self.make()[0]
        state = self.first_state()
        for number, call in enumerate(session):
            args, kwargs = call.eager()
            run = run_forced(target, args, kwargs, outcomes if number == at else ())
            if run is None:
                yield None, None
                return
            walk = self.align(call, run, state)
            yield run, walk
            if walk.state is None:
                return
            state = walk.state

    def first_state(self) -> State:
        kinds = self.program.modes[0].state
        return State(0, tuple(
            self.weights[name].item() if isinstance(kind, schema.ScalarType) else self.weights[name]
            for name, kind in zip(self.program.initial, kinds)))

    def align(self, call: Arguments, run: Run, state: State) -> Walk:
        """Run the compiled blocks along the path of `run`. Raises Disagreement when no alignment gives its result."""
        search = Search(self.program, self.model, run)
        entry = self.program.entries[self.program.modes[state.mode].entries[call.entry]]
        for walk in search.walks(entry.block, (*call.flat(), *state.values), 0, (), {}):
            wrong = "" if walk.failed and run.error is not None else difference(walk.result, run.result)
            if not wrong:
                return walk
            search.complain(wrong)
        path = [(f"{test.file.rpartition('/')[2]}:{test.line}", test.taken, test.kind) for test in run.tests]
        raise Disagreement(f"{search.complaint}\nalong the tests {path}")


class Search:
    """Depth-first over the ways to match branches with tests; the first way is nearly always the right one."""

    def __init__(self, program: schema.Program, model: er.Model, run: Run) -> None:
        self.program = program
        self.model = model
        self.tests = run.tests
        self.budget = MAX_BLOCKS
        self.complaint = "the compiled program asks for no such tests"
        self.complaints = 0

    def complain(self, text: str) -> None:
        if not self.complaints:
            self.complaint = text
        self.complaints += 1

    def walks(
        self, block: int, args: tuple[Any, ...], position: int, edges: tuple[Edge, ...], used: dict[int, int]
    ) -> Iterator[Walk]:
        """Every way to go on from `block` with the tests from `position` on."""
        while self.budget > 0:
            self.budget -= 1
            try:
                ran = self.model.run_block(block, args)
            except er.ElasticRuntimeError as error:
                if all(map(_optional, self.tests[position:])):
                    yield Walk(Raised(f"{type(error).__name__}: {error}"), edges, used, failed=True)
                return
            end = self.program.blocks[block].terminator
            if isinstance(end, (schema.Return, schema.Raise)):
                if all(map(_optional, self.tests[position:])):
                    result = ran.result if ran.raised is None else Raised(ran.raised[0])
                    yield Walk(result, edges, used, State(end.mode, tuple(ran.args)))
                else:
                    self.complain("the compiled program ends before a test that was forced")
                return
            if not isinstance(end, schema.Branch):
                number = 0
                if isinstance(end, schema.Switch):
                    targets = [(jump.block, jump.args) for _, jump in end.cases]
                    chosen = int(np.asarray(ran.values[end.index]).item())
                    keys = [key for key, _ in end.cases]
                    number = keys.index(chosen) if chosen in keys else len(targets)
                edges = (*edges, (block, number))
                block, args = ran.next, ran.args
                continue
            natural = bool(np.asarray(ran.values[end.cond]).item())
            for index, goes in self.matches(end, natural, position):
                jump = end.then if goes else end.orelse
                after = position if index is None else index + 1
                matched = used if index is None else {**used, index: block}
                yield from self.walks(
                    jump.block, tuple(ran.values[value] for value in jump.args), after,
                    (*edges, (block, 0 if goes else 1)), matched,
                )
            return

    def matches(self, branch: schema.Branch, natural: bool, position: int) -> Iterator[tuple[int | None, bool]]:
        """(test, outcome) that the branch may stand for, likeliest first; test None: it follows its condition."""
        source = self.program.sources[branch.source] if branch.source >= 0 else None
        place = (source.file, source.line) if source is not None else None
        counted = isinstance(self.program.values[branch.cond], schema.ScalarType)
        candidates: list[tuple[bool, int, int]] = []
        for i in range(position, len(self.tests)):
            test = self.tests[i]
            if (test.kind == "step" and counted) or (test.kind in LIKELY and test.natural == natural):
                candidates.append(((test.file, test.line) != place, LIKELY.get(test.kind, len(LIKELY)), i))
            if not _optional(test):
                break
        for _, _, i in sorted(candidates):
            test = self.tests[i]
            yield i, (test.taken if test.kind in ("free", "known") else natural)
        yield None, natural


def _optional(test: Test) -> bool:
    """Whether the compiled program may do without a branch for `test`."""
    return test.kind != "free" or test.taken == test.natural


def arguments(target: Any, calls: Sequence[Any]) -> list[Arguments]:
    """The calls as the compiler sees them, in their order: what is data in each, and which entry takes it."""
    from elastic_compile.capture.signature import normalise, shapes

    function = target.forward if isinstance(target, torch.nn.Module) else target
    given = normalise(calls)
    found = {
        id(one): Arguments(shape, tuple(shape.leaves_of(one)), entry)
        for entry, shape in enumerate(shapes(function, given)) for one in shape.calls
    }
    return [found[id(one)] for one in given]

"""Compares a compiled program with eager PyTorch along forced paths.

In: a case, its compiled program and a loaded model. Out: how many paths were compared, and the edges taken.
Never: uses the compiler's capture, joins, segments or verification: the user's own program is run on real tensors
with the outcomes of its tests forced, the compiled blocks are run with the same outcomes, the results must be equal.

The two sides are aligned test by test. A branch of the program stands for a truth test of the original; tests that
no data decides, and conditions decided before, may have no branch; a branch that no test stands for (a loop that
counts on the host, a size that PyTorch itself asks for) follows its own condition.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import elastic_runtime as er
from elastic_compile.program.ir import jumps
from elastic_runtime import schema
from tests.constructs.compare import Raised, difference
from tests.constructs.eager_forced import Run, data_number, run_forced

Edge = tuple[int, int]
#: How many blocks a search for an alignment may run: at first, and where that was not enough.
MAX_BLOCKS = 4000
MANY_BLOCKS = 100_000
LONGEST = 200
#: The kinds of tests that a branch seldom stands for: the program knows the outcome mostly, and needs none.
SELDOM = ("known", "fixed")
LONG_FORCE = 40


class Disagreement(AssertionError):
    """The compiled program does something else than the user's program with the same outcomes of its tests."""


class Undecided(Disagreement):
    """So many ways to match the branches with the tests that not all were tried."""


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

    def key(self) -> Any:
        """What tells two states apart."""
        return self.mode, _contents(self.values)


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

    def check(self, calls: Sequence[Arguments], limit: int = 40, guesses: int = 8) -> Report:
        """Compare along the natural path of every call, then along forced ones until every branch that data decides
        has gone both ways or `limit` forced paths are done, then along `guesses` lists of outcomes: always
        true, always false, random. Raises `Disagreement`."""
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
            queue.extend((session, *more) for more in self.compare(session, at, outcomes, report))
        drawn = random.Random(0)
        for i in range(guesses):
            session = sessions[i % len(sessions)]
            outcomes = (i == 0,) * LONG_FORCE if i < 2 else tuple(drawn.random() < 0.5 for _ in range(8))
            self.compare(session, drawn.randrange(len(session)), outcomes, report)
        return report

    def compare(
        self, session: Sequence[Arguments], at: int, outcomes: tuple[bool, ...], report: Report
    ) -> list[tuple[int, tuple[bool, ...], Edge]]:
        """Compare a session, its call number `at` forced; what to force next, and for which edge."""
        found = []
        for number, (run, walk) in enumerate(self.runs(session, at, outcomes)):
            if run is None:
                report.skipped += 1
                break
            report.paths += 1
            report.edges.update(walk.edges)
            if number >= at:
                fixed = outcomes if number == at else ()
                found += [(number, *other) for other in self.others(run, walk, fixed, report)]
        return found

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
        runs: list[Run] = []
        for number, call in enumerate(session):
            args, kwargs = call.eager()
            run = run_forced(target, args, kwargs, outcomes if number == at else (), self.branches())
            if run is None:
                break
            runs.append(run)
        yield from zip(runs, self.walks(session, runs, at))
        if len(runs) < len(session):
            yield None, None

    def walks(self, session: Sequence[Arguments], runs: Sequence[Run], at: int) -> list[Walk]:
        """The compiled side of the runs, one after another. A walk that gives the right result may leave the state of
        another path, which only a later call tells: then the other walks of the calls before it are tried. Raises the
        first disagreement when none of them does."""
        open_ways: list[Iterator[Walk]] = []
        found: list[Walk] = []
        left: set[Any] = set()
        first: Disagreement | None = None
        state: State | None = self.first_state()
        while len(found) < len(runs) and state is not None:
            number = len(found)
            if len(open_ways) == number:
                open_ways.append(self.ways(session, at, number, runs[number], state))
            try:
                walk = next(open_ways[number], None)
            except Disagreement as error:
                first, walk = first or error, None
            if walk is not None:
                if walk.state is None or (number, walk.state.key()) not in left:
                    left.add((number, walk.state and walk.state.key()))
                    found.append(walk)
                    state = walk.state
            elif found:
                open_ways.pop()
                found.pop()
            else:
                raise first
        return found

    def ways(
        self, session: Sequence[Arguments], at: int, number: int, run: Run, state: State
    ) -> Iterator[Walk]:
        """The walks of call `number` that give the result of `run`, at last those that do without the tests whose
        outcome changes nothing. Raises Disagreement when there is none."""
        call = session[number]
        first: Disagreement | None = None
        try:
            yield from self.align(call, run, state)
        except Disagreement as error:
            first = error
        without = self.without_effect(session, at, run) if number == at else frozenset()
        if first is not None and not without and not isinstance(first, Undecided):
            raise first
        if first is not None or without:
            try:
                yield from self.align(call, run, state, without)
            except Undecided:
                yield from self.align(call, run, state, without, MANY_BLOCKS)

    def without_effect(self, session: Sequence[Arguments], at: int, run: Run) -> frozenset[int]:
        """The forced tests whose outcome changes nothing: a compiler may drop their branches."""
        places = [i for i, test in enumerate(run.tests) if test.kind == "free"]
        taken = [bool(run.tests[i].taken) for i in places]
        found = []
        for k, i in enumerate(places):
            if run.tests[i].taken != run.tests[i].natural:
                other = self.last_run(session[: at + 1], (*taken[:k], not taken[k], *taken[k + 1:]))
                if other is not None and same_effect(other, run):
                    found.append(i)
        return frozenset(found)

    def last_run(self, session: Sequence[Arguments], outcomes: tuple[bool, ...]) -> Run | None:
        """The eager run of a session's last call with forced outcomes."""
        target = self.make()[0]
        run = None
        for number, call in enumerate(session):
            args, kwargs = call.eager()
            last = number == len(session) - 1
            run = run_forced(target, args, kwargs, outcomes if last else (), self.branches())
        return run

    def branches(self) -> frozenset[tuple[str, int]]:
        """The lines of the user's program that branch in the compiled one."""
        places = {block.terminator.source for block in self.program.blocks} - {-1}
        return frozenset((self.program.sources[i].file, self.program.sources[i].line) for i in places)

    def first_state(self) -> State:
        kinds = self.program.modes[0].state
        return State(0, tuple(
            self.weights[name].item() if isinstance(kind, schema.ScalarType) else self.weights[name]
            for name, kind in zip(self.program.initial, kinds)))

    def align(
        self, call: Arguments, run: Run, state: State, without_effect: frozenset[int] = frozenset(),
        budget: int = MAX_BLOCKS,
    ) -> Iterator[Walk]:
        """The ways to run the compiled blocks along the path of `run` that give its result. Raises Disagreement when
        there is none, and Undecided when there is none among those tried."""
        search = Search(self.program, self.model, run, without_effect, budget)
        entry = self.program.entries[self.program.modes[state.mode].entries[call.entry]]
        right = 0
        for walk in search.walks(entry.block, (*call.flat(), *state.values)):
            wrong = "" if walk.failed and run.error is not None else difference(walk.result, run.result)
            if wrong:
                search.complain(wrong)
            else:
                right += 1
                yield walk
        if not right:
            path = [(f"{test.file.rpartition('/')[2]}:{test.line}", test.taken, test.kind) for test in run.tests]
            kind = Disagreement if search.budget > 0 else Undecided
            raise kind(f"{search.complaint}\nalong the tests {path}")


@dataclass(frozen=True)
class Stand:
    """Where a search stands: about to run `block`, tests before `position` used or passed, `length` blocks done.
    `before` is the stand that it came from, by jump number `side` and by matching test `test` (or none)."""

    block: int
    args: tuple[Any, ...]
    position: int
    before: Stand | None
    length: int
    side: int = 0
    test: int | None = None

    def key(self) -> Any:
        """What decides everything that follows from here."""
        return self.block, self.position, _contents(self.args)

    def next(self, jump: schema.Jump, side: int, test: int | None, args: tuple[Any, ...]) -> Stand:
        position = self.position if test is None else test + 1
        return Stand(jump.block, args, position, self, self.length + 1, side, test)

    def walk(self, result: Any, state: State | None = None, failed: bool = False) -> Walk:
        """The finished walk that ends here."""
        edges: list[Edge] = []
        used: dict[int, int] = {}
        stand = self
        while stand.before is not None:
            edges.append((stand.before.block, stand.side))
            if stand.test is not None:
                used[stand.test] = stand.before.block
            stand = stand.before
        return Walk(result, tuple(reversed(edges)), used, state, failed)


def _contents(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        (value.shape, value.dtype.str, value.tobytes()) if isinstance(value, np.ndarray) else (type(value), repr(value))
        for value in values)


def same_effect(a: Run, b: Run) -> bool:
    """Whether two runs give the same and asked data equally often."""
    asked = [sum(test.kind == "free" for test in run.tests) for run in (a, b)]
    return asked[0] == asked[1] and not difference(a.result, b.result)


class Search:
    """Depth-first over the ways to match branches with tests; the first way is nearly always the right one."""

    def __init__(
        self, program: schema.Program, model: er.Model, run: Run, without_effect: frozenset[int], budget: int
    ) -> None:
        self.without_effect = without_effect
        self.program = program
        self.model = model
        self.tests = run.tests
        self.budget = budget
        self.ran: dict[Any, Any] = {}
        self.complaint = "the compiled program asks for no such tests"
        self.complaints = 0

    def complain(self, text: str) -> None:
        if not self.complaints:
            self.complaint = text
        self.complaints += 1

    def optional(self, i: int) -> bool:
        """Whether the compiled program may do without a branch for test `i`."""
        test = self.tests[i]
        return test.kind != "free" or test.taken == test.natural or i in self.without_effect

    def run(self, here: Stand) -> Any:
        """What the block of a stand does on its arguments, or the error that it ends with."""
        key = here.block, here.key()[2]
        if key not in self.ran:
            try:
                self.ran[key] = self.model.run_block(here.block, here.args)
            except er.ElasticRuntimeError as error:
                self.ran[key] = error
        return self.ran[key]

    def walks(self, block: int, args: tuple[Any, ...]) -> Iterator[Walk]:
        """Every way to match the branches from `block` on with the tests."""
        stack = [Stand(block, args, 0, None, 0)]
        longest = LONGEST + 4 * len(self.tests)
        seen: set[Any] = set()
        while stack and self.budget > 0:
            here = stack.pop()
            if here.key() in seen:
                continue
            seen.add(here.key())
            self.budget -= 1
            if here.length > longest:
                self.complain(f"the compiled program runs on for {here.length} blocks")
                continue
            end = self.program.blocks[here.block].terminator
            ran = self.run(here)
            if isinstance(ran, er.ElasticRuntimeError):
                if all(map(self.optional, range(here.position, len(self.tests)))):
                    yield here.walk(Raised(f"{type(ran).__name__}: {ran}"), failed=True)
                continue
            if isinstance(end, (schema.Return, schema.Raise)):
                if all(map(self.optional, range(here.position, len(self.tests)))):
                    result = ran.result if ran.raised is None else Raised(ran.raised[0])
                    yield here.walk(result, State(end.mode, tuple(ran.args)))
                else:
                    self.complain("the compiled program ends before a test that was forced")
                continue
            targets = jumps(end)
            if isinstance(end, schema.Branch):
                natural = bool(np.asarray(ran.values[end.cond]).item())
                ways = [(index, 0 if goes else 1) for index, goes in self.matches(end, natural, here.position)]
            elif isinstance(end, schema.Switch):
                chosen = int(np.asarray(ran.values[end.index]).item())
                keys = [key for key, _ in end.cases]
                ways = [(None, keys.index(chosen) if chosen in keys else len(keys))]
            else:
                ways = [(None, 0)]
            stack.extend(
                here.next(targets[side], side, index, tuple(ran.values[value] for value in targets[side].args))
                for index, side in reversed(ways))

    def matches(self, branch: schema.Branch, natural: bool, position: int) -> Iterator[tuple[int | None, bool]]:
        """(test, outcome) that the branch may stand for, likeliest first; test None: it stands for none, and follows
        its condition, which is a number that the host computes, or belongs to a line where the user's program tests
        nothing (whether an operator fails). That is likelier than a test of another line."""
        source = self.program.sources[branch.source] if branch.source >= 0 else None
        place = (source.file, source.line) if source is not None else None
        counted = isinstance(self.program.values[branch.cond], schema.ScalarType)
        alone = place is not None and place not in {(test.file, test.line) for test in self.tests}
        candidates: list[tuple[bool, int, int]] = []
        for i in range(position, len(self.tests)):
            test = self.tests[i]
            alike = test.kind in ("free", "known", "static" if counted else "fixed") and test.natural == natural
            if alike or (test.kind == "step" and counted):
                rank = SELDOM.index(test.kind) + 1 if test.kind in SELDOM else 0
                candidates.append(((test.file, test.line) != place, rank, i))
            if not self.optional(i):
                break
        if counted or alone:
            candidates.append((True, 0, -1))
        for _, _, i in sorted(candidates):
            if i < 0:
                yield None, natural
            else:
                test = self.tests[i]
                yield i, (test.taken if test.kind in ("free", "known") else natural)


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

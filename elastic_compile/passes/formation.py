"""Region formation by measured cost: what becomes of each branch.

In: a program in which every region stands between two decisions, and what its regions and dispatches cost.
Out: an equivalent program with fewer, larger regions, and `Program.decisions`: per branch what was done and why.
Never: measures (`elastic_compile.tuning` does), or changes what a path computes.

The model: a visit of a block costs a dispatch per region, plus the time that the region takes beyond one that does
nothing. Regions side by side in a block are one. A change is made when it lowers the expected time of a call by more
than `LEAST_US` and `LEAST_SHARE` of it. If-conversion is tried first (it needs both sides as they are), then copying
joins into what leads to them, then computing a side ahead. The visits that a copy takes over go on in the same
proportions, as if outcomes of successive branches did not depend on each other.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

import networkx as nx
import numpy as np

from elastic_compile.passes.branches import IfConvert, Illegal, Speculate, TailDuplicate
from elastic_compile.passes.simplify import absorb, control_flow, in_batches
from elastic_compile.program.ir import Program, jumps, verify
from elastic_runtime import schema

LEAST_US = 0.2
LEAST_SHARE = 0.002
SWEEPS = 4
LARGEST = 256
"""Steps: no block grows beyond."""

CONVERTED, DUPLICATED, SPECULATED, SPLIT = "if-converted", "tail-duplicated", "speculated", "split"
KINDS = (CONVERTED, DUPLICATED, SPECULATED)


@dataclass(frozen=True)
class Costs:
    """What was measured, times in µs.

    `regions`: per region of the program, the time inside the engine. `dispatch`: what a region costs that does nothing,
    host and engine together; `floor`: the engine's part of it. `select`: one selection of a small tensor more in a
    region, `select_byte`: each byte of it. `odds`: per block, how likely each jump of its terminator is; `calls`:
    how often each block is entered from outside per call.
    """

    regions: tuple[float, ...]
    dispatch: float
    floor: float
    select: float
    select_byte: float
    odds: tuple[tuple[float, ...], ...]
    calls: tuple[float, ...]

    def visits(self, program: Program) -> tuple[float, ...]:
        """Expected visits per call of each block: what comes in is what goes out."""
        count = len(program.blocks)
        flow = np.eye(count)
        for number, (block, odds) in enumerate(zip(program.blocks, self.odds, strict=True)):
            for jump, share in zip(jumps(block.terminator), odds, strict=True):
                flow[jump.block, number] -= share
        return tuple(np.maximum(np.linalg.lstsq(flow, np.array(self.calls), rcond=None)[0], 0.0).tolist())


@dataclass(frozen=True)
class Form:
    """Changes the branches of a program by `kinds` (of `KINDS`) where `costs` says that it pays. With `everywhere` each
    change is made wherever it is legal, whatever it costs. A program that appends to growing tensors stays as it is:
    its regions are divided on purpose, for subnets to share."""

    costs: Costs
    kinds: tuple[str, ...] = KINDS
    everywhere: bool = False

    def __call__(self, program: Program) -> Program:
        former = _Former(program, self)
        if not any(isinstance(step, schema.AppendStep) for block in program.blocks for step in block.steps):
            for kind in self.kinds:
                former.sweep(kind)
        return former.state.program.replace(decisions=former.decisions())


@dataclass(frozen=True)
class _State:
    """A program on the way. Blocks keep their numbers, new ones are appended. By block: `visits` per call, `odds` of
    its jumps, the `branch` of the given program that ends it (-1: none), the blocks of the given program `inside`."""

    program: Program
    visits: tuple[float, ...]
    odds: tuple[tuple[float, ...], ...]
    branch: tuple[int, ...]
    inside: tuple[frozenset[int], ...]

    def changed(self, program: Program, number: int, end: int | None, lost: dict[int, float],
                taken: frozenset[int] = frozenset()) -> _State:
        """With `program`, in which block `number` got the end of block `end` (None: an end without alternatives) and
        contains the blocks `taken` too, and blocks lost visits."""
        odds = (1.0,) * len(jumps(program.blocks[number].terminator)) if end is None else self.odds[end]
        return _State(
            program, tuple(max(0.0, v - lost.get(b, 0.0)) for b, v in enumerate(self.visits)),
            _put(self.odds, number, odds), _put(self.branch, number, -1 if end is None else self.branch[end]),
            _put(self.inside, number, self.inside[number] | taken))

    def converted(self, number: int) -> _State:
        program = IfConvert(number)(self.program)
        end = program.blocks[number].terminator
        join = end.block if isinstance(end, schema.Jump) else None
        lost: dict[int, float] = {}
        for jump, odds in zip(jumps(self.program.blocks[number].terminator), self.odds[number]):
            if jump.block != join:
                lost[jump.block] = lost.get(jump.block, 0.0) + odds * self.visits[number]
        return self.changed(program, number, None, lost)

    def duplicated(self, number: int) -> _State:
        program = TailDuplicate(number)(self.program)
        tail = self.program.blocks[number].terminator.block
        return self.changed(program, number, tail, {tail: self.visits[number]}, self.inside[tail])

    def speculated(self, number: int, side: int) -> _State:
        program = Speculate(number, side)(self.program)
        ahead = jumps(self.program.blocks[number].terminator)[side].block
        visits = self.visits[number] * self.odds[number][side]
        made = self.changed(program, number, number, {ahead: visits}, self.inside[ahead])
        return dataclasses.replace(
            made, visits=(*made.visits, visits), odds=(*made.odds, self.odds[ahead]),
            branch=(*made.branch, self.branch[ahead]), inside=(*made.inside, self.inside[ahead]))

    def merged(self, number: int) -> _State:
        """Block `number` has taken in the blocks that only it leads to now."""
        state = self
        while isinstance(end := state.program.blocks[number].terminator, schema.Jump):
            program = absorb(state.program, number)
            if program.blocks[number] == state.program.blocks[number]:
                break
            state = state.changed(
                program, number, end.block, {end.block: state.visits[end.block]}, state.inside[end.block])
        return state


def _put(items: tuple, number: int, item: object) -> tuple:
    return (*items[:number], item, *items[number + 1:])


class _Former:
    """Tries changes one after another, and remembers why."""

    def __init__(self, program: Program, form: Form) -> None:
        costs = form.costs
        self.given, self.form = program, form
        self.times = list(costs.regions)
        self.state = _State(
            program, costs.visits(program), costs.odds,
            tuple(b if len(jumps(block.terminator)) > 1 else -1 for b, block in enumerate(program.blocks)),
            tuple(frozenset({b}) for b in range(len(program.blocks))))
        self.known: dict[int, tuple[schema.Block, float]] = {}
        self.made: dict[int, dict[str, str]] = {}
        self.refused: dict[int, dict[str, str]] = {}
        self.least = max(LEAST_US, LEAST_SHARE * self.cost(self.state))

    # -- the model
    def cost(self, state: _State) -> float:
        """Expected µs per call."""
        return sum(visits * self.time(state.program, number) for number, visits in enumerate(state.visits) if visits)

    def time(self, program: Program, number: int) -> float:
        """µs per visit of a block."""
        block = program.blocks[number]
        if id(block) not in self.known:
            self.known[id(block)] = block, self._time(program, block)
        return self.known[id(block)][1]

    def _time(self, program: Program, block: schema.Block) -> float:
        costs, total, previous = self.form.costs, 0.0, None
        for step in in_batches(program, block.steps):
            if isinstance(step, schema.RegionStep):
                if not isinstance(previous, schema.RegionStep):
                    total += costs.dispatch
                total += max(0.0, self.times[step.region] - costs.floor)
            previous = step
        return total

    def estimate(self, program: Program) -> None:
        """The times of regions that were not measured: those that select."""
        costs = self.form.costs
        for graph in program.graphs[len(self.times):]:
            size = sum(_bytes(program.values[value]) for value in graph.outputs)
            self.times.append(costs.floor + costs.select * len(graph.outputs) + costs.select_byte * size)

    # -- changes
    def sweep(self, kind: str) -> None:
        """Try one kind of change on every block, later ones first, until nothing changes."""
        for _ in range(1 if self.form.everywhere else SWEEPS):
            before = self.state
            order = [b for b in nx.dfs_postorder_nodes(control_flow(before.program), -1) if b >= 0]
            for number in order:
                while any(self.attempt(kind, number, change) for change in self.changes(kind, number)):
                    pass
            if self.state is before:
                return

    def changes(self, kind: str, number: int) -> Iterator[Callable[[_State], _State]]:
        """What may be tried on a block; a block takes in no block of the given program twice."""
        end, inside = self.state.program.blocks[number].terminator, self.state.inside
        if kind == CONVERTED and isinstance(end, schema.Branch):
            yield lambda state: state.converted(number)
        elif kind == DUPLICATED and isinstance(end, schema.Jump) and not inside[end.block] & inside[number]:
            yield lambda state: state.duplicated(number)
        elif kind == SPECULATED and isinstance(end, schema.Branch):
            for side, jump in enumerate((end.then, end.orelse)):
                if not inside[jump.block] & inside[number]:
                    yield lambda state, side=side: state.speculated(number, side)

    def attempt(self, kind: str, number: int, change: Callable[[_State], _State]) -> bool:
        """Make a change if it is legal and pays."""
        old, subject = self.state, self.subject(number)
        try:
            raw = change(old)
            if len(raw.program.blocks[number].steps) > LARGEST:
                raise Illegal("the block would become too large")
        except Illegal as error:
            self.refused.setdefault(subject, {}).setdefault(kind, str(error))
            return False
        self.estimate(raw.program)
        new = raw.merged(number)
        gain = self.cost(old) - self.cost(new)
        extra = self.time(raw.program, number) - self.time(old.program, number)
        reason = self.reason(kind, gain, extra, old.visits[number])
        if not self.form.everywhere and gain <= self.least:
            self.refused.setdefault(subject, {}).setdefault(kind, reason)
            return False
        verify(new.program)
        self.state = new
        self.made.setdefault(subject, {})[kind] = reason
        return True

    def reason(self, kind: str, gain: float, extra: float, visits: float) -> str:
        """Why a change pays or not: what it adds to a visit of the block, against what it saves in the mean."""
        saved = extra + gain / visits if visits else 0.0
        sign = "<" if extra < saved else ">"
        what = {
            CONVERTED: f"both sides {extra:.1f} µs {sign} {saved:.1f} µs of one side and its dispatches",
            DUPLICATED: f"the join follows in one region, {gain:.1f} µs less per call",
            SPECULATED: f"ahead {extra:.1f} µs {sign} {saved:.1f} µs when it is needed",
        }
        return what[kind] if visits else "no call comes here"

    def subject(self, number: int) -> int:
        """The branch of the given program that a change of a block is about: the one that ends it, else the one that
        leads to it."""
        branch = self.state.branch
        if branch[number] >= 0:
            return branch[number]
        before = [b for b in control_flow(self.state.program).predecessors(number) if b >= 0 and branch[b] >= 0]
        return branch[before[0]] if before else -1

    # -- the report
    def decisions(self) -> tuple[schema.BranchDecision, ...]:
        """One entry per branch of the given program and change made of it."""
        found = []
        for number, block in enumerate(self.given.blocks):
            if len(jumps(block.terminator)) < 2:
                continue
            made = self.made.get(number)
            if not made:
                refused = self.refused.get(number, {}).items()
                made = {SPLIT: "; ".join(f"not {kind}: {why}" for kind, why in refused) or "nothing tried"}
            place = _place(self.given, block.terminator.source) or f"block {number} {block.label}".rstrip()
            found += [schema.BranchDecision(branch=place, kind=kind, reason=reason) for kind, reason in made.items()]
        return tuple(found)


def _place(program: Program, source: int) -> str:
    if source < 0:
        return ""
    place = program.sources[source]
    return f"{PurePath(place.file).name}:{place.line}  {place.text}"


def _bytes(kind: schema.ValueType) -> int:
    sizes = [size for size in getattr(kind, "shape", ()) if isinstance(size, int)]
    return int(np.prod(sizes, dtype=np.int64)) * np.dtype(getattr(kind, "dtype", "int64")).itemsize

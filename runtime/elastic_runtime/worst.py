"""The longest way through a program: what a call can cost at most, whatever its input.

In: a checked program, and what one run of a region costs. Out: the cost of the costliest path from an entry to an
exit; None where a loop makes it unbounded.
Never: guesses how often a loop runs: what only the data decides has no bound but the caller's budget.
"""
from __future__ import annotations

from collections.abc import Callable

from elastic_runtime.schema import Branch, Jump, Program, Region, RegionStep, Switch, Terminator


def worst_path(program: Program, cost: Callable[[Region], float] = lambda region: 1) -> float | None:
    """The largest sum of `cost` over the regions that one call may run; by default their number."""
    own = [sum(cost(program.regions[step.region]) for step in block.steps if isinstance(step, RegionStep))
           for block in program.blocks]
    following = [[jump.block for jump in jumps(block.terminator)] for block in program.blocks]
    total: dict[int, float] = {}
    open_: set[int] = set()
    for entry in program.entries:
        stack = [entry.block]
        while stack:
            block = stack[-1]
            if block in total:
                stack.pop()
                continue
            waiting = [other for other in following[block] if other not in total]
            if block in open_ and not waiting:
                total[block] = own[block] + max((total[other] for other in following[block]), default=0)
                open_.discard(block)
                stack.pop()
            elif any(other in open_ or other == block for other in waiting):
                return None
            else:
                open_.add(block)
                stack.append(waiting[0]) if waiting else None
    return max(total[entry.block] for entry in program.entries)


def jumps(end: Terminator) -> list[Jump]:
    """The jumps that a terminator may take."""
    if isinstance(end, Jump):
        return [end]
    if isinstance(end, Branch):
        return [end.then, end.orelse]
    if isinstance(end, Switch):
        return [end.default, *(jump for _, jump in end.cases)]
    return []

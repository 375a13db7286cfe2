"""Seeds faults into a compiled program, one at a time, each of which a faulty compiler could have made.

In: a valid program. Out: valid programs that do something else.
Never: makes a program that the loader would refuse: a fault must be found by what it computes.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from elastic_compile.program.ir import jumps
from elastic_runtime import schema

replace = msgspec.structs.replace


def with_block(program: schema.Program, number: int, block: schema.Block) -> schema.Program:
    blocks = list(program.blocks)
    blocks[number] = block
    return replace(program, blocks=tuple(blocks))


def with_jumps(
    terminator: schema.Terminator, change: Callable[[int, schema.Jump], schema.Jump]
) -> schema.Terminator:
    """The terminator with each jump, by its number, changed."""
    if isinstance(terminator, schema.Jump):
        return change(0, terminator)
    if isinstance(terminator, schema.Branch):
        return replace(terminator, then=change(0, terminator.then), orelse=change(1, terminator.orelse))
    if isinstance(terminator, schema.Switch):
        cases = tuple((key, change(i, jump)) for i, (key, jump) in enumerate(terminator.cases))
        return replace(terminator, cases=cases, default=change(len(cases), terminator.default))
    return terminator


def defined(block: schema.Block) -> list[int]:
    """The values of a block, oldest first."""
    return [*block.params, *(output for step in block.steps for output in step.outputs)]


def swapped_branches(program: schema.Program) -> Iterator[schema.Program]:
    """Each branch goes the other way."""
    for number, block in enumerate(program.blocks):
        end = block.terminator
        if isinstance(end, schema.Branch):
            yield with_block(program, number, replace(block, terminator=replace(end, then=end.orelse, orelse=end.then)))


def stale_live_ins(program: schema.Program) -> Iterator[schema.Program]:
    """Each argument that a block computes for a jump is replaced by an older value of its type."""
    for number, block in enumerate(program.blocks):
        known = defined(block)
        for which, jump in enumerate(jumps(block.terminator)):
            for position, argument in enumerate(jump.args):
                for older in _older(program, known, argument):
                    args = (*jump.args[:position], older, *jump.args[position + 1:])
                    end = with_jumps(
                        block.terminator, lambda i, j: replace(j, args=args) if i == which else j)  # noqa: B023
                    yield with_block(program, number, replace(block, terminator=end))


def lost_mutations(program: schema.Program) -> Iterator[schema.Program]:
    """Each value that a block returns or leaves as state is replaced by the value of its type before it."""
    for number, block in enumerate(program.blocks):
        end, known = block.terminator, defined(block)
        if not isinstance(end, schema.Return):
            continue
        for position, value in enumerate(end.carry):
            for older in _older(program, known, value):
                carry = (*end.carry[:position], older, *end.carry[position + 1:])
                yield with_block(program, number, replace(block, terminator=replace(end, carry=carry)))
        for value in dict.fromkeys(_leaves(end.tree)):
            for older in _older(program, known, value):
                tree = _renamed(end.tree, value, older)
                yield with_block(program, number, replace(block, terminator=replace(end, tree=tree)))


def wrong_joins(program: schema.Program) -> Iterator[schema.Program]:
    """Each jump goes to another block with parameters of the same types."""
    entries = {entry.block for entry in program.entries}
    types = [tuple(program.values[param] for param in block.params) for block in program.blocks]
    for number, block in enumerate(program.blocks):
        for which, jump in enumerate(jumps(block.terminator)):
            for other in range(len(program.blocks)):
                if other not in (jump.block, *entries) and types[other] == types[jump.block]:
                    end = with_jumps(
                        block.terminator, lambda i, j: replace(j, block=other) if i == which else j)  # noqa: B023
                    yield with_block(program, number, replace(block, terminator=end))


FAULTS = {
    "swapped branch": swapped_branches, "stale live-in": stale_live_ins, "lost mutation": lost_mutations,
    "wrong join": wrong_joins,
}


def _older(program: schema.Program, known: list[int], value: int) -> list[int]:
    """The nearest value before `value` of the same type, if any."""
    before = [v for v in known[: known.index(value)] if program.values[v] == program.values[value]]
    return before[-1:]


def _leaves(tree: schema.Tree) -> Iterator[int]:
    if isinstance(tree, schema.ValueLeaf):
        yield tree.id
    for item in getattr(tree, "items", ()):
        yield from _leaves(item)


def _renamed(tree: schema.Tree, old: int, new: int) -> schema.Tree:
    if isinstance(tree, schema.ValueLeaf):
        return replace(tree, id=new) if tree.id == old else tree
    if not hasattr(tree, "items"):
        return tree
    return replace(tree, items=tuple(_renamed(item, old, new) for item in tree.items))

"""What may become of one branch: both its sides computed, a side computed ahead, a join copied into what leads to it.

In: a program, and the number of the block to change. Out: an equivalent program in which other blocks keep their
numbers; regions that came to stand side by side are made one by `MergeChains` afterwards.
Never: runs a step where the program would not have run it, unless `effects.obstacle` finds nothing against it.

If-conversion is that of Allen et al. (POPL 1983); copying a join into a predecessor is tail duplication (Chang et
al., "The superblock", 1993), for a loop's header it rotates the loop.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elastic_compile.passes.effects import dynamic, obstacle, symbolic
from elastic_compile.passes.simplify import blank, rename
from elastic_compile.program.ir import Graph, Op, Program, Use
from elastic_runtime import schema

aten = torch.ops.aten


class Illegal(Exception):
    """The branch cannot be changed in this way; the text says why."""


@dataclass(frozen=True)
class IfConvert:
    """The branch that ends `block` becomes a selection: both sides are computed, and what the rest of the program gets
    is copied from the side that the condition chooses. Each side is at most one block, and both lead to one place or
    both return. Raises Illegal."""

    block: int

    def __call__(self, program: Program) -> Program:
        here = program.blocks[self.block]
        branch = here.terminator
        if not isinstance(branch, schema.Branch):
            raise Illegal("the block does not end in a branch")
        arms = self._arms(program, branch)
        made = _Copies(program)
        steps = list(here.steps)
        ends = []
        for jump, taken in zip((branch.then, branch.orelse), arms):
            if not taken:
                ends.append(jump)
                continue
            side = program.blocks[jump.block]
            _allow(program, side.steps)
            names = dict(zip(side.params, jump.args))
            steps += made.steps(side.steps, names)
            ends.append(rename(side.terminator, names))
        selection = _Selection(made, branch.cond, branch.source)
        then, orelse = ends
        if isinstance(then, schema.Jump):
            end: schema.Terminator = schema.Jump(
                block=then.block, args=tuple(map(selection.of, then.args, orelse.args)), source=then.source)
        else:
            end = schema.Return(
                tree=selection.tree(then.tree, orelse.tree), mode=then.mode,
                carry=tuple(map(selection.of, then.carry, orelse.carry)), source=then.source)
        changed = schema.Block(
            params=here.params, steps=(*steps, *selection.steps()), terminator=end, label=here.label)
        return blank(made.program(_with(program.blocks, self.block, changed)))

    def _arms(self, program: Program, branch: schema.Branch) -> tuple[bool, bool]:
        """Whether then and else have a block of their own before they lead to one place."""
        then, orelse = branch.then.block, branch.orelse.block
        if then == orelse:
            return False, False
        if self.block in (then, orelse):
            raise Illegal("one side is a loop")
        ends = [program.blocks[side].terminator for side in (then, orelse)]
        after = [end.block if isinstance(end, schema.Jump) else None for end in ends]
        if after[0] == orelse:
            return True, False
        if after[1] == then:
            return False, True
        if after[0] is not None and after[0] == after[1]:
            return True, True
        if all(isinstance(end, schema.Return) for end in ends) and ends[0].mode == ends[1].mode:
            return True, True
        raise Illegal("its sides do not lead to one place at once")


@dataclass(frozen=True)
class Speculate:
    """The block that the `side`-th jump (0: then, 1: else) of `block`'s branch goes to is computed before the branch is
    decided, and dropped when it goes the other way. Raises Illegal."""

    block: int
    side: int

    def __call__(self, program: Program) -> Program:
        here = program.blocks[self.block]
        if not isinstance(here.terminator, schema.Branch):
            raise Illegal("the block does not end in a branch")
        jump = (here.terminator.then, here.terminator.orelse)[self.side]
        ahead = program.blocks[jump.block]
        if jump.block == self.block:
            raise Illegal("the side is the block itself")
        count = next((i for i, step in enumerate(ahead.steps) if obstacle(program, step)), len(ahead.steps))
        while count and not isinstance(ahead.steps[count - 1], schema.RegionStep):
            count -= 1
        if not count:
            raise Illegal(next(filter(None, (obstacle(program, step) for step in ahead.steps)),
                               "there is nothing to compute ahead"))
        early, late = ahead.steps[:count], ahead.steps[count:]
        made = _Copies(program)
        names = dict(zip(ahead.params, jump.args))
        steps = made.steps(early, names)
        passed = [*ahead.params, *(value for step in early for value in step.outputs)]
        inner = {value: made.value(value) for value in passed}
        rest = made.steps(late, inner)
        numbered = _with(program.blocks, self.block, schema.Block(
            params=here.params, steps=(*here.steps, *steps), label=here.label,
            terminator=_redirected(here.terminator, self.side, schema.Jump(
                block=len(program.blocks), args=tuple(names[value] for value in passed), source=jump.source))))
        after = schema.Block(
            params=tuple(inner[value] for value in passed), steps=tuple(rest),
            terminator=rename(ahead.terminator, inner), label=ahead.label)
        return blank(made.program((*numbered, after)))


@dataclass(frozen=True)
class TailDuplicate:
    """The block that `block` jumps to is copied to its end. Raises Illegal."""

    block: int

    def __call__(self, program: Program) -> Program:
        here = program.blocks[self.block]
        jump = here.terminator
        if not isinstance(jump, schema.Jump):
            raise Illegal("the block does not end in a jump")
        if jump.block == self.block:
            raise Illegal("the block jumps to itself")
        tail = program.blocks[jump.block]
        values = (*tail.params, *(value for step in tail.steps for value in step.outputs))
        regions = [program.graphs[step.region] for step in tail.steps if isinstance(step, schema.RegionStep)]
        if dynamic(program, (*values, *jump.args)) or any(map(symbolic, regions)):
            raise Illegal("has sizes that only data decides")
        if any(program.fakes[a].stride() != program.fakes[p].stride() for a, p in zip(jump.args, tail.params)
               if a in program.fakes and p in program.fakes):
            raise Illegal("tensors lie in memory in another order on other ways to it")
        made = _Copies(program)
        names = dict(zip(tail.params, jump.args))
        steps = made.steps(tail.steps, names)
        return blank(made.program(_with(program.blocks, self.block, schema.Block(
            params=here.params, steps=(*here.steps, *steps), terminator=rename(tail.terminator, names),
            label=here.label))))


class _Copies:
    """New values of a program."""

    def __init__(self, program: Program) -> None:
        self.base = program
        self.values = list(program.values)
        self.fakes = dict(program.fakes)
        self.graphs = list(program.graphs)

    def value(self, like: int | schema.ValueType) -> int:
        """A new value, of a type or like another value."""
        self.values.append(self.values[like] if isinstance(like, int) else like)
        if isinstance(like, int) and like in self.fakes:
            self.fakes[len(self.values) - 1] = self.fakes[like]
        return len(self.values) - 1

    def steps(self, steps: Sequence[schema.Step], names: dict[int, int]) -> list[schema.Step]:
        """The steps on renamed values, their outputs new; `names` learns these."""
        copied = []
        for step in steps:
            for output in step.outputs:
                names[output] = self.value(output)
            copied.append(rename(step, names))
        return copied

    def program(self, blocks: Sequence[schema.Block]) -> Program:
        return self.base.replace(
            blocks=tuple(blocks), values=tuple(self.values), fakes=self.fakes, graphs=tuple(self.graphs))


class _Selection:
    """Chooses among pairs of values by one condition. Tensors are copied, so that a NaN, an infinity or the sign of a
    zero on the other side leaves no trace (ONNX Runtime's Where adds the two sides, and loses the sign)."""

    def __init__(self, made: _Copies, cond: int, source: int) -> None:
        self.made, self.cond, self.source = made, cond, source
        self.chosen: dict[tuple[int, int], int] = {}
        self.constants: list[schema.Step] = []

    def of(self, then: int, orelse: int) -> int:
        """The value that holds `then` or `orelse`. Raises Illegal."""
        if then == orelse:
            return then
        one, other = self.made.values[then], self.made.values[orelse]
        if one != other or getattr(one, "dtype", "").startswith("complex"):
            raise Illegal("its sides give values of different types" if one != other else "its values are complex")
        if dynamic(self.made.base.replace(values=tuple(self.made.values)), (then, orelse)):
            raise Illegal("has sizes that only data decides")
        if (then, orelse) not in self.chosen:
            self.chosen[then, orelse] = self.made.value(then)
        return self.chosen[then, orelse]

    def tree(self, then: schema.Tree, orelse: schema.Tree) -> schema.Tree:
        """The output tree whose leaves are chosen. Raises Illegal where the structures differ."""
        if isinstance(then, schema.ValueLeaf) and isinstance(orelse, schema.ValueLeaf):
            return schema.ValueLeaf(id=self.of(then.id, orelse.id))
        if then == orelse:
            return then
        if type(then) is type(orelse) and hasattr(then, "items"):
            outline = [(f, getattr(then, f)) for f in then.__struct_fields__ if f != "items"]
            if outline == [(f, getattr(orelse, f)) for f, _ in outline] and len(then.items) == len(orelse.items):
                items = tuple(map(self.tree, then.items, orelse.items))
                return type(then)(**dict(outline), items=items)
        return schema.ValueLeaf(id=self.of(self.number(then), self.number(orelse)))

    def number(self, leaf: schema.Tree) -> int:
        """A value for a leaf that is a number fixed at compile time, or the value that it is."""
        if isinstance(leaf, schema.ValueLeaf):
            return leaf.id
        known = schema.decode_float(leaf.v) if isinstance(leaf, schema.FloatLeaf) else getattr(leaf, "v", None)
        if not isinstance(known, (bool, int, float)):
            raise Illegal("its sides return different structures")
        output = self.made.value(schema.ScalarType(kind=type(known).__name__))
        self.constants.append(schema.ScalarStep(
            op="const", inputs=(), outputs=(output,), literals=((0, schema.encode_literal(known)),),
            source=self.source))
        return output

    def steps(self) -> list[schema.Step]:
        """The steps that choose."""
        steps = list(self.constants)
        scalars, tensors = [], []
        for pair in self.chosen.items():
            (tensors if isinstance(self.made.values[pair[1]], schema.TensorType) else scalars).append(pair)
        known = isinstance(self.made.values[self.cond], schema.ScalarType)
        if tensors:
            steps += self._region(tensors, known)
        cond = self.cond
        if scalars and not known:
            dtype = self.made.values[cond].dtype
            cond = self.made.value(schema.ScalarType(
                kind="bool" if dtype == "bool" else "int" if "int" in dtype else "float"))
            steps.append(schema.ScalarStep(op="item", inputs=(self.cond,), outputs=(cond,), source=self.source))
        steps += [schema.ScalarStep(op="select", inputs=(cond, *pair), outputs=(made,), source=self.source)
                  for pair, made in scalars]
        return steps

    def _region(self, tensors: list[tuple[tuple[int, int], int]], known: bool) -> list[schema.Step]:
        made, steps, cond = self.made, [], self.cond
        if known:
            if made.values[cond].kind != "bool":
                truth = made.value(schema.ScalarType(kind="bool"))
                steps.append(schema.ScalarStep(op="bool", inputs=(cond,), outputs=(truth,), source=self.source))
                cond = truth
            carried = made.value(schema.TensorType(dtype="bool", shape=()))
            made.fakes[carried] = torch.empty((), dtype=torch.bool, device="meta")
            steps.append(schema.ScalarStep(
                op="tensor_bool", inputs=(cond,), outputs=(carried,), source=self.source))
            cond = carried
        inputs = list(dict.fromkeys((cond, *(value for pair, _ in tensors for value in pair))))
        inner = {value: made.value(value) for value in inputs}
        graph = _Choosing(made, self.source)
        index = graph.index(Use(inner[cond]))
        outputs = []
        for (then, orelse), _ in tensors:
            outputs.append(graph.choose(index, Use(inner[orelse]), Use(inner[then]), then))
        made.graphs.append(Graph(tuple(inner.values()), tuple(graph.ops), tuple(outputs)))
        steps.append(schema.RegionStep(
            region=len(made.graphs) - 1, inputs=tuple(inputs), outputs=tuple(value for _, value in tensors),
            source=self.source))
        return steps


class _Choosing:
    """The operations that select."""

    def __init__(self, made: _Copies, source: int) -> None:
        self.made, self.source = made, source
        self.ops: list[Op] = []
        self.rows: dict[int, Use] = {}

    def op(self, target: Any, kind: tuple[str, tuple[int, ...]], *args: Any, **kwargs: Any) -> Use:
        """One operation, with the dtype and shape that it gives."""
        dtype, shape = kind
        output = self.made.value(schema.TensorType(dtype=dtype, shape=shape))
        self.made.fakes[output] = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        self.ops.append(Op(target, args, kwargs, (output,), self.source, total=True))
        return Use(output)

    def index(self, cond: Use) -> Use:
        """int64 [1]: 1 where the condition holds, else 0."""
        kind = self.made.values[cond.id]
        if kind.dtype != "bool":
            cond = self.op(aten.ne.Scalar, ("bool", kind.shape), cond, 0)
        number = self.op(aten._to_copy.default, ("int64", kind.shape), cond, dtype=torch.int64)
        return number if kind.shape == (1,) else self.op(aten.view.default, ("int64", (1,)), number, [1])

    def choose(self, index: Use, first: Use, second: Use, like: int) -> int:
        """`first` where the index is 0, `second` where it is 1, as a copy of whole rows."""
        kind = self.made.values[like]
        rows, *rest = kind.shape or (1,)
        if not kind.shape:
            first, second = (self.op(aten.view.default, (kind.dtype, (1,)), one, [1]) for one in (first, second))
        both = self.op(aten.cat.default, (kind.dtype, (2 * rows, *rest)), [first, second], 0)
        chosen = self.op(
            aten.index_select.default, (kind.dtype, (rows, *rest)), both, 0, self.lines(index, rows))
        return chosen.id if kind.shape else self.op(aten.view.default, (kind.dtype, ()), chosen, []).id

    def lines(self, index: Use, rows: int) -> Use:
        """int64 [rows]: the numbers of the rows of one of two tensors that lie one behind the other."""
        if rows == 1:
            return index
        if rows not in self.rows:
            offset = self.op(aten.mul.Tensor, ("int64", (1,)), index, rows)
            numbers = self.op(aten.arange.start_step, ("int64", (rows,)), 0, rows, 1, dtype=torch.int64)
            self.rows[rows] = self.op(aten.add.Tensor, ("int64", (rows,)), numbers, offset)
        return self.rows[rows]


def _allow(program: Program, steps: Sequence[schema.Step]) -> None:
    for step in steps:
        why = obstacle(program, step)
        if why:
            raise Illegal(f"one side {why}")


def _redirected(branch: schema.Branch, side: int, jump: schema.Jump) -> schema.Branch:
    sides = [branch.then, branch.orelse]
    sides[side] = jump
    return schema.Branch(cond=branch.cond, then=sides[0], orelse=sides[1], source=branch.source)


def _with(blocks: Sequence[schema.Block], number: int, block: schema.Block) -> tuple[schema.Block, ...]:
    return (*blocks[:number], block, *blocks[number + 1:])

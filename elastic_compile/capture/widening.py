"""Which sizes of tensors a loop carries as run-time numbers, and how they hang together.

In: the states of visits to one loop head. Out: what tells them apart, where that is numbers and sizes alone, and a
`Widening`: the numbers and sizes to be carried, those that keep a fixed distance as one.
Never: assumes a relation. It is part of the key of a state, so that a visit at which it does not hold joins nothing at
which it does; what does not keep it in the rounds to come is carried alone.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sympy
import torch

from elastic_compile.capture.state import State
from elastic_compile.capture.symbols import as_expr

Path = tuple[Any, ...]
#: The least size that a widened size stands for: sizes 0 and 1 mean something else to PyTorch (nothing, broadcast).
GENERAL = 2


@dataclass(frozen=True)
class Group:
    """Sizes and whole numbers at a constant distance from one another: each of `members` (path, ratio) is `ratio`
    times the size at `base`, plus a constant."""

    base: Path
    members: tuple[tuple[Path, int], ...]


@dataclass(frozen=True)
class Widening:
    """What a loop head carries at run time: the numbers at the paths `numbers`, each for itself; and `groups`.
    `alone`: sizes that keep no constant distance from others."""

    numbers: frozenset[Path] = frozenset()
    groups: tuple[Group, ...] = ()
    alone: frozenset[Path] = frozenset()

    @property
    def grouped(self) -> frozenset[Path]:
        return frozenset(path for group in self.groups for path, _ in group.members)

    def without(self, dropped: Iterable[Group]) -> Widening:
        """The same, where the sizes of some groups are as they are."""
        gone = set(dropped)
        return Widening(self.numbers, tuple(group for group in self.groups if group not in gone), self.alone)

    def loosened(self, paths: Iterable[Path]) -> Widening:
        """The same, where some members of groups are carried each for itself."""
        loose = set(paths)
        groups = []
        for group in self.groups:
            kept = tuple(member for member in group.members if member[0] not in loose)
            groups.extend([Group(group.base, kept)] if kept else [])
        groups.extend(Group(path, ((path, 1),)) for path in sorted(filter(is_size, loose), key=repr))
        return Widening(
            self.numbers | {path for path in loose if not is_size(path)}, tuple(groups), self.alone | loose)


@dataclass(frozen=True)
class Distances:
    """Of a group at one visit: each member less its multiple of the base, the least that the base can be for every
    size to be `GENERAL`, and whether it is known to be."""

    offsets: tuple[int | None, ...]
    least: int
    general: bool


def is_size(path: Path) -> bool:
    """Whether a path names a size: (path of a tensor, "size", dimension)."""
    return len(path) > 2 and path[-2] == "size"


def distances(group: Group, state: State, proved: Callable[[sympy.Basic], bool]) -> Distances:
    """How the members of a group stand to its base; None for one that is at no constant distance."""
    base = expr_of(state.members[group.base])
    offsets = []
    least = 0
    for path, ratio in group.members:
        offset = sympy.expand(expr_of(state.members[path]) - ratio * base)
        offsets.append(int(offset) if offset.is_Integer else None)
        if is_size(path) and offset.is_Integer:
            least = max(least, -((int(offset) - GENERAL) // ratio))
    return Distances(tuple(offsets), least, proved(sympy.Ge(base, least)))


def outline(state: State) -> tuple[Any, ...]:
    """A state without its numbers and sizes: visits to a loop head of one outline may be rounds of one loop."""
    return tuple(
        (*token[:2], len(token[2]), token[4]) if token[:1] == ("tensor",)
        else ("number",) if i in state.slot_at or token[:1] == ("grouped",) else token
        for i, token in enumerate(state.tokens) if token[:1] != ("group",))


def difference(before: State, now: State) -> frozenset[Path] | None:
    """The places of numbers and sizes that alone tell two states apart; None when something else does."""
    if len(before.tokens) != len(now.tokens):
        return None
    changed = set()
    for i, (a, b) in enumerate(zip(before.tokens, now.tokens)):
        if a == b:
            continue
        if a[:1] == b[:1] == ("group",):
            changed.update(path for path, one, other in zip(a[1], a[2], b[2]) if one != other)
            continue
        if a[:1] == b[:1] == ("tensor",):
            if (*a[:2], len(a[2]), *a[3:5]) != (*b[:2], len(b[2]), *b[3:5]):
                return None
            continue
        slot = now.slot_at.get(i)
        if slot not in now.slots or before.slot_at.get(i) != slot or now.slots[slot].write is None:
            return None
        if a[0] != b[0] and "scalar" not in (a[0], b[0]):
            return None
        changed.add(slot)
    for path, size in now.sizes.items():
        if path not in before.sizes:
            return None
        if path in now.members and path in before.members:
            continue
        known = isinstance(before.sizes[path], int) or isinstance(size, int)
        if before.sizes[path] != size and (known or not size.is_Symbol):
            changed.add(path)
    return frozenset(changed) or None


def plan(old: Widening, changed: frozenset[Path], before: State, now: State) -> Widening:
    """What to carry so that `now` would be `before`: what changed, with the distances that it kept."""
    broken = changed & old.grouped
    alone = old.alone | broken
    sizes = {path for path in changed | old.grouped if is_size(path)}
    numbers = (changed | old.grouped) - sizes
    growth = {path: _growth(path, before, now) for path in sizes | numbers}
    groups: list[Group] = []
    left = sorted((path for path in sizes if path not in alone), key=repr)
    left.sort(key=lambda path: abs(growth[path]) if growth[path].is_Integer else 0)
    taken: set[Path] = set()
    for base in left:
        if base in taken or growth[base] == 0:
            continue
        members = []
        for path in (*left, *sorted((n for n in numbers if n not in alone), key=repr)):
            ratio = growth[path] / growth[base] if path not in taken else sympy.Integer(0)
            if ratio.is_Integer and ratio > 0:
                members.append((path, int(ratio)))
        taken.update(path for path, _ in members)
        groups.append(Group(base, tuple(members)))
    groups.extend(Group(path, ((path, 1),)) for path in sorted(sizes - taken, key=repr))
    return Widening(old.numbers | (numbers - taken), tuple(groups), alone)


def _growth(path: Path, before: State, now: State) -> sympy.Basic:
    one, other = value_at(before, path), value_at(now, path)
    if type(one) is float or type(other) is float:
        return sympy.nan
    return sympy.expand(expr_of(other) - expr_of(one))


def value_at(state: State, path: Path) -> Any:
    """The number or size at `path`."""
    return state.sizes[path] if is_size(path) else state.slots[path].value


def has(state: State, path: Path) -> bool:
    return path in (state.sizes if is_size(path) else state.slots)


def expr_of(value: Any) -> sympy.Basic:
    """A number as an expression."""
    if isinstance(value, sympy.Basic):
        return value
    expr = as_expr(value)
    return sympy.sympify(value) if expr is None else expr


def order_of(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The dimensions of a tensor larger than 1, from the outermost in memory to the innermost; None where its elements
    do not fill their memory without gaps."""
    sizes = [expr_of(size) for size in tensor.shape]
    strides = [expr_of(stride) for stride in tensor.stride()]
    dims = [dim for dim, size in enumerate(sizes) if size != 1]
    large = {symbol: sympy.Integer(1009 + 2 * i) for i, symbol in enumerate(
        sorted({s for expr in (*sizes, *strides) for s in expr.free_symbols}, key=str))}
    dims.sort(key=lambda dim: -int(strides[dim].xreplace(large)))
    expected = sympy.Integer(1)
    for dim in reversed(dims):
        if sympy.expand(strides[dim] - expected) != 0:
            return None
        expected *= sizes[dim]
    return tuple(dims)


def strides_for(sizes: tuple[Any, ...], order: tuple[int, ...]) -> tuple[Any, ...]:
    """The strides of a tensor of these sizes whose dimensions lie in memory in this order; those of size 1, which no
    order names, have the stride that a contiguous tensor would give them."""
    strides: list[Any] = [None] * len(sizes)
    inner: Any = 1
    for dim in reversed(order):
        strides[dim] = inner
        inner = inner * sizes[dim]
    for dim in reversed(range(len(sizes))):
        if strides[dim] is None:
            strides[dim] = strides[dim + 1] * sizes[dim + 1] if dim + 1 < len(sizes) else 1
    return tuple(strides)

"""Finds what the weights of several subnets have in common, and lays them out so that each byte is stored once.

In: per subnet arrays by name (views of torch's memory where they are views), and the supernet's tensors by name.
Out: `Shared`: the arrays to store, the tensors that are parts of them, a name in the store for each subnet's tensor,
and a report of what is shared, viewed, copied, and why.
Never: takes anyone's word for what is shared, or stores a tensor that no subnet reads.

A tensor is looked for, in this order: as equal bytes; as a view of the memory of a larger tensor; by content, as a
block of a larger tensor (a prefix, a range, gathered channels). What is found nowhere stands alone and is itself
looked in for smaller ones. Of a tensor that only parts are read of, the smallest block that holds them is stored.
"""
from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from elastic_compile.weights.locate import as_view, box_of, c_strides, in_c_order, places_of, view_in, view_of
from elastic_runtime import schema

#: Bytes from which on a tensor is looked for inside others; a smaller one costs less than its description.
SMALLEST = 256

#: Elements that the search by content may look at, per element that the subnets have, and at least.
EFFORT = 256
_LEAST_EFFORT = 1 << 28


@dataclass(frozen=True)
class Shared:
    """`names`: subnet -> its own name of a tensor -> the name in the store (a stored tensor or a part)."""

    stored: Mapping[str, np.ndarray]
    parts: schema.Parts
    names: Mapping[str, Mapping[str, str]]
    alone: Mapping[str, int]
    subnets: Mapping[str, schema.SharedBytes]


@dataclass
class _Distinct:
    """Tensors of equal dtype, shape and bytes. `users`: (subnet, name)."""

    array: np.ndarray
    name: str
    digest: bytes
    users: list[tuple[str, str]] = field(default_factory=list)
    root: _Root | None = None
    placed: schema.View | tuple[np.ndarray, ...] | None = None
    why: str = ""


@dataclass
class _Root:
    """A tensor in which others lie. `own`: a subnet reads it as it is, so it is stored whole."""

    name: str
    array: np.ndarray
    inside: list[_Distinct] = field(default_factory=list)
    own: _Distinct | None = None


def share(
    subnets: Mapping[str, Mapping[str, np.ndarray]], supernet: Mapping[str, np.ndarray] | None = None
) -> Shared:
    """Lay out the weights of `subnets`; `supernet` gives tensors in which they may lie."""
    distinct = _distinct(subnets)
    effort = [max(_LEAST_EFFORT, EFFORT * sum(one.array.size for one in distinct))]
    roots = _Roots(supernet or {})
    for one in sorted(distinct, key=lambda one: (-one.array.nbytes, one.name)):
        roots.place(one, effort)
    return _Layout(roots).lay(subnets, distinct)


def _distinct(subnets: Mapping[str, Mapping[str, np.ndarray]]) -> list[_Distinct]:
    known: dict[object, _Distinct] = {}
    seen: dict[object, bytes] = {}
    for subnet, tensors in subnets.items():
        for name, array in tensors.items():
            where = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
            if where not in seen:
                seen[where] = _digest(array)
            one = known.setdefault((array.dtype.str, array.shape, seen[where]), _Distinct(array, name, seen[where]))
            one.users.append((subnet, name))
    return list(known.values())


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).digest()


class _Roots:
    def __init__(self, supernet: Mapping[str, np.ndarray]) -> None:
        self.all: list[_Root] = []
        self.of_kind: dict[object, list[_Root]] = defaultdict(list)
        self.by_bytes: dict[object, _Root] = {}
        memory = set()
        for name, array in supernet.items():
            where = array.__array_interface__["data"][0], array.nbytes, array.dtype.str
            if array.flags.c_contiguous and where not in memory:
                memory.add(where)
                self.add(_Root(name, array))

    def add(self, root: _Root) -> None:
        self.all.append(root)
        self.of_kind[root.array.dtype.str].append(root)

    def place(self, one: _Distinct, effort: list[int]) -> None:
        """Find the root in which `one` lies, or make it one."""
        alike = self.by_bytes.get((one.array.dtype.str, one.digest))
        if alike is not None and one.array.size:
            return self._put(one, alike, schema.View(
                tensor=alike.name, offset=0, shape=one.array.shape, strides=c_strides(one.array.shape)),
                f"has the bytes of {alike.name} in another shape")
        if one.array.nbytes < SMALLEST:
            one.why = f"stands alone: smaller than {SMALLEST} bytes"
        elif self._found(one, effort):
            return
        root = _Root(one.name, np.asarray(one.array, order="C"), own=one)
        one.root, one.why = root, one.why or "stands alone: no other tensor holds its bytes"
        self.by_bytes[one.array.dtype.str, one.digest] = root
        self.add(root)

    def _found(self, one: _Distinct, effort: list[int]) -> bool:
        for root in self.of_kind[one.array.dtype.str]:
            view = view_of(one.array, root.array)
            if view is not None:
                self._put(one, root, schema.View(tensor=root.name, offset=view[0], shape=view[1], strides=view[2]),
                          f"a view of {root.name}")
                return True
        for root in self._candidates(one):
            if effort[0] < root.array.size:
                one.why = "stands alone: the search for a tensor that holds it was ended, it took too long"
                break
            effort[0] -= root.array.size
            places = places_of(one.array, root.array)
            if places is None:
                continue
            ranges = as_view(places, root.array.shape)
            if ranges is not None:
                self._put(one, root, schema.View(
                    tensor=root.name, offset=ranges[0], shape=ranges[1], strides=ranges[2]),
                    f"equals a slice of {root.name}")
                return True
            if 8 * sum(len(v) for v, n in zip(places, root.array.shape)
                       if not np.array_equal(v, np.arange(n))) < one.array.nbytes:
                self._put(one, root, places, f"equals gathered channels of {root.name}")
                return True
            one.why = f"stands alone: it is gathered from {root.name}, but its index vectors would be larger"
        return False

    def _put(self, one: _Distinct, root: _Root, placed: schema.View | tuple[np.ndarray, ...], why: str) -> None:
        one.root, one.why = root, why
        if isinstance(placed, schema.View) and placed.offset == 0 and one.array.size == root.array.size and (
                placed.shape == root.array.shape) and root.own is None:
            root.own = one
            self.by_bytes[one.array.dtype.str, one.digest] = root
            return
        one.placed = placed
        root.inside.append(one)

    def _candidates(self, one: _Distinct) -> list[_Root]:
        """Tensors that could hold `one`, those with the likeliest names first."""
        last = one.name.rsplit(".", 1)[-1]
        fitting = [root for root in self.of_kind[one.array.dtype.str] if root.array.ndim == one.array.ndim
                   and root.array.size >= one.array.size
                   and all(n <= m for n, m in zip(one.array.shape, root.array.shape))]
        return sorted(fitting, key=lambda root: (root.name != one.name, root.name.rsplit(".", 1)[-1] != last))


class _Layout:
    def __init__(self, roots: _Roots) -> None:
        self.roots = roots
        self.stored: dict[str, np.ndarray] = {}
        self.parts: dict[str, schema.View | schema.Gather] = {}
        self.at: dict[int, str] = {}
        self.vectors: dict[bytes, str] = {}

    def lay(
        self, subnets: Mapping[str, Mapping[str, np.ndarray]], distinct: Sequence[_Distinct]
    ) -> Shared:
        for root in self.roots.all:
            if root.own is not None or root.inside:
                self.store(root)
        names: dict[str, dict[str, str]] = {subnet: {} for subnet in subnets}
        for one in distinct:
            for subnet, name in one.users:
                names[subnet][name] = self.at[id(one)]
        alone = {subnet: sum(one.array.nbytes for one in distinct if any(user[0] == subnet for user in one.users))
                 for subnet in subnets}
        return Shared(self.stored, schema.Parts(parts=self.parts), names, alone,
                      {subnet: self.told(subnet, subnets, distinct) for subnet in subnets})

    def fresh(self, name: str) -> str:
        while name in self.stored or name in self.parts:
            name += "_"
        return name

    def store(self, root: _Root) -> None:
        """Store a root whole, or the block that its readers need, or each reader's tensor, whichever is smallest."""
        if root.own is not None:
            name = self.fresh(root.name)
            self.stored[name] = root.array
            self.at[id(root.own)] = name
            whole = tuple((0, n) for n in root.array.shape)
        else:
            whole = self._block(root)
            size = math.prod(stop - start for start, stop in whole) * root.array.itemsize
            if len(root.inside) == 1 or size >= sum(one.array.nbytes for one in root.inside):
                for one in root.inside:
                    one.why += ", of which nothing else is read" if len(root.inside) == 1 else (
                        ", of which too little is read to store it")
                    self.at[id(one)] = self.fresh(one.name)
                    self.stored[self.at[id(one)]] = np.asarray(one.array, order="C")
                return
            name = self.fresh(root.name)
            self.stored[name] = np.asarray(
                root.array[tuple(slice(*bounds) for bounds in whole)]).reshape(
                    [stop - start for start, stop in whole])
        for one in root.inside:
            self.at[id(one)] = self._part(one, root, name, whole)

    def _block(self, root: _Root) -> tuple[tuple[int, int], ...]:
        boxes = [self._box(one, root) for one in root.inside]
        if any(box is None for box in boxes):
            return tuple((0, n) for n in root.array.shape)
        return tuple((min(box[axis][0] for box in boxes), max(box[axis][1] for box in boxes))
                     for axis in range(root.array.ndim))

    def _box(self, one: _Distinct, root: _Root) -> tuple[tuple[int, int], ...] | None:
        if isinstance(one.placed, schema.View):
            found = box_of(one.placed.offset, one.placed.shape, one.placed.strides, root.array.shape)
            return found and found[0]
        return tuple((int(v.min()), int(v.max()) + 1) for v in one.placed)

    def _part(self, one: _Distinct, root: _Root, name: str, whole: Sequence[tuple[int, int]]) -> str:
        part = self.fresh(f"{one.name}.part")
        if isinstance(one.placed, schema.View):
            view = one.placed
            if any(bounds != (0, n) for bounds, n in zip(whole, root.array.shape)):
                _, along = box_of(view.offset, view.shape, view.strides, root.array.shape)
                view = view_in(whole, view, along, root.array.shape)
            self.parts[part] = schema.View(
                tensor=name, offset=view.offset, shape=view.shape, strides=view.strides)
            return part
        indices = []
        for vector, (start, stop) in zip(one.placed, whole):
            everything = len(vector) == stop - start and np.array_equal(vector - start, np.arange(stop - start))
            indices.append(None if everything else self._vector(vector - start))
        self.parts[part] = schema.Gather(tensor=name, indices=tuple(indices))
        return part

    def _vector(self, vector: np.ndarray) -> str:
        key = vector.astype(np.int64).tobytes()
        if key not in self.vectors:
            self.vectors[key] = self.fresh(f"index_{len(self.vectors)}")
            self.stored[self.vectors[key]] = vector.astype(np.int64)
        return self.vectors[key]

    def told(
        self, subnet: str, subnets: Mapping[str, object], distinct: Sequence[_Distinct]
    ) -> schema.SharedBytes:
        own = shared = viewed = copied = 0
        reasons = {}
        for one in distinct:
            mine = [name for user, name in one.users if user == subnet]
            if not mine:
                continue
            size = one.array.nbytes
            name = self.at[id(one)]
            others = {user for user, _ in one.users} - {subnet}
            if name in self.parts:
                viewed += size
                part = self.parts[name]
                if isinstance(part, schema.Gather) or not in_c_order(part.shape, part.strides):
                    copied += size
                reasons[mine[0]] = one.why
            elif others or (one.root is not None and one.root.own is one and one.root.inside):
                shared += size
            else:
                own += size
                if len(subnets) > 1:
                    reasons[mine[0]] = one.why if name != one.root.name or one.root.own is not one or (
                        one.why.startswith("stands")) else "no other subnet reads it"
        return schema.SharedBytes(own=own, shared=shared, viewed=viewed, copied=copied, reasons=reasons)

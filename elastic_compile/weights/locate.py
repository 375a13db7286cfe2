"""Where one tensor lies inside another: as a view of its memory, or by its content.

In: two arrays. Out: a view (offset, shape, strides in elements) or the places along each dimension; None where the
one is no part of the other.
Never: calls two tensors equal that differ in a bit, or looks longer than a few passes over the larger one.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from elastic_runtime import schema

_MOST_ANCHORS = 8


def view_of(part: np.ndarray, whole: np.ndarray) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """`part` as a view of the memory of `whole`, which lies in C order: (offset, shape, strides), in elements."""
    if part.dtype != whole.dtype or not whole.flags.c_contiguous or min(part.strides, default=0) < 0:
        return None
    size = part.itemsize
    gap = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    reach = sum((n - 1) * s for n, s in zip(part.shape, part.strides)) + size
    if part.size == 0 or part.size > whole.size or gap < 0 or gap + reach > whole.nbytes:
        return None
    if gap % size or any(stride % size for stride in part.strides):
        return None
    return gap // size, part.shape, tuple(stride // size for stride in part.strides)


def places_of(part: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Index vectors with `whole[np.ix_(*vectors)]` equal to `part` to the bit: prefix slices, ranges, gathered
    channels, in any dimensions at once.

    One element of `part`, its anchor, is looked up in `whole`; where it stands, the lines through it give the places
    along each dimension, and the whole block is then compared.
    """
    if part.dtype != whole.dtype or part.ndim != whole.ndim or not part.size or not part.ndim:
        return None
    if any(n > m for n, m in zip(part.shape, whole.shape)) or part.dtype.kind == "c":
        return None
    one, other = _bits(part), _bits(whole)
    if np.array_equal(one, other[tuple(slice(n) for n in one.shape)]):
        return tuple(np.arange(n) for n in one.shape)
    for anchor in _anchors(part):
        found = np.flatnonzero(other.reshape(-1) == one[anchor])  # many times as fast as argwhere
        if not len(found):
            return None
        if len(found) > _MOST_ANCHORS:
            continue
        for place in zip(*(axis.tolist() for axis in np.unravel_index(found, other.shape))):
            vectors = _lines(one, anchor, other, place)
            if vectors is not None and np.array_equal(one, other[np.ix_(*vectors)]):
                return vectors
    return None


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(f"u{array.itemsize}").reshape(array.shape)


def _anchors(part: np.ndarray) -> list[tuple[int, ...]]:
    """Elements that are likely to be rare: the largest and the smallest."""
    ranked = part.view(np.uint8) if part.dtype == np.bool_ and part.flags.c_contiguous else part
    picks = {int(np.argmax(ranked)), int(np.argmin(ranked))}
    return [tuple(int(i) for i in np.unravel_index(pick, part.shape)) for pick in sorted(picks)]


def _lines(
    part: np.ndarray, anchor: tuple[int, ...], whole: np.ndarray, place: tuple[int, ...]
) -> tuple[np.ndarray, ...] | None:
    vectors = []
    for axis in range(part.ndim):
        line = part[(*anchor[:axis], slice(None), *anchor[axis + 1:])]
        among = whole[(*place[:axis], slice(None), *place[axis + 1:])]
        vector = _match(line.tolist(), among.tolist(), anchor[axis], place[axis])
        if vector is None:
            return None
        vectors.append(np.array(vector, np.int64))
    return tuple(vectors)


def _match(line: Sequence[int], among: Sequence[int], here: int, there: int) -> list[int] | None:
    """A place in `among` for each item of `line`, increasing where that is possible; item `here` is at `there`."""
    where: dict[int, list[int]] = {}
    for position, item in enumerate(among):
        where.setdefault(item, []).append(position)
    out: list[int] = []
    last = -1
    for number, item in enumerate(line):
        options = where.get(item)
        if not options:
            return None
        last = there if number == here else next((option for option in options if option > last), options[0])
        out.append(last)
    return out


def as_view(
    vectors: Sequence[np.ndarray], shape: tuple[int, ...]
) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """Index vectors into a tensor of `shape` as (offset, shape, strides), where each is a range with a step."""
    offset, strides = 0, []
    for axis, vector in enumerate(vectors):
        unit = math.prod(shape[axis + 1:])
        step = int(vector[1] - vector[0]) if len(vector) > 1 else 1
        if step < 1 or not np.array_equal(vector, vector[0] + step * np.arange(len(vector))):
            return None
        offset += int(vector[0]) * unit
        strides.append(step * unit)
    return offset, tuple(len(vector) for vector in vectors), tuple(strides)


def box_of(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], whole: tuple[int, ...]
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]] | None:
    """A view of a tensor of shape `whole` as a box with steps: per dimension of `whole` its first place and the place
    after its last, and per dimension of the view the dimension of `whole` that it runs along (-1 where it has one
    element). None where the view is no such box."""
    units = c_strides(whole)
    start = [int(i) for i in np.unravel_index(offset, whole)] if whole else []
    stop = [first + 1 for first in start]
    along = []
    for size, stride in zip(shape, strides):
        axis = next((a for a, unit in enumerate(units) if size > 1 and stride and stride % unit == 0
                     and stop[a] == start[a] + 1 and start[a] + (size - 1) * (stride // unit) < whole[a]), -1)
        if axis < 0 and size > 1:
            return None
        if axis >= 0:
            stop[axis] = start[axis] + (size - 1) * (stride // units[axis]) + 1
        along.append(axis)
    return tuple(zip(start, stop)), tuple(along)


def view_in(
    box: Sequence[tuple[int, int]], view: schema.View, along: Sequence[int], whole: tuple[int, ...]
) -> schema.View:
    """`view` of a tensor of shape `whole`, as a view of the tensor that `box` cuts out of it."""
    cut = tuple(stop - start for start, stop in box)
    old, new = c_strides(whole), c_strides(cut)
    start = np.unravel_index(view.offset, whole) if whole else ()
    offset = sum((int(place) - low) * unit for place, (low, _), unit in zip(start, box, new))
    strides = tuple(0 if axis < 0 else stride // old[axis] * new[axis] for stride, axis in zip(view.strides, along))
    return schema.View(tensor=view.tensor, offset=offset, shape=view.shape, strides=_plain(view.shape, strides))


def _plain(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides with those of dimensions of one element as C order has them, so that equal views are written alike."""
    out = list(strides)
    expected = 1
    for axis in range(len(shape) - 1, -1, -1):
        if shape[axis] == 1:
            out[axis] = expected
        expected = out[axis] * shape[axis]
    return tuple(out)


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor of `shape` in C order."""
    return tuple(math.prod(shape[axis + 1:]) for axis in range(len(shape)))


def in_c_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a view lies in one piece, in C order."""
    return all(n == 1 or have == want for n, have, want in zip(shape, strides, c_strides(shape)))

"""Where to cut the weights of subnets of different widths, so that what one has of another's lies in whole blocks.

In: what `share` found, and along which axis each weight has its output features. Out: cuts per weight of a subnet.
Never: cuts where nothing would be shared by it.

An engine that keeps a packed copy of each weight shares it between two layers only when it is the same; ONNX Runtime
packs a matrix in runs of 256 input features, so that one with fewer whole runs is the beginning of the other.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from elastic_compile.weights.locate import box_of, c_strides
from elastic_compile.weights.share import Shared
from elastic_runtime import schema

#: Input features that the engine packs together.
RUN = 256

#: Bytes of one stored tensor that have to be shared by cutting.
LEAST = 64 << 10

#: First and last place along the output features, first and last along the input features.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cuts:
    """`places`: by subnet and its name of a tensor, between which of its output features to cut. `saved`: bytes of
    packed weights that are then not there again. `packed`: bytes that remain."""

    places: Mapping[tuple[str, str], tuple[int, ...]]
    saved: int
    packed: int


def cuts(shared: Shared, axes: Mapping[tuple[str, str], int]) -> Cuts:
    """`axes`: by subnet and its name of a matrix that only linear layers read, the axis of its output features."""
    readers: dict[str, list[tuple[tuple[str, str], Box]]] = defaultdict(list)
    for (subnet, name), axis in axes.items():
        found = _box(shared, shared.names[subnet][name], axis)
        if found is not None:
            readers[found[0]].append(((subnet, name), found[1]))
    places: dict[tuple[str, str], tuple[int, ...]] = {}
    saved = packed = 0
    for root, boxes in readers.items():
        distinct = {box for _, box in boxes}
        borders = sorted({border for start, stop, _, _ in distinct for border in (start, stop)})
        size = shared.stored[root].itemsize
        whole = size * _packed([(one[0], one[1]) for one in distinct], distinct, exactly=True)
        divided = size * _packed(list(pairwise(borders)), distinct, exactly=False)
        if whole - divided < LEAST:
            packed += whole
            continue
        saved, packed = saved + whole - divided, packed + divided
        for reader, (start, stop, _, _) in boxes:
            inside = tuple(border - start for border in borders if start < border < stop)
            if inside:
                places[reader] = inside
    return Cuts(places, saved, packed)


def _box(shared: Shared, name: str, axis: int) -> tuple[str, Box] | None:
    """The stored matrix in which a tensor lies, and where, with `axis` first."""
    part = shared.parts.parts.get(name)
    if part is None:
        bounds, root = tuple((0, size) for size in shared.stored[name].shape), name
    elif isinstance(part, schema.View) and len(part.shape) == len(shared.stored[part.tensor].shape):
        root, units = part.tensor, c_strides(shared.stored[part.tensor].shape)
        found = box_of(part.offset, part.shape, part.strides, shared.stored[root].shape)
        if found is None or any(size > 1 and stride != unit
                                for size, stride, unit in zip(part.shape, part.strides, units)):
            return None
        bounds, _ = found
    else:
        return None
    return (root, (*bounds[axis], *bounds[1 - axis])) if len(bounds) == 2 else None


def _packed(ranges: Sequence[tuple[int, int]], boxes: set[Box], *, exactly: bool) -> int:
    """Elements of packed matrices, one per range of output features and distinct input features of its readers;
    `exactly`: readers have just that range."""
    total = 0
    for start, stop in set(ranges):
        columns: dict[int, set[int]] = defaultdict(set)
        for low, high, first, last in boxes:
            if (low, high) == (start, stop) if exactly else low <= start and stop <= high:
                columns[first].add(last)
        for first, ends in columns.items():
            longest = max(ends)
            total += (stop - start) * sum(end - first for end in ends if end == longest or (end - first) % RUN)
    return total

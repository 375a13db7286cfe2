"""Tensors that grow at their end without being copied: caches of keys and values, results that loops collect.

In: a tensor, how many rows are to follow it, and how many there may ever be. Out: the longer tensor, whose memory is
the shorter one's, and the part of it that is still to be written.
Never: changes an element that anybody has: rows are only added behind the longest tensor in a buffer; whoever adds to
a shorter one gets a buffer of his own.

A buffer reserves addresses for all its rows, and takes memory page by page as they are written; it gives everything
back when the last tensor in it is gone.
"""
from __future__ import annotations

import math
import mmap

import numpy as np


class Buffer:
    """Rows of one type, `used` of them taken. Arrays view its memory, and keep it alive."""

    def __init__(self, capacity: int, row: tuple[int, ...], dtype: np.dtype) -> None:
        self.capacity, self.row, self.dtype, self.used = capacity, row, dtype, 0
        size = max(1, capacity * math.prod(row) * dtype.itemsize)
        self._memory = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        address = np.frombuffer(self._memory, np.uint8).ctypes.data
        self.__array_interface__ = {
            "version": 3, "data": (address, False), "shape": (capacity, *row), "typestr": dtype.str}
        self.address = address

    @staticmethod
    def of(array: np.ndarray) -> Buffer | None:
        """The buffer whose memory `array` views."""
        owner: object = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        return owner if isinstance(owner, Buffer) else None

    def rows(self) -> np.ndarray:
        """All rows, those not yet written too."""
        return np.asarray(self)

    def ends_with(self, rows: np.ndarray) -> bool:
        """Whether `rows` are all the rows taken so far."""
        return (len(rows) == self.used and rows.shape[1:] == self.row and rows.dtype == self.dtype
                and rows.flags.c_contiguous and rows.ctypes.data == self.address)


def grow(prefix: np.ndarray, count: int, axis: int, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """`prefix` with `count` more rows along `axis`, before which all dimensions are 1, and those rows, to be written.

    `capacity`: the number of rows worth reserving, where a buffer has to be made.
    """
    before = prefix.reshape(prefix.shape[axis:])
    length = len(before)
    buffer = Buffer.of(prefix)
    if buffer is None or not buffer.ends_with(before) or length + count > buffer.capacity:
        room = max(capacity, length + count if capacity else 2 * (length + count))
        buffer = Buffer(room, before.shape[1:], before.dtype)
        buffer.rows()[:length] = before
    buffer.used = length + count
    rows = buffer.rows()
    leading = (np.newaxis,) * axis
    return rows[: length + count][leading], rows[length: length + count][leading]


def append(prefix: np.ndarray, rows: np.ndarray, axis: int, capacity: int) -> np.ndarray:
    """`prefix` and `rows` along `axis`. Raises ValueError when they do not fit each other."""
    if rows.dtype != prefix.dtype or rows.shape[:axis] != prefix.shape[:axis] or (
            rows.shape[axis + 1:] != prefix.shape[axis + 1:]):
        raise ValueError(f"cannot append {rows.dtype}{list(rows.shape)} to {prefix.dtype}{list(prefix.shape)}")
    whole, tail = grow(prefix, rows.shape[axis], axis, capacity)
    tail[...] = rows
    return whole

"""The weights of a bundle by name: stored tensors, and tensors that are parts of stored ones.

In: the tensors of the weight file, views of its mapping, and the `Parts` that a bundle describes over them.
Out: read-only arrays by name. A view shares the mapping's memory; what an engine needs contiguous and is not, and
what is gathered by index, is made once, when it is first asked for, and is then shared by all that ask.
Never: reads outside a stored tensor, follows a part of a part, or makes a part before all parts are checked.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from elastic_runtime import schema
from elastic_runtime.errors import BundleError
from elastic_runtime.limits import Limits


class Weights(Mapping[str, np.ndarray]):
    """Arrays by name, in any layout; `contiguous` gives them in C order. Made by `check`ing `parts`.

    Raises `BundleError` naming `file`, with the rule "part-count", "part-name", "part-tensor", "part-rank",
    "part-bounds", "part-elements", "part-index" or "part-bytes".
    """

    def __init__(self, stored: Mapping[str, np.ndarray], parts: schema.Parts, file: str, limits: Limits) -> None:
        self.stored, self.parts = stored, parts.parts
        self._made: dict[str, np.ndarray] = {}
        if len(self.parts) > limits.parts:
            raise BundleError(file, "part-count", len(self.parts), f"<= {limits.parts}")
        room = limits.part_bytes
        for name, part in self.parts.items():
            room -= self._check(name, part, file, limits)
            if room < 0:
                raise BundleError(file, "part-bytes", f"more than {limits.part_bytes} bytes up to {name!r}",
                                  f"<= {limits.part_bytes}")

    def _check(self, name: str, part: schema.View | schema.Gather, file: str, limits: Limits) -> int:
        """Bytes that have to be made for `part`; 0 when it is contiguous as it lies."""
        if not name or len(name) > limits.name or name in self.stored:
            raise BundleError(file, "part-name", name, f"a name of at most {limits.name} that no stored tensor has")
        base = self.stored.get(part.tensor)
        if base is None:
            raise BundleError(file, "part-tensor", f"{name!r} of {part.tensor!r}", "a part of a stored tensor")
        if isinstance(part, schema.Gather):
            shape = self._gathered(name, part, base, file)
        else:
            shape = part.shape
            if len(shape) != len(part.strides) or len(shape) > limits.rank:
                raise BundleError(file, "part-rank", f"{name!r}: shape {list(shape)}, strides {list(part.strides)}",
                                  f"as many, at most {limits.rank}")
            if min((part.offset, *shape, *part.strides)) < 0:
                raise BundleError(file, "part-bounds", f"{name!r}: offset {part.offset}, shape {list(shape)}, "
                                  f"strides {list(part.strides)}", "nothing below 0")
            last = part.offset + sum((size - 1) * stride for size, stride in zip(shape, part.strides, strict=True))
            if part.offset > base.size or (0 not in shape and last >= base.size):
                raise BundleError(file, "part-bounds", f"{name!r} reaches element {last} of {part.tensor!r}",
                                  f"below {base.size}")
        count = math.prod(shape)
        if count > base.size:
            raise BundleError(file, "part-elements", f"{name!r} of {count} elements",
                              f"<= {base.size}, what {part.tensor!r} has")
        if isinstance(part, schema.View) and _contiguous(shape, part.strides):
            return 0
        return count * base.itemsize

    def _gathered(self, name: str, part: schema.Gather, base: np.ndarray, file: str) -> tuple[int, ...]:
        if len(part.indices) != base.ndim:
            raise BundleError(file, "part-rank", f"{name!r}: {len(part.indices)} index vectors",
                              f"{base.ndim}, one per dimension of {part.tensor!r}")
        shape = list(base.shape)
        for axis, vector in enumerate(part.indices):
            if vector is None:
                continue
            index = self.stored.get(vector)
            if index is None or index.dtype != np.int64 or index.ndim != 1:
                raise BundleError(file, "part-index", f"{name!r}: {vector!r} is " + (
                    "not stored" if index is None else f"{index.dtype}{list(index.shape)}"), "a stored int64 vector")
            if index.size and not 0 <= int(index.min()) <= int(index.max()) < base.shape[axis]:
                raise BundleError(file, "part-index", f"{name!r}: places {index.min()} to {index.max()} along "
                                  f"dimension {axis}", f"0 to {base.shape[axis] - 1}")
            shape[axis] = index.size
        return tuple(shape)

    def __getitem__(self, name: str) -> np.ndarray:
        part = self.parts.get(name)
        if part is None:
            return self.stored[name]
        if isinstance(part, schema.Gather):
            return self.contiguous(name)
        base = self.stored[part.tensor]
        flat = base.reshape(-1)[part.offset:]
        return np.lib.stride_tricks.as_strided(
            flat, part.shape, tuple(stride * base.itemsize for stride in part.strides), writeable=False)

    def contiguous(self, name: str) -> np.ndarray:
        """The tensor in C order: as it lies in the mapping where it is, else made once."""
        if name not in self._made:
            part = self.parts.get(name)
            if isinstance(part, schema.Gather):
                base = self.stored[part.tensor]
                places = [np.arange(size) if vector is None else self.stored[vector]
                          for size, vector in zip(base.shape, part.indices, strict=True)]
                made = np.asarray(base[np.ix_(*places)], order="C") if places else base
            else:
                lies = self[name]
                if lies.flags.c_contiguous:
                    return lies
                made = np.array(lies, order="C")
            made.flags.writeable = False
            self._made[name] = made
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.stored
        yield from self.parts

    def __len__(self) -> int:
        return len(self.stored) + len(self.parts)

    def __contains__(self, name: object) -> bool:
        return name in self.stored or name in self.parts


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True

"""Tensor files: safetensors whose every tensor starts at a multiple of 64 bytes in the file.

In: arrays by name. Out: the file's bytes, piece by piece. Never: copies a whole file's worth of tensors.

A mapped page starts at a multiple of the page size, so an aligned offset in the file is an aligned address
in memory, which compiled kernels need. The format allows no holes between tensors. Tensors whose size is a
multiple of 64 bytes come first, by name, and stay aligned by themselves; the others follow by name, and in
front of each one that would start unaligned stands a filler, a tensor of zero bytes named ".align<number>".
Readers take tensors by name and never meet the fillers. The dtype C128 is the one addition to the format.

Format: https://github.com/huggingface/safetensors#format
"""
from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

import numpy as np

ALIGNMENT = 64
FILLER = ".align"

_DTYPES = {
    "bool": "BOOL", "int8": "I8", "uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64",
    "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64",
    "complex128": "C128",
}


def serialise(tensors: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The pieces of a safetensors file that holds `tensors`.

    Equal input gives equal bytes. Raises ValueError for a dtype that a program cannot have (object, …) and
    for a name that the format or the fillers take.
    """
    header: dict[str, dict[str, object]] = {}
    pieces: list[np.ndarray | bytes] = []
    position = 0
    for name in sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name)):
        array = tensors[name]
        if array.dtype.name not in _DTYPES:
            raise ValueError(
                f"tensor {name!r} has dtype {array.dtype.name}; a tensor file holds {', '.join(_DTYPES)}")
        if name.startswith(FILLER) or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} is taken by the format or by the fillers")
        if gap := -position % ALIGNMENT:
            header[f"{FILLER}{position}"] = _entry("U8", (gap,), position, gap)
            pieces.append(bytes(gap))
            position += gap
        header[name] = _entry(_DTYPES[array.dtype.name], array.shape, position, array.nbytes)
        pieces.append(array)
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for piece in pieces:
        yield piece if isinstance(piece, bytes) else _little_endian(piece)


def _entry(dtype: str, shape: tuple[int, ...], start: int, size: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size]}


def _little_endian(array: np.ndarray) -> bytes | memoryview:
    if not array.size:
        return b""
    flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    return memoryview(flat.view(np.uint8))

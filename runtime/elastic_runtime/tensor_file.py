"""A strict reader of the safetensors format (huggingface/safetensors, "Format").

In: the bytes of a tensor file, most often a memory mapping.
Out: read-only arrays by name, all of them views of those bytes.
Never: copies tensor data, or accepts a header that leaves a byte of the file unexplained.
"""
from __future__ import annotations

import math

import msgspec
import numpy as np

from elastic_runtime.errors import BundleError
from elastic_runtime.limits import Limits
from elastic_runtime.strict_json import decode_json

DTYPES = {
    "BOOL": "bool", "I8": "int8", "U8": "uint8", "I16": "int16", "I32": "int32", "I64": "int64",
    "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "C128": "complex128",
}


class _Info(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_tensors(data: memoryview, file: str, limits: Limits) -> dict[str, np.ndarray]:
    """The tensors of the safetensors file `data`, in the order of their bytes.

    Every byte after the header belongs to exactly one tensor and every tensor is aligned to its item size.
    Raises `BundleError` naming `file`, with a rule that begins with "tensors-", or a JSON rule.
    """
    size = len(data)
    if size < 10:
        raise BundleError(file, "tensors-truncated", f"{size} bytes", "a header length and a header")
    length = int.from_bytes(data[:8], "little")
    if length > min(limits.header_bytes, size - 8):
        raise BundleError(file, "tensors-header", f"a header of {length} bytes in a file of {size}",
                          f"<= {min(limits.header_bytes, size - 8)}")
    if data[8] != ord("{"):
        raise BundleError(file, "tensors-header", "a header that begins otherwise", "'{'")
    header = decode_json(data[8:8 + length], dict[str, dict], file, limits)
    header.pop("__metadata__", None)
    body = data[8 + length:]
    infos = {name: _info(plain, name, file, limits) for name, plain in header.items()}
    at, tensors = 0, {}
    for name, info in sorted(infos.items(), key=lambda item: item[1].data_offsets):
        begin, end = info.data_offsets
        if begin != at:
            kind = "overlap" if begin < at else "gap"
            raise BundleError(file, f"tensors-{kind}", f"{name!r} at {begin}", f"at {at}, where the last one ends")
        if end > len(body):
            raise BundleError(file, "tensors-truncated", f"{name!r} ends at {end}", f"<= {len(body)}")
        tensors[name] = _view(body, info, name, file, 8 + length)
        at = end
    if at != len(body):
        raise BundleError(file, "tensors-gap", f"{len(body) - at} bytes that no tensor owns", "none")
    return tensors


def _info(plain: dict, name: str, file: str, limits: Limits) -> _Info:
    try:
        info = msgspec.convert(plain, _Info)
    except msgspec.ValidationError as error:
        raise BundleError(file, "tensors-header", f"{name!r}: {error}", "dtype, shape, data_offsets") from None
    if info.dtype not in DTYPES:
        raise BundleError(file, "tensors-dtype", f"{name!r} is {info.dtype}", f"one of {', '.join(DTYPES)}")
    if len(name) > limits.name or len(info.shape) > limits.rank:
        raise BundleError(file, "tensors-size", f"a name of {len(name)}, rank {len(info.shape)}",
                          f"<= {limits.name}, <= {limits.rank}")
    begin, end = info.data_offsets
    wanted = math.prod(info.shape) * np.dtype(DTYPES[info.dtype]).itemsize
    if min(info.shape, default=0) < 0 or begin < 0 or end - begin != wanted:
        raise BundleError(file, "tensors-size", f"{name!r} {list(info.shape)} in bytes {begin} to {end}",
                          f"{wanted} bytes")
    return info


def _view(body: memoryview, info: _Info, name: str, file: str, offset: int) -> np.ndarray:
    dtype = np.dtype(DTYPES[info.dtype])
    begin, end = info.data_offsets
    if (offset + begin) % dtype.itemsize:
        raise BundleError(file, "tensors-alignment", f"{name!r} at byte {offset + begin}",
                          f"a multiple of {dtype.itemsize}")
    raw = np.frombuffer(body[begin:end], np.uint8)
    raw.flags.writeable = False
    if dtype == np.bool_ and raw.size and raw.max() > 1:
        raise BundleError(file, "tensors-bool", f"{name!r} holds {raw.max()}", "only 0 and 1")
    return raw.view(dtype).reshape(info.shape)

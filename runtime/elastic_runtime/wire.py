"""The protobuf wire format (protobuf.dev, "Encoding"): fields of a message read and written without its schema.

In: the bytes of a message. Out: its fields with the places where they stand; bytes of new fields.
Never: knows what a field means, copies what it reads, or accepts groups and numbers cut off.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """What stands there is no field. `given` and `expected` as in the runtime's errors."""

    def __init__(self, given: str, expected: str) -> None:
        self.given, self.expected = given, expected
        super().__init__(f"{given}, expected {expected}")


class Field(NamedTuple):
    """`value`: an int for a varint, else a view of the bytes; the whole field stands at [start, end)."""

    number: int
    wire: int
    value: int | memoryview
    start: int
    end: int


def fields(view: memoryview) -> Iterator[Field]:
    """The fields of one message in order. Raises `Malformed` at the first that is none."""
    at, end = 0, len(view)
    while at < end:
        start = at
        key, at = _varint(view, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(view, at)
        elif wire == LEN:
            size, at = _varint(view, at)
            if size > end - at:
                raise Malformed(f"a field of {size} bytes", f"<= {end - at}, the rest")
            value, at = view[at:at + size], at + size
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
            value, at = view[at:at + size], at + size
            if at > end:
                raise Malformed("a number cut off", f"{size} bytes")
        else:
            raise Malformed(f"wire type {wire}", "0, 1, 2 or 5")
        yield Field(key >> 3, wire, value, start, at)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise Malformed("a number cut off", "a whole varint")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise Malformed("a number longer than 10 bytes", "a varint")


def encode(number: int, value: int | bytes) -> bytes:
    """One field: an int that is not negative as a varint, bytes with their length before them."""
    if isinstance(value, int):
        return _encode_varint(number << 3 | VARINT) + _encode_varint(value)
    return _encode_varint(number << 3 | LEN) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)

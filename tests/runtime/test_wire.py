"""The protobuf wire format, against the onnx package's parser."""
from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_runtime import wire


@given(st.integers(1, 1 << 20), st.one_of(st.integers(0, (1 << 64) - 1), st.binary(max_size=300)))
def test_what_is_written_is_read_back(number, value):
    raw = wire.encode(number, value)
    field, = wire.fields(memoryview(raw))
    assert (field.number, field.start, field.end) == (number, 0, len(raw))
    assert (field.value if isinstance(value, int) else bytes(field.value)) == value


def test_fields_are_those_of_a_protobuf_message():
    entry = wire.encode(1, b"location") + wire.encode(2, b"file")
    tensor = onnx.TensorProto.FromString(
        wire.encode(1, 300) + wire.encode(8, b"w") + wire.encode(13, entry) + wire.encode(14, 1))
    assert (list(tensor.dims), tensor.name, tensor.data_location) == ([300], "w", 1)
    assert (tensor.external_data[0].key, tensor.external_data[0].value) == ("location", "file")
    parts = [(field.number, field.wire) for field in wire.fields(memoryview(tensor.SerializeToString()))]
    assert parts == [(1, wire.VARINT), (8, wire.LEN), (13, wire.LEN), (14, wire.VARINT)]


@pytest.mark.parametrize("raw", [b"\x08", b"\x0a\x05ab", b"\x0b", b"\x09abc", b"\x08" + b"\xff" * 11])
def test_what_is_no_field_is_refused(raw):
    with pytest.raises(wire.Malformed):
        list(wire.fields(memoryview(raw)))

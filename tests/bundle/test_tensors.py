"""Tensor files are plain safetensors, and every tensor in them is aligned."""
from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from elastic_compile.bundle.tensors import ALIGNMENT, FILLER, serialise

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64"]


def offsets(raw: bytes) -> dict[str, int]:
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}


NAME = st.characters(exclude_characters="\0.", exclude_categories=["Cs"])


@st.composite
def arrays(draw) -> np.ndarray:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    return (np.arange(np.prod(shape, dtype=int)) % 7).astype(dtype).reshape(shape)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(NAME, min_size=1, max_size=8), arrays(), max_size=8))
def test_the_library_reads_back_what_was_written(tensors):
    raw = b"".join(serialise(tensors))
    back = {name: array for name, array in load(raw).items() if not name.startswith(FILLER)}
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)
    assert all(start % ALIGNMENT == 0 for name, start in offsets(raw).items()
               if not name.startswith(FILLER))


def test_sizes_that_are_multiples_need_no_filler():
    raw = b"".join(serialise({"a": np.ones((16, 16)), "b": np.ones(16, np.float32), "c": np.ones(3)}))
    assert set(offsets(raw)) == {"a", "b", "c"}


def test_strided_and_big_endian_arrays_are_written_by_value():
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    given_arrays = {"strided": wide[:, ::2], "transposed": wide.T, "big": wide.astype(">f4")}
    for name, array in load(b"".join(serialise(given_arrays))).items():
        if not name.startswith(FILLER):
            np.testing.assert_array_equal(array, given_arrays[name])


@pytest.mark.parametrize(("tensors", "message"), [
    ({"u": np.zeros(2, np.uint32)}, "dtype uint32"),
    ({"o": np.array([object()])}, "dtype object"),
    ({".align0": np.zeros(2)}, "is taken"),
    ({"__metadata__": np.zeros(2)}, "is taken"),
])
def test_what_the_format_cannot_hold_is_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        list(serialise(tensors))

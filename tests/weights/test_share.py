"""Sharing is found, described so that each tensor comes back to the bit, and never where a bit differs."""
from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_compile.weights import share
from elastic_runtime import schema


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def back(shared, name: str) -> np.ndarray:
    """The tensor `name`, as its description says, without the runtime's own reader."""
    if name in shared.stored:
        return shared.stored[name]
    part = shared.parts.parts[name]
    whole = shared.stored[part.tensor]
    if isinstance(part, schema.View):
        flat, places = whole.reshape(-1), np.full(part.shape, part.offset)
        for axis, (size, stride) in enumerate(zip(part.shape, part.strides)):
            places = places + (np.arange(size) * stride).reshape([-1 if a == axis else 1 for a in range(places.ndim)])
        return flat[places]
    return whole[np.ix_(*(np.arange(size) if index is None else shared.stored[index]
                          for size, index in zip(whole.shape, part.indices)))]


def laid(subnets, supernet=None):
    """`share`, after a look that every tensor of every subnet comes back as it was."""
    shared = share(subnets, supernet)
    for subnet, tensors in subnets.items():
        assert set(shared.names[subnet]) == set(tensors)
        for name, array in tensors.items():
            made = back(shared, shared.names[subnet][name])
            assert made.dtype == array.dtype and made.shape == array.shape
            assert made.tobytes() == np.ascontiguousarray(array).tobytes(), (subnet, name)
    return shared


def stored(shared) -> int:
    return sum(array.nbytes for array in shared.stored.values())


WHOLE = normal(32, 24)


@pytest.mark.parametrize("copied", [False, True], ids=["an alias", "equal bytes"])
def test_the_same_tensor_stands_once(copied):
    shared = laid({"a": {"w": WHOLE}, "b": {"v": WHOLE.copy() if copied else WHOLE}})
    assert stored(shared) == WHOLE.nbytes and not shared.parts.parts
    assert shared.subnets["a"].shared == shared.subnets["b"].shared == WHOLE.nbytes


VIEWS = {
    "a prefix": lambda w: w[:20, :16],
    "an offset": lambda w: w[5:21, 3:19],
    "every second": lambda w: w[1::2, ::2],
    "turned": lambda w: w.T,
    "turned and cut": lambda w: w[2:, 4:].T,
    "a middle dimension": lambda w: w.reshape(8, 4, 24)[:, 1:3, :],
    "one row": lambda w: w.reshape(8, 96)[7],
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_memory_is_described_by_offset_shape_and_strides(name):
    part = VIEWS[name](WHOLE)
    shared = laid({"large": {"w": WHOLE}, "small": {"w": part}})
    assert stored(shared) == WHOLE.nbytes
    view, = shared.parts.parts.values()
    assert isinstance(view, schema.View) and view.shape == part.shape
    assert "a view of" in "".join(shared.subnets["small"].reasons.values())
    assert shared.subnets["small"].viewed == part.nbytes


def test_another_shape_of_equal_bytes():
    shared = laid({"a": {"w": WHOLE}, "b": {"w": WHOLE.copy().reshape(16, 48)}})
    assert list(shared.stored) == ["w"]
    assert list(shared.subnets["b"].reasons.values()) == ["has the bytes of w in another shape"]


@pytest.mark.parametrize("name", ["a prefix", "an offset", "every second"])
def test_the_content_of_a_slice_is_found_in_a_copy(name):
    shared = laid({"large": {"w": WHOLE}, "small": {"w": VIEWS[name](WHOLE).copy()}})
    assert stored(shared) == WHOLE.nbytes
    part, = shared.parts.parts.values()
    assert isinstance(part, schema.View)
    assert "equals a slice" in "".join(shared.subnets["small"].reasons.values())


def test_gathered_channels_have_an_index_per_dimension():
    rows, columns = np.array([0, 3, 4, 9, 31, 17]), np.array([1, 2, 5, 23])
    wide = normal(32, 24, 3, 3)
    shared = laid({"large": {"w": wide}, "small": {"w": wide[np.ix_(rows, columns)]}})
    part, = shared.parts.parts.values()
    assert isinstance(part, schema.Gather) and part.tensor == "w"
    assert [None if index is None else list(shared.stored[index]) for index in part.indices] == [
        list(rows), list(columns), None, None]
    assert stored(shared) == wide.nbytes + 8 * (len(rows) + len(columns))
    assert shared.subnets["small"].copied == shared.subnets["small"].viewed > 0


def test_gathered_channels_whose_index_would_be_larger_stand_alone():
    rows = np.array([0, 7, 3, 5] * 16)
    narrow = normal(64, 1)
    shared = laid({"large": {"w": narrow}, "small": {"w": narrow[rows]}})
    assert not shared.parts.parts and stored(shared) == 2 * narrow.nbytes


def flipped(array: np.ndarray, at: int) -> np.ndarray:
    made = array.copy()
    made.view(np.uint32).reshape(-1)[at] ^= 1
    return made


ZEROS = np.where(np.arange(32 * 24).reshape(32, 24) % 5 == 0, np.float32(0), WHOLE)
NAN = np.where(ZEROS == 0, np.float32(np.nan), ZEROS)
OTHER_NAN = np.where(ZEROS == 0, np.array(0x7FC00001, np.uint32).view(np.float32), ZEROS)
NEAR = {
    "one bit of a prefix": (WHOLE, flipped(WHOLE[:20, :16], 77)),
    "one bit of the whole": (WHOLE, flipped(WHOLE, 700)),
    "the last element": (WHOLE, flipped(WHOLE[:20], 20 * 24 - 1)),
    "a negative zero": (ZEROS, np.where(ZEROS == 0, np.float32(-0.0), ZEROS)),
    "another NaN": (NAN, OTHER_NAN),
    "another dtype of equal bytes": (WHOLE, WHOLE.view(np.int32).copy()),
    "another dtype of equal values": (normal(32, 24).round(), normal(32, 24).round().astype(np.float64)),
    "rows of which one is changed": (WHOLE, flipped(WHOLE[[3, 1, 30, 8, 9, 2, 11, 25, 5]], 30)),
    "shuffled elements": (WHOLE, np.random.default_rng(1).permutation(WHOLE.reshape(-1)).reshape(32, 24)),
    "a slice that reaches past the end": (WHOLE, np.concatenate([WHOLE[20:], normal(8, 24, seed=9)])),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_nearly_lies_inside_is_not_shared(name):
    one, other = NEAR[name]
    shared = laid({"a": {"w": one}, "b": {"w": other}}, {"w": one})
    assert not shared.parts.parts and stored(shared) == one.nbytes + other.nbytes
    assert shared.subnets["b"].own == other.nbytes


def test_only_the_block_that_subnets_read_is_stored():
    shared = laid({"a": {"w": WHOLE[4:20, :12]}, "b": {"w": WHOLE[8:24, 2:14]}}, {"super": WHOLE})
    assert [array.shape for array in shared.stored.values()] == [(20, 14)]
    assert all(part.tensor == "super" for part in shared.parts.parts.values())


def test_a_tensor_that_nobody_reads_is_not_stored():
    shared = laid({"a": {"w": WHOLE}}, {"w": WHOLE, "unread": normal(64, 64, seed=5)})
    assert list(shared.stored) == ["w"]


def test_many_equal_elements_are_no_endless_search():
    shared = laid({"a": {"w": np.zeros((512, 512), np.float32)}, "b": {"w": np.ones((300, 300), np.float32)}})
    assert len(shared.stored) == 2


DTYPES = ["float32", "float16", "float64", "int64", "int8", "bool"]


@st.composite
def families(draw):
    """A large tensor, and subnets of views, copies, gathers and near misses of it."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    dtype = draw(st.sampled_from(DTYPES))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    few = draw(st.booleans())
    whole = (random.integers(0, 3 if few else 120, shape) if dtype in ("int64", "int8", "bool") or few
             else random.standard_normal(shape)).astype(dtype)
    subnets = {"large": {"w": whole}}
    for number in range(draw(st.integers(1, 4))):
        cut = whole
        for axis, size in enumerate(shape):
            start = draw(st.integers(0, size - 1))
            stop, step = draw(st.integers(start + 1, size)), draw(st.integers(1, 3))
            index = list(range(start, stop, step))
            cut = (np.take(cut, draw(st.permutations(index)), axis) if draw(st.booleans())
                   else cut[(slice(None),) * axis + (slice(start, stop, step),)])
        kind = draw(st.sampled_from(["as it is", "copied", "turned", "changed"]))
        if kind == "turned":
            cut = cut.T
        elif kind != "as it is":
            cut = cut.copy()
        if kind == "changed":
            cut.reshape(-1)[draw(st.integers(0, cut.size - 1))] = 1
        subnets[f"s{number}"] = {"w": cut, "x": cut}
    return subnets


@settings(max_examples=150, deadline=None)
@given(families(), st.booleans())
def test_whatever_subnets_hold_comes_back_and_takes_no_more_than_apart(subnets, told):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["elastic_compile.weights.share"], "SMALLEST", 1)
        shared = laid(subnets, {"w": subnets["large"]["w"]} if told else None)
    apart = sum(tensors["w"].nbytes for tensors in subnets.values())
    assert stored(shared) <= apart

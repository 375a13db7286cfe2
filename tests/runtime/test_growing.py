"""Tensors that grow in place: what is already there never changes, and memory is taken and given back with the rows."""
from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

import elastic_runtime as er
from elastic_runtime import schema as s
from elastic_runtime.growing import Buffer, append, grow
from tests.runtime.handmade import (
    INT,
    block,
    branch,
    entry,
    f32,
    give,
    host,
    jump,
    leaf,
    param,
    program,
    region,
    run,
)


def rows(*items: float) -> np.ndarray:
    return np.array(items, np.float32)[:, None]


def test_rows_are_added_behind_without_a_copy():
    first = append(rows(1, 2), rows(3), 0, 10)
    second = append(first, rows(4, 5), 0, 10)
    np.testing.assert_array_equal(first[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(second[:, 0], [1, 2, 3, 4, 5])
    assert Buffer.of(first) is Buffer.of(second) and first.ctypes.data == second.ctypes.data


def test_whoever_appends_to_a_shorter_tensor_gets_memory_of_his_own():
    first = append(rows(1), rows(2), 0, 10)
    longer = append(first, rows(3), 0, 10)
    other = append(first, rows(30, 40), 0, 10)
    np.testing.assert_array_equal(longer[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(other[:, 0], [1, 2, 30, 40])
    assert Buffer.of(longer) is not Buffer.of(other)


@pytest.mark.parametrize("part", [lambda a: a[1:], lambda a: a[::2], lambda a: a[:, :1], lambda a: a[:2]])
def test_a_part_of_a_buffer_is_not_taken_for_the_whole(part):
    whole = append(np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32), 0, 10)
    kept = whole.copy()
    made = append(part(whole), np.full((1, part(whole).shape[1]), 7, np.float32), 0, 10)
    np.testing.assert_array_equal(made, np.concatenate([part(kept), made[-1:]]))
    np.testing.assert_array_equal(whole, kept)


def test_a_full_buffer_moves_into_a_larger_one():
    whole = rows(0)
    for number in range(1, 100):
        whole = append(whole, rows(number), 0, 0)
    np.testing.assert_array_equal(whole[:, 0], np.arange(100))
    tight = append(append(rows(1), rows(2), 0, 2), rows(3), 0, 2)
    np.testing.assert_array_equal(tight[:, 0], [1, 2, 3])


def test_leading_dimensions_of_one():
    whole = append(np.zeros((1, 1, 2, 3), np.float32), np.ones((1, 1, 4, 3), np.float32), 2, 10)
    assert whole.shape == (1, 1, 6, 3) and whole.flags.c_contiguous
    again, tail = grow(whole, 1, 2, 10)
    tail[...] = 5
    assert Buffer.of(again) is Buffer.of(whole) and again[0, 0, 6, 0] == 5


@pytest.mark.parametrize("wrong", [
    np.zeros((1, 2), np.float32), np.zeros((1, 1), np.float64), np.zeros((1, 1, 1), np.float32)])
def test_rows_of_another_type_are_refused(wrong):
    with pytest.raises(ValueError, match="cannot append"):
        append(rows(1), wrong, 0, 4)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_taken_as_rows_are_written_and_given_back_with_the_last_tensor():
    row = np.ones((1, 1 << 18), np.float32)  # 1 MiB
    gc.collect()
    before = resident()
    whole = append(row, row, 0, 4096)
    assert resident() - before < 16 << 20
    whole = append(whole, np.ones((62, 1 << 18), np.float32), 0, 4096)
    assert 60 << 20 < resident() - before < 80 << 20
    del whole
    gc.collect()
    assert resident() - before < 16 << 20


def test_a_loop_that_collects(load):
    base = [f32(1, 2), INT, f32("k", 2), INT, f32(1, 2), s.ScalarType(kind="bool"), f32("k", 2), INT, f32(1, 2),
            f32("k", 2), INT, f32("k", 2), INT, f32("k", 2)]
    made = program(
        base,
        [
            block([0, 1], [s.AppendStep(inputs=(0, 0), outputs=(2,)), host("const", [], 3, at0=0)], jump(1, 2, 1, 0)),
            block([6, 7, 8], [host("gt", [7], 5, at1=0)], branch(5, jump(2, 6, 7, 8), jump(3, 6))),
            block([9, 10, 4], [s.AppendStep(inputs=(9, 4), outputs=(11,)), host("sub", [10], 12, at1=1)],
                  jump(1, 11, 12, 4)),
            block([13], [], give(leaf(13))),
        ],
        [entry([param("x", leaf(0)), param("n", leaf(1))], [0, 1])])
    model = load(made)
    x = np.array([[1, 2]], np.float32)
    for times in (0, 1, 7):
        np.testing.assert_array_equal(model(x, times), np.repeat(x, times + 2, 0))


def cached() -> s.Program:
    """Three calls: the rows given so far; the last call gives all and forgets them."""
    def mode(number: int, width: int) -> s.Mode:
        return s.Mode(entries=(number,), state=(f32(width, 2),) if width else ())

    return program(
        [f32(1, 2), f32(1, 2), f32(1, 2), f32(2, 2), f32(1, 2), f32(2, 2), f32(3, 2)],
        [
            block([0], [], give(leaf(0), 1, [0])),
            block([1, 2], [s.AppendStep(inputs=(2, 1), outputs=(3,), capacity=3)], give(leaf(1), 2, [3])),
            block([4, 5], [s.AppendStep(inputs=(5, 4), outputs=(6,), capacity=3)], give(leaf(6))),
        ],
        [entry([param("x", leaf(0))], [0], number=0), entry([param("x", leaf(1))], [1], number=1),
         entry([param("x", leaf(4))], [4], number=2)],
        modes=(mode(0, 0), mode(1, 1), mode(2, 2)))


def test_state_grows_over_calls_and_results_are_never_changed_later(load):
    model = load(cached())
    for _ in range(2):
        given = [np.full((1, 2), value, np.float32) for value in (1, 2, 3)]
        first = model(given[0])
        model(given[1])
        np.testing.assert_array_equal(first, [[1, 1]])
        given[0][...] = 99
        whole = model(given[2])
        np.testing.assert_array_equal(whole, [[1, 1], [2, 2], [3, 3]])


def failing() -> s.Program:
    """The second call appends, and then fails where it is told to."""
    x, both, bad = f32(1, 2), f32(2, 2), s.ScalarType(kind="bool")
    return program(
        [x, x, bad, x, both, both, both, both],
        [
            block([0], [], give(leaf(0), 1, [0])),
            block([1, 2, 3], [s.AppendStep(inputs=(3, 1), outputs=(4,), capacity=3)],
                  branch(2, jump(2, 4), jump(3, 4))),
            block([5], [run(0, [5], [6])], give(leaf(6))),
            block([7], [], give(leaf(7))),
        ],
        [entry([param("x", leaf(0))], [0], number=0),
         entry([param("x", leaf(1)), param("bad", leaf(2))], [1, 2], number=1)],
        [region("fail", [both], [both])],
        modes=(s.Mode(entries=(0,)), s.Mode(entries=(1,), state=(x,))))


def test_a_call_that_fails_leaves_the_tensor_as_it_was(load):
    model = load(failing())
    model(np.full((1, 2), 1, np.float32))
    for value in (7, 8):
        with pytest.raises(er.ExecutionError):
            model(np.full((1, 2), value, np.float32), True)
    np.testing.assert_array_equal(model(np.full((1, 2), 2, np.float32), False), [[1, 1], [2, 2]])


def test_without_rollback_state_goes_with_its_last_reader_and_a_failing_call_starts_over(load):
    model = load(failing())
    model.rollback = False
    model(np.full((1, 2), 1, np.float32))
    held = weakref.ref(model._state[0])
    np.testing.assert_array_equal(model(np.full((1, 2), 2, np.float32), False), [[1, 1], [2, 2]])
    assert held() is None
    model(np.full((1, 2), 1, np.float32))
    with pytest.raises(er.ExecutionError):
        model(np.full((1, 2), 7, np.float32), True)
    model(np.full((1, 2), 5, np.float32))
    np.testing.assert_array_equal(model(np.full((1, 2), 6, np.float32), False), [[5, 5], [6, 6]])

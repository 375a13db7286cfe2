"""What a program means: blocks, jumps, loops, scalars, state, randomness, exceptions."""
from __future__ import annotations

import gc
import math
import threading
import weakref

import numpy as np
import pytest

import elastic_runtime as er
from elastic_runtime import schema as s
from elastic_runtime.plan import _coalesce
from tests.runtime.handmade import (
    BOOL,
    BOOL0,
    FLOAT,
    INT,
    ON_SIGN_WEIGHTS,
    OPERATIONS,
    RUNNING_SUM_WEIGHTS,
    block,
    branch,
    const,
    countdown,
    entry,
    f32,
    give,
    host,
    jump,
    leaf,
    on_sign,
    param,
    program,
    region,
    run,
    running_sum,
)


def array(*items: float) -> np.ndarray:
    return np.array(items, np.float32)


def test_branch_takes_the_side_that_the_condition_says(load):
    model = load(on_sign(), ON_SIGN_WEIGHTS)
    up = model(array(1, 2))
    assert up["kind"] == "out"
    np.testing.assert_array_equal(up["y"], [2, 4])
    assert model.last_path == (0, 1, 3)
    down = model(array(-1, -2))
    np.testing.assert_array_equal(down["y"], [9, 8])
    assert model.last_path == (0, 2, 3)


def test_loop_carries_a_scalar_and_a_tensor(load):
    model = load(countdown())
    for times in (0, 1, 5, 40):
        np.testing.assert_array_equal(model(array(1, 2, 3), times), array(1, 2, 3) * 2.0 ** times)
        assert len(model.last_path) == 3 + 2 * times


def test_statistics_count_calls_blocks_and_edges(load):
    model = load(countdown())
    model(array(1, 2, 3), 2)
    model(array(1, 2, 3), 100)
    counts = model.statistics()
    assert counts.calls == 2
    assert counts.visits == (2, 104, 102, 2)
    assert counts.edges == {(0, 1): 2, (1, 2): 102, (2, 1): 102, (1, 3): 2}
    assert counts.regions == ()


def test_many_different_paths_are_counted_exactly(load):
    model = load(countdown())
    for times in range(30):
        for _ in range(60):
            model(array(1, 2, 3), times % 7)
    assert model.statistics().visits[0] == 1800


def test_profile_times_regions_and_starts_counting_anew(load):
    model = load(countdown(), profile=True)
    model(array(1, 2, 3), 4)
    timed, = model.statistics().regions
    assert (timed.name, timed.calls) == ("double", 4)
    assert 0 < timed.median_ms <= timed.total_ms
    model.profile(False)
    assert model.statistics().calls == 0 and model.statistics().regions == ()
    np.testing.assert_array_equal(model(array(1, 2, 3), 1), array(2, 4, 6))


@pytest.mark.parametrize("index,expected", [(0, 10), (7, 70), (3, -1), (-2, 20)])
@pytest.mark.parametrize("scalar", [True, False])
def test_switch(load, index, expected, scalar):
    kind = INT if scalar else s.TensorType(dtype="int64", shape=())
    made = program(
        [kind, INT, INT, INT, INT],
        [block([0], [], s.Switch(index=0, cases=((0, jump(1)), (7, jump(2)), (-2, jump(3))), default=jump(4))),
         *(block([], [host("const", [], value, at0=result)], give(leaf(value)))
           for value, result in ((1, 10), (2, 70), (3, 20), (4, -1)))],
        [entry([param("i", leaf(0))], [0])])
    assert load(made)(index if scalar else np.array(index)) == expected


def test_jump_arguments_are_copied_in_parallel(load):
    x = f32(1)
    made = program(
        [x, x, INT, x, x, INT, BOOL, INT, x, x],
        [block([0, 1, 2], [], jump(1, 0, 1, 2)),
         block([3, 4, 5], [host("sub", [5], 7, at1=1), host("ge", [7], 6, at1=0)],
               branch(6, jump(1, 4, 3, 7), jump(2, 3, 4))),
         block([8, 9], [], give(s.SequenceNode(kind="list", items=(leaf(8), leaf(9)))))],
        [entry([param(name, leaf(i)) for i, name in enumerate("abn")], [0, 1, 2])])
    model = load(made)
    for times in range(4):
        a, b = model(array(1), array(2), times)
        assert (a[0], b[0]) == ((1, 2), (2, 1))[times % 2]


def test_parameters_that_always_get_one_value_share_its_register():
    made = countdown()
    places = _coalesce(made)
    assert places[9] == places[2] == places[5]  # the loop's exit and body get what its head has
    assert places[6] == places[3]
    assert len({places[0], places[2], places[7]}) == 3  # a real join keeps a register of its own


def test_an_entry_that_is_a_loop_head_keeps_its_parameters(load):
    made = program(
        [INT, BOOL, INT, INT],
        [block([0], [host("gt", [0], 1, at1=10), host("add", [0], 2, at1=3)], branch(1, jump(1, 0), jump(0, 2))),
         block([3], [], give(leaf(3)))],
        [entry([param("n", leaf(0))], [0])])
    model = load(made)
    assert [model(n) for n in (0, 11, 8)] == [12, 11, 11]


def test_registers_shared_by_two_parameters_survive_the_death_of_one(load):
    x = f32(1)
    made = program(
        [x] * 7,
        [block([0], [], jump(1, 0, 0)),
         block([1, 2], [run(0, [1], [3]), run(0, [3], [4]), run(1, [4, 2], [5])], jump(2, 5)),
         block([6], [], give(leaf(6)))],
        [entry([param("x", leaf(0))], [0])],
        [region("double", [x], [x]), region("add", [x, x], [x])])
    np.testing.assert_array_equal(load(made)(array(1)), array(5))


def test_a_tensor_dies_after_its_last_use(load, monkeypatch):
    x, seen = f32(1), []

    def watch(value):
        made = value + 1
        gc.collect()
        seen.append([alive() is not None for alive in refs])
        refs.append(weakref.ref(made))
        return [made]

    refs = []
    monkeypatch.setitem(OPERATIONS, "watch", watch)
    made = program([x] * 6, [
        block([0], [run(0, [0], [1]), run(0, [1], [2]), run(0, [2], [3])], jump(1, 3)),
        block([4], [run(0, [4], [5])], give(leaf(5)))],
        [entry([param("x", leaf(0))], [0])], [region("watch", [x], [x])])
    np.testing.assert_array_equal(load(made)(array(0)), array(4))
    assert seen == [[], [True], [False, True], [False, False, True]]


def test_outputs_of_regions_of_every_width(load):
    x = f32(2)
    made = program(
        [x, x, x, x, x, x],
        [block([0], [run(0, [0], [1, 2]), run(1, [2], [3, 4, 5])],
               give(s.SequenceNode(kind="tuple", items=tuple(map(leaf, (1, 2, 3, 4, 5))))))],
        [entry([param("x", leaf(0))], [0])], [region("split", [x], [x, x]), region("three", [x], [x, x, x])])
    result = load(made)(array(1, 2))
    assert [list(item) for item in result] == [[2, 3], [0, 1], [0, 1], [0, 1], [0, 1]]


# ------------------------------------------------------------------------------------------------------ trees
def test_results_of_every_structure(load):
    tree = s.MapNode(keys=("a", 1, False, "rest"), items=(
        s.RecordNode(kind="namedtuple", name="Pair", fields=("left", "right"), items=(leaf(0), const(None))),
        s.RecordNode(kind="dataclass", name="Out", fields=("logits",), items=(leaf(1),)),
        s.SequenceNode(kind="list", items=(const(True), const(3), const("s"), const(math.inf), const(-0.0))),
        s.SequenceNode(kind="tuple", items=())))
    made = program([f32(1), FLOAT], [block([0, 1], [], give(tree))],
                   [entry([param("x", leaf(0)), param("f", leaf(1))], [0, 1])])
    model = load(made)
    result = model(array(4), 2.5)
    assert list(result) == ["a", 1, False, "rest"]
    assert type(result["a"]).__name__ == "Pair" and result["a"]._fields == ("left", "right")
    assert type(result["a"]) is type(model(array(4), 2.5)["a"])
    assert result["a"].left == 4 and result["a"].right is None
    assert result[1] == {"logits": 2.5}
    assert [type(item) for item in result[False]] == [bool, int, str, float, float]
    assert math.copysign(1, result[False][4]) == -1
    assert result["rest"] == ()


# -------------------------------------------------------------------------------------------------- exceptions
def test_a_model_that_raises(load):
    made = program([BOOL0], [block([0], [], branch(0, jump(1), jump(2))),
                             block([], [], s.Raise(type="ValueError", message="too bright")),
                             block([], [], give(const(1)))], [entry([param("c", leaf(0))], [0])])
    model = load(made)
    with pytest.raises(er.ModelRaised, match="the model raised ValueError: too bright") as caught:
        model(np.array(True))
    assert isinstance(caught.value, RuntimeError) and caught.value.type == "ValueError"
    assert model.last_path == (0, 1)
    assert model(np.array(False)) == 1
    assert model.statistics().calls == 2


def test_python_errors_of_host_operations_are_the_models(load):
    made = program([INT, INT], [block([0], [host("floordiv", [0], 1, at0=7)], give(leaf(1)))],
                   [entry([param("n", leaf(0))], [0])])
    model = load(made)
    assert model(-2) == -4
    with pytest.raises(er.ModelRaised) as caught:
        model(0)
    assert caught.value.type == "ZeroDivisionError"


@pytest.mark.parametrize("op,outputs", [("fail", 1), ("short", 1), ("short", 2), ("three", 2), ("split", 3)])
def test_a_region_that_fails_is_named(load, op, outputs):
    x = f32(1)
    made = program([x] * (outputs + 1), [block([0], [run(0, [0], range(1, outputs + 1))], give(leaf(1)))],
                   [entry([param("x", leaf(0))], [0])], [region(op, [x], [x] * outputs)])
    with pytest.raises(er.ExecutionError, match=f"region {op}: engine"):
        load(made)(array(1))


def test_item_and_decisions_need_one_element(load):
    x = f32("n")
    item = program([x, FLOAT], [block([0], [host("item", [0], 1)], give(leaf(1)))], [entry([param("x", leaf(0))], [0])])
    model = load(item)
    assert model(array(1.5)) == 1.5 and type(model(array(1.5))) is float
    with pytest.raises(er.ExecutionError, match="item: one-element"):
        model(array(1, 2))
    decide = program([x], [block([0], [], branch(0, jump(1), jump(1))), block([], [], give(const(0)))],
                     [entry([param("x", leaf(0))], [0])])
    model = load(decide)
    assert model(array(0)) == 0
    for wrong in (array(1, 2), array()):
        with pytest.raises(er.ExecutionError, match="branch: one-element"):
            model(wrong)


def endless() -> s.Program:
    return program([INT, INT], [block([0], [host("add", [0], 1, at1=1)], jump(0, 1))],
                   [entry([param("n", leaf(0))], [0])])


def test_an_endless_loop_ends_at_the_step_limit(load):
    model = load(endless(), limits=er.Limits(max_steps=1000))
    with pytest.raises(er.LimitExceeded, match="after 1000 basic blocks"):
        model(0)
    assert len(model.last_path) == 1000


def test_an_endless_loop_ends_at_the_deadline(load):
    model = load(endless(), limits=er.Limits(max_steps=None))
    model.deadline_s = 0.01
    with pytest.raises(er.DeadlineExceeded, match=r"its deadline is 10\.000 ms"):
        model(0)


def test_integers_cannot_grow_without_bound(load):
    made = program([INT, INT], [block([0], [host("mul", [0, 0], 1)], jump(0, 1))], [entry([param("n", leaf(0))], [0])])
    with pytest.raises(er.ExecutionError, match="int-bits"):
        load(made)(3)


# ------------------------------------------------------------------------------------------------------- state
def test_state_is_carried_and_reset(load):
    model = load(running_sum(), RUNNING_SUM_WEIGHTS)
    for turn in range(1, 4):
        total, count = model(array(1, 2))
        np.testing.assert_array_equal(total, array(1, 2) * turn)
        assert count == turn
    model.reset()
    assert model(array(5, 5))[1] == 1


def test_writing_to_inputs_or_results_does_not_change_the_state(load):
    model = load(running_sum(), RUNNING_SUM_WEIGHTS)
    given = array(1, 2)
    total, _ = model(given)
    total += 100
    given += 100
    np.testing.assert_array_equal(model(array(1, 2))[0], [2, 4])

    keep = program([f32(1), f32(1)], [block([0, 1], [], give(leaf(1), carry=[0]))], [entry([param("x", leaf(0))], [0])],
                   modes=(s.Mode(entries=(0,), state=(f32(1),)),), initial=("last",))
    model = load(keep, {"last": array(0)})
    given = array(7)
    model(given)
    given[0] = 8
    np.testing.assert_array_equal(model(given), [7])


def test_a_failed_call_leaves_the_state_alone(load):
    model = load(running_sum(), RUNNING_SUM_WEIGHTS)
    model(array(1, 1))
    kept = model._active.kernels
    model._active.kernels = (lambda inputs: 1 / 0,)
    model.profile(False)
    with pytest.raises(er.ExecutionError):
        model(array(1, 1))
    model._active.kernels = kept
    model.profile(False)
    np.testing.assert_array_equal(model(array(1, 1))[0], [2, 2])


def two_modes() -> s.Program:
    """Without a cache: `prefill(x)` stores x. With one: `step(y)` gives cache + y; y < 0 raises and forgets."""
    x, many = f32(1), f32("n")
    return program(
        [many, x, many, x, BOOL0, many, many, x, many],
        [block([0], [], give(const(None), mode=1, carry=[0])),
         block([1, 2], [run(0, [1], [4])], branch(4, jump(2, 1, 2), jump(3, 2))),
         block([7, 8], [run(1, [8, 7], [6])], give(leaf(6), mode=1, carry=[6])),
         block([5], [], s.Raise(type="StopIteration", message="end"))],
        [entry([param("x", leaf(0))], [0], 0, "prefill"), entry([param("y", leaf(1))], [1], 1, "step")],
        [region("positive", [x], [BOOL0]), region("add", [many, x], [many])],
        modes=(s.Mode(entries=(0,)), s.Mode(entries=(1,), state=(many,))))


def test_modes_decide_what_can_be_called(load):
    model = load(two_modes())
    with pytest.raises(er.InputError, match="unknown-argument"):
        model(y=array(1))
    assert model(array(1, 2)) is None
    np.testing.assert_array_equal(model(array(10)), [11, 12])
    np.testing.assert_array_equal(model(y=array(10)), [21, 22])
    with pytest.raises(er.InputError, match="entry 0: mode"):
        model.call_flat(0, [array(1)])
    with pytest.raises(er.ModelRaised):
        model(array(-1))
    assert model(array(5, 6, 7)) is None  # the exception took the model back to mode 0


def test_concurrent_calls_are_independent(load):
    model, failures = load(countdown()), []

    def work(times):
        for _ in range(100):
            if model(array(times, 1, 1), times % 5)[0] != times * 2 ** (times % 5):
                failures.append(times)

    threads = [threading.Thread(target=work, args=(times,)) for times in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert model.statistics().calls == 400


def test_concurrent_calls_of_a_model_with_state_wait_for_each_other(load):
    model = load(running_sum(), RUNNING_SUM_WEIGHTS)
    threads = [threading.Thread(target=lambda: [model(array(1, 1)) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model(array(0, 0))[1] == 201


# -------------------------------------------------------------------------------------------------- randomness
def drawing(kind: str, dtype: str) -> s.Program:
    shape = s.TensorType(dtype=dtype, shape=(3, "n"))
    return program([INT, shape], [block([0], [s.RandomStep(kind=kind, sizes=(3, "v0"), outputs=(1,))], give(leaf(1)))],
                   [entry([param("n", leaf(0))], [0])])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind,mean,variance", [("uniform", 0.5, 1 / 12), ("normal", 0, 1), ("exponential", 1, 1)])
def test_random_steps_have_the_right_distribution(load, kind, mean, variance, dtype):
    drawn = load(drawing(kind, dtype), seed=7)(20_000)
    assert drawn.shape == (3, 20_000) and drawn.dtype == dtype
    assert drawn.mean() == pytest.approx(mean, abs=0.02) and drawn.var() == pytest.approx(variance, rel=0.05)
    if kind == "uniform":
        assert drawn.min() >= 0 and drawn.max() < 1


def test_seeds(load):
    model = load(drawing("normal", "float32"), seed=1)
    first, second = model(4), model(4)
    assert not np.array_equal(first, second)
    model.seed(1)
    np.testing.assert_array_equal(model(4), first)
    with pytest.raises(er.ModelRaised, match="negative size"):
        model(-1)
    with pytest.raises(er.ExecutionError, match="random: elements"):
        model(1 << 40)


# ------------------------------------------------------------------------------------------------- host functions
def calling() -> s.Program:
    x, y = f32("n"), s.TensorType(dtype="int64", shape=("n",))
    return program([x, y, FLOAT], [block([0], [s.HostCallStep(name="app.rank", inputs=(0,), outputs=(1, 2))],
                                         give(s.SequenceNode(kind="tuple", items=(leaf(1), leaf(2)))))],
                   [entry([param("x", leaf(0))], [0])],
                   host_ops=(s.HostSignature(name="app.rank", inputs=(x,), outputs=(y, FLOAT)),))


def test_host_functions_are_called_by_name(load):
    model = load(calling(), host_ops={"app.rank": lambda x: (np.argsort(x), 0.5), "other": print})
    order, number = model(array(3, 1, 2))
    assert list(order) == [1, 2, 0] and number == 0.5


@pytest.mark.parametrize("function", [
    lambda x: (np.argsort(x).astype(np.int32), 0.5), lambda x: (np.argsort(x)[:-1], 0.5),
    lambda x: (np.argsort(x), 1), lambda x: (np.argsort(x), 0.5, 1), lambda x: (None, 0.5)])
def test_host_functions_are_held_to_their_signature(load, function):
    with pytest.raises(er.ExecutionError, match=r"host function app\.rank"):
        load(calling(), host_ops={"app.rank": function})(array(3, 1, 2))


def test_a_missing_host_function_is_named(load, numpy_engine):
    with pytest.raises(er.HostOpMissing, match=r"app\.rank") as caught:
        load(calling())
    assert caught.value.names == ("app.rank",)


# -------------------------------------------------------------------------------------------------- single blocks
def test_a_block_runs_on_its_own(load):
    model = load(on_sign(), ON_SIGN_WEIGHTS)
    ran = model.run_block(0, [array(-3)])
    assert ran.next == 2 and ran.args == (array(-3),) and not ran.values[1]
    forced = model.run_block(1, [array(-3)])
    assert forced.next == 3 and forced.args[0] == -6
    assert model.run_block(3, [array(1)]).result == {"y": array(1), "kind": "out"}
    assert model.statistics().calls == 0


def test_a_block_that_jumps_to_itself_shows_its_own_parameters(load):
    model = load(endless())
    ran = model.run_block(0, [41])
    assert (ran.next, ran.args, ran.values) == (0, (42,), {0: 41, 1: 42})


def test_a_block_that_raises_or_leaves_state_says_so(load):
    model = load(two_modes())
    ran = model.run_block(3, [array(1)])
    assert ran.raised == ("StopIteration", "end") and ran.next == -1
    assert model.run_block(0, [array(1)]).args == (array(1),)


def test_inspect_tells_the_program(load):
    text = load(on_sign(), ON_SIGN_WEIGHTS).inspect()
    assert "4 blocks, 3 regions" in text and "forward(x)" in text and "block 0 decide" in text


def test_bool_scalars_decide(load):
    made = program([BOOL, BOOL], [block([0], [host("not", [0], 1)], branch(1, jump(1), jump(2))),
                                  block([], [], give(const("off"))), block([], [], give(const("on")))],
                   [entry([param("flag", leaf(0))], [0])])
    model = load(made)
    assert (model(True), model(False)) == ("on", "off")

"""Subnets of one bundle: equal regions loaded once, switches between calls and threads, state across a switch."""
from __future__ import annotations

import sys
import threading
import weakref

import msgspec
import numpy as np
import pytest

import elastic_runtime as er
from elastic_runtime import prepared
from elastic_runtime import schema as s
from tests.runtime.handmade import (
    INT,
    block,
    const,
    edit,
    entry,
    f32,
    give,
    host,
    leaf,
    on_sign,
    param,
    program,
    region,
    run,
    write_bundle,
)


def chain(*operations: str) -> s.Program:
    """x through `operations`, one region each."""
    x, count = f32("n"), len(operations)
    return program(
        [x] * (count + 1), [block([0], [run(n, [n], [n + 1]) for n in range(count)], give(leaf(count)))],
        [entry([param("x", leaf(0))], [0])], [region(op, [x], [x]) for op in operations])


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_subnets_share_kernels_and_are_switched_by_name(load, numpy_engine):
    model = load(chain("double", "inc"), others={"a": chain("double"), "b": chain("inc", "double", "double")})
    assert sorted(numpy_engine.loaded) == ["double", "inc"], "equal regions are loaded once"
    assert model.subnets == ("main", "a", "b") and model.active == "main"
    for name, expected in (("main", 7), ("a", 6), ("b", 16), ("main", 7)):
        model.switch(name)
        assert model.active == name and model(array(3)) == expected
        assert model.last_path == (0,)


def test_statistics_are_each_subnets_own(load):
    model = load(chain("double"), others={"a": chain("inc", "inc")}, profile=True)
    model(array(1))
    model.switch("a")
    model(array(1))
    model(array(1))
    assert model.statistics().calls == 2
    assert [one.calls for one in model.statistics().regions] == [2, 2]
    model.switch("main")
    assert model.statistics().calls == 1


def test_an_unknown_subnet_is_refused_and_nothing_changes(load):
    model = load(chain("double"), others={"a": chain("inc")})
    model.switch("a")
    for name in ("c", "", "MAIN", None, 1):
        with pytest.raises(er.InputError, match="one of main, a"):
            model.switch(name)
    assert model.active == "a"


def test_every_subnet_is_replayed_by_the_self_test(tmp_path):
    path = write_bundle(tmp_path / "b", chain("double"), others={"a": chain("inc")},
                        tensors={"x": array(3), "six": array(6), "four": array(4)},
                        calls=[s.ReferenceCall(entry=0, inputs=("x",), outputs=("six",), result=leaf(0))])
    wrong = s.ReferenceCall(entry=0, inputs=("x",), outputs=("six",), result=leaf(0))
    edit(path, "reference.a.json", lambda plain: plain.update(
        calls=[msgspec.to_builtins(msgspec.structs.replace(wrong, outputs=("four",)))]))
    er.load(path, self_test=True)
    edit(path, "reference.a.json", lambda plain: plain.update(calls=[msgspec.to_builtins(wrong)]))
    with pytest.raises(er.SelfTestFailed):
        er.load(path, self_test=True)


def test_a_host_function_that_another_subnet_needs_is_missing_at_load(load):
    x = f32(1)
    other = program([x, x], [block([0], [s.HostCallStep(name="app.f", inputs=(0,), outputs=(1,))], give(leaf(1)))],
                    [entry([param("x", leaf(0))], [0])],
                    host_ops=(s.HostSignature(name="app.f", inputs=(x,), outputs=(x,)),))
    with pytest.raises(er.HostOpMissing, match=r"app\.f"):
        load(chain("double"), others={"a": other})
    model = load(chain("double"), others={"a": other}, host_ops={"app.f": lambda x: x + 5})
    model.switch("a")
    assert model(array(1)) == 6


def test_a_call_ends_on_the_subnet_that_it_began_on(load):
    """The switch comes while the call is between two regions."""
    x = f32(1)
    pause = s.HostCallStep(name="app.pause", inputs=(1,), outputs=(2,))
    slow = program([x, x, x, x], [block([0], [run(0, [0], [1]), pause, run(0, [2], [3])], give(leaf(3)))],
                   [entry([param("x", leaf(0))], [0])], [region("double", [x], [x])],
                   host_ops=(s.HostSignature(name="app.pause", inputs=(x,), outputs=(x,)),))
    inside, go_on, results = threading.Event(), threading.Event(), []

    def wait(x):
        inside.set()
        assert go_on.wait(10)
        return x

    model = load(slow, others={"a": chain("inc")}, host_ops={"app.pause": wait})
    thread = threading.Thread(target=lambda: results.append(model(array(1))))
    thread.start()
    assert inside.wait(10)
    model.switch("a")
    assert model(array(1)) == 2, "other calls already run the new subnet"
    go_on.set()
    thread.join(10)
    assert results == [4] and model.active == "a"


def side_by_side(call, switch, stop: threading.Event) -> None:
    """Three threads that call, and two that switch until these are done; `switch` takes a seed."""
    threads = [threading.Thread(target=call) for _ in range(3)]
    switchers = [threading.Thread(target=switch, args=(seed,)) for seed in range(2)]
    for thread in (*threads, *switchers):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in switchers:
        thread.join()


def test_switches_from_many_threads_tear_no_call(load):
    programs = {f"s{n}": chain(*["inc"] * n, "double") for n in range(1, 6)}
    model = load(chain("double"), others=programs)
    possible = {float(2 * (1 + n)) for n in range(6)}
    stop, wrong = threading.Event(), []

    def switch(seed: int) -> None:
        names = np.random.default_rng(seed).choice(model.subnets, 500)
        while not stop.is_set():
            for name in names:
                model.switch(str(name))

    def call() -> None:
        for _ in range(2000):
            y = model(array(1))
            if y.shape != (1,) or float(y[0]) not in possible:
                wrong.append(y)

    side_by_side(call, switch, stop)
    assert wrong == []


# ------------------------------------------------------------------------------------------------------------ state
def counting(*names: str, static: dict[str, str] | None = None, dtype: str = "float32") -> s.Program:
    """Each state adds x; gives them as a list. One host integer "calls" counts along when named."""
    x = s.TensorType(dtype=dtype, shape=(1,))
    values, steps, params, outs, kinds = [x], [], [0], [], []
    for name in names:
        kind = INT if name == "calls" else x
        before, after = len(values), len(values) + 1
        values += [kind, kind]
        params.append(before)
        outs.append(after)
        kinds.append(kind)
        steps.append(host("add", [before], after, at1=1) if name == "calls" else run(0, [before, 0], [after]))
    mode = s.Mode(entries=(0,), state=tuple(kinds), names=names, static=static or {})
    return program(
        values, [block(params, steps, give(s.SequenceNode(kind="list", items=tuple(map(leaf, outs))), carry=outs))],
        [entry([param("x", leaf(0))], [0])], [region("add", [x, x], [x])], modes=(mode,),
        initial=tuple(f"first.{name}" for name in names))


STATE = {"first.a": array(0), "first.b": array(10), "first.c": array(100), "first.calls": np.array(0, np.int64)}


def told(result: list) -> list[float]:
    return [float(np.asarray(item).reshape(())) for item in result]


def test_state_of_the_same_name_is_carried_and_the_rest_dropped(load):
    model = load(counting("a", "b", "calls"), STATE, others={"less": counting("b", "calls"), "none": chain("double")})
    assert told(model(array(1))) == [1, 11, 1]
    model.switch("less")
    assert told(model(array(1))) == [12, 2], "b and calls are carried, a is dropped"
    with pytest.raises(er.SwitchRefused, match=r"main needs a: float32\[1\]") as caught:
        model.switch("main")
    assert (caught.value.active, caught.value.wanted) == ("less", "main")
    assert model.active == "less" and told(model(array(1))) == [13, 3], "a refused switch changes nothing"
    model.switch("none")
    assert model(array(4)) == 8
    model.reset()
    model.switch("main")
    assert told(model(array(1))) == [1, 11, 1]


def test_a_state_as_loaded_goes_over_to_any_subnet(load):
    model = load(counting("b"), STATE, others={"more": counting("a", "b", "c")})
    model.switch("more")
    assert told(model(array(1))) == [1, 11, 101]
    model.switch("main")
    assert told(model(array(1))) == [12]


def test_state_of_another_type_or_without_names_is_not_taken(load):
    other = counting("a", dtype="float64")
    model = load(counting("a"), STATE | {"other": np.zeros(1)},
                 others={"wide": msgspec.structs.replace(other, initial=("other",)), "unnamed": msgspec.structs.replace(
                     counting("a"), modes=(s.Mode(entries=(0,), state=(f32(1),)),))})
    model(array(1))
    with pytest.raises(er.SwitchRefused, match=r"wide needs a: float64\[1\]"):
        model.switch("wide")
    with pytest.raises(er.SwitchRefused, match="does not tell"):
        model.switch("unnamed")


def modes(*extra: s.Mode) -> s.Program:
    """A first mode that goes to the last of `extra`; each mode gives its number."""
    count = 1 + len(extra)
    return program(
        [], [block([], [], give(const(n), mode=count - 1)) for n in range(count)],
        [entry([], [], n) for n in range(count)], modes=(s.Mode(entries=(0,)), *extra))


def test_a_mode_goes_over_where_the_other_subnet_has_one_like_it(load):
    def one(entry_: int, **static: str) -> s.Mode:
        return s.Mode(entries=(entry_,), static=static)

    model = load(modes(one(1, ready="True")), others={
        "same": modes(one(1, other="1"), one(2, ready="True")), "unlike": modes(one(1, ready="2")), "free": on_sign()},
        weights={"w": array(10)})
    assert model() == 0 and model() == 1
    with pytest.raises(er.SwitchRefused, match="unlike was not compiled for the state"):
        model.switch("unlike")
    model.switch("same")
    assert model() == 2, "the mode whose static part agrees"
    model.switch("free")
    assert model(array(1))["y"] == 2, "a subnet that knows nothing of it goes on without"


def test_a_call_with_state_cannot_switch_from_inside_itself(load):
    x = f32(1)
    step = s.HostCallStep(name="app.f", inputs=(0,), outputs=(2,))
    inner = program([x, x, x], [block([0, 1], [step], give(leaf(2), carry=[2]))], [entry([param("x", leaf(0))], [0])],
                    modes=(s.Mode(entries=(0,), state=(x,), names=("a",)),), initial=("first.a",),
                    host_ops=(s.HostSignature(name="app.f", inputs=(x,), outputs=(x,)),))
    seen = []

    def switch(x):
        with pytest.raises(er.SwitchRefused, match="still running"):
            model.switch("b")
        seen.append(model.active)
        return x

    model = load(inner, STATE, others={"b": counting("a")}, host_ops={"app.f": switch})
    model(array(3))
    assert seen == ["main"]
    model.switch("b")
    assert told(model(array(1))) == [4]


def grown(title: str, *shapes: tuple[int | str, ...]) -> s.Program:
    """States "s0", "s1", ... of these shapes, given back as they are."""
    kinds = [f32(*shape) for shape in shapes]
    names = tuple(f"s{n}" for n in range(len(kinds)))
    params = list(range(len(kinds)))
    mode = s.Mode(entries=(0,), state=tuple(kinds), names=names)
    return program(
        kinds, [block(params, [], give(s.SequenceNode(kind="list", items=tuple(map(leaf, params))), carry=params))],
        [entry([], [])], modes=(mode,), initial=tuple(f"{title}.{n}" for n in names))


def first(title: str, free: int, *shapes: tuple[int | str, ...]) -> dict[str, np.ndarray]:
    return {f"{title}.s{n}": np.ones([free if isinstance(size, str) else size for size in shape], np.float32)
            for n, shape in enumerate(shapes)}


@pytest.mark.parametrize("other, known", [
    ([("m", 3), ("m", 3)], True), ([("n", 3)], True), ([("a", "b"), ("c", "b")], True), ([(2, 3), ("k", 3)], False),
    ([("k", 3), ("k", "k")], None), ([(4, 3)], None), ([("n", 4)], None)])
def test_where_a_switch_leads_is_known_from_the_types_where_they_decide(load, other, known):
    """`known`: True when the types alone decide, False when the sizes are looked at, None when it is refused."""
    main = [("n", 3), ("n", 3)]
    model = load(grown("main", *main), first("main", 2, *main) | first("other", 3, *other),
                 others={"other": grown("other", *other)})
    model()
    for _ in range(3):
        before = model._next
        if known is None:
            with pytest.raises(er.SwitchRefused, match=r"other needs s\d: float32"):
                model.switch("other")
            assert model.active == "main" and [value.shape for value in model()] == [(2, 3)] * 2
            continue
        model.switch("other")
        assert ("other" in before.after) == known
        assert [value.shape for value in model()] == [(2, 3)] * len(other)
        if len(other) < 2:
            return
        model.switch("main")
        assert [value.shape for value in model()] == [(2, 3)] * 2


def test_what_was_dropped_is_gone_before_the_next_call_and_does_not_come_back(load):
    model = load(counting("a", "b"), STATE, others={"less": counting("b")})
    model(array(1))
    held = weakref.ref(model._state[0])
    model.switch("less")
    with pytest.raises(er.SwitchRefused, match="main needs a"):
        model.switch("main")
    assert told(model(array(1))) == [12] and held() is None


def test_a_switch_of_many_states_moves_none_of_them(load):
    names = [f"layer{n}.cache" for n in range(100)]
    states = {f"first.{name}": array(n) for n, name in enumerate(names)}
    model = load(counting(*names), states, others={"half": counting(*names[::2]), "few": counting(*names[:3])})
    model(array(1))
    for name in ("half", "few"):
        model.switch(name)
        model(array(1))
        model.reset()
        model.switch("main")
        model(array(1))
    state, before = model._state, sys.getallocatedblocks()
    for _ in range(1000):
        model.switch("half")
        model._next = model._held  # as if it came from here anew
    assert model._state is state and sys.getallocatedblocks() - before < 50
    model.switch("half")
    assert told(model(array(1))) == [n + 2 for n in range(0, 100, 2)]


def test_a_switch_of_another_thread_during_a_call_with_state_waits_and_is_made(load):
    x = f32(1)
    step = s.HostCallStep(name="app.pause", inputs=(0,), outputs=(2,))
    slow = program([x, x, x, x], [block([0, 1], [step, run(0, [2, 1], [3])], give(leaf(3), carry=[3]))],
                   [entry([param("x", leaf(0))], [0])], [region("add", [x, x], [x])],
                   modes=(s.Mode(entries=(0,), state=(x,), names=("a",)),), initial=("first.a",),
                   host_ops=(s.HostSignature(name="app.pause", inputs=(x,), outputs=(x,)),))
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def wait(x):
        inside.set()
        assert go_on.wait(10)
        return x

    def switch() -> None:
        for name in ("other", "main", "other"):
            model.switch(name)
        seen.append(go_on.is_set())

    model = load(slow, STATE, others={"other": counting("a")}, host_ops={"app.pause": wait})
    calls = [threading.Thread(target=lambda: seen.append(float(model(array(3))[0])))]
    calls[0].start()
    assert inside.wait(10)
    calls.append(threading.Thread(target=switch))
    calls[1].start()
    assert model.active == "main", "the call in progress"
    go_on.set()
    for thread in calls:
        thread.join(10)
    assert sorted(seen) == [True, 3] and model.active == "other" and told(model(array(1))) == [4]


@pytest.mark.parametrize("gil", [True, False])
def test_switches_from_many_threads_tear_no_call_with_state(load, gil, monkeypatch):
    """Every call counts all of its states up by one. Without a GIL, every switch takes the lock."""
    monkeypatch.setattr(prepared, "_ONE_THREAD_AT_A_TIME", gil)
    names = [f"s{n}" for n in range(20)]
    states = {f"first.{name}": array(0) for name in names}
    model = load(counting(*names), states, others={"a": counting(*names), "b": counting(*reversed(names))})
    stop, wrong, seen = threading.Event(), [], []

    def switch(seed: int) -> None:
        for name in np.random.default_rng(seed).choice(model.subnets, 20_000):
            if stop.is_set():
                return
            model.switch(str(name))

    def call() -> None:
        for _ in range(500):
            counted = told(model(array(1)))
            seen.append(counted[0])
            if len(set(counted)) != 1:
                wrong.append(counted)

    side_by_side(call, switch, stop)
    assert wrong == [] and sorted(seen) == list(range(1, 1501)), "no call is lost, none runs twice"

"""Deadlines and budgets are looked at between regions; a declared fallback gives the result; endless loops end."""
from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest

import elastic_runtime as er
from elastic_runtime import schema as s
from elastic_runtime.worst import worst_path
from tests.runtime.handmade import (
    BOOL0,
    NumpyEngine,
    block,
    branch,
    countdown,
    edit,
    encode_tensors,
    entry,
    f32,
    give,
    jump,
    leaf,
    on_sign,
    param,
    program,
    region,
    run,
    running_sum,
    seal,
    write_bundle,
)
from tests.runtime.test_subnets import array, chain


def looping() -> s.Program:
    """x halved until its sum is no longer positive: never, for a positive x that does not underflow."""
    x = f32("n")
    return program(
        [x, x, BOOL0, x, x, x],
        [block([0], [], jump(1, 0)), block([1], [run(0, [1], [2])], branch(2, jump(2, 1), jump(3, 1))),
         block([3], [run(1, [3], [4])], jump(1, 4)), block([5], [], give(leaf(5)))],
        [entry([param("x", leaf(0))], [0])], [region("positive", [x], [BOOL0]), region("identity", [x], [x])])


@pytest.fixture
def bundle(tmp_path):
    """`looping`, with a fallback that doubles."""
    def made(**budget: object):
        path = write_bundle(tmp_path / "b", looping(), others={"cheap": chain("double")})

        def change(plain):
            plain["fallback"] = "cheap"
            plain["subnets"][0]["budget"].update(budget)
        edit(path, "manifest.json", change, reseal=False)
        return path
    return made


def test_a_budget_ends_a_call_between_two_regions(load, numpy_engine):
    model = load(chain("double", "inc", "double"))
    model.max_regions = 3
    assert model(array(1)) == 6
    model.max_regions = 2
    numpy_engine.called.clear()
    with pytest.raises(er.BudgetExceeded, match="it ran 2"):
        model(array(1))
    assert numpy_engine.called == ["double", "inc"]
    assert model.bounded(max_regions=3)(array(1)) == 6, "a call's own budget goes before the model's"
    model.max_regions = None
    assert model(array(1)) == 6


def test_a_deadline_ends_a_call_between_two_regions_of_one_block(load, monkeypatch, numpy_engine):
    model = load(chain("double", "inc"))
    now = [0.0]
    monkeypatch.setattr("elastic_runtime.plan.perf_counter", lambda: now[0])
    load_ = NumpyEngine.load

    def slow(self, *given):
        kernel = load_(self, *given)

        def run(inputs):
            now[0] += 1
            return kernel(inputs)
        return run

    monkeypatch.setattr(NumpyEngine, "load", slow)
    model = load(chain("double", "inc", "double"))
    assert model.bounded(deadline_s=2.5)(array(1)) == 6
    with pytest.raises(er.DeadlineExceeded, match=r"after 2000\.000 ms; its deadline is 1500\.000 ms"):
        model.bounded(deadline_s=1.5)(array(1))
    with pytest.raises(er.DeadlineExceeded):
        model.bounded(deadline_s=-1)(array(1))


def test_an_input_crafted_to_run_for_ever_is_ended(load):
    model = load(looping())
    assert model(array(-1)) == -1
    with pytest.raises(er.BudgetExceeded):
        model.bounded(max_regions=1000)(array(1))
    model.deadline_s = 0.02
    start = time.perf_counter()
    with pytest.raises(er.DeadlineExceeded):
        model(array(1))
    assert time.perf_counter() - start < 30, "it ends, rather than when"


def test_the_bundles_own_budget_holds_and_the_fallback_answers(bundle):
    model = er.load(bundle(regions=50))
    assert model.fallback == "cheap"
    assert model(array(-1)) == -1 and model.last_subnet == "main"
    assert model(array(3)) == 6 and (model.last_subnet, model.active) == ("cheap", "main")
    assert model.call_flat(0, [array(3)]) == 6
    assert model(array(-1)) == -1 and model.last_subnet == "main"
    model.fallback = ""
    with pytest.raises(er.BudgetExceeded):
        model(array(3))


@pytest.mark.parametrize("bounds", [{"deadline_s": 0.005}, {"max_regions": 9}])
def test_a_calls_own_bounds_lead_to_the_fallback(bundle, bounds):
    model = er.load(bundle())
    assert model.bounded(**bounds)(array(3)) == 6 and model.last_subnet == "cheap"


def test_the_step_limit_leads_to_the_fallback(bundle):
    model = er.load(bundle(), limits=er.Limits(max_steps=99))
    assert model(array(3)) == 6


def test_the_fallback_itself_has_no_deadline(bundle):
    model = er.load(bundle())
    model.switch("cheap")
    with pytest.raises(er.DeadlineExceeded):
        model.bounded(deadline_s=-1)(array(3))
    model.switch("main")
    model.deadline_s = -1.0
    assert model(array(3)) == 6


def test_a_fallback_with_other_arguments_is_not_run(tmp_path):
    x = f32(1)
    two = program([x, x, x], [block([0, 1], [run(0, [0, 1], [2])], give(leaf(2)))],
                  [entry([param("x", leaf(0)), param("y", leaf(1))], [0, 1])], [region("add", [x, x], [x])])
    path = write_bundle(tmp_path / "b", looping(), others={"cheap": two})
    edit(path, "manifest.json", lambda plain: plain.update(fallback="cheap"), reseal=False)
    with pytest.raises(er.BudgetExceeded):
        er.load(path).bounded(max_regions=9)(array(1))


def test_the_self_test_runs_whole_whatever_the_budget(bundle):
    path = bundle(regions=1)
    call = s.ReferenceCall(entry=0, inputs=("x",), outputs=("x",), result=leaf(0))
    edit(path, "reference.json", lambda plain: plain.update(calls=[msgspec.to_builtins(call)]), reseal=False)
    (path / "reference.safetensors").write_bytes(encode_tensors({"x": array(-1)}))
    seal(path)
    edit(path, "manifest.json", lambda plain: plain["subnets"][0]["budget"].update(regions=1), reseal=False)
    assert er.load(path, self_test=True).last_subnet == "main"


@pytest.mark.parametrize("made,worst", [
    (chain("double", "inc"), 2), (on_sign(), 2), (countdown(), None), (looping(), None), (running_sum(), 1),
])
def test_the_costliest_path(made, worst):
    assert worst_path(made) == worst


def test_the_costliest_path_of_many_branches():
    x = f32(1)
    values, blocks = [x], []
    for level in range(40):
        values += [BOOL0, x, x]
        first = 3 * level
        blocks += [block([first], [run(0, [first], [first + 1])],
                         branch(first + 1, jump(2 * level + 1, first), jump(2 * level + 2, first))),
                   block([first + 2], [run(1, [first + 2], [first + 3])], jump(2 * level + 2, first + 3))]
    blocks.append(block([3 * 40], [], give(leaf(3 * 40))))
    made = program(values, blocks, [entry([param("x", leaf(0))], [0])],
                   [region("positive", [x], [BOOL0]), region("inc", [x], [x])])
    assert worst_path(made) == 80
    assert worst_path(made, lambda one: {"positive": 0.5, "inc": 2.0}[one.name]) == 100.0
    assert np.isfinite(worst_path(made))

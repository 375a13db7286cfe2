"""Contenders are timed path by path, together; who cannot run is named."""
from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from elastic_compile import bench
from elastic_compile.bundle import write
from elastic_runtime import engines, load, schema
from tests.programs import scalar_parts

BRIEF = bench.Settings(warmup_ms=0, duration_s=0, iterations=5, percentiles=(50.0,))


@pytest.fixture
def model(tmp_path):
    write(tmp_path / "m.elastic", scalar_parts())
    return load(tmp_path / "m.elastic")


def eager(x):
    return 2.0 * x.item() if x > 0 else -1.0


CALLS = [((torch.tensor(value),), {}) for value in (1.0, 3.0, -2.0)]


def test_each_path_is_timed_once_with_all_contenders(model):
    others = {"eager": [lambda args=args: eager(*args) for args, _ in CALLS]}
    rows = bench.compare({"bundle": (model, bench.example_calls(model, CALLS))}, others, BRIEF)
    assert [(row.path, row.call) for row in rows] == [((0, 1), 0), ((0, 2), 2)]
    for row in rows:
        assert list(row.timings) == ["eager", "bundle"]
        assert all(timing.count == 5 for timing in row.timings.values())
        assert row.host_us == {"bundle": None}, "the program has no region"


def test_example_calls_give_arrays_to_the_model(model, monkeypatch):
    seen = []
    monkeypatch.setattr(type(model), "__call__", lambda self, *args, **kwargs: seen.append((args, kwargs)))
    bench.example_calls(model, [((torch.ones(2),), {"n": 3})])[0]()
    (args, kwargs), = seen
    assert type(args[0]) is np.ndarray and kwargs == {"n": 3}


def test_reference_calls_take_the_recorded_paths(model):
    assert list(bench.first_calls(model, bench.reference_calls(model))) == [(0, 1), (0, 2)]


def test_torch_calls_compute_what_the_function_does():
    thunks, missing = bench.torch_calls(eager, CALLS, threads=1)
    assert [call() for call in thunks[bench.EAGER]] == [2.0, 6.0, -1.0]
    assert (bench.COMPILED in thunks) != (bench.COMPILED in missing)


def test_a_contender_that_fails_is_named_with_its_reason(monkeypatch):
    def fail(function):
        def run(*args, **kwargs):
            raise RuntimeError("no C++ compiler\nlong story")
        return run
    monkeypatch.setattr(torch, "compile", fail)
    thunks, missing = bench.torch_calls(eager, CALLS, threads=1)
    assert list(thunks) == [bench.EAGER] and missing == {bench.COMPILED: "RuntimeError: no C++ compiler"}


def one_region() -> schema.Program:
    image = schema.TensorType(dtype="float32", shape=(2,))
    port = schema.Port(name="x", type=image)
    return schema.Program(
        name="one", values=(image, image),
        blocks=(schema.Block(params=(0,), steps=(schema.RegionStep(region=0, inputs=(0,), outputs=(1,)),),
                             terminator=schema.Return(tree=schema.ValueLeaf(id=1))),),
        entries=(schema.Entry(name="forward", block=0, inputs=(0,), params=(
            schema.Parameter(name="x", kind="standard", tree=schema.ValueLeaf(id=0)),)),),
        regions=(schema.Region(name="r", engine="ticking", files={}, inputs=(port,), outputs=(port,)),))


@pytest.mark.parametrize(("tells", "host_us"), [(True, 3.0), (False, 0.0)], ids=["around", "whole kernel"])
def test_the_host_is_everything_but_the_engines_run_call(tmp_path, monkeypatch, request, tells, host_us):
    """By a clock that only advances by what kernels take (3 us) and run calls (70 us) and by 0.5 us a reading."""
    now = [0]

    def clock():
        now[0] += 500
        return now[0]

    def run(array):
        now[0] += 70_000
        return [array + 1]

    class Ticking:
        native = False

        def load(self, region, files, weights, options):
            def around(wrap):
                wrapped = wrap(run)

                def kernel(arrays):
                    now[0] += 3_000
                    return wrapped(arrays[0])
                if tells:
                    kernel.around = around
                return kernel
            return around(lambda run: run)

    engines.register("ticking", Ticking)
    request.addfinalizer(lambda: engines.unregister("ticking"))
    nothing = schema.Reference(tensors="reference.safetensors", calls=())
    parts = scalar_parts()
    write(tmp_path / "m.elastic", dataclasses.replace(
        parts, programs=(one_region(),), references=(nothing,), reference_tensors={},
        subnets=(msgspec.structs.replace(parts.subnets[0], worst=1),)))
    model = load(tmp_path / "m.elastic")
    monkeypatch.setattr(bench, "perf_counter_ns", clock)
    monkeypatch.setattr("elastic_runtime.prepared.perf_counter_ns", clock)
    found = bench.host_us_per_region(model, lambda: model(np.zeros(2, np.float32)))
    assert found == pytest.approx(host_us, abs=0.11), "a reading of the clock per five calls remains"
    assert model.statistics().regions == (), "profiling is off again"

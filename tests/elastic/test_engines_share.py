"""Families as the engines load them: some of the subnets, one copy of the weights, memory as the kernel counts it."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import elastic_compile as ec
import elastic_runtime as er
from elastic_runtime import bench
from elastic_runtime.engines import onnxruntime as engine
from elastic_runtime.residence import measure
from tests.elastic.supernets import ActiveNet, DeepNet, Narrowing, WideNet, scramble

X = torch.randn(3, 128, generator=torch.Generator().manual_seed(3))


def saved(path: Path, supernet, configs, x, backend: str = "onnxruntime") -> Path:
    ec.compile_family(supernet, configs, [(x,)], backend=backend).save(path)
    return path


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> Path:
    """Three subnets over weights of 1.5 MiB."""
    return saved(tmp_path_factory.mktemp("deep") / "f.elastic", scramble(DeepNet(128, 6)),
                 {"d6": 6, "d4": 4, "e5": {"depth": 5, "sure": 2.0}}, X)


def outputs(model, names, x):
    made = {}
    for name in names:
        model.switch(name)
        made[name] = model(x)
    return made


@pytest.mark.parametrize("threads", [1, 2])
def test_every_subnet_computes_what_it_computes_alone(deep, tmp_path, threads):
    for cache in (tmp_path / "cache", tmp_path / "cache", False):
        model = er.load(deep, cache=cache, threads=threads, self_test=True)
        for name, made in outputs(model, model.subnets, X).items():
            assert np.array_equal(made, er.load(deep, subnets=[name], threads=threads)(X)), name
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_packed_weights_are_used(deep, tmp_path, monkeypatch):
    opened, original = [], engine.onnx_packed.open_session
    monkeypatch.setattr(engine.onnx_packed, "open_session", lambda *a: opened.append(1) or original(*a))
    er.load(deep, cache=tmp_path)
    made, = tmp_path.iterdir()
    assert len(opened) >= 6 and sum(len(file.name) == 64 for file in made.iterdir()) >= 3
    opened.clear()
    er.load(deep, cache=tmp_path, subnets=["d4"])
    assert not opened


def test_a_family_of_widths_computes_what_its_subnets_do(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PACKED_FROM", 1)
    image = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    for name, supernet, configs, x in (
            ("conv", scramble(WideNet(64)), {"w64": 64, "w32": 32, "odd": list(range(1, 64, 2))}, image),
            ("linear", scramble(ActiveNet(64)), {"w64": 64, "w40": 40, "w16": 16}, X[:, :16].contiguous())):
        path = saved(tmp_path / name, supernet, configs, x)
        model = er.load(path, cache=tmp_path / "cache", self_test=True)
        for subnet, made in outputs(model, model.subnets, x).items():
            assert np.array_equal(made, er.load(path, subnets=[subnet], cache=False)(x)), subnet


def test_some_of_the_subnets(deep):
    model = er.load(deep, subnets=["e5", "d4"])
    assert model.subnets == ("e5", "d4") and model.active == "e5"
    with pytest.raises(er.InputError, match="unknown-subnet"):
        model.switch("d6")
    for wrong in ([], ["d6", "d6"], ["d9"]):
        with pytest.raises(er.InputError, match="subnets"):
            er.load(deep, subnets=wrong)


def test_memory_is_that_of_the_largest(tmp_path):
    """By proportional set size, each case in a process of its own: 32 MiB of weights."""
    path = saved(tmp_path / "f.elastic", scramble(DeepNet(512, 8)), {"d8": 8, "d6": 6, "d4": 4, "d2": 2},
                 torch.randn(2, 512))
    cache = tmp_path / "cache"
    measure(path, cache=cache)
    one, all_four, apart = (measure(path, groups, cache=cache) for groups in (
        [["d8"]], [None], [["d8"], ["d6"], ["d4"], ["d2"]]))
    assert one.models > 30
    assert all_four.models < 1.2 * one.models, (one, all_four)
    assert apart.models > 2 * one.models, (one, apart)


def test_widths_take_the_memory_of_the_largest_where_layers_are_divided(tmp_path):
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
    supernet, configs = scramble(Narrowing(1024)), {f"w{width}": width for width in (1024, 768, 512, 256)}
    found, cache = {}, tmp_path / "cache"
    for slower in (math.inf, 0):
        family = ec.compile_family(supernet, configs, [(x,)], slower=slower)
        family.save(path := tmp_path / f"{slower}.elastic")
        for told in ("\n".join(family.sharing.decisions), family.inspect()):
            assert "one packed copy is made per device" in told
            assert ("divided at the widths" in told) == (slower > 0)
        measure(path, cache=cache)
        alone = measure(path, [["w1024"]], cache=cache)
        found[slower] = measure(path, cache=cache).models / alone.models
        for name, made in outputs(er.load(path, cache=cache), configs, x).items():
            supernet.activate(configs[name])
            np.testing.assert_allclose(made, supernet(x).detach(), rtol=1e-3, atol=1e-4)
    assert alone.models > 12
    assert found[math.inf] < 1.3 and found[0] > 1.4, found


def test_a_process_that_fails_to_load_says_why(deep):
    with pytest.raises(RuntimeError, match="unknown-subnet"):
        measure(deep, [["d9"]])


def test_a_first_run_after_a_switch_is_told_from_those_that_follow(deep):
    model = er.load(deep)
    ran = []
    found = bench.after_switch(model, {name: lambda: ran.append(model.active) for name in model.subnets},
                               duration_s=0, rounds=4)
    often = [name for name in model.subnets for _ in range(3)] + [name for name in model.subnets for _ in range(2)]
    assert ran == [*model.subnets] * 2 + often * 4
    assert {one.rounds for one in found.values()} == {4}
    model.switch("d4")
    assert bench.switch_ns(model, rounds=100) >= 0 and model.active == "d4"

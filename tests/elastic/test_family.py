"""Families: each subnet is the eager subnet, weights are stored once, switching is a pointer move."""
from __future__ import annotations

import numpy as np
import pytest
import torch

import elastic_compile as ec
import elastic_runtime as er
from tests.elastic.supernets import ActiveNet, DeepNet, Streaming, WideNet, scramble

CASES = {
    "depth": (DeepNet, {"d4": 4, "d2": 2, "exit": {"depth": 3, "sure": 1.0}}, (1, 32)),
    "width by copies": (WideNet, {"w32": 32, "w8": 8, "w20": 20}, (2, 3, 8, 8)),
    "gathered channels": (WideNet, {"all": 32, "some": [31, 2, 7, 8, 30, 11, 12, 13]}, (2, 3, 8, 8)),
    "width in place": (ActiveNet, {"w32": 32, "w16": 16, "w5": 5}, (2, 16)),
}


def eager(supernet, config) -> torch.nn.Module:
    if hasattr(supernet, "subnet"):
        return supernet.subnet(config)
    supernet.activate(config)
    return supernet


@pytest.mark.parametrize("case", CASES)
def test_every_subnet_is_the_eager_one(case, tmp_path):
    kind, configs, shape = CASES[case]
    supernet = scramble(kind())
    family = ec.compile_family(supernet, configs, [(torch.randn(shape),)])
    family.save(tmp_path / "f.elastic")
    model = er.load(tmp_path / "f.elastic", self_test=True)
    assert model.subnets == tuple(configs) and model.active == next(iter(configs))
    for seed in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        for name in (*configs, *reversed(configs)):
            model.switch(name)
            assert model.active == name
            with torch.no_grad():
                expected = eager(supernet, configs[name])(x)
            np.testing.assert_allclose(model(x.numpy()), expected, rtol=1e-4, atol=1e-5)


def size(path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def test_a_depth_elastic_bundle_is_hardly_larger_than_its_largest_subnet(tmp_path):
    supernet = scramble(DeepNet(256, 6))
    x = [(torch.randn(1, 256),)]
    ec.compile(supernet.subnet(6), x).save(tmp_path / "alone.elastic")
    family = ec.compile_family(supernet, {"d6": 6, "d4": 4, "d3": 3, "d2": 2}, x)
    family.save(tmp_path / "f.elastic")
    assert size(tmp_path / "f.elastic") <= 1.02 * size(tmp_path / "alone.elastic")
    assert family.sharing.stored == family.sharing.alone["d6"]


def test_names_and_supernets_that_are_none():
    x = [(torch.randn(1, 32),)]
    with pytest.raises(ec.ExampleError, match="subnet\\(config\\) nor activate"):
        ec.compile_family(torch.nn.Linear(2, 2), {"a": 1}, x)
    for names in ({"a/b": 1}, {"": 1}, {}, {"A": 1, "a": 2}):
        with pytest.raises(ec.ExampleError, match="subnet"):
            ec.compile_family(scramble(DeepNet()), names, x)
    with pytest.raises(ec.ExampleError, match="no example calls for subnet b"):
        ec.compile_family(scramble(DeepNet()), {"a": 1, "b": 2}, {"a": x})


def test_a_subnet_that_is_not_there(tmp_path):
    ec.compile_family(scramble(DeepNet()), {"a": 1}, [(torch.randn(1, 32),)]).save(tmp_path / "f.elastic")
    model = er.load(tmp_path / "f.elastic")
    with pytest.raises(er.InputError, match="one of a"):
        model.switch("b")
    assert model.active == "a"


class Settling(torch.nn.Module):
    """Rounds until the data has settled; `once` is the cheap way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        while x.abs().max() > 1:
            x = self.layer(x)
        return x

    def once(self, x):
        return self.layer(x).clamp(-1, 1)


def settling(scale: float) -> Settling:
    made = Settling().eval()
    with torch.no_grad():
        made.layer.weight.copy_(torch.eye(4) * scale)
        made.layer.bias.zero_()
    return made


def test_a_programs_fallback_answers_for_an_input_that_never_settles(tmp_path):
    module = settling(1.0)  # what is above 1 stays above 1 for ever
    x = torch.full((1, 4), 0.5)
    program = ec.compile(settling(0.5), [(x * 8,)], budget=ec.Budget(regions=40), fallback=module.once)
    program.save(tmp_path / "p.elastic")
    model = er.load(tmp_path / "p.elastic", self_test=True)
    np.testing.assert_allclose(model((x * 8).numpy()), x * 2)
    assert model.last_subnet == "main"
    np.testing.assert_allclose(model((x * 2.0**60).numpy()), torch.ones(1, 4))
    assert model.last_subnet == "fallback"
    with pytest.raises(ec.ExampleError, match="a loop that only the data ends"):
        ec.compile(module, [(x,)], fallback=module.forward)


def test_a_familys_smallest_subnet_answers_when_the_deadline_is_past(tmp_path):
    supernet = scramble(DeepNet())
    x = torch.randn(1, 32)
    family = ec.compile_family(supernet, {"exit": {"depth": 4, "sure": 1e9}, "d1": 1}, [(x,)], fallback="d1")
    family.save(tmp_path / "f.elastic")
    assert family.packed.subnets[0].worst >= 4 and family.packed.subnets[1].worst == 1
    assert "takes over when a call exceeds its budget" in family.inspect()
    model = er.load(tmp_path / "f.elastic")
    with torch.no_grad():
        whole, cheap = supernet.subnet(4)(x), supernet.subnet(1)(x)
    np.testing.assert_allclose(model(x.numpy()), whole, rtol=1e-4, atol=1e-5)
    for bounds in ({"deadline_s": 0.0}, {"max_regions": 2}):
        np.testing.assert_allclose(model.bounded(**bounds)(x.numpy()), cheap, rtol=1e-4, atol=1e-5)
        assert (model.last_subnet, model.active) == ("d1", "exit")
    with pytest.raises(ec.ExampleError, match="no subnet"):
        ec.compile_family(supernet, {"d1": 1}, [(x,)], fallback="d2")


def test_a_fallback_beside_state_is_refused():
    with pytest.raises(ec.ExampleError, match="keeps state between calls"):
        ec.compile_family(scramble(Streaming()), {"a": ["l0"], "b": ["l1"]}, [(torch.randn(1, 8),)], fallback="a")


def test_state_is_carried_by_the_place_in_the_module(tmp_path):
    """Three layers that each sum up what they saw; a switch keeps the sums of the layers that go on."""
    supernet = scramble(Streaming())
    configs = {"all": ["l0", "l1", "l2"], "ends": ["l0", "l2"], "first": ["l0"]}
    ec.compile_family(supernet, configs, [(torch.randn(1, 8),)]).save(tmp_path / "f.elastic")
    model = er.load(tmp_path / "f.elastic", self_test=True)
    modules = {name: supernet.subnet(config) for name, config in configs.items()}
    for number, name in enumerate(["all", "all", "ends", "ends", "first"]):
        x = torch.randn(1, 8, generator=torch.Generator().manual_seed(number))
        model.switch(name)
        with torch.no_grad():
            expected = modules[name](x)
        np.testing.assert_allclose(model(x.numpy()), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(er.SwitchRefused, match=r"all needs layers\.l1\.seen: float32\[1, 8\]"):
        model.switch("all")


class Cached(torch.nn.Module):
    """Keeps what it was given first; later calls add to it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = None
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x):
        self.kept = x if self.kept is None else self.kept + x
        return self.layer(self.kept)


class CachedStack(Streaming):
    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.layers = torch.nn.ModuleDict({"l0": Cached(), "l1": Cached()})


def test_a_cache_that_the_first_call_made_goes_over_to_a_shallower_subnet(tmp_path):
    supernet = scramble(CachedStack())
    configs = {"two": ["l0", "l1"], "one": ["l0"]}
    ec.compile_family(supernet, configs, [(torch.randn(1, 8),)]).save(tmp_path / "f.elastic")
    model = er.load(tmp_path / "f.elastic", self_test=True)
    modules = {name: supernet.subnet(config) for name, config in configs.items()}
    for number, name in enumerate(["two", "two", "one", "one"]):
        x = torch.randn(1, 8, generator=torch.Generator().manual_seed(number))
        model.switch(name)
        with torch.no_grad():
            expected = modules[name](x)
        np.testing.assert_allclose(model(x.numpy()), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(er.SwitchRefused):
        model.switch("two")

"""Several backends in order: each region by the first that takes it, in one bundle."""
from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile import backends
from elastic_compile.backends.in_order import InOrder
from elastic_compile.errors import BackendError, BackendUnavailable
from tests.backends.regions import source


class Choosy:
    """ONNX Runtime's backend, but for what is in `refused`. `telling`: whether its errors name the regions."""

    name, engine, native = "choosy", "onnxruntime", False

    def __init__(self, refused: set[str], telling: bool = True) -> None:
        self.refused, self.telling, self.asked = refused, telling, []
        self.other = backends.get("onnxruntime")

    def require(self) -> None:
        self.other.require()

    def compile(self, regions, progress=None):
        self.asked.append([one.name for one in regions])
        refused = [one.name for one in regions if one.name in self.refused]
        if refused:
            error = BackendError(f"region {refused[0]}: not this one")
            error.regions = tuple(refused) if self.telling else ()
            raise error
        return self.other.compile(regions, progress)


def regions() -> list[backends.RegionSource]:
    return [source(lambda x, n=n: x + n, [torch.ones(2)], name=f"region_{n}") for n in range(3)]


def test_the_first_that_takes_a_region_compiles_it() -> None:
    first, second = Choosy({"region_1"}), Choosy(set())
    made = InOrder([first, second]).compile(regions())
    assert [one.name for one in made] == ["region_0", "region_1", "region_2"]
    assert first.asked == [["region_0", "region_1", "region_2"], ["region_0", "region_2"]]
    assert second.asked == [["region_1"]]


def test_what_all_refuse_is_refused() -> None:
    with pytest.raises(BackendError, match="region region_2: not this one"):
        InOrder([Choosy({"region_0", "region_2"}), Choosy({"region_2"})]).compile(regions())


def test_an_error_that_names_no_region_is_not_passed_over() -> None:
    second = Choosy(set())
    with pytest.raises(BackendError, match="region region_1"):
        InOrder([Choosy({"region_1"}, telling=False), second]).compile(regions())
    assert second.asked == []


def test_an_unknown_one_is_a_typed_error() -> None:
    with pytest.raises(BackendUnavailable, match="there is no backend 'nothing'"):
        backends.get("onnxruntime,nothing")


class Sparse(torch.nn.Linear):
    def forward(self, x):
        made = super().forward(x).relu()
        if made.sum() > 1:
            return made.nonzero()
        return made


@pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="apache-tvm is not installed")
def test_a_bundle_of_two_engines_gives_what_eager_gives(tmp_path) -> None:
    torch.manual_seed(0)
    module = Sparse(4, 4).eval()
    program = ec.compile(module, [(torch.ones(1, 4),)], backend="tvm,onnxruntime")
    assert {region.engine for region in program.program.regions} == {"tvm", "onnxruntime"}
    assert program.backend == "tvm,onnxruntime"
    program.save(tmp_path / "both.elastic")
    model = er.load(tmp_path / "both.elastic", allow_native=True)
    paths = set()
    for scale in (-9.0, 0.01, 9.0):
        x = torch.linspace(0.5, 1, 4).view(1, 4) * scale
        with torch.no_grad():
            np.testing.assert_allclose(model(x.numpy()), module(x).numpy(), rtol=1e-5, atol=1e-6)
        paths.add(model.last_path)
    assert len(paths) == 2

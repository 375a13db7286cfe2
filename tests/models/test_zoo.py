"""Real models compiled from their own source: equal to eager PyTorch on every path that their inputs take.

`ec.compile` has compared every example and every reachable block already; here the bundle is saved, loaded by the
runtime and run on more inputs.
"""
from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.verify import ATOL, RTOL
from tests.models import zoo

MODELS = zoo.load()


def assert_same(given, wanted, where="output"):
    """Equal in structure and type; floats within the compiler's tolerances, everything else exactly."""
    if isinstance(wanted, torch.Tensor):
        array = wanted.detach().numpy()
        assert given.dtype == array.dtype and given.shape == array.shape, where
        if array.dtype.kind == "f":
            np.testing.assert_allclose(given, array, rtol=RTOL, atol=ATOL, err_msg=where)
        else:
            np.testing.assert_array_equal(given, array, err_msg=where)
    elif isinstance(wanted, dict):
        names = [name for name in wanted if wanted[name] is not None]
        found = {name: getattr(given, name) if hasattr(given, name) else given[name] for name in names}
        for name in names:
            assert_same(found[name], wanted[name], f"{where}.{name}")
    elif isinstance(wanted, (tuple, list)):
        assert len(given) == len(wanted), where
        for i, (one, other) in enumerate(zip(given, wanted)):
            assert_same(one, other, f"{where}[{i}]")
    else:
        assert given == wanted, where


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compiled_from_its_own_source(name, tmp_path, record_property):
    entry = MODELS[name]
    built = entry.build()
    program = ec.compile(built.target, built.examples)
    blocks, regions = len(program.program.blocks), len(program.program.regions)
    record_property("blocks", blocks)
    record_property("regions", regions)
    print(f"{name}: {blocks} blocks, {regions} regions")
    assert blocks <= entry.blocks and regions <= entry.regions

    program.save(tmp_path / "model.elastic")
    model = er.load(tmp_path / "model.elastic")
    paths = set()
    for args in built.inputs:
        given = model(*pytree.tree_map_only(torch.Tensor, torch.Tensor.numpy, args))
        with torch.no_grad():
            assert_same(given, built.target(*args))
        paths.add(tuple(model.last_path))
    assert len(paths) >= entry.paths

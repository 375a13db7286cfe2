"""Host functions: named in the bundle, given by the application, checked at the boundary."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.hostop import HostOpError, tensor_type


def _sort(x):
    return np.sort(x)


def _positive(x):
    return np.flatnonzero(x > 0), x[x > 0]


sort = ec.host_op("app.sort", inputs=["float32[n]"], outputs=["float32[n]"])(_sort)
positive = ec.host_op("app.positive", inputs=["float32[n]"], outputs=["int64[k]", "float32[k]"])(_positive)


class Sorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = sort(self.linear(x))
        if y[0] > 0:
            return y * 2
        where, values = positive(y)
        return {"where": where, "total": values.sum(), "count": len(where)}


HOSTS = {"app.sort": _sort, "app.positive": _positive}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    torch.manual_seed(0)
    module = Sorted().eval()
    path = tmp_path_factory.mktemp("host") / "m.elastic"
    ec.compile(module, [(torch.randn(4),)]).save(path)
    return module, path


def test_equal_to_eager_on_both_paths(case):
    module, path = case
    model = er.load(path, host_ops=HOSTS)
    kinds = set()
    for seed in range(20):
        x = torch.randn(4, generator=torch.Generator().manual_seed(seed)) * 3
        with torch.no_grad():
            wanted = module(x)
        given = model(x)
        kinds.add(type(given))
        if isinstance(wanted, dict):
            assert np.array_equal(given["where"], wanted["where"].numpy()) and given["count"] == wanted["count"]
            assert np.allclose(given["total"], wanted["total"].numpy(), atol=1e-5)
        else:
            assert np.allclose(given, wanted.numpy(), atol=1e-5)
    assert kinds == {dict, np.ndarray}


def test_its_absence_is_an_error_at_load(case):
    with pytest.raises(er.HostOpMissing, match=r"app\.sort"):
        er.load(case[1])


@pytest.mark.parametrize("wrong", [lambda x: x.astype(np.float64), lambda x: x[:-1], lambda x: x[None]])
def test_what_it_gives_is_checked(case, wrong):
    model = er.load(case[1], host_ops={**HOSTS, "app.sort": wrong})
    with pytest.raises(er.ElasticRuntimeError, match=r"app\.sort"):
        model(np.ones(4, np.float32))


def test_declarations_are_checked():
    with pytest.raises(HostOpError, match="tensor type"):
        tensor_type("float[2]")
    with pytest.raises(HostOpError, match="not a name"):
        ec.host_op("no name", inputs=[], outputs=[])
    with pytest.raises(HostOpError, match="declared as"):
        sort(torch.zeros(2, 2))
    with pytest.raises(HostOpError, match="takes 1"):
        sort(torch.zeros(2), torch.zeros(2))


class WrongUse(nn.Module):
    def forward(self, x):
        return sort(x.to(torch.float64))


def test_wrong_use_is_refused_at_compile_time():
    with pytest.raises(ec.CompileError) as refused:
        ec.compile(WrongUse().eval(), [(torch.ones(3),)])
    assert refused.value.code in ("EC170", "EC401")

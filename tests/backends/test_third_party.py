"""A backend and its engine from another installed package, found through entry points."""
from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile import backends
from elastic_compile.errors import BackendError, BackendUnavailable
from elastic_runtime import engines
from elastic_runtime.errors import EngineMissing
from tests.backends.regions import compiled, differences, source

COMPILER = '''
import json

import torch

from elastic_compile.backends import CompiledRegion
from elastic_compile.errors import BackendError
from elastic_runtime.schema import Port

NAMES = {
    torch.ops.aten.add.Tensor: "add", torch.ops.aten.mul.Tensor: "multiply", torch.ops.aten.sub.Tensor: "subtract",
    torch.ops.aten.gt.Scalar: "greater", torch.ops.aten.sum.default: "sum",
}


class Backend:
    name = engine = "stack"
    native = False

    def require(self):
        pass

    def compile(self, regions, progress=None):
        return [self.one(region) for region in regions]

    def one(self, region):
        given = set(region.exported.graph_signature.user_inputs)
        steps, numbers = [], {}
        for node in region.exported.graph.nodes:
            if node.op == "placeholder" and node.name in given:
                numbers[node] = len(numbers)
            elif node.op == "call_function":
                if node.target not in NAMES:
                    raise BackendError(f"region {region.name}: no {node.target}")
                operands = [["v", numbers[a]] if a in numbers else ["c", a] for a in node.args]
                steps.append([NAMES[node.target], operands])
                numbers[node] = len(numbers)
        results = [numbers[node] for node in region.exported.graph.output_node().args[0]]
        return CompiledRegion(
            name=region.name, engine="stack", payload={"program": json.dumps([steps, results]).encode()},
            inputs=tuple(Port(name=f"i{n}", type=t) for n, t in enumerate(region.inputs)),
            outputs=tuple(Port(name=f"o{n}", type=t) for n, t in enumerate(region.outputs)),
            weights={}, options={}, ops=len(steps))
'''

ENGINE = '''
import json

import numpy as np


class Engine:
    name = "stack"
    native = False

    def load(self, region, files, weights, options):
        steps, results = json.loads(bytes(files["program"]))

        def kernel(arrays):
            values = list(arrays)
            for name, operands in steps:
                operands = [values[o] if kind == "v" else values[0].dtype.type(o) for kind, o in operands]
                values.append(np.asarray(getattr(np, name)(*operands)))
            return [values[number].copy() for number in results]

        return kernel
'''

METADATA = "Metadata-Version: 2.1\nName: stack-backend\nVersion: 1.0\n"
ENTRY_POINTS = """
[elastic_compile.backends]
stack = stack_compiler:Backend

[elastic_runtime.engines]
stack = stack_engine:Engine
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package `stack-backend`, on the path as pip would leave it."""
    (tmp_path / "stack_compiler.py").write_text(COMPILER)
    (tmp_path / "stack_engine.py").write_text(ENGINE)
    information = tmp_path / "stack_backend-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(METADATA)
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    for name in ("stack_compiler", "stack_engine"):
        sys.modules.pop(name, None)


class Gate(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 3:
            return x + x
        return x * x - x


def test_its_names_are_known_only_while_it_is_installed(request: pytest.FixtureRequest) -> None:
    assert "stack" not in backends.installed() and "stack" not in engines.known()
    with pytest.raises(BackendUnavailable):
        backends.get("stack")
    with pytest.raises(EngineMissing):
        engines.factory("stack")
    request.getfixturevalue("installed")
    assert "stack" in backends.installed() and "stack" in engines.known()


@pytest.mark.usefixtures("installed")
def test_it_compiles_and_runs_regions() -> None:
    inputs = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    assert differences(compiled(backends.get("stack"), torch.add, inputs), torch.add, inputs) == []
    with pytest.raises(BackendError, match="softmax"):
        backends.get("stack").compile([source(lambda x: x.softmax(0), inputs[:1])])


@pytest.mark.usefixtures("installed")
def test_it_compiles_and_runs_a_program(tmp_path: Path) -> None:
    examples = [(torch.tensor([1.0, 2.0]),), (torch.tensor([3.0, 4.0]),)]
    ec.compile(Gate().eval(), examples, backend="stack").save(tmp_path / "gate.elastic")
    model = er.load(tmp_path / "gate.elastic")
    assert {region.engine for region in model.program.regions} == {"stack"}
    for (x,) in examples:
        assert np.array_equal(model(x.numpy()), Gate()(x).numpy())


def test_a_package_that_does_not_import_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "broken-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(METADATA.replace("stack-backend", "broken"))
    (information / "entry_points.txt").write_text("[elastic_compile.backends]\nbroken = nowhere_to_be_found:Backend\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match="broken"):
        backends.get("broken")

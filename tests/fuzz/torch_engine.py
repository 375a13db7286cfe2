"""A backend and an engine that run regions with PyTorch: a program is compiled and run in milliseconds.

In: regions of a captured program. Out: bundles whose regions only this process can run.
Never: spares the capture, the passes, the bundle or the runtime anything: only a region's own operations are run
elsewhere than in ONNX Runtime.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from elastic_compile import api, backends, tuning
from elastic_compile.backends.protocol import CompiledRegion
from elastic_compile.program.export import run_eager
from elastic_compile.program.ir import Graph, Program
from elastic_runtime import engines, schema

NAME = "pytorch_in_process"


class Captured(NamedTuple):
    """A region as it was captured, in the place of its exported program."""

    program: Program
    graph: Graph


_regions: dict[str, Captured] = {}
_numbers = count()


class TorchBackend:
    name = NAME
    engine = NAME
    native = False

    def require(self) -> None:
        """PyTorch is here."""

    def compile(self, regions: Sequence[Any], progress: Any = None) -> list[CompiledRegion]:
        return [_compiled(source) for source in regions]


def _compiled(source: Any) -> CompiledRegion:
    key = f"region {next(_numbers)}"
    _regions[key] = source.exported
    return CompiledRegion(
        name=source.name, engine=NAME, payload={"key": key.encode()},
        inputs=tuple(schema.Port(name=f"x{i}", type=kind) for i, kind in enumerate(source.inputs)),
        outputs=tuple(schema.Port(name=f"y{i}", type=kind) for i, kind in enumerate(source.outputs)),
        weights={name: name for name in source.exported.graph.weights()},
    )


class TorchEngine:
    name = NAME
    native = False

    def load(
        self, region: schema.Region, files: Mapping[str, memoryview], weights: Mapping[str, np.ndarray], options: Any
    ) -> Any:
        captured = _regions[bytes(files["key"]).decode()]
        stored = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
        program = captured.program.replace(weights=stored)

        def kernel(inputs: list[np.ndarray]) -> list[np.ndarray]:
            given = [torch.from_numpy(np.array(array)) for array in inputs]
            return [np.array(tensor.numpy(), order="C") for tensor in run_eager(program, captured.graph, given)]

        return kernel


@contextmanager
def installed() -> Iterator[None]:
    """Within, `NAME` is a backend and an engine, and its programs are handed over without the compiler's own
    verification."""
    engines.register(NAME, TorchEngine)
    with (
        mock.patch.dict(backends._BUILT_IN, {NAME: (__name__, "TorchBackend")}),
        mock.patch.object(tuning, "export", lambda program, graph, name: Captured(program, graph)),
        mock.patch.object(api, "verify_compiled", lambda result, **options: result),
    ):
        try:
            yield
        finally:
            engines.unregister(NAME)
            _regions.clear()

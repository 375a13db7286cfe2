"""The ONNX Runtime backend: each region is one ONNX model.

In: regions. Out: compiled regions for the engine "onnxruntime", whose payload is {"model": ModelProto bytes}.
Never: leaves it to the user to find out that ONNX Runtime cannot load a model: each is loaded once here.

Models hold no large weights, so regions that differ in nothing else have one model: the layers of a network are
translated once.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from elastic_compile.backends import onnx_export
from elastic_compile.backends.protocol import CompiledRegion, Progress, RegionSource
from elastic_compile.backends.structure import handed_on, structure
from elastic_compile.errors import BackendError
from elastic_runtime import schema
from elastic_runtime.engines import EngineOptions
from elastic_runtime.engines.onnxruntime import OnnxRuntimeEngine
from elastic_runtime.errors import BundleError


class OnnxRuntimeBackend:
    name = "onnxruntime"
    engine = "onnxruntime"
    native = False

    def __init__(self) -> None:
        self._made: dict[object, tuple[CompiledRegion, tuple[str, ...]]] = {}

    def require(self) -> None:
        """ONNX Runtime comes with `elastic-runtime`, and the exporter with `elastic-compile`: nothing to miss."""

    def compile(
        self, regions: Sequence[RegionSource], progress: Progress | None = None
    ) -> list[CompiledRegion]:
        """One ONNX model per region. Raises `BackendError` naming the region and the operator."""
        made = []
        for done, source in enumerate(regions):
            if progress:
                progress(done, len(regions), source.name)
            key = structure(source, _of_weight)
            if key not in self._made:
                self._made[key] = _compile(source), tuple(source.exported.state_dict)
            made.append(handed_on(*self._made[key], source))
        if progress:
            progress(len(regions), len(regions), "")
        return made


def _of_weight(tensor: torch.Tensor) -> object:
    """What a model depends on: of a weight that it holds the content, of one outside it the type."""
    kind = str(tensor.dtype), tuple(tensor.shape)
    if not onnx_export.is_inside(tensor):
        return kind
    data = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return kind, data.reshape(-1).view(torch.uint8).numpy().tobytes()


def _compile(source: RegionSource) -> CompiledRegion:
    exported = onnx_export.export(source)
    region = CompiledRegion(
        name=source.name,
        engine=OnnxRuntimeBackend.engine,
        payload={"model": exported.model},
        inputs=tuple(schema.Port(name=f"x{i}", type=kind) for i, kind in enumerate(source.inputs)),
        outputs=tuple(schema.Port(name=f"y{i}", type=kind) for i, kind in enumerate(source.outputs)),
        weights=exported.weights,
        ops=exported.nodes,
    )
    _load_once(source, region)
    return region


def _load_once(source: RegionSource, region: CompiledRegion) -> None:
    tensors = {**source.exported.constants, **source.exported.state_dict}
    arrays: dict[str, np.ndarray] = {
        name: tensors[key].detach().contiguous().numpy() for name, key in region.weights.items()
    }
    plain = schema.Region(name=region.name, engine=region.engine, files={"model": "model"},
                          inputs=region.inputs, outputs=region.outputs)
    try:
        OnnxRuntimeEngine().load(plain, {"model": memoryview(region.payload["model"])}, arrays, EngineOptions())
    except BundleError as error:
        raise BackendError(f"region {source.name}: ONNX Runtime does not accept its model",
                           reason=str(error.__cause__ or error)) from error

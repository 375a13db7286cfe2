"""Regions for the tests of backends: from a function or module to a compiled, loaded kernel."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from elastic_compile.backends import Backend, CompiledRegion, RegionSource
from elastic_runtime import engines, schema

RTOL, ATOL = 1e-3, 1e-4


class _Function(torch.nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> object:
        return self.function(*args)


def flat(result: object) -> tuple[torch.Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def tensor_type(value: torch.Tensor) -> schema.TensorType:
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return schema.TensorType(dtype=str(value.dtype).removeprefix("torch."), shape=shape)


def source(model: Callable, inputs: Sequence[torch.Tensor], dynamic: object = None,
           name: str = "region") -> RegionSource:
    module = model.eval() if isinstance(model, torch.nn.Module) else _Function(model).eval()
    if dynamic is not None and not isinstance(model, torch.nn.Module):
        dynamic = (tuple(dynamic),)
    with torch.no_grad():
        exported = torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic, strict=False)
    placeholders = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    given = [placeholders[key] for key in exported.graph_signature.user_inputs]
    made = [node.meta["val"] for node in exported.graph.output_node().args[0]]
    return RegionSource(name, exported, tuple(map(tensor_type, given)), tuple(map(tensor_type, made)))


def weights_of(region: CompiledRegion, exported: torch.export.ExportedProgram) -> dict[str, np.ndarray]:
    """The region's weights as the store gives them: compact and read-only."""
    tensors = {**exported.constants, **exported.state_dict}
    arrays = {name: np.ascontiguousarray(tensors[key].detach().numpy()) for name, key in region.weights.items()}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def described(region: CompiledRegion) -> schema.Region:
    return schema.Region(
        name=region.name, engine=region.engine, files={role: role for role in region.payload},
        inputs=region.inputs, outputs=region.outputs, options=dict(region.options), ops=region.ops,
        weights=tuple(schema.WeightUse(name=name, tensor=key) for name, key in region.weights.items()))


def load(region: CompiledRegion, exported: torch.export.ExportedProgram, threads: int = 1) -> engines.Kernel:
    engine = engines.factory(region.engine)()
    files = {role: memoryview(data) for role, data in region.payload.items()}
    return engine.load(described(region), files, weights_of(region, exported), engines.EngineOptions(threads))


def compiled(backend: Backend, model: Callable, inputs: Sequence[torch.Tensor],
             dynamic: object = None) -> engines.Kernel:
    made = source(model, inputs, dynamic)
    return load(backend.compile([made])[0], made.exported)


def differences(kernel: engines.Kernel, model: Callable, inputs: Sequence[torch.Tensor]) -> list[str]:
    """What the kernel's outputs for `inputs` do not share with eager's; empty when they are equal."""
    with torch.no_grad():
        expected = [tensor.detach().numpy() for tensor in flat(model(*[tensor.clone() for tensor in inputs]))]
    found = kernel([tensor.numpy() for tensor in inputs])
    problems = [] if len(found) == len(expected) else [f"{len(found)} outputs, expected {len(expected)}"]
    for index, (given, wanted) in enumerate(zip(found, expected, strict=False)):
        if given.dtype != wanted.dtype or given.shape != wanted.shape:
            problems.append(f"output {index} is {given.dtype}{given.shape}, expected {wanted.dtype}{wanted.shape}")
        elif wanted.dtype.kind in "fc":
            if not np.allclose(given, wanted, rtol=RTOL, atol=ATOL, equal_nan=True):
                problems.append(f"output {index} differs by {np.nanmax(np.abs(given - wanted))}")
        elif not np.array_equal(given, wanted):
            problems.append(f"output {index} is {given.ravel()[:16]}, expected {wanted.ravel()[:16]}")
    return problems

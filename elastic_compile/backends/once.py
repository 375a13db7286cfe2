"""A backend that compiles equal regions once, over several compilations.

In: a backend. Out: a backend of the same name and engine. Never: takes two regions for equal whose operations, types
or weights differ in any way.

The subnets of a family have layers in common; a region that is equal in two of them is compiled for the first only.
"""
from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree

from elastic_compile.backends.protocol import Backend, CompiledRegion, Progress, RegionSource


class Once:
    """`backend`, with a memory of what it compiled. `compiled` and `remembered` count regions."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name, self.engine, self.native = backend.name, backend.engine, backend.native
        self.compiled = self.remembered = 0
        self._made: dict[object, tuple[CompiledRegion, tuple[str, ...]]] = {}
        self._digests: dict[object, tuple[torch.Tensor, str]] = {}

    def require(self) -> None:
        self.backend.require()

    def compile(self, regions: Sequence[RegionSource], progress: Progress | None = None) -> list[CompiledRegion]:
        """Compile those of `regions` that are new. Raises as the backend does."""
        keys = [self._key(source) for source in regions]
        new = {key: source for key, source in zip(keys, regions) if key not in self._made}
        for key, source, made in zip(new, new.values(), self.backend.compile(list(new.values()), progress)):
            self._made[key] = made, tuple(source.exported.state_dict)
        self.compiled += len(new)
        self.remembered += len(regions) - len(new)
        return [_as(*self._made[key], source) for key, source in zip(keys, regions)]

    def _key(self, source: RegionSource) -> object:
        numbers: dict[torch.fx.Node, int] = {}

        def leaf(value: Any) -> object:
            if isinstance(value, torch.fx.Node):
                return "node", numbers[value]
            return type(value).__name__, value.hex() if isinstance(value, float) else str(value)

        parts: list[object] = [source.inputs, source.outputs]
        for node in source.exported.graph.nodes:
            flat, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
            parts.append((node.op, str(node.target) if node.op == "call_function" else "", tuple(map(leaf, flat)),
                          str(spec), _type(node.meta.get("val"))))
            numbers[node] = len(numbers)
        parts.append(tuple(self._digest(t) for t in source.exported.state_dict.values()))
        parts.append(tuple((name, self._digest(t)) for name, t in source.exported.constants.items()
                           if isinstance(t, torch.Tensor)))
        return tuple(parts)

    def _digest(self, tensor: torch.Tensor) -> str:
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        if where not in self._digests:
            data = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            digest = hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy()).hexdigest()
            # Keeping the tensor keeps its address from being another one's.
            self._digests[where] = tensor, f"{tensor.dtype}{list(tensor.shape)}{digest}"
        return self._digests[where][1]


def _type(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return str([_type(item) for item in value])
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}{list(value.stride())}"
    return type(value).__name__


def _as(made: CompiledRegion, weights: tuple[str, ...], source: RegionSource) -> CompiledRegion:
    """`made`, compiled of an equal region whose weights had the names `weights`, for `source`."""
    names = dict(zip(weights, source.exported.state_dict))
    return dataclasses.replace(
        made, name=source.name, weights={key: names.get(weight, weight) for key, weight in made.weights.items()})

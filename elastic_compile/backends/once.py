"""A backend that compiles equal regions once, over several compilations.

In: a backend. Out: a backend of the same name and engine. Never: takes two regions for equal whose operations, types
or weights differ in any way.

The subnets of a family have layers in common; a region that is equal in two of them is compiled for the first only.
"""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from elastic_compile.backends.protocol import Backend, CompiledRegion, Progress, RegionSource
from elastic_compile.backends.structure import handed_on, structure


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
        keys = [structure(source, self._digest) for source in regions]
        new = {key: source for key, source in zip(keys, regions) if key not in self._made}
        for key, source, made in zip(new, new.values(), self.backend.compile(list(new.values()), progress)):
            self._made[key] = made, tuple(source.exported.state_dict)
        self.compiled += len(new)
        self.remembered += len(regions) - len(new)
        return [handed_on(*self._made[key], source) for key, source in zip(keys, regions)]

    def _digest(self, tensor: torch.Tensor) -> str:
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        if where not in self._digests:
            data = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            digest = hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy()).hexdigest()
            # Keeping the tensor keeps its address from being another one's.
            self._digests[where] = tensor, f"{tensor.dtype}{list(tensor.shape)}{digest}"
        return self._digests[where][1]

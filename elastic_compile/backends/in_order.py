"""Several backends as one: each region is compiled by the first of them that takes it.

In: backends, best first. Out: a backend whose compiled regions may be of different engines, which a bundle may hold
side by side. Never: passes over an error that names no region, or what the last backend refuses.
"""
from __future__ import annotations

from collections.abc import Sequence

from elastic_compile.backends.protocol import Backend, CompiledRegion, Progress, RegionSource
from elastic_compile.errors import BackendError


class InOrder:
    """`backends`, at least one. Its name is theirs, with commas."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = tuple(backends)
        self.name = ",".join(backend.name for backend in backends)
        self.engine = ",".join(dict.fromkeys(backend.engine for backend in backends))
        self.native = any(backend.native for backend in backends)

    def require(self) -> None:
        for backend in self.backends:
            backend.require()

    def compile(self, regions: Sequence[RegionSource], progress: Progress | None = None) -> list[CompiledRegion]:
        """Raises as the last backend does, for what all of them refuse."""
        made: dict[str, CompiledRegion] = {}
        for place, backend in enumerate(self.backends):
            left = [source for source in regions if source.name not in made]
            last = place == len(self.backends) - 1
            taken = backend.compile(left, progress) if last else _taken(backend, left, progress)
            made.update((one.name, one) for one in taken)
        return [made[source.name] for source in regions]


def _taken(backend: Backend, regions: Sequence[RegionSource], progress: Progress | None) -> list[CompiledRegion]:
    """Those of `regions` that `backend` compiles."""
    left = list(regions)
    while left:
        try:
            return backend.compile(left, progress)
        except BackendError as error:
            if not {source.name for source in left} & set(error.regions):
                raise
            left = [source for source in left if source.name not in error.regions]
    return []

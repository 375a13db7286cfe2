"""What a backend takes and gives: static regions in, compiled regions out.

In: `RegionSource`, a region as an `ExportedProgram` of functional ATen operations on tensors.
Out: `CompiledRegion`, the artifact as bytes by role, its ports, and which weights it reads by which name.
Never: writes a file, knows a front end, or decides how regions are formed.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch.export import ExportedProgram

from elastic_runtime import schema

#: Called as `progress(done, total, region_name)` before each region and once at the end.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class RegionSource:
    """One region to compile.

    `name` is unique in a program and an identifier. `exported` is a functional ATen graph whose user
    inputs and outputs are all tensors, in the order of `inputs` and `outputs`; a dimension that is a
    string there is known only at run time.
    """

    name: str
    exported: ExportedProgram
    inputs: tuple[schema.TensorType, ...]
    outputs: tuple[schema.TensorType, ...]


@dataclass(frozen=True)
class CompiledRegion:
    """One compiled region.

    `payload` maps a role to the artifact's bytes (regions may share equal bytes: the bundle stores them
    once). `weights` maps a name in the artifact to a key of `exported.state_dict` or
    `exported.constants`. `options` are plain strings for the engine. `ops` counts the operators that
    are left after the backend's own optimisation.
    """

    name: str
    engine: str
    payload: Mapping[str, bytes]
    inputs: tuple[schema.Port, ...]
    outputs: tuple[schema.Port, ...]
    weights: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)
    ops: int = 0


@runtime_checkable
class Backend(Protocol):
    """A compiler of regions.

    `name` is what the user asks for; `engine` is the runtime engine that executes the result;
    `native` says that the artifact is machine code, which a loader runs only when its caller opts in.
    """

    name: str
    engine: str
    native: bool

    def require(self) -> None:
        """Raise `BackendUnavailable`, naming the pip extra to install, when a dependency is missing."""
        ...

    def compile(
        self, regions: Sequence[RegionSource], progress: Progress | None = None
    ) -> list[CompiledRegion]:
        """Compile `regions`, in order. Raises `BackendError` naming the region and the operator."""
        ...

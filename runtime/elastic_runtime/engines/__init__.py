"""Engines: what runs a compiled region.

In: a region, the verified bytes of its files, its weights as arrays that view the mapped weight file.
Out: a kernel, called with the region's input arrays, in the order of its ports, and giving its outputs.
Never: opens a file of the bundle, imports a module that the bundle names, or picks an engine by itself.

An engine is created once per loaded model by its factory (most often its class), so whatever its regions
share (thread pool, allocator, library handle) lives in the engine object. The built-in engines are imported
when a bundle first asks for them. An installed package adds one through the entry-point group
`elastic_runtime.engines` (name = engine name, object = factory); installed packages are trusted, and a
bundle can only name an engine.
"""
from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from elastic_runtime.errors import EngineMissing
from elastic_runtime.schema import Region

ENTRY_POINTS = "elastic_runtime.engines"

Kernel = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Called with one array per input port; gives one array per output port that nothing else writes to later.
Inputs have the dtype and rank of their ports, are C-contiguous, aligned, in native byte order, and may be
read-only; outputs must be C-contiguous. An exception comes out as `ExecutionError` with the region's name.

A kernel may have an attribute `around`: called with a function that wraps a callable, it gives the same kernel with
the engine's own run call wrapped, so that profiling tells that call from the kernel's Python lines around it.

A kernel may have an attribute `into`: called with the input arrays and, per output, an array to write it to or None,
it gives the outputs, where those arrays are themselves. The arrays have the declared dtype and shape and are
C-contiguous; no input shares memory with them."""


@dataclass(frozen=True)
class EngineOptions:
    """What holds for all engines of a loaded model. `threads`: intra-op threads, at least 1. `bundle`: SHA-256 of the
    bundle's manifest, in hex; "" for regions that belong to none. `cache`: a directory where an engine may keep what
    it makes of that bundle, made private where it is missing; None for nothing kept."""

    threads: int = 1
    bundle: str = ""
    cache: Path | None = None


@dataclass(frozen=True)
class Part:
    """One region to load: what `Engine.load` gets."""

    region: Region
    files: Mapping[str, memoryview]
    weights: Mapping[str, np.ndarray]


class Engine(Protocol):
    """One engine instance serves all regions of one loaded model."""

    name: ClassVar[str]
    native: ClassVar[bool]
    """True when the engine runs machine code out of the bundle, which needs `allow_native=True`."""

    def load(self, region: Region, files: Mapping[str, memoryview], weights: Mapping[str, np.ndarray],
             options: EngineOptions) -> Kernel:
        """Make `region` ready to run.

        `files` maps the region's roles to the read-only bytes whose hash was verified; `weights` maps names in
        the compiled artifact to read-only arrays, whose dtype and shape the store declares. Both stay valid as
        long as the kernel lives (the kernel must keep a reference to what it uses). An array is in C order; for an
        engine whose attribute `strided` is true it may be any view of a stored tensor, and is then not copied.

        Raises `BundleError` for an artifact that is malformed, forbidden or does not have the region's ports, and
        `EngineMissing` when the engine's own packages are absent.
        """
        ...

    # An engine may have a method `prepare(parts: Sequence[Part], options: EngineOptions) -> None`, which is called
    # once, with all regions that it will load, before the first `load`. It raises as `load` does.


class Factory(Protocol):
    """Makes an engine. `native` is readable without making one."""

    native: bool

    def __call__(self) -> Engine: ...


_BUILT_IN = {
    "onnxruntime": ("elastic_runtime.engines.onnxruntime", "OnnxRuntimeEngine"),
    "tvm": ("elastic_runtime.engines.tvm", "TvmEngine"),
}
_registered: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> None:
    """Add an engine for this process; a later registration of the same name replaces the earlier one."""
    _registered[name] = factory


def unregister(name: str) -> None:
    """Take back a registration; unknown names are ignored."""
    _registered.pop(name, None)


def known() -> tuple[str, ...]:
    """Names of all engines that can be asked for, importable or not."""
    return tuple(sorted({*_BUILT_IN, *_registered, *(point.name for point in entry_points(group=ENTRY_POINTS))}))


def factory(name: str) -> Factory:
    """The factory of engine `name`: registered here, built in, or from an installed package, in this order.

    Raises `EngineMissing` when there is none or its module does not import.
    """
    if name in _registered:
        return _registered[name]
    try:
        if name in _BUILT_IN:
            module, attribute = _BUILT_IN[name]
            return getattr(importlib.import_module(module), attribute)
        for point in entry_points(group=ENTRY_POINTS):
            if point.name == name:
                return point.load()
    except ImportError as error:
        hint = "Install elastic-runtime[tvm]" if name == "tvm" else ""
        raise EngineMissing(name, known(), str(error), hint) from error
    raise EngineMissing(name, known())


def is_native(made_by: Factory) -> bool:
    """Whether the engine needs the caller's consent. One that does not say counts as native."""
    return bool(getattr(made_by, "native", True))

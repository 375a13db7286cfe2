"""Compilers of regions, behind one small protocol (`protocol.Backend`).

In: a backend's name. Out: the backend. Never: imports a backend that was not asked for.

An installed package adds one through the entry-point group `elastic_compile.backends`: the entry point's name is
the backend's, its object a class or function that makes it. A built-in name cannot be taken over.
"""
from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from elastic_compile.backends.in_order import InOrder
from elastic_compile.backends.protocol import Backend, CompiledRegion, RegionSource
from elastic_compile.errors import BackendUnavailable

__all__ = ["ENTRY_POINTS", "Backend", "CompiledRegion", "RegionSource", "get", "installed"]

ENTRY_POINTS = "elastic_compile.backends"

_BUILT_IN = {
    "onnxruntime": ("elastic_compile.backends.onnxruntime", "OnnxRuntimeBackend"),
    "tvm": ("elastic_compile.backends.tvm", "TvmBackend"),
}


def installed() -> tuple[str, ...]:
    """Names of all backends that can be asked for."""
    return tuple(sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))}))


def get(name: str) -> Backend:
    """The backend `name`, ready to compile; of several names with commas, such as "tvm,onnxruntime", the one that has
    each region compiled by the first that takes it.

    Raises `BackendUnavailable` when there is none of that name, it does not import, or a package it needs is
    missing.
    """
    if "," in name:
        return InOrder([get(one.strip()) for one in name.split(",")])
    try:
        if name in _BUILT_IN:
            module, attribute = _BUILT_IN[name]
            backend = getattr(importlib.import_module(module), attribute)()
        else:
            points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
            if name not in points:
                raise BackendUnavailable(
                    f"there is no backend {name!r}",
                    reason=f"the backends installed here are {', '.join(installed())}",
                    hint="name one of them, or install the package that provides it "
                         f"(entry-point group {ENTRY_POINTS})")
            backend = points[name].load()()
    except ImportError as error:
        raise BackendUnavailable(f"the backend {name!r} cannot be imported", reason=str(error)) from error
    backend.require()
    return backend

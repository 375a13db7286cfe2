"""Fixtures of the runtime's tests: the NumPy engine is registered for each test and taken back after it."""
from __future__ import annotations

import pytest

import elastic_runtime as er
from elastic_runtime import engines
from tests.runtime.handmade import NativeEngine, NumpyEngine, Unmarked, write_bundle


@pytest.fixture(autouse=True)
def numpy_engine():
    """The engine class; its `loaded` and `called` start empty."""
    for name, made in ((NumpyEngine.name, NumpyEngine), (NativeEngine.name, NativeEngine), ("unmarked", Unmarked)):
        engines.register(name, made)
    NumpyEngine.loaded.clear()
    NumpyEngine.called.clear()
    yield NumpyEngine
    for name in (NumpyEngine.name, NativeEngine.name, "unmarked"):
        engines.unregister(name)


@pytest.fixture
def load(tmp_path):
    """Write a program as a bundle and load it: `load(program, weights, **options of er.load)`."""
    made = []

    def write_and_load(program, weights=None, *, calls=(), tensors=None, files=None, parts=None, others=None,
                       **options):
        path = write_bundle(tmp_path / f"bundle{len(made)}.elastic", program, weights or {}, calls=calls,
                            tensors=tensors or {}, files=files or {}, parts=parts or {}, others=others or {})
        made.append(path)
        return er.load(path, **options)

    return write_and_load

"""Finding engines by name: registered, built in, or from an installed package."""
from __future__ import annotations

import sys

import pytest

from elastic_runtime import engines
from elastic_runtime.errors import EngineMissing
from tests.runtime.handmade import NativeEngine, NumpyEngine, Unmarked


def test_registered_engines_come_first_and_can_be_taken_back():
    assert engines.factory("numpy-test") is NumpyEngine
    engines.register("onnxruntime", NumpyEngine)
    try:
        assert engines.factory("onnxruntime") is NumpyEngine
    finally:
        engines.unregister("onnxruntime")
    assert engines.factory("onnxruntime") is not NumpyEngine
    engines.unregister("never-registered")


def test_an_engine_is_native_unless_it_says_otherwise():
    assert [engines.is_native(made) for made in (NumpyEngine, NativeEngine, Unmarked)] == [False, True, True]
    assert not engines.is_native(engines.factory("onnxruntime"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with two engines, one of which does not import."""
    (tmp_path / "other_engine.py").write_text("class Other:\n    name = 'other'\n    native = False\n")
    info = tmp_path / "other_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{engines.ENTRY_POINTS}]\nother = other_engine:Other\nbroken = no_such_module:Engine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("other_engine", None)


def test_installed_packages_bring_engines(package):
    assert engines.factory("other").name == "other"
    assert {"other", "broken", "onnxruntime", "tvm"} <= set(engines.known())


def test_an_engine_that_does_not_import_says_why(package):
    with pytest.raises(EngineMissing, match="no_such_module"):
        engines.factory("broken")


def test_an_unknown_engine_lists_those_there_are():
    with pytest.raises(EngineMissing, match="onnxruntime") as caught:
        engines.factory("none")
    assert caught.value.engine == "none" and "entry-point group" in str(caught.value)

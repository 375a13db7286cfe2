"""The layers hold, the runtime stands alone, and the guard that says so can fail."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"

ONE_WAY = "Data goes one way"
RUNTIME = "The runtime knows neither the compiler nor PyTorch"
BACKEND = "A backend knows no front end"
TORCHLESS = "Looking at a program and writing a bundle need no PyTorch"


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(root), str(root / "runtime")])
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"], cwd=root, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": path})


def test_the_contracts_hold():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "elastic_compile", root / "elastic_compile", ignore=ignore)
    shutil.copytree(ROOT / "runtime", root / "runtime", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.mark.parametrize(("file", "line", "broken"), [
    ("runtime/elastic_runtime/model.py", "import torch", RUNTIME),
    ("runtime/elastic_runtime/schema.py", "def late():\n    import elastic_compile.errors", RUNTIME),
    ("elastic_compile/program/ir.py", "import elastic_compile.backends", ONE_WAY),
    ("elastic_compile/capture/symbols.py", "import elastic_compile.api", ONE_WAY),
    ("elastic_compile/backends/protocol.py", "import elastic_compile.rewrite", BACKEND),
    ("elastic_compile/inspect/text.py", "import torch", TORCHLESS),
])
def test_the_guard_sees_an_import_that_is_not_allowed(copy, file, line, broken):
    kept = (copy / file).read_text()
    try:
        (copy / file).write_text(f"{kept}\n{line}\n")
        done = lint(copy)
    finally:
        (copy / file).write_text(kept)
    assert done.returncode != 0
    assert any(broken in text and text.endswith("BROKEN") for text in done.stdout.splitlines()), done.stdout


def test_the_guard_sees_a_package_without_a_place(copy):
    (copy / "elastic_compile" / "misc.py").write_text("")
    try:
        done = lint(copy)
    finally:
        (copy / "elastic_compile" / "misc.py").unlink()
    assert done.returncode != 0 and "misc" in done.stdout + done.stderr


def test_the_runtime_imports_where_there_is_no_compiler_and_no_torch():
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "elastic_compile", "onnx", "tvm", "safetensors", "rich", "typer"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import importlib, pkgutil, elastic_runtime
for module in pkgutil.walk_packages(elastic_runtime.__path__, "elastic_runtime."):
    if module.name != "elastic_runtime.engines.tvm":
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_the_compiler_does_not_import_torch():
    code = "import sys, elastic_compile; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_the_top_level_is_what_it_should_be():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    top = {name.partition("/")[0] for name in listed}
    allowed = {"pyproject.toml", "README.md", "elastic_compile", "runtime", "tests", "device_profiles", "examples",
               "Makefile", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} <= allowed

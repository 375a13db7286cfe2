"""The command line's tests run in one process, but for those that look at the process itself."""
from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from elastic_compile.bundle import write
from elastic_compile.cli.app import app
from tests.programs import scalar_parts

GATED = Path(__file__).with_name("gated.py")


@pytest.fixture
def cli():
    def run(*arguments: object, status: int = 0):
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)), prog_name="elastic-compile")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result
    return run


@pytest.fixture
def scalar(tmp_path) -> Path:
    write(tmp_path / "scalar.elastic", scalar_parts())
    return tmp_path / "scalar.elastic"


@pytest.fixture(scope="session")
def gated(tmp_path_factory) -> Path:
    """The bundle of `gated.py:factory`."""
    bundle = tmp_path_factory.mktemp("gated") / "gated.elastic"
    result = CliRunner().invoke(app, ["compile", f"{GATED}:factory", "-o", str(bundle)])
    assert result.exit_code == 0, result.output
    return bundle

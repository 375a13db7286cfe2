"""`elastic-compile explain`."""
from __future__ import annotations

import pytest
from typer.testing import CliRunner

from elastic_compile.cli.app import app
from elastic_compile.refusals import CATALOGUE


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_is_explained(code):
    result = CliRunner().invoke(app, ["explain", code.lower()])
    assert result.exit_code == 0
    for part in (code, CATALOGUE[code].reason, CATALOGUE[code].hint):
        assert part in result.output


def test_without_a_code_all_are_listed():
    result = CliRunner().invoke(app, ["explain"])
    assert result.exit_code == 0 and all(code in result.output for code in CATALOGUE)


def test_an_unknown_code_is_wrong_usage():
    result = CliRunner().invoke(app, ["explain", "EC999"])
    assert result.exit_code == 2 and "EC999" in result.output

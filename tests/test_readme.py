"""What the README shows is what happens."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples" / "quickstart.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)


def test_the_example_is_the_file():
    assert blocks("python")[0] == QUICKSTART.read_text()


def test_the_example_prints_what_the_readme_says(tmp_path):
    done = subprocess.run(
        [sys.executable, str(QUICKSTART)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == blocks("text")[0]


def test_the_commands_exist():
    from elastic_compile.cli.app import app

    named = set(re.findall(r"^elastic-compile (\w+)", blocks("text")[1], re.M))
    assert named == {command.name for command in (*app.registered_commands, *app.registered_groups)}


def test_the_map_names_what_is_there():
    section = (ROOT / "README.md").read_text().partition("## Map of the code")[2]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    assert len(rows) > 8
    for row in rows:
        base = ROOT
        for name in re.findall(r"`(.*?)`", row):
            place = ROOT / name if (ROOT / name).exists() else base / name
            assert place.exists(), name
            base = place.parent


def test_the_test_command_is_what_ci_runs():
    command = re.search(r"^(make test)\b", blocks("sh")[0], re.M)[1]
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith(f"exec {command}")

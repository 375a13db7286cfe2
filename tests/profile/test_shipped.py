"""The tables in device_profiles/ are whole, and say what they are of."""
from __future__ import annotations

from pathlib import Path

import pytest

from elastic_runtime import latency_table as lt

FOLDER = Path(__file__).parents[2] / "device_profiles"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_table(path):
    table = lt.load(path)
    assert len(table.entries) > 20 and {"dispatch", "region"} <= {entry.kind for entry in table.entries}
    assert all(entry.timing is not None for entry in table.entries)
    assert f"-{table.environment.threads}-thread" in path.stem and table.environment.backend in path.stem
    assert bool(table.device.emulation) == path.stem.endswith("sse4")


def test_there_are_four():
    assert len(list(FOLDER.glob("*.json"))) == 4


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_most_of_a_shipped_table_was_taken_on_a_quiet_machine(path):
    entries = lt.load(path).entries
    assert sum(lt.NOISY in entry.flags for entry in entries) <= len(entries) / 4

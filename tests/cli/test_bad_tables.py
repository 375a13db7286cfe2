"""A table that is no table, through every command that reads one: refused by name and rule, and left as it was."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import elastic_runtime as er
from elastic_runtime import latency_table as lt
from elastic_runtime.cli import main as elastic_run
from tests.cli.test_profile import ELASTIC
from tests.profile.tables import DEVICE, entry, small

TARGET = f"{ELASTIC}:factory"


def timing(name: str, value: object):
    def change(plain: dict) -> None:
        plain["entries"][0]["timing"][name] = value
    return change


CHANGES = {
    "negative": (timing("median_ms", -1.0), "latency"),
    "zero": (timing("median_ms", 0.0), "latency"),
    "not a number": (timing("median_ms", float("nan")), "latency"),
    "infinite": (timing("high_ms", float("inf")), "latency"),
    "no value": (lambda plain: plain["entries"][0]["timing"].update(median_ms=None, mean_ms=None), "missing"),
    "no timing": (lambda plain: plain["entries"][0].pop("timing"), "timing"),
    "no unit": (lambda plain: plain.pop("unit"), "unit"),
    "another unit": (lambda plain: plain.update(unit="us"), "unit"),
    "foreign": (lambda plain: (plain.clear(), plain.update(blocks={"conv": 1.5})), "format"),
    "newer": (lambda plain: plain.update(version=99), "version"),
}


@pytest.fixture
def good(tmp_path) -> Path:
    lt.save(small(), tmp_path / "good.json")
    return tmp_path / "good.json"


@pytest.fixture(params=[*CHANGES, "interrupted", "empty"])
def bad(request, good, tmp_path) -> tuple[Path, str]:
    path, raw = tmp_path / "bad.json", good.read_bytes()
    if request.param in ("interrupted", "empty"):
        path.write_bytes(raw[:len(raw) // 2] if request.param == "interrupted" else b"")
        return path, "json-syntax"
    change, rule = CHANGES[request.param]
    plain = json.loads(raw)
    change(plain)
    path.write_text(json.dumps(plain))
    return path, rule


def test_every_command_refuses_it_and_leaves_it_as_it_was(cli, good, bad, tmp_path):
    path, rule = bad
    before, files = path.read_bytes(), sorted(tmp_path.iterdir())
    commands = [
        ("profile", "diff", path, good), ("profile", "diff", good, path), ("profile", "csv", path),
        ("profile", "merge", good, path, "-o", tmp_path / "new.json"),
        ("profile", TARGET, "--device", "here", "-o", path),
        ("search", TARGET, "--device", path, "-o", tmp_path / "front.json"),
        ("build", TARGET, "--device", path, "--budgets-ms", "5", "-o", tmp_path / "family.elastic")]
    for command in commands:
        said = " ".join(cli(*command, status=1).output.split())
        assert "bad.json" in said.replace(" ", "") and rule in said, (command, said)
    assert path.read_bytes() == before and sorted(tmp_path.iterdir()) == files


def test_the_runtime_alone_refuses_it_too(gated, bad, capsys):
    path, rule = bad
    before = path.read_bytes()
    assert elastic_run(["profile", str(gated), "--device", "here", "-o", str(path)]) == 2
    said = capsys.readouterr().err
    assert "bad.json" in said and rule in said
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [
    {"backend": "tvm"}, {"version": "0.0.1"}, {"threads": 2}], ids=lambda change: next(iter(change)))
def test_build_refuses_a_table_of_another_setting(cli, tmp_path, change):
    from elastic_runtime import profiler

    environment = profiler.environment("onnxruntime", 1)
    other = lt.Environment(**{"backend": environment.backend, "version": environment.version, "threads": 1, **change})
    lt.save(lt.table(DEVICE, other, [entry("a")]), tmp_path / "other.json")
    said = cli("build", TARGET, "--device", tmp_path / "other.json", "--budgets-ms", "5", "-o",
               tmp_path / "family.elastic", status=1).output
    assert next(iter(change)) in said and "insist" in said
    assert not (tmp_path / "family.elastic").exists()


def test_a_missing_entry_is_no_zero(good):
    table = lt.load(good)
    with pytest.raises(lt.MissingEntry, match="a measured entry for each part"):
        lt.total_ms(table, [table.entries[0].id, "f" * 64])
    assert issubclass(lt.MissingEntry, er.ElasticRuntimeError)

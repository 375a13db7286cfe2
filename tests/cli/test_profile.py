"""`elastic-compile profile`: tables of bundles and of elastic networks, and what is done with them."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import elastic_runtime as er
from elastic_compile.profile import measuring
from elastic_runtime import latency_table as lt
from elastic_runtime import profiler, subjects
from elastic_runtime.cli import main as elastic_run
from tests.cli.conftest import GATED
from tests.profile.tables import entry, small

ELASTIC = Path(__file__).with_name("elastic_mlp.py")
YAML = "Conv-input:4x4x3-output:2x2x8: {count: 50, mean: 2.5, std: 0.1}\n"


def kinds(table: lt.LatencyTable) -> list[str]:
    return sorted(one.kind for one in table.entries)


def test_a_bundle_becomes_a_table(cli, gated, tmp_path):
    path = tmp_path / "here.json"
    cli("profile", gated, "--device", "here", "--budget-s", 2, "-o", path)
    table = lt.load(path)
    assert kinds(table) == ["dispatch", *["region"] * 3, *["subnet"] * 2]
    assert table.device.name == "here" and table.environment.backend == "onnxruntime"
    subnets = [one for one in table.entries if one.kind == "subnet"]
    assert len({one.key for one in subnets}) == 2 and all(one.key.startswith("main @ 0-") for one in subnets)
    assert all(one.timing.ms > 0 and one.memory_bytes > 0 for one in subnets)
    assert not list(tmp_path.glob(".*.work")) or any(one.flags for one in table.entries)


def test_the_runtime_alone_gives_the_same_ids(cli, gated, tmp_path, capsys):
    cli("profile", gated, "--device", "here", "--budget-s", 1, "-o", tmp_path / "a.json")
    options = ["--device", "here", "--budget-s", "1", "-o", str(tmp_path / "b.json")]
    assert elastic_run(["profile", str(gated), *options]) == 0
    ours, theirs = ({one.id for one in lt.load(tmp_path / name).entries} for name in ("a.json", "b.json"))
    assert ours == theirs
    assert "6 entries" in capsys.readouterr().out


def test_the_runtimes_own_dispatch_is_what_the_compiler_makes(tmp_path):
    compiler = measuring.Compiler("onnxruntime", 1, tmp_path)
    made = measuring.dispatch(compiler)
    shipped = subjects.dispatch("onnxruntime")
    assert (made.id, made.key, made.kind) == (shipped.id, shipped.key, shipped.kind)
    mine, theirs = er.load(made.compile()), er.load(subjects._DISPATCH / "onnxruntime", self_test=True)
    assert mine.program.blocks == theirs.program.blocks and mine.program.values == theirs.program.values
    assert [one.files for one in mine.program.regions] == [one.files for one in theirs.program.regions]  # named by hash
    assert shipped.prepare()() == 1.0
    assert subjects.dispatch("an engine without one") is None


def test_a_factory_of_a_module(cli, tmp_path):
    cli("profile", f"{GATED}:factory", "--device", "here", "--budget-s", 1, "-o", tmp_path / "t.json")
    assert kinds(lt.load(tmp_path / "t.json")) == ["dispatch", *["region"] * 3, *["subnet"] * 2]


def test_an_elastic_network_by_parts_and_anchors(cli, tmp_path):
    path = tmp_path / "t.json"
    cli("profile", f"{ELASTIC}:factory", "--device", "here", "--anchors", 4, "--budget-s", 2, "--memory",
        "-o", path)
    table = lt.load(path)
    # nine positions of a layer, but only three distinct layers
    assert kinds(table) == ["dispatch", *["region"] * 3, *["subnet"] * 4]
    from tests.cli.elastic_mlp import factory
    elastic = factory()
    for anchor in (one for one in table.entries if one.kind == "subnet"):
        assert not elastic.space.problems(anchor.config) and anchor.memory_bytes > 0
        parts = {one.key: one.timing.ms for one in table.entries if one.kind == "region"}
        expected = sum(parts[part.key] for part in elastic.made_of(anchor.config))
        assert measuring.composed_ms(elastic, table, anchor.config) == pytest.approx(expected)


def test_going_on_measures_only_what_is_left(cli, gated, tmp_path):
    path = tmp_path / "t.json"
    cli("profile", gated, "--device", "here", "--budget-s", 1, "-o", path)
    table = lt.load(path)
    marked = lt.Entry(id=lt.content_id("region", {"of": "another bundle"}), key="kept", kind="region",
                      timing=table.entries[0].timing)
    lt.save(lt.table(table.device, table.environment, (*table.entries, marked)), path)
    cli("profile", gated, "--device", "here", "--budget-s", 1, "-o", path)
    again = lt.load(path)
    assert again.by_id()[marked.id] == marked
    for before in table.entries:
        if not before.flags:
            assert again.by_id()[before.id] == before


def test_a_table_of_other_settings_is_not_gone_on_with(cli, gated, tmp_path):
    path = tmp_path / "t.json"
    lt.save(small(), path)
    before = path.read_bytes()
    result = cli("profile", gated, "--device", "here", "--budget-s", 1, "-o", path, status=1)
    assert "TableMismatch" in result.output and path.read_bytes() == before


def test_an_interrupt_keeps_what_was_measured(cli, gated, tmp_path, monkeypatch):
    sample, calls = profiler._Run.sample, []

    def interrupted(run, untimed):
        calls.append(run)
        if len(calls) > 100:
            raise KeyboardInterrupt
        sample(run, untimed)
    monkeypatch.setattr(profiler._Run, "sample", interrupted)
    path = tmp_path / "t.json"
    said = cli("profile", gated, "--device", "here", "--precision", 0.0011, "-o", path, status=130).output
    assert len(lt.load(path).entries) == 6 and "the same command goes on with them" in said


def test_diff_merge_and_csv(cli, tmp_path):
    a, b, c = (tmp_path / f"{name}.json" for name in "abc")
    lt.save(small(entry("a", 1.0), entry("b", 2.0)), a)
    lt.save(small(entry("a", 1.0, seed=1), entry("b", 3.0), entry("c", 1.0)), b)
    result = cli("profile", "diff", a, b, "--json", tmp_path / "d.json", status=1)
    assert "1 slower" in result.output and "1 added" in result.output
    report = json.loads((tmp_path / "d.json").read_text())
    assert report["changes"][0]["key"] == "b" and report["changes"][0]["verdict"] == "slower"
    assert cli("profile", "diff", a, a).output.strip() == "2 same"
    cli("profile", "merge", a, b, "-o", c)
    assert {one.key for one in lt.load(c).entries} == {"a", "b", "c"}
    lines = cli("profile", "csv", c).output.splitlines()
    assert lines[0].startswith("id,kind,key,count,median_ms") and len(lines) == 4


def test_tables_of_different_devices_are_compared_only_when_told_to(cli, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    lt.save(small(), a)
    table = small()
    other = lt.Device(name="x", model="Other CPU", architecture="aarch64", cores=4)
    lt.save(lt.table(other, table.environment, table.entries), b)
    assert "device" in cli("profile", "diff", a, b, status=1).output
    with pytest.warns(lt.TableMismatchWarning):
        cli("profile", "diff", a, b, "--insist")


def test_import_of_once_for_alls_yaml(cli, tmp_path):
    (tmp_path / "lut.yaml").write_text(YAML)
    about = ["--device", "phone", "--model", "Exynos", "--architecture", "aarch64", "--cores", 8, "--backend", "tflite",
             "--version", "unknown"]
    cli("profile", "import", tmp_path / "lut.yaml", "--unit", "ms", *about, "-o", tmp_path / "t.json")
    (only,) = lt.load(tmp_path / "t.json").entries
    assert only.key.startswith("Conv-input") and only.timing.ms == 2.5
    (tmp_path / "lut.yaml").write_text(YAML.replace("2.5", "-2.5"))
    bad = cli("profile", "import", tmp_path / "lut.yaml", "--unit", "ms", *about, "-o", tmp_path / "u.json", status=1)
    assert "TableError" in bad.output and not (tmp_path / "u.json").exists()

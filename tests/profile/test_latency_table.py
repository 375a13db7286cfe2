"""A latency table is exactly what was measured, or an error that names the file and the rule."""
from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_runtime import latency_table as lt
from tests.profile.tables import DEVICE, ENVIRONMENT, entry, small

RUNTIME = Path(lt.__file__).parents[1]


def changed(raw: bytes, change) -> bytes:
    plain = json.loads(raw)
    change(plain)
    return json.dumps(plain).encode()


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "device.json"
    lt.save(small(), file)
    return file


def test_what_is_saved_is_loaded(tmp_path):
    table = small(
        entry("conv", 1.25, flags=("noisy",), memory_bytes=4096, energy_mj=1.5, measured="2026-01-02T03:04:05Z",
              conditions=lt.Conditions(governor="performance", frequency_mhz=3000.0, temperature_c=-3.5)),
        lt.Entry(id=lt.content_id("subnet", {"d": 2}), key="d=2", kind="subnet", config={"d": 2, "wide": True},
                 timing=lt.summarise([3.0, 3.1, 3.2], keep=True)),
        lt.Entry(id=lt.content_id("region", {"x": 1}), key="broken", kind="region", flags=(lt.FAILED,)))
    lt.save(table, tmp_path / "t.json")
    assert lt.load(tmp_path / "t.json") == table
    assert table.by_id()[table.entries[1].id].timing.samples_ms == (3.0, 3.1, 3.2)


def test_the_file_reads_without_the_compiler(path):
    done = subprocess.run(
        [sys.executable, "-c",
         f"import sys; sys.path.insert(0, {str(RUNTIME)!r})\n"
         "from elastic_runtime import latency_table as lt\n"
         f"print(len(lt.load({str(path)!r}).entries), 'torch' in sys.modules, 'elastic_compile' in sys.modules)"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.stdout.split() == ["2", "False", "False"]


def test_every_cut_of_the_file_is_refused(path):
    raw = path.read_bytes().rstrip()
    for length in range(0, len(raw), 7):
        with pytest.raises(lt.TableError) as caught:
            lt.parse(raw[:length], file="cut.json")
        assert caught.value.file == "cut.json" and caught.value.rule == "json-syntax"


@pytest.mark.parametrize(("change", "rule"), [
    (lambda t: t.update(format="something-else"), "format"),
    (lambda t: t.update(version=2), "version"),
    (lambda t: t.pop("unit"), "unit"),
    (lambda t: t.update(unit="s"), "unit"),
    (lambda t: t.update(comment="hello"), "json-schema"),
    (lambda t: t.pop("device"), "json-schema"),
    (lambda t: t["environment"].update(threads="one"), "json-schema"),
    (lambda t: t["environment"].update(threads=0), "count"),
    (lambda t: t["environment"]["conditions"].update(load=math.nan), "conditions"),
    (lambda t: t["entries"].append(t["entries"][0]), "duplicate-entry"),
    (lambda t: t["entries"][0].update(id="abc"), "id"),
    (lambda t: t["entries"][0].update(kind="layer"), "kind"),
    (lambda t: t["entries"][0].update(flags=["So Noisy!"]), "flag"),
    (lambda t: t["entries"][0].update(timing=None), "timing"),
    (lambda t: t["entries"][0].update(energy_mj=-1.0), "energy-mj"),
    (lambda t: t["entries"][0].update(energy_mj=0.0), "energy-mj"),
    (lambda t: t["entries"][0].update(memory_bytes=0), "memory-bytes"),
    (lambda t: t["environment"]["conditions"].update(frequency_mhz=0.0), "conditions"),
    (lambda t: t["entries"][0].pop("id"), "json-schema"),
    (lambda t: t["entries"][0]["timing"].pop("count"), "json-schema"),
    (lambda t: t.pop("entries"), "json-schema"),
    (lambda t: (t.clear(), t.update(layers=[{"name": "conv", "ms": 1.0}])), "format"),
    (lambda t: t["entries"][0]["timing"].update(median_ms=-1.0), "latency"),
    (lambda t: t["entries"][0]["timing"].update(median_ms=0.0), "latency"),
    (lambda t: t["entries"][0]["timing"].update(median_ms=math.nan), "latency"),
    (lambda t: t["entries"][0]["timing"].update(mean_ms=math.inf), "latency"),
    (lambda t: t["entries"][0]["timing"].update(median_ms=None, mean_ms=None), "missing"),
    (lambda t: t["entries"][0]["timing"].update(median_ms="1 ms"), "json-schema"),
    (lambda t: t["entries"][0]["timing"].update(count=0), "count"),
    (lambda t: t["entries"][0]["timing"].update(spread_ms=-0.1), "spread"),
    (lambda t: t["entries"][0]["timing"].update(high_ms=0.5), "interval"),
    (lambda t: t["entries"][0]["timing"].update(quantiles=[[90, 1.0], [10, 2.0]]), "quantiles"),
    (lambda t: t["entries"][0]["timing"].update(count=1, samples_ms=[1.0, 1.0]), "samples"),
])
def test_bad_content_is_refused_with_its_rule(path, change, rule):
    with pytest.raises(lt.TableError) as caught:
        lt.parse(changed(path.read_bytes(), change))
    assert caught.value.rule == rule
    assert "given" in str(caught.value) and "expected" in str(caught.value)


def test_a_repeated_key_is_refused(path):
    raw = path.read_bytes().replace(b'"unit": "ms"', b'"unit": "ms", "unit": "ms"')
    with pytest.raises(lt.TableError) as caught:
        lt.parse(raw)
    assert caught.value.rule == "json-duplicate-key"


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, math.inf])
def test_impossible_entries_can_be_marked_instead(path, value):
    raw = changed(path.read_bytes(), lambda t: t["entries"][0]["timing"].update(median_ms=value))
    table = lt.parse(raw, damaged="mark")
    assert table.entries[0].flags == (lt.INVALID,) and table.entries[0].timing is None
    assert table.entries[1].timing is not None
    with pytest.raises(lt.MissingEntry, match="invalid, no timing"):
        lt.total_ms(table, [table.entries[0].id])


def test_a_table_that_would_not_load_is_not_saved(path):
    before = path.read_bytes()
    bad = msgspec.structs.replace(small(), unit="s")
    with pytest.raises(lt.TableError):
        lt.save(bad, path)
    worse = msgspec.structs.replace(
        small(), entries=(entry("a", timing=lt.Timing(count=1, median_ms=math.nan)),))
    with pytest.raises(lt.TableError):
        lt.save(worse, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_save_that_is_stopped_leaves_the_old_table(path, monkeypatch, step):
    before = path.read_bytes()

    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(lt.os, step, stop)
    with pytest.raises(KeyboardInterrupt):
        lt.save(small(entry("new")), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_sums_count_each_part_and_never_a_missing_one():
    table = small()
    a, b = table.entries
    assert lt.total_ms(table, [a.id, b.id, a.id]) == pytest.approx(2 * a.timing.ms + b.timing.ms)
    with pytest.raises(lt.MissingEntry, match="no such entry"):
        lt.total_ms(table, [a.id, "0" * 64])


@pytest.mark.parametrize(("wanted", "rule"), [
    (lt.Wanted(device=msgspec.structs.replace(DEVICE, model="Other CPU")), "device"),
    (lt.Wanted(device=msgspec.structs.replace(DEVICE, emulation="half speed")), "device"),
    (lt.Wanted(backend="tvm"), "backend"),
    (lt.Wanted(version="1.33.0"), "version"),
    (lt.Wanted(threads=2), "threads"),
    (lt.Wanted(backend="tvm", threads=2), "backend-threads"),
])
def test_a_table_of_something_else_is_refused_or_warned_about(path, wanted, rule):
    with pytest.raises(lt.TableMismatch) as caught:
        lt.load(path, wanted=wanted)
    assert caught.value.rule == rule and "insist" in str(caught.value)
    with pytest.warns(lt.TableMismatchWarning, match="does not fit"):
        assert lt.load(path, wanted=wanted, insist=True) == lt.load(path)


def test_a_table_that_fits_is_accepted_whatever_its_name(path, recwarn):
    same = msgspec.structs.replace(DEVICE, name="another name", memory_bytes=1)
    lt.load(path, wanted=lt.Wanted(device=same, backend="onnxruntime", version="1.32.0", threads=1))
    assert not recwarn.list


def test_ids_depend_on_content_and_kind_alone():
    one = lt.content_id("region", {"graph": "ab", "shapes": [[1, 2]]})
    assert one == lt.content_id("region", {"shapes": [[1, 2]], "graph": "ab"})
    assert one != lt.content_id("region", {"graph": "ab", "shapes": [[2, 1]]})
    assert one != lt.content_id("subnet", {"graph": "ab", "shapes": [[1, 2]]})


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60))
def test_a_summary_is_a_valid_timing(samples):
    timing = lt.summarise(samples, keep=True)
    small(entry("x", timing=timing))
    assert timing.median_ms == pytest.approx(float(np.median(samples)))
    assert (timing.low_ms is None) == (len(samples) < 6)


def test_the_interval_of_the_median_covers_it():
    rng = np.random.default_rng(1)
    for count in (6, 20, 101):
        inside = 0
        for _ in range(600):
            timing = lt.summarise(rng.exponential(1.0, count) + 1e-9)
            inside += timing.low_ms <= math.log(2) <= timing.high_ms
        assert 0.92 <= inside / 600 < 1


@pytest.mark.parametrize("samples", [[], [1.0, -1.0], [math.nan], [0.0], [[1.0]]])
def test_impossible_samples_are_refused(samples):
    with pytest.raises(ValueError, match="positive finite"):
        lt.summarise(samples)


def test_merging_keeps_the_better_measurement():
    few, many = entry("a", 1.0, runs=10), entry("a", 1.0, runs=100, seed=1)
    noisy = entry("b", 2.0, runs=1000, flags=(lt.NOISY,))
    clean = entry("b", 2.0, runs=20, seed=2)
    failed = lt.Entry(id=few.id.replace(few.id[0], "0"), key="c", kind="region", flags=(lt.FAILED,))
    for merged in (lt.merge(small(few, noisy), small(many, clean, failed)),
                   lt.merge(small(many, clean, failed), small(few, noisy))):
        found = merged.by_id()
        assert found[few.id] == many and found[clean.id] == clean and found[failed.id] == failed


def test_merging_marks_what_moved_in_between():
    merged = lt.merge(small(entry("a", 1.0, runs=50)), small(entry("a", 1.2, runs=60, seed=1)))
    assert merged.entries[0].flags == (lt.UNSTABLE,)
    assert lt.merge(small(), small()) == small()


@pytest.mark.parametrize("other", [
    lt.table(msgspec.structs.replace(DEVICE, cores=4), ENVIRONMENT),
    lt.table(DEVICE, msgspec.structs.replace(ENVIRONMENT, threads=2)),
    lt.table(DEVICE, msgspec.structs.replace(ENVIRONMENT, settings={"graph": "off"})),
])
def test_tables_of_different_things_are_not_merged(other):
    with pytest.raises(lt.TableMismatch):
        lt.merge(small(), other)


def test_a_difference_tells_noise_from_change():
    before = small(entry("same", 1.0), entry("slower", 2.0), entry("faster", 3.0), entry("gone"),
                   entry("noisy", 1.0), entry("few", 1.0, runs=3))
    after = small(entry("same", 1.0, seed=9), entry("slower", 2.2, seed=9), entry("faster", 2.4, seed=9),
                  entry("new"), entry("noisy", 3.0, flags=(lt.NOISY,)), entry("few", 1.5, runs=3))
    changes = {change.key: change for change in lt.diff(before, after)}
    assert {key: change.verdict for key, change in changes.items()} == {
        "same": "same", "slower": "slower", "faster": "faster", "gone": "removed", "new": "added",
        "noisy": "unjudged", "few": "unjudged"}
    assert changes["slower"].ratio == pytest.approx(1.1, abs=0.01)
    assert changes["gone"].after_ms is None and changes["new"].before_ms is None
    ratios = [abs(math.log(change.ratio)) for change in lt.diff(before, after) if change.ratio]
    assert ratios == sorted(ratios, reverse=True)


def test_small_moves_are_the_same_unless_asked_for():
    before, after = small(entry("a", 1.0, runs=2000)), small(entry("a", 1.01, runs=2000, seed=1))
    assert lt.diff(before, after)[0].verdict == "same"
    assert lt.diff(before, after, tolerance=0.0)[0].verdict == "slower"


def test_csv_has_one_line_per_entry():
    table = small(entry("a,b", 1.0, flags=(lt.NOISY, "warm")), lt.Entry(
        id="0" * 64, key="c", kind="dispatch", flags=(lt.FAILED,)))
    rows = list(csv.DictReader(io.StringIO(lt.to_csv(table))))
    assert [row["key"] for row in rows] == ["a,b", "c"]
    assert float(rows[0]["median_ms"]) == table.entries[0].timing.ms and rows[0]["flags"] == "noisy warm"
    assert rows[1]["median_ms"] == "" and rows[1]["threads"] == "1"
    assert float(rows[0]["p90_ms"]) >= float(rows[0]["p10_ms"])

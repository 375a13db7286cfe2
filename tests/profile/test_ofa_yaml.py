"""Lookup tables that Once-for-All and ProxylessNAS users have come in whole, or not at all."""
from __future__ import annotations

import pytest

from elastic_compile.profile import read_ofa_yaml
from elastic_runtime import latency_table as lt
from examples.benchmarks.published import DATA

PHONE = lt.Device(name="Note10", model="Galaxy Note10", architecture="aarch64", cores=8)
TFLITE = lt.Environment(backend="tflite", version="unknown", threads=1)
GOOD = """Conv-input:4x4x3-output:2x2x8:
  count: 100
  mean: 0.5
  std: 0.01
Logits-input:1x1x8-output:10:
  mean: 0.25
"""


def read(tmp_path, text: str, unit="ms") -> lt.LatencyTable:
    file = tmp_path / "lut.yaml"
    file.write_text(text)
    return read_ofa_yaml(file, unit=unit, device=PHONE, environment=TFLITE)


def test_entries_keep_their_names_and_numbers(tmp_path):
    table = read(tmp_path, GOOD)
    conv, logits = table.entries
    assert conv.key == "Conv-input:4x4x3-output:2x2x8" and conv.timing.ms == 0.5 and conv.timing.count == 100
    assert conv.timing.median_ms is None and conv.timing.low_ms < 0.5 < conv.timing.high_ms
    assert logits.timing.ms == 0.25 and logits.timing.spread_ms is None and logits.timing.low_ms is None
    assert lt.total_ms(table, [conv.id, logits.id]) == 0.75


def test_the_unit_is_the_callers(tmp_path):
    assert read(tmp_path, GOOD, unit="us").entries[0].timing.ms == pytest.approx(0.0005)
    assert read(tmp_path, GOOD, unit="s").entries[0].timing.ms == pytest.approx(500.0)
    with pytest.raises(lt.TableError, match="does not say its unit"):
        read(tmp_path, GOOD, unit=None)


@pytest.mark.parametrize(("text", "rule"), [
    (GOOD.replace("0.5", "-0.5"), "latency"),
    (GOOD.replace("0.5", "0"), "latency"),
    (GOOD.replace("0.5", ".nan"), "latency"),
    (GOOD.replace("0.5", ".inf"), "latency"),
    (GOOD.replace("0.5", "fast"), "mean"),
    (GOOD.replace("  mean: 0.5\n", ""), "missing"),
    (GOOD.replace("count: 100", "count: many"), "count"),
    (GOOD.replace("  std: 0.01", "  std: 0.01\n  unit: ms"), "unknown-key"),
    (GOOD + GOOD, "yaml"),
    (GOOD.replace("mean: 0.25", "mean: 0.25\n  mean: 0.35"), "yaml"),
    ("a: &x\n  mean: 1.0\nb: *x\n", "yaml"),
    ("a: !!python/object/apply:os.getcwd []\n", "yaml"),
    ("a: [1, 2", "yaml"),
    ("", "yaml"),
    ("- 1\n- 2\n", "yaml"),
    ("a: 1.5\n", "block"),
])
def test_what_is_no_table_is_refused(tmp_path, text, rule):
    with pytest.raises(lt.TableError) as caught:
        read(tmp_path, text)
    assert caught.value.rule == rule


@pytest.mark.skipif(not (DATA / "latency/note10").is_dir(), reason="the published tables are not here")
@pytest.mark.parametrize("resolution", [160, 192, 224])
def test_published_tables_come_in_whole(tmp_path, resolution):
    table = read_ofa_yaml(DATA / f"latency/note10/{resolution}_lookup_table.yaml", unit="ms", device=PHONE,
                          environment=TFLITE)
    assert len(table.entries) == 96
    assert all(entry.timing.count >= 38 and entry.timing.spread_ms > 0 for entry in table.entries)
    lt.save(table, tmp_path / "note10.json")
    assert lt.load(tmp_path / "note10.json") == table

"""Choosing subnets by a table that the device does not keep to."""
from __future__ import annotations

import numpy as np
import pytest

from elastic_runtime import latency_table as lt
from elastic_runtime.errors import InputError, NoSubnetFits
from elastic_runtime.selection import Selector, Wish, fitting_table, path_key

MACHINE = lt.Device(name="bench", model="Some CPU", architecture="x86_64", cores=2)
ENVIRONMENT = lt.Environment(backend="onnxruntime", version="1.32.0", threads=1)
QUALITY = {"small": 70.0, "middle": 75.0, "large": 80.0}


def entry(key: str, ms: float, **more) -> lt.Entry:
    return lt.Entry(id=lt.content_id("subnet", {"key": key}), key=key, kind="subnet",
                    timing=lt.Timing(count=9, median_ms=ms), **more)


def table(*entries: lt.Entry) -> lt.LatencyTable:
    return lt.table(MACHINE, ENVIRONMENT, entries or (
        entry("small", 2.0, memory_bytes=10_000_000), entry("middle", 5.0, memory_bytes=20_000_000),
        entry("large", 10.0, memory_bytes=40_000_000)))


def selector(**more) -> Selector:
    return Selector(table(), QUALITY, **more)


@pytest.mark.parametrize(("wish", "expected"), [
    (Wish(latency_ms=20), "large"), (Wish(latency_ms=6), "middle"), (Wish(latency_ms=2), "small"),
    (Wish(memory_mb=25), "middle"), (Wish(latency_ms=20, memory_mb=10), "small"), (Wish(), "large"),
    (Wish(latency_ms=6, min_quality=75), "middle")])
def test_the_best_that_keeps_the_wish(wish, expected):
    assert selector().choose("small", wish) == expected


def test_none_fits():
    with pytest.raises(NoSubnetFits, match="small takes 2 ms") as caught:
        selector().choose("large", Wish(latency_ms=1))
    assert caught.value.nearest == "small"
    with pytest.raises(NoSubnetFits, match="middle takes 5 ms"):
        selector().choose("large", Wish(latency_ms=3, min_quality=75))
    with pytest.raises(NoSubnetFits, match="that memory and quality"):
        selector().choose("large", Wish(memory_mb=1))


@pytest.mark.parametrize("wish", [{"latency_ms": 0}, {"latency_ms": float("nan")}, {"memory_mb": -1}])
def test_wishes_that_make_no_sense(wish):
    with pytest.raises(InputError):
        Wish(**wish)


def test_a_subnet_without_an_entry_is_never_chosen():
    bare = Selector(table(entry("small", 2.0)), QUALITY)
    assert bare.choose("large", Wish(latency_ms=1000)) == "small"
    with pytest.raises(InputError, match="Profile this very bundle"):
        Selector(table(entry("another", 2.0)), QUALITY)
    failed = lt.Entry(id=lt.content_id("subnet", {"key": "f"}), key="large", kind="subnet", flags=(lt.FAILED,))
    assert Selector(table(entry("small", 2.0), failed), QUALITY).choose("small", Wish(latency_ms=99)) == "small"


def test_a_slow_device_corrects_all_subnets_and_recovers():
    s = selector()
    for _ in range(9):
        s.observe("large", (0,), 20.0)
    assert s.estimate_ms("small") == pytest.approx(4.0) and s.choose("large", Wish(latency_ms=12)) == "middle"
    s.observe("large", (0,), float("nan"))
    s.observe("unknown", (0,), 1.0)
    for _ in range(9):
        s.observe("middle", (0,), 5.0)
    assert s.choose("middle", Wish(latency_ms=12)) == "large"


def test_no_thrashing_at_the_edge():
    s, active, switches = selector(), "large", 0
    noise = np.random.default_rng(0)
    for _ in range(2000):
        s.observe(active, (0,), s.table_ms[active] * noise.normal(1.0, 0.03))
        chosen = s.choose(active, Wish(latency_ms=10.5))
        switches, active = switches + (chosen != active), chosen
    assert switches <= 2


def test_paths_of_a_dynamic_subnet_are_told_apart():
    s = Selector(table(entry(path_key("net", (0, 1), False), 1.0), entry(path_key("net", (0, 2), False), 8.0)),
                 {"net": None})
    assert s.estimate_ms("net") == 8.0
    s.observe("net", (0, 1), 1.5)
    assert s.scale == 1.5
    s.observe("net", (0, 3), 100.0)
    assert s.scale == 1.5
    assert len(path_key("net", range(500), False)) < 100


def test_the_table_has_to_be_of_this_device(tmp_path):
    path = tmp_path / "t.json"
    lt.save(table(), path)
    raw = {"t.json": path.read_bytes()}
    with pytest.raises(lt.TableMismatch, match="device"):
        fitting_table(raw, {"onnxruntime"}, 1, insist=False)
    with pytest.warns(lt.TableMismatchWarning):
        assert fitting_table(raw, {"onnxruntime"}, 1, insist=True) == table()
    with pytest.raises(InputError, match="without a latency table"):
        fitting_table({}, {"onnxruntime"}, 1, insist=True)
    with pytest.raises(lt.TableError):
        fitting_table({"t.json": raw["t.json"][:100]}, {"onnxruntime"}, 1, insist=True)

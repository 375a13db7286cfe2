"""Choosing subnets by a table that the device does not keep to; a controller under a load that comes and goes."""
from __future__ import annotations

import numpy as np
import pytest

from elastic_runtime import controller as controlling
from elastic_runtime import latency_table as lt
from elastic_runtime.controller import Controller
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


@pytest.mark.parametrize("wish", [{"latency_ms": 0}, {"latency_ms": float("nan")}, {"memory_mb": -1},
                                  {"percentile": 100}])
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


class Simulated:
    """A model whose calls take their table entry times `slow`, on a clock of its own."""

    subnets = tuple(QUALITY)
    threads = 1

    def __init__(self, monkeypatch) -> None:
        self.active = self.last_subnet = "small"
        self.slow, self.now, self.switched = 1.0, 0.0, []
        self.crowd = 1.0
        monkeypatch.setattr(controlling.device, "Crowd", lambda: self)
        self.noise = np.random.default_rng(0)
        self._selector = selector()
        monkeypatch.setattr(controlling, "perf_counter", lambda: self.now)

    def selector(self, *, insist: bool = False) -> Selector:
        return self._selector

    def share(self, threads: int) -> float:
        return self.crowd

    def switch(self, name: str) -> None:
        if name != self.active:
            self.switched.append(name)
        self.active = name

    def __call__(self) -> None:
        ms = self._selector.table_ms[self.active] * self.slow * self.noise.normal(1.0, 0.02)
        self.now += ms / 1e3
        self.last_subnet = self.active
        self._selector.observe(self.active, (0,), ms)


def serve(controller: Controller, requests: int) -> list[tuple[str, float]]:
    served = []
    for _ in range(requests):
        controller()
        served.append((controller.last.subnet, controller.last.latency_ms))
    return served


def test_the_controller_falls_and_climbs_with_the_load(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=12)
    assert {name for name, _ in serve(controller, 300)} == {"large"}
    model.slow = 2.0
    loaded = serve(controller, 300)
    assert all(name == "middle" and ms <= 12 for name, ms in loaded[20:])
    model.slow = 5.5
    assert all(name == "small" for name, _ in serve(controller, 300)[20:])
    model.slow = 1.0
    assert all(name == "large" for name, _ in serve(controller, 900)[700:])
    assert len(model.switched) < 12


def test_the_controller_sees_a_load_before_a_request_meets_it(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=12)
    serve(controller, 100)
    model.slow = model.crowd = 2.0
    assert serve(controller, 1) == [("middle", pytest.approx(10.0, rel=0.1))]
    model.slow = 1.0  # the small one is not slowed down: no reason to take the load for gone
    assert {name for name, _ in serve(controller, 300)} == {"middle"}
    model.crowd = 1.0
    assert serve(controller, 60)[-1][0] == "large"


def test_one_request_that_breaks_the_objective_is_enough(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=12)
    serve(controller, 100)
    model.slow = 2.0
    served = serve(controller, 100)
    assert served[0][0] == "large" and served[0][1] > 12
    assert all(name == "middle" and ms <= 12 for name, ms in served[1:])


def test_waiting_counts(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=12)
    controller(waited_ms=6.0)
    assert controller.last.subnet == "middle" and controller.last.latency_ms == pytest.approx(11.0, rel=0.1)


def test_the_controller_does_not_swing_at_the_edge(monkeypatch):
    model = Simulated(monkeypatch)
    model.noise = np.random.default_rng(1)
    controller = Controller(model, slo_ms=10.6)
    serve(controller, 5000)
    assert len(model.switched) < 15


def test_the_controller_keeps_the_fastest_when_nothing_holds(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=1.0)
    assert {name for name, _ in serve(controller, 50)} == {"small"}
    with pytest.raises(NoSubnetFits):
        Controller(model, slo_ms=10, min_quality=99)

"""A controller under loads that come and go, on a simulated clock: single cases, and random traces of load on which
every fixed subnet serves the same requests."""
from __future__ import annotations

import math

import numpy as np
import pytest

from elastic_runtime import controller as controlling
from elastic_runtime import latency_table as lt
from elastic_runtime.controller import Controller
from elastic_runtime.errors import InputError, NoSubnetFits
from elastic_runtime.selection import Selector

MACHINE = lt.Device(name="bench", model="Some CPU", architecture="x86_64", cores=2)
ENVIRONMENT = lt.Environment(backend="onnxruntime", version="1.32.0", threads=1)
QUALITY = {"small": 70.0, "middle": 75.0, "large": 80.0}
TABLE_MS = {"small": 2.0, "middle": 5.0, "large": 10.0}


def selector(table_ms: dict[str, float], quality: dict[str, float]) -> Selector:
    return Selector(lt.table(MACHINE, ENVIRONMENT, [
        lt.Entry(id=lt.content_id("subnet", {"key": name}), key=name, kind="subnet",
                 timing=lt.Timing(count=9, median_ms=ms)) for name, ms in table_ms.items()]), quality)


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
        self._selector = selector(TABLE_MS, QUALITY)
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
    for percentile in (49, 100, float("nan")):
        with pytest.raises(InputError, match="percentile"):
            Controller(model, slo_ms=10, percentile=percentile)


# ------------------------------------------------------------------------------- what misses cost, whatever happens
def test_trying_a_larger_subnet_costs_at_most_one_request_of_a_period(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=12)
    missed = []
    for slow in np.random.default_rng(0).choice([1.0, 1.5], size=6000, p=[0.9, 0.1]):
        model.slow = slow  # nothing tells it beforehand: the large one breaks the objective in a tenth of all cases
        controller()
        missed.append(controller.last.latency_ms > 12)
    misses = np.flatnonzero(missed)
    assert (np.diff(misses) >= 100).all() and 3 < len(misses) <= 15


def test_a_miss_under_load_bars_nothing_when_the_load_is_gone(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=28)
    assert {name for name, _ in serve(controller, 200)} == {"large"}
    model.crowd = 2.0
    model.slow = 2.9
    assert [name for name, _ in serve(controller, 2)] == ["large", "small"]  # half of the objective has to be enough
    model.slow = model.crowd = 1.0
    assert serve(controller, 60)[-1][0] == "large"
    model.crowd = 2.0
    assert serve(controller, 1)[0][0] == "middle"  # the larger one sits out, in a crowd


def test_a_stall_is_no_reason_for_a_smaller_subnet(monkeypatch):
    model = Simulated(monkeypatch)
    controller = Controller(model, slo_ms=45)

    def stalls(*gaps: int) -> set[str]:
        names: set[str] = set()
        for gap in gaps:
            model.slow = 6.0
            names |= {name for name, _ in serve(controller, 1)}
            model.slow = 1.0
            names |= {name for name, _ in serve(controller, gap)}
        return names

    assert serve(controller, 300)[0][0] == "large"
    assert stalls(150, 150, 150) == {"large"}
    assert "middle" in stalls(20, 20, 20)  # more of them than the percentile allows
    serve(controller, 2000)
    model.slow = 6.0
    assert [name for name, _ in serve(controller, 3)] == ["large", "large", "middle"]  # two in a row: it stays slow


# --------------------------------------------------------------------------------- random traces, every fixed subnet
FEATURES_MS = {"xs": 0.1, "s": 0.3, "m": 1.0, "l": 4.0}
RIGHT = {"xs": 85.0, "s": 92.0, "m": 95.0, "l": 97.0}
SLICE_MS = 3.0


class Traced:
    """A machine on which the same request is never faster with a larger subnet: calls take their table entry times the
    frequency's factor, wait for other threads where a slice of the scheduler ends, and stall now and then.

    Load comes and goes: of other threads, which `Crowd` sees, in three of ten cases only after the first request; or
    of a lower frequency, which it does not see."""

    subnets = tuple(RIGHT)
    threads = 1

    def __init__(self, monkeypatch, seed: int, requests: int) -> None:
        rng = np.random.default_rng(seed)
        self.crowds, self.seen, self.slow = np.ones((3, requests))
        at = int(rng.integers(50, 300))
        while at < requests:
            end = at + int(rng.integers(30, 400))
            if rng.integers(3) < 2:
                self.crowds[at:end] = 1 + rng.integers(1, 7)
                self.seen[at + int(rng.random() < 0.3):end] = self.crowds[at]
            else:
                self.slow[at:end] = rng.uniform(1.1, 5.0)
            at = end + int(rng.integers(30, 600))
        self.noise = np.exp(rng.normal(0, 0.05, requests))
        self.into_slice = np.where(rng.random(requests) < 0.03, rng.random(requests), 1.0)
        self.lost = rng.random((requests, 64)) < 0.7
        self.stall_at, self.stall_ms = rng.exponential(10_000, requests), rng.exponential(8, requests)
        self._selector = selector(FEATURES_MS, RIGHT)
        self.active, self.number, self.now, self.ran = "xs", 0, 0.0, False
        monkeypatch.setattr(controlling.device, "Crowd", lambda: self)
        monkeypatch.setattr(controlling, "perf_counter", lambda: self.now)

    def takes(self, name: str, number: int) -> float:
        work = FEATURES_MS[name] * self.slow[number] * self.noise[number]
        crowd = self.crowds[number]
        ends = math.ceil(max(0.0, work / SLICE_MS - self.into_slice[number])) if crowd > 1 else 0
        waits = self.lost[number, :ends].sum() * (crowd - 1) * SLICE_MS
        return float(work + waits + self.stall_ms[number] * (self.stall_at[number] < work))

    def selector(self, *, insist: bool = False) -> Selector:
        return self._selector

    def share(self, threads: int) -> float:
        return (self.crowds if self.ran else self.seen)[self.number]

    def switch(self, name: str) -> None:
        self.active = name

    @property
    def last_subnet(self) -> str:
        return self.active

    def __call__(self) -> None:
        ms = self.takes(self.active, self.number)
        self.now += ms / 1e3
        self.ran = True
        self._selector.observe(self.active, (0,), ms)


def windows(held: np.ndarray) -> int:
    """Stretches of 100 requests of which 99 are within the objective."""
    return int((held[:len(held) // 100 * 100].reshape(-1, 100).sum(axis=1) >= 99).sum())


@pytest.mark.parametrize("slack", [2.0, 3.0])
def test_the_objective_is_held_as_often_as_by_the_best_fixed_subnet_at_higher_quality(monkeypatch, slack):
    requests, slo = 3000, slack * FEATURES_MS["l"]
    ours = theirs = 0
    gained = []
    for seed in range(16):
        machine = Traced(monkeypatch, seed, requests)
        controller = Controller(machine, slo_ms=slo, percentile=99)
        held, quality = np.empty(requests, dtype=bool), np.empty(requests)
        for number in range(requests):
            machine.number, machine.ran = number, False
            controller()
            held[number], quality[number] = controller.last.latency_ms <= slo, RIGHT[controller.last.subnet]
        fixed = {name: np.array([machine.takes(name, number) for number in range(requests)]) <= slo for name in RIGHT}
        holding = [name for name in RIGHT if fixed[name].mean() >= 0.99]
        assert holding and "l" not in holding
        best = max(holding, key=RIGHT.__getitem__)
        assert held.mean() >= 0.99, seed
        ours, theirs = ours + windows(held), theirs + windows(fixed[best])
        gained.append(quality.mean() - RIGHT[best])
    assert ours >= theirs
    assert min(gained) > -0.05 and np.mean(gained) > 0.5

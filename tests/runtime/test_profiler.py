"""The profiler on a made-up clock: what is measured, how often, and what is said about it."""
from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from elastic_runtime import device, profiler
from elastic_runtime import latency_table as lt
from elastic_runtime.errors import InputError
from elastic_runtime.profiler import Settings, Subject, measure

MACHINE = lt.Device(name="bench", model="Some CPU", architecture="x86_64", cores=2)
ENVIRONMENT = lt.Environment(backend="onnxruntime", version="1.32.0", threads=1)


class Clock:
    """Time that goes on only where a subject runs."""

    def __init__(self, monkeypatch) -> None:
        self.seconds, self.order = 0.0, []
        monkeypatch.setattr(profiler, "perf_counter", lambda: self.seconds)
        monkeypatch.setattr(profiler, "perf_counter_ns", lambda: round(self.seconds * 1e9))
        monkeypatch.setattr(device.Others, "share", lambda others: 0.0)

    def subject(self, key: str, ms, kind: str = "region", **more) -> Subject:
        """`ms`: the latency, or an iterator of latencies."""
        series = iter(ms) if not isinstance(ms, float) else itertools.repeat(ms)

        def call() -> None:
            self.order.append(key)
            self.seconds += next(series) / 1e3
        return Subject(lt.content_id(kind, {"graph": key}), key, kind, lambda: call, **more)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_each_distinct_subject_once(clock):
    outcome = measure([clock.subject("a", 1.0), clock.subject("b", 2.0), clock.subject("a", 1.0)], MACHINE, ENVIRONMENT)
    assert {entry.key: entry.timing.ms for entry in outcome.table.entries} == pytest.approx({"a": 1.0, "b": 2.0})
    assert all(entry.flags == () and entry.measured for entry in outcome.table.entries)
    assert not outcome.failed and not outcome.left and not outcome.stopped


def test_rounds_are_interleaved(clock):
    measure([clock.subject("a", 1.0), clock.subject("b", 1.0)], MACHINE, ENVIRONMENT, Settings(least=40))
    after_warm_up = clock.order[4:]
    two_rounds = 2 * 2 * (1 + Settings().untimed)
    assert {"".join(after_warm_up[i:i + two_rounds]).count("a") for i in range(0, 300, two_rounds)} == {two_rounds // 2}


def test_what_others_drove_out_of_the_caches_is_not_timed(clock):
    def cold_after_another() -> Iterator[float]:
        while True:
            yield 3.0 if clock.order[-2:-1] != ["a"] else 1.0

    outcome = measure([clock.subject("a", cold_after_another()), clock.subject("b", 1.0)], MACHINE, ENVIRONMENT)
    assert {entry.key: entry.timing.ms for entry in outcome.table.entries} == pytest.approx({"a": 1.0, "b": 1.0})


def test_repeats_until_the_interval_is_narrow(clock):
    noise = np.random.default_rng(0)
    steady = clock.subject("steady", 1.0)
    rough = clock.subject("rough", (noise.lognormal(0, 0.1) for _ in range(99999)))
    outcome = measure([steady, rough], MACHINE, ENVIRONMENT, Settings(budget_s=60))
    counts = {entry.key: entry.timing.count for entry in outcome.table.entries}
    assert counts["steady"] < 15 < 60 < counts["rough"]
    for entry in outcome.table.entries:
        assert entry.timing.high_ms - entry.timing.low_ms <= 0.04 * entry.timing.ms and not entry.flags


def test_what_does_not_settle_in_time_is_noisy_and_measured_again(clock):
    noise = np.random.default_rng(0)
    rough = clock.subject("rough", (noise.lognormal(0, 1.0) for _ in range(99999)))
    outcome = measure([rough], MACHINE, ENVIRONMENT, Settings(budget_s=0.05))
    (entry,) = outcome.table.entries
    assert entry.flags == (lt.NOISY,) and outcome.left == ("rough",)
    again = measure([clock.subject("rough", 3.0)], MACHINE, ENVIRONMENT, known=outcome.table)
    assert again.table.entries[0].flags == () and again.table.entries[0].timing.ms == pytest.approx(3.0)


def test_others_on_the_cores_are_noise(clock, monkeypatch):
    monkeypatch.setattr(device.Others, "share", lambda others: 0.3)
    outcome = measure([clock.subject("a", 1.0)], MACHINE, ENVIRONMENT)
    assert outcome.table.entries[0].flags == (lt.NOISY,)


def test_drift_is_noise(clock):
    slowing = (1.0 if step < 80 else 1.2 for step in itertools.count())
    outcome = measure([clock.subject("a", slowing)], MACHINE, ENVIRONMENT, Settings(least=30, precision=0.01))
    assert outcome.table.entries[0].flags == (lt.NOISY,)


def test_short_calls_are_timed_together(clock):
    measure([clock.subject("short", 0.001)], MACHINE, ENVIRONMENT, Settings(least=10))
    assert len(clock.order) > 10 * 50


def test_a_failure_is_marked_and_the_rest_goes_on(clock):
    def broken():
        raise RuntimeError("no such kernel")
    bad = Subject(lt.content_id("region", {"graph": "bad"}), "bad", "region", broken)
    outcome = measure([bad, clock.subject("a", 1.0)], MACHINE, ENVIRONMENT)
    entries = {entry.key: entry for entry in outcome.table.entries}
    assert entries["bad"].timing is None and entries["bad"].flags == (lt.FAILED,)
    assert entries["a"].timing is not None
    assert outcome.failed == {"bad": "RuntimeError: no such kernel"}


def test_a_budget_that_ends_leaves_the_rest_for_the_next_time(clock):
    subjects = [clock.subject(f"s{number}", 10.0) for number in range(8)]
    first = measure(subjects, MACHINE, ENVIRONMENT, Settings(budget_s=0.3, together=2))
    measured = {entry.key for entry in first.table.entries}
    assert measured and set(first.left) == {subject.key for subject in subjects} - measured
    clock.order.clear()
    second = measure(subjects, MACHINE, ENVIRONMENT, known=first.table)
    assert len(second.table.entries) == 8 and not set(clock.order) & measured


def test_what_has_no_time_yet_comes_before_what_is_noisy(clock, monkeypatch):
    monkeypatch.setattr(device.Others, "share", lambda others: 0.3)
    first = measure([clock.subject("noisy", 1.0)], MACHINE, ENVIRONMENT)
    clock.order.clear()
    measure([clock.subject("noisy", 1.0), clock.subject("new", 1.0)], MACHINE, ENVIRONMENT, Settings(together=1),
            known=first.table)
    assert clock.order[0] == "new" and clock.order[-1] == "noisy"


def test_a_stop_loses_no_finished_entry(clock):
    def interrupted():
        for _ in range(5):
            yield 1.0
        raise KeyboardInterrupt
    subjects = [clock.subject("a", 1.0), clock.subject("b", 1.0), clock.subject("stopped", interrupted()),
                clock.subject("after", 1.0)]
    saved = []
    outcome = measure(subjects, MACHINE, ENVIRONMENT, Settings(together=2), save=saved.append)
    assert outcome.stopped and set(outcome.left) == {"stopped", "after"}
    assert {entry.key for entry in saved[-1].entries} == {"a", "b"}
    assert outcome.table == saved[-1]


def test_going_on_with_another_machines_table_is_refused(clock):
    other = lt.table(lt.Device(name="other", model="Other CPU", architecture="x86_64", cores=2), ENVIRONMENT)
    with pytest.raises(lt.TableMismatch, match="device"):
        measure([clock.subject("a", 1.0)], MACHINE, ENVIRONMENT, known=other)
    with pytest.raises(InputError):
        measure([clock.subject("a", 1.0)], MACHINE, ENVIRONMENT, Settings(budget_s=0))


def test_memory_is_what_the_subject_says(clock):
    outcome = measure([clock.subject("a", 1.0, memory=lambda: 12345), clock.subject("b", 1.0)], MACHINE, ENVIRONMENT)
    assert [entry.memory_bytes for entry in outcome.table.entries] == [12345, None]
    assert [entry.energy_mj for entry in outcome.table.entries] == [None, None] or device.Energy().available

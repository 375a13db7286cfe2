"""Evaluations are made once, survive a stop, and run in several processes."""
from __future__ import annotations

import json

import pytest

from elastic_compile.profile import Integer, Space
from elastic_compile.search import CacheError, EvaluationError, Limit, Objective, Problem, search
from elastic_compile.search.evaluation import Cache, Evaluator
from tests.search.problems import SPACE, failing, problem, quality, slow_and_logged


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "calls.log"
    path.touch()
    monkeypatch.setenv("ELASTIC_TEST_LOG", str(path))
    return path


@pytest.mark.parametrize("method", ["exhaustive", "nsga2", "guided"])
def test_a_search_that_was_stopped_goes_on_where_it_was(tmp_path, method):
    cache, budget = tmp_path / "cache.jsonl", SPACE.size() if method == "exhaustive" else 45
    calls = []

    def counted(configuration):
        calls.append(configuration)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return quality(configuration)

    with pytest.raises(KeyboardInterrupt):
        search(problem(evaluate=counted), budget, method=method, cache=cache)
    resumed = search(problem(evaluate=counted), budget, method=method, cache=cache)
    assert resumed.account.cached == 29
    assert len(calls) == 30 + resumed.account.evaluations - resumed.account.cached
    assert resumed.evaluated == search(problem(), budget, method=method).evaluated


def test_every_cut_of_the_cache_loses_one_line_at_most(tmp_path):
    cache = tmp_path / "cache.jsonl"
    search(problem(), 12, method="nsga2", cache=cache)
    raw = cache.read_bytes()
    header = raw.index(b"\n") + 1
    for length in range(header, len(raw), 11):
        cache.write_bytes(raw[:length])
        with Cache(SPACE, ("quality",), cache) as opened:
            assert len(opened) == raw[:length].count(b"\n") - 1
        assert cache.read_bytes() == raw[:raw[:length].rfind(b"\n") + 1]
    cache.write_bytes(raw[:header // 2])
    with Cache(SPACE, ("quality",), cache) as opened:
        assert len(opened) == 0
    assert cache.read_bytes() == raw[:header]


def test_a_cache_of_something_else_is_refused_and_left_alone(tmp_path):
    cache = tmp_path / "cache.jsonl"
    search(problem(), 5, method="nsga2", cache=cache)
    before = cache.read_bytes()
    with pytest.raises(CacheError, match="different: objectives"):
        Cache(SPACE, ("accuracy",), cache)
    with pytest.raises(CacheError, match="different: space"):
        Cache(Space((Integer("a", 0, 1),)), ("quality",), cache)
    assert cache.read_bytes() == before
    foreign = tmp_path / "notes.txt"
    foreign.write_text("my notes\n")
    with pytest.raises(CacheError, match="no cache"):
        Cache(SPACE, ("quality",), foreign)
    assert foreign.read_text() == "my notes\n"


@pytest.mark.parametrize("line", [
    "{", "[]", '{"key":"a","values":{"quality":NaN},"seconds":1}', '{"key":"a","values":{"other":1},"seconds":1}',
    '{"key":"a","values":{"quality":"high"},"seconds":1}', '{"values":{"quality":1},"seconds":1}'])
def test_a_damaged_line_is_named(tmp_path, line):
    cache = tmp_path / "cache.jsonl"
    search(problem(), 5, method="nsga2", cache=cache)
    with open(cache, "a") as file:
        file.write(line + "\n")
    with pytest.raises(CacheError, match="line 7"):
        Cache(SPACE, ("quality",), cache)


def test_a_cache_serves_one_search_at_a_time(tmp_path):
    with (Cache(SPACE, ("quality",), tmp_path / "c.jsonl"), pytest.raises(CacheError, match="another search")):
        Cache(SPACE, ("quality",), tmp_path / "c.jsonl")
    with Cache(SPACE, ("quality",), tmp_path / "c.jsonl"):
        pass


def test_what_finished_before_a_failure_is_kept(tmp_path):
    cache = tmp_path / "cache.jsonl"
    with pytest.raises(EvaluationError):
        search(problem(evaluate=failing), 200, method="nsga2", cache=cache)
    kept = [json.loads(line) for line in cache.read_text().splitlines()[1:]]
    assert kept and all(entry["configuration"]["width"] != 3 for entry in kept)
    resumed = search(problem(), 200, method="nsga2", cache=cache)
    assert resumed.account.cached == len(kept)


@pytest.mark.slow
def test_several_processes_give_the_same_search(log, tmp_path):
    alone = search(problem(), 60, method="nsga2")
    shared = search(problem(evaluate=slow_and_logged), 60, method="nsga2", workers=2, cache=tmp_path / "c.jsonl")
    assert shared.evaluated == alone.evaluated
    assert shared.account.evaluating_s >= 60 * 0.02
    assert len(set(log.read_text().split())) == 2 and len(log.read_text().split()) == 60


@pytest.mark.slow
def test_a_failure_in_another_process_is_told_and_the_rest_kept(tmp_path):
    cache = tmp_path / "cache.jsonl"
    with pytest.raises(EvaluationError, match="out of memory"):
        search(problem(evaluate=failing), 60, method="nsga2", workers=2, cache=cache)
    assert len(cache.read_text().splitlines()) > 10


def test_the_account_adds_up():
    limited = Problem(SPACE, problem().objectives, quality, (Limit("cost", most=60.0),))
    with Cache(SPACE, ("quality",)) as cache, Evaluator(limited, 10, cache) as evaluator:
        drawn = list(SPACE.enumerate())[:200]
        found = evaluator.evaluate([*drawn, *drawn])
        assert evaluator.account.evaluations == 10 == len([c for c in found if c is not None]) / 2
        assert evaluator.remaining == 0 and evaluator.account.cached == 0
        assert evaluator.account.ruled_out == sum(
            limited.objectives[0].estimate([c]).value[0] > 60 for c in drawn)
        assert evaluator.evaluate(drawn[:10]) == found[:10]
        assert evaluator.account.evaluations == 10


def test_an_objective_of_one_is_enough():
    single = Problem(SPACE, (Objective("quality", maximise=True),), quality)
    found = search(single, SPACE.size())
    assert len(found.front) == 1
    with pytest.raises(ValueError, match="two objectives"):
        found.draw("nowhere.png")

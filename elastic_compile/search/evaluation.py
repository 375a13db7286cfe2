"""Evaluating subnets: each once, kept on disk, in several processes, and accounted for.

In: a problem and configurations. Out: candidates, an account of what was spent.
Never: loses a finished evaluation, or evaluates what the limits rule out by prediction.

The cache is a JSON-lines file: a header naming the space and the measured objectives, then one line per
evaluation, written with one call and flushed to disk. A line that a stop cut off is dropped on the next opening.
"""
from __future__ import annotations

import fcntl
import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from elastic_compile.errors import CompileError
from elastic_compile.profile import Configuration, Space
from elastic_compile.search.problem import Candidate, EvaluationError, Problem

FORMAT = "elastic-evaluations"
VERSION = 1


class CacheError(CompileError):
    """A cache of evaluations is damaged, belongs to another search, or is in use."""

    code = "EC613"


@dataclass(frozen=True)
class Account:
    """What a search spent. `evaluations`: distinct subnets whose measured objectives it used, of which `cached` came
    from the cache; `ruled_out`: proposals dropped unevaluated because their prediction breaks a limit;
    `evaluating_s`: time inside `evaluate`, added over processes; `total_s`: time on the clock."""

    evaluations: int = 0
    cached: int = 0
    ruled_out: int = 0
    evaluating_s: float = 0.0
    total_s: float = 0.0


class Cache:
    """Evaluations on disk, or in memory without a path. Use it as a context manager."""

    def __init__(self, space: Space, measured: Sequence[str], path: str | os.PathLike[str] | None = None) -> None:
        """Open or create. Raises `CacheError`, OSError."""
        self._known: dict[str, tuple[dict[str, float], float]] = {}
        self._file: IO[bytes] | None = None
        if path is not None:
            self._open(Path(path), {
                "format": FORMAT, "version": VERSION, "objectives": list(measured),
                "space": hashlib.sha256(repr(space.decisions).encode()).hexdigest()})

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> tuple[dict[str, float], float] | None:
        """Values and seconds of an evaluated subnet."""
        return self._known.get(key)

    def put(self, key: str, configuration: Configuration, values: Mapping[str, float], seconds: float) -> None:
        """Keep an evaluation; durable when this returns."""
        self._known[key] = dict(values), seconds
        if self._file is not None:
            self._append({"key": key, "configuration": dict(configuration), "values": dict(values),
                          "seconds": seconds})

    def _open(self, path: Path, header: dict) -> None:
        file = open(path, "a+b", buffering=0)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CacheError(f"{path} is used by another search",
                                 hint="wait for it, or give another cache") from None
            file.seek(0)
            raw = file.read()
            whole = raw[:raw.rfind(b"\n") + 1]
            file.truncate(len(whole))
            self._file = file
            lines = whole.splitlines()
            if not lines:
                self._append(header)
                return
            self._check(path, lines[0], header)
            for number, line in enumerate(lines[1:], start=2):
                self._read(path, number, line, header["objectives"])
        except BaseException:
            file.close()
            self._file = None
            raise

    def _check(self, path: Path, line: bytes, header: dict) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise CacheError(f"{path} is no cache of evaluations", hint="give another path")
        different = sorted(name for name in header if found.get(name) != header[name])
        if different:
            raise CacheError(f"{path} belongs to another search", reason=f"different: {', '.join(different)}",
                             hint="give another path, or search the same space for the same objectives")

    def _read(self, path: Path, number: int, line: bytes, objectives: Sequence[str]) -> None:
        try:
            entry = json.loads(line)
            values, seconds = entry["values"], float(entry["seconds"])
            if sorted(values) != sorted(objectives) or not all(map(math.isfinite, values.values())):
                raise ValueError("values are not the measured objectives")
            self._known[str(entry["key"])] = {name: float(value) for name, value in values.items()}, seconds
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"{path}, line {number}, is damaged", reason=str(error),
                             hint="remove that line, or start with another cache") from None

    def _append(self, entry: dict) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        os.fsync(self._file.fileno())


class Evaluator:
    """Turns configurations into candidates, at most `budget` distinct ones. Use it as a context manager."""

    def __init__(self, problem: Problem, budget: int, cache: Cache, workers: int = 1) -> None:
        self.problem = problem
        self.budget = budget
        self.candidates: dict[str, Candidate] = {}
        self._cache = cache
        self._account = Account()
        self._started = time.perf_counter()
        self._pool = None
        if workers > 1 and problem.measured:
            self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def remaining(self) -> int:
        return self.budget - self._account.evaluations

    @property
    def account(self) -> Account:
        return replace(self._account, total_s=time.perf_counter() - self._started)

    def evaluate(self, configurations: Sequence[Configuration], *,
                 whatever_the_limits: bool = False) -> list[Candidate | None]:
        """A candidate for each configuration; None for one that the limits rule out by prediction, unless told to
        evaluate it all the same, or that the budget does not cover any more.

        Raises `EvaluationError`; what finished before it is kept."""
        problem = self.problem
        configurations = [problem.space.canonical(configuration) for configuration in configurations]
        keys = [problem.space.key(configuration) for configuration in configurations]
        estimates = problem.estimates(configurations)
        allowed = (problem.violations(estimates, len(keys)) <= 0) | whatever_the_limits
        wanted: dict[str, int] = {}
        ruled_out = set()
        for row, key in enumerate(keys):
            if not allowed[row]:
                ruled_out.add(key)
            elif key not in self.candidates and key not in wanted and len(wanted) < self.remaining:
                wanted[key] = row
        measured = self._measured({key: configurations[row] for key, row in wanted.items()})
        for key, row in wanted.items():
            values, bounds = dict(measured[key]), {}
            for name, estimate in estimates.items():
                values[name] = float(estimate.value[row])
                bounds[name] = float(estimate.low[row]), float(estimate.high[row])
            self.candidates[key] = Candidate(configurations[row], values, bounds)
        self._account = replace(
            self._account, evaluations=self._account.evaluations + len(wanted),
            ruled_out=self._account.ruled_out + len(ruled_out))
        return [self.candidates.get(key) for key in keys]

    def _measured(self, wanted: Mapping[str, Configuration]) -> dict[str, dict[str, float]]:
        if not self.problem.measured:
            return {key: {} for key in wanted}
        found, cached = {}, 0
        missing = {}
        for key, configuration in wanted.items():
            known = self._cache.get(key)
            if known is None:
                missing[key] = configuration
            else:
                found[key] = known[0]
                cached += 1
        self._account = replace(self._account, cached=self._account.cached + cached)
        task = (self.problem.evaluate, self.problem.measured)
        if self._pool is None:
            for key, configuration in missing.items():
                found[key] = self._keep(key, configuration, _evaluate(*task, configuration))
            return found
        futures = {self._pool.submit(_evaluate, *task, configuration): key for key, configuration in missing.items()}
        failed: EvaluationError | None = None
        for future in as_completed(futures):
            key = futures[future]
            try:
                found[key] = self._keep(key, missing[key], future.result())
            except EvaluationError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return found

    def _keep(self, key: str, configuration: Configuration,
              outcome: tuple[dict[str, float], float] | str) -> dict[str, float]:
        if isinstance(outcome, str):
            raise EvaluationError(f"evaluate failed for {dict(configuration)}", reason=outcome,
                                  hint="evaluations that finished are in the cache: search again to go on")
        values, seconds = outcome
        self._cache.put(key, configuration, values, seconds)
        self._account = replace(self._account, evaluating_s=self._account.evaluating_s + seconds)
        return values


def _evaluate(evaluate, measured: Sequence[str],
              configuration: Configuration) -> tuple[dict[str, float], float] | str:
    started = time.perf_counter()
    try:
        given = evaluate(dict(configuration))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    try:
        values = {name: float(given[name]) for name in measured}
    except (KeyError, TypeError, ValueError):
        return f"expected numbers for {', '.join(measured)}, given {given!r}"
    if not all(map(math.isfinite, values.values())):
        return f"expected finite numbers, given {given!r}"
    return values, time.perf_counter() - started

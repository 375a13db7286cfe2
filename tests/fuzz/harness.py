"""Runs one program in every form and says whether all of them did the same.

In: the source of a program. Out: an `Outcome`: equal, refused by a code, or wrong and how.
Never: compares where rounding decides: calls on which a decision was nearly taken the other way are left out.
"""
from __future__ import annotations

import contextlib
import copy
import importlib.util
import linecache
import signal
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.rewrite import Hooks
from tests.constructs import oracle
from tests.constructs.compare import Raised, difference, plain
from tests.constructs.eager_forced import Run
from tests.fuzz import torch_engine
from tests.fuzz.margins import Margins
from tests.rewrite.oracle import PoisonHooks, patched

MARGIN = 1e-4
EXAMPLES = 3
FORCED_PATHS = 12
#: Errors of the compiler that blame itself.
DEFECTS = frozenset({"EC401", "EC302", "EC900", "EC000"})
#: What programs raise on purpose.
EXPECTED = frozenset({"Exit", "Deep"})

_directory = tempfile.TemporaryDirectory(prefix="elastic-fuzz-")
_numbers = count()


@dataclass(frozen=True)
class Outcome:
    """What came of a program. `kind`: "equal", "refused", "wrong", "borderline" (no call was left to compare), "slow"
    (given up), "broken" (it fails in PyTorch by itself), "unaligned" (equal on all calls; a forced path could not be
    followed on both sides; "undecided": there were too many ways to do so). `code`: the refusal's, or which form went
    wrong: "rewritten", "compiled", "forced", or an error's name. `detail`: the difference, or the end of the
    traceback."""

    kind: str
    code: str = ""
    detail: str = ""

    @property
    def label(self) -> str:
        return f"{self.kind} {self.code}".strip()


class Slow(BaseException):
    """A program takes too long; not an Exception, so that no handler of the program catches it."""


class Broken(Exception):
    """The program itself is at fault, by its cause."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise Slow when so much of the processor's time is used, again and again: an exception in a callback of the
    collector is lost."""

    def stop(number: int, frame: Any) -> None:
        raise Slow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def loaded(source: str) -> Iterator[types.ModuleType]:
    """The program as an imported module with a file of its own."""
    name = f"fuzz_program_{next(_numbers)}"
    path = Path(_directory.name) / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        try:
            spec.loader.exec_module(module)
            module.make(), module.calls(), module.STATEFUL
        except Exception as error:
            raise Broken from error
        yield module
    finally:
        del sys.modules[name]
        linecache.cache.pop(str(path), None)
        path.unlink()


def run_eager(net: Any, call: Sequence[Any]) -> Any:
    """What PyTorch gives for the call."""
    try:
        with torch.no_grad():
            return plain(net(*copy.deepcopy(tuple(call))))
    except Exception as error:
        return Raised(type(error).__name__)


def results(module: types.ModuleType, calls: Sequence[Any]) -> list[Any]:
    """The results of the calls, in order, on one network."""
    net = module.make()
    return [run_eager(net, call) for call in calls]


def results_rewritten(module: types.ModuleType, calls: Sequence[Any], hooks: Hooks) -> list[Any]:
    with patched(module, hooks, skip=frozenset({"make", "calls"})):
        return results(module, calls)


def decided_calls(module: types.ModuleType) -> tuple[list[Any], list[Any]]:
    """The calls in which no decision is borderline, and what the rewritten program gives for them. Of a stateful
    program, those up to the first that is."""
    hooks = Margins()
    calls, given = [], []
    with patched(module, hooks, skip=frozenset({"make", "calls"})):
        net = module.make()
        for call in module.calls():
            hooks.smallest = float("inf")
            result = run_eager(net, call)
            if hooks.smallest >= MARGIN:
                calls.append(call)
                given.append(result)
            elif module.STATEFUL:
                break
    return calls, given


def first_difference(given: Sequence[Any], expected: Sequence[Any]) -> str:
    for number, (one, wanted) in enumerate(zip(given, expected, strict=True)):
        told = difference(one, wanted, f"call {number}")
        if told:
            return told
    return ""


def run_bundle(model: er.Model, calls: Sequence[Any]) -> list[Any]:
    """The bundle's results, all of them looked at only after the last call. Raises AssertionError when an argument has
    been changed."""
    given = []
    for call in calls:
        arrays = [leaf.numpy().copy() if isinstance(leaf, torch.Tensor) else leaf for leaf in call]
        try:
            given.append(model(*arrays))
        except er.ModelRaised as error:
            given.append(Raised(error.type))
        for array, leaf in zip(arrays, call):
            assert not isinstance(leaf, torch.Tensor) or np.array_equal(array, leaf.numpy()), "an argument was changed"
    return given


def compile_and_load(module: types.ModuleType, calls: Sequence[Any], backend: str) -> tuple[Any, er.Model]:
    compiled = ec.compile(module.make(), [copy.deepcopy(tuple(call)) for call in calls[:EXAMPLES]], backend=backend)
    with tempfile.TemporaryDirectory(dir=_directory.name) as directory:
        path = Path(directory) / "program.elastic"
        compiled.save(path)
        return compiled, er.load(path)


def check(
    source: str, *, onnxruntime: bool = False, forced: bool = True, poison: bool = False, seconds: float = 30.0,
    observe: Callable[[Any], None] = lambda compiled: None,
) -> Outcome:
    """Compare the program's forms. `onnxruntime`: regions are compiled, and the compiler verifies its work.
    `forced`: compare along forced paths too. `poison`: destroy dead variables in the rewritten form.
    `observe` receives the compiled program."""
    try:
        with at_most(seconds), loaded(source) as module:
            return _check(module, onnxruntime, forced, poison, observe)
    except Slow:
        return Outcome("slow")
    except Broken as error:
        return Outcome("broken", type(error.__cause__).__name__, str(error.__cause__))


def _check(module: types.ModuleType, onnxruntime: bool, forced: bool, poison: bool, observe: Any) -> Outcome:
    calls, rewritten = decided_calls(module)
    if not calls:
        return Outcome("borderline")
    expected = results(module, calls)
    for result in expected:
        if isinstance(result, Raised) and result.type not in EXPECTED:
            return Outcome("broken", result.type)
    told = first_difference(rewritten, expected)
    if not told and poison:
        told = first_difference(results_rewritten(module, calls, PoisonHooks()), expected)
    if told:
        return Outcome("wrong", "rewritten", told)
    with contextlib.nullcontext() if onnxruntime else torch_engine.installed():
        try:
            compiled, model = compile_and_load(
                module, calls, "onnxruntime" if onnxruntime else torch_engine.NAME)
            observe(compiled)
            told = first_difference(run_bundle(model, calls), expected)
            if told:
                return Outcome("wrong", "compiled", told)
            if forced:
                model.reset()
                check_forced(module, calls, compiled, model)
        except ec.CompileError as error:
            if error.code in DEFECTS:
                return Outcome("wrong", error.code, str(error) + "\n" + last_lines(error))
            return Outcome("refused", error.code, str(error))
        except oracle.Undecided as error:
            return Outcome("unaligned", "undecided", str(error))
        except oracle.Disagreement as error:
            if str(error).startswith("the compiled program "):
                return Outcome("unaligned", detail=str(error))
            return Outcome("wrong", "forced", str(error))
        except Exception as error:
            return Outcome("wrong", type(error).__name__, last_lines(error))
    return Outcome("equal")


class Forced(oracle.Oracle):
    """The oracle of forced paths for programs with many tests that nothing depends on."""

    def without_effect(self, session: Sequence[oracle.Arguments], at: int, run: Run) -> frozenset[int]:
        """The forced tests whose outcome changes nothing, however many tests follow from it."""
        places = [i for i, test in enumerate(run.tests) if test.kind == "free"]
        taken = [bool(run.tests[i].taken) for i in places]
        found = []
        for k, i in enumerate(places):
            if run.tests[i].taken != run.tests[i].natural:
                others = [self.last_run(session[: at + 1], (*taken[:k], not taken[k], *rest)) for rest in (
                    (), taken[k + 1:], taken[k + 2:], (False, *taken[k + 1:]), (True, *taken[k + 1:]))]
                if any(other is not None and not difference(other.result, run.result) for other in others):
                    found.append(i)
        return frozenset(found)


def check_forced(module: types.ModuleType, calls: Sequence[Any], compiled: Any, model: er.Model) -> None:
    """Compare along paths that the calls do not take. Raises `oracle.Disagreement`."""
    examples = calls[:EXAMPLES]
    session = oracle.arguments(module.make(), examples)
    both = Forced(
        lambda: (module.make(), examples), compiled.program, model, compiled.weights, module.STATEFUL)
    both.check(session, limit=FORCED_PATHS, guesses=2)


def last_lines(error: BaseException, lines: int = 8) -> str:
    return "\n".join("".join(traceback.format_exception(error)).strip().splitlines()[-lines:])

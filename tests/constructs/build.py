"""Compiles cases once per process, and makes further inputs for them.

In: a case. Out: its compiled program, saved and loaded with the runtime; its calls; random calls like them.
Never: catches an error: one that compilation raised is raised again to every test of the case.
"""
from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import elastic_compile as ec
import elastic_runtime as er
from elastic_runtime import schema
from tests.constructs import oracle
from tests.constructs.compare import Raised, plain
from tests.constructs.registry import Case

_directory = tempfile.TemporaryDirectory(prefix="elastic-constructs-")


class Stuck(BaseException):
    """A test does not end. Not an Exception, so that no handler of a program under test catches it."""


@dataclass(frozen=True)
class Built:
    """A case, compiled and loaded. `calls`: its own calls, as the compiler sees them."""

    case: Case
    compiled: ec.CompiledProgram
    model: er.Model
    calls: tuple[oracle.Arguments, ...]


def build(case: Case) -> Built:
    """The case compiled with ONNX Runtime; the same object, or the same error, every time."""
    result = _build(case)
    if isinstance(result, BaseException):
        raise result
    return result


@functools.cache
def _build(case: Case) -> Built | BaseException:
    try:
        return compile_case(case)
    except (Exception, Stuck) as error:
        return error


def compile_case(
    case: Case, chosen: Callable[[list[oracle.Arguments]], list[int]] | None = None, **options: Any
) -> Built:
    """Compile, save and load, with the factory's `options`; `chosen` picks the calls to compile for, by number."""
    target, calls = case.make(**options)
    if chosen is not None:
        calls = [calls[i] for i in chosen(oracle.arguments(target, calls))]
    compiled = ec.compile(target, calls, backend="onnxruntime")
    path = Path(_directory.name) / f"{case.name}{len(list(Path(_directory.name).iterdir()))}.elastic"
    compiled.save(path)
    return Built(case, compiled, er.load(path, host_ops=case.host_ops), tuple(oracle.arguments(*case.make(**options))))


def fewest(calls: list[oracle.Arguments]) -> list[int]:
    """The numbers of the calls that suffice to know the signatures: one per structure, and one more where a Python
    number varies."""
    kept: list[int] = []
    for i, call in enumerate(calls):
        alike = [calls[k] for k in kept if calls[k].entry == call.entry]
        numbers = [k for k, leaf in enumerate(call.leaves) if not isinstance(leaf, torch.Tensor)]
        known = [{other.leaves[k] for other in alike} for k in numbers]
        if not alike or any(len(seen) == 1 and call.leaves[k] not in seen for k, seen in zip(numbers, known)):
            kept.append(i)
    return kept


def forced(built: Built, program: schema.Program | None = None, model: er.Model | None = None) -> oracle.Oracle:
    """The oracle of forced paths for a case, or for another program in its place."""
    return oracle.Oracle(
        built.case.make, program or built.compiled.program, model or built.model, built.compiled.weights,
        built.case.sequence)


def eager(target: Any, call: oracle.Arguments) -> Any:
    """What PyTorch gives for the call, in the runtime's terms."""
    args, kwargs = call.plain()
    try:
        with torch.no_grad():
            return plain(target(*args, **kwargs))
    except Exception as error:
        return Raised(type(error).__name__)


def run(model: er.Model, call: oracle.Arguments) -> Any:
    """What the bundle gives for the call."""
    args, kwargs = call.plain()
    try:
        return model(*args, **kwargs)
    except er.ModelRaised as error:
        return Raised(error.type)
    except er.ExecutionError:
        return Raised("ExecutionError")


def random_calls(calls: Sequence[oracle.Arguments], count: int, seed: int = 0) -> list[oracle.Arguments]:
    """Calls of the same structures, shapes and dtypes: floats normal at several scales, integers and Python numbers
    within the range of those given."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        like = calls[i % len(calls)]
        alike = [call for call in calls if call.entry == like.entry]
        made.append(replace(like, leaves=tuple(
            _random(generator, [call.leaves[k] for call in alike], (0.5, 2.0, 8.0)[i % 3])
            for k in range(len(like.leaves)))))
    return made


def _random(generator: torch.Generator, given: list[Any], scale: float) -> Any:
    first = given[0]
    if not isinstance(first, torch.Tensor):
        low, high = min(given), max(given)
        drawn = torch.rand((), generator=generator).item()
        return low + (high - low) * drawn if isinstance(first, float) else low + round((high - low) * drawn)
    if first.dtype.is_floating_point:
        if all(float(one.min()) >= 0 and float(one.max()) < 1 for one in given):
            return torch.rand(first.shape, generator=generator, dtype=first.dtype)
        return torch.randn(first.shape, generator=generator, dtype=first.dtype) * scale
    stacked = torch.stack(given).to(torch.int64)
    drawn = torch.randint(int(stacked.min()), int(stacked.max()) + 1, first.shape, generator=generator)
    return drawn.to(first.dtype)

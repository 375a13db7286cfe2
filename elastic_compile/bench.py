"""A bundle against PyTorch, path by path, all of them interleaved in one run.

In: loaded models by name, and where known the module that they come from with example calls.
Out: per path one `Timing` for each contender, and the host's own time per dispatched region.
Never: times contenders one after the other, or drops one that is slow; one that fails is named with its reason.
"""
from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from elastic_runtime import Model
from elastic_runtime.bench import Timing, interleave
from elastic_runtime.prepared import Timed

Thunk = Callable[[], Any]
Path = tuple[int, ...]

EAGER, COMPILED = "eager", "torch.compile"
_RECOMPILATIONS = 64
_HOST_SAMPLES = 200
_HOST_CALLS = 5


@dataclass(frozen=True)
class PathTimings:
    """One path through the program. `call`: which of the calls took it first. `timings`: by contender.
    `host_us`: per model, the median time in µs that the host itself spends per dispatched region (everything in
    a call but the time inside the engines' run calls), None for a path without regions."""

    path: Path
    call: int
    timings: Mapping[str, Timing]
    host_us: Mapping[str, float | None]


@dataclass(frozen=True)
class Settings:
    """How long to measure: `warmup_ms` and at least `duration_s` seconds and `iterations` rounds per path."""

    warmup_ms: float = 200.0
    duration_s: float = 3.0
    iterations: int = 10
    percentiles: tuple[float, ...] = (50.0, 90.0, 99.0)


def reference_calls(model: Model) -> list[Thunk]:
    """The bundle's reference calls, each from the first state."""
    return [_from_reset(model, lambda entry=entry, inputs=inputs: model.call_flat(entry, inputs))
            for entry, inputs in model.reference_inputs()]


def example_calls(model: Model, calls: Sequence[tuple[tuple, dict[str, Any]]]) -> list[Thunk]:
    """Example calls (positional and keyword arguments, tensors or arrays) of `model`, tensors as NumPy arrays."""
    from torch.utils import _pytree as pytree

    def array(leaf: Any) -> Any:
        return leaf.detach().numpy() if hasattr(leaf, "detach") else leaf

    def thunk(args: tuple, kwargs: dict[str, Any]) -> Thunk:
        args, kwargs = pytree.tree_map(array, (args, kwargs))
        return _from_reset(model, lambda: model(*args, **kwargs))

    return [thunk(args, kwargs) for args, kwargs in calls]


def torch_calls(
    function: Callable[..., Any], calls: Sequence[tuple[tuple, dict[str, Any]]], threads: int
) -> tuple[dict[str, list[Thunk]], dict[str, str]]:
    """The example calls in eager PyTorch and under `torch.compile`, and why a contender is missing.

    `torch.compile` may specialise as often as it wants (64 times per function), and has compiled all calls before
    it is returned. Sets PyTorch's number of threads.
    """
    import torch

    torch.set_num_threads(threads)

    def thunks(run: Callable[..., Any]) -> list[Thunk]:
        return [lambda args=args, kwargs=kwargs: run(*args, **kwargs) for args, kwargs in calls]

    made, failed = {EAGER: thunks(torch.no_grad()(function))}, {}
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = _RECOMPILATIONS
    compiled = thunks(torch.no_grad()(torch.compile(function)))
    try:
        for call in compiled:
            for _ in range(3):
                call()
        made[COMPILED] = compiled
    except Exception as error:
        failed[COMPILED] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return made, failed


def compare(
    models: Mapping[str, tuple[Model, Sequence[Thunk]]], others: Mapping[str, Sequence[Thunk]], settings: Settings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PathTimings]:
    """Time every path that the calls take.

    `models`: by name a model and its calls; `others`: the same calls by contender. All have the calls in the same
    order. Paths are those of the first model.
    """
    first, calls = next(iter(models.values()))
    found = first_calls(first, calls)
    rows = []
    for done, (path, number) in enumerate(found.items()):
        progress(done, len(found))
        candidates = {name: each[number] for name, each in others.items()}
        candidates |= {name: thunks[number] for name, (_, thunks) in models.items()}
        timings = interleave(
            candidates, warmup_ms=settings.warmup_ms, duration_s=settings.duration_s,
            iterations=settings.iterations, percentiles=settings.percentiles)
        host = {name: host_us_per_region(model, thunks[number]) for name, (model, thunks) in models.items()}
        rows.append(PathTimings(path, number, timings, host))
    progress(len(found), len(found))
    return rows


def first_calls(model: Model, calls: Sequence[Thunk]) -> dict[Path, int]:
    """Path -> the first of the calls that takes it, in the order of the calls."""
    found: dict[Path, int] = {}
    for number, call in enumerate(calls):
        call()
        found.setdefault(model.last_path, number)
    return found


def host_us_per_region(model: Model, call: Thunk) -> float | None:
    """The host's own time per dispatched region in µs: the time of a call less the time inside the engines' run
    calls, over their number, and the median of that over 200 times 5 calls. None when the call runs no region.

    All lines of Python count as the host's, those of the kernels too, but for engines whose kernels cannot tell
    (see `Kernel`). Both times are of the same calls, so a slow or unsteady region does not matter. What reading the
    clock adds per region is measured in the same run, on a region that does nothing, and taken off.
    """
    try:
        model.profile(True)
        call()
        regions = sum(region.calls for region in model.statistics().regions)
        if not regions:
            return None
        inside, samples = _inside_ns(model), []
        for _ in range(_HOST_SAMPLES):
            whole = _ns_of(call)
            before, inside = inside, _inside_ns(model)
            samples.append(whole - (inside - before) / _HOST_CALLS)
        return max(0.0, statistics.median(samples) / regions - _clock_ns()) / 1e3
    finally:
        model.profile(False)


def _clock_ns() -> float:
    """What timing a region adds outside of the time that it notes, at the median. Measured with warm caches, so
    rather too little than too much is taken off."""
    timed, samples = Timed(lambda arrays: arrays), []
    for _ in range(_HOST_SAMPLES):
        before = timed.total
        whole = _ns_of(lambda: timed.kernel(())) - _ns_of(lambda: None)
        samples.append(whole - (timed.total - before) / _HOST_CALLS)
    return max(0.0, statistics.median(samples))


def _ns_of(call: Thunk) -> float:
    start = perf_counter_ns()
    for _ in range(_HOST_CALLS):
        call()
    return (perf_counter_ns() - start) / _HOST_CALLS


def _inside_ns(model: Model) -> float:
    return sum(region.total_ms for region in model.statistics().regions) * 1e6


def keeps_state(model: Model) -> bool:
    """Whether a call of `model` may depend on the calls before it."""
    return len(model.program.modes) > 1 or bool(model.program.modes[0].state)


def _from_reset(model: Model, call: Thunk) -> Thunk:
    if not keeps_state(model):
        return call

    def reset_and_call() -> Any:
        model.reset()
        return call()

    return reset_and_call

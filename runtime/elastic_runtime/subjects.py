"""What of a bundle can be measured: its distinct regions, its subnets, a dispatch.

In: a bundle's path and the model loaded from it. Out: subjects for `profiler.measure`.
Never: measures anything itself, or takes inputs for a region that no reference call gives it.

    python -m elastic_runtime.subjects BUNDLE SUBNET THREADS NATIVE    # prints the peak memory in bytes
    python -m elastic_runtime.subjects BUNDLE "" 1 ""                  # of all subnets
"""
from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elastic_runtime import device
from elastic_runtime import latency_table as lt
from elastic_runtime.bundle_reader import BundleReader
from elastic_runtime.errors import ElasticRuntimeError, InputError
from elastic_runtime.model import Model, load
from elastic_runtime.profiler import Subject
from elastic_runtime.schema import Program, Region
from elastic_runtime.selection import path_key
from elastic_runtime.worst import worst_path

_MEMORY_TIMEOUT_S = 300
_DISPATCH = Path(__file__).parent / "dispatch"


def of_bundle(path: str | os.PathLike[str], model: Model, *, threads: int = 1, memory: bool = True) -> list[Subject]:
    """The distinct regions of `model`, loaded from the bundle at `path`, and its subnets, one subject for each path
    that their reference calls take from the first state.

    `memory`: measure the subnets' peak memory, each in a process of its own: of loading the bundle and calling that
    subnet. A region that no reference call reaches is left out.
    """
    with BundleReader(path, model.limits) as reader:
        digests = {entry.name: entry.sha256 for entry in reader.manifest.files}
    found: dict[str, Subject] = {}
    kept = model.active
    try:
        for name in model.subnets:
            _go(model, name)
            for region, kernel, inputs in model.region_inputs():
                id = region_id(region, digests, [(str(array.dtype), array.shape) for array in inputs])
                found.setdefault(id, Subject(id, _shape_key(region, inputs), "region",
                                             lambda kernel=kernel, inputs=inputs: lambda: kernel(inputs)))
        for name in model.subnets:
            _go(model, name)
            for subject in _subnets(Path(path), model, name, digests, threads, memory):
                found.setdefault(subject.id, subject)
    finally:
        _go(model, kept)
    return list(found.values())


def dispatch(engine: str, threads: int = 1) -> Subject | None:
    """A call of a program with one region that does next to nothing: what a dispatch costs, host and engine. None for
    an engine for which no such program comes with the runtime: it would take a compiler for this machine."""
    path = _DISPATCH / engine
    if not path.is_dir():
        return None

    def prepare() -> Callable[[], Any]:
        model = load(path, threads=threads)
        return _call(model, model.active, *model.reference_inputs()[0])
    return Subject(dispatch_id(engine), f"dispatch {engine}", "dispatch", prepare)


def dispatch_id(engine: str, settings: Mapping[str, str] | None = None) -> str:
    """The id of the entry of an engine's dispatch."""
    return lt.content_id("dispatch", {"graph": "x + 1", "backend": engine, "settings": dict(settings or {})})


def engine_of(model: Model) -> str:
    """The engine of all regions. Raises `InputError` where there is none, or more than one: a table is of one
    backend."""
    found = sorted({region.engine for name in model.subnets for region in model.loaded(name).program.regions})
    if len(found) != 1:
        raise InputError("bundle", "engines", found or "no regions", "regions of one engine",
                         "A latency table is of one backend: make a bundle per backend, and a table of each.")
    return found[0]


def region_id(region: Region, digests: Mapping[str, str], inputs: Sequence[tuple[str, Sequence[int]]]) -> str:
    """The id of a region's entry: equal for the same compiled graph (its weights' shapes are part of it), input dtypes
    and shapes, engine and options, whatever the region's name and the values of its weights. `digests`: SHA-256 by
    file."""
    return lt.content_id("region", {
        "engine": region.engine, "options": region.options,
        "files": {role: digests[name] for role, name in region.files.items()},
        "inputs": [[dtype, list(shape)] for dtype, shape in inputs]})


def worst_ms(program: Program, digests: Mapping[str, str], table: lt.LatencyTable) -> float | None:
    """What the costliest path through `program` takes by the medians of a table, in ms, its regions one after the
    other. None where a loop has no known bound, a size is free, or the table lacks a region."""
    known, dispatch = table.by_id(), [entry.timing.ms for entry in table.entries
                                      if entry.kind == "dispatch" and entry.timing is not None]

    def cost(region: Region) -> float:
        shapes = [(port.type.dtype, port.type.shape) for port in region.inputs]
        entry = known.get(region_id(region, digests, shapes))
        return math.inf if entry is None or entry.timing is None else entry.timing.ms + sum(dispatch[:1])

    found = worst_path(program, cost)
    return None if found is None or math.isinf(found) else float(found)


def _go(model: Model, name: str) -> None:
    model.reset()
    model.switch(name)
    model.reset()


def _shape_key(region: Region, inputs: Sequence[np.ndarray]) -> str:
    shapes = " ".join("x".join(map(str, array.shape)) or "scalar" for array in inputs)
    return f"{region.ops} ops on {shapes or 'nothing'}, {next(iter(region.files.values()), region.name)}"


def _subnets(path: Path, model: Model, name: str, digests: Mapping[str, str], threads: int,
             memory: bool) -> Iterator[Subject]:
    loaded = model.loaded(name)
    calls: dict[tuple[int, ...], tuple[int, Sequence[Any]]] = {}
    for entry, inputs in model.reference_inputs():
        model.reset()
        try:
            model.call_flat(entry, inputs)
        except ElasticRuntimeError:
            continue
        calls.setdefault(model.last_path, (entry, inputs))
    model.reset()
    content = {"program": digests[loaded.about.program], "regions": sorted({
        digests[file] for region in loaded.program.regions for file in region.files.values()})}
    native = "1" if any(region.engine != "onnxruntime" for region in loaded.program.regions) else ""

    def peak() -> int | None:
        return peak_of_process(path, name, threads, native)

    for taken, (entry, inputs) in calls.items():
        yield Subject(
            lt.content_id("subnet", {**content, "name": name, "path": list(taken)}),
            path_key(name, taken, len(calls) == 1), "subnet",
            lambda entry=entry, inputs=inputs: _call(model, name, entry, inputs), config=dict(loaded.about.config),
            memory=peak if memory else None)


def _call(model: Model, name: str, entry: int, inputs: Sequence[Any]) -> Callable[[], Any]:
    def call() -> Any:
        model.reset()
        model.switch(name)
        return model.call_flat(entry, inputs)
    return call


def peak_of_process(path: Path, name: str, threads: int, native: str) -> int | None:
    """The peak memory in bytes of loading the bundle at `path` and calling its subnet `name` ("": every one, one after
    the other), in a process of its own; None where it fails or the system does not tell. `native`: not empty to allow
    native code."""
    done = subprocess.run(
        [sys.executable, "-m", "elastic_runtime.subjects", str(path), name, str(threads), native],
        capture_output=True, text=True, timeout=_MEMORY_TIMEOUT_S, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


def _print_peak(path: str, name: str, threads: str, native: str) -> int:
    before = device.memory_bytes()
    model = load(path, threads=int(threads), allow_native=bool(native))
    for one in [name] if name else model.subnets:
        _go(model, one)
        for entry, inputs in model.reference_inputs():
            model.reset()
            model.call_flat(entry, inputs)
    after = device.peak_memory_bytes()
    if before is None or after is None:
        return 1
    print(after - before)
    return 0


if __name__ == "__main__":
    sys.exit(_print_peak(*sys.argv[1:]))

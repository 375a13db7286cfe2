"""What to measure of an elastic network: its distinct parts, whole subnets as anchors, the backend's dispatch.

In: an `Elastic`, configurations, a backend. Out: subjects for `elastic_runtime.profiler`, compiled into a folder.
Never: compiles a thing twice: what the folder has from an earlier, interrupted run is used.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import elastic_runtime as er
from elastic_compile.profile.elastic import Elastic, Part
from elastic_compile.profile.predictor import MeasurementError
from elastic_compile.profile.space import Configuration
from elastic_runtime import device, profiler, schema, subjects
from elastic_runtime import latency_table as lt
from elastic_runtime.bundle_reader import BundleReader
from elastic_runtime.limits import DEFAULT_LIMITS
from elastic_runtime.profiler import Subject

if TYPE_CHECKING:
    from elastic_compile.elastic import CompiledFamily

TABLE = "latency-table.json"
_FRUITLESS = 30

Make = Callable[[], tuple[Any, Sequence[Any]]]
"""Gives a module and its example calls."""


@dataclass(frozen=True)
class Compiler:
    """Compiles modules for `backend` into bundles in the directory `folder`, and loads them with `threads`. `settings`:
    what `engine`, a backend made with them, does otherwise than the backend of that name."""

    backend: str
    threads: int
    folder: Path
    engine: Any = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def ready(self, id: str, make: Make) -> Path:
        """The bundle of the thing called `id`, compiled unless it is there and this runtime can read it."""
        path = self.folder / f"{id[:32]}.elastic"
        if not _readable(path):
            from elastic_compile.api import compile as compile_module

            module, calls = make()
            self.folder.mkdir(parents=True, exist_ok=True)
            compile_module(module, calls, backend=self.engine or self.backend).save(path)
        return path

    def call(self, path: Path) -> Callable[[], Any]:
        """The first example call of a bundle, from its first state."""
        model = er.load(path, threads=self.threads, allow_native=True)
        entry, inputs = model.reference_inputs()[0]

        def call() -> Any:
            model.reset()
            return model.call_flat(entry, inputs)
        return call

    def subject(self, kind: str, key: str, content: Mapping[str, Any], make: Make,
                config: Configuration | None = None, memory: bool = False) -> CompiledSubject:
        id = lt.content_id(kind, {**content, "backend": self.backend, "settings": dict(self.settings)})
        return CompiledSubject(id, key, kind, lambda: self.call(self.ready(id, make)), config=dict(config or {}),
                               compile=lambda: self.ready(id, make), memory=(lambda: subjects.peak_of_process(
                                   self.ready(id, make), "main", self.threads, "1")) if memory else None)


def _readable(path: Path) -> bool:
    try:
        with BundleReader(path, DEFAULT_LIMITS):
            return True
    except er.BundleError:
        return False


@dataclass(frozen=True)
class CompiledSubject(Subject):
    """A subject whose `prepare` compiles, unless `compile` was called before: apart from the measuring."""

    compile: Callable[[], Path] = field(kw_only=True, repr=False)


def dispatch(compiler: Compiler) -> CompiledSubject:
    """A call of a program with one region that does next to nothing: what a dispatch costs, host and backend."""
    def make() -> tuple[Any, Sequence[Any]]:
        import torch

        class Nothing(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + 1

        return Nothing().eval(), [(torch.zeros(1),)]

    return compiler.subject("dispatch", f"dispatch {compiler.backend}", {"graph": "x + 1"}, make)


def distinct_parts(elastic: Elastic, configurations: Iterable[Configuration],
                   found: dict[str, Part] | None = None) -> dict[str, Part]:
    """The parts of some subnets by key, added to `found`; of equal ones the first is kept, and the others' modules are
    let go."""
    found = {} if found is None else found
    for configuration in configurations:
        for part in elastic.made_of(configuration):
            found.setdefault(part.key, part)
    return found


def parts(compiler: Compiler, distinct: Mapping[str, Part]) -> list[CompiledSubject]:
    """One subject per distinct part."""
    from elastic_compile.capture.signature import call

    return [compiler.subject(
        "region", key, {"part": part.content},
        lambda part=part: (part.module, [call(*part.args, **part.kwargs)])) for key, part in distinct.items()]


def anchors(compiler: Compiler, elastic: Elastic, configurations: Sequence[Configuration],
            memory: bool = False) -> list[CompiledSubject]:
    """Whole subnets, each with its configuration, and where asked for its peak memory."""
    name = type(elastic.supernet).__name__
    found = []
    for configuration in configurations:
        configuration = elastic.space.canonical(configuration)
        key = elastic.space.key(configuration)
        found.append(compiler.subject(
            "subnet", f"{name} {key[:12]}", {"supernet": name, "configuration": key},
            lambda c=configuration: (elastic.subnet(c), elastic.calls(c)), configuration, memory))
    return found


def composed_ms(elastic: Elastic, table: lt.LatencyTable, configuration: Configuration) -> float:
    """The sum of the table's entries of a subnet's parts in ms, a part that runs twice counted twice.

    Raises `MissingEntry` for a part without a measured entry.
    """
    ids = {entry.key: entry.id for entry in table.entries if entry.kind == "region"}
    return lt.total_ms(table, [ids.get(part.key, part.key) for part in elastic.made_of(configuration)])


def of_elastic(compiler: Compiler, elastic: Elastic, count: int, seed: int,
               memory: bool = False) -> list[CompiledSubject]:
    """Dispatch, the parts of `count` random subnets and of further ones until no new part turns up, and those `count`
    subnets as anchors."""
    rng = np.random.default_rng(seed)
    size = elastic.space.size()
    if size <= count:
        chosen = list(elastic.space.enumerate())
    else:
        drawn = elastic.space.sample(8 * count, rng)
        chosen = list({elastic.space.key(one): one for one in drawn}.values())[:count]
    found: dict[str, Part] = {}
    if elastic.parts:
        distinct_parts(elastic, chosen, found)
        fruitless = 0
        while fruitless < _FRUITLESS and size > count:
            before = len(found)
            distinct_parts(elastic, elastic.space.sample(1, rng), found)
            fruitless = fruitless + 1 if len(found) == before else 0
    return [dispatch(compiler), *parts(compiler, found), *anchors(compiler, elastic, chosen, memory)]


def peak_bytes(family: CompiledFamily, threads: int) -> int:
    """The most memory that a process takes to load the family and call every subnet, in bytes, measured.

    Raises `MeasurementError` where the system does not tell.
    """
    with tempfile.TemporaryDirectory(prefix="elastic-build-") as folder:
        path = Path(folder) / "family.elastic"
        family.save(path)
        found = subjects.peak_of_process(path, "", threads, "1")
    if found is None:
        raise MeasurementError("the peak memory of the family could not be measured",
                               reason="its process failed, or this system does not tell a process's peak (Linux does)",
                               hint="build without --memory-mb")
    return found


def with_table(family: CompiledFamily, named: lt.Device | str, threads: int, budget_s: float,
               progress: Callable[[int, int], None] = lambda done, total: None,
               ) -> tuple[CompiledFamily, lt.LatencyTable]:
    """A compiled family with a table of itself, measured on this machine, that `Model.select` uses.

    `named`: what this machine is called, or a device; where that is another one, this one is called "the machine that
    built it".
    """
    here = device.describe(named if isinstance(named, str) else named.name)
    if not isinstance(named, str) and lt.identity(here) != lt.identity(named):
        here = device.describe("the machine that built it")
    with tempfile.TemporaryDirectory(prefix="elastic-build-") as folder:
        path = Path(folder) / "family.elastic"
        family.save(path)
        model = er.load(path, threads=threads, allow_native=True)
        outcome = profiler.measure(
            subjects.of_bundle(path, model, threads=threads), here,
            profiler.environment(subjects.engine_of(model), threads), profiler.Settings(budget_s),
            progress=lambda key, done, total: progress(done, total))
    if outcome.stopped:
        raise KeyboardInterrupt
    return replace(family, tables={TABLE: schema.encode(outcome.table)}), outcome.table

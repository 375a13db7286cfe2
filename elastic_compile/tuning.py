"""Region formation for this machine: measure, form, measure again.

In: a program that was compiled as it stands ("split"), and a function that compiles and verifies another form of it.
Out: the form that is fastest on the example calls; the split one unless another is faster.
Never: trusts the model alone: what it proposes is compiled, verified and timed against the split program, interleaved.
"""
from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

import elastic_runtime as er
from elastic_compile import backends
from elastic_compile.errors import ExampleError
from elastic_compile.passes import SMALLER, Costs, Form, MergeChains, run
from elastic_compile.passes.branches import IfConvert
from elastic_compile.passes.formation import KINDS, SPECULATED
from elastic_compile.program.export import export
from elastic_compile.program.ir import Graph, Op, Program, Use, jumps
from elastic_runtime import engines, schema
from elastic_runtime.bench import interleave
from elastic_runtime.engines import EngineOptions
from elastic_runtime.limits import DEFAULT_LIMITS
from elastic_runtime.plan import Random, make_plan
from elastic_runtime.prepared import Timed

if TYPE_CHECKING:
    from elastic_compile.api import CompiledProgram

aten = torch.ops.aten

#: A form must be faster than the split one by this share, in each part of the measurement: less is noise.
MARGIN = 0.01
PARTS = 3
MEASURE_S = 0.4
PROBE_S = 0.15
CHAIN = 9
LARGE = 1 << 16
EAGER = 2.0

Compile = Callable[[Program], "CompiledProgram"]


def fastest(
    split: CompiledProgram, compile_form: Compile, backend: backends.Backend, recorded: er.Statistics | None = None,
) -> CompiledProgram:
    """The fastest form of `split` on its example calls, with its formation in the provenance.

    `recorded`: what a run of the split program counted, in place of the example calls, for how often each way is taken.
    Raises ExampleError when it is of another program.
    """
    with _loaded(split, backend) as model:
        costs = measure(split, model, backend, recorded)
        kept = [split]
        for form in proposals(costs):
            formed = run(split.source, (form, *SMALLER))
            if all(_outline(formed) != _outline(other.source) for other in kept):
                kept.append(compile_form(formed))
        with contextlib.ExitStack() as stack:
            models = [model, *(stack.enter_context(_loaded(one, backend)) for one in kept[1:])]
            model.profile(False)
            parts = [interleave({str(i): calls(one) for i, one in enumerate(models)}, warmup_ms=50,
                                duration_s=MEASURE_S * len(models) / PARTS) for _ in range(PARTS)]
    rows = [[part[str(i)].median_ms * 1e3 for i in range(len(kept))] for part in parts]
    taken = [statistics.median(column) for column in zip(*rows)]
    best = min(range(len(kept)), key=lambda i: taken[i])
    if not all(row[best] < row[0] * (1 - MARGIN) for row in rows):
        best = 0
    count = len(split.reference.calls)
    measured = {
        "dispatch": costs.dispatch, "floor": costs.floor, "select": costs.select,
        "split": taken[0] / count, "formed": min(taken[1:], default=taken[0]) / count,
    }
    decisions = kept[best].source.decisions
    if not best:
        formed = next((one.source.decisions for one in kept[1:]), None) or Form(costs)(split.source).decisions
        decisions = tuple(_kept_split(one, measured) for one in formed)
    return dataclasses.replace(kept[best], provenance=_noted(kept[best].provenance, measured, decisions))


def proposals(costs: Costs) -> list[Form]:
    """The forms to time. How much regions gain by being one is only known afterwards: engines fuse operators, and
    caches stay warm. So the costs are also taken as if a dispatch cost `EAGER` times as much, and speculation is left
    out once: it alone makes some calls slower."""
    eager = dataclasses.replace(costs, dispatch=EAGER * costs.dispatch)
    return [Form(costs), Form(costs, tuple(kind for kind in KINDS if kind != SPECULATED)), Form(eager)]


def measure(
    split: CompiledProgram, model: er.Model, backend: backends.Backend, recorded: er.Statistics | None = None
) -> Costs:
    """What the regions of a compiled program and their dispatch cost on this machine, and where its calls go."""
    model.profile(True)
    interleave({"split": calls(model)}, warmup_ms=30, duration_s=MEASURE_S, iterations=5)
    counted = model.statistics()
    times = [region.median_ms * 1e3 for region in counted.regions]
    dispatch, floor, select, byte = probe(backend)
    odds, entered = flows(split.source, recorded or counted, len(split.reference.calls))
    # A region that no call runs is taken for as slow as the slowest.
    slowest = max(times, default=0.0)
    times = [time if region.calls else slowest for time, region in zip(times, counted.regions)]
    return Costs(tuple(times), dispatch, min((floor, *times)), select, byte, odds, entered)


def flows(
    program: Program, counted: er.Statistics, calls: int
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """How likely each jump of each block is, and how often each block is entered from outside per call.

    `calls`: how many different calls were counted. As if there had been half a call more that takes each way, a way
    that none of few calls took does not count as one that is never taken.

    Raises ExampleError for the counts of another program.
    """
    edges = {(b, jump.block) for b, block in enumerate(program.blocks) for jump in jumps(block.terminator)}
    if len(counted.visits) != len(program.blocks) or not set(counted.edges) <= edges or not counted.calls:
        raise ExampleError(
            "the recorded run is of another program",
            reason=f"it counts {len(counted.visits)} blocks in {counted.calls} calls, the program has "
                   f"{len(program.blocks)}",
            hint="give what statistics() says of the bundle compiled with formation=\"split\" from the same source")
    odds = []
    for b, block in enumerate(program.blocks):
        ways = [jump.block for jump in jumps(block.terminator)]
        taken = [counted.edges.get((b, way), 0) / ways.count(way) / counted.calls + 0.5 / calls for way in ways]
        odds.append(tuple(share / sum(taken) for share in taken))
    entered = [visits / counted.calls for visits in counted.visits]
    for (_, target), times in counted.edges.items():
        entered[target] -= times / counted.calls
    return tuple(odds), tuple(max(0.0, value) for value in entered)


def calls(model: er.Model) -> Callable[[], None]:
    """All example calls once, in order, from the first state."""
    given = model.reference_inputs()

    def once() -> None:
        model.reset()
        for entry, inputs in given:
            with contextlib.suppress(er.ModelRaised):
                model.call_flat(entry, inputs)

    return once


@contextlib.contextmanager
def _loaded(program: CompiledProgram, backend: backends.Backend) -> Iterator[er.Model]:
    with tempfile.TemporaryDirectory(prefix="elastic-tuning-") as directory:
        path = Path(directory) / "program.elastic"
        program.save(path)
        yield er.load(path, allow_native=backend.native, host_ops=program.host_ops, seed=0)


# ---------------------------------------------------------------------------------------------- probes
def probe(backend: backends.Backend) -> tuple[float, float, float, float]:
    """In µs: a dispatch, the engine's part of it, a selection of a small tensor, each byte of a large one."""
    programs = {"one": _chain(8, 1), "chain": _chain(8, CHAIN), "select": _choice(8), "large": _choice(LARGE),
                "long": _chain(LARGE, 1)}
    kernels = {name: _kernels(backend, program) for name, program in programs.items()}
    took = {name: timing.median_ms * 1e3 for name, timing in interleave(
        {name: _runner(programs[name], kernels[name]) for name in programs},
        warmup_ms=30, duration_s=PROBE_S * len(programs)).items()}
    timed = Timed(kernels["one"][0])
    interleave({"floor": lambda: timed.kernel([np.ones((1, 8), np.float32)])}, warmup_ms=20, duration_s=PROBE_S)
    dispatch = max(0.1, (took["chain"] - took["one"]) / (CHAIN - 1))
    select = max(0.1, took["select"] - took["one"])
    byte = max(0.0, (took["large"] - took["long"] - select) / (4 * LARGE))
    return dispatch, min(timed.statistics("floor").median_ms * 1e3, dispatch), select, byte


def _chain(size: int, length: int) -> Program:
    """`length` blocks that negate a float32 [1, size] tensor, each by a region of its own, and jump on; the first takes
    a flag too."""
    tensor, flag = schema.TensorType(dtype="float32", shape=(1, size)), schema.TensorType(dtype="bool", shape=())
    graph = Graph(inputs=(1,), ops=(Op(aten.neg.default, (Use(1),), {}, (2,)),), outputs=(2,))
    values: list[schema.ValueType] = [flag, tensor, tensor]
    blocks = []
    for number in range(length):
        params = (0, len(values)) if not number else (len(values),)
        given, made = len(values), len(values) + 1
        values += [tensor, tensor]
        end = schema.Jump(block=number + 1, args=(made,)) if number + 1 < length else schema.Return(
            tree=schema.ValueLeaf(id=made))
        blocks.append(schema.Block(
            params=params, terminator=end,
            steps=(schema.RegionStep(region=number, inputs=(given,), outputs=(made,)),)))
    fakes = {value: torch.empty(kind.shape, dtype=getattr(torch, kind.dtype), device="meta")
             for value, kind in enumerate(values)}
    return Program(
        name="probe", values=tuple(values), fakes=fakes, blocks=tuple(blocks), graphs=(graph,) * length, weights={},
        entries=(schema.Entry(name="call", params=(), block=0, inputs=(0, 3)),))


def _choice(size: int) -> Program:
    """One block that negates a tensor, and returns it or what it was given by the flag, if-converted."""
    program = _chain(size, 1)
    block = program.blocks[0]
    _, given = block.params
    made = block.steps[0].outputs[0]
    leaves = [schema.Jump(block=1, args=(value,)) for value in (made, given)]
    join = len(program.values)
    program = program.replace(
        values=(*program.values, program.values[given]), fakes={**program.fakes, join: program.fakes[given]},
        blocks=(
            schema.Block(params=block.params, steps=block.steps, terminator=schema.Branch(
                cond=0, then=leaves[0], orelse=leaves[1])),
            schema.Block(params=(join,), steps=(), terminator=schema.Return(tree=schema.ValueLeaf(id=join)))))
    return run(program, (IfConvert(0), MergeChains()))


def _kernels(backend: backends.Backend, program: Program) -> list[engines.Kernel]:
    made = backend.compile(sources(program))
    by_name = {name: engines.factory(name)() for name in {one.engine for one in made}}
    kernels = []
    for one in made:
        files = {role: memoryview(data) for role, data in one.payload.items()}
        region = schema.Region(name=one.name, engine=one.engine, files=dict.fromkeys(files, "probe"),
                               inputs=one.inputs, outputs=one.outputs, options=dict(one.options))
        kernels.append(by_name[one.engine].load(region, files, {}, EngineOptions()))
    return kernels


def _runner(program: Program, kernels: Sequence[engines.Kernel]) -> Callable[[], None]:
    host = schema.Program(
        name=program.name, values=program.values, blocks=program.blocks, entries=program.entries,
        regions=tuple(schema.Region(name=f"region_{g}", engine="probe", files={}, inputs=(), outputs=())
                      for g in range(len(program.graphs))))
    plan = make_plan(host, kernels, {}, Random(0), DEFAULT_LIMITS, records={})
    flag, given = program.blocks[0].params
    arrays = {plan.place[flag]: np.array(True), plan.place[given]: np.ones(program.values[given].shape, np.float32)}

    def once() -> None:
        registers = plan.template.copy()
        for register, array in arrays.items():
            registers[register] = array
        plan.run(registers, 0, [], None)

    return once


def sources(program: Program) -> list[backends.RegionSource]:
    """The regions of a program, as a backend takes them."""
    return [
        backends.RegionSource(
            name=f"region_{i}", exported=export(program, graph, f"region_{i}"),
            inputs=tuple(program.values[v] for v in graph.inputs),
            outputs=tuple(program.values[v] for v in graph.outputs),
        )
        for i, graph in enumerate(program.graphs)
    ]


# ---------------------------------------------------------------------------------------------- the report
def _outline(program: Program) -> tuple[Any, ...]:
    """Equal for programs with the same blocks."""
    return program.blocks, [len(graph.ops) for graph in program.graphs]


def _kept_split(decision: schema.BranchDecision, measured: Mapping[str, float]) -> schema.BranchDecision:
    """A decision that was not taken over, since the whole was not faster."""
    if decision.kind == "split":
        return decision
    return schema.BranchDecision(
        branch=decision.branch, kind="split",
        reason=f"not {decision.kind}: {measured['formed']:.1f} µs per call measured against {measured['split']:.1f} µs "
               f"split (expected: {decision.reason})")


def _noted(
    provenance: schema.Provenance, measured: dict[str, float], decisions: tuple[schema.BranchDecision, ...]
) -> schema.Provenance:
    return msgspec.structs.replace(provenance, formation=schema.Formation(
        measured={name: round(value, 3) for name, value in measured.items()}, decisions=decisions))

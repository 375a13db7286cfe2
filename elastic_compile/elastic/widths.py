"""Divides the linear layers of a family's subnets at each other's widths, where that saves memory and is as fast.

In: the subnets of a family as `pack` takes them, with their region artefacts. Out: the same subnets with other
artefacts, and what was decided and why.
Never: divides a region that measured slower for it than the caller allows, or one of another engine than ONNX Runtime.

ONNX Runtime keeps a packed copy of each weight, and packs the weights of each width for themselves: four widths take
almost twice the memory of the largest. Divided into blocks of output features at the borders of all widths, layers
have blocks in common, which the runtime packs once (`elastic_runtime.engines.onnx_packed`).
"""
from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from elastic_compile.backends import onnx_blocks
from elastic_compile.bundle import Member, Packed
from elastic_compile.bundle.pack import region_key
from elastic_compile.inspect.text import bytes_text
from elastic_compile.weights import share
from elastic_compile.weights.locate import in_c_order
from elastic_compile.weights.nested import cuts
from elastic_runtime import schema
from elastic_runtime.bench import interleave
from elastic_runtime.engines import EngineOptions
from elastic_runtime.engines.onnxruntime import PACKED_FROM, OnnxRuntimeEngine

#: Seconds of measuring per region, and in all.
MEASURE_S, MEASURE_ALL_S = 1.0, 30.0


@dataclass(frozen=True)
class Widths:
    """`members` and `files` as `pack` takes them. `decisions`: for people, what was done and why."""

    members: Sequence[Member]
    files: Mapping[str, bytes]
    decisions: tuple[str, ...]


def divided(members: Sequence[Member], files: Mapping[str, bytes], supernet: Mapping[str, np.ndarray],
            slower: float) -> Widths:
    """Divide what saves memory. `slower`: how many times as long a region may then take, at one thread; inf measures
    nothing."""
    same = Widths(members, files, ())
    if len(members) < 2 or slower <= 0:
        return same
    axes = {name: onnx_blocks.linear_axes(files[name]) for name in {
        region.files["model"] for member in members for region in member.program.regions
        if region.engine == "onnxruntime"}}
    found = cuts(share({member.name: member.weights for member in members}, supernet), _axes(members, axes))
    if found.saved < PACKED_FROM:
        return same
    work = _Division(files, found.places, slower)
    made = [work.member(member) for member in members]
    kept = {name for member in made for region in member.program.regions for name in region.files.values()}
    size = f"{bytes_text(found.saved)} of packed weights"
    decisions = [f"{len(work.taken)} regions are divided at the widths of other subnets, so that ONNX Runtime packs "
                 f"common blocks once: up to {size} less" + work.range(work.taken)] if work.taken else []
    if work.left:
        decisions.append(f"{len(work.left)} regions keep a packed copy of their own, being slower in blocks than "
                         f"{slower:g} ×" + work.range(work.left))
    return Widths(made, {name: data for name, data in {**files, **work.files}.items() if name in kept},
                  tuple(decisions))


def engine_choices(packed: Packed) -> tuple[str, ...]:
    """What loading the bundle will do with weights that its regions have in common, by engine, and why."""
    lines = []
    regions = {region_key(region): region for program in packed.programs for region in program.regions}
    for engine in sorted({region.engine for region in regions.values()}):
        mine = [region for region in regions.values() if region.engine == engine]
        readers = Counter(name for region in mine for name in {use.tensor for use in region.weights})
        again = gathered = 0
        for name, times in readers.items():
            part, size = packed.parts.parts.get(name), _nbytes(packed, name)
            plain = part is None or (isinstance(part, schema.View) and in_c_order(part.shape, part.strides))
            gathered += size * isinstance(part, schema.Gather)
            again += size * (times - 1 if plain else 2 * times - 1)
        start = f"{engine}: {len(mine)} distinct regions, each loaded once for all subnets; "
        if engine != "onnxruntime":
            lines.append(f"{start}weights are read where they lie in the one store"
                         + (f", {bytes_text(gathered)} of gathered channels are copied once" if gathered else ""))
        elif again >= PACKED_FROM:
            lines.append(f"{start}packed one by one, {bytes_text(again)} of weights would be in memory again, so one "
                         "packed copy is made per device, kept in the cache and mapped")
        else:
            lines.append(f"{start}less than {bytes_text(PACKED_FROM)} of weights in common, so each packs its own, "
                         "which loads faster")
    return tuple(lines)


def _nbytes(packed: Packed, name: str) -> int:
    part = packed.parts.parts.get(name)
    if part is None:
        return packed.weights[name].nbytes
    whole = packed.weights[part.tensor]
    shape = part.shape if isinstance(part, schema.View) else [
        size if index is None else packed.weights[index].size for size, index in zip(whole.shape, part.indices)]
    return math.prod(shape) * whole.itemsize


def _axes(members: Sequence[Member], axes: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], int]:
    """By subnet and tensor, the axis of output features of those that only linear layers of ONNX models read."""
    made: dict[tuple[str, str], int] = {}
    other = set()
    for member in members:
        other.update((member.name, name) for name in member.program.initial)
        for region in member.program.regions:
            known = axes.get(region.files.get("model", ""), {})
            for use in region.weights:
                key = member.name, use.tensor
                if use.name not in known or made.setdefault(key, known[use.name]) != known[use.name]:
                    other.add(key)
    return {key: axis for key, axis in made.items() if key not in other}


class _Division:
    """`taken` and `left`: the times of regions that were divided and that were not, by what they are."""

    def __init__(self, files: Mapping[str, bytes], places: Mapping[tuple[str, str], tuple[int, ...]],
                 slower: float) -> None:
        self.given, self.places, self.slower = files, places, slower
        self.files: dict[str, bytes] = {}
        self.seconds = MEASURE_ALL_S
        self.taken: dict[object, float] = {}
        self.left: dict[object, float] = {}
        self._made: dict[object, tuple[str, onnx_blocks.Divided]] = {}

    def member(self, member: Member) -> Member:
        weights, regions = dict(member.weights), []
        for region in member.program.regions:
            at = {use.name: self.places[member.name, use.tensor] for use in region.weights
                  if (member.name, use.tensor) in self.places}
            regions.append(self._region(region, at, weights) if at else region)
        program = msgspec.structs.replace(member.program, regions=tuple(regions))
        used = {use.tensor for region in regions for use in region.weights} | set(program.initial)
        return replace(member, program=program, weights={n: a for n, a in weights.items() if n in used})

    def _region(self, region: schema.Region, at: Mapping[str, tuple[int, ...]],
                weights: dict[str, np.ndarray]) -> schema.Region:
        key = region.files["model"], tuple(sorted(at.items()))
        if key not in self._made:
            made = onnx_blocks.divide(self.given[region.files["model"]], at)
            self._made[key] = f"model-{hashlib.sha256(made.model).hexdigest()[:16]}.bin", made
        file, made = self._made[key]
        tensor_of = {use.name: use.tensor for use in region.weights}
        uses, blocks = [], {}
        for name, what in made.weights.items():
            if isinstance(what, str):
                uses.append(schema.WeightUse(name=name, tensor=tensor_of[what]))
                continue
            tensor = f"{tensor_of[what.of]}.{what.start}"
            part = [slice(None)] * weights[tensor_of[what.of]].ndim
            part[what.axis] = slice(what.start, what.stop)
            blocks[tensor] = weights[tensor_of[what.of]][tuple(part)]
            uses.append(schema.WeightUse(name=name, tensor=tensor))
        new = msgspec.structs.replace(region, files={"model": file}, weights=tuple(uses))
        if key not in self.taken and key not in self.left:
            ratio = self._ratio(region, new, made.model, weights, blocks)
            (self.left if ratio > self.slower else self.taken)[key] = ratio
        if key in self.left:
            return region
        self.files[file] = made.model
        weights.update(blocks)
        return new

    def _ratio(self, old: schema.Region, new: schema.Region, model: bytes, weights: Mapping[str, np.ndarray],
               blocks: Mapping[str, np.ndarray]) -> float:
        """How many times as long the divided region takes, in interleaved runs."""
        if self.slower == float("inf"):
            return float("nan")
        random = np.random.default_rng(0)
        inputs = [_drawn(port.type, random) for port in old.inputs]
        kernels = {}
        for region, data in ((old, self.given[old.files["model"]]), (new, model)):
            arrays = {use.name: {**weights, **blocks}[use.tensor] for use in region.weights}
            kernels[region.files["model"]] = OnnxRuntimeEngine().load(
                region, {"model": memoryview(data)}, arrays, EngineOptions())
        # What is left is shared out evenly as long as nobody knows how many regions follow: a tenth each.
        seconds = min(MEASURE_S, self.seconds / 10)
        self.seconds -= seconds
        took = interleave({name: lambda kernel=kernel: kernel(inputs) for name, kernel in kernels.items()},
                          warmup_ms=100 * seconds, duration_s=seconds, percentiles=(10, 25, 50))
        blocks, whole = (took[region.files["model"]].percentiles_ms for region in (new, old))
        # Other load only ever adds time: slower is what is slower in its undisturbed runs too.
        return min(blocks[share] / whole[share] for share in whole)

    def range(self, ratios: Mapping[object, float]) -> str:
        values = sorted(value for value in ratios.values() if value == value)
        return f"; {values[0]:.2f} to {values[-1]:.2f} × as long" if values else ""


def _drawn(kind: schema.TensorType, random: np.random.Generator) -> np.ndarray:
    shape = [size if isinstance(size, int) else 8 for size in kind.shape]
    dtype = np.dtype(kind.dtype)
    return random.standard_normal(shape).astype(dtype) if dtype.kind in "fc" else random.integers(
        0, 2, shape).astype(dtype)

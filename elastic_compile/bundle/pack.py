"""Puts the programs of a bundle together: one weight store, one set of artefacts, one set of reference tensors.

In: a `Member` per subnet, each complete in itself, and the region artefacts of all.
Out: a `Packed`, what `write` writes: the programs speak of the common store.
Never: drops or changes what a member computes; a bundle of one program is packed like any other.
"""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from elastic_compile.weights import share
from elastic_runtime import schema
from elastic_runtime.worst import worst_path

REFERENCE_TENSORS = "reference.safetensors"

NO_BUDGET = schema.Budget()

#: The one subnet of a bundle that `compile` makes.
ONLY = "main"

#: The subnet of its fallback, where it is given one.
FALLBACK = "fallback"


@dataclass(frozen=True)
class Member:
    """One subnet: its program, whose regions and state name tensors of `weights`, and its recorded calls."""

    name: str
    program: schema.Program
    weights: Mapping[str, np.ndarray]
    reference: schema.Reference
    reference_tensors: Mapping[str, np.ndarray]
    config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    quality: float | None = None
    budget: schema.Budget = NO_BUDGET


@dataclass(frozen=True)
class Packed:
    """The contents of a bundle. `subnets`, `programs` and `references` are in the same order, the first one active."""

    name: str
    subnets: tuple[schema.Subnet, ...]
    programs: tuple[schema.Program, ...]
    references: tuple[schema.Reference, ...]
    files: Mapping[str, bytes]
    weights: Mapping[str, np.ndarray]
    parts: schema.Parts
    sharing: schema.Sharing
    reference_tensors: Mapping[str, np.ndarray]
    provenance: schema.Provenance
    tables: Mapping[str, bytes] = field(default_factory=dict)
    fallback: str = ""


def pack(
    name: str,
    members: Sequence[Member],
    files: Mapping[str, bytes],
    provenance: schema.Provenance,
    *,
    supernet: Mapping[str, np.ndarray] | None = None,
    tables: Mapping[str, bytes] | None = None,
    fallback: str = "",
) -> Packed:
    """The bundle of `members`. `supernet`: tensors in which weights of the members may lie, by name; `tables`:
    latency tables by file name; `fallback`: the member that takes over when a call exceeds its budget."""
    shared = share({member.name: member.weights for member in members}, supernet)
    tensors: dict[str, np.ndarray] = {}
    programs = tuple(_renamed(member.program, shared.names[member.name]) for member in members)
    keys = [{region_key(region) for region in program.regions} for program in programs]
    sharing = schema.Sharing(
        stored=sum(array.nbytes for array in shared.stored.values()), alone=dict(shared.alone),
        subnets=dict(shared.subnets),
        regions={member.name: (len(own), len(own & set().union(*keys[:i], *keys[i + 1:])))
                 for i, (member, own) in enumerate(zip(members, keys))})
    return Packed(
        name=name,
        subnets=tuple(schema.Subnet(
            name=member.name, program=_file("program", member.name, members),
            reference=_file("reference", member.name, members), config=dict(member.config), quality=member.quality,
            budget=member.budget, worst=worst_path(program),
        ) for member, program in zip(members, programs)),
        programs=programs, references=_references(members, tensors), files=files, weights=shared.stored,
        parts=shared.parts, sharing=sharing, reference_tensors=tensors, provenance=provenance, tables=tables or {},
        fallback=fallback)


def region_key(region: schema.Region) -> object:
    """Equal for regions that a loader makes into one kernel."""
    return (region.engine, tuple(sorted(region.files.items())), region.inputs, region.outputs, region.weights,
            tuple(sorted(region.options.items())))


def _file(what: str, name: str, members: Sequence[Member]) -> str:
    return f"{what}.json" if len(members) == 1 else f"{what}.{name}.json"


def _renamed(program: schema.Program, names: Mapping[str, str]) -> schema.Program:
    regions = tuple(msgspec.structs.replace(region, weights=tuple(
        schema.WeightUse(name=use.name, tensor=names[use.tensor]) for use in region.weights))
        for region in program.regions)
    return msgspec.structs.replace(
        program, regions=regions, initial=tuple(names[tensor] for tensor in program.initial))


def _references(members: Sequence[Member], tensors: dict[str, np.ndarray]) -> tuple[schema.Reference, ...]:
    """The members' recorded calls over common tensors, equal ones once; those are put into `tensors`."""
    known: dict[object, str] = {}

    def common(array: np.ndarray) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).digest()
        key = (array.dtype.str, array.shape, digest)
        if key not in known:
            known[key] = f"t{len(known)}"
            tensors[known[key]] = array
        return known[key]

    made = []
    for member in members:
        names = {name: common(array) for name, array in member.reference_tensors.items()}
        calls = tuple(msgspec.structs.replace(
            call, inputs=tuple(names[n] for n in call.inputs), outputs=tuple(names[n] for n in call.outputs))
            for call in member.reference.calls)
        made.append(msgspec.structs.replace(member.reference, tensors=REFERENCE_TENSORS, calls=calls))
    return tuple(made)

"""Writes a bundle: compiled programs as a directory of plain data that the runtime loads.

In: a `Packed`, everything that the bundle holds, in memory.
Out: a directory with `manifest.json` (every other file's size and SHA-256, the subnets), a program and recorded calls
per subnet (`program.json`, or `program.NAME.json` where there are several), `weights.safetensors` and `weights.json`,
`sharing.json`, the recorded calls' tensor file, `provenance.json`, latency tables and the region artefacts.
Never: leaves half a bundle, overwrites what is no bundle, or writes one that names what it does not hold.
"""
from __future__ import annotations

import os
import re
from pathlib import Path

from elastic_compile.bundle.pack import REFERENCE_TENSORS, Packed
from elastic_compile.bundle.replace import Add, replace_directory
from elastic_compile.bundle.tensors import serialise
from elastic_compile.errors import InternalError
from elastic_runtime import schema

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
PARTS = "weights.json"
SHARING = "sharing.json"
PROVENANCE = "provenance.json"

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def write(path: str | os.PathLike[str], packed: Packed) -> None:
    """Write a bundle to the directory `path`, or replace the bundle that is there, in one step.

    Raises `BundleWriteError` when something that is no bundle stands at `path` or the file system cannot
    replace in one step, `InternalError` when the parts do not belong together, ValueError for a tensor of
    a dtype that no tensor file can hold, OSError as the file system gives it. After any error, and after a
    stop at any moment, `path` is as it was or holds the whole new bundle.
    """
    _check(packed)

    def fill(add: Add) -> None:
        contents = {
            **{subnet.program: [schema.encode(program)] for subnet, program in zip(packed.subnets, packed.programs)},
            WEIGHTS: serialise(packed.weights),
            PARTS: [schema.encode(packed.parts)],
            SHARING: [schema.encode(packed.sharing)],
            **{subnet.reference: [schema.encode(one)] for subnet, one in zip(packed.subnets, packed.references)},
            REFERENCE_TENSORS: serialise(packed.reference_tensors),
            PROVENANCE: [schema.encode(packed.provenance)],
            **{name: [packed.tables[name]] for name in sorted(packed.tables)},
            **{name: [packed.files[name]] for name in sorted(packed.files)},
        }
        entries = []
        for name, pieces in contents.items():
            size, sha256 = add(name, pieces)
            entries.append(schema.FileEntry(name=name, size=size, sha256=sha256))
        manifest = schema.Manifest(
            format=schema.FORMAT, version=schema.SCHEMA_VERSION, name=packed.name, subnets=packed.subnets,
            weights=WEIGHTS, parts=PARTS, sharing=SHARING, provenance=PROVENANCE, files=tuple(entries),
            tables=tuple(sorted(packed.tables)), fallback=packed.fallback)
        add(MANIFEST, [schema.encode(manifest)])

    replace_directory(Path(path), _is_bundle, fill)


def _is_bundle(path: Path) -> bool:
    """A directory whose manifest says that it is a bundle, of whatever version and in whatever condition."""
    try:
        if not path.is_dir():
            return False
        return f'"{schema.FORMAT}"'.encode() in (path / MANIFEST).read_bytes()
    except OSError:
        return False


def _check(packed: Packed) -> None:
    own = {MANIFEST, WEIGHTS, PARTS, SHARING, PROVENANCE, REFERENCE_TENSORS,
           *(file for subnet in packed.subnets for file in (subnet.program, subnet.reference))}
    given = {**packed.files, **packed.tables}
    for name in (*own, *given):
        if not _PLAIN.fullmatch(name):
            raise InternalError(f"{name!r} is not a plain file name")
    if clash := sorted(own & set(given)) or sorted(set(packed.files) & set(packed.tables)):
        raise InternalError(f"region artefacts or tables take other files' names: {', '.join(clash)}")
    if len({name.lower() for name in (*own, *given)}) != len(own) + len(given):
        raise InternalError("file names differ only in case")
    regions = [region for program in packed.programs for region in program.regions]
    _same("region artefacts", {name for region in regions for name in region.files.values()}, set(packed.files))
    used = {use.tensor for region in regions for use in region.weights}
    used |= {name for program in packed.programs for name in program.initial}
    parts = packed.parts.parts
    read = {name for part in parts.values() for name in (part.tensor, *getattr(part, "indices", ())) if name}
    _same("parts of weights", used & set(parts), set(parts))
    _same("weights", (used | read) - set(parts), set(packed.weights))
    named = {name for one in packed.references for call in one.calls for name in (*call.inputs, *call.outputs)}
    _same("reference tensors", named, set(packed.reference_tensors))


def _same(what: str, named: set[str], given: set[str]) -> None:
    if missing := sorted(named - given):
        raise InternalError(f"{what} named but not given: {', '.join(missing)}")
    if unused := sorted(given - named):
        raise InternalError(f"{what} given but not named: {', '.join(unused)}")

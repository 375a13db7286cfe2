"""Writes a bundle: the compiled program as a directory of plain data that the runtime loads.

In: a program, its region artefacts, weights, reference calls and provenance, all in memory.
Out: a directory with `manifest.json` (every other file's size and SHA-256), `program.json`,
`weights.safetensors`, `reference.json` with its tensor file, `provenance.json` and the region artefacts.
Never: leaves half a bundle, overwrites what is no bundle, or writes one that names what it does not hold.
"""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from elastic_compile.bundle.replace import Add, replace_directory
from elastic_compile.bundle.tensors import serialise
from elastic_compile.errors import InternalError
from elastic_runtime import schema

MANIFEST = "manifest.json"
PROGRAM = "program.json"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.json"
PROVENANCE = "provenance.json"

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def write(
    path: str | os.PathLike[str],
    *,
    program: schema.Program,
    files: Mapping[str, bytes],
    weights: Mapping[str, np.ndarray],
    reference: schema.Reference,
    reference_tensors: Mapping[str, np.ndarray],
    provenance: schema.Provenance,
) -> None:
    """Write a bundle to the directory `path`, or replace the bundle that is there, in one step.

    `files` maps plain file names to region artefacts, `weights` the store's names to arrays,
    `reference_tensors` the names that `reference` uses to arrays (stored in the file `reference.tensors`).

    Raises `BundleWriteError` when something that is no bundle stands at `path` or the file system cannot
    replace in one step, `InternalError` when the parts do not belong together, ValueError for a tensor of
    a dtype that no tensor file can hold, OSError as the file system gives it. After any error, and after a
    stop at any moment, `path` is as it was or holds the whole new bundle.
    """
    _check(program, files, weights, reference, reference_tensors)

    def fill(add: Add) -> None:
        contents = {
            PROGRAM: [schema.encode(program)],
            WEIGHTS: serialise(weights),
            REFERENCE: [schema.encode(reference)],
            reference.tensors: serialise(reference_tensors),
            PROVENANCE: [schema.encode(provenance)],
            **{name: [files[name]] for name in sorted(files)},
        }
        entries = []
        for name, pieces in contents.items():
            size, sha256 = add(name, pieces)
            entries.append(schema.FileEntry(name=name, size=size, sha256=sha256))
        manifest = schema.Manifest(
            format=schema.FORMAT, version=schema.SCHEMA_VERSION, name=program.name, files=tuple(entries),
            program=PROGRAM, weights=WEIGHTS, reference=REFERENCE, provenance=PROVENANCE)
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


def _check(
    program: schema.Program,
    files: Mapping[str, bytes],
    weights: Mapping[str, np.ndarray],
    reference: schema.Reference,
    reference_tensors: Mapping[str, np.ndarray],
) -> None:
    own = {MANIFEST, PROGRAM, WEIGHTS, REFERENCE, PROVENANCE, reference.tensors}
    for name in (*files, reference.tensors):
        if not _PLAIN.fullmatch(name):
            raise InternalError(f"{name!r} is not a plain file name")
    if clash := sorted(own & set(files)):
        raise InternalError(f"region artefacts take the bundle's own file names: {', '.join(clash)}")
    if len({name.lower() for name in (*own, *files)}) != len(own) + len(files):
        raise InternalError("file names differ only in case")
    artefacts = {name for region in program.regions for name in region.files.values()}
    _same("region artefacts", artefacts, set(files))
    used = {use.tensor for region in program.regions for use in region.weights} | set(program.initial)
    _same("weights", used, set(weights))
    named = {name for call in reference.calls for name in (*call.inputs, *call.outputs)}
    _same("reference tensors", named, set(reference_tensors))


def _same(what: str, named: set[str], given: set[str]) -> None:
    if missing := sorted(named - given):
        raise InternalError(f"{what} named but not given: {', '.join(missing)}")
    if unused := sorted(given - named):
        raise InternalError(f"{what} given but not named: {', '.join(unused)}")

"""Opens a bundle that may be hostile, and gives out only what has passed every check.

In: the path of a bundle's directory and `Limits`.
Out: decoded and checked structures, file bytes whose size and SHA-256 agree with the manifest, and weights as
views of the mapped file. Every file is opened by its plain name inside the already opened directory.
Never: follows a link, opens anything but a regular file with one name, reads more than the manifest says,
unpickles, imports or runs anything. A file that another process rewrites in place while it is mapped is out of
scope: bundles are replaced, not edited.

The format's rules are in `schema`; the names of the rules in the errors are in each function's docstring.
"""
from __future__ import annotations

import errno
import hashlib
import math
import mmap
import os
import re
import stat
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from elastic_runtime import schema
from elastic_runtime.check import PLAIN_NAME, SUBNET_NAME, check_program, check_tree, fits, leaves
from elastic_runtime.errors import BundleError, ProgramError, VersionError
from elastic_runtime.limits import Limits
from elastic_runtime.strict_json import decode_json
from elastic_runtime.tensor_file import read_tensors
from elastic_runtime.weights import Weights
from elastic_runtime.worst import worst_path

MANIFEST = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class _Header(msgspec.Struct):
    """What a manifest of any version has."""

    format: str
    version: int


@dataclass(frozen=True)
class Contents:
    """All that a bundle holds besides its programs. `files`: the bytes of each region file by name, `references` the
    recorded calls and their tensors by subnet, `tables` the bytes of each latency table by file name."""

    files: dict[str, memoryview]
    weights: Weights
    references: dict[str, tuple[schema.Reference, dict[str, np.ndarray]]]
    provenance: schema.Provenance
    sharing: schema.Sharing
    tables: dict[str, memoryview]


class BundleReader:
    """A bundle's open directory, for the time of loading; use it as a context manager.

    `manifest`, its SHA-256 `digest`, and then `programs`, by subnet, are there once entered; `contents` reads the rest
    and leaves in `mapped` what it mapped. A program can thus
    be refused (native code, a missing engine or host function) before a file of its regions is opened.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits) -> None:
        self.path, self.limits = os.fspath(path), limits
        self.directory = -1
        self.digest = ""
        self.mapped: list[mmap.mmap] = []

    def __enter__(self) -> BundleReader:
        try:
            self.directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(self.path, "no-bundle", error.strerror, "the directory of a bundle",
                              "Give the path that program.save() wrote to.") from None
        try:
            self.manifest = self._manifest()
            self.entries = {entry.name: entry for entry in self.manifest.files}
            self._listing()
            self.programs = {subnet.name: self._program(subnet.program) for subnet in self.manifest.subnets}
            self._fallback()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)
        self.directory = -1

    # --------------------------------------------------------------------------------------------- files
    def _open(self, name: str, limit: int) -> tuple[int, int]:
        """A descriptor and size of the file `name`, which is known to be plain.

        Rules: "missing-file", "symlink", "not-regular", "hard-link", "file-size".
        """
        try:
            before = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
            if stat.S_ISLNK(before.st_mode):
                raise BundleError(name, "symlink", "a symbolic link", "a regular file")
            if not stat.S_ISREG(before.st_mode):
                raise BundleError(name, "not-regular", _file_kind(before.st_mode), "a regular file")
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                                 dir_fd=self.directory)
        except OSError as error:
            rule = {errno.ENOENT: "missing-file", errno.ELOOP: "symlink"}.get(error.errno, "unreadable")
            raise BundleError(name, rule, error.strerror, "a regular file that can be read") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(name, "not-regular", _file_kind(status.st_mode), "a regular file")
            if status.st_nlink != 1:
                raise BundleError(name, "hard-link", f"a file with {status.st_nlink} names", "one name")
            if status.st_size > limit:
                raise BundleError(name, "file-size", f"{status.st_size} bytes", f"<= {limit}")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status.st_size

    def _verified(self, name: str, limit: int, *, mapped: bool = False) -> memoryview:
        """The bytes of a listed file. Rules: those of `_open`, "unlisted-file", "truncated", "hash"."""
        entry = self.entries.get(name)
        if entry is None:
            raise BundleError(name, "unlisted-file", "a file that the manifest does not list", "a listed file")
        descriptor, size = self._open(name, limit)
        try:
            if size != entry.size:
                raise BundleError(name, "truncated" if size < entry.size else "file-size", f"{size} bytes",
                                  f"{entry.size}, as listed")
            if mapped and size:
                self.mapped.append(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
                data = memoryview(self.mapped[-1])
            else:
                data = memoryview(_read(descriptor, size, name))
        finally:
            os.close(descriptor)
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256:
            raise BundleError(name, "hash", f"SHA-256 {digest[:16]}…", f"{entry.sha256[:16]}…, as listed")
        return data

    def _manifest(self) -> schema.Manifest:
        """Rules: those of `_open` and of `decode_json`, "format", "version", "file-count", "file-name",
        "file-entry"."""
        descriptor, size = self._open(MANIFEST, self.limits.json_bytes)
        try:
            raw = _read(descriptor, size, MANIFEST)
        finally:
            os.close(descriptor)
        self.digest = hashlib.sha256(raw).hexdigest()
        header = decode_json(raw, _Header, MANIFEST, self.limits)
        if header.format != schema.FORMAT:
            raise BundleError(MANIFEST, "format", header.format, schema.FORMAT)
        if header.version != schema.SCHEMA_VERSION:
            newer = header.version > schema.SCHEMA_VERSION
            raise VersionError(
                MANIFEST, "version", f"schema version {header.version}", f"version {schema.SCHEMA_VERSION}",
                "Upgrade elastic-runtime: pip install --upgrade elastic-runtime." if newer
                else "Compile the model again with the elastic-compile that belongs to this elastic-runtime.")
        manifest = decode_json(raw, schema.Manifest, MANIFEST, self.limits)
        if len(manifest.files) > self.limits.files:
            raise BundleError(MANIFEST, "file-count", len(manifest.files), f"<= {self.limits.files}")
        seen = {MANIFEST}
        for entry in manifest.files:
            if not PLAIN_NAME.fullmatch(entry.name):
                raise BundleError(MANIFEST, "file-name", repr(entry.name), "one plain file name")
            if entry.name in seen or entry.size < 0 or not _SHA256.fullmatch(entry.sha256):
                raise BundleError(entry.name, "file-entry", f"{entry.size} bytes, SHA-256 {entry.sha256[:16]}",
                                  "one entry per file, with its size and its hash in lower-case hex")
            seen.add(entry.name)
        self._subnets(manifest)
        return manifest

    def _subnets(self, manifest: schema.Manifest) -> None:
        """Rules: "subnet-count", "subnet-name", "subnet-config", "subnet-quality", "subnet-budget", "fallback",
        "file-role"."""
        limits, names = self.limits, set()
        if not 1 <= len(manifest.subnets) <= limits.subnets:
            raise BundleError(MANIFEST, "subnet-count", len(manifest.subnets), f"1 to {limits.subnets}")
        for subnet in manifest.subnets:
            if not SUBNET_NAME.fullmatch(subnet.name) or subnet.name in names:
                raise BundleError(MANIFEST, "subnet-name", repr(subnet.name),
                                  "1 to 64 letters, digits, '_', '.', '-', each name once")
            names.add(subnet.name)
            texts = [*subnet.config, *(value for value in subnet.config.values() if isinstance(value, str))]
            if len(subnet.config) > limits.ports or max(map(len, texts), default=0) > limits.text:
                raise BundleError(MANIFEST, "subnet-config", f"{len(subnet.config)} settings of {subnet.name}",
                                  f"<= {limits.ports} settings and {limits.text} characters")
            if subnet.quality is not None and not math.isfinite(subnet.quality):
                raise BundleError(MANIFEST, "subnet-quality", subnet.quality, "a finite number")
            regions, seconds, worst = subnet.budget.regions, subnet.budget.deadline_s, subnet.worst
            if (regions is not None and regions < 1) or (worst is not None and worst < 0) or (
                    seconds is not None and not 0 < seconds < math.inf):
                raise BundleError(MANIFEST, "subnet-budget", f"{regions} regions, {seconds} s, worst path {worst}",
                                  "at least 1 region and more than 0 s, or null")
        if manifest.fallback and manifest.fallback not in names:
            raise BundleError(MANIFEST, "fallback", repr(manifest.fallback), f"one of {', '.join(names)}, or \"\"")
        roles = [*(file for subnet in manifest.subnets for file in (subnet.program, subnet.reference)),
                 manifest.weights, manifest.parts, manifest.sharing, manifest.provenance, *manifest.tables]
        if len(set(roles)) != len(roles):
            raise BundleError(MANIFEST, "file-role", f"{len(roles)} roles of {len(set(roles))} files",
                              "one file for each program, reference, table, and for weights, parts, sharing, "
                              "provenance")

    def _listing(self) -> None:
        """Every file of the directory is listed and there is no other. Rules: "extra-file", "missing-file"."""
        found = set()
        with os.scandir(self.directory) as items:
            for item in items:
                if item.name not in self.entries and item.name != MANIFEST:
                    raise BundleError(item.name, "extra-file", "a file that the manifest does not list",
                                      "only listed files")
                found.add(item.name)
        for name in self.entries:
            if name not in found:
                raise BundleError(name, "missing-file", "no such file", "a file that the manifest lists")

    # ---------------------------------------------------------------------------------------------- parts
    def _fallback(self) -> None:
        """Rules: "fallback", "subnet-worst"."""
        name = self.manifest.fallback
        if name:
            modes = self.programs[name].modes
            if len(modes) > 1 or modes[0].state:
                raise BundleError(MANIFEST, "fallback", f"{name}, which keeps state", "a subnet without state")
        for subnet in self.manifest.subnets:
            found = worst_path(self.programs[subnet.name])
            if subnet.worst != found:
                raise BundleError(MANIFEST, "subnet-worst", f"{subnet.worst} regions for {subnet.name}",
                                  "unbounded (null)" if found is None else found)

    def _program(self, name: str) -> schema.Program:
        """Rules: those of `_verified`, `decode_json` and `check_program`."""
        program = decode_json(self._verified(name, self.limits.json_bytes), schema.Program, name, self.limits)
        try:
            check_program(program, self.limits)
        except ProgramError as error:
            raise BundleError(name, error.rule, f"{error.given} at {error.where}", error.expected) from None
        for region in program.regions:
            for file in region.files.values():
                if file not in self.entries:
                    raise BundleError(file, "unlisted-file", f"a file of region {region.name}", "a listed file")
        return program

    def contents(self) -> Contents:
        """Read, verify and check all remaining files.

        Rules: those of `_verified`, `decode_json`, `read_tensors`, `Weights` and `check_tree`, "missing-weight",
        "state-type", "file-role", and for the references "reference-entry", "reference-count", "reference-tensor",
        "reference-leaf", "tolerance".
        """
        limits, manifest = self.limits, self.manifest
        stored = read_tensors(self._verified(manifest.weights, limits.tensors_bytes, mapped=True),
                              manifest.weights, limits)
        weights = Weights(stored, self._decoded(manifest.parts, schema.Parts), manifest.parts, limits)
        for program in self.programs.values():
            self._check_weights(program, weights)
        files: dict[str, dict[str, np.ndarray]] = {}
        references = {}
        for subnet in manifest.subnets:
            reference = self._decoded(subnet.reference, schema.Reference)
            if reference.tensors not in files:
                files[reference.tensors] = read_tensors(
                    self._verified(reference.tensors, limits.tensors_bytes, mapped=True), reference.tensors, limits)
            self._check_reference(subnet, reference, files[reference.tensors])
            references[subnet.name] = reference, files[reference.tensors]
        provenance = self.provenance()
        tables = self.tables()
        taken = {manifest.weights, manifest.parts, manifest.sharing, manifest.provenance, *files, *tables,
                 *(name for subnet in manifest.subnets for name in (subnet.program, subnet.reference))}
        artefacts, room = {}, limits.region_bytes
        for name in self.entries:
            if name not in taken:
                artefacts[name] = self._verified(name, room)
                room -= len(artefacts[name])
        for region in (region for program in self.programs.values() for region in program.regions):
            if taken.intersection(region.files.values()):
                raise BundleError(next(name for name in region.files.values() if name in taken), "file-role",
                                  f"a file of region {region.name}", "a file that is nothing else")
        return Contents(artefacts, weights, references, provenance, self.sharing(), tables)

    def tables(self) -> dict[str, memoryview]:
        """The bytes of each latency table, by file name, as they are."""
        return {name: self._verified(name, self.limits.json_bytes) for name in self.manifest.tables}

    def sharing(self) -> schema.Sharing:
        """What the subnets share, as the compiler tells it. Rules: those of `_verified` and `decode_json`."""
        return self._decoded(self.manifest.sharing, schema.Sharing)

    def provenance(self) -> schema.Provenance:
        """Where the bundle comes from. Rules: those of `_verified` and `decode_json`."""
        return self._decoded(self.manifest.provenance, schema.Provenance)

    def _decoded(self, name: str, kind: Any) -> Any:
        return decode_json(self._verified(name, self.limits.json_bytes), kind, name, self.limits)

    def _check_weights(self, program: schema.Program, weights: Weights) -> None:
        file = self.manifest.weights
        for region in program.regions:
            for use in region.weights:
                if use.tensor not in weights:
                    raise BundleError(file, "missing-weight", f"no {use.tensor!r}, used by {region.name}",
                                      "every weight that a region uses")
        dims: dict[str, int | str] = {}
        for name, kind in zip(program.initial, program.modes[0].state, strict=True):
            value = weights.get(name)
            if value is None or not state_fits(value, kind, dims):
                raise BundleError(file, "state-type", f"{name!r}: " + ("absent" if value is None else
                                  f"{value.dtype}{list(value.shape)}"), "the first mode's state, as declared")

    def _check_reference(self, subnet: schema.Subnet, reference: schema.Reference,
                         tensors: dict[str, np.ndarray]) -> None:
        file, entries = subnet.reference, self.programs[subnet.name].entries
        if not (0 <= reference.rtol < 1 and 0 <= reference.atol < float("inf")):
            raise BundleError(file, "tolerance", f"rtol {reference.rtol}, atol {reference.atol}", "0 <= rtol < 1")
        for number, call in enumerate(reference.calls):
            if not 0 <= call.entry < len(entries):
                raise BundleError(file, "reference-entry", f"entry {call.entry} in call {number}",
                                  f"0 to {len(entries) - 1}")
            if len(call.inputs) != len(entries[call.entry].inputs):
                raise BundleError(file, "reference-count", f"{len(call.inputs)} inputs in call {number}",
                                  len(entries[call.entry].inputs))
            for name in (*call.inputs, *call.outputs):
                if name not in tensors:
                    raise BundleError(file, "reference-tensor", f"{name!r} in call {number}",
                                      f"a tensor of {reference.tensors}")
            try:
                check_tree(call.result, f"calls[{number}].result", self.limits)
            except ProgramError as error:
                raise BundleError(file, error.rule, f"{error.given} at {error.where}", error.expected) from None
            for leaf in leaves(call.result):
                if not 0 <= leaf < len(call.outputs):
                    raise BundleError(file, "reference-leaf", f"output {leaf} in call {number}",
                                      f"one of {len(call.outputs)}")


def state_fits(value: np.ndarray, kind: schema.ValueType, dims: dict[str, int | str]) -> bool:
    """Whether a stored tensor can be a state's first value; a scalar is stored as a tensor without dimensions."""
    if isinstance(kind, schema.ScalarType):
        kinds = {"bool": "b", "int": "iu", "float": "f"}[kind.kind]
        return value.ndim == 0 and value.dtype.kind in kinds
    return fits(schema.TensorType(value.dtype.name, value.shape), kind, dims)


def _read(descriptor: int, size: int, name: str) -> bytes:
    data = os.read(descriptor, size)
    if len(data) != size:
        raise BundleError(name, "truncated", f"{len(data)} bytes", f"{size}")
    return data


def _file_kind(mode: int) -> str:
    kinds = {"a directory": stat.S_ISDIR, "a named pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK,
             "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode)}
    return next((kind for kind, test in kinds.items() if test(mode)), "a special file")

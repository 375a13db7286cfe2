"""What a written bundle holds, and which parts do not make one."""
from __future__ import annotations

import dataclasses
import hashlib

import msgspec
import numpy as np
import pytest

from elastic_compile.bundle import provenance, write
from elastic_compile.errors import InternalError
from elastic_runtime import schema
from tests.programs import scalar_parts


def test_the_manifest_lists_every_other_file_with_its_hash(tmp_path):
    write(tmp_path / "m", scalar_parts())
    manifest = schema.decode((tmp_path / "m" / "manifest.json").read_bytes(), schema.Manifest)
    listed = {entry.name: (entry.size, entry.sha256) for entry in manifest.files}
    found = {file.name: (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
             for file in (tmp_path / "m").iterdir() if file.name != "manifest.json"}
    assert listed == found
    assert (manifest.format, manifest.version) == (schema.FORMAT, schema.SCHEMA_VERSION)
    assert manifest.name == "doubler"


def test_equal_parts_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, scalar_parts())
    assert {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}


def test_program_and_reference_come_back_as_written(tmp_path):
    parts = scalar_parts()
    write(tmp_path / "m", parts)
    for name, kind, given in (("program", schema.Program, parts.programs),
                              ("reference", schema.Reference, parts.references)):
        assert (schema.decode((tmp_path / "m" / f"{name}.json").read_bytes(), kind),) == given


REGION = schema.Region(
    name="r0", engine="onnxruntime", files={"model": "r0.onnx"}, inputs=(), outputs=(),
    weights=(schema.WeightUse(name="w", tensor="w0"),))


@pytest.mark.parametrize(("changes", "message"), [
    ({"files": {"r0.onnx": b""}}, "region artefacts given but not named: r0.onnx"),
    ({"weights": {"w0": np.zeros(2)}}, "weights given but not named: w0"),
    ({"reference_tensors": {}}, "reference tensors named but not given: t0, t1, t2"),
    ({"regions": (REGION,), "weights": {"w0": np.zeros(2)}}, "region artefacts named but not given: r0.onnx"),
    ({"regions": (REGION,), "files": {"r0.onnx": b""}}, "weights named but not given: w0"),
    ({"files": {"../r0.onnx": b""}}, "not a plain file name"),
    ({"files": {"program.json": b""}}, "take other files' names: program.json"),
    ({"files": {"R0.onnx": b"", "r0.onnx": b""}}, "differ only in case"),
])
def test_parts_that_do_not_belong_together_are_refused(tmp_path, changes, message):
    parts = scalar_parts()
    if "regions" in changes:
        program = msgspec.structs.replace(parts.programs[0], regions=changes["regions"])
        changes = {name: change for name, change in changes.items() if name != "regions"} | {"programs": (program,)}
    with pytest.raises(InternalError, match=message):
        write(tmp_path / "m", dataclasses.replace(parts, **changes))
    assert not list(tmp_path.iterdir())


def test_provenance_says_what_made_the_bundle(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    found = provenance.collect(["def forward(): ..."], {"backend": "onnxruntime", "threads": 1})
    assert found.created == "1970-01-01T00:00:00+00:00"
    assert found.options == {"backend": "onnxruntime", "threads": "1"}
    assert {"python", "torch", "numpy"} <= found.versions.keys()
    assert int(found.device["cores"]) >= 1
    assert found == provenance.collect(["def forward(): ..."], {"backend": "onnxruntime", "threads": 1})


def test_the_source_hash_tells_where_one_text_ends():
    one, other = (provenance.collect(texts, {}) for texts in (["ab", "c"], ["a", "bc"]))
    assert one.source_sha256 != other.source_sha256

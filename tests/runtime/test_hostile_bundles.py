"""Each promise of the loader, against a bundle made to break it.

Every case expects `BundleError` with the file and the rule, no engine asked for anything, and no descriptor left.
"""
from __future__ import annotations

import gc
import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import elastic_runtime as er
from elastic_runtime import schema as s
from tests.runtime.handmade import (
    ON_SIGN_WEIGHTS,
    RUNNING_SUM_WEIGHTS,
    NativeEngine,
    NumpyEngine,
    const,
    edit,
    encode_tensors,
    leaf,
    on_sign,
    running_sum,
    seal,
    write_bundle,
)

CALL = s.ReferenceCall(entry=0, inputs=("x",), outputs=("y",), path=(0, 1, 3),
                       result=s.MapNode(keys=("y", "kind"), items=(leaf(0), const("out"))))
TENSORS = {"x": np.array([1, 2], np.float32), "y": np.array([2, 4], np.float32)}


@pytest.fixture
def bundle(tmp_path) -> Path:
    return write_bundle(tmp_path / "model.elastic", on_sign(), ON_SIGN_WEIGHTS, calls=[CALL], tensors=TENSORS,
                        files={"extra.bin": b"payload"})


def descriptors() -> set[str]:
    gc.collect()  # what earlier tests left in cycles
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(name + os.readlink(f"/proc/self/fd/{name}"))
    return {item for item in found if "/proc/" not in item}


@dataclass(frozen=True)
class Told:
    """What an error said, kept without the frames that the error itself holds."""

    text: str
    given: str
    expected: str


def refused(path: Path, file: str, rule: str, error: type = er.BundleError, **options) -> Told:
    before = descriptors()
    try:
        er.load(path, **options)
    except error as caught:  # not pytest.raises, which would keep the frames and what is open in them
        told = Told(str(caught), caught.given, caught.expected)
        assert (caught.file, caught.rule) == (file, rule), caught
        assert told.given and told.expected and caught.hint and file in told.text
    else:
        pytest.fail(f"no {error.__name__}")
    assert descriptors() == before
    assert NumpyEngine.loaded == [] and NumpyEngine.called == []
    return told


def test_the_bundle_that_the_cases_break_is_fine(bundle, numpy_engine):
    before = descriptors()
    model = er.load(bundle, self_test=True)
    assert numpy_engine.loaded == ["positive", "double", "add"]
    del model
    assert descriptors() == before


# --------------------------------------------------------------------------------------------------- the directory
def test_no_bundle(tmp_path):
    refused(tmp_path / "none", str(tmp_path / "none"), "no-bundle")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", str(tmp_path / "file"), "no-bundle")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "manifest.json", "missing-file")


def test_a_file_that_the_manifest_does_not_list(bundle):
    (bundle / "more.bin").write_bytes(b"")
    refused(bundle, "more.bin", "extra-file")


def test_a_folder_in_the_bundle(bundle):
    (bundle / "folder").mkdir()
    refused(bundle, "folder", "extra-file")


@pytest.mark.parametrize("name", ["program.json", "weights.safetensors", "reference.json", "provenance.json",
                                  "reference.safetensors", "extra.bin"])
def test_a_listed_file_that_is_missing(bundle, name):
    (bundle / name).unlink()
    refused(bundle, name, "missing-file")


EVERY_FILE = ["manifest.json", "program.json", "weights.safetensors", "weights.json", "sharing.json",
              "reference.json", "provenance.json", "reference.safetensors", "extra.bin"]


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_symbolic_link(bundle, tmp_path, name):
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    refused(bundle, name, "symlink")


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_hard_link(bundle, tmp_path, name):
    os.link(bundle / name, tmp_path / "other-name")
    refused(bundle, name, "hard-link")


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_is_not_a_regular_file(bundle, name, kind, monkeypatch):
    path = bundle / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(bundle)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    else:
        try:
            os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("needs the right to make devices")
    refused(bundle, name, "not-regular")


# ---------------------------------------------------------------------------------------------------- the manifest
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", ".", ".hidden", "", "a\0b", "a\\b",
                                  "weiß", "a b", "x" * 201, "C:evil", "a\n"])
def test_names_that_are_not_plain(bundle, name):
    entry = {"name": name, "size": 0, "sha256": "0" * 64}
    edit(bundle, "manifest.json", lambda plain: plain["files"].append(entry), reseal=False)
    assert len(refused(bundle, "manifest.json", "file-name").text) < 500


@pytest.mark.parametrize("field", ["program", "weights", "parts", "sharing", "reference", "provenance", "tables"])
@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "not-there.json", "manifest.json"])
def test_parts_that_are_not_listed_files(bundle, field, name):
    def change(plain):
        place = plain["subnets"][0] if field in ("program", "reference") else plain
        place[field] = [name] if field == "tables" else name

    edit(bundle, "manifest.json", change, reseal=False)
    refused(bundle, name, "unlisted-file")


def _listed(plain: dict, name: str) -> dict:
    return next(entry for entry in plain["files"] if entry["name"] == name)


@pytest.mark.parametrize("change,file,rule", [
    (lambda p: p.update(format="zip"), "manifest.json", "format"),
    (lambda p: p.pop("version"), "manifest.json", "json-schema"),
    (lambda p: p.update(version="1"), "manifest.json", "json-schema"),
    (lambda p: p.update(version=True), "manifest.json", "json-schema"),
    (lambda p: p.update(more=1), "manifest.json", "json-schema"),
    (lambda p: p["files"][0].update(mode=0o777), "manifest.json", "json-schema"),
    (lambda p: p["files"].append(p["files"][0]), "extra.bin", "file-entry"),
    (lambda p: p["files"].append({"name": "manifest.json", "size": 1, "sha256": "0" * 64}), "manifest.json",
     "file-entry"),
    (lambda p: p["files"][0].update(size=-1), "extra.bin", "file-entry"),
    (lambda p: p["files"][0].update(size=1e3), "manifest.json", "json-schema"),
    (lambda p: p["files"][0].update(sha256="0" * 63), "extra.bin", "file-entry"),
    (lambda p: p["files"][0].update(sha256="A" * 64), "extra.bin", "file-entry"),
    (lambda p: p["files"][0].update(sha256="0" * 64), "extra.bin", "hash"),
    (lambda p: p["files"][0].update(size=100), "extra.bin", "truncated"),
    (lambda p: p["files"][0].update(size=3), "extra.bin", "file-size"),
    (lambda p: p["files"].pop(0), "extra.bin", "extra-file"),
])
def test_manifests(bundle, change, file, rule):
    edit(bundle, "manifest.json", change, reseal=False)
    refused(bundle, file, rule)


@pytest.mark.parametrize("change,rule", [
    (lambda p: p.update(subnets=[]), "subnet-count"),
    (lambda p: p["subnets"].append(dict(p["subnets"][0])), "subnet-name"),
    (lambda p: p["subnets"][0].update(name=""), "subnet-name"),
    (lambda p: p["subnets"][0].update(name="../x"), "subnet-name"),
    (lambda p: p["subnets"][0].update(name="a\n"), "subnet-name"),
    (lambda p: p["subnets"][0].update(name="x" * 65), "subnet-name"),
    (lambda p: p["subnets"].append(p["subnets"][0] | {"name": "b"}), "file-role"),
    (lambda p: p["subnets"][0].update(reference="program.json"), "file-role"),
    (lambda p: p.update(parts="weights.safetensors"), "file-role"),
    (lambda p: p.update(sharing="provenance.json"), "file-role"),
    (lambda p: p.update(tables=["extra.bin", "extra.bin"]), "file-role"),
    (lambda p: p.update(tables=["reference.json"]), "file-role"),
    (lambda p: p["subnets"][0].update(quality=float("nan")), "subnet-quality"),
    (lambda p: p["subnets"][0].update(quality=float("inf")), "subnet-quality"),
    (lambda p: p["subnets"][0].update(quality="best"), "json-schema"),
    (lambda p: p["subnets"][0].update(config={"a": [1]}), "json-schema"),
    (lambda p: p["subnets"][0].update(config={"a": "x" * 30_000}), "subnet-config"),
    (lambda p: p["subnets"][0].update(config={str(n): n for n in range(30_000)}), "subnet-config"),
    (lambda p: p["subnets"][0].update(command="rm"), "json-schema"),
])
def test_subnets_that_are_none(bundle, change, rule):
    edit(bundle, "manifest.json", change, reseal=False)
    refused(bundle, "manifest.json", rule)


def test_more_subnets_than_the_limit(bundle):
    refused(bundle, "manifest.json", "subnet-count", limits=er.Limits(subnets=0))


def test_a_region_whose_file_has_another_role(bundle):
    edit(bundle, "program.json", lambda plain: plain["regions"][0].update(files={"model": "provenance.json"}))
    refused(bundle, "provenance.json", "file-role")


@pytest.mark.parametrize("version,advice", [
    (3, "Upgrade elastic-runtime"), (1, "Compile the model again"), (0, "Compile the model again")])
def test_another_schema_version(bundle, version, advice):
    edit(bundle, "manifest.json", lambda plain: plain.update(version=version, new_in_this_version={}), reseal=False)
    told = refused(bundle, "manifest.json", "version", er.VersionError)
    assert f"version {version}" in told.given and f"version {s.SCHEMA_VERSION}" in told.expected
    assert advice in told.text


@pytest.mark.parametrize("raw,rule", [
    (b"", "json-syntax"), (b"{", "json-syntax"), (b"\xff{}", "json-syntax"), (b"[]", "json-schema"),
    (b"null", "json-schema"), (b"[" * 5_000_000, "json-depth"), (b'{"a":' * 200 + b"1" + b"}" * 200, "json-depth"),
    (b'{"format": "elastic-bundle", "format": "elastic-bundle"}', "json-duplicate-key"),
    (b'{"format": "elastic-bundle", "version": 1' + b"1" * 5000 + b"}", "json-syntax"),
    (b'["' + b'\\"' * 1_000_000 + b"[" * 1_000_000, "json-syntax"),
])
def test_manifests_that_are_not_json(bundle, raw, rule):
    (bundle / "manifest.json").write_bytes(raw)
    refused(bundle, "manifest.json", rule)


def test_brackets_in_strings_are_no_nesting(bundle):
    edit(bundle, "program.json", lambda plain: plain.update(name="[" * 300 + '\\"{'))
    assert er.load(bundle).program.name.startswith("[[[")


# ----------------------------------------------------------------------------------------------- the other files
@pytest.mark.parametrize("name", EVERY_FILE[1:])
def test_a_changed_byte(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, name, "hash")


@pytest.mark.parametrize("name", EVERY_FILE[1:])
def test_a_truncated_file(bundle, name):
    os.truncate(bundle / name, (bundle / name).stat().st_size // 2)
    refused(bundle, name, "truncated")


@pytest.mark.parametrize("name", EVERY_FILE[1:])
def test_a_grown_file(bundle, name):
    with (bundle / name).open("ab") as file:
        file.write(b" ")
    refused(bundle, name, "file-size")


def test_a_file_beyond_its_limit_is_not_read(bundle):
    with (bundle / "extra.bin").open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading or allocating it would end the test
    edit(bundle, "manifest.json", lambda p: _listed(p, "extra.bin").update(size=1 << 40), reseal=False)
    refused(bundle, "extra.bin", "file-size")


@pytest.mark.parametrize("limits,file,rule", [
    (er.Limits(files=3), "manifest.json", "file-count"), (er.Limits(json_bytes=100), "manifest.json", "file-size"),
    (er.Limits(region_bytes=3), "extra.bin", "file-size"),
    (er.Limits(tensors_bytes=20), "weights.safetensors", "file-size"),
    (er.Limits(header_bytes=20), "weights.safetensors", "tensors-header"),
    (er.Limits(json_depth=3), "manifest.json", "json-depth"),
    (er.Limits(json_depth=4), "program.json", "json-depth"), (er.Limits(values=3), "program.json", "count"),
    (er.Limits(blocks=3), "program.json", "count"), (er.Limits(regions=2), "program.json", "count"),
    (er.Limits(steps=2), "program.json", "steps"), (er.Limits(depth=0), "program.json", "tree-depth"),
])
def test_limits_are_kept(bundle, limits, file, rule):
    refused(bundle, file, rule, limits=limits)


@pytest.mark.parametrize("name,change,rule", [
    ("program.json", lambda p: p.update(unknown=1), "json-schema"),
    ("program.json", lambda p: p.pop("blocks"), "json-schema"),
    ("program.json", lambda p: p["blocks"][0]["terminator"].update(t="exec"), "json-schema"),
    ("program.json", lambda p: p["blocks"][0]["terminator"]["then"].update(block=99), "block-number"),
    ("program.json", lambda p: p["values"][0].update(dtype="object"), "dtype"),
    ("program.json", lambda p: p["values"][0].update(dtype="bfloat16"), "dtype"),
    ("program.json", lambda p: p["values"][0].update(shape=[1 << 50]), "dimension"),
    ("program.json", lambda p: p["values"][0].update(shape=[1] * 100), "rank"),
    ("program.json", lambda p: p["regions"][0].update(engine="../../os"), "engine-name"),
    ("program.json", lambda p: p["regions"][0].update(files={"model": "../x"}), "file-name"),
    ("reference.json", lambda p: p.update(rtol=float("nan")), "tolerance"),
    ("reference.json", lambda p: p.update(atol=float("inf")), "tolerance"),
    ("reference.json", lambda p: p["calls"][0].update(entry=1), "reference-entry"),
    ("reference.json", lambda p: p["calls"][0].update(inputs=[]), "reference-count"),
    ("reference.json", lambda p: p["calls"][0].update(inputs=["z"]), "reference-tensor"),
    ("reference.json", lambda p: p["calls"][0].update(result={"t": "value", "id": 1}), "reference-leaf"),
    ("reference.json", lambda p: p["calls"][0].update(result={"t": "float", "v": "one"}), "literal"),
    ("reference.json", lambda p: p.update(command="rm"), "json-schema"),
    ("provenance.json", lambda p: p.update(versions={"torch": 2}), "json-schema"),
])
def test_parts_that_mean_nothing(bundle, name, change, rule):
    edit(bundle, name, change)
    refused(bundle, name, rule)


def test_a_reference_tensor_file_that_is_not_listed(bundle):
    edit(bundle, "reference.json", lambda plain: plain.update(tensors="../weights"))
    refused(bundle, "../weights", "unlisted-file")


def test_a_region_file_that_is_not_listed(bundle):
    edit(bundle, "program.json", lambda plain: plain["regions"][0].update(files={"model": "none.onnx"}))
    refused(bundle, "none.onnx", "unlisted-file")


def test_a_duplicate_key_deep_inside(bundle):
    text = (bundle / "program.json").read_text()
    (bundle / "program.json").write_text(text.replace('"label": "decide"', '"label": "a", "label": "decide"'))
    seal(bundle)
    refused(bundle, "program.json", "json-duplicate-key")


def test_weights_that_a_region_needs(bundle):
    (bundle / "weights.safetensors").write_bytes(encode_tensors({"v": np.zeros(1, np.float32)}))
    seal(bundle)
    refused(bundle, "weights.safetensors", "missing-weight")


@pytest.mark.parametrize("wrong", [
    {"count": np.array(0, np.int64)}, {"total": np.zeros(3, np.float32)}, {"total": np.zeros(2, np.float64)},
    {"count": np.array([0], np.int64)}, {"count": np.array(0, np.float32)}])
def test_a_first_state_of_another_type(tmp_path, wrong):
    weights = wrong if len(wrong) == 1 and "total" not in wrong and wrong["count"].shape == () \
        and wrong["count"].dtype == np.int64 else RUNNING_SUM_WEIGHTS | wrong
    path = write_bundle(tmp_path / "b", running_sum(), weights)
    refused(path, "weights.safetensors", "state-type")


# --------------------------------------------------------------------------------------------------- parts of tensors
STORED = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "i": np.array([2, 0], np.int64),
          "far": np.array([0, 4], np.int64), "below": np.array([-1], np.int64), "flat": np.zeros((1, 1), np.int64)}


def view(**changes: object) -> dict:
    return {"t": "view", "tensor": "w", "offset": 0, "shape": [2, 2], "strides": [4, 1]} | changes


def gather(*indices: str | None, tensor: str = "w") -> dict:
    return {"t": "gather", "tensor": tensor, "indices": list(indices)}


@pytest.mark.parametrize("part,rule", [
    (view(tensor="x"), "part-tensor"), (view(tensor="p"), "part-tensor"),
    (gather(None, None, tensor="p"), "part-tensor"),
    (view(offset=-1), "part-bounds"), (view(strides=[-4, 1]), "part-bounds"), (view(shape=[2, -2]), "part-bounds"),
    (view(offset=7), "part-bounds"), (view(strides=[11, 1]), "part-bounds"), (view(shape=[4, 4]), "part-bounds"),
    (view(offset=1 << 62), "part-bounds"), (view(strides=[1 << 62, 1 << 62]), "part-bounds"),
    (view(offset=13, shape=[0]), "part-rank"), (view(offset=13, shape=[0, 2]), "part-bounds"),
    (view(shape=[2]), "part-rank"), (view(shape=[1] * 99, strides=[0] * 99), "part-rank"),
    (view(shape=[1 << 40, 1 << 40], strides=[0, 0]), "part-elements"), (view(shape=[13], strides=[0]), "part-elements"),
    (gather("i"), "part-rank"), (gather(None, None, None), "part-rank"), (gather("far", None), "part-index"),
    (gather("below", None), "part-index"), (gather("flat", None), "part-index"), (gather("w", None), "part-index"),
    (gather("none", None), "part-index"), (gather("p", None), "part-index"), (gather("far", "far"), "part-index"),
    ({"t": "eval", "tensor": "w"}, "json-schema"), (view(more=1), "json-schema"), (view(offset=0.5), "json-schema"),
])
def test_parts_of_weights(tmp_path, part, rule):
    path = write_bundle(tmp_path / "b", on_sign(), ON_SIGN_WEIGHTS | {n: a for n, a in STORED.items() if n != "w"})
    (path / "weights.safetensors").write_bytes(encode_tensors(STORED))
    edit(path, "program.json", lambda plain: plain["regions"][2]["weights"][0].update(tensor="p"))
    (path / "weights.json").write_text(json.dumps({"parts": {"p": part}}))
    seal(path)
    refused(path, "weights.json", rule)


def test_a_part_with_the_name_of_a_stored_tensor(tmp_path):
    path = write_bundle(tmp_path / "b", on_sign(), {"w": np.arange(4, dtype=np.float32)},
                        parts={"w": s.View(tensor="w", offset=0, shape=(1,), strides=(1,))})
    refused(path, "weights.json", "part-name")


@pytest.mark.parametrize("limits,rule", [(er.Limits(parts=0), "part-count"), (er.Limits(part_bytes=7), "part-bytes")])
def test_limits_on_parts(tmp_path, limits, rule):
    path = write_bundle(tmp_path / "b", on_sign(), {"v": np.arange(4, dtype=np.float32)},
                        parts={"w": s.View(tensor="v", offset=0, shape=(2,), strides=(2,))})
    refused(path, "weights.json", rule, limits=limits)


@pytest.mark.parametrize("name,change", [
    ("sharing.json", lambda p: p.update(stored="much")), ("sharing.json", lambda p: p.update(more=1)),
    ("weights.json", lambda p: p.update(more=1)),
])
def test_what_is_told_of_weights_is_checked_too(bundle, name, change):
    edit(bundle, name, change)
    refused(bundle, name, "json-schema")


# ------------------------------------------------------------------------------------------------------- tensors
def tensor_file(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def tensor(begin: int, end: int, shape: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("data,rule", [
    (b"", "tensors-truncated"), (b"\0" * 9, "tensors-truncated"),
    (tensor_file({}, length=1 << 62), "tensors-header"), (tensor_file({}, length=99), "tensors-header"),
    (tensor_file(b"[]"), "tensors-header"), (tensor_file(b" {}"), "tensors-header"), (tensor_file(b"{"), "json-syntax"),
    (tensor_file(b"{" + b'"a":{' * 300), "json-depth"),
    (tensor_file(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{}}', b"\0" * 4), "json-duplicate-key"),
    (tensor_file({"w": 1}), "json-schema"), (tensor_file({"w": {"dtype": "F32"}}), "tensors-header"),
    (tensor_file({"w": tensor(0, 4, [1]) | {"pickle": "x"}}, b"\0" * 4), "tensors-header"),
    (tensor_file({"w": tensor(0, 4, ["1"])}, b"\0" * 4), "tensors-header"),
    (tensor_file({"w": tensor(0, 2, [1], "BF16")}, b"\0" * 2), "tensors-dtype"),
    (tensor_file({"w": tensor(0, 8, [1], "O")}, b"\0" * 8), "tensors-dtype"),
    (tensor_file({"w": tensor(0, 4, [2])}, b"\0" * 4), "tensors-size"),
    (tensor_file({"w": tensor(0, 4, [-1])}, b"\0" * 4), "tensors-size"),
    (tensor_file({"w": tensor(0, 4, [-1, -1])}, b"\0" * 4), "tensors-size"),
    (tensor_file({"w": tensor(0, 4, [1 << 62, 1 << 62, 0, 1])}, b"\0" * 4), "tensors-size"),
    (tensor_file({"w": tensor(0, 0, [0] * 99)}), "tensors-size"),
    (tensor_file({"w": tensor(-4, 0, [1])}), "tensors-size"), (tensor_file({"w": tensor(4, 0, [1])}), "tensors-size"),
    (tensor_file({"w": tensor(0, 4, [1])}), "tensors-truncated"),
    (tensor_file({"w": tensor(0, 4, [1])}, b"\0" * 8), "tensors-gap"),
    (tensor_file({"w": tensor(4, 8, [1])}, b"\0" * 8), "tensors-gap"),
    (tensor_file({"w": tensor(0, 4, [1]), "v": tensor(0, 4, [1])}, b"\0" * 4), "tensors-overlap"),
    (tensor_file({"w": tensor(0, 8, [2]), "v": tensor(4, 12, [2])}, b"\0" * 12), "tensors-overlap"),
    (tensor_file({"v": tensor(0, 1, [1], "U8"), "w": tensor(1, 5, [1])}, b"\0" * 5), "tensors-alignment"),
    (tensor_file({"w": tensor(0, 4, [1]), "v": tensor(4, 5, [1], "BOOL")}, b"\0" * 4 + b"\2"), "tensors-bool"),
    (tensor_file({"w" * 600: tensor(0, 4, [1])}, b"\0" * 4), "tensors-size"),
])
@pytest.mark.parametrize("name", ["weights.safetensors", "reference.safetensors"])
def test_tensor_files(bundle, name, data, rule):
    (bundle / name).write_bytes(data)
    seal(bundle)
    refused(bundle, name, rule)


def test_weights_are_read_only_views_of_one_mapping(bundle, monkeypatch):
    seen = {}
    monkeypatch.setattr(NumpyEngine, "load",
                        lambda self, region, files, weights, options: seen.update(weights) or (lambda inputs: inputs))
    model = er.load(bundle)
    del model
    owner = seen["w0"]
    assert not owner.flags.writeable and owner == 10
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert "mmap" in type(owner.obj).__name__


# ------------------------------------------------------------------------------------------------------ native code
@pytest.mark.parametrize("engine", [NativeEngine.name, "unmarked"])
def test_native_code_needs_consent_before_its_files_are_opened(bundle, engine):
    edit(bundle, "program.json", lambda plain: plain["regions"][1].update(engine=engine, files={"code": "extra.bin"}))
    (bundle / "extra.bin").unlink()
    os.mkfifo(bundle / "extra.bin")  # opening it would be refused by another rule
    with pytest.raises(er.NativeCodeRefused, match="allow_native=True") as caught:
        er.load(bundle)
    assert (caught.value.engine, caught.value.region) == (engine, "double")
    assert NumpyEngine.loaded == []


def test_native_code_loads_with_consent(bundle):
    edit(bundle, "program.json", lambda plain: plain["regions"][1].update(engine=NativeEngine.name))
    er.load(bundle, allow_native=True, self_test=True)


def test_an_engine_that_is_not_installed(bundle):
    edit(bundle, "program.json", lambda plain: plain["regions"][1].update(engine="os"))
    with pytest.raises(er.EngineMissing, match="numpy-test") as caught:
        er.load(bundle)
    assert caught.value.engine == "os"


def test_an_engine_that_fails_names_the_file(bundle, monkeypatch):
    edit(bundle, "program.json", lambda plain: plain["regions"][0].update(files={"model": "extra.bin"}))
    monkeypatch.setattr(NumpyEngine, "load", lambda *_: 1 / 0)
    told = refused(bundle, "extra.bin", "region")
    assert "ZeroDivisionError" in told.given


@pytest.mark.parametrize("threads", [0, -1, True, 1.0, None])
def test_threads(bundle, threads):
    with pytest.raises(er.InputError, match="threads"):
        er.load(bundle, threads=threads)


@pytest.mark.parametrize("change,rule", [
    (lambda p: p["subnets"][0]["budget"].update(regions=0), "subnet-budget"),
    (lambda p: p["subnets"][0]["budget"].update(regions=-1), "subnet-budget"),
    (lambda p: p["subnets"][0]["budget"].update(deadline_s=0.0), "subnet-budget"),
    (lambda p: p["subnets"][0]["budget"].update(deadline_s=float("inf")), "subnet-budget"),
    (lambda p: p["subnets"][0]["budget"].update(deadline_s=float("nan")), "subnet-budget"),
    (lambda p: p["subnets"][0]["budget"].update(hours=1), "json-schema"),
    (lambda p: p["subnets"][0].update(worst=-1), "subnet-budget"),
    (lambda p: p["subnets"][0].update(worst=1), "subnet-worst"),
    (lambda p: p["subnets"][0].update(worst=None), "subnet-worst"),
    (lambda p: p.update(fallback="none"), "fallback"),
])
def test_budgets_and_fallbacks_that_mean_nothing(bundle, change, rule):
    edit(bundle, "manifest.json", change, reseal=False)
    refused(bundle, "manifest.json", rule)


def test_a_fallback_that_keeps_state(tmp_path):
    path = write_bundle(tmp_path / "b", running_sum(), RUNNING_SUM_WEIGHTS)
    edit(path, "manifest.json", lambda plain: plain.update(fallback="main"), reseal=False)
    refused(path, "manifest.json", "fallback")

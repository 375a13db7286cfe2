"""Programs and bundles made by hand, and an engine that computes regions with NumPy.

In: schema objects and arrays. Out: bundle directories, and engines that note what they are asked.
Never: uses torch, the compiler, or the safetensors package: what is written here is written independently.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from elastic_runtime import schema as s
from elastic_runtime.worst import worst_path

_CODES = {"bool": "BOOL", "int8": "I8", "uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64",
          "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64", "complex128": "C128"}

OPERATIONS: dict[str, Callable[..., Sequence[np.ndarray]]] = {
    "identity": lambda x: [x],
    "double": lambda x: [x * 2],
    "inc": lambda x: [x + 1],
    "halve": lambda x: [x / 2],
    "add": lambda x, y: [x + y],
    "split": lambda x: [x + 1, x - 1],
    "sum": lambda x: [np.asarray(x.sum())],
    "positive": lambda x: [np.asarray(x.sum() > 0)],
    "above": lambda x: [np.asarray(x.sum() > 10)],
    "argmax": lambda x: [np.asarray(x.argmax())],
    "fail": lambda x: 1 / 0,
    "short": lambda x: [],
    "three": lambda x: [x, x, x],
}


class NumpyEngine:
    """Runs `region.options["op"]`; keeps what it was asked to load and to run."""

    name = "numpy-test"
    native: ClassVar[bool] = False
    loaded: ClassVar[list[str]] = []
    called: ClassVar[list[str]] = []

    def load(self, region, files, weights, options):
        self.loaded.append(region.name)
        operation = OPERATIONS[region.options["op"]]
        constants = list(weights.values())

        def kernel(inputs):
            self.called.append(region.name)
            return operation(*inputs, *constants)

        return kernel


class NativeEngine(NumpyEngine):
    name = "native-test"
    native = True


class Unmarked:
    """An engine that does not say whether it is native."""

    def load(self, region, files, weights, options):
        raise AssertionError("never loaded")


def f32(*shape: int | str) -> s.TensorType:
    return s.TensorType(dtype="float32", shape=shape)


BOOL0 = s.TensorType(dtype="bool", shape=())
INT, FLOAT, BOOL = (s.ScalarType(kind=kind) for kind in ("int", "float", "bool"))


def leaf(value: int) -> s.ValueLeaf:
    return s.ValueLeaf(id=value)


def const(value: object) -> s.Tree:
    return s.FloatLeaf(v=s.encode_float(value)) if isinstance(value, float) else s.ConstLeaf(v=value)


def param(name: str, tree: s.Tree, kind: str = "standard", default: bool = False) -> s.Parameter:
    return s.Parameter(name=name, kind=kind, tree=tree, default=default)


def region(op: str, inputs: Sequence[s.TensorType], outputs: Sequence[s.TensorType],
           weights: Sequence[str] = (), engine: str = NumpyEngine.name,
           files: Mapping[str, str] | None = None) -> s.Region:
    return s.Region(
        name=op, engine=engine, files=dict(files or {}), options={"op": op},
        inputs=tuple(s.Port(name=f"i{n}", type=kind) for n, kind in enumerate(inputs)),
        outputs=tuple(s.Port(name=f"o{n}", type=kind) for n, kind in enumerate(outputs)),
        weights=tuple(s.WeightUse(name=f"w{n}", tensor=name) for n, name in enumerate(weights)))


def run(number: int, inputs: Sequence[int], outputs: Sequence[int]) -> s.RegionStep:
    return s.RegionStep(region=number, inputs=tuple(inputs), outputs=tuple(outputs))


def host(op: str, inputs: Sequence[int], output: int, **literals: object) -> s.ScalarStep:
    """A scalar step; `host("add", [3], 4, at1=1)` is value 3 plus 1."""
    spliced = tuple((int(key[2:]), s.encode_literal(value)) for key, value in literals.items())
    return s.ScalarStep(op=op, inputs=tuple(inputs), outputs=(output,), literals=spliced)


def jump(block: int, *args: int) -> s.Jump:
    return s.Jump(block=block, args=args)


def branch(cond: int, then: s.Jump, orelse: s.Jump) -> s.Branch:
    return s.Branch(cond=cond, then=then, orelse=orelse)


def give(tree: s.Tree, mode: int = 0, carry: Sequence[int] = ()) -> s.Return:
    return s.Return(tree=tree, mode=mode, carry=tuple(carry))


def block(params: Sequence[int], steps: Sequence[s.Step], end: s.Terminator, label: str = "") -> s.Block:
    return s.Block(params=tuple(params), steps=tuple(steps), terminator=end, label=label)


def entry(params: Sequence[s.Parameter], inputs: Sequence[int], number: int = 0, name: str = "forward") -> s.Entry:
    return s.Entry(name=name, params=tuple(params), block=number, inputs=tuple(inputs))


def program(values: Sequence[s.ValueType], blocks: Sequence[s.Block], entries: Sequence[s.Entry],
            regions: Sequence[s.Region] = (), **more: object) -> s.Program:
    return s.Program(name="handmade", values=tuple(values), blocks=tuple(blocks), entries=tuple(entries),
                     regions=tuple(regions), **more)


def on_sign() -> s.Program:
    """x doubled when its sum is positive, else plus the weight "w"; then split in two."""
    x = f32("n")
    return program(
        values=[x, BOOL0, x, x, x, x, x, x],
        blocks=[
            block([0], [run(0, [0], [1])], branch(1, jump(1, 0), jump(2, 0)), "decide"),
            block([2], [run(1, [2], [3])], jump(3, 3)),
            block([4], [run(2, [4], [5])], jump(3, 5)),
            block([6], [], give(s.MapNode(keys=("y", "kind"), items=(leaf(6), const("out"))))),
        ],
        entries=[entry([param("x", leaf(0))], [0])],
        regions=[region("positive", [x], [BOOL0]), region("double", [x], [x]), region("add", [x], [x], ["w"])])


ON_SIGN_WEIGHTS = {"w": np.array([10], np.float32)}


def countdown() -> s.Program:
    """x doubled while a counter, the integer argument n, is above zero: a loop that carries a host scalar."""
    x = f32(3)
    return program(
        values=[x, INT, x, INT, BOOL, x, INT, x, INT, x],
        blocks=[
            block([0, 1], [], jump(1, 0, 1)),
            block([2, 3], [host("gt", [3], 4, at1=0)], branch(4, jump(2, 2, 3), jump(3, 2))),
            block([5, 6], [run(0, [5], [7]), host("sub", [6], 8, at1=1)], jump(1, 7, 8)),
            block([9], [], give(leaf(9))),
        ],
        entries=[entry([param("x", leaf(0)), param("n", leaf(1))], [0, 1])],
        regions=[region("double", [x], [x])])


def running_sum() -> s.Program:
    """A total that survives calls; the second mode takes no argument but resets the total to x0 doubled."""
    x = f32(2)
    return program(
        values=[x, x, x, x, x, INT, x, INT, INT],
        blocks=[
            block([0, 1, 5], [run(0, [0, 1], [2]), host("add", [5], 7, at1=1)],
                  give(s.SequenceNode(kind="tuple", items=(leaf(2), leaf(7))), carry=[2, 7])),
        ],
        entries=[entry([param("x", leaf(0))], [0])],
        regions=[region("add", [x, x], [x])],
        modes=(s.Mode(entries=(0,), state=(x, INT)),), initial=("total", "count"))


RUNNING_SUM_WEIGHTS = {"count": np.array(0, np.int64), "total": np.zeros(2, np.float32)}


# ----------------------------------------------------------------------------------------------------- writing
def encode_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file whose tensors are aligned to their item size."""
    header, at, parts = {}, 0, []
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [at, at + array.nbytes]}
        parts.append(np.ascontiguousarray(array).tobytes())
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def write_bundle(path: Path, made: s.Program, weights: Mapping[str, np.ndarray] = {}, *,
                 calls: Sequence[s.ReferenceCall] = (), tensors: Mapping[str, np.ndarray] = {},
                 files: Mapping[str, bytes] = {}, parts: Mapping[str, s.View | s.Gather] = {},
                 others: Mapping[str, s.Program] = {}) -> Path:
    """A bundle of `made`, the subnet "main", and of `others` by name, which have no reference calls."""
    path.mkdir(parents=True)
    for name, other in others.items():
        (path / f"program.{name}.json").write_bytes(s.encode(other))
        (path / f"reference.{name}.json").write_bytes(
            s.encode(s.Reference(tensors="reference.safetensors", calls=())))
    (path / "program.json").write_bytes(s.encode(made))
    (path / "weights.safetensors").write_bytes(encode_tensors(weights))
    (path / "weights.json").write_bytes(s.encode(s.Parts(parts=dict(parts))))
    (path / "sharing.json").write_bytes(s.encode(s.Sharing(stored=0, alone={}, subnets={}, regions={})))
    (path / "reference.json").write_bytes(s.encode(s.Reference(tensors="reference.safetensors", calls=tuple(calls))))
    (path / "reference.safetensors").write_bytes(encode_tensors(tensors))
    (path / "provenance.json").write_bytes(s.encode(s.Provenance(
        created="2025-01-01T00:00:00Z", versions={}, source_sha256="0" * 64, device={}, options={})))
    for name, content in files.items():
        (path / name).write_bytes(content)
    seal(path)
    return path


def seal(path: Path, **changes: object) -> None:
    """Write the manifest of what lies in `path`; `changes` replace its fields."""
    def about(name: str, ending: str) -> s.Subnet:
        program, reference = f"program{ending}.json", f"reference{ending}.json"
        try:
            worst = worst_path(s.decode((path / program).read_bytes(), s.Program))
        except Exception:  # a program made to be refused
            worst = None
        return s.Subnet(name=name, program=program, reference=reference, worst=worst)

    others = [file.name.split(".")[1] for file in sorted(path.glob("program.*.json"))]
    entries = []
    for file in sorted(path.iterdir()):
        if file.name != "manifest.json":
            data = file.read_bytes()
            entries.append(s.FileEntry(name=file.name, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
    manifest = s.Manifest(format=s.FORMAT, version=s.SCHEMA_VERSION, name="handmade", weights="weights.safetensors",
                          parts="weights.json", sharing="sharing.json", provenance="provenance.json",
                          subnets=(about("main", ""), *(about(name, f".{name}") for name in others)),
                          files=tuple(entries))
    plain = msgspec.to_builtins(manifest) | changes
    (path / "manifest.json").write_text(json.dumps(plain))


def edit(path: Path, name: str, change: Callable[[dict], object], reseal: bool = True) -> None:
    """Change a JSON file of the bundle and, unless told otherwise, make the manifest agree."""
    plain = json.loads((path / name).read_text())
    change(plain)
    (path / name).write_text(json.dumps(plain))
    if reseal:
        seal(path)

"""Regions over shared weights: one packed copy of them, and outputs equal to those of sessions of their own."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from elastic_runtime import private_cache, schema
from elastic_runtime.engines import EngineOptions, Part, onnx_packed
from elastic_runtime.engines.onnxruntime import OnnxRuntimeEngine
from elastic_runtime.errors import BundleError
from elastic_runtime.onnx_scan import SENTINEL

RANDOM = np.random.default_rng(0)
FLOAT, INT8, UINT8, INT32, INT64 = (
    TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64)


def normal(*shape: int) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * 0.1).astype(np.float32)


def part(name: str, nodes, x, y, weights: dict[str, np.ndarray]) -> Part:
    """A region of `nodes` from "x0" to "y0", each given as (ONNX type, shape)."""
    initializers = []
    for key, array in weights.items():
        tensor = TensorProto(name=key, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape,
                             data_location=TensorProto.EXTERNAL)
        for entry in ({"key": "location", "value": SENTINEL}, {"key": "length", "value": str(array.nbytes)}):
            tensor.external_data.add(**entry)
        initializers.append(tensor)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x0", *x)],
                              [helper.make_tensor_value_info("y0", *y)], initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])

    def port(name, kind, shape):
        dtype = helper.tensor_dtype_to_np_dtype(kind).name
        return schema.Port(name=name, type=schema.TensorType(dtype=dtype, shape=tuple(shape)))

    region = schema.Region(
        name=name, engine="onnxruntime", files={"model": f"{name}.bin"}, inputs=(port("x0", *x),),
        outputs=(port("y0", *y),), weights=tuple(schema.WeightUse(name=key, tensor=f"t{key}") for key in weights))
    return Part(region, {"model": memoryview(model.SerializeToString())}, weights)


def node(kind: str, inputs: str, output: str, domain: str = "", **attributes):
    return helper.make_node(kind, inputs.split(), [output], domain=domain, **attributes)


def pair(kind, inputs, x, y, weights, domain="", **attributes) -> list[Part]:
    """Two regions with the same weights that differ in what follows."""
    return [part(after.lower(), [node(kind, inputs, "t", domain, **attributes), node(after, "t", "y0")], x, y, weights)
            for after in ("Neg", "Abs")]


SIDE = 256
OPERATORS = {
    "MatMul": lambda: pair("MatMul", "x0 w", (FLOAT, [3, SIDE]), (FLOAT, [3, SIDE]), {"w": normal(SIDE, SIDE)}),
    "Gemm": lambda: pair("Gemm", "x0 w b", (FLOAT, [3, SIDE]), (FLOAT, [3, SIDE]),
                         {"w": normal(SIDE, SIDE), "b": normal(SIDE)}, transB=1),
    "free size": lambda: pair("MatMul", "x0 w", (FLOAT, ["n", SIDE]), (FLOAT, ["n", SIDE]),
                              {"w": normal(SIDE, SIDE)}),
    "MatMulInteger": lambda: pair("MatMulInteger", "x0 w", (UINT8, [3, SIDE]), (INT32, [3, SIDE]),
                                  {"w": RANDOM.integers(-99, 99, (SIDE, SIDE), np.int8)}),
    "LSTM": lambda: pair("LSTM", "x0 w r", (FLOAT, [5, 2, 64]), (FLOAT, [5, 1, 2, 64]),
                         {"w": normal(1, 256, 64), "r": normal(1, 256, 64)}, hidden_size=64),
    "GRU": lambda: pair("GRU", "x0 w r", (FLOAT, [5, 2, 64]), (FLOAT, [5, 1, 2, 64]),
                        {"w": normal(1, 192, 64), "r": normal(1, 192, 64)}, hidden_size=64),
    "Attention": lambda: pair("Attention", "x0 w b", (FLOAT, [1, 7, 64]), (FLOAT, [1, 7, 64]),
                              {"w": normal(64, 192), "b": normal(192)}, "com.microsoft", num_heads=4),
    "MatMulNBits": lambda: pair("MatMulNBits", "x0 w s", (FLOAT, [3, SIDE]), (FLOAT, [3, SIDE]),
                                {"w": RANDOM.integers(0, 255, (SIDE, 8, 16), np.uint8), "s": normal(SIDE * 8)},
                                "com.microsoft", K=SIDE, N=SIDE, bits=4, block_size=32),
    "Conv": lambda: pair("Conv", "x0 w", (FLOAT, [1, 32, 8, 8]), (FLOAT, [1, 32, 8, 8]), {"w": normal(32, 32, 3, 3)},
                         pads=[1, 1, 1, 1]),
    "Conv of odd channels": lambda: pair("Conv", "x0 w", (FLOAT, [1, 33, 8, 8]), (FLOAT, [1, 33, 8, 8]),
                                         {"w": normal(33, 33, 3, 3)}, pads=[1, 1, 1, 1]),
    "depthwise Conv": lambda: pair("Conv", "x0 w", (FLOAT, [1, 64, 8, 8]), (FLOAT, [1, 64, 8, 8]),
                                   {"w": normal(64, 1, 7, 7)}, pads=[3, 3, 3, 3], group=64),
    "ConvTranspose": lambda: pair("ConvTranspose", "x0 w", (FLOAT, [1, 32, 8, 8]), (FLOAT, [1, 32, 8, 8]),
                                  {"w": normal(32, 32, 3, 3)}, pads=[1, 1, 1, 1]),
    "Gather": lambda: pair("Gather", "w x0", (INT64, [4]), (FLOAT, [4, 64]), {"w": normal(64, 64)}),
}


@pytest.fixture
def options(tmp_path) -> EngineOptions:
    return EngineOptions(bundle="00" * 32, cache=tmp_path / "cache")


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Small weights are packed too."""
    monkeypatch.setattr("elastic_runtime.engines.onnxruntime.PACKED_FROM", 1)


def prepared(parts, options) -> OnnxRuntimeEngine:
    engine = OnnxRuntimeEngine()
    engine.prepare(parts, options)
    return engine


def inputs(one: Part, rows: int = 6) -> list[np.ndarray]:
    random, made = np.random.default_rng(1), []
    for port in one.region.inputs:
        dtype, shape = np.dtype(port.type.dtype), [rows if isinstance(size, str) else size for size in port.type.shape]
        made.append(random.standard_normal(shape).astype(dtype) if dtype.kind == "f"
                    else random.integers(0, 60, shape).astype(dtype))
    return made


def run(engine: OnnxRuntimeEngine, one: Part, options: EngineOptions):
    return engine.load(one.region, one.files, one.weights, options)(inputs(one))


def same_as_alone(engine, parts, options) -> None:
    for one in parts:
        for made, alone in zip(run(engine, one, options), run(OnnxRuntimeEngine(), one, options), strict=True):
            assert made.dtype == alone.dtype and np.array_equal(made, alone)


def entries(options: EngineOptions) -> list[Path]:
    return sorted(options.cache.iterdir()) if options.cache.exists() else []


# ---------------------------------------------------------------------------------------- sharing and equality
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_region_computes_what_it_computes_alone_with_one_copy_of_the_weights(operator, options):
    parts = OPERATORS[operator]()
    for engine in (prepared(parts, options), prepared(parts, options)):  # made, then found
        assert len(engine._sessions) == len(parts)
        same_as_alone(engine, parts, options)
    entry, = entries(options)
    places = [{tensor.name: [(item.key, item.value) for item in tensor.external_data]
               for tensor in onnx.load_from_string(file.read_bytes()).graph.initializer if tensor.external_data}
              for file in sorted(entry.iterdir()) if len(file.name) == 64]
    assert len(places) == 2
    for tensors in places:
        for described in tensors.values():
            assert dict(described)["location"] == onnx_packed.DATA
    large = max(array.nbytes for array in parts[0].weights.values()) >= onnx_packed._EXTERNAL_FROM
    assert places[0] == places[1] and bool(places[0]) == large


def test_a_region_with_weights_of_its_own_joins(options):
    shared = OPERATORS["MatMul"]()
    own = part("own", [node("MatMul", "x0 w", "y0")], (FLOAT, [3, SIDE]), (FLOAT, [3, SIDE]), {"w": normal(SIDE, SIDE)})
    plain = part("plain", [node("Neg", "x0", "y0")], (FLOAT, [3]), (FLOAT, [3]), {})
    engine = prepared([*shared, own, plain], options)
    assert len(engine._sessions) == 3
    same_as_alone(engine, [*shared, own, plain], options)


def test_strided_weights_are_taken(options):
    wide = normal(SIDE, 2 * SIDE)
    parts = [part(after.lower(), [node("MatMul", "x0 w", "t"), node(after, "t", "y0")], (FLOAT, [3, SIDE]),
                  (FLOAT, [3, SIDE]), {"w": wide[:, :SIDE]}) for after in ("Neg", "Abs")]
    engine = prepared(parts, options)
    assert len(engine._sessions) == 2
    same_as_alone(engine, parts, options)


def test_without_sharing_nothing_is_packed(options):
    apart = [OPERATORS["MatMul"]()[0], OPERATORS["Gemm"]()[0]]
    assert not prepared(apart, options)._sessions and entries(options) == []


def test_too_little_to_share_is_not_packed(options, monkeypatch):
    monkeypatch.setattr("elastic_runtime.engines.onnxruntime.PACKED_FROM", SIDE * SIDE * 4 + 1)
    assert not prepared(OPERATORS["MatMul"](), options)._sessions and entries(options) == []


def test_a_region_that_fails_on_the_probe_fails_the_same(options):
    parts = pair("Gather", "w x0", (INT64, [2]), (FLOAT, [2, 2048]), {"w": normal(1, 2048)})
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        OnnxRuntimeEngine().load(parts[0].region, parts[0].files, parts[0].weights, options)([np.ones(2, np.int64)])
    engine = prepared(parts, options)
    assert len(engine._sessions) == 2
    kernel = engine.load(parts[0].region, parts[0].files, parts[0].weights, options)
    assert np.array_equal(kernel([np.zeros(2, np.int64)])[0], -parts[0].weights["w"][[0, 0]])


def test_a_forbidden_model_is_refused_before_it_is_packed(options):
    good = OPERATORS["MatMul"]()
    model = onnx.load_from_string(bytes(good[1].files["model"]))
    model.graph.initializer[0].external_data[0].value = "/etc/passwd"
    bad = Part(good[1].region, {"model": memoryview(model.SerializeToString())}, good[1].weights)
    with pytest.raises(BundleError, match="onnx-external-data"):
        prepared([good[0], bad], options)
    assert entries(options) == []


# ------------------------------------------------------------------------------------------------- the cache
def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("which", ["data", "model", "index"])
def test_a_damaged_cache_is_noticed_and_made_again(which, options):
    parts = OPERATORS["MatMul"]()
    prepared(parts, options)
    entry, = entries(options)
    chosen = {"data": entry / onnx_packed.DATA, "index": entry / "index.json",
              "model": next(file for file in entry.iterdir() if len(file.name) == 64)}[which]
    before = chosen.read_bytes()
    flip(chosen, len(before) // 2)
    engine = prepared(parts, options)
    assert len(engine._sessions) == 2
    same_as_alone(engine, parts, options)
    assert entries(options) == [entry] and chosen.read_bytes() == before


def test_another_bundle_another_entry(options):
    prepared(OPERATORS["MatMul"](), options)
    prepared(OPERATORS["Gemm"](), EngineOptions(bundle="11" * 32, cache=options.cache))
    assert len(entries(options)) == 2


def test_another_machine_or_library_another_entry(options, monkeypatch):
    parts = OPERATORS["MatMul"]()
    prepared(parts, options)
    monkeypatch.setattr(onnx_packed.ort, "__version__", "0.0")
    prepared(parts, options)
    assert len(entries(options)) == 2


@pytest.mark.parametrize("unusable", ["a file", "open to others", "none", "no bundle"])
def test_without_a_usable_cache_the_packed_file_is_temporary(unusable, tmp_path, monkeypatch):
    cache, bundle = tmp_path / "cache", "00" * 32
    if unusable == "a file":
        cache.write_bytes(b"")
    elif unusable == "open to others":
        cache.mkdir()
        os.chmod(cache, 0o777)
    elif unusable == "none":
        cache = None
    else:
        bundle = ""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(private_cache.tempfile, "tempdir", str(tmp_path / "temporary"))
    options, parts = EngineOptions(bundle=bundle, cache=cache), OPERATORS["MatMul"]()
    engine = prepared(parts, options)
    assert len(engine._sessions) == 2 and list((tmp_path / "temporary").iterdir()) == []
    same_as_alone(engine, parts, options)


def test_where_nothing_can_be_written_regions_are_loaded_alone(options, tmp_path, monkeypatch):
    (tmp_path / "cache").write_bytes(b"")
    monkeypatch.setattr(private_cache.tempfile, "tempdir", str(tmp_path / "absent"))
    parts = OPERATORS["MatMul"]()
    engine = prepared(parts, options)
    assert not engine._sessions
    same_as_alone(engine, parts, options)


def test_a_region_whose_packed_form_computes_something_else_is_loaded_alone(options, monkeypatch):
    """As the folding of external weights once did, silently."""
    parts, original = OPERATORS["MatMul"](), onnx_packed._relocated
    calls = []

    def wrong(model, move):
        calls.append(model)
        made = original(model, move)
        return made.replace(b"Neg", b"Abs") if b"Neg" in made else made

    monkeypatch.setattr(onnx_packed, "_relocated", wrong)
    engine = prepared(parts, options)
    assert len(calls) == 2 and len(engine._sessions) == 1
    same_as_alone(engine, parts, options)
    assert len(prepared(parts, options)._sessions) == 1


@pytest.mark.parametrize("entry", [
    {"location": "other", "offset": "0", "length": "8"},
    {"location": onnx_packed.DATA, "offset": "8", "length": "8"},
    {"location": onnx_packed.DATA, "offset": "-1", "length": "8"},
    {"location": onnx_packed.DATA, "offset": "0", "length": "8", "prepacked_0": "Gemm+1|0;8"},
    {"location": onnx_packed.DATA, "offset": "0", "length": "8", "prepacked_0": "Gemm+1|4;8;0"},
    {"location": onnx_packed.DATA, "offset": "0", "length": "8", "unheard": "of"},
], ids=str)
def test_a_saved_form_that_is_not_understood_is_not_used(entry, tmp_path):
    with open(tmp_path / "out", "wb") as out, pytest.raises(ValueError):
        onnx_packed._moved(entry, memoryview(bytes(8)), onnx_packed._Store(out))


def test_equal_bytes_stand_once_and_large_ones_begin_at_a_page(tmp_path):
    with open(tmp_path / "out", "wb") as out:
        store = onnx_packed._Store(out)
        places = [store.add(memoryview(piece)) for piece in (b"a", b"b" * 5000, b"a", b"c" * 5000, b"b" * 5000, b"d")]
    assert places == [0, 4096, 0, 12288, 4096, 17344]
    data = (tmp_path / "out").read_bytes()
    assert data[0:1] == b"a" and data[4096:9096] == b"b" * 5000 and data[17344:] == b"d"


# ------------------------------------------------------------------------------------- processes and resources
def test_no_descriptor_stays_open(options):
    parts = OPERATORS["MatMul"]()
    kept = [prepared(parts, options)]
    before = len(os.listdir("/proc/self/fd"))
    kept += [prepared(parts, options) for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before


CHILD = """
import sys
from pathlib import Path
import numpy as np
import tests.runtime.test_onnx_packed as packed

def pss(kind):
    rows = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return int(rows[kind].split()[0]) / 1024

def large(side):
    weights = {"w": np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)}
    return packed.pair("MatMul", "x0 w", (packed.FLOAT, [3, side]), (packed.FLOAT, [3, side]), weights)
"""


def child(code: str, *arguments: str) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", CHILD + code, *arguments], stdout=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": f"{root}:{root / 'runtime'}"})


def test_two_processes_make_the_cache_at_once(options):
    code = """
options = packed.EngineOptions(bundle="00" * 32, cache=Path(sys.argv[1]))
parts = large(512)
print("ready")
for _ in range(2):
    engine = packed.prepared(parts, options)
    assert len(engine._sessions) == 2
    packed.same_as_alone(engine, parts, options)
"""
    running = [child(code, str(options.cache)) for _ in range(3)]
    assert [process.communicate()[0] and process.returncode for process in running] == [0, 0, 0]
    entry, = entries(options)
    assert private_cache.PrivateCache(options.cache).find(entry.name) is not None


def test_the_second_region_takes_no_memory_of_its_own(options):
    """Measured in a process of its own, as the kernel counts: 64 MiB of weights, and sessions that read them."""
    code = """
options = packed.EngineOptions(bundle="00" * 32, cache=Path(sys.argv[1]))
parts = large(4096)
if sys.argv[2] == "make":
    packed.prepared(parts, options)
    sys.exit()
first = packed.prepared(parts[:1] * 2, options) if sys.argv[2] == "alone" else packed.prepared(parts, options)
kernels = [first.load(one.region, one.files, one.weights, options) for one in parts]
for one, kernel in zip(parts, kernels):
    kernel(packed.inputs(one))
print(pss("Pss_Anon"), pss("Pss_File"))
"""
    taken = {}
    for how in ("make", "packed", "alone"):
        said, _ = (process := child(code, str(options.cache), how)).communicate()
        assert process.returncode == 0
        taken[how] = [float(item) for item in said.split()]
    packed, alone = taken["packed"], taken["alone"]
    assert alone[0] - packed[0] > 96, taken  # two packed copies of 64 MiB, less what a heap keeps
    assert packed[1] - alone[1] < 80, taken  # one, mapped

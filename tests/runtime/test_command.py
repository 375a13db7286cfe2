"""`elastic-run` and the timing that it shares with the compiler's command."""
from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from elastic_runtime import schema as s
from elastic_runtime.bench import interleave
from elastic_runtime.cli import main
from tests.runtime.handmade import (
    INT,
    ON_SIGN_WEIGHTS,
    block,
    const,
    edit,
    entry,
    f32,
    give,
    leaf,
    on_sign,
    param,
    program,
    write_bundle,
)
from tests.runtime.test_reference import GOOD, TENSORS


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "model.elastic", on_sign(), ON_SIGN_WEIGHTS, calls=GOOD, tensors=TENSORS)


def archive(path, **arrays):
    np.savez(path, **{name.replace("__", "/"): value for name, value in arrays.items()})
    return str(path)


def test_run_prints_and_writes_the_result(bundle, tmp_path, capsys):
    given = archive(tmp_path / "x.npz", x=np.array([1, 2], np.float32))
    out, report = tmp_path / "y.npz", tmp_path / "report.json"
    assert main([str(bundle), "--input", given, "--output", str(out), "--json", str(report), "--self-test"]) == 0
    assert capsys.readouterr().out == "output/y: float32[2] [2, 4]\noutput/kind: 'out'\npath: 0 -> 1 -> 3\n"
    with np.load(out) as made:
        np.testing.assert_array_equal(made["output/y"], [2, 4])
        assert made["output/kind"] == "out"
    assert json.loads(report.read_text())["path"] == [0, 1, 3]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.elastic", "report.json", "x.npz", "y.npz"]


def test_nested_inputs_are_named_by_path(tmp_path, capsys):
    tree = s.MapNode(keys=("ids", "more", "flag"), items=(
        leaf(0), s.SequenceNode(kind="tuple", items=(leaf(1), const(None))), const(True)))
    made = program([f32(1), INT, INT, INT], [block([0, 1, 2, 3], [], give(s.SequenceNode(
        kind="list", items=tuple(map(leaf, range(4))))))],
        [entry([param("a", tree, "positional"),
                param("rest", s.SequenceNode(kind="tuple", items=(leaf(2),)), "varargs"),
                param("k", leaf(3), "keyword")], [0, 1, 2, 3])])
    path = str(write_bundle(tmp_path / "b", made))
    arrays = {"a__ids": np.ones(1, np.float32), "a__more__0": 3, "rest__0": 4, "k": 5}
    assert main([path, "--input", archive(tmp_path / "x.npz", **arrays)]) == 0
    assert "output/1: 3\noutput/2: 4\noutput/3: 5" in capsys.readouterr().out
    assert main([path, "--input", archive(tmp_path / "x.npz", **arrays, a__flag=True)]) == 0
    for change, said in (({"a__flag": False}, "a['flag']: constant"), ({"z": 1}, "an array named 'z'"),
                         ({"k": 5.0}, "k: scalar")):
        assert main([path, "--input", archive(tmp_path / "x.npz", **arrays | change)]) == 2
        assert said in capsys.readouterr().err
    del arrays["a__ids"]
    assert main([path, "--input", archive(tmp_path / "x.npz", **arrays)]) == 2
    assert "a/ids: missing-argument" in capsys.readouterr().err


def test_refusals_have_an_exit_status_and_no_traceback(bundle, tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert main([str(bundle)]) == 2
    assert "Give --input" in capsys.readouterr().err
    assert main([str(bundle), "--input", str(tmp_path / "none.npz")]) == 2
    objects = tmp_path / "objects.npz"
    np.savez(objects, x=np.array([{}], object))
    assert main([str(bundle), "--input", str(objects)]) == 2
    assert "allow_pickle" in capsys.readouterr().err
    assert main([str(bundle), "--self-test"]) == 0
    assert main([str(bundle), "--input", archive(tmp_path / "x.npz", x=np.ones(2, np.float32)),
                 "--output", str(tmp_path / "no-folder" / "y.npz")]) == 2
    edit(bundle, "reference.json", lambda plain: plain["calls"][0].update(path=[0, 2, 3]))
    assert main([str(bundle), "--self-test"]) == 1
    assert "self-test failed: reference call 0: path" in capsys.readouterr().err


def test_bench_times_the_reference_calls(bundle, tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = ["--bench", "--warmup-ms", "1", "--duration-s", "0.01", "--iterations", "7", "--percentiles", "50,99.9"]
    assert main([str(bundle), *arguments, "--json", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "p99.9 ms" in printed and "inferences/s" in printed and "reference 1" in printed
    timings = json.loads(report.read_text())["timings"]
    assert timings["reference 0"]["path"] == [0, 1, 3] and timings["reference 1"]["path"] == [0, 2, 3]
    assert all(timing["count"] >= 7 and timing["median_ms"] > 0 for timing in timings.values())
    given = archive(tmp_path / "x.npz", x=np.array([1, 2], np.float32))
    assert main([str(bundle), *arguments, "--input", given]) == 0
    assert "input" in capsys.readouterr().out


def test_interleave_alternates_and_counts():
    order = []
    timings = interleave({name: lambda name=name: order.append(name) for name in "abc"}, warmup_ms=0, duration_s=0,
                         iterations=4, percentiles=(0, 50, 100))
    assert "".join(order) == "abc" + "abc" "bca" "cab" "abc"
    for timing in timings.values():
        assert timing.count == 4
        assert timing.min_ms == timing.percentiles_ms[0] <= timing.median_ms <= timing.percentiles_ms[100]
        assert timing.throughput == pytest.approx(1e3 / timing.mean_ms)
    with pytest.raises(ValueError):
        interleave({})
    with pytest.raises(ValueError):
        interleave({"a": int}, percentiles=(101,))


def test_the_runtime_imports_neither_torch_nor_the_compiler():
    code = ("import sys, elastic_runtime, elastic_runtime.cli, elastic_runtime.bench\n"
            "print([name for name in ('torch', 'elastic_compile', 'onnx', 'safetensors', 'onnxruntime', 'tvm') "
            "if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

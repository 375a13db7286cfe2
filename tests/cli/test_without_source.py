"""Commands that need a bundle and nothing else; its program runs no region, so no engine is needed either."""
from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from elastic_compile.bundle import write
from elastic_runtime import schema
from tests.programs import scalar_parts


def test_inspect_shows_the_program(cli, scalar):
    text = cli("inspect", scalar).stdout
    assert "program doubler: 3 blocks" in text
    assert "# model.py:7  if x.item() > 0:" in text


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_inspect_draws_what_the_reference_inputs_do(cli, scalar, tmp_path, suffix):
    text = cli("inspect", scalar, "--graph", tmp_path / f"g.{suffix}").stdout
    assert (tmp_path / f"g.{suffix}").stat().st_size > 1000
    assert "block 1 positive(v3: float)  [50%]" in text


def test_inspect_gives_the_program_as_json(cli, scalar):
    report = json.loads(cli("inspect", scalar, "--json", "-").stdout)
    assert msgspec.convert(report["subnets"]["main"]["program"], schema.Program) == scalar_parts().programs[0]


def test_a_drawing_of_another_kind_is_wrong_usage(cli, scalar, tmp_path):
    assert ".svg or .png" in cli("inspect", scalar, "--graph", tmp_path / "g.gif", status=2).stderr


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["bench"], ["run", "--input", "x.npz"]])
def test_a_missing_bundle_is_named_without_a_traceback(cli, tmp_path, command):
    result = cli(*command, tmp_path / "none.elastic", status=1)
    assert "none.elastic" in result.output and "Traceback" not in result.output


def test_run_gives_the_result_and_the_path(cli, scalar, tmp_path, capfd):
    np.savez(tmp_path / "x.npz", x=np.float32(4))
    cli("run", scalar, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz")
    assert np.load(tmp_path / "y.npz")["output"] == 8.0


@pytest.mark.parametrize("arrays", [{"y": np.float32(4)}, {"x": np.zeros(3, np.float32)}, {"x": np.int64(4)}])
def test_run_refuses_other_inputs(cli, scalar, tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    cli("run", scalar, "--input", tmp_path / "x.npz", status=1)


def test_verify_replays_the_reference_calls(cli, scalar):
    assert "2 of 2 as recorded" in cli("verify", scalar).stdout


def test_verify_fails_for_another_result(cli, tmp_path):
    parts = scalar_parts()
    parts.reference_tensors[parts.references[0].calls[0].outputs[0]] = np.array(6.1)
    write(tmp_path / "wrong.elastic", parts)
    result = cli("verify", tmp_path / "wrong.elastic", status=1)
    assert "error[SelfTestFailed]" in result.stderr and "6.1" in result.stderr


def test_verify_fails_for_another_path(cli, tmp_path):
    parts = scalar_parts()
    calls = [msgspec.structs.replace(call, path=(0, 1)) for call in parts.references[0].calls]
    reference = msgspec.structs.replace(parts.references[0], calls=tuple(calls))
    write(tmp_path / "wrong.elastic", dataclasses.replace(parts, references=(reference,)))
    assert "path" in cli("verify", tmp_path / "wrong.elastic", status=1).stderr


def test_bench_reports_what_it_was_asked_for(cli, scalar, tmp_path):
    cli("bench", scalar, "--duration-s", 0, "--warmup-ms", 0, "--iterations", 7, "--percentiles", "25,75",
        "--threads", 1, "--seed", 3, "--json", tmp_path / "b.json")
    report = json.loads((tmp_path / "b.json").read_text())
    assert [row["path"] for row in report["paths"]] == [[0, 1], [0, 2]]
    timing = report["paths"][0]["timings"]["scalar.elastic"]
    assert timing["count"] == 7 and set(timing["percentiles_ms"]) == {"25.0", "75.0"}
    assert timing["throughput"] > 0
    assert report["threads"] == 1 and report["device"]["cores"]


@pytest.mark.parametrize(("option", "value"), [
    ("--percentiles", "fifty"), ("--percentiles", "101"), ("--threads", "0"), ("--iterations", "0"),
    ("--duration-s", "-1"), ("--warmup-ms", "much"),
])
def test_bench_refuses_nonsense(cli, scalar, option, value):
    cli("bench", scalar, option, value, status=2)


def test_doctor_lists_what_is_here(cli):
    report = json.loads(cli("doctor", "--json", "-").stdout)
    assert report["engines"]["onnxruntime"] == "ready" and report["backends"]["onnxruntime"] == "ready"
    assert report["versions"]["python"] and int(report["device"]["cores"]) >= 1


@pytest.mark.parametrize("arguments", [
    ["--help"], ["inspect", "BUNDLE"], ["run", "BUNDLE", "--input", "NPZ"], ["verify", "BUNDLE"],
    ["bench", "BUNDLE", "--duration-s", "0"],
])
def test_torch_is_not_imported_for_a_bundle_alone(scalar, tmp_path, arguments):
    np.savez(tmp_path / "x.npz", x=np.float32(4))
    places = {"BUNDLE": str(scalar), "NPZ": str(tmp_path / "x.npz")}
    code = ("import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
            f"sys.argv[1:] = {[places.get(argument, argument) for argument in arguments]!r}\n"
            "from elastic_compile.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.splitlines()[-1] == "False"

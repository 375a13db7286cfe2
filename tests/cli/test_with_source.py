"""Commands that compile, or compare with the module that a bundle comes from."""
from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from elastic_runtime import load
from tests.cli.conftest import GATED


def test_compile_writes_a_bundle_that_runs(gated):
    model = load(gated, self_test=True)
    assert model(np.ones((2, 4), np.float32))["used"] == "large"
    assert model(-np.ones((2, 4), np.float32))["used"] == "small"


def test_compile_reports_and_dumps_every_stage(cli, tmp_path):
    result = cli("compile", f"{GATED}:factory", "-o", tmp_path / "m.elastic", "--name", "mine",
                 "--dump-dir", tmp_path / "stages", "--json", tmp_path / "c.json")
    assert "program mine:" in result.stdout and "verified on 2 example calls" in result.stdout
    report = json.loads((tmp_path / "c.json").read_text())
    assert (report["name"], report["backend"]) == ("mine", "onnxruntime")
    assert len(set(map(tuple, report["paths"]))) == 2
    names = sorted(path.name for path in (tmp_path / "stages").iterdir())
    assert any("rewritten" in name for name in names) and any("region" in name for name in names)


def test_compile_writes_one_onnx_file(cli, tmp_path):
    result = cli("compile", f"{GATED}:factory", "-o", tmp_path / "m.elastic", "--onnx", tmp_path / "m.onnx")
    assert "compared on 2 example calls" in result.stdout
    assert (tmp_path / "m.onnx").stat().st_size > 1000


def test_compile_declares_a_budget_and_what_takes_over(cli, tmp_path):
    result = cli("compile", f"{GATED}:factory", "-o", tmp_path / "m.elastic", "--budget", 1, "--deadline-ms", 5e4,
                 "--fallback", "cheap")
    assert "at most 2 region runs; budget 1 region runs and 50000 ms; cheap takes over" in result.stdout
    model = load(tmp_path / "m.elastic", self_test=True)
    x = np.ones((2, 4), np.float32)
    assert model(x)["used"] == "small" and model.last_subnet == "fallback"
    assert model.bounded(max_regions=2)(x)["used"] == "large"
    assert "budget 1 region runs and 50000 ms" in cli("inspect", tmp_path / "m.elastic").stdout
    assert "has no method" in cli("compile", f"{GATED}:factory", "-o", tmp_path / "n.elastic", "--fallback", "none",
                                  status=2).stderr
    cli("compile", f"{GATED}:factory", "-o", tmp_path / "n.elastic", "--budget", 0, status=2)


def test_compile_replaces_a_bundle_and_nothing_else(cli, tmp_path):
    for _ in range(2):
        cli("compile", f"{GATED}:factory", "-o", tmp_path / "m.elastic")
    (tmp_path / "notes").mkdir()
    result = cli("compile", f"{GATED}:factory", "-o", tmp_path / "notes", status=1)
    assert "error[EC501]" in result.stderr


def test_a_refusal_shows_the_users_own_line(cli, tmp_path):
    result = cli("compile", f"{GATED}:refused", "-o", tmp_path / "m.elastic", status=1)
    assert "error[EC" in result.stderr and "gated.py:" in result.stderr and "^" in result.stderr
    assert "reason: " in result.stderr and "instead: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "m.elastic").exists()


@pytest.mark.parametrize(("factory", "message"), [
    ("training", "error[EC002]"), ("empty", "error[EC001]"), ("alone", "error[EC502]"), ("broken", "error[EC502]"),
])
def test_targets_that_do_not_work(cli, tmp_path, factory, message):
    result = cli("compile", f"{GATED}:{factory}", "-o", tmp_path / "m.elastic", status=1)
    assert message in result.stderr
    if factory == "broken":
        assert "gated.py:" in result.stderr and 'nn.Linear(4, "three")' in result.stderr


@pytest.mark.parametrize("target", ["gated", "nothing.py:factory", f"{GATED}:nothing", f"{GATED}:number", ":f"])
def test_targets_that_are_none(cli, tmp_path, target):
    cli("compile", target, "-o", tmp_path / "m.elastic", status=2)


def test_an_unknown_backend(cli, tmp_path):
    result = cli("compile", f"{GATED}:factory", "-o", tmp_path / "m.elastic", "--backend", "abacus", status=1)
    assert "error[EC301]" in result.stderr and "abacus" in result.stderr


def test_verify_against_the_module(cli, gated):
    result = cli("verify", gated, "--source", f"{GATED}:factory", "--random", 20)
    assert "22 of 22 calls equal" in result.stdout


def test_verify_fails_against_another_module(cli, gated, tmp_path):
    result = cli("verify", gated, "--source", f"{GATED}:other", "--random", 3, "--json", tmp_path / "v.json", status=1)
    assert "differs from eager PyTorch" in result.stderr
    assert json.loads((tmp_path / "v.json").read_text())["differences"]


def test_bench_times_eager_and_the_bundle_in_one_run(cli, gated):
    report = json.loads(cli("bench", gated, "--source", f"{GATED}:factory", "--duration-s", 0, "--iterations", 5,
                            "--json", "-").stdout)
    for row in report["paths"]:
        assert {"eager", "gated.elastic"} <= row["timings"].keys()
        assert ("torch.compile" in row["timings"]) != ("torch.compile" in report["missing"])
        assert row["host_us_per_region"]["gated.elastic"] > 0
    assert len(report["paths"]) == 2


def test_state_is_compared_call_by_call_and_not_timed_against_torch(cli, tmp_path):
    source = f"{GATED}:counting"
    cli("compile", source, "-o", tmp_path / "c.elastic")
    assert "12 of 12 calls equal" in cli("verify", tmp_path / "c.elastic", "--source", source, "--random", 10).stdout
    result = cli("bench", tmp_path / "c.elastic", "--source", source, "--duration-s", 0)
    assert "eager is missing: the module keeps state" in result.stdout


def test_doctor_says_what_is_refused(cli):
    report = json.loads(cli("doctor", f"{GATED}:refused", "--json", "-", status=1).stdout)
    assert report["refusals"][0]["code"].startswith("EC") and report["refusals"][0]["line"] > 0
    report = json.loads(cli("doctor", f"{GATED}:thrice_refused", "--json", "-", status=1).stdout)
    assert [refusal["code"] for refusal in report["refusals"]] == ["EC130", "EC121", "EC141"]
    assert len({refusal["line"] for refusal in report["refusals"]}) == 3
    assert json.loads(cli("doctor", f"{GATED}:factory", "--json", "-").stdout)["refusals"] == []


def test_the_installed_command(tmp_path):
    done = subprocess.run([sys.executable, "-c", "from elastic_compile.cli import main; main()", "compile",
                           f"{GATED}:factory", "-o", str(tmp_path / "m.elastic")],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "m.elastic", self_test=True).program.name == "Gated"

"""Families from the shell: compile, look, verify, run."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.cli.app import app
from elastic_compile.profile import measuring
from elastic_runtime.cli import main as elastic_run
from tests.elastic.supernets import DeepNet, scramble

SOURCE = Path(__file__).with_name("deep.py")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("family") / "f.elastic"
    result = CliRunner().invoke(app, ["family", f"{SOURCE}:family", "-o", str(path)])
    assert result.exit_code == 0, result.output
    assert "2 subnets" in result.stdout and "wrote" in result.stdout
    return path


def test_inspect_shows_subnets_and_why(cli, bundle, tmp_path):
    text = cli("inspect", bundle, "--json", tmp_path / "i.json").stdout
    assert "subnet d3  (config=3)" in text and "subnet d1  (depth=1, sure=1.0)" in text
    assert "3 distinct regions, each loaded once for all subnets; less than 1.0 MiB of weights in common" in text
    assert "shared as they are" in text and "no other subnet reads it" in text
    assert text.count("program DeepNet.") == 2
    report = json.loads((tmp_path / "i.json").read_text())
    assert report["subnets"]["d1"]["config"] == {"depth": 1, "sure": 1.0}
    assert report["sharing"]["stored"] == report["sharing"]["alone"]["d3"]
    only = cli("inspect", bundle, "--subnet", "d1").stdout
    assert "program DeepNet.d1" in only and "program DeepNet.d3" not in only
    cli("inspect", bundle, "--subnet", "d9", status=2)


def test_verify_covers_every_subnet(cli, bundle):
    text = cli("verify", bundle, "--source", f"{SOURCE}:family", "--random", 5).stdout
    for name in ("d3", "d1"):
        assert f"subnet {name}: reference calls: 1 of 1" in text
        assert f"subnet {name}: eager PyTorch: 6 of 6 calls equal" in text
    wrong = cli("verify", bundle, "--source", f"{SOURCE}:other_biases", "--random", 2, status=1)
    assert "subnet d3: call 0" in wrong.stderr


def test_statistics_of_a_subnet_are_verified_too(cli, tmp_path):
    cli("family", f"{SOURCE}:recalibrated", "-o", tmp_path / "w.elastic")
    assert "quality 0.9" in cli("inspect", tmp_path / "w.elastic").stdout
    cli("verify", tmp_path / "w.elastic", "--source", f"{SOURCE}:recalibrated", "--random", 3)


def test_a_family_declares_a_budget_and_the_subnet_that_takes_over(cli, tmp_path):
    cli("family", f"{SOURCE}:settling", "-o", tmp_path / "f.elastic", "--budget", 9, "--fallback", "once")
    text = cli("inspect", tmp_path / "f.elastic", "--json", tmp_path / "i.json").stdout
    assert "a loop without a known bound; budget 9 region runs" in text
    assert "a call: at most 1 region run; budget 9 region runs; takes over when a call exceeds its budget" in text
    told = json.loads((tmp_path / "i.json").read_text())["subnets"]
    assert told["until"]["worst_regions"] is None and told["once"]["worst_regions"] == 1
    model = er.load(tmp_path / "f.elastic")
    model(np.full((1, 4), 1e9, np.float32))
    assert model.active == "until" and model.last_subnet == "once"


def test_the_costliest_path_in_ms_by_the_bundles_own_table(cli, tmp_path):
    family = ec.compile_family(scramble(DeepNet()), {"d3": 3, "d1": {"depth": 1, "sure": 1.0}}, [(torch.ones(1, 32),)])
    family, table = measuring.with_table(family, "here", 1, 0.5)
    family.save(tmp_path / "f.elastic")
    cli("inspect", tmp_path / "f.elastic", "--json", tmp_path / "i.json")
    told = json.loads((tmp_path / "i.json").read_text())["subnets"]
    regions = {entry.id: entry.timing.ms for entry in table.entries if entry.kind == "region"}
    assert told["d3"]["worst_regions"] == 1 and told["d3"]["worst_ms"]["here"] in regions.values()
    assert "at most 1 region run, " in cli("inspect", tmp_path / "f.elastic").stdout


def test_a_factory_that_gives_no_family(cli, tmp_path):
    assert "a factory of a family returns" in cli(
        "family", f"{SOURCE}:nothing", "-o", tmp_path / "n.elastic", status=1).stderr


def test_elastic_run_takes_a_subnet(bundle, tmp_path):
    x = np.random.default_rng(0).standard_normal((1, 32), np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    supernet = scramble(DeepNet())
    for name, config in (("d3", 3), ("d1", {"depth": 1, "sure": 1.0})):
        arguments = [bundle, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz", "--subnet", name]
        assert elastic_run(list(map(str, arguments))) == 0
        with torch.no_grad():
            expected = supernet.subnet(config)(torch.from_numpy(x))
        np.testing.assert_allclose(np.load(tmp_path / "y.npz")["output"], expected, rtol=1e-4, atol=1e-5)
    assert elastic_run([str(bundle), "--self-test", "--subnet", "d9"]) == 2


def test_bench_of_switching_shows_times_and_memory_against_alone_and_eager(cli, bundle, tmp_path):
    text = cli("bench", bundle, "--switch", "--source", f"{SOURCE}:family", "--duration-s", 0.2,
               "--json", tmp_path / "b.json").stdout
    for word in ("switch() takes", "in the family", "alone", "eager", "penalty", "2 of 2 subnets",
                 "2 models of one subnet", "private"):
        assert word in text, text
    report = json.loads((tmp_path / "b.json").read_text())
    assert set(report["timings"]["d3"]) == {"in the family", "alone", "eager"} and report["switch_ns"] > 0
    assert set(report["after_switch"]) == {"d3", "d1"}
    memory = report["memory_mib"]
    assert all(0 < one["runtime"] < one["run"] for one in memory.values()) and len(memory) == 3


def test_bench_of_switching_takes_one_family(cli, bundle, tmp_path):
    assert "one bundle" in cli("bench", bundle, bundle, "--switch", status=2).stderr
    cli("family", f"{SOURCE}:single", "-o", tmp_path / "s.elastic")
    assert "one subnet" in cli("bench", tmp_path / "s.elastic", "--switch", status=2).stderr

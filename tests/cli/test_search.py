"""`elastic-compile search` and `build` on a small elastic network and a table of made-up latencies."""
from __future__ import annotations

import json

import numpy as np
import pytest

import elastic_runtime as er
from elastic_compile.profile import Space
from elastic_runtime import device, profiler
from elastic_runtime import latency_table as lt
from tests.cli import elastic_mlp
from tests.cli.test_profile import ELASTIC

TARGET = f"{ELASTIC}:factory"


def latency_ms(config: dict) -> float:
    return 1.0 + sum(config[f"width{layer}"] / 8 for layer in range(config["depth"]))


def entries(space: Space, count: int = 30) -> list[lt.Entry]:
    drawn = {space.key(one): one for one in space.sample(200, np.random.default_rng(0))}
    return [lt.Entry(id=lt.content_id("subnet", {"key": key}), key=key[:8], kind="subnet", config=one,
                     memory_bytes=round(1e6 * latency_ms(one)), timing=lt.Timing(count=9, median_ms=latency_ms(one)))
            for key, one in list(drawn.items())[:count]]


@pytest.fixture
def table(tmp_path):
    made = lt.table(device.describe("here"), profiler.environment("onnxruntime", 1),
                    entries(elastic_mlp.factory().space))
    lt.save(made, tmp_path / "table.json")
    return tmp_path / "table.json"


def search(cli, table, output, *more: object, target: str = TARGET, status: int = 0):
    return cli("search", target, "--device", table, "-o", output, *more, status=status)


def test_the_front_a_picture_and_what_it_cost(cli, table, tmp_path):
    said = search(cli, table, tmp_path / "front.json", "--constraint", "latency_ms<=8", "-n", 39).output
    found = json.loads((tmp_path / "front.json").read_text())
    assert found["method"] == "exhaustive" and (tmp_path / "front.png").stat().st_size > 1000
    assert "evaluations" in said and "ruled out by prediction" in said
    for candidate in found["front"]:
        assert candidate["bounds"]["latency_ms"][1] <= 8
        assert latency_ms(candidate["configuration"]) <= 8.1
    qualities = [candidate["values"]["quality"] for candidate in found["front"]]
    assert len(qualities) > 3 and qualities == sorted(qualities)


@pytest.mark.slow
def test_going_on_evaluates_nothing_twice(cli, table, tmp_path):
    search(cli, table, tmp_path / "front.json", "-n", 20, "--method", "guided")
    first = json.loads((tmp_path / "front.json").read_text())["account"]
    search(cli, table, tmp_path / "front.json", "-n", 20, "--method", "guided")
    second = json.loads((tmp_path / "front.json").read_text())["account"]
    assert first["cached"] == 0 and second["cached"] == second["evaluations"] == first["evaluations"]


@pytest.mark.slow
def test_in_several_processes(cli, table, tmp_path):
    search(cli, table, tmp_path / "one.json", "-n", 39)
    search(cli, table, tmp_path / "two.json", "-n", 39, "--workers", 2)
    one, two = (json.loads((tmp_path / name).read_text())["front"] for name in ("one.json", "two.json"))
    assert one == two


def test_memory_is_an_objective_where_the_table_has_it(cli, table, tmp_path):
    search(cli, table, tmp_path / "f.json", "--objective", "memory,quality", "--constraint", "memory<=6", "-n", 39)
    front = json.loads((tmp_path / "f.json").read_text())["front"]
    assert front and all(candidate["bounds"]["memory_mb"][1] <= 6 for candidate in front)
    said = search(cli, table, tmp_path / "g.json", "--objective", "energy,quality", status=1).output
    assert "0 subnets of this space with energy_mj" in said


@pytest.mark.parametrize(("more", "why"), [
    (("--objective", "speed"), "no objective 'speed'"), (("--constraint", "latency_ms=3"), "is no constraint"),
    (("--constraint", "memory_mb<=3"), "no objectives"), (("--threads", 2), "TableMismatch"),
    (("--backend", "tvm"), "TableMismatch")])
def test_what_cannot_be_searched(cli, table, tmp_path, more, why):
    assert why in search(cli, table, tmp_path / "f.json", *more, status=1).output
    assert not (tmp_path / "f.json").exists()


def test_a_mismatch_is_used_with_a_warning_when_told_to(cli, table, tmp_path):
    with pytest.warns(lt.TableMismatchWarning):
        search(cli, table, tmp_path / "f.json", "-n", 39, "--threads", 2, "--insist")


def test_too_few_anchors(cli, table, tmp_path):
    few = lt.load(table)
    lt.save(lt.table(few.device, few.environment, few.entries[:5]), table)
    assert "5 subnets of this space" in search(cli, table, tmp_path / "f.json", status=1).output


@pytest.mark.slow
def test_build_gives_a_bundle_that_selects_by_its_own_table(cli, table, tmp_path):
    output = tmp_path / "family.elastic"
    said = cli("build", TARGET, "--device", table, "--budgets-ms", "4,9,9.5", "-n", 39, "--measure-s", 2,
               "-o", output).output
    assert "predicted" in said and "measured" in said
    model = er.load(output, self_test=True)
    assert 2 <= len(model.subnets) <= 3 and "4ms" in model.subnets
    name = model.select(latency_ms=1000.0)
    assert name == model.subnets[0] == model.active
    assert model.select(memory_mb=1e6, min_quality=0.1) == name
    with pytest.raises(er.NoSubnetFits, match="on this device now"):
        model.select(latency_ms=1e-6)
    controller = er.Controller(model, slo_ms=1000.0)
    for _ in range(30):
        controller(np.ones((1, 8), np.float32))
    assert controller.last.subnet == name and controller.last.scale > 0


@pytest.mark.slow
def test_the_example_from_supernet_to_device(cli, tmp_path):
    """What `examples/elastic_digits.py` says to type, with small budgets."""
    target, table, output = "examples/elastic_digits.py:elastic", tmp_path / "here.json", tmp_path / "digits.elastic"
    cli("profile", target, "--device", "here", "--anchors", 12, "--budget-s", 3, "-o", table)
    said = search(cli, table, tmp_path / "front.json", "-n", 20, target=target).output
    assert "20 evaluations" in said and (tmp_path / "front.png").stat().st_size > 1000
    front = json.loads((tmp_path / "front.json").read_text())["front"]
    slowest = max(candidate["values"]["latency_ms"] for candidate in front)
    cli("build", target, "--device", table, "--budgets-ms", f"{10 * slowest}", "-n", 20, "--measure-s", 1, "-o", output)
    assert er.load(output, self_test=True).loaded(er.load(output).active).about.quality > 80


def test_build_refuses_what_nothing_keeps(cli, table, tmp_path):
    said = cli("build", TARGET, "--device", table, "--budgets-ms", "0.5,9", "-n", 39, "-o", tmp_path / "f.elastic",
               status=1).output
    assert "no subnet keeps 0.5 ms" in said and not (tmp_path / "f.elastic").exists()
    cli("build", TARGET, "--device", table, "--budgets-ms", "0,9", "-o", tmp_path / "f.elastic", status=2)


@pytest.mark.slow
def test_build_bounds_the_peak_memory(cli, table, tmp_path):
    options = ("build", TARGET, "--device", table, "--budgets-ms", "4,9", "-n", 39, "--measure-s", 1, "-o",
               tmp_path / "f.elastic", "--memory-mb")
    assert "MB at the peak of all" in cli(*options, 1000).output
    assert "alone takes" in cli(*options, 0.001, status=1).output

"""The digits example: what the demo shows, checked on every test image."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import elastic_compile as ec
from elastic_compile.cli.target import load_target
from elastic_runtime import load

HERE = Path(__file__).parents[2] / "examples" / "digits_early_exit"


@pytest.fixture(scope="module")
def network_and_examples():
    return load_target(f"{HERE / 'model.py'}:factory")


@pytest.fixture(scope="module")
def images(network_and_examples):
    from data import splits

    _, _, images, labels = splits()
    return images, labels


@pytest.fixture(scope="module")
def eager(network_and_examples, images):
    with torch.no_grad():
        return [network_and_examples[0](image) for image in images[0].split(1)]


def test_the_network_is_accurate_and_uses_every_exit(eager, images):
    right = np.mean([int(out["scores"].argmax()) == int(label) for out, label in zip(eager, images[1], strict=True)])
    assert right > 0.98
    assert {out["exit"] for out in eager} == {0, 1, 2}


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("tvm", marks=pytest.mark.slow)])
def test_the_bundle_equals_eager_on_every_test_image(network_and_examples, images, eager, backend, tmp_path):
    ec.compile(*network_and_examples, backend=backend).save(tmp_path / "digits.elastic")
    model = load(tmp_path / "digits.elastic", allow_native=backend == "tvm", self_test=True)
    for image, expected in zip(images[0].split(1), eager, strict=True):
        out = model(image.numpy())
        assert out["exit"] == expected["exit"]
        np.testing.assert_allclose(out["scores"], expected["scores"], rtol=1e-3, atol=1e-4)


def test_the_run_without_torch_refuses_to_run_where_torch_is(tmp_path):
    done = subprocess.run([sys.executable, HERE / "run_without_torch.py", tmp_path / "none.npz"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "this environment has torch" in done.stderr


def test_training_is_repeatable(network_and_examples):
    from train import train

    kept = torch.get_rng_state()
    try:
        one, other = train(1, seed=3), train(1, seed=3)
    finally:
        torch.set_rng_state(kept)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

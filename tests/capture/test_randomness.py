"""Random operations: the same distribution as PyTorch's, reproducible by seed, equal to nothing else."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er

SAMPLES = 20_000


class Draws(nn.Module):
    def forward(self, p):
        return {
            "uniform": torch.rand(SAMPLES),
            "normal": torch.randn(SAMPLES) * 2 + 1,
            "bernoulli": torch.bernoulli(p.expand(SAMPLES)),
            "exponential": torch.empty(SAMPLES).exponential_(2.0),
            "randint": torch.randint(-1, 3, (SAMPLES,)),
            "categories": torch.multinomial(torch.stack([p, 1 - p, p]).expand(SAMPLES, 3), 1)[:, 0],
            "pairs": torch.multinomial(torch.stack([p, 1 - p, p]).expand(SAMPLES, 3), 2),
            "repeated": torch.multinomial(torch.stack([p, 1 - p]), SAMPLES, replacement=True),
            "permutation": torch.randperm(50),
        }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "m.elastic"
    ec.compile(Draws().eval(), [(torch.tensor(0.25),)]).save(path)
    return er.load(path, seed=1)


def test_distributions_are_those_of_pytorch(model):
    given = model(np.float32(0.25).reshape(()))
    torch.manual_seed(0)
    wanted = {name: tensor.numpy() for name, tensor in Draws()(torch.tensor(0.25)).items()}
    spread = 5 / np.sqrt(SAMPLES)
    for name in ("uniform", "normal", "bernoulli", "exponential", "randint", "categories", "repeated"):
        a, b = given[name].astype(float), wanted[name].astype(float)
        assert given[name].dtype == wanted[name].dtype and a.shape == b.shape
        assert abs(a.mean() - b.mean()) < 2 * spread * max(1, b.std()), name
        assert abs(a.std() - b.std()) < 4 * spread * max(1, b.std()), name
    assert set(np.unique(given["randint"])) == {-1, 0, 1, 2}
    assert (given["pairs"][:, 0] != given["pairs"][:, 1]).all()
    for column in range(2):
        shares = [np.bincount(x["pairs"][:, column], minlength=3) / SAMPLES for x in (given, wanted)]
        assert np.abs(shares[0] - shares[1]).max() < 2 * spread
    assert sorted(given["permutation"]) == list(range(50))


def test_the_seed_decides_the_sample(model):
    def sample(seed):
        model.seed(seed)
        return model(np.float32(0.25).reshape(()))["uniform"]

    assert np.array_equal(sample(3), sample(3))
    assert not np.array_equal(sample(3), sample(4))
    model.seed(3)
    first, second = (model(np.float32(0.25).reshape(()))["uniform"] for _ in range(2))
    assert not np.array_equal(first, second)


class Gated(nn.Module):
    def forward(self, x):
        if torch.rand(()) < 0.3:
            return x * 2
        return x


def test_a_random_decision_is_taken_anew_at_every_call(tmp_path):
    ec.compile(Gated().eval(), [(torch.ones(2),)]).save(tmp_path / "m.elastic")
    loaded = er.load(tmp_path / "m.elastic", seed=0, self_test=True)
    doubled = sum(loaded(np.ones(2, np.float32))[0] == 2 for _ in range(2000))
    assert 500 < doubled < 700

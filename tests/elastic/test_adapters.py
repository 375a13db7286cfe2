"""Supernets that users have: each compiled subnet is the one extracted in eager PyTorch, on random configurations.

Weights, biases, kernel transforms and batch-norm statistics are scrambled: fresh ones hide slicing bugs.
"""
from __future__ import annotations

import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.elastic.adapters import OnceForAll, Prefixes, Sliced, Transformer
from tests.elastic.published import Hat, Tdnn
from tests.elastic.supernets import scramble


def distinct(sample, count: int = 5, seed: int = 0) -> dict:
    """`count` different random configurations."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        config = sample(draw)
        found.setdefault(str(config), config)
    return {f"s{number}": config for number, config in enumerate(found.values())}


def plain(result):
    """A result's tensors, in order."""
    if isinstance(result, torch.Tensor):
        return [result.numpy()]
    if isinstance(result, np.ndarray):
        return [result]
    if result is None:
        return []
    values = result.values() if isinstance(result, dict) else result
    return [array for value in values for array in plain(value)]


def compare(supernet, configs, inputs, tmp_path, exact=None) -> er.Model:
    """Compile the family and compare each subnet with `exact(config)`, or the extracted one, on two calls."""
    made = ec.compile_family(supernet, configs, inputs)
    made.save(tmp_path / "f.elastic")
    model = er.load(tmp_path / "f.elastic", self_test=True)
    for name, config in configs.items():
        model.switch(name)
        calls = inputs(config) if callable(inputs) else inputs
        for call in calls:
            call = [torch.randn_like(x) if x.is_floating_point() else x.flip(-1) for x in call]
            with torch.no_grad():
                expected = plain((exact or supernet.subnet)(config)(*call))
            given = plain(model(*[x.numpy() for x in call]))
            assert len(given) == len(expected) > 0
            for one, other in zip(given, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    return model


def active(supernet):
    def exact(config):
        supernet.activate(config)
        return supernet
    return exact


@pytest.mark.slow
def test_hat_with_arbitrary_cross_attention(tmp_path):
    supernet = scramble(Hat())
    call = (torch.tensor([[3, 1, 4, 1, 5, 9]]), torch.tensor([[2, 7, 1, 8]]))
    compare(supernet, distinct(Hat.sample), [call], tmp_path, active(supernet))


@pytest.mark.slow
def test_tdnn_depth_kernel_and_width(tmp_path):
    supernet = scramble(Tdnn())
    compare(supernet, distinct(Tdnn.sample), [(torch.randn(2, 24, 30),)], tmp_path, active(supernet))


def slim(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def test_slimmable_widths(tmp_path):
    supernet = scramble(slim(32))

    def by_hand(width):
        made = slim(width)
        for name, own in made.state_dict().items():
            full = supernet.state_dict()[name]
            own.copy_(full[tuple(slice(size) for size in own.shape)])
        return made.eval()

    compare(Sliced(supernet, slim), {f"w{w}": w for w in (32, 24, 16, 8, 4)}, [(torch.randn(1, 3, 8, 8),)], tmp_path,
            by_hand)


def test_slices_are_views_and_kernels_are_cut_around_their_centre():
    supernet = scramble(nn.Sequential(nn.Conv2d(4, 8, 5)))
    made = Sliced(supernet, lambda size: nn.Sequential(nn.Conv2d(4, 6, size))).subnet(3)
    assert torch.equal(made[0].weight, supernet[0].weight[:6, :, 1:4, 1:4])
    assert made[0].weight.untyped_storage().data_ptr() == supernet[0].weight.untyped_storage().data_ptr()
    with pytest.raises(ec.ExampleError, match="no larger"):
        Sliced(supernet, lambda size: nn.Sequential(nn.Conv2d(4, 9, size))).subnet(3)
    with pytest.raises(ec.ExampleError, match="no tensor"):
        Sliced(supernet, lambda size: nn.ModuleDict({"a": nn.Conv2d(4, 4, size)})).subnet(3)


def test_nested_prefixes_with_a_shared_head(tmp_path):
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(5)]
    head = nn.Linear(16, 10)
    scramble(nn.ModuleList([*blocks, head]))
    family = Prefixes(blocks, head)
    assert list(family.configs) == ["n5", "n4", "n3", "n2", "n1"]

    def exact(count):
        return nn.Sequential(*blocks[:count], head)
    compare(family, family.configs, [(torch.randn(2, 16),)], tmp_path, exact)


# ------------------------------------------------------------------------------------------ transformers
def bert():
    from transformers import BertConfig, BertModel
    return BertModel(BertConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, vocab_size=50,
        max_position_embeddings=32))


def vit():
    from transformers import ViTConfig, ViTForImageClassification
    return ViTForImageClassification(ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8,
        num_labels=5))


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=50, max_position_embeddings=32))


def sample_transformer(draw) -> dict:
    layers = sorted(draw.sample(range(4), draw.choice((2, 3, 4))))
    return {"layers": layers, "heads": [draw.choice((2, 4)) for _ in layers],
            "ffn": [draw.choice((16, 40, 64)) for _ in layers]}


WORDS = [(torch.tensor([[7, 3, 9, 1, 22]]),)]
IMAGE = [(torch.randn(1, 3, 16, 16),)]


def by_masking(model, config):
    """The same subnet made otherwise: the whole model with hidden units and heads that are left out multiplied by zero,
    and layers that are left out replaced by the identity. Only for layers that take and give hidden states alike."""
    import copy
    made = copy.deepcopy(model)
    _, layers = Transformer._layers(made)
    for number, layer in enumerate(layers):
        if number not in config["layers"]:
            layer.forward = lambda hidden_states, *args, **kwargs: hidden_states
            continue
        place = config["layers"].index(number)
        for name, part in layer.named_modules():
            if isinstance(part, nn.Linear) and part.in_features == 64:
                part.weight.data[:, config["ffn"][place]:] = 0
            if name.endswith(("o_proj", "attention.output.dense")):
                part.weight.data[:, config["heads"][place] * 8:] = 0
    return made


@pytest.mark.parametrize("make, inputs", [(bert, WORDS), (vit, IMAGE)], ids=["bert", "vit"])
def test_transformers_depth_heads_and_hidden_widths(make, inputs, tmp_path):
    model = scramble(make())
    family = Transformer(model, wrap=FirstOutput)
    compare(family, distinct(sample_transformer), inputs, tmp_path,
            lambda config: FirstOutput(by_masking(model, config)))


class Greedy(nn.Module):
    """Tokens generated with a cache of keys and values, until the last one."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.generate(x, max_new_tokens=4, do_sample=False)


def extracted_llama(model, config):
    """The subnet made otherwise: a new model of the kept layers' weights, with what is left out of them zero."""
    from transformers import LlamaForCausalLM
    settings = type(model.config).from_dict({**model.config.to_dict(), "num_hidden_layers": len(config["layers"])})
    made = LlamaForCausalLM(settings)
    shared = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    for place, number in enumerate(config["layers"]):
        layer = {name: value.clone() for name, value in model.model.layers[number].state_dict().items()}
        layer["mlp.down_proj.weight"][:, config["ffn"][place]:] = 0
        layer["self_attn.o_proj.weight"][:, config["heads"][place] * 8:] = 0
        shared |= {f"model.layers.{place}.{name}": value for name, value in layer.items()}
    made.load_state_dict(shared)
    made.model.rotary_emb = model.model.rotary_emb  # whose numbers are no part of a state_dict
    return made.eval()


@pytest.mark.slow
def test_llama_depth_lists_and_hidden_widths_generate_with_a_cache(tmp_path):
    model = scramble(llama())
    compare(Transformer(model, wrap=Greedy), distinct(sample_transformer), WORDS, tmp_path,
            lambda config: Greedy(extracted_llama(model, config)))


class FirstOutput(nn.Module):
    """The main output alone, without a cache."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        options = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        return self.model(x, **options)[0]


def test_configurations_that_a_transformer_does_not_have():
    family = Transformer(llama())
    for config, told in (({"layers": [9]}, "no layers"), ({"width": 3}, "no elastic dimension"),
                         ({"heads": 3}, "evenly"), ({"ffn": 65}, "no larger")):
        with pytest.raises(ec.ExampleError, match=told):
            family.subnet(config)


# ------------------------------------------------------------------------------------------- Once-for-All
@pytest.fixture(scope="module")
def ofa():
    """The package `ofa` imports torchvision and gdown for its data providers, which a network does not use and which
    cannot be installed beside every PyTorch: where they are missing, empty modules stand in for the import."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets",
                 "gdown"):
        try:
            __import__(name)
        except ImportError:
            made = types.ModuleType(name)
            made.__path__ = []
            sys.modules[name] = made
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, made)
    sys.modules["torchvision.transforms"].__dict__.setdefault("RandomResizedCrop", object)
    sys.modules["torchvision.transforms"].__dict__.setdefault("Compose", object)
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks")
    return networks


def scrambled_supernet(net: nn.Module) -> nn.Module:
    """Random statistics and kernel transforms; parameters as they are initialised, with noise on the rest."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_mean") or name.endswith("bias"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif "to3_matrix" in name or "5to3" in name or "7to5" in name or "bn.weight" in name:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return net.eval()


def mobile(networks):
    return networks.OFAMobileNetV3(n_classes=10, dropout_rate=0, width_mult=0.5, ks_list=[3, 5, 7],
                                   expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])


def proxyless(networks):
    return networks.OFAProxylessNASNets(n_classes=10, dropout_rate=0, width_mult=0.5, ks_list=[3, 5, 7],
                                        expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4], base_stage_width="proxyless")


def resnet(networks):
    return networks.OFAResNets(n_classes=10, dropout_rate=0, depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35],
                               width_mult_list=[0.35, 0.5])


def sample_mobile(draw):
    return {"ks": [draw.choice((3, 5, 7)) for _ in range(20)], "e": [draw.choice((3, 4, 6)) for _ in range(20)],
            "d": [draw.choice((2, 3, 4)) for _ in range(5)], "r": draw.choice((32, 48))}


def sample_resnet(draw):
    return {"d": [draw.choice((0, 1, 2)) for _ in range(5)], "e": [draw.choice((0.2, 0.25, 0.35)) for _ in range(18)],
            "w": [draw.choice((0, 1)) for _ in range(6)], "r": draw.choice((32, 48))}


@pytest.mark.slow
@pytest.mark.parametrize("make, sample", [(mobile, sample_mobile), (proxyless, sample_mobile),
                                          (resnet, sample_resnet)], ids=["mobilenetv3", "proxyless", "resnet50"])
def test_once_for_all(ofa, make, sample, tmp_path):
    net = scrambled_supernet(make(ofa))

    def in_place(config):
        net.set_active_subnet(**{key: value for key, value in config.items() if key != "r"})
        return net

    model = compare(OnceForAll(net), distinct(sample), lambda config: [(torch.randn(1, 3, config["r"], config["r"]),)],
                    tmp_path, in_place)
    assert len(model.subnets) == 5


def test_the_example_of_an_own_supernet(tmp_path):
    from examples import own_supernet
    assert len(Path(own_supernet.__file__).read_text().splitlines()) < 40
    supernet, configs, inputs = own_supernet.factory()
    scramble(supernet)
    compare(supernet, configs, inputs, tmp_path, active(supernet))

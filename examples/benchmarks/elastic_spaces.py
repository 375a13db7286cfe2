"""Three elastic networks to profile: Once-for-All MobileNetV3 (PyPI `ofa`), a ViT, a Llama (both of `transformers`).

    elastic-compile profile examples/benchmarks/elastic_spaces.py:vit --device here --threads 1 -o vit.json

In: nothing. Out: factories of `Elastic`. Weights are random: latency does not depend on them.
Never: downloads anything.
"""
from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from elastic_compile.profile import Categorical, Elastic, Integer, Space, When
from examples.benchmarks.published import once_for_all_space

TOKENS = 64


@contextmanager
def without_torchvision() -> Iterator[None]:
    """`ofa` imports torchvision and gdown for its data providers, which nothing here uses: empty modules do, as long as
    the import lasts."""
    def module(name: str) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__path__, made.__file__ = [], "absent"

        def missing(attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return sys.modules.get(f"{name}.{attribute}") or type(attribute, (), {})
        made.__getattr__ = missing
        return made

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets",
             "gdown")
    added = [name for name in names if name not in sys.modules]
    sys.modules.update({name: module(name) for name in added})
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


class OnceForAll:
    """MobileNetV3 of Once-for-All, width 1.0 (Cai et al., ICLR 2020)."""

    def __init__(self) -> None:
        with without_torchvision():
            from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

        torch.manual_seed(0)
        self.net = OFAMobileNetV3(
            n_classes=1000, bn_param=(0.1, 1e-5), dropout_rate=0, base_stage_width="proxyless", width_mult=1.0,
            ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])

    def subnet(self, config: Mapping[str, Any]) -> torch.nn.Module:
        blocks = [(stage, block) for stage in range(5) for block in range(4)]
        self.net.set_active_subnet(
            ks=[config.get(f"ks{stage}.{block}", 3) for stage, block in blocks],
            e=[config.get(f"e{stage}.{block}", 3) for stage, block in blocks],
            d=[config[f"d{stage}"] for stage in range(5)])
        return self.net.get_active_subnet(preserve_weight=True).eval()


def once_for_all() -> Elastic:
    return Elastic(
        OnceForAll(), once_for_all_space(Integer("r", 128, 176, 48)),
        lambda config: [(torch.zeros(1, 3, config["r"], config["r"]),)],
        parts=("first_conv", "blocks.*", "final_expand_layer", "global_avg_pool", "feature_mix_layer", "classifier"))


class Vit:
    """A vision transformer whose depth, width and widths of hidden layers are free."""

    def subnet(self, config: Mapping[str, Any]) -> torch.nn.Module:
        from transformers import ViTConfig, ViTModel

        torch.manual_seed(0)
        made = ViTConfig(
            hidden_size=config["width"], num_hidden_layers=config["depth"], num_attention_heads=config["width"] // 64,
            intermediate_size=256, image_size=160, patch_size=16)
        model = ViTModel(made, add_pooling_layer=False)
        for index, layer in enumerate(_layers(model)):
            for part, shape in (("fc1", (config["width"], config[f"mlp{index}"])),
                                ("fc2", (config[f"mlp{index}"], config["width"]))):
                setattr(layer.mlp, part, torch.nn.Linear(*shape))
        return model.eval()


def _layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    return next(child for child in model.modules() if isinstance(child, torch.nn.ModuleList))


def _depth(low: int, high: int, name: str, values: tuple[int, ...]) -> list[Any]:
    return [Integer("depth", low, high), *[
        Categorical(f"{name}{layer}", values, part=True,
                    when=None if layer < low else When("depth", tuple(range(layer + 1, high + 1))))
        for layer in range(high)]]


def vit() -> Elastic:
    return Elastic(
        Vit(), Space((Categorical("width", (128, 192, 256)), *_depth(4, 10, "mlp", (256, 384, 512, 768)))),
        [(torch.zeros(1, 3, 160, 160),)], parts=("embeddings", "layers.*", "layernorm"))


class Llama(torch.nn.Module):
    """Llama decoder layers of `transformers` over a prompt, with a head for the last position."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import (
            LlamaDecoderLayer,
            LlamaRMSNorm,
            LlamaRotaryEmbedding,
        )

        width, layers = config["width"], range(config["depth"])
        made = [LlamaConfig(
            hidden_size=width, intermediate_size=config[f"mlp{layer}"], num_attention_heads=width // 64,
            num_key_value_heads=width // 64, vocab_size=4096, attn_implementation="sdpa") for layer in layers]
        self.embed = torch.nn.Embedding(4096, width)
        # Every layer is given the number 0, which only a cache would read: else equal layers would differ by it.
        self.layers = torch.nn.ModuleList(LlamaDecoderLayer(one, 0) for one in made)
        self.norm = LlamaRMSNorm(width)
        self.head = torch.nn.Linear(width, 4096, bias=False)
        cos, sin = LlamaRotaryEmbedding(made[0])(torch.zeros(1), torch.arange(TOKENS)[None])
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, position_embeddings=(self.cos, self.sin))
        return self.head(self.norm(x[:, -1:]))


class LlamaFamily:
    def subnet(self, config: Mapping[str, Any]) -> torch.nn.Module:
        torch.manual_seed(0)
        return Llama(config).eval()


def llama() -> Elastic:
    return Elastic(
        LlamaFamily(), Space((Categorical("width", (256, 384, 512)), *_depth(2, 8, "mlp", (512, 768, 1024, 1536)))),
        [(torch.zeros(1, TOKENS, dtype=torch.int64),)], parts=("embed", "layers.*", "norm", "head"))

"""Mixtral with the loop over the experts that the batch hits."""
from __future__ import annotations

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from tests.models.zoo import Built, model, tokens


def mixtral_config(experts: str) -> MixtralConfig:
    return MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
        use_cache=False, experts_implementation=experts,
    )


@model("transformers", blocks=32, regions=16, paths=3)
def mixtral() -> Built:
    made = MixtralForCausalLM(mixtral_config("eager")).eval()
    with torch.no_grad():
        for layer in made.model.layers:
            layer.mlp.gate.weight.mul_(20)
    twin = MixtralForCausalLM(mixtral_config("batched_mm")).eval()
    calls = [(tokens(seed, 64, 1, 3),) for seed in range(8)]
    return Built(made, calls[:2], calls, (twin, calls[0]))

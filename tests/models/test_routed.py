"""Models of `transformers` that route each token to experts of their own choice, compiled from their own source.

Small, with random weights; which experts run differs from input to input.
"""
from __future__ import annotations

import pytest
import torch
import transformers

import elastic_compile as ec
import elastic_runtime as er
from tests.models.test_zoo import assert_same
from tests.models.zoo import tokens

#: What the decoders have in common.
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts_per_tok": 2, "max_position_embeddings": 64, "use_cache": False,
    "experts_implementation": "eager", "pad_token_id": 1, "eos_token_id": 2,
}
DECODERS = {
    "Qwen2Moe": {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 4},
    "Olmoe": {"num_experts": 4},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "sliding_window": 4},
}


class Switch(torch.nn.Module):
    """Encoder and decoder whose tokens go to one expert each, as long as it has room."""

    def __init__(self):
        super().__init__()
        self.model = transformers.SwitchTransformersModel(transformers.SwitchTransformersConfig(
            vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_sparse_encoder_layers=1,
            num_decoder_layers=2, num_sparse_decoder_layers=1, num_heads=2, num_experts=4, expert_capacity=3,
            use_cache=False, router_jitter_noise=0.0))

    def forward(self, ids, decoder_ids):
        return self.model(input_ids=ids, decoder_input_ids=decoder_ids).last_hidden_state


def compare(module, calls, tmp_path) -> int:
    """Compile with two calls, compare all; how many paths they take."""
    ec.compile(module.eval(), calls[:2]).save(tmp_path / "model.elastic")
    model = er.load(tmp_path / "model.elastic")
    paths = set()
    for args in calls:
        with torch.no_grad():
            assert_same(model(*(arg.numpy() for arg in args)), module(*args))
        paths.add(tuple(model.last_path))
    return len(paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_whose_tokens_choose_experts(name, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL | DECODERS[name])
    module = getattr(transformers, f"{name}ForCausalLM")(config)
    assert compare(module, [(tokens(seed, 64, 1, 3),) for seed in range(8)], tmp_path) >= 3


@pytest.mark.slow
def test_experts_with_room_for_so_many_tokens(tmp_path):
    torch.manual_seed(0)
    calls = [(tokens(seed, 64, 1, 5), tokens(seed + 50, 64, 1, 3)) for seed in range(8)]
    assert compare(Switch(), calls, tmp_path) >= 5

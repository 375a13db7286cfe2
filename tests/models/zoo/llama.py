"""Greedy generation of transformers' Llama with its key-value cache: how many tokens come is what the model says."""
from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models.zoo import Built, model, tokens


@model("transformers", blocks=24, regions=20, paths=8)
def llama_generate() -> Built:
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=3, pad_token_id=0,
        initializer_range=0.6,
    )).eval()

    def generate(prompt: torch.Tensor) -> torch.Tensor:
        return made.generate(prompt, max_new_tokens=16, do_sample=False)

    padded = torch.tensor([[[0, 0, 5, 6]], [[0, 7, 5, 6]], [[4, 0, 5, 6]], [[4, 9, 5, 3]]])
    calls = [(prompt,) for prompt in (*(tokens(seed, 24, 1, 4) for seed in range(28)), *padded)]
    return Built(generate, calls[:2], calls)

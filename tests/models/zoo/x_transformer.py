"""Greedy generation with a key-value cache that grows, until the end token."""
from __future__ import annotations

import torch
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

from tests.models.zoo import Built, model, tokens


@model("x-transformers", blocks=20, regions=20, paths=4)
def x_transformers_generate() -> Built:
    made = AutoregressiveWrapper(TransformerWrapper(
        num_tokens=12, max_seq_len=32,
        attn_layers=Decoder(dim=16, depth=2, heads=2, attn_dim_head=32, rotary_pos_emb=True),
    )).eval()

    def generate(prompt: torch.Tensor) -> torch.Tensor:
        return made.generate(prompt, 8, eos_token=0, temperature=0.0)

    calls = [(tokens(seed, 12, 1, 4),) for seed in range(24)]
    return Built(generate, calls[:2], calls)

"""Longformer: a window of attention, and global attention where the mask asks for it."""
from __future__ import annotations

import torch
from transformers import LongformerConfig, LongformerModel

from tests.models.zoo import Built, model, tokens


@model("transformers", blocks=40, regions=30, paths=2)
def longformer() -> Built:
    made = LongformerModel(LongformerConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        attention_window=4, max_position_embeddings=32, pad_token_id=1,
    )).eval()
    ids = tokens(0, 64, 2, 8).clamp_min(2)
    full = torch.ones(2, 8, dtype=torch.int64)
    padded = full.clone()
    padded[1, 5:] = 0
    first, several = torch.zeros_like(full), torch.zeros_like(full)
    first[:, 0] = 1
    several[0, :3], several[1, 4] = 1, 1
    calls = [(ids, mask, attends) for mask in (full, padded) for attends in (torch.zeros_like(full), first, several)]
    return Built(made, [calls[0], calls[5]], calls, (made, calls[0]))

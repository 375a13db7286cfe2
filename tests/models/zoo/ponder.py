"""PonderNet in a transformer: each sequence halts after as many rounds as it needs."""
from __future__ import annotations

import torch
from ponder_transformer import PonderTransformer

from tests.models.zoo import Built, model, tokens


@model("ponder-transformer", blocks=30, regions=30, paths=2)
def ponder_transformer() -> Built:
    made = PonderTransformer(num_tokens=20, dim=16, max_seq_len=6, dim_head=8, heads=2).eval()
    with torch.no_grad():  # halting is drawn at random: probabilities of nearly 0 or 1 make the draw certain
        made.block.to_halt_logits[0].weight.mul_(2000)
    calls = [(tokens(seed, 20, 1, 6),) for seed in range(24)]
    return Built(made, calls[:2], calls)

"""LightGlue: matching that stops at the layer where it is confident, and drops the points that will not match."""
from __future__ import annotations

import torch
from kornia.feature import LightGlue

from tests.models.zoo import Built, model, normal

POINTS, WIDTH = 12, 32


def pair(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Two images' key points; descriptors of several strengths."""
    return {
        f"image{i}": {
            "keypoints": normal(2 * seed + i, 1, POINTS, 2).sigmoid() * 100,
            "descriptors": normal(1000 + 2 * seed + i, 1, POINTS, WIDTH, scale=(0.1, 1.0, 3.0, 10.0)[seed % 4]),
            "image_size": torch.tensor([[100, 100]]),
        } for i in range(2)
    }


def matcher(layers: int, **options: float) -> LightGlue:
    return LightGlue(
        features=None, input_dim=WIDTH, descriptor_dim=WIDTH, num_heads=2, n_layers=layers, flash=False,
        filter_threshold=0.0, **options,
    ).eval()


@model("kornia", blocks=20, regions=15, paths=3)
def lightglue(layers: int = 3) -> Built:
    made = matcher(layers, depth_confidence=0.6, width_confidence=0.7)
    with torch.no_grad():  # random weights are never sure: sharpen what says how sure they are
        for confidence, assignment in zip(made.token_confidence, made.log_assignment):
            confidence.token[0].weight.mul_(40)
            assignment.matchability.weight.mul_(40)
    calls = [(pair(seed),) for seed in range(24)]
    twin = matcher(layers, depth_confidence=-1, width_confidence=-1)  # no early stop, no point dropped
    return Built(made, calls[:2], calls, (twin, calls[0]))

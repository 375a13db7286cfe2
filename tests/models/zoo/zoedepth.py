"""ZoeDepth with two domains: a transformer over the bottleneck chooses the head."""
from __future__ import annotations

import torch
from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation

from tests.models.zoo import Built, model, normal


@model("transformers", blocks=12, regions=8, paths=2)
def zoedepth() -> Built:
    backbone = BeitConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, use_relative_position_bias=True,
    )
    made = ZoeDepthForDepthEstimation(ZoeDepthConfig(
        backbone_config=backbone, backbone_hidden_size=16, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16,
        num_relative_features=8, bottleneck_features=16, num_attractors=[4, 4, 2, 1], bin_embedding_dim=16,
        patch_transformer_hidden_size=128, patch_transformer_intermediate_size=16, num_patch_transformer_layers=4,
        patch_transformer_num_attention_heads=2,
        bin_configurations=[
            {"name": "nyu", "n_bins": 8, "min_depth": 1e-3, "max_depth": 10.0},
            {"name": "kitti", "n_bins": 8, "min_depth": 1e-3, "max_depth": 80.0},
        ],
    )).eval()
    calls = [(normal(seed, 1, 3, 32, 32, scale=0.1 + seed),) for seed in range(8)]
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                torch.nn.init.xavier_normal_(parameter)
        last = made.metric_head.mlp_classifier.linear2
        votes = torch.cat([made(*call).domain_logits for call in calls])
        last.bias.sub_(votes.median(dim=0).values)
    return Built(made, calls[:2], calls)

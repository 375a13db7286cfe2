"""PyTorch's own layers on both sides of a decision: equal to eager, through the bundle and the runtime."""
from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import elastic_compile as ec
import elastic_runtime as er


class Wrapped(nn.Module):
    """`layer` under a branch that the input decides."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        if x.mean() > 0:
            return self.call(self.layer, x)
        return self.call(self.layer, x * 0.5) * 2


def plain(layer, x):
    return layer(x)


def first(layer, x):
    return layer(x)[0]


def attend(layer, x):
    return layer(x, x, x, need_weights=False)[0]


def attend_with_weights(layer, x):
    return layer(x, x, x)[1]


def sdpa(layer, x):
    q = x.unsqueeze(1)
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask) + F.scaled_dot_product_attention(
        q, q, q, is_causal=True) + F.scaled_dot_product_attention(q, q, q, scale=0.3)


def last_state(layer, x):
    return layer(x)[1]


SEQUENCE, IMAGE = (1, 5, 8), (1, 3, 8, 8)
CASES = {
    "encoder_layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), plain, SEQUENCE),
    "encoder_norm_first": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), plain, SEQUENCE),
    "encoder": (lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False), plain, SEQUENCE),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), attend, SEQUENCE),
    "attention_weights": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), attend_with_weights, SEQUENCE),
    "sdpa": (nn.Identity, sdpa, SEQUENCE),
    "lstm": (lambda: nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), first, SEQUENCE),
    "lstm_state": (lambda: nn.LSTM(8, 6, batch_first=True), last_state, SEQUENCE),
    "gru": (lambda: nn.GRU(8, 6, batch_first=True), first, SEQUENCE),
    "layer_norm": (lambda: nn.LayerNorm(8), plain, SEQUENCE),
    "conv1d": (lambda: nn.Conv1d(5, 4, 3, padding="same"), plain, SEQUENCE),
    "conv_bn_relu": (lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)), plain, IMAGE),
    "depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, stride=2), plain, IMAGE),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 2, 2), plain, IMAGE),
    "group_norm": (lambda: nn.Sequential(nn.GroupNorm(3, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(2)), plain, IMAGE),
    "upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), plain, IMAGE),
    "dropout_off": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.GELU()), plain, SEQUENCE),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_eager_on_both_paths(name, tmp_path):
    make, call, shape = CASES[name]
    torch.manual_seed(0)
    module = Wrapped(make(), call).eval()
    with torch.no_grad():
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    ec.compile(module, [(torch.randn(shape),)]).save(tmp_path / "m.elastic")
    model = er.load(tmp_path / "m.elastic")
    paths = set()
    for sign in (1, -1, 0.5):
        x = torch.rand(shape) * sign
        with torch.no_grad():
            wanted = module(x)
        given = model(x)
        paths.add(model.last_path)
        pairs = zip(given, wanted) if isinstance(wanted, tuple) else [(given, wanted)]
        for one, other in pairs:
            assert np.allclose(one, other.numpy(), rtol=1e-3, atol=1e-4)
    assert len(paths) == 2

"""The small models of this example, for scikit-learn's digits, and their trained weights.

In: nothing, or the weights that `train.py` made. Out: modules in evaluation mode, and the digits as tensors.
Never: downloads anything.
"""
from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from transformer import VAR
from vqvae import VQVAE

WEIGHTS = Path(__file__).with_name("digits.safetensors")
SIZES = (1, 2, 3, 4)
DEPTH, WIDTH, HEADS = 8, 64, 4
DEPTHS = (8, 4, 2)
SWITCH = 2
"""The number of scales that every schedule runs at the full depth."""


class Classifier(nn.Module):
    """Judges digits [batch, 1, 8, 8]; `features` [batch, 64] are what the Fréchet distance compares."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def splits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [1297, 1, 8, 8] in [-1, 1] and labels [1297], test images [500, 1, 8, 8] and labels [500]."""
    digits = load_digits()
    images = (digits.images / 8.0 - 1.0).astype("float32")[:, None]
    parts = train_test_split(images, digits.target, test_size=500, stratify=digits.target, random_state=0)
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return train, train_labels, test, test_labels


def models() -> nn.ModuleDict:
    """Untrained: the autoencoder `vqvae`, the transformer `var` and the judge `classifier`."""
    vqvae = VQVAE(1, (32, 64), codes=128, latent=8, sizes=SIZES)
    var = VAR(vqvae.quantiser, WIDTH, DEPTH, HEADS, classes=10, guidance=2.0, top_k=128, top_p=0.98)
    return nn.ModuleDict({"vqvae": vqvae, "var": var, "classifier": Classifier()})


def trained() -> nn.ModuleDict:
    """The models with the weights that `train.py` made."""
    made = models()
    made.load_state_dict(load_file(WEIGHTS), strict=False)
    return made.eval()


def schedule(depth: int) -> tuple[int, ...]:
    """The depth of each scale: the full one at first, then `depth`."""
    return (DEPTH,) * SWITCH + (depth,) * (len(SIZES) - SWITCH)

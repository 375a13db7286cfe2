"""The digits that scikit-learn ships, split once and for all into images to train on and images to test on.

In: nothing. Out: tensors. Never: downloads anything.
"""
from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn


def splits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [1297, 1, 8, 8] and labels [1297], test images [500, 1, 8, 8] and labels [500]."""
    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[:, None]
    parts = train_test_split(images, digits.target, test_size=500, stratify=digits.target, random_state=0)
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return train, train_labels, test, test_labels


def images_by_exit(network: nn.Module) -> list[Tensor]:
    """For each exit of `network`, the first training image [1, 1, 8, 8] that leaves there."""
    images, *_ = splits()
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for image in images.split(1):
            found.setdefault(network(image)["exit"], image)
            if len(found) == len(network.heads):
                break
    return [found[number] for number in sorted(found)]

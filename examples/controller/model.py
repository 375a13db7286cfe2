"""A network of random features for handwritten digits whose width is free: more features, better answers, more time.

In: nothing (the digits come with scikit-learn). Out: a supernet, its widths, their accuracy. Never: trains for long:
the readout of each width is a least-squares fit (Rahimi and Recht, NeurIPS 2008).
"""
from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

WIDTHS = (64, 256, 1024, 4096)
BATCH = 256


class Features(torch.nn.Module):
    def __init__(self, features: torch.Tensor, bias: torch.Tensor, readout: torch.Tensor) -> None:
        super().__init__()
        self.features, self.bias, self.readout = map(torch.nn.Parameter, (features, bias, readout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(x @ self.features + self.bias) @ self.readout).argmax(1)


class Digits:
    """`subnet(width)` has the first `width` features. `accuracy[width]`: on the last 500 digits, in percent."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        images = torch.tensor(images / 16, dtype=torch.float32)
        torch.manual_seed(0)
        self.features, self.bias = torch.randn(64, max(WIDTHS)) / 2, torch.randn(max(WIDTHS))
        wanted = torch.eye(10)[torch.tensor(labels[:-500])] - 0.1
        self.readouts, self.accuracy = {}, {}
        for width in WIDTHS:
            seen = torch.relu(images[:-500] @ self.features[:, :width] + self.bias[:width]).double()
            gram = seen.T @ seen + 1.0 * torch.eye(width, dtype=torch.float64)
            self.readouts[width] = torch.linalg.solve(gram, seen.T @ wanted.double()).float()
            found = self.subnet(width)(images[-500:]).numpy()
            self.accuracy[width] = 100 * float(np.mean(found == labels[-500:]))
        self.request = images[-BATCH:].contiguous()

    def subnet(self, width: int) -> torch.nn.Module:
        return Features(self.features[:, :width], self.bias[:width], self.readouts[width]).eval()

"""Trains the network of this example and writes its weights.

    python examples/digits_early_exit/train.py [--epochs 25] [--seed 0] [--output weights.safetensors]

In: the training images. Out: a safetensors file. Never: looks at the test images before training is over.
"""
from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from data import splits
from model import WEIGHTS, DigitsNet
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F


def train(epochs: int, seed: int) -> DigitsNet:
    """All exits learn together, each with the same weight in the loss; images are shifted by up to one pixel."""
    torch.manual_seed(seed)
    images, labels, *_ = splits()
    network = DigitsNet().train()
    batch = 64
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=4e-3, total_steps=epochs * (len(images) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            scores = network.scores_of_every_exit(shifted(images[rows]))
            loss = sum(F.cross_entropy(each, labels[rows], label_smoothing=0.02) for each in scores)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def shifted(images: Tensor) -> Tensor:
    padded = F.pad(images, (1, 1, 1, 1))
    down, right = (int(torch.randint(3, ())) for _ in range(2))
    return padded[:, :, down:down + 8, right:right + 8]


def report(network: DigitsNet) -> str:
    _, _, images, labels = splits()
    counts, right = [0] * len(network.heads), 0
    with torch.no_grad():
        for image, label in zip(images.split(1), labels, strict=True):
            out = network(image)
            counts[out["exit"]] += 1
            right += int(out["scores"].argmax()) == int(label)
    return f"test accuracy {right / len(images):.3f}, images per exit {counts}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    trained = train(arguments.epochs, arguments.seed)
    save_file(trained.state_dict(), arguments.output)
    print(f"{time.perf_counter() - start:.0f} s, {report(trained)}, wrote {arguments.output}")

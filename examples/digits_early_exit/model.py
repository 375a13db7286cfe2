"""An early-exit convolutional network for handwritten digits: easy images leave after the first stages.

In: one 8x8 image. Out: the class scores and the number of the exit that gave them.
Never: anything special for the compiler; this is the model as one would write it for eager PyTorch.

The exits follow BranchyNet (Teerapittayanon et al., 2016): a classifier after each stage, left when it is sure.
"""
from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.safetensors")
WIDTHS = (32, 64, 96)
CONFIDENT = 0.97


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if inputs == outputs and stride == 1 else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Head(nn.Module):
    """Class scores from a feature map of any size."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean(dim=(2, 3)))


def is_sure(scores: Tensor, confident: float) -> Tensor:
    return scores.softmax(-1).max() > confident


class DigitsNet(nn.Module):
    """`forward` takes a float32 image [1, 1, 8, 8] with values in [0, 1]."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, classes: int = 10, confident: float = CONFIDENT) -> None:
        super().__init__()
        self.confident = confident
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.stages = nn.ModuleList()
        self.heads = nn.ModuleList()
        before = widths[0]
        for depth, width in enumerate(widths):
            self.stages.append(nn.Sequential(
                Residual(before, width, stride=1 if depth == 0 else 2), Residual(width, width, stride=1)))
            self.heads.append(Head(width, classes))
            before = width

    def scores_of_every_exit(self, images: Tensor) -> list[Tensor]:
        """For training: the scores of all heads, [batch, classes] each."""
        features, scores = self.stem(images), []
        for stage, head in zip(self.stages, self.heads, strict=True):
            features = stage(features)
            scores.append(head(features))
        return scores

    def forward(self, image: Tensor) -> dict[str, Tensor | int]:
        features = self.stem(image)
        for depth, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            features = stage(features)
            scores = head(features)
            if is_sure(scores, self.confident):
                break
        return {"scores": scores, "exit": depth}


def trained() -> DigitsNet:
    """The network with the weights that `train.py` made, in evaluation mode."""
    network = DigitsNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def factory() -> tuple[nn.Module, list[tuple[Tensor]]]:
    """What `elastic-compile compile model.py:factory` takes: the network and example calls that take every exit."""
    from data import images_by_exit

    network = trained()
    return network, [(image,) for image in images_by_exit(network)]

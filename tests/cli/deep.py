"""A supernet for the command line."""
import torch

from tests.elastic.supernets import DeepNet, WideNet, scramble


def family():
    return scramble(DeepNet()), {"d3": 3, "d1": {"depth": 1, "sure": 1.0}}, [(torch.ones(1, 32),)]


def single():
    return scramble(DeepNet()), {"d1": 1}, [(torch.ones(1, 32),)]


def recalibrated():
    data = [(torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)),)]
    return (scramble(WideNet(8)), {"w8": 8, "w4": 4}, [(torch.ones(1, 3, 6, 6),)],
            {"recalibrate": data, "quality": {"w8": 0.9}})


def other_biases():
    supernet, configs, calls = family()
    supernet.head.bias.data += 1
    return supernet, configs, calls


class Settling(torch.nn.Module):
    """One round, or as many as it takes."""

    def __init__(self):
        super().__init__()
        self.layer, self.rounds = torch.nn.Linear(4, 4), "until"
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(4) / 2)
            self.layer.bias.zero_()

    def activate(self, rounds):
        self.rounds = rounds

    def forward(self, x):
        x = self.layer(x)
        if self.rounds == "until":
            while x.abs().max() > 1:
                x = self.layer(x)
        return x


def settling():
    return Settling().eval(), {"until": "until", "once": "once"}, [(torch.full((1, 4), 3.0),)]


def nothing():
    return scramble(DeepNet()), [(torch.ones(1, 32),)]

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


def nothing():
    return scramble(DeepNet()), [(torch.ones(1, 32),)]

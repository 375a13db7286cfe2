"""Randomness: dropout that is off, noise that is an input, and draws of the network's own."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal, sweep


class DropoutOff(nn.Module):
    """Dropout, drop-path and a training branch, all off in evaluation."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        y = self.dropout(self.linear(x))
        y = F.dropout(y, 0.3, training=self.training)
        if self.training and torch.rand(()) < 0.5:
            return x
        return y if y.sum() > 0 else x


@case(paths=2)
def dropout_off():
    return DropoutOff(), [(x,) for x in sweep(32, 1, 2)]


class GumbelGate(nn.Module):
    """A hard Gumbel gate whose noise is an argument."""

    def __init__(self):
        super().__init__()
        self.gate, self.body = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x, uniform):
        gumbel = -torch.log(-torch.log(uniform))
        if (self.gate(x) + gumbel).argmax(-1).item() == 1:
            return x + self.body(x)
        return x


@case(paths=2)
def gumbel_gate_with_noise_as_input():
    return GumbelGate(), [(normal(1, 1, 2), torch.tensor([u])) for u in ([0.9, 0.1], [0.1, 0.9], [0.5, 0.5])]


class SampleByInverse(nn.Module):
    """Sampling a token by inverting the cumulative distribution, the uniform number an argument."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x, u):
        cumulative = self.linear(x).softmax(-1).cumsum(-1)[0]
        for token in range(2):
            if u < cumulative[token]:
                return token, cumulative
        return 2, cumulative


@case(paths=3)
def sampling_with_noise_as_input():
    return SampleByInverse(), [(normal(1, 1, 2), torch.tensor(u)) for u in (0.01, 0.5, 0.999)]


class RejectionSampler(nn.Module):
    """Rejection over proposals given as rows of an argument."""

    def forward(self, proposals, uniform):
        for proposal, u in zip(proposals, uniform):
            if u < torch.exp(-proposal.pow(2).sum()):
                return proposal, True
        return proposals[-1], False


@case(paths=3)
def rejection_with_noise_as_input():
    proposals = torch.tensor([[0.1, 0.1], [1.0, 1.0]])
    return RejectionSampler(), [(proposals, torch.tensor(u)) for u in ([0.5, 0.5], [0.999, 0.01], [0.999, 0.9])]


class StochasticDepth(nn.Module):
    """A draw of the network's own decides whether a layer runs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        if torch.rand(()) < 0.5:
            return self.linear(x), True
        return x, False


@case(paths=1, exact=False)
def random_threshold():
    return StochasticDepth(), [(normal(1, 1, 2),)] * 12


class Multinomial(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        token = torch.multinomial(self.linear(x).softmax(-1), 1)
        if token.item() == 0:
            return token, x * 0
        return token, x


@case(paths=1, exact=False)
def multinomial_sampling():
    return Multinomial(), [(normal(1, 1, 2),)] * 12


class BernoulliGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(2, 1)

    def forward(self, x):
        mask = torch.bernoulli(torch.sigmoid(self.gate(x)))
        noise = torch.randn_like(x)
        return x * mask + noise * (1 - mask)


@case(paths=1, exact=False)
def bernoulli_and_normal_noise():
    return BernoulliGate(), [(normal(1, 1, 2),)] * 4


class TopKSampling(nn.Module):
    """Sampling with temperature among the k best tokens until the end token."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))

    def forward(self, start):
        token, tokens = start, []
        for _ in range(3):
            logits = self.table[token] / 0.8
            values, indices = logits.topk(3)
            token = indices[torch.multinomial(values.softmax(-1), 1)[0]]
            tokens.append(token)
            if token == 0:
                break
        return torch.stack(tokens)


@case(paths=3, exact=False)
def top_k_sampling():
    return TopKSampling(), [(torch.tensor(1),)] * 4

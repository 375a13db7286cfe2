"""Idioms of real repositories that mix several constructs."""
from __future__ import annotations

import copy
import functools
import logging
import math
from collections import defaultdict, deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.constructs.registry import case, integers, normal, sweep

log = logging.getLogger(__name__)


class Attributes(nn.Module):
    """`getattr(self, f"layer{i}")`, `named_children`, `hasattr`, a ParameterList, a property that decides."""

    def __init__(self):
        super().__init__()
        for i in range(3):
            setattr(self, f"layer{i}", nn.Linear(2, 2))
        self.scales = nn.ParameterList([nn.Parameter(torch.tensor(s)) for s in (0.5, 2.0)])
        self.level = None

    @property
    def temperature(self):
        return self.scales[0] if self.scales[0] < self.scales[1] else self.scales[1]

    def forward(self, x):
        for i in range(3):
            layer = getattr(self, f"layer{i}")
            y = layer(x)
            if hasattr(layer, "bias") and y.sum() > 0:
                x = y * self.temperature
        if self.level is None and isinstance(x, torch.Tensor):
            x = x / self.scales[1]
        return x


@case(paths=6, seed=2)
def attributes_by_name():
    return Attributes(), [(x,) for x in sweep(48, 1, 2)]


class Checkpointed(nn.Module):
    """Layers run through `checkpoint` when training; logging and warnings that cost nothing when compiled."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def block(self, layer, x):
        if x.norm() > 2:
            log.debug("a large input: %s", x.shape)
            x = x / x.norm()
        return torch.relu(layer(x))

    def forward(self, x):
        for layer in self.layers:
            if self.training:
                x = checkpoint(self.block, layer, x, use_reentrant=False)
            else:
                x = self.block(layer, x)
        return x


@case(paths=2)
def checkpoint_and_logging():
    return Checkpointed(), [(x,) for x in sweep(48, 1, 2)]


class Recurrent(nn.Module):
    """An LSTM cell per token with a hidden state in a tuple, stopping at the first padding token."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 2, padding_idx=0)
        self.cell = nn.LSTMCell(2, 2)
        self.lstm = nn.LSTM(2, 2, batch_first=True)

    def forward(self, tokens):
        h, c = torch.zeros(1, 2), torch.zeros(1, 2)
        for t in range(tokens.shape[1]):
            token = tokens[:, t]
            if (token == 0).all():
                break
            h, c = self.cell(self.embed(token), (h, c))
        out, _ = self.lstm(self.embed(tokens))
        return h, out.sum()


@case(paths=4)
def lstm_until_padding():
    return Recurrent(), [(torch.tensor([t]),) for t in ([0, 1, 1], [1, 0, 1], [1, 2, 0], [1, 2, 3])]


class Transformer(nn.Module):
    """Encoder layers with an early exit (CALM, Schuster et al. 2022): the hidden state has stopped changing."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=4, batch_first=True, dropout=0.0)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(3))
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            for parameter in self.layers.parameters():
                parameter.mul_(0.8)

    def forward(self, x, mask=None):
        for depth, layer in enumerate(self.layers, 1):
            new = layer(x, src_key_padding_mask=mask)
            change = F.cosine_similarity(new.flatten(), x.flatten(), dim=0)
            x = new
            if change > 0.97:
                break
        return self.head(x[:, 0]), depth


@case(paths=6, seed=1)
def transformer_early_exit():
    mask = torch.tensor([[False, False, True]])
    xs = sweep(32, 1, 3, 4)
    return Transformer(), [(x,) for x in xs] + [(x, mask) for x in xs]


class Attention(nn.Module):
    """MultiheadAttention whose keys are pruned when few of them matter."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        _, weights = self.attention(x, x, x, need_weights=True)
        if weights.max() > 0.5:
            keep = weights.mean((0, 1)).topk(2).indices
            x = x[:, keep]
        return self.attention(x, x, x, need_weights=False)[0]


@case(paths=2)
def attention_with_pruned_keys():
    return Attention(), [(x,) for x in sweep(16, 1, 3, 4)]


class Slices(nn.Module):
    """`self.layers[:depth]`: how deep the network is comes from the call, how wide from the data."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))

    def forward(self, x, *, depth=3):
        for layer in self.layers[:depth]:
            width = 2 if x.abs().mean() < 0.5 else 4
            x = torch.relu(F.linear(x[:, :width], layer.weight[:, :width], layer.bias))
        return x


@case(paths=7, seed=4)
def slimmable_by_depth_and_width():
    import elastic_compile as ec

    xs = sweep(48, 1, 4)
    return Slices(), [(x,) for x in xs] + [ec.call(x, depth=1) for x in xs]


class Collections(nn.Module):
    """defaultdict, deque, set and zip(*…) as working memory of one call."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        groups = defaultdict(list)
        recent = deque(maxlen=2)
        seen = set()
        for i, head in enumerate(self.heads):
            y = head(x)
            name = "up" if y.sum() > 0 else "down"
            groups[name].append((i, y))
            recent.append(y)
            seen.add(name)
        total = sum(recent)
        for name in sorted(seen):
            indices, values = zip(*groups[name])
            total = total + torch.stack(values).mean(0) * len(indices)
        return total, sorted(groups)


@case(paths=7, seed=1)
def collections_within_a_call():
    return Collections(), [(x,) for x in sweep(64, 1, 2)]


@dataclass
class Point:
    x: torch.Tensor
    kind: str = "plain"


class ClassPatterns(nn.Module):
    """`match` on dataclasses, mappings and sequences whose parts are tensors."""

    def classify(self, x):
        if x.sum() > 1:
            return Point(x, "hot")
        if x.sum() < -1:
            return {"cold": x}
        return [x, x * 2]

    def forward(self, x):
        match self.classify(x):
            case Point(x=value, kind="hot"):
                return value * 3
            case {"cold": value}:
                return -value
            case [first, *rest]:
                return first + sum(rest)


@case(paths=3)
def match_on_structures():
    return ClassPatterns(), [(torch.full((2,), v),) for v in (3.0, -3.0, 0.1)]


class Retry(nn.Module):
    """A solver that retries with more damping: exceptions, `continue` and `finally` within a loop."""

    class Diverged(ArithmeticError):
        pass

    def step(self, x, damping):
        y = x - (x**3 - 2) / (3 * x**2 + damping)
        if y.abs().max() > 4:
            raise self.Diverged("step too long")
        return y

    def forward(self, x):
        attempts = 0
        for damping in (0.0, 1.0, 10.0):
            try:
                x = self.step(x, damping)
            except self.Diverged:
                continue
            finally:
                attempts += 1
            if (x**3 - 2).abs().max() < 0.5:
                break
        else:
            return x, attempts, False
        return x, attempts, True


@case(paths=4)
def solver_with_retries():
    return Retry(), [(torch.tensor([v]),) for v in (1.2, 2.0, 3.0, 0.3, 0.05, 0.6, 0.5, -0.2, 5.0, 1e-3)]


class Memo(nn.Module):
    """A cached pure helper, recursion in a nested function, and default arguments bound in a loop."""

    def __init__(self):
        super().__init__()
        self.transforms = [lambda x, k=k: x * k if x.mean() > 0 else x + k for k in (1.5, 2.5)]

    @staticmethod
    @functools.lru_cache
    def table(n):
        return math.factorial(n)

    def forward(self, x):
        def power(y, n):
            if n == 0 or y.abs().max() > 20:
                return y
            return power(y * self.table(n), n - 1)

        for transform in self.transforms:
            x = transform(x)
        return power(x, 3)


@case(paths=8)
def nested_recursion_and_cached_helpers():
    return Memo(), [(torch.full((2,), v),) for v in (0.1, 1.0, 2.0, 6.0, 9.0, -1.0, -2.0, -3.0, -9.0, -30.0)]


class Buffered(nn.Module):
    """Preallocated output, slices assigned, `out.append`, negative indices, and `torch.full_like` by data."""

    def forward(self, x):
        out = torch.zeros(4)
        filled = 0
        for value in x:
            if value > 0:
                out[filled] = value
                filled += 1
        if filled < 2:
            out[filled:] = x.min()
        return out, out[:filled].sum(), filled


@case(paths=8)
def packing_into_a_buffer():
    signs = [[a, b, c] for a in (1.0, -1.0) for b in (2.0, -2.0) for c in (3.0, -3.0)]
    return Buffered(), [(torch.tensor(row),) for row in signs]


class Speculative(nn.Module):
    """Speculative decoding in small: draft tokens are checked one by one, the first wrong one is replaced."""

    def __init__(self):
        super().__init__()
        self.target = nn.Parameter(torch.randn(5, 5))

    def forward(self, start, draft):
        accepted = [start]
        for i in range(draft.shape[0]):
            expected = self.target[accepted[-1]].argmax()
            if draft[i] != expected:
                accepted.append(expected)
                break
            accepted.append(draft[i])
        return torch.stack(accepted), len(accepted) - 1


@case(paths=4)
def speculative_decoding():
    return Speculative(), [
        (integers(s, 5, 1)[0], integers(s + 100, 5, 3)) for s in range(300)]


class Tracker(nn.Module):
    """Association by score: a nested loop over detections and tracks with a set of those used."""

    def forward(self, tracks, detections):
        used = set()
        pairs = []
        for i in range(tracks.shape[0]):
            best, best_distance = None, torch.tensor(1.0)
            for j in range(detections.shape[0]):
                if j in used:
                    continue
                distance = (tracks[i] - detections[j]).abs().sum()
                if distance < best_distance:
                    best, best_distance = j, distance
            if best is not None:
                used.add(best)
                pairs.append((i, best))
        return pairs


@case(paths=10)
def greedy_association():
    points = [torch.tensor(v) for v in ([[0.0], [5.0]], [[5.0], [0.0]], [[0.0], [0.1]], [[0.1], [0.0]], [[9.0], [5.0]],
                                        [[9.0], [0.2]], [[0.2], [9.0]], [[9.0], [8.5]])]
    return Tracker(), [(a, b) for a in points for b in points]

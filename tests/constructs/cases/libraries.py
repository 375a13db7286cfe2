"""What libraries of models do around a network: context variables, questions to devices, their own wrappers."""
from __future__ import annotations

import contextvars
import functools

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal, sweep

collected: contextvars.ContextVar[list | None] = contextvars.ContextVar("collected", default=None)
level = contextvars.ContextVar("level", default=1.0)


def collecting(forward):
    """Collects what inner layers report, under a context variable that is reset afterwards."""

    @functools.wraps(forward)
    def wrapper(self, x):
        token = collected.set([])
        try:
            out = forward(self, x)
            return out, tuple(collected.get())
        finally:
            collected.reset(token)

    return wrapper


class Reports(nn.Module):
    """A loop under a decorator that holds a context variable's token."""

    @collecting
    def forward(self, x):
        while x.abs().max() > 1:
            x = x / 2
        for _ in range(2):
            if x.sum() > 0:
                collected.get().append(x)
            x = x - 0.2
        return x


@case(paths=None, loop=True)
def context_variable_around_a_loop():
    return Reports(), [(x,) for x in sweep(8, 3)]


class LevelFromContext(nn.Module):
    """A branch sets a context variable that a later function reads."""

    def forward(self, x):
        token = None
        if x.sum() > 0:
            token = level.set(3.0)
        x = F.relu(x) * level.get()
        if x.max() > 2:
            x = x - level.get()
        if token is not None:
            level.reset(token)
        return x


@case(paths=4)
def context_variable_set_on_one_path():
    return LevelFromContext(), [(x,) for x in (
        torch.tensor([1.0, 0.2]), torch.tensor([0.1, 0.2]), torch.tensor([-9.0, 4.0]), torch.tensor([-9.0, 1.0]))]


def capturing():
    try:
        return torch.cuda.is_current_stream_capturing()
    except Exception:
        return False


class AsksTheDevice(nn.Module):
    """A question to a device that is not there, answered by a handler."""

    def forward(self, x):
        if not capturing() and x.sum() > 0:
            return x * 2
        return x - 1


@case(paths=2)
def question_to_a_missing_device():
    return AsksTheDevice(), [(torch.ones(2),), (-torch.ones(2),)]


class SharedHeads(nn.Module):
    """Grouped-query attention with a scale of its own, skipped by data."""

    def forward(self, q, k):
        if q.mean() > 0:
            return F.scaled_dot_product_attention(q, k, k, scale=0.3, enable_gqa=True)
        return F.scaled_dot_product_attention(q[:, :2], k, k, is_causal=True)


@case(paths=2)
def attention_with_shared_heads():
    k = normal(5, 1, 2, 3, 4)
    return SharedHeads(), [(normal(1, 1, 4, 3, 4, mean=1.0), k), (normal(2, 1, 4, 3, 4, mean=-1.0), k)]


class Chunks(nn.Module):
    """Overlapping chunks by strides, of a tensor whose memory is not in order, and of one whose is."""

    def forward(self, x):
        h = x.transpose(0, 1) if x.sum() > 0 else x * 2
        h = h.reshape(2, 2, 3) if x[0, 0] > 0 else h
        size, stride = list(h.shape), list(h.stride())
        size[0], stride[0] = size[0] * 2 - 1, stride[0] // 2
        return h.as_strided(size, stride).sum(0)


@case(paths=4)
def chunks_by_strides():
    return Chunks(), [(x,) for x in (normal(1, 2, 6), normal(2, 2, 6), *(normal(s, 2, 6) for s in range(3, 9)))]


class SlicedByATensor(nn.Module):
    """Counts in tensors as bounds: the arithmetic between them is known, so that equal sizes are seen to be."""

    def forward(self, x, mask):
        count = mask.long().sum(dim=1).max()
        if mask.any():
            extra = torch.arange(count).expand(2, -1) + 0.5
            x = torch.cat((extra, x), dim=-1)
        kept = x.narrow(-1, count, x.size(-1) - count).contiguous()
        return kept @ torch.ones(3, 2), x[:, :count].sum()


@case(paths=2)
def bounds_computed_from_tensors():
    masks = torch.tensor([[0, 0, 0], [0, 0, 0]]), torch.tensor([[1, 0, 1], [0, 1, 0]])
    return SlicedByATensor(), [(normal(1, 2, 3), mask.bool()) for mask in masks]


class CachedTable(nn.Module):
    """A table that a cached function makes of sizes, before and after a decision."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def table(self, size):
        return torch.arange(size) * self.scale

    def forward(self, x):
        h = x + self.table(x.shape[-1])
        if h.sum() > 2:
            h = h * self.table(x.shape[-1])
        return h - self.table(x.shape[-1])


@case(paths=2)
def tables_from_a_cached_function():
    return CachedTable(), [(torch.ones(3),), (-torch.ones(3),)]

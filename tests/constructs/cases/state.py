"""State: what forward writes, in its arguments, in its locals and in the module."""
from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal, sweep


class InPlaceAlias(nn.Module):
    """An in-place operation under a branch, seen through an alias that outlives it."""

    def forward(self, x):
        h = x * 1.5
        view = h[0]
        if x.sum() > 0:
            view.add_(10.0)
        else:
            h.mul_(2.0)
        return h, view + 1


@case(paths=2)
def alias_outlives_a_branch():
    return InPlaceAlias(), [(torch.ones(2, 2),), (-torch.ones(2, 2),)]


class AliasOrCopy(nn.Module):
    """On one path two names are one tensor, on the other they are two; a later write must know."""

    def forward(self, x):
        a = x + 0.0
        b = a if x.sum() > 0 else a.clone()
        b += 5.0
        return a, b


@case(paths=2)
def alias_on_one_path_only():
    return AliasOrCopy(), [(torch.ones(2),), (-torch.ones(2),)]


class InPlaceInLoop(nn.Module):
    """Rows of a result written one by one in a loop that may stop."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(2, 2)

    def forward(self, x):
        out = torch.zeros(3, 2)
        for i in range(3):
            x = torch.tanh(self.cell(x))
            out[i] = x[0]
            if x.sum() > 0.1:
                break
        return out


@case(paths=4)
def rows_written_in_a_loop():
    return InPlaceInLoop(), [(x,) for x in sweep(32, 1, 2)]


class MaskedWrites(nn.Module):
    """`h[mask] = …` with a scalar and with a tensor, under a branch."""

    def forward(self, x):
        h = x.clone()
        h[h < 0] = 0.0
        if h.sum() > 1:
            h[h > 2] = h.max()
        else:
            h[h > 2] = 2.0
        return h


@case(paths=2)
def masked_writes():
    return MaskedWrites(), [(torch.tensor(v),) for v in ([-1.0, 3.0, 0.5], [-1.0, 0.2, -3.0], [2.5, 4.0, 2.2])]


class ActiveSet(nn.Module):
    """Per-sample early exit in a batch: rows that are done are masked out, results written in place."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        result = torch.zeros(x.shape[0], 2)
        done = torch.zeros(x.shape[0], dtype=torch.bool)
        for layer in self.layers:
            x = torch.tanh(layer(x))
            logits = self.head(x)
            sure = (logits.softmax(-1).amax(-1) > 0.62) & ~done
            result[sure] = logits[sure]
            done |= sure
            if done.all():
                return result, done
        result[~done] = logits[~done]
        return result, done


@case(paths=3, seed=5)
def per_sample_exits_in_a_batch():
    return ActiveSet(), [(x,) for x in sweep(32, 2, 2)]


class DetachedCopy(nn.Module):
    """Methods that look like mutation and are not, and one that is."""

    def forward(self, x):
        y = x.detach().clone()
        y.clamp_(min=0)
        z = torch.empty_like(y)
        z.copy_(y)
        if y.sum() > 1:
            z.zero_()
        return z, y


@case(paths=2)
def local_in_place_operations():
    return DetachedCopy(), [(torch.ones(2),), (-torch.ones(2),)]


@dataclass
class Memory:
    hidden: torch.Tensor
    steps: int = 0
    history: list = field(default_factory=list)


class DataclassState(nn.Module):
    """State in a dataclass made in forward and updated in place."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(2, 2)

    def forward(self, x):
        memory = Memory(torch.zeros(1, 2))
        for _ in range(3):
            memory.hidden = self.cell(x, memory.hidden)
            memory.steps += 1
            memory.history.append(memory.hidden.norm())
            if memory.hidden.norm() > 0.5:
                break
        return memory


@case(paths=3)
def dataclass_state():
    return DataclassState(), [(x,) for x in sweep(32, 1, 2)]


@dataclass(frozen=True)
class SolverState:
    x: torch.Tensor
    error: torch.Tensor
    iteration: int


class FrozenState(nn.Module):
    """A frozen dataclass replaced each round of a `while`."""

    def advance(self, s):
        x = s.x - 0.5 * (s.x * s.x - 2) / s.x
        return replace(s, x=x, error=(x * x - 2).abs().max(), iteration=s.iteration + 1)

    def forward(self, x):
        state = SolverState(x, torch.tensor(1.0), 0)
        while state.error > 1e-3:
            state = self.advance(state)
        return state.x, state.iteration


@case(paths=1, loop=True)
def frozen_dataclass_in_a_loop():
    return FrozenState(), [(torch.tensor([v]),) for v in (1.0, 1.3, 6.0)]


class OptionalArguments(nn.Module):
    """Arguments that are None, keyword-only options, defaults, `*args` and `**kwargs`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, mask=None, *extra, scale=1.0, **options):
        y = self.linear(x) * scale
        if mask is not None:
            y = y.masked_fill(mask, 0.0)
        for more in extra:
            y = y + more
        if options.get("normalise") and y.norm() > 1:
            y = y / y.norm()
        return y


@case(paths=7)
def optional_arguments():
    import elastic_compile as ec

    x, mask = normal(1, 1, 2), torch.tensor([[True, False]])
    return OptionalArguments(), [
        (x,), (x, mask), (x, None, x, x), ec.call(x, scale=2.0), ec.call(x * 9, normalise=True),
        ec.call(x * 0, mask, normalise=True), ec.call(x * 9, mask, normalise=True), ec.call(x * 0, normalise=True),
    ]


class NoneState(nn.Module):
    """A hidden state that is None in the first call and given back in the next."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(2, 2)

    def forward(self, x, hidden=None):
        if hidden is None:
            hidden = torch.zeros(1, 2)
        hidden = self.cell(x, hidden)
        if hidden.abs().max() > 0.3:
            hidden = hidden * 0.5
        return hidden


@case(paths=4, seed=1)
def none_default_state():
    x = normal(1, 1, 2)
    return NoneState(), [(x * 9,), (x * 0,), (x, torch.ones(1, 2)), (x * 0, torch.zeros(1, 2))]


class FunctionalCache(nn.Module):
    """A key-value cache passed in and out as nested tuples, one per layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x, past):
        present = []
        for layer, (key, value) in zip(self.layers, past):
            k, v = layer(x), x
            key, value = torch.cat([key, k]), torch.cat([value, v])
            weights = F.softmax(x @ key.T, -1)
            x = weights @ value
            present.append((key, value))
            if x.abs().max() < 0.15:
                break
        return x, tuple(present)


@case(paths=3, seed=2)
def cache_passed_in_and_out():
    def past(k):
        return tuple((normal(k, 2, 2), normal(k + 1, 2, 2, scale=0.1 * k)) for _ in range(2))

    return FunctionalCache(), [(normal(s, 1, 2, scale=0.3 * s), past(s)) for s in range(5)] + [
        (torch.full((1, 2), 0.3), ((torch.zeros(2, 2), torch.zeros(2, 2)), (torch.zeros(2, 2), v * torch.ones(2, 2))))
        for v in (0.0, 3.0)]


class Counter(nn.Module):
    """A Python counter that survives the call."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        self.calls += 1
        if x.sum() > 0:
            x = self.linear(x)
        return x, self.calls


@case(paths=2, sequence=True)
def module_counter():
    return Counter(), [(torch.ones(1, 2),), (-torch.ones(1, 2),), (torch.ones(1, 2),)]


class RunningStatistics(nn.Module):
    """A buffer updated in place: a running mean, and a count of the outliers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("outliers", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        if (x - self.mean).abs().max() > 2:
            self.outliers += 1
        return x - self.mean, self.outliers


@case(paths=2, sequence=True)
def running_statistics():
    return RunningStatistics(), [(normal(s, 2, 2, scale=k),) for s, k in ((1, 0.1), (2, 5.0), (3, 0.5))]


class Streaming(nn.Module):
    """A streaming convolution with a left context that starts as None, and a reset."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3)
        self.context = None

    def reset(self):
        self.context = None

    def forward(self, chunk):
        context = self.context if self.context is not None else chunk.new_zeros(1, 1, 2)
        x = torch.cat([context, chunk], dim=-1)
        self.context = x[..., -2:]
        y = self.conv(x)
        if y.abs().max() > 3:
            y = y.clamp(-3, 3)
        return y


@case(paths=2, sequence=True)
def streaming_with_none_context():
    return Streaming(), [(normal(s, 1, 1, 4, scale=k),) for s, k in ((1, 0.1), (2, 20.0), (3, 0.1), (4, 0.1))]


class KVCache:
    def __init__(self, capacity, width):
        self.keys = torch.zeros(capacity, width)
        self.values = torch.zeros(capacity, width)
        self.length = 0

    def update(self, key, value):
        self.keys[self.length] = key
        self.values[self.length] = value
        self.length += 1
        return self.keys[: self.length], self.values[: self.length]


class CachedAttention(nn.Module):
    """A cache object held by the module and filled call by call."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(2, 4)
        self.cache = KVCache(16, 2)

    def forward(self, x):
        key, value = self.project(x).chunk(2, dim=-1)
        keys, values = self.cache.update(key[0], value[0])
        return torch.softmax(x @ keys.T, -1) @ values


@case(paths=1, sequence=True)
def kv_cache_object():
    return CachedAttention(), [(normal(s, 1, 2),) for s in range(3)]


class LocalCache(nn.Module):
    """The same cache object made in forward: it does not survive the call."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(2, 4)

    def forward(self, x):
        cache = KVCache(3, 2)
        for step in range(3):
            key, value = self.project(x).chunk(2, dim=-1)
            keys, values = cache.update(key[0], value[0])
            x = torch.softmax(x @ keys.T, -1) @ values
            if x.sum() < -0.5:
                break
        return x, cache.length


@case(paths=3)
def cache_object_within_a_call():
    return LocalCache(), [(x,) for x in sweep(32, 1, 2)]


class Memoised(nn.Module):
    """An attribute written on one path only, and read by the next call."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.last = None
        self.hits = 0

    def forward(self, x):
        if self.last is not None and torch.equal(self.last[0], x):
            self.hits += 1
            return self.last[1], self.hits
        y = self.linear(x)
        self.last = (x, y)
        return y, self.hits


@case(paths=3, sequence=True)
def memoised_last_call():
    one = torch.ones(1, 2)
    return Memoised(), [(one,), (one,), (one * 2,), (one * 2,)]


class ScratchAttributes(nn.Module):
    """Attributes written and put back before the call ends: no state survives."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.depth = 0

    def recurse(self, x):
        self.depth += 1
        try:
            if self.depth < 3 and x.sum() > 0:
                return self.recurse(self.linear(x))
            return x
        finally:
            self.depth -= 1

    def forward(self, x):
        return self.recurse(x)


@case(paths=3, seed=1)
def attributes_restored_before_the_end():
    return ScratchAttributes(), [(x,) for x in sweep(32, 1, 2)]


class CountsRounds(nn.Module):
    """Changes an attribute in each round of a loop that decides, and puts it back."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, x):
        for _ in range(3):
            x = x + self.count
            if x.sum() > 0:
                x = x * -2
            self.count += 1
        self.count = 0
        return x


@case(paths=None)
def attribute_changed_in_each_round():
    return CountsRounds(), [(x,) for x in sweep(40, 1, 4)]

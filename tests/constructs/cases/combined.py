"""Constructs within one another: comprehensions that decide, exceptions through decorators, operators that ask."""
from __future__ import annotations

import contextlib
import enum
import functools
import itertools
import math
import operator
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.cases.traps import DOWN, INF, NAN, UP, f, one, trap
from tests.constructs.registry import case, normal, sweep

POINTS = [torch.tensor([a, b, c]) for a in (-2.0, 0.3, 1.7) for b in (-1.5, 0.2) for c in (-0.4, 2.5)]


# ---------------------------------------------------------------------------------- comprehensions that decide
@trap(*POINTS)
def conditional_expressions_in_comprehensions(x):
    parts = [v * 2 if v > 0 else (v - 1 if v < -1 else -v) for v in x]
    table = {i: "up" if part > 1 else "down" for i, part in enumerate(parts) if not -0.5 < part < 0.5}
    return torch.stack(parts), table


@trap(*POINTS)
def matches_in_comprehensions(x):
    def kind(v):
        match (v > 0, v.abs() > 1):
            case (a, b) if a and b:
                return "large"
            case (a, _) if a:
                return "small"
            case (_, b) if b:
                return "cold"
            case _:
                return None

    kinds = [k for v in x[:2] if (k := kind(v)) is not None]
    return x * len(kinds), kinds


@trap(*POINTS)
def any_and_all_of_generators_in_filters(x):
    rows = [x, -x]
    kept = [row for row in rows if any(v > 1 for v in row[:2]) or all(-1 < v < 2 for v in row[1:])]
    return sum(kept, torch.zeros(3)), len(kept)


@trap(*POINTS)
def generators_through_generators(x):
    def positive(values):
        for v in values:
            if v > 0:
                yield v

    def doubled(values):
        for i, v in enumerate(values):
            if i and v > 1:
                yield v * 2
            else:
                yield v

    out = [v + w for v, w in zip(doubled(positive(x)), doubled(iter(x)))]
    return torch.stack(out) if out else x, len(out)


@trap(*POINTS)
def comprehension_within_a_comprehension(x):
    grid = [[i * j * v for j, v in enumerate(x) if v > i - 1] for i in range(2)]
    return [torch.stack(row).sum() if row else x.sum() for row in grid], [len(row) for row in grid]


@trap(*POINTS)
def assignment_expressions_in_filters(x):
    total = torch.zeros(())
    kept = [total := total + v for v in x if (w := v * 2) > 0 and w + total < 4]
    return total, len(kept)


# --------------------------------------------------------------------------- exceptions across what is between
class Sure(Exception):
    def __init__(self, value, depth):
        super().__init__(depth)
        self.value, self.depth = value, depth


def checked(function):
    @functools.wraps(function)
    def wrapper(self, x, *args, **kwargs):
        self.entered += 1
        try:
            return function(self, x, *args, **kwargs)
        finally:
            self.entered -= 1

    return wrapper


class ThrowingLayer(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.linear, self.depth, self.entered = nn.Linear(3, 3), depth, 0

    @checked
    def forward(self, x):
        y = torch.tanh(self.linear(x))
        if y.amax() > 0.85:
            raise Sure(y, self.depth)
        return y


class ThrowingGroup(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(ThrowingLayer(depth + i) for i in range(2))
        self.entered = 0

    @checked
    def forward(self, x):
        return sum([layer(x * (i + 1)) for i, layer in enumerate(self.layers)])


class Thrown(nn.Module):
    """Raised under two decorators and within a comprehension, caught by the model, which goes on."""

    def __init__(self):
        super().__init__()
        self.groups = nn.ModuleDict({"a": ThrowingGroup(0), "b": ThrowingGroup(2)})
        self.entered = 0

    @checked
    def forward(self, x):
        depths = []
        for name, group in self.groups.items():
            try:
                x = group(x)
            except Sure as sure:
                depths.append((name, sure.depth))
                x = sure.value
            else:
                depths.append(name)
        return x, depths


@case(paths=None, seed=3)
def exception_through_decorators_and_a_comprehension():
    return Thrown(), [(x,) for x in sweep(12, 1, 3)]


@trap(*POINTS)
def exceptions_that_pass_a_context(x):
    log = []

    @contextlib.contextmanager
    def guarded(name):
        try:
            yield name
        except ArithmeticError:
            log.append(f"{name} swallowed")
        else:
            log.append(f"{name} clean")
        finally:
            log.append(f"{name} left")

    y = x
    for i, v in enumerate(x):
        with guarded(f"step{i}"):
            if v > 1:
                raise OverflowError("large")
            if v < -1:
                continue
            y = y + v
    return y, log


@trap(*POINTS)
def retries_with_continue_and_else(x):
    tried = 0
    for limit in (0.5, 1.0, 2.0):
        try:
            tried += 1
            if x.abs().max() > limit:
                raise ValueError(limit)
        except ValueError as error:
            if error.args[0] == 1.0 and x[0] > 0:
                break
            continue
        else:
            return x / limit, tried
        finally:
            x = x * 0.9
    else:
        return x, -1
    return x, tried


@trap(*POINTS)
def exception_that_is_raised_again(x):
    try:
        try:
            if x[0] > 0:
                raise KeyError("a")
            if x[1] > 0:
                raise IndexError("b")
        except LookupError as error:
            if x[2] > 0:
                raise
            return x * 2, type(error).__name__
    except KeyError:
        return x * 3, "outer"
    except IndexError as error:
        return x * 4, str(error)
    return x, None


# ------------------------------------------------------------------------------------ methods that Python calls
class Score:
    """Numbers whose operators ask tensors."""

    def __init__(self, value):
        self.value = value

    def __bool__(self):
        return bool(self.value > 0)

    def __lt__(self, other):
        return self.value < other.value if self.value > -1 else True

    def __eq__(self, other):
        return bool((self.value - other.value).abs() < 0.5)

    def __hash__(self):
        return 1

    def __add__(self, other):
        return Score(self.value + other.value) if other else Score(self.value)

    def __radd__(self, other):
        return self if other == 0 else NotImplemented

    def __contains__(self, limit):
        return self.value < limit

    def __len__(self):
        return 2 if self.value > 1 else 1

    def __getitem__(self, i):
        if i > 1 or self.value < i:
            raise IndexError(i)
        return self.value - i

    def __int__(self):
        return 3 if self.value > 0 else 4

    def __index__(self):
        return 1 if self.value > 0 else 0

    def __enter__(self):
        return self.value if self else -self.value

    def __exit__(self, kind, error, trace):
        return kind is not None and bool(self.value > 1)

    def __call__(self, x):
        return x * 2 if self else x

    def __getattr__(self, name):
        if name == "sign":
            return 1 if self.value > 0 else -1
        raise AttributeError(name)


@trap(*POINTS)
def truth_by_a_method(x):
    a, b, c = map(Score, x)
    return (x * 2 if a else x), (a and b).value, (b or c).value, not c, len(a)


@trap(*POINTS)
def comparison_by_a_method(x):
    scores = [Score(v) for v in x]
    return max(scores).value, scores[0] == scores[1], 1 in scores[2]


@trap(*POINTS)
def arithmetic_by_a_method(x):
    a, b, _ = map(Score, x)
    return sum([a, b]).value, [0, 1, 2][a], int(a), x[int(a) - 2]


@trap(*POINTS)
def call_and_attribute_by_a_method(x):
    return Score(x[0])(x), Score(x[1]).sign


@trap(*POINTS)
def iteration_by_a_method(x):
    return [v for v in Score(x[2])], scores_in(x), list(zip(Score(x[0]), (1, 2, 3)))


def scores_in(x):
    return Score(x[0]) in [Score(x[1]), Score(x[2])]


@trap(*POINTS)
def contexts_by_a_method(x):
    y = x
    with Score(x[0]) as a, Score(x[2]) as b:
        y = y + a + b
        if x[1] > 0:
            raise ValueError("passes unless a score is large")
        y = y * 2
    return y


class Countdown:
    """An iterator that ends where data says."""

    def __init__(self, x):
        self.x, self.n = x, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.x.abs().sum() < 1 or self.n == 2:
            raise StopIteration
        self.x, self.n = self.x * 0.5, self.n + 1
        return self.x


@trap(*POINTS)
def iterator_that_data_ends(x):
    total, n = x * 0, 0
    for n, y in enumerate(Countdown(x), start=1):
        total = total + y
    return total, n, next(Countdown(x * 2), None)


class Lazy:
    """A descriptor that decides what an attribute is."""

    def __get__(self, owner, kind):
        return owner.fine if owner.level > 1 else owner.coarse


class WithDescriptor(nn.Module):
    body = Lazy()

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Linear(3, 3), nn.Linear(3, 3)
        self.level = torch.zeros(())

    def forward(self, x):
        self.level = x.amax()
        return self.body(x)


trap(*POINTS, sequence=True)(WithDescriptor)


class Dispatched(nn.Module):
    """`functools.singledispatchmethod` and `cached_property` around decisions."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    @functools.cached_property
    def names(self):
        return tuple(name for name, _ in self.named_children())

    @functools.singledispatchmethod
    def take(self, value):
        return self.linear(value) if value.sum() > 0 else value

    @take.register
    def _(self, value: list):
        return [self.take(v) for v in value if v.sum() > -2]

    @take.register
    def _(self, value: dict):
        return {name: self.take(v) for name, v in value.items()}

    def forward(self, x):
        return self.take([x, -x]), self.take({"a": x * 2, "b": [x, x * 0.1]}), self.names


trap(*POINTS)(Dispatched)


# ----------------------------------------------------------------------------------------- aliases in containers
@trap(*POINTS)
def views_in_a_comprehension(x):
    h = x.repeat(2, 1)
    for view in [h[i] for i in range(2)]:
        if view[0] > 0:
            view.mul_(2)
            view[1:] += 1
    columns = [h[:, j] for j in range(2) if h[0, j] > 0]
    for column in columns:
        column.neg_()
    return h, columns


@trap(*POINTS)
def one_tensor_in_several_containers(x):
    y = x * 1
    holder = {"a": [y], "b": (y, y[:2])}
    if x[0] > 0:
        holder["a"][0] += 1
    if x[1] > 0:
        holder["a"][0] = holder["a"][0].clone()
    holder["a"][0].mul_(3)
    return holder, y


@trap(*POINTS)
def masked_writes_through_an_alias(x):
    h = x.repeat(2)
    left, right = h.split(3)
    mask = left > 0
    if mask.any():
        right[mask] = left[mask] * 10
    if right.sum() > 5:
        h[h > 4] = 4.0
    left[~mask] = -1.0
    return h, left, right


@trap(*POINTS)
def augmented_assignment_of_a_default(x):
    def collect(v, into=None):
        into = [] if into is None else into
        into += [v] if v > 0 else []
        return into

    first = collect(x[0])
    both = collect(x[1], first)
    return len(first), first is both, len(collect(x[2]))


@trap(*POINTS)
def lists_changed_while_others_hold_them(x):
    rows = [x, x * 2]
    groups = {"all": rows, "some": rows[:1]}
    for i, v in enumerate(x):
        if v > 0:
            groups["all"].append(x * i)
        else:
            groups["some"].insert(0, x - i)
    del rows[0]
    return torch.stack(groups["all"]).sum(0) if rows else x, len(groups["some"]), len(rows)


# ------------------------------------------------------------------------------------------------- other Python
class Level(enum.IntEnum):
    LOW, MIDDLE, HIGH = 0, 1, 2


class Mode(enum.Flag):
    NONE, SCALED, SHIFTED = 0, 1, 2


class Name(str, enum.Enum):
    A, B = "a", "b"


@trap(*POINTS)
def enums_of_every_kind(x):
    level = Level(int(x[0] > 0) + int(x[1] > 0))
    mode = Mode.NONE
    if x[2] > 0:
        mode |= Mode.SCALED
    if x[0] > 1:
        mode |= Mode.SHIFTED
    name = Name("a" if x[1] > 0 else "b")
    y = x * (level + 1)
    if Mode.SCALED in mode:
        y = y * 10
    y = y - 1 if mode & Mode.SHIFTED else y
    return y, level >= Level.MIDDLE, name == "a", level.name, {Name.A: 1, Name.B: 2}[name]


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor | None = None


@dataclass(order=True)
class Candidate:
    score: float
    value: torch.Tensor = field(compare=False, default=None)


@trap(*POINTS)
def ordered_dataclasses(x):
    found = [Candidate(v.item(), v * 2) for v in x[:2]]
    best = max(found)
    return best.value, [c.score for c in sorted(found, reverse=True)], found[0] < found[1]


# Forced conditions are decided where they are asked for, which is later here than the comparison.
@trap(*POINTS, forced=False)
def conditions_of_code_that_is_not_rewritten(x):
    a, b = x[0].item(), float(x[1])
    less, pair = operator.lt(a, b), (a, 1) < (b, 0)
    if x[2] > 0:
        x = x * 2
    return x, less, pair, operator.gt(int(x[0] * 10), 3)


@trap(*POINTS)
def structures_that_are_unpacked(x):
    pair = Pair(x, x * 2) if x[0] > 0 else Pair(x)
    left, right = pair
    (a, *rest), n = (x if right is None else right), 2
    pair = pair._replace(left=a) if a > 0 else pair
    return pair, rest, n


@trap(*POINTS)
def tuples_compared_by_their_first(x):
    scored = [(v, i) for i, v in enumerate(x)]
    best = max(scored, key=operator.itemgetter(0))
    order = sorted(scored, key=lambda item: (item[0] < 0, item[1]))
    return best[1], [i for _, i in order]


@trap(*POINTS)
def order_and_groups(x):
    groups = {key: len(list(items)) for key, items in itertools.groupby(x[:2], key=lambda v: bool(v > 0))}
    return groups, list(itertools.compress("abc", [v > 0 for v in x]))


@trap(*POINTS)
def iterators_of_what_a_filter_leaves(x):
    kept = [v for v in x if v > 0]
    pairs = len(list(itertools.pairwise(kept)))
    return pairs, list(itertools.zip_longest(kept, [1, 2])), list(itertools.chain(kept, x))


@trap(*POINTS)
def ordered_dicts(x):
    cache = OrderedDict((k, x * i) for i, k in enumerate("abc"))
    for i, key in enumerate("abc"):
        if x[i] > 0:
            cache.move_to_end(key)
    oldest, value = cache.popitem(last=False)
    return cache, oldest, value


@trap(*POINTS)
def updates_of_dicts(x):
    options = {"scale": 2.0} | ({"shift": 1.0} if x[0] > 0 else {})
    options.update(scale=3.0 if x[1] > 0 else 4.0)
    options.setdefault("shift", -1.0)

    def apply(y, *, scale, shift=0.0, **more):
        return y * scale + shift, sorted(more)

    return apply(x, **options, **({"extra": 1} if x[2] > 0 else {}))


@trap(*POINTS)
def numbers_through_math(x):
    a, b = x[0].item(), float(x[1])
    n = int(x[2] * 4)
    return (
        divmod(n, 3), abs(n), -n, +n, math.floor(b), pow(a, 2), max(a, b, key=abs), math.sqrt(abs(a)),
    )


@trap(f(1, 2), f(NAN, 2), f(INF, 2), f(2, -INF), forced=False)
def numbers_that_are_not_finite(x):
    a, b = x[0].item(), float(x[1])
    return math.isnan(a), math.isinf(b), math.isfinite(a), math.isfinite(a + b), x * 2 if math.isfinite(b) else x


@trap(*POINTS)
def functions_made_by_decisions(x):
    def make(k):
        if x[k] > 0:
            return lambda y: y * (k + 2) if y.sum() > 1 else y
        return functools.partial(torch.add, other=k)

    return functools.reduce(lambda y, g: g(y), map(make, range(3)), x)


@trap(*POINTS)
def shadowed_names(x):
    sum = 0.0  # noqa: A001
    for x_ in (x, x * 2):
        for x in [x_[0], x_[1]]:
            if x > 0:
                sum = sum + x
    return x, sum


@trap(*POINTS)
def deleted_names(x):
    y = x * 2
    if x[0] > 0:
        del y
        y = x
    items = {"a": x, "b": y}
    if x[1] > 0:
        del items["a"]
    try:
        return items["a"] + 1
    except KeyError:
        return items


@trap(*POINTS)
def name_that_may_be_unbound(x):
    if x[0] > 0:
        y = x * 2
    try:
        return y
    except UnboundLocalError:
        return x


@trap(*POINTS, UP * 90, UP * 9000, loop=True)
def nested_functions_that_loop(x):
    steps = 0

    def settle(y, limit):
        nonlocal steps
        while y.abs().amax() > limit:
            y = y * 0.5
            steps += 1
            if steps > 6:
                return None
        return y

    out = [settle(x * k, 1.0) for k in (1, 0.001)]
    return [o for o in out if o is not None], steps


@trap(*POINTS, loop=True)
def loop_in_a_comprehension(x):
    def shrunk(y):
        n = 0
        while y.sum() > 1:
            y, n = y * 0.5, n + 1
        return y, n

    return [shrunk(y) for y in (x, x * 10) if y[0] > 0]


@trap(one(0), one(1), one(3), one(6), loop=True)
def counted_loops_one_after_another(n):
    a = b = 0
    for i in range(int(n)):
        a += i
    for i in range(int(n) + 1):
        if i > 4:
            break
        b += a
    return n * 0 + a, b, i


@trap(one(0), one(2), one(5), loop=True)
def numbers_zipped_with_a_shorter_list(n):
    pairs = [(i, name) for i, name in zip(range(int(n)), "abc")]
    total = 0
    for i, row in enumerate(zip(range(1, int(n)), range(int(n), 0, -1))):
        total = total * 2 + row[0] + row[1] * i
    return pairs, n * 0 + total


@trap(*POINTS)
def recursion_that_data_ends(x):
    def visit(y, depth):
        if depth == 4 or y.abs().sum() < 1:
            return y, depth
        left, d = visit(y * 0.4, depth + 1)
        return (left + y, d) if y[0] > 0 else (left - y, d)

    return visit(x, 0)


# ------------------------------------------------------------------------------------------ modules and contexts
class UnderAutocast(nn.Module):
    """Half the network runs in float16, and what it gives decides; CUDA's autocast does nothing where there is none."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.float16):
            y = self.a(x)
            low = y.dtype is torch.float16
            if y.sum() > 0:
                y = self.b(y) @ y.T
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                z = self.b(x)
        with torch.autocast("cuda", dtype=torch.float16):
            return y, self.a(z), low


@case(paths=2)
def autocast_around_a_decision():
    return UnderAutocast(), [(x,) for x in sweep(16, 1, 3)]


class OverADict(nn.Module):
    """Plain dicts of functions, of thresholds and of numbers, by items, values and keys."""

    def __init__(self):
        super().__init__()
        self.limits = {"relu": 0.0, "tanh": 0.5, "sigmoid": 1.0}
        self.functions = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}

    def forward(self, x):
        used = {}
        for name, limit in self.limits.items():
            if x.amax() > limit:
                x = self.functions[name](x)
                used[name] = x.sum()
        for name in used:
            x = x + len(name)
        return x, sum(used.values())


trap(*POINTS)(OverADict)


class ResetByData(nn.Module):
    """Streaming features whose memory is cleared by the data, or by a method that a later call reaches."""

    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("level", torch.zeros(3))
            self.frames, self.last = 0, None

        def reset(self):
            self.level.zero_()
            self.frames, self.last = 0, None

        def forward(self, x):
            if x.amax() > 2:
                self.reset()
            self.level.mul_(0.5).add_(x)
            self.frames += 1
            before, self.last = self.last, x * 1
            return self.level * 1, before

    def __init__(self):
        super().__init__()
        self.memories = nn.ModuleList(self.Memory() for _ in range(2))

    def forward(self, x):
        for memory in self.memories:
            x, before = memory(x)
            if before is not None and before.sum() > x.sum():
                x = before
        return x, [memory.frames for memory in self.memories]


# A reset of the one memory needs levels that only several calls build up; the oracle forces one call.
trap(*[p * s for p in (UP, DOWN, UP * 0.1) for s in (0.2, 1.0)], sequence=True)(ResetByData)


class HookThatThrows(nn.Module):
    """A hook ends the forward early; another is removed while the forward runs."""

    class Found(Exception):
        pass

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.layers[0].register_forward_hook(self.look)

    def look(self, module, args, output):
        if output.sum() > 0:
            raise self.Found(output)

    def forward(self, x):
        handle = self.layers[1].register_forward_hook(lambda module, args, output: output * 2)
        try:
            return self.layers(x)
        except self.Found as found:
            return found.args[0]
        finally:
            handle.remove()


trap(*POINTS)(HookThatThrows)


class Paged(nn.Module):
    """A cache object in a list per layer, cut back when it is full, three modules deep."""

    class Cache:
        def __init__(self):
            self.keys, self.seen = [], 0

        def update(self, key):
            self.keys.append(key)
            self.seen += 1
            if len(self.keys) > 2:
                self.keys = self.keys[1:]
            return torch.stack(self.keys)

    class Attention(nn.Module):
        def __init__(self, cache):
            super().__init__()
            self.cache = cache

        def forward(self, x):
            keys = self.cache.update(x)
            return (keys @ x).softmax(0) @ keys

    class Block(nn.Module):
        def __init__(self, cache):
            super().__init__()
            self.attention = Paged.Attention(cache)

        def forward(self, x):
            x = x + self.attention(x)
            return x * 0.5 if x.sum() > 0 else x

    def __init__(self):
        super().__init__()
        self.caches = [self.Cache() for _ in range(2)]
        self.blocks = nn.ModuleList(self.Block(cache) for cache in self.caches)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x, [cache.seen for cache in self.caches]


trap(*[p * 0.3 for p in POINTS[:6]], sequence=True)(Paged)


class ThreeWays(nn.Module):
    """`F.*`, methods and operators with sizes that data decides, in a comprehension."""

    def forward(self, x):
        groups = [x[m] for m in (x > 0, x < -1, x.abs() < 1)]
        sizes = [g.shape[0] for g in groups]
        pooled = [g.mean() for g, n in zip(groups, sizes) if n > 1]
        padded = [F.pad(g, (0, 3 - n)) for g, n in zip(groups, sizes)]
        return torch.stack(padded), (max(pooled) if pooled else x.sum()), sizes


trap(*POINTS)(ThreeWays)


@trap(*POINTS)
def numbers_kept_in_lists(x):
    history = [0.0]
    for v in x.tolist():
        history.append(0.5 * history[-1] + v)
        if history[-1] > 1:
            break
    return history, max(history), sum(history) / len(history)


@trap((f(1, -1, 2), one(2)), (f(1, 2, 3), one(0)), (f(-1, -1, -1), one(3)))
def padded_and_rolled_by_numbers(x, n):
    k = int(n)
    kept = x[x > 0]
    padded = F.pad(kept, (1, 3 - kept.shape[0]), value=9.0), F.pad(x, (0, k - 1))
    return padded, x.roll(k), torch.roll(x.reshape(3, 1), -k, 0)


@trap((UP, one(0)), (UP, one(2)), (DOWN, one(1)), (DOWN, one(-1)))
def integer_as_every_kind_of_index(x, n):
    k = int(n)
    items, table = [10, 20, 30], {0: "a", 1: "b", 2: "c", -1: "z"}
    return x[k], x[[k, 0]], x[k:], items[k], table[k], x.roll(k), x.select(0, k), torch.arange(4)[k:].sum()



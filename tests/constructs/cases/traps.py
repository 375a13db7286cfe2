"""Traps: small programs whose meaning is easily lost on a path that no example takes.

They are compiled from few calls and compared on all of them.
"""
from __future__ import annotations

import copy
import itertools
import math
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal


def f(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def one(value: int) -> torch.Tensor:
    return torch.tensor(value)


def whole(*values: int) -> torch.Tensor:
    return torch.tensor(values)


settings = types.ModuleType("settings")
settings.calls = 0
UP, DOWN = f(1, 2, 3), f(-1, -2, -3)
INF, NAN = float("inf"), float("nan")


def trap(*calls: Any, **options: Any) -> Callable[[Any], Any]:
    """Register a function, or a module class, with its calls; a call that is no tuple is its only argument."""

    def register(program: Any) -> Any:
        def factory() -> tuple[Any, list[Any]]:
            target = program() if isinstance(program, type) else program
            return target, [copy.deepcopy(call if isinstance(call, tuple) else (call,)) for call in calls]

        factory.__name__, factory.__module__ = f"trap_{program.__name__}", program.__module__
        case(paths=None, **options)(factory)
        return program

    return register


#: Programs with a call that works and one on which eager PyTorch itself fails: the runtime must not return anything.
LOUD: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...], str]] = {}


def loud(works: tuple[Any, ...], fails: tuple[Any, ...], broken: str = "") -> Callable[[Any], Any]:
    """Register a function that fails in PyTorch itself on the second call."""

    def register(program: Any) -> Any:
        LOUD[program.__name__] = program, works, fails, broken
        return program

    return register


# ------------------------------------------------------------------------------ names and aliases
@trap(UP, DOWN)
def alias_of_the_value_before(x):
    h = x * 1
    previous = h
    h += 1
    return h if (h - previous).abs().sum() == 0 else -h


@trap(UP, DOWN)
def identity_of_tensors(x):
    h = x if x.sum() > 0 else x * 1
    return h * 2 if h is x else h * 3


@trap(UP, DOWN)
def view_of_a_view(x):
    h = x.repeat(2, 1)
    row = h[0]
    tail = row[1:]
    if x.sum() > 0:
        tail.mul_(10)
    row += 1
    return h, tail


@trap(UP, DOWN)
def chunks_are_views(x):
    y = x.repeat(2)
    a, b = y.chunk(2)
    if x.sum() > 0:
        a.zero_()
    else:
        b.fill_(7)
    return y


@trap(UP, DOWN)
def detached_and_data_share_memory(x):
    y = x * 1
    y.detach()[0] = 9.0
    z = x * 1
    z.data.mul_(2)
    return y, z


@trap(UP, DOWN)
def stacked_copies_do_not(x):
    rows = [x * 1, x * 2]
    h = torch.stack(rows)
    rows[0].add_(1)
    return h, rows[0]


@trap(UP, DOWN)
def list_that_is_extended_in_place(x):
    items = [x]
    same = items
    items += [x * 2]
    if x.sum() > 0:
        same = same + [x * 3]
    return items, same


@trap(UP, DOWN)
def late_binding_of_closures(x):
    functions = [lambda y: y * k for k in range(3)]  # noqa: B023
    for function in functions:
        if x.sum() > 0:
            x = function(x) + 1
    return x


@trap((f(1), f(8)), (f(5), f(2)), loop=True)
def names_swapped_in_a_loop(a, b):
    a, b = a.abs() + 0.1, b.abs() + 0.1
    while a.sum() < 20:
        a, b = b, a + b
    return a, b


@trap(f(1), f(30), loop=True)
def alias_lost_within_a_loop(x):
    a = b = torch.zeros(1)
    while a.sum() < 5:
        a += x.abs() + 0.5
        if x.sum() > 2:
            a = a.clone()
    return a, b


@trap(whole(3), whole(9))
def dtype_that_changes_in_a_loop(n):
    total, k = torch.zeros(1, dtype=torch.long), 0
    while k < 3:
        total = total + n * 0.5 if k else total + n
        k += 1
    return total


@trap(UP, DOWN)
def deep_copies(x):
    state = {"h": x * 1, "n": 0}
    for _ in range(2):
        new = copy.deepcopy(state)
        new["h"] += 1
        new["n"] += 1
        if new["h"].sum() > 8:
            return state, new
        state = new
    return state


# ----------------------------------------------------------------------------------------- numbers
@trap(f(2.5), f(-2.5), f(3.5), f(-0.4), f(0.5))
def rounding_of_numbers(x):
    v = float(x[0])
    return (
        int(v), round(v), math.floor(v), math.ceil(v), math.trunc(v), v // 2, v % 3, int(v) // 2, int(v) % 3,
        round(v, 1),
    )


@trap(f(0.1), f(0.1000001), f(0.0999999))
def single_and_double_precision(x):
    return (x > 0.1).item(), float(x) > 0.1, x.item() == 0.1


@trap((whole(3), f(2.5)), (whole(-3), f(0.5)))
def promotion_with_numbers(n, v):
    k, v = int(n), float(v)
    a, u, b = torch.arange(3), torch.arange(3, dtype=torch.uint8), torch.tensor([True, False])
    return a * v, a + k, u * k, b * k, b + v, a.int() * k, a.double() * v, a / k, a // k


@trap(one(3), one(2**40))
def large_integers(n):
    m = int(n)
    return m * m > 2**70, m * m % 7


@trap(one(2), one(5), one(0))
def bit_operations(n):
    m = int(n)
    return m ^ 3, ~m, m << 2, m >> 1, m & 1, m | 8


@trap((one(3), one(0)), (one(0), one(0)), (one(0), one(5)))
def and_or_of_numbers(a, b):
    m, n = int(a), int(b)
    return (m and n), (m or n or 9), (not m), bool(n)


@trap((one(3), one(0)), (one(0), one(0)), (one(0), one(5)))
def booleans_as_numbers(a, b):
    m, n = int(a), int(b)
    return (m > n) + (n > 2) * 10, sum([m > 0, n > 0]), [7, 8][m > 0]


@trap(f(1), f(2), f(0))
def types_of_numbers(x):
    n, v = int(x), x.item()
    return x * (2 if type(n) is int else 3) * (2 if type(v) is float else 5) * (2 if isinstance(n, (int, float)) else 7)


@trap(f(1), f(NAN), f(0))
def truth_of_nan(x):
    return x * 2 if x else -x


# A number that is 0 and more than 0 at once can be forced, and is not compiled.
@trap(f(1), f(NAN), f(0), forced=False)
def comparisons_with_nan(x):
    v = x.item()
    if v:
        x = x + 1
    if v > 0:
        x = x + 10
    if not v > 0:
        x = x + 100
    if v != v:
        x = torch.zeros(1)
    return x


@trap(UP, f(1, NAN, 2), f(NAN, 1, 2))
def nan_guard_by_maximum(x):
    peak = x.abs().max()
    if peak > 0:
        return x / peak, x.amax(0), x.min()
    return torch.zeros(3), x.sign(), x.min()


@trap(UP, DOWN)
def comparison_of_lists_and_tuples(x):
    a, b, c = (float(v) for v in x)
    if [int(v) for v in x] == [1, 2, 3]:
        return x * 2
    return x * 3 if (a, b) < (b, c) else x


@trap(UP, DOWN, f(3, 2, 1), forced=False)
def sorted_numbers(x):
    values = x.tolist()
    return sorted(values), sorted(values, reverse=True)[0], min(values), values.index(max(values))


@trap(UP, DOWN, f(1, 1, 2), pending="EC111")
def set_of_numbers(x):
    return len(set(x.tolist()))


# ------------------------------------------------------------------- numbers that choose from containers
class KeyedByText(nn.Module):
    """`self.experts[str(index)]`, as ModuleDicts force users to write."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleDict({str(k): nn.Linear(1, 1) for k in range(3)})
        self.named = nn.ModuleDict({f"head_{k}": nn.Linear(1, 1) for k in range(3)})

    def forward(self, x):
        index = int(x)
        y = self.experts[str(index)](x.reshape(1, 1))
        return self.named[f"head_{index}"](y)


trap(f(0), f(1), f(2), f(3))(KeyedByText)


class AttributeByNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer0, self.layer1 = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, x):
        layer = getattr(self, f"layer{int(x)}", None)
        return x if layer is None else layer(x.reshape(1, 1))


trap(f(0), f(1), f(5))(AttributeByNumber)


@trap(f(1), f(2), f(7))
def number_in_a_set(x):
    return x * 2 if int(x) in {1, 3, 7} else x


@trap(f(1), f(2), f(7))
def number_in_a_dict(x):
    table = {1: 10.0, 2: 20.0}
    y = x * table[int(x)] if int(x) in table else x
    return y, table.get(int(x), 0.5)


@trap(f(1), f(12), f(1234), pending="EC141")
def text_of_a_number(x):
    text = str(int(x))
    if text == "12":
        return x * 2
    return x * len(text) if f"{x.item():.1f}" != "1.0" else -x


@trap((UP, one(2)), (UP, one(1)), (UP, one(0)), (UP, one(-1)), (UP, one(5)))
def list_sliced_by_a_number(x, n):
    items = [x, x * 2, x * 3]
    return items[: int(n)]


@trap((UP, one(2)), (UP, one(1)), (UP, one(0)))
def list_changed_at_a_number(x, n):
    items = [x, x * 2, x * 3]
    items[int(n)] = x * 0
    return items, items.pop(int(n)).sum(), len(items)


@trap(one(2), one(1), one(0), pending="EC115")
def list_as_long_as_a_number(n):
    return list(range(int(n))), [7] * int(n)


# ----------------------------------------------------------------------------- indices and data sizes
@trap((UP, one(2)), (UP, one(7)), (UP, one(-1)), (UP, one(0)), (UP, one(-9)))
def slices_clamp(x, n):
    k = n.item()
    return x[:k], x[k:], x[k : k + 1]


@trap((one(5), one(2)), (one(9), one(3)), (one(1), one(2)), loop=True)
def range_with_a_step(n, m):
    total = 0
    for k in range(1, int(n), int(m)):
        total = total * 2 + k
    return n * 0 + total


@trap(one(5), one(0), one(-3), loop=True)
def range_downwards(n):
    total = 0
    for k in range(int(n), 0, -2):
        total = total * 10 + k
    for _ in range(int(n)):
        total += 1
    return n * 0 + total


@trap((UP, one(1)), (DOWN, one(2)), (UP, one(0)))
def column_written_at_a_number(x, n):
    h = torch.zeros(2, 3)
    h[:, n.item()] = x[0]
    h[0] += 1
    return h


@trap(f(1, -1), f(-1, -2))
def reductions_of_an_empty_selection(x):
    chosen = x[x > 0]
    return chosen.mean(), chosen.sum(), chosen.prod()


@trap(f(1, -1), f(-1, -2))
def handler_for_an_empty_selection(x):
    try:
        return x[x > 0].max()
    except RuntimeError:
        return x.sum() * 0 - 1


@trap(f(1, -1), f(-1, -2), f(1, 2))
def concatenated_selections(x):
    a, b = x[x > 0], x[x <= 0]
    return torch.cat([a, b]), torch.cat([b, torch.zeros(1), a])


@trap((f(1, -1, 2), f(1, 2)), (f(1, -1, -2), f(1, 2)))
def broadcast_of_a_selection(x, y):
    return x[x > 0] + y


@trap(f(1, -1, 2), f(1, -1, -2), f(-1, -1, -2))
def squeezed_selection(x):
    return x[x > 0].squeeze(0), x[x > 0].unsqueeze(0).squeeze()


@trap(f(1, -1, 2), f(1, -1, -2), f(1, 1, 2))
def unpacked_selection(x):
    a, b = x[x > 0]
    return a - b


@trap((f(1, -1, 2), f(1, 2)), (f(1, -1, -2), f(1, 2)))
def compared_shapes(x, y):
    chosen = x[x > 0]
    return chosen.shape == y.shape, chosen.numel(), max(chosen.shape[0], 2)


@trap(f(1, -1, 2, 3), f(1, 1, 2, 3), f(-1, -1, -1, -1))
def half_of_a_selection(x):
    chosen = x[x > 0]
    half = chosen.shape[0] // 2
    return chosen[:half], chosen[half:], min(len(chosen), 1)


@trap((f(1, -1, 2, 3), one(2)), (f(1, -1, 2, 3), one(4)), (f(1, -1, 2, 3), one(1)))
def view_by_a_number(x, n):
    return x.view(-1, n.item())


# ----------------------------------------------------------------------------------------- exceptions
@trap((one(3), one(2)), (one(3), one(0)))
def handler_for_division_by_zero(a, b):
    try:
        return a * 0 + int(a) // int(b)
    except ZeroDivisionError:
        return a * 0 - 1


@trap(f(4), f(-4))
def handler_for_a_domain_error(x):
    try:
        return math.sqrt(float(x))
    except ValueError:
        return -1.0


@trap(f(4), f(4000))
def handler_for_an_overflow(x):
    try:
        return math.exp(float(x))
    except OverflowError:
        return -1.0


@trap((UP, one(1)), (UP, one(7)), (UP, one(-1)))
def handler_for_an_index(x, n):
    try:
        return x[n.item()]
    except IndexError:
        return x.sum() * 0 - 1


@trap((one(3), one(2)), (one(3), one(0)))
def division_by_zero_leaves_the_model(a, b):
    return int(a) / int(b)


@loud((UP, one(1)), (UP, one(7)))
def index_out_of_range(x, n):
    return x[n]


@loud((f(1, -1, 2), f(1, 2)), (f(1, 1, 2), f(1, 2)))
def sizes_that_do_not_broadcast(x, y):
    return x[x > 0] + y


@loud((f(1, -1, 2, 3), one(2)), (f(1, -1, 2, 3), one(3)))
def view_that_does_not_fit(x, n):
    return x.view(-1, n.item())


@loud((one(2),), (one(-1),))
def negative_size(n):
    return torch.zeros(int(n))


@loud((whole(7, 8), whole(2, 4)), (whole(7, 8), whole(2, 0)))
def integers_divided_by_zero(a, b):
    return a // b


@loud((f(1, -1),), (f(-1, -2),))
def maximum_of_an_empty_selection(x):
    return x[x > 0].max()


@loud((f(1, -1),), (f(-1, -2),))
def smallest_of_an_empty_selection(x):
    return x[x > 0].amin(0)


@loud((f(1, -1),), (f(-1, -2),))
def argmax_of_an_empty_selection(x):
    return x[x > 0].argmax()


@loud((f(1, -1, 1), f(1, 2)), (f(-1, -2, 1), f(1, 2)))
def product_of_sizes_that_do_not_fit(x, y):
    return x[x > 0] @ y


@loud((f(1, -1, 1),), (f(1, 2, 3),))
def stack_of_different_sizes(x):
    return torch.stack([x[x > 0], x[:2]])


@loud((f(1, -1, 1),), (f(-1, -2, -3),))
def topk_of_too_few(x):
    return x[x > 0].topk(2).values


@loud((whole(1, 2),), (whole(1, 9),))
def embedding_out_of_range(n):
    return F.embedding(n, torch.ones(4, 2))


@trap(UP, DOWN)
def tensors_in_exceptions(x):
    class Found(Exception):
        pass

    try:
        if x.sum() > 0:
            raise Found(x * 2, "a")
        raise Found(x * 3, "b")
    except Found as found:
        return found.args


@trap(UP, DOWN)
def exceptions_with_a_cause(x):
    try:
        try:
            if x.sum() > 0:
                raise KeyError("k")
        except KeyError as error:
            raise ValueError("v") from error
    except ValueError as error:
        return x * 2, type(error.__cause__).__name__
    return x


@trap(UP, DOWN)
def return_in_finally(x):
    def inner(y):
        try:
            if y.sum() > 0:
                return y * 2
            raise ValueError("x")
        except ValueError:
            return y * 3
        finally:
            if y.max() > 2:
                return y * 5  # noqa: B012

    return inner(x)


@trap(f(1), f(0.2), f(9), loop=True)
def break_within_finally(x):
    n = 0
    x = x.abs() + 0.1
    while True:
        try:
            x = x * 1.5
            if x.sum() > 4:
                break
        finally:
            n += 1
    return x, n


@trap(UP, DOWN)
def generator_closed_early(x):
    log = []

    def generate():
        try:
            for k in range(3):
                yield x * k
        finally:
            log.append("closed")

    items = generate()
    for y in items:
        if y.sum() > 0:
            break
    items.close()
    return y, log


@trap(UP, DOWN)
def delegating_generators(x):
    def inner():
        yield x
        if x.sum() > 0:
            yield x * 2
        return 7

    def outer():
        result = yield from inner()
        yield x * result

    return list(outer())


# --------------------------------------------------------------------------- state that hides somewhere
class KeptByAHook(nn.Module):
    """Activations stored by a forward hook, as feature extractors do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        features = self.features = {}
        self.linear.register_forward_hook(lambda module, args, output: features.__setitem__("linear", output))

    def forward(self, x):
        y = self.linear(x)
        return y + self.features["linear"] if self.features["linear"].sum() > 0 else y


trap(UP, DOWN, UP, sequence=True)(KeptByAHook)


class WeightNorm(nn.Module):
    """Both kinds of weight normalisation; the older one writes an attribute before each call."""

    def __init__(self):
        super().__init__()
        self.old = torch.nn.utils.weight_norm(nn.Linear(3, 3))
        self.new = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))

    def forward(self, x):
        return self.new(self.old(x)) if x.sum() > 0 else x


trap(UP, DOWN, UP, sequence=True)(WeightNorm)


class MaxNorm(nn.Module):
    """An embedding that renormalises its weight in place."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 3, max_norm=0.5)

    def forward(self, n):
        return self.embedding(n), self.embedding.weight.sum()


trap(whole(1), whole(2), whole(1), sequence=True)(MaxNorm)


class Rotary(nn.Module):
    """A table made by the first call and kept, a buffer registered by it."""

    def __init__(self):
        super().__init__()
        self.cosine, self.length = None, 0

    def forward(self, x):
        if self.cosine is None or self.length < x.shape[0]:
            self.length = x.shape[0]
            self.cosine = torch.cos(torch.arange(self.length).float())
        if not hasattr(self, "positions"):
            self.register_buffer("positions", torch.arange(3.0))
        return x * self.cosine + self.positions if x.sum() > 0 else x


trap(UP, DOWN, UP, sequence=True)(Rotary)


class OnTheClass(nn.Module):
    count = 0

    def forward(self, x):
        type(self).count += 1
        return x * type(self).count


trap(UP, UP, pending="EC150")(OnTheClass)


class OnABuffer(nn.Module):
    """A counter that is an attribute of a tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x):
        self.scale.calls = getattr(self.scale, "calls", 0) + 1
        return x * self.scale.calls


trap(UP, UP, pending="EC150")(OnABuffer)


class OfABuffer(nn.Module):
    """What was attached to a tensor beforehand is read."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(3))
        self.scale.zero_point, self.scale.ranges = 2.0, [1.0, 4.0]

    def forward(self, x):
        if x.sum() > 0:
            x = x * getattr(self.scale, "zero_point", 1.0)
        return x + self.scale.ranges[-1]


trap(UP, DOWN)(OfABuffer)


@trap(UP, UP, pending="EC150")
def in_a_python_module(x):
    settings.calls += 1
    return x * settings.calls


class Iterating(nn.Module):
    def __init__(self):
        super().__init__()
        self.schedule = itertools.cycle([1.0, 2.0, 3.0])

    def forward(self, x):
        return x * next(self.schedule)


trap(UP, UP, pending="EC150")(Iterating)


class OnAFunction(nn.Module):
    """A counter that is an attribute of a function."""

    def __init__(self):
        super().__init__()

        def step(x):
            step.calls += 1
            return x * step.calls

        step.calls = 0
        self.step = step

    def forward(self, x):
        return self.step(x) if x.sum() > 0 else x


trap(UP, DOWN, UP, sequence=True)(OnAFunction)
SEEN: dict[str, int] = {}


@trap(UP, DOWN, pending="EC150")
def in_a_global_dict(x):
    SEEN["calls"] = SEEN.get("calls", 0) + 1
    return x * SEEN["calls"]


@trap(UP, pending="EC121")
def numpy_random_numbers(x):
    return x * float(np.random.rand())


@trap(UP, pending="EC121")
def python_random_numbers(x):
    return x * random.random()


@trap(UP, pending="EC121")
def seeded_in_forward(x):
    torch.manual_seed(0)
    return x + torch.rand(3)


# -------------------------------------------------------------------------------------------- PyTorch
@trap(UP, DOWN)
def questions_about_the_framework(x):
    if torch.is_grad_enabled():
        x = x + 1
    if torch.jit.is_tracing() or torch.jit.is_scripting() or torch.compiler.is_compiling():
        x = x + 100
    if torch.onnx.is_in_onnx_export() or x.requires_grad or type(x) is not torch.Tensor:
        x = x + 1000
    return x


@trap(UP, DOWN)
def strides_and_contiguity(x):
    y = x.reshape(1, 3).repeat(2, 1).t()
    return (y * 2 if y.is_contiguous() else y * 3), y.stride()


@trap(f(1, 1), f(2, 1), f(1, 2))
def ties(x):
    return x.argmax(), x.argmin(), x.sort(descending=True), x.topk(1), x.argsort(), x.max(0), x.min(0)


@trap(f(-3.5, 2.5), f(3.5, -2.5), f(0.5, 1.5))
def remainders(x):
    return x % 2, x % -2, x // 2, torch.fmod(x, 2), x.round(), x.trunc(), x.floor(), torch.remainder(x, -1.5), x.frac()


@trap(whole(-7, 7), whole(7, -7), whole(0, 5))
def remainders_of_integers(n):
    return (
        n % 3, n % -3, n // 3, torch.div(n, 2, rounding_mode="trunc"), torch.fmod(n, 3), n >> 1, n << 2, n & 5, n | 8,
        n ^ 3, ~n, n**2, n.float() / 3, -n, n.abs(),
    )


@trap(f(1, 2), f(NAN, 1), f(1, NAN), f(INF, -1))
def not_a_number(x):
    return (
        x.max(), x.min(), x.amax(0), x.clamp(0, 1), torch.relu(x), torch.maximum(x, x * 0 + 0.5), x.argmax(), x.sign(),
        torch.where(x > 0, x, x * 0), x.softmax(0), x.sum(), torch.isfinite(x), F.leaky_relu(x), torch.sigmoid(x),
    )


class LayerMadeInForward(nn.Module):
    def forward(self, x):
        layer = nn.Linear(3, 3)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer(x)


trap(UP, DOWN)(LayerMadeInForward)


@trap(UP, DOWN)
def statistics_of_the_batch(x):
    mean, variance = torch.zeros(1), torch.ones(1)
    y = F.batch_norm(x.reshape(3, 1), mean, variance, training=True)
    return y, mean, variance


@trap(normal(0, 2, 4), normal(1, 2, 4), sequence=True)
class ReachedFromTheSecondModeOnly(nn.Module):
    """The second call enters the loop by one way, and not by that on which the loop was found."""

    def forward(self, x):
        h = torch.tanh(x)
        n = 0
        while n < 3 and h[1, 1]:
            n += 1
            h = h.reshape(4, 2)
            h[h > 0.8] = 0.65
            self.flag = True
        return h.sum()


@trap(normal(0, 2, 4), normal(1, 2, 4, mean=1.0), normal(2, 2, 4, mean=-1.0))
def transposed_between_decisions(x):
    h = x
    for _ in range(3):
        h = torch.tanh(h).reshape(4, 2).t()
        if h.sum(0).argmax():
            h.add_(0.2)
    return h


@trap(normal(0, 6, 4), normal(1, 6, 4, mean=1.0), normal(2, 6, 4, mean=-1.0))
def chosen_rows_transposed_between_decisions(x):
    h = torch.tanh(x[x.sum(1) > 0].t())
    if h.sum() > 1:
        h = torch.sigmoid(h)
    h.add_(0.5)
    return h.t().view(-1)

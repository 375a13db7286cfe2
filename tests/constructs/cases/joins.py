"""Joins: two decisions in a row, whose paths may be one afterwards only where nothing tells them apart."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.constructs.registry import case

#: Both signs of both elements, in every combination and at several sizes.
POINTS = [(torch.tensor([a, b]),) for a in (-2.0, -0.3, 0.4, 1.7) for b in (-1.5, 0.2, 2.5)]


def joined(**options: Any) -> Callable[[Any], Any]:
    """Register a function or a module class that takes two numbers in a tensor and decides by each."""

    def register(program: Any) -> Any:
        def factory() -> tuple[Any, list[Any]]:
            target = program() if isinstance(program, type) else program
            return target, [(x.clone(),) for (x,) in POINTS]

        factory.__name__, factory.__module__ = f"join_{program.__name__}", __name__
        case(paths=None, **options)(factory)
        return program

    return register


# --------------------------------------------------------------------------------- what Python remembers
@joined()
def flags(x):
    a = b = 0
    if x[0] > 0:
        a = 1
    if x[1] > 0:
        b = 1
    if a and b:
        return x * 2
    return x * 3 if a or b else x * 4


@joined()
def order_of_a_list(x):
    items = []
    if x[0] > 0:
        items.append("a")
    if x[1] > 0:
        items.append("b")
    if x.sum() > 0:
        items.reverse()
    return x, items


@joined()
def order_of_a_dict(x):
    items = {}
    if x[0] > 0:
        items["b"] = x
    items["a"] = x * 2
    if x[1] > 0:
        items["b"] = x * 3
    return items


@joined()
def none_or_a_tensor(x):
    more = None
    if x[0] > 0:
        more = x * 2
    y = x + 1
    if x[1] > 0:
        y = y * 3
    return y if more is None else y + more


@joined()
def text(x):
    name = "up" if x[0] > 0 else "down"
    y = x * 2 if x[1] > 0 else x * 3
    return y, name + name


@joined()
def grown_set(x):
    seen = set()
    for i in range(3):
        if x[i % 2] > 0:
            seen.add(i)
    return sorted(seen), len(seen)


@joined()
def flag_of_a_closure(x):
    done = False

    def check(y):
        nonlocal done
        if y.sum() > 1:
            done = True
        return y * 2

    a = check(x)
    b = x if done else check(a)
    return a, b, done


@joined()
def iterator_read_by_two(x):
    numbers = iter([1.0, 2.0, 3.0, 4.0])
    y = x
    for value in numbers:
        y = y + value
        if y[0] > 2:
            y = y * next(numbers, 10.0)
    return y


# ------------------------------------------------------------------------------------- what is the same
@joined()
def swapped_names(x):
    a, b = x * 2, x * 3
    if x[0] > 0:
        a, b = b, a
    c = a - b
    if x[1] > 0:
        c = c + a
    return c, b


@joined()
def one_list_or_two(x):
    items = [x * 1]
    other = items if x[0] > 0 else list(items)
    if x[1] > 0:
        other.append(x)
    return len(items), len(other)


@joined()
def one_dict_or_two(x):
    first = {"v": x * 1}
    second = first if x[0] > 0 else dict(first)
    second["v"] = x * 5
    if x[1] > 0:
        second["w"] = x
    return first, second


@joined()
def which_object(x):
    class Holder:
        def __init__(self, value):
            self.value = value

    a, b = Holder(x), Holder(x * 2)
    chosen = a if x[0] > 0 else b
    chosen.value = chosen.value + 10
    if x[1] > 0:
        chosen.value = chosen.value * 2
    return a.value, b.value


@joined()
def one_tensor_or_two(x):
    a = x * 1
    b = a if x[0] > 0 else a.clone()
    y = x * 2 if x[1] > 0 else x * 3
    b += y
    return a, b


@joined()
def which_part_of_a_tensor(x):
    base = x.repeat(2)
    part = base[:2] if x[0] > 0 else base[2:]
    y = x * 2 if x[1] > 0 else x * 3
    part += y
    return base


@joined()
def view_or_a_tensor_of_its_own(x):
    base = x.repeat(2)
    part = base[:2] if x[0] > 0 else x * 7
    y = x * 2 if x[1] > 0 else x * 3
    part *= y
    return base, part


@joined()
def view_written_through_both_names(x):
    y = x.clone()
    view = y.view(2, 1)
    if x[0] > 0:
        view.add_(1)
    if x[1] > 0:
        y.mul_(2)
    return view, y


@joined()
def strides(x):
    square = x.reshape(2, 1) * x
    turned = square.t() if x[0] > 0 else square * 1
    y = x * 2 if x[1] > 0 else x
    return turned.reshape(-1), y, turned.is_contiguous()


@joined()
def dtypes(x):
    y = x.long() if x[0] > 0 else x
    z = x * 2 if x[1] > 0 else x * 3
    return y * 2, z


# ------------------------------------------------------------------------------------- what is known
@joined()
def one_condition_thrice(x):
    condition = x[0] > 0
    y = x * 2 if condition else x
    z = y + 1 if condition else y - 1
    return z * 3 if not condition else z


@joined()
def a_condition_that_is_changed(x):
    condition = (x[0] > 0).clone()
    y = x * 2 if condition else x
    condition.logical_not_()
    return y + 1 if condition else y - 1


@joined()
def numbers_read_before_and_after_writes(x):
    v = x.clone()
    a = v[0].item()
    v[0] = 5
    b = v[0].item()
    v.add_(1)
    c = v[0].item()
    return a, b, c, (1 if a > 0 else 2), (1 if b > 0 else 2), (1 if c > 5 else 2)


@joined()
def facts_of_an_integer(x):
    n = int(x[0] * 10)
    y = x * 2 if n > 3 else x
    if n <= 3:
        y = y + 1
    if n >= 4:
        y = y + 10
    if not n > 3:
        y = y + 100
    if n + 1 > 4:
        y = y + 1000
    return y, n


@joined()
def facts_of_a_float(x):
    v = x[0].item()
    y = x
    if v > 0.3:
        y = y + 1
    if v <= 0.3:
        y = y + 10
    if v * 2 > 0.6:
        y = y + 100
    if v != 0.5:
        y = y + 1000
    if -v < -0.3:
        y = y + 10000
    return y


@joined()
def arithmetic_of_integers(x):
    n, m = int(x[0] * 10), int(x[1] * 10)
    return (
        n // 4, n % 4, -n // 4, (-n) % 4, n * m, n - m, abs(n), max(n, m), min(n, m, 3), n**2, n / 4, (n + m) // 2 * 2,
        (n > m) - (n < m),
    )


@joined()
def arithmetic_of_floats(x):
    a, b = float(x[0]), float(x[1])
    return (
        a + b, a - b, a * b, a / b, a // b, a % b, a**2, -a, abs(a), max(a, b), min(a, b), round(a), int(b),
        a * 3 - b / 7 + 1e-3,
    )


@joined()
def numbers_in_operations(x):
    n = float(x[0])
    y = torch.zeros(3)
    y[1] = n
    y[0:1].fill_(n)
    y[2] = x[1]
    return (
        y, torch.where(x > n, x, n), x.clamp(max=n), x.clamp(min=n), x.masked_fill(x > 0, n), x.add(x, alpha=n),
        y.index_fill(0, torch.tensor([0]), n), torch.full((2,), n), x * int(n * 10) + n,
    )


@joined()
def tensors_made_of_numbers(x):
    n = int(x[0] * 10)
    return torch.tensor([1.0, 2.0]) * n if n > 0 else torch.tensor([n, 1])


# ----------------------------------------------------------------------------------------------- loops
@joined(loop=True)
def counters_of_nested_loops(x):
    i = j = 0
    y = x.abs() + 0.1
    while y.sum() < 9:
        i += 1
        k = 0
        while y[0] < i:
            y = y * 1.4
            k += 1
            j += 1
            if k > 2:
                break
        y = y + 0.3
    return y, i, j


@joined(loop=True)
def two_exits_of_a_loop(x):
    y, n, why = x.abs() + 0.1, 0, "none"
    while True:
        n += 1
        y = y * 1.5
        if y[0] > 3:
            why = "first"
            break
        if y[1] > 3:
            why = "second"
            break
    return y, n, why


@joined(loop=True)
def parity_of_a_loop(x):
    y, flip = x.abs() + 0.1, False
    while y.sum() < 9:
        y = y * 1.3
        flip = not flip
        if flip:
            y = y + 0.1
    return y, flip


@joined(loop=True)
def rotating_list(x):
    queue = [x.abs() + 0.1, x.abs() + 0.2, x.abs() + 0.3]
    while queue[0].sum() < 9:
        queue = [*queue[1:], queue[0] * 1.7]
    return queue


@joined(pending="EC110")
def machine_of_three_states(x):
    y, state, n = x.abs() + 0.1, "a", 0
    while y.sum() < 9:
        n += 1
        if state == "a":
            y = y + 0.5
            state = "b" if y[0] > 1 else "a"
        elif state == "b":
            y = y * 1.2
            state = "c"
        else:
            y = y + 0.1
            state = "a"
    return y, state, n


@joined()
def best_of_a_loop(x):
    best, value, y, n = None, -1.0, x.abs() + 0.1, 0
    while n < 6:
        y = y * 0.7 + 0.3
        now = float((y - 1).abs().sum())
        if now > value:
            best, value = y, now
        n += 1
        if now < 0.05:
            break
    return best, value, n


@joined()
def rate_that_changes_between_rounds(x):
    rate, out = 0.1, x
    for i in range(4):
        rate *= 2
        if out.sum() > 3:
            continue
        out = out.abs() + rate * i
    return out, rate


@joined()
def exits_of_two_loops_at_once(x):
    for i in range(3):
        for j in range(3):
            if x[0] * i > x[1] * j + 1:
                break
        else:
            continue
        break
    else:
        return x, -1, -1
    return x, i, j


@joined()
def exceptions_within_a_loop(x):
    n, y = 0, x
    for k in range(4):
        try:
            if y[0] > 1:
                raise OverflowError
            y = y + 0.5 * k
        except OverflowError:
            y = y - 2
            n += 1
    return y, n


@joined()
def exceptions_and_what_was_done_before(x):
    log = []
    try:
        log.append("a")
        if x[0] > 0:
            raise KeyError("k")
        log.append("b")
        if x[1] > 0:
            raise IndexError("i")
        log.append("c")
    except KeyError:
        log.append("K")
    except IndexError:
        log.append("I")
    finally:
        log.append("f")
    return x, log


@joined()
def suppressing_context(x):
    class Suppress:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            return kind is ValueError

    y = x
    with Suppress():
        if x[0] > 0:
            raise ValueError
        y = y * 2
    with Suppress():
        y = y + 1
        if x[1] > 0:
            raise ValueError
        y = y * 3
    return y


# ----------------------------------------------------------------------------------------------- state
@joined(sequence=True)
class Accumulated(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x):
        if x[0] > 0:
            self.total = self.total + self.weight
        if x[1] > 0:
            self.total.mul_(2)
        return self.total * 1, self.total


@joined(sequence=True)
class TwoNames(nn.Module):
    """Two attributes that are one tensor until a call parts them."""

    def __init__(self):
        super().__init__()
        self.a = torch.zeros(2)
        self.b = self.a
        self.n = 0

    def forward(self, x):
        if x[0] > 1:
            self.a = self.a + x
            self.n += 1
        if x[1] > 0:
            self.b += 1
        return self.a, self.b * 1, self.a is self.b, self.n


@joined(sequence=True)
class Window(nn.Module):
    """A list that grows to three and slides."""

    def __init__(self):
        super().__init__()
        self.window = []

    def forward(self, x):
        self.window.append(x * 1)
        if len(self.window) > 3:
            self.window.pop(0)
        return torch.stack(self.window).sum(0), len(self.window)


@joined(sequence=True)
class Phases(nn.Module):
    """A state machine in a string, and a counter."""

    SCALES = {"warm": 1, "run": 2, "stop": 3}

    def __init__(self):
        super().__init__()
        self.phase, self.n = "warm", 0

    def forward(self, x):
        self.n += 1
        if self.phase == "warm" and x[0] > 0:
            self.phase = "run"
        elif self.phase == "run" and x[1] < 0:
            self.phase = "stop"
        return x * self.SCALES[self.phase], self.n, self.phase


@joined(sequence=True)
class Averaged(nn.Module):
    """Python floats that are None first."""

    def __init__(self):
        super().__init__()
        self.average, self.best = None, float("inf")

    def forward(self, x):
        value = x.abs().sum().item()
        self.average = value if self.average is None else 0.9 * self.average + 0.1 * value
        if self.average < self.best:
            self.best = self.average
        return x * self.best, self.average


@joined(sequence=True)
class RaisingMidway(nn.Module):
    """State written before an exception stays written."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def forward(self, x):
        self.n += 1
        if x[0] < 0:
            raise ValueError("negative")
        return x * self.n


# "up" twice from the start needs two calls forced at once; the oracle forces one.
@joined(sequence=True, forced=False)
class KeyedState(nn.Module):
    """A dict whose keys come with the data."""

    def __init__(self):
        super().__init__()
        self.totals = {}

    def forward(self, x):
        key = "up" if x[0] > 0 else "down"
        if key not in self.totals:
            self.totals[key] = torch.zeros(2)
        self.totals[key] = self.totals[key] + x
        return self.totals[key], sorted(self.totals)


@joined(sequence=True)
class KeepsItsInput(nn.Module):
    """The input itself becomes the state, and the state itself the result."""

    def __init__(self):
        super().__init__()
        self.last, self.sum = None, torch.zeros(2)

    def forward(self, x):
        out = x * 2 if self.last is None else self.last + x
        self.last = x
        self.sum = self.sum + x
        return out, self.sum

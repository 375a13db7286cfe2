"""Structure: how Python puts a network together: hooks, decorators, closures, generators, inheritance."""
from __future__ import annotations

import functools
import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tests.constructs.registry import case, normal, sweep


class Base(nn.Module):
    """A forward that subclasses extend through `super()`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        y = self.linear(x)
        if y.sum() > 0:
            return self.positive(y)
        return y

    def positive(self, y):
        return y * 2


class Derived(Base):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(2, 2)

    def forward(self, x):
        y = super().forward(x)
        if y.max() > 1:
            y = self.extra(y)
        return y

    def positive(self, y):
        return super().positive(y) + 1


class Mixin:
    def forward(self, x):
        if x.abs().max() > 4:
            x = x.clamp(-4, 4)
        return super().forward(x)


class Mixed(Mixin, Derived):
    pass


@case(paths=3)
def super_forward():
    return Derived(), [(x,) for x in sweep(32, 1, 2)]


@case(paths=5)
def mixin_in_the_resolution_order():
    return Mixed(), [(x,) for x in sweep(32, 1, 2)]


class InheritedOnly(Base):
    """Its forward is the parent's."""


@case(paths=2)
def inherited_forward():
    return InheritedOnly(), [(x,) for x in sweep(32, 1, 2)]


class DynamicMember(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else x


class InSequential(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 2), DynamicMember(), nn.ReLU(), nn.Sequential(DynamicMember(), nn.Linear(2, 2)))

    def forward(self, x):
        return self.net(x)


@case(paths=4, seed=2)
def sequential_with_dynamic_members():
    return InSequential(), [(x,) for x in sweep(32, 1, 2)]


@case(paths=3, seed=1)
def sequential_as_the_target():
    return nn.Sequential(DynamicMember(), DynamicMember()), [(x,) for x in sweep(32, 1, 2)]


def clamp_output(module, args, output):
    if output.abs().max() > 1:
        return output / output.abs().max()
    return None


def shift_input(module, args):
    (x,) = args
    if x.min() < -0.5:
        return (x - 2 * x.mean(),)
    return None


class Hooked(nn.Module):
    """Forward hooks and pre-hooks that decide."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), DynamicMember()
        self.first.register_forward_hook(clamp_output)
        self.second.register_forward_pre_hook(shift_input)

    def forward(self, x):
        return self.second(self.first(x))


@case(paths=7)
def forward_hooks():
    return Hooked(), [(x,) for x in sweep(32, 1, 2)]


class KeywordHooked(nn.Module):
    class Scaled(nn.Module):
        def forward(self, x, *, scale=1.0):
            return x * scale

    def __init__(self):
        super().__init__()
        self.scaled = self.Scaled()
        self.scaled.register_forward_pre_hook(self.choose, with_kwargs=True)

    @staticmethod
    def choose(module, args, kwargs):
        if args[0].sum() > 0:
            return args, {**kwargs, "scale": 3.0}
        return None

    def forward(self, x):
        return self.scaled(x, scale=0.5)


@case(paths=2)
def pre_hook_with_keywords():
    return KeywordHooked(), [(torch.ones(2),), (-torch.ones(2),)]


def logged(function):
    """A decorator that keeps the name and passes everything on."""

    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        result = function(self, *args, **kwargs)
        if isinstance(result, tuple) and result[0].sum() < 0:
            return (-result[0], *result[1:])
        return result

    return wrapper


def repeat(times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(self, x):
            for _ in range(times):
                x = function(self, x)
            return x

        return wrapper

    return decorate


class Decorated(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    @repeat(2)
    def refine(self, x):
        return torch.tanh(self.linear(x)) if x.norm() > 0.5 else x

    @logged
    @torch.no_grad()
    def forward(self, x):
        y = self.refine(x)
        return y, y.norm()


@case(paths=5)
def decorators():
    return Decorated(), [(x,) for x in sweep(32, 1, 2)]


def gated(x, layer, threshold, invert=False):
    hot = x.mean() > threshold
    if hot if not invert else not hot:
        return layer(x)
    return x


class WithPartial(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.steps = [functools.partial(gated, threshold=0.0), functools.partial(gated, threshold=0.2, invert=True)]

    def forward(self, x):
        for step, layer in zip(self.steps, (self.a, self.b)):
            x = step(x, layer)
        return x


@case(paths=3, seed=1)
def functools_partial():
    return WithPartial(), [(x,) for x in sweep(32, 1, 2)]


class Closures(nn.Module):
    """Closures over locals and over cells that they write."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        limit = x.abs().max()
        applied = 0

        def step(h):
            nonlocal applied
            h = self.linear(h)
            if h.abs().max() < limit:
                applied += 1
                return h
            return h / 2

        for _ in range(2):
            x = step(x)
        return x, applied


@case(paths=4, seed=3)
def closures_with_nonlocal():
    return Closures(), [(x,) for x in sweep(32, 1, 2)]


class Lambdas(nn.Module):
    def __init__(self):
        super().__init__()
        self.activation = lambda x: torch.relu(x) if x.mean() > 0 else torch.tanh(x)
        self.table = {"double": lambda x: x * 2, "negate": lambda x: -x}
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        y = self.activation(self.linear(x))
        return self.table["double" if y.sum() > 0.5 else "negate"](y)


@case(paths=3)
def lambdas():
    return Lambdas(), [(x,) for x in sweep(32, 1, 2)]


class Generators(nn.Module):
    """A generator method with a tensor filter, consumed by a loop that may stop early."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def features(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
            if x.sum() > 0:
                yield x

    def forward(self, x):
        total = torch.zeros_like(x)
        for feature in self.features(x):
            total = total + feature
            if total.norm() > 1:
                break
        return total


@case(paths=5)
def generator_method():
    return Generators(), [(x,) for x in sweep(32, 1, 2)]


class Comprehensions(nn.Module):
    """Comprehensions with tensor filters, nested, over modules three deep."""

    def __init__(self):
        super().__init__()
        self.groups = nn.ModuleList(nn.ModuleList(nn.Linear(2, 2) for _ in range(2)) for _ in range(2))

    def forward(self, x):
        outputs = [layer(x) for group in self.groups for layer in group if layer(x).sum() > 0]
        count = sum(1 for output in outputs if output.max() > 1)
        if outputs:
            return torch.stack(outputs).mean(0), count
        return x, count


@case(paths=11)
def comprehensions_with_tensor_filters():
    return Comprehensions(), [(x,) for x in sweep(32, 1, 2)]


class Rebound(nn.Module):
    """`self.forward` replaced on the instance, as adapters and wrappers do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        original = self.forward

        def patched(x):
            y = original(x)
            return y if y.sum() > 0 else -y

        self.forward = patched

    def forward(self, x):
        return self.linear(x)


class HasRebound(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Rebound()
        self.other = Base()
        self.other.forward = types.MethodType(lambda module, x: Base.forward(module, x) + 1, self.other)

    def forward(self, x):
        return self.other(self.inner(x))


@case(paths=4)
def rebound_forward():
    return HasRebound(), [(x,) for x in sweep(32, 1, 2)]


@case(paths=2)
def rebound_forward_as_the_target():
    return Rebound(), [(x,) for x in sweep(32, 1, 2)]


class Encoder(nn.Module):
    """A method other than forward as the target."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def encode(self, x, *, sharpen=False):
        y = self.linear(x)
        if y.sum() > 0:
            return y.softmax(-1) ** (2 if sharpen else 1)
        return y


@case(paths=4)
def bound_method_as_the_target():
    import elastic_compile as ec

    module = Encoder().eval()
    calls = [(x,) for x in sweep(32, 1, 2)]
    return module.encode, calls + [ec.call(x, sharpen=True) for x, in calls]


def plain_function(x, y):
    """No module at all."""
    if x.sum() > y.sum():
        return x - y
    return torch.maximum(x, y)


@case(paths=2)
def function_as_the_target():
    one = torch.ones(2)
    return plain_function, [(one, -one), (-one, one)]


class Config:
    """A configuration object read in forward, with a property."""

    def __init__(self):
        self.threshold = 0.3
        self.options = {"residual": True, "depth": 2}

    @property
    def depth(self):
        return self.options["depth"]


class Configured(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = Config()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        for i in range(self.config.depth):
            y = self.layers[i](x)
            if y.mean() > self.config.threshold:
                x = x + y if self.config.options["residual"] else y
        return x


@case(paths=4)
def config_objects():
    return Configured(), [(x,) for x in sweep(32, 1, 2)]


@dataclass
class Node:
    """A tree built once; its structure is static."""

    left: object
    right: object


class TreeNet(nn.Module):
    """A recursive network over a static tree (Socher et al. 2013), with a decision at each node."""

    def __init__(self):
        super().__init__()
        self.compose = nn.Linear(4, 2)
        self.tree = Node(Node(0, 1), Node(2, 0))

    def visit(self, node, leaves):
        if isinstance(node, int):
            return leaves[node]
        left, right = self.visit(node.left, leaves), self.visit(node.right, leaves)
        if (left * right).sum() < 0:
            return (left + right) / 2
        return torch.tanh(self.compose(torch.cat([left, right])))

    def forward(self, leaves):
        return self.visit(self.tree, leaves)


@case(paths=8)
def recursive_tree():
    return TreeNet(), [(x,) for x in sweep(32, 3, 2)]


class DecisionTree(nn.Module):
    """A soft tree walked hard: a while over node numbers kept in Python."""

    def __init__(self):
        super().__init__()
        self.nodes = nn.ModuleList(nn.Linear(2, 1) for _ in range(3))
        self.leaves = nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        node = 0
        while node < 3:
            node = 2 * node + (1 if self.nodes[node](x).sum() > 0 else 2)
        return self.leaves[node - 3], node


@case(paths=4)
def hard_decision_tree():
    return DecisionTree(), [(x,) for x in sweep(32, 1, 2)]


class CallableObject:
    """A callable that is no module: a scheduler with state of its own that never changes."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, x):
        return x / x.norm() * self.limit if x.norm() > self.limit else x


class UsesCallable(nn.Module):
    def __init__(self):
        super().__init__()
        self.clip = CallableObject(1.5)
        self.linear = nn.Linear(2, 2)

    @property
    def stages(self):
        return [self.clip, self.linear, self.clip]

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


@case(paths=4, seed=5)
def callable_objects_and_properties():
    return UsesCallable(), [(x,) for x in sweep(32, 1, 2)]


class StaticAndClass(nn.Module):
    scale = 2.0

    @staticmethod
    def hot(x):
        return x.max() > 1

    @classmethod
    def scaled(cls, x):
        return x * cls.scale

    def forward(self, x):
        if self.hot(x) and not StaticAndClass.hot(-x):
            return self.scaled(x)
        return x


@case(paths=3)
def static_and_class_methods():
    return StaticAndClass(), [(torch.tensor(v),) for v in ([2.0, 0.0], [0.0, 0.0], [2.0, -2.0])]


class Shared(nn.Module):
    """One submodule used at three depths: equal regions, one weight."""

    def __init__(self):
        super().__init__()
        self.block = DynamicMember()
        self.stack = nn.ModuleList([self.block, self.block, self.block])

    def forward(self, x):
        for block in self.stack:
            x = block(x)
        return x


@case(paths=4, seed=1)
def one_module_used_three_times():
    return Shared(), [(x,) for x in sweep(32, 1, 2)]


class Reduced(nn.Module):
    """`functools.reduce`, `map`, `filter` and `sorted` with functions that decide."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        outputs = list(map(lambda layer: layer(x), self.layers))
        positive = list(filter(lambda y: y.sum() > 0, outputs))
        if not positive:
            return x
        return functools.reduce(lambda a, b: a + b if (a * b).sum() > 0 else a - b, positive)


@case(paths=9, seed=1)
def map_filter_reduce():
    return Reduced(), [(x,) for x in sweep(32, 1, 2)]


class Sorted(nn.Module):
    """Modules sorted by a score that the data gives."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(3))

    def forward(self, x):
        scores = [head(x).sum() for head in self.heads]
        order = sorted(range(3), key=lambda i: scores[i])
        return torch.stack([scores[i] for i in order]), order


@case(paths=6, seed=2)
def sorted_by_tensor_key():
    return Sorted(), [(x,) for x in sweep(32, 1, 2)]


def convolved_by_numbers(x):
    """Strides, paddings and dilations as single numbers."""
    weight = torch.ones(2, 3, 3)
    if x.sum() > 0:
        return F.conv1d(x, weight, padding=1), F.conv2d(x[..., None], weight[..., None], stride=2)
    return F.conv1d(x, weight, None, 2, "valid"), F.conv_transpose1d(x, weight.transpose(0, 1), stride=2)


@case(paths=2)
def convolutions_with_numbers():
    return convolved_by_numbers, [(x.expand(1, 3, 8) * 1.0,) for x in (torch.ones(1), -torch.ones(1))]

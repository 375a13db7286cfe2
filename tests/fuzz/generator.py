"""Random dynamic networks as source text, of the constructs that users of PyTorch write.

In: a source of random choices; hypothesis draws and shrinks it, the soak seeds it. Out: the text of a module with
`make()` (the network, its weights seeded), `calls()` (arguments for it, in order) and `STATEFUL`.
Never: writes a program that does not end, that reads a variable that may be unbound, or whose numbers grow: tensors
pass through tanh and clamp, loops count to a bound.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from hypothesis import strategies as st

HEADER = '''import torch
from torch import nn


class Exit(Exception):
    def __init__(self, value, code=0):
        super().__init__("exit")
        self.value = value
        self.code = code


class Deep(Exit):
    pass


class Box:
    def __init__(self, t, n):
        self.t = t
        self.n = n


class Leaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, h):
        return torch.tanh(self.linear(h))
'''

FOOTER = '''

def make():
    torch.manual_seed({seed})
    net = Net()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2.0)
    return net.eval()


def calls():
    drawn = torch.Generator().manual_seed({seed})
    made = []
    for i in range({calls}):
        x = torch.randn(2, 4, generator=drawn) * (0.3, 1.0, 3.0)[i % 3] + (0.0, 0.5, -0.5, 0.0)[i % 4]
        made.append(({arguments}))
    return made
'''

#: What a variable holds: a float tensor [2, 4], a view [2, 2], a 0-d tensor, a host int, a host float, a truth value
#: (of Python or a tensor), a list of tensors, a dict of tensors with "a" in it, a string, a Box, a callable.
TENSOR, VIEW, SCALAR, INT, FLOAT, FLAG, LIST, DICT, MODE, BOX, CALLABLE = (
    "t", "v", "s", "n", "f", "b", "l", "d", "m", "p", "c")


@dataclass(frozen=True)
class Part:
    """Something on `self` or global that can be called with a tensor. `risky`: it may raise Exit."""

    call: str
    risky: bool = False


@dataclass
class Scope:
    """What the code at one place may use. `fixed`: names that it may read and not assign."""

    names: dict[str, list[str]]
    parts: list[Part] = field(default_factory=list)
    generators: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    heads: bool = False
    state: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    loop: bool = False
    returns: Callable[[Scope], str] | None = None
    raises: bool = False
    depth: int = 0
    statements: int = 4

    def of(self, kind: str) -> list[str]:
        return self.names.get(kind, [])

    def inner(self, **changes: object) -> Scope:
        """A scope for a block inside: what it defines is unknown outside."""
        return replace(self, names={k: list(v) for k, v in self.names.items()}, depth=self.depth + 1, **changes)

    def keep(self, *blocks: Scope) -> None:
        """Learn the names that every one of these blocks defines."""
        for kind in {kind for block in blocks for kind in block.names}:
            for name in blocks[0].of(kind):
                if all(name in block.of(kind) for block in blocks) and name not in self.of(kind):
                    self.names.setdefault(kind, []).append(name)


class Writer:
    """Writes one program."""

    def __init__(self, drawn: random.Random) -> None:
        self.drawn = drawn
        self.lines: list[str] = []
        self.indent = 0
        self.fresh = count()
        self.forks = 0
        self.stateful = False

    # -- choices
    def below(self, n: int) -> int:
        return self.drawn.randrange(n)

    def pick(self, *options):
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def number(self, low: float = -0.9, high: float = 0.9) -> str:
        return str(round(low + (high - low) * self.below(1000) / 1000 + 0.0003, 4))

    def line(self, text: str = "") -> None:
        self.lines.append("    " * self.indent + text if text else "")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self.indent += 1
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.line("pass")
        self.indent -= 1

    def allow(self, forks: int) -> None:
        """A function begins that may take so many decisions."""
        self.forks = forks

    # -- the program
    def program(self) -> str:
        parts: list[Part] = []
        generators: list[str] = []
        for _ in range(self.below(3)):
            if self.chance(30):
                generators.append(self.generator())
            else:
                parts.append(self.helper(parts, generators))
        below: list[str] = []
        for _ in range(self.below(4)):
            below.append(self.module(f"Mid{len(below)}", below, parts, generators))
        arguments = self.net(below, parts, generators)
        text = "\n".join([HEADER, *self.lines])
        text += FOOTER.format(seed=self.below(1000), calls=8, arguments=arguments)
        return text + f"\n\nSTATEFUL = {self.stateful}\n"

    def helper(self, parts: list[Part], generators: list[str]) -> Part:
        name = f"helper{next(self.fresh)}"
        self.allow(1 + self.below(3))
        self.line()
        self.line()
        risky = self.chance(30)
        with self.block(f"def {name}(u, w=0.5):"):
            scope = Scope(
                {TENSOR: ["u"], FLOAT: ["w"]}, parts=[p for p in parts if not p.risky], generators=list(generators),
                returns=lambda inner: self.tensor(inner), raises=risky, depth=1, statements=3)
            self.body(scope)
            self.line(f"return {self.all_tensors(scope)}")
        return Part(name, risky)

    def generator(self) -> str:
        name = f"steps{next(self.fresh)}"
        self.allow(1 + self.below(2))
        self.line()
        self.line()
        with self.block(f"def {name}(u, k):"):
            scope = Scope({TENSOR: ["u"], INT: ["k"]}, depth=1, statements=2, fixed=frozenset({"k"}))
            self.body(scope)
            with self.block("for i in range(k):"):
                inner = scope.inner(loop=True)
                inner.names[INT] = [*inner.of(INT), "i"]
                inner.fixed = inner.fixed | {"i"}
                if self.may_fork(60):
                    with self.block(f"if {self.condition(inner)}:"):
                        self.line(self.pick("continue", "return", "break"))
                self.line(f"u = {self.tensor(inner)}")
                self.line(f"yield {self.tensor(inner)}")
        return name

    def module(self, name: str, below: list[str], parts: list[Part], generators: list[str]) -> str:
        risky = self.chance(25)
        self.line()
        self.line()
        with self.block(f"class {name}(nn.Module):"):
            scope = self.constructor(below, parts, generators)
            scope.names[TENSOR] = ["h"]
            scope.raises, scope.statements = risky, 3
            scope.returns = lambda inner: self.tensor(inner)
            self.line()
            with self.block("def forward(self, h):"):
                self.allow(1 + self.below(4))
                self.body(scope)
                self.line(f"return {self.all_tensors(scope)}")
        return f"{name}!" if risky else name

    def constructor(self, below: list[str], parts: list[Part], generators: list[str]) -> Scope:
        """`__init__` of a module, and the scope of its `forward`."""
        own = list(parts)
        modules: list[str] = []
        state: set[str] = set()
        heads = self.chance(25)
        with self.block("def __init__(self):"):
            self.line("super().__init__()")
            self.line("self.first = Leaf()")
            own.append(Part("self.first"))
            for i, kind in enumerate(below[-2:]):
                if self.chance(85):
                    self.line(f"self.sub{i} = {kind.rstrip('!')}()")
                    own.append(Part(f"self.sub{i}", kind.endswith("!")))
            if self.chance(60):
                kind = self.pick("Leaf", *(k for k in below[-1:] if not k.endswith("!")))
                self.line(f"self.blocks = nn.ModuleList([{kind}() for _ in range({self.pick(2, 3)})])")
                modules.append("self.blocks")
            if heads:
                self.line("self.heads = nn.ModuleList([Leaf() for _ in range(4)])")
            for attribute, value in (("count", "0"), ("cache", "None"), ("flag", "False"), ("hist", "[]")):
                if self.chance(8):
                    self.line(f"self.{attribute} = {value}")
                    state.add(attribute)
            if self.chance(10):
                self.line('self.register_buffer("buf", torch.zeros(2, 4))')
                state.add("buf")
        self.stateful = self.stateful or bool(state)
        return Scope({}, parts=own, generators=list(generators), modules=modules, heads=heads, state=frozenset(state),
                     depth=1)

    def net(self, below: list[str], parts: list[Part], generators: list[str]) -> str:
        self.line()
        self.line()
        with self.block("class Net(nn.Module):"):
            scope = self.constructor(below, parts, generators)
            given, arguments = "self, x", "x,"
            scope.names[TENSOR] = ["h"]
            scope.fixed = frozenset({"x"})
            if self.chance(20):
                given, arguments = given + ", n0", arguments + " i % 4,"
                scope.names[INT] = ["n0"]
            if self.chance(12):
                given, arguments = given + ", f0", arguments + " float(x[0, 0]) + 0.1 * i,"
                scope.names[FLOAT] = ["f0"]
            scope.raises, scope.statements = self.chance(10), 4 + self.below(5)
            scope.returns = self.result
            self.line()
            with self.block(f"def forward({given}):"):
                self.line("h = self.first(x)")
                self.allow(3 + self.below(6))
                for part in scope.parts:
                    if not part.risky and part.call.startswith("self.sub") and self.chance(70):
                        self.line(f"h = {part.call}(h)")
                self.body(scope)
                self.line(f"return {self.result(scope)}")
        return arguments

    def all_tensors(self, scope: Scope) -> str:
        """An expression that depends on the tensors of a scope, up to six."""
        names = list(dict.fromkeys(scope.of(TENSOR)))[-6:]
        return names[0] if len(names) == 1 else f"torch.tanh({' - '.join(names)})"

    def result(self, scope: Scope) -> str:
        first = self.pick(self.pick(*scope.of(TENSOR)), self.all_tensors(scope), self.all_tensors(scope))
        others = [
            *(name for kind in (INT, FLOAT, VIEW, SCALAR, LIST, DICT, MODE) for name in scope.of(kind)),
            *(f"self.{name}" for name in ("count", "flag") if name in scope.state), "None",
        ]
        kind = self.below(8)
        if kind < 1:
            return first
        if kind < 4:
            return f"{first}, {', '.join(dict.fromkeys(self.pick(*others) for _ in range(3)))}"
        if kind < 6:
            return f'{{"out": {first}, "more": [{self.pick(*others)}, {self.pick(*scope.of(TENSOR))}]}}'
        return f"({first}, ({self.pick(*others)}, {self.tensor(scope, 1)}))"

    # -- expressions
    def may_fork(self, percent: int = 100) -> bool:
        """Whether another decision fits into the program."""
        if self.forks <= 0 or not self.chance(percent):
            return False
        self.forks -= 1
        return True

    def tensor(self, scope: Scope, depth: int = 2) -> str:
        """An expression for a [2, 4] tensor of tame values."""
        name = self.pick(*scope.of(TENSOR))
        if depth <= 0:
            return name
        inner = lambda: self.tensor(scope, depth - 1)  # noqa: E731
        options: list[Callable[[], str]] = [
            lambda: f"torch.tanh({inner()} + {inner()})",
            lambda: f"torch.tanh({inner()} + {inner()})",
            lambda: f"({inner()} * {self.number(0.1, 0.5)} - {inner()} * {self.number(0.1, 0.5)})",
            lambda: f"torch.clamp({inner()} - {inner()}, -1.0, 1.0)",
            lambda: f"torch.where({inner()} > {self.number()}, {inner()}, {name})",
            lambda: f"{inner()}.masked_fill({name} > {self.number()}, {self.number()})",
            lambda: f"({inner()} * ({name} > {self.number()}))",
            lambda: f"{inner()}." + self.pick(
                "flip(1)", "roll(1, 1)", "clone()", "abs()", "reshape(4, 2).t().reshape(2, 4)"),
            lambda: f"torch.tanh({inner()} * {self.scalar(scope)})",
        ]
        for part in scope.parts:
            if not part.risky:
                options += [lambda part=part: f"{part.call}({inner()})"] * 2
        for name_ in scope.of(CALLABLE):
            options += [lambda name_=name_: f"{name_}({inner()})"] * 2
        if self.forks > 0:
            options += [lambda: self.ternary(scope, inner)] * 2
        for module in scope.modules:
            options.append(lambda module=module: f"{module}[{self.pick('0', '1', '-1')}]({inner()})")
        if scope.heads and self.may_fork(50):
            options += [lambda: f"self.heads[{self.position(name)}]({inner()})"] * 3
        for n in scope.of(INT):
            options.append(lambda n=n: f"torch.tanh({inner()} + {n})")
            options.append(lambda n=n: f"torch.tanh({inner()} + {name}[{n} % 2])")
        for f in scope.of(FLOAT):
            options.append(lambda f=f: f"torch.tanh({inner()} * {f})")
        for xs in scope.of(LIST):
            options.append(lambda xs=xs: f"(torch.stack({xs}).mean(0) if {xs} else {inner()})")
            options.append(lambda xs=xs: f"({xs}[{self.pick('0', '-1')}] if {xs} else {name})")
        for d in scope.of(DICT):
            options.append(lambda d=d: f"{d}[\"a\"]")
            options.append(lambda d=d: f"{d}.get(\"b\", {inner()})")
        for p in scope.of(BOX):
            options.append(lambda p=p: f"{p}.t")
        for v in scope.of(VIEW):
            options.append(lambda v=v: f"torch.cat([{v}, {self.pick(*scope.of(VIEW))}], 1)")
        if "buf" in scope.state:
            options.append(lambda: f"torch.tanh(self.buf + {inner()})")
        if "cache" in scope.state:
            options.append(lambda: f"({inner()} if self.cache is None else self.cache)")
        if "hist" in scope.state:
            options.append(lambda: f"(self.hist[-1] if self.hist else {inner()})")
        return self.pick(*options)()

    def position(self, tensor: str) -> str:
        return self.pick(f"int({tensor}.sum(0).argmax())", f"{tensor}[0].argmax().item()")

    def ternary(self, scope: Scope, inner: Callable[[], str]) -> str:
        if not self.may_fork():
            return inner()
        return f"({inner()} if {self.condition(scope)} else {inner()})"

    def scalar(self, scope: Scope) -> str:
        """An expression for a 0-d tensor."""
        t = self.pick(*scope.of(TENSOR))
        options = [f"{t}.sum()", f"{t}.mean()", f"{t}.max()", f"{t}[{self.below(2)}, {self.below(4)}]",
                   f"({t} - {self.pick(*scope.of(TENSOR))}).abs().max()", *scope.of(SCALAR)]
        return self.pick(*options)

    def host_int(self, scope: Scope) -> str:
        t = self.pick(*scope.of(TENSOR))
        options = [f"{self.below(4)}", f"{t}.argmax().item()", f"({t} > {self.number()}).sum().item()",
                   f"int({t}.sum() * 3.0)", f"len({t})"]
        for n in scope.of(INT):
            options += [n, f"{n} + {self.pick(1, 2)}", f"{n} // 2", f"{n} % 3", f"-{n}", f"min({n}, 3)"]
        options += [f"len({xs})" for xs in scope.of(LIST)]
        options += [f"{p}.n" for p in scope.of(BOX)]
        if "count" in scope.state:
            options.append("self.count")
        return self.pick(*options)

    def up_to_four(self, scope: Scope) -> str:
        """A number of trips. Nothing is asked of a number that cannot be larger: the answer could not be forced."""
        number = self.host_int(scope)
        return number if number.endswith("% 3") or number.startswith(("min(", "len(h")) else f"min({number}, 4)"

    def host_float(self, scope: Scope) -> str:
        t = self.pick(*scope.of(TENSOR))
        options = [f"{t}.mean().item()", f"float({t}.max())", f"{t}[0, 0].item() * 0.5", self.number()]
        options += [f"{f} * 0.5 + {self.number()}" for f in scope.of(FLOAT)]
        options += [f"{n} * 0.25" for n in scope.of(INT)]
        return self.pick(*options)

    def condition(self, scope: Scope, depth: int = 2) -> str:
        """An expression whose truth is asked for."""
        t = self.pick(*scope.of(TENSOR))
        compare = self.pick(">", "<", ">=", "<=")
        options: list[Callable[[], str]] = [
            lambda: f"{self.scalar(scope)} {compare} {self.number()}",
            lambda: f"{self.scalar(scope)} {compare} {self.number()}",
            lambda: f"{self.scalar(scope)}.item() {compare} {self.number()}",
            lambda: f"({t} > {self.number()}).{self.pick('any', 'all')}()",
            lambda: f"{self.number(-0.9, 0.0)} < {self.scalar(scope)} < {self.number(0.0, 0.9)}",
            lambda: f"{t}.argmax().item() {self.pick('==', '>', '!=', '<')} {1 + self.below(6)}",
            lambda: f"int({t}.sum(0).argmax()) in (0, {1 + self.below(3)})",
            lambda: f"bool({self.scalar(scope)} > {self.number()})",
        ]
        for n in scope.of(INT):
            options += [lambda n=n: f"{n} {compare} {self.below(4)}", lambda n=n: f"{n} % 2 == {self.below(2)}"]
        for f in scope.of(FLOAT):
            options.append(lambda f=f: f"{f} {compare} {self.number()}")
        for b in scope.of(FLAG):
            options += [lambda b=b: b] * 2
        for m in scope.of(MODE):
            options += [lambda m=m: f'{m} == "{self.pick("low", "high")}"'] * 2
        for xs in scope.of(LIST):
            options += [lambda xs=xs: f"len({xs}) > {self.below(3)}", lambda xs=xs: xs]
            options.append(lambda xs=xs: f"{self.pick('any', 'all')}(bool(q.sum() > {self.number()}) for q in {xs})")
        for d in scope.of(DICT):
            options.append(lambda d=d: f'"b" in {d}')
        if depth:
            inner = lambda: self.condition(scope, depth - 1)  # noqa: E731
            options.append(lambda: f"not {inner()}")
            if self.may_fork(40):
                options += [lambda: f"({inner()} {self.pick('and', 'or')} {inner()})"] * 6
        if "count" in scope.state:
            options += [lambda: f"self.count > {self.below(4)}"] * 2
        if "cache" in scope.state:
            options += [lambda: "self.cache is None"] * 2
        if "flag" in scope.state:
            options += [lambda: "self.flag"] * 2
        return self.pick(*options)()

    # -- statements
    def body(self, scope: Scope) -> None:
        for _ in range(1 + self.below(scope.statements)):
            self.statement(scope)

    def small(self, scope: Scope) -> None:
        """One or two statements: the inside of a block."""
        scope.statements = 2
        self.body(scope)

    def statement(self, scope: Scope) -> None:
        plain = [self.assign, self.assign, self.assign_tensor, self.assign_tensor, self.mutate, self.mutate,
                 self.container, self.aliased]
        if scope.state:
            plain += [self.change_state] * 3
        if scope.depth < 4 and self.may_fork():
            forking = [
                self.branch, self.branch, self.branch, self.while_loop, self.for_loop, self.for_loop, self.jump,
                self.attempt, self.closure, self.filtered, self.match, self.choose_mode,
            ]
            self.pick(*forking, *forking, *plain)(scope)
        else:
            self.pick(*plain)(scope)

    def target(self, scope: Scope, kind: str) -> str:
        """A name to assign: an existing one more often than not. It counts as defined from here on."""
        free = [name for name in scope.of(kind) if name not in scope.fixed]
        if free and self.chance(65):
            return self.pick(*free)
        return f"{kind}{next(self.fresh)}"

    def define(self, scope: Scope, kind: str, text: str) -> str:
        name = self.target(scope, kind)
        self.line(f"{name} = {text}")
        if name not in scope.of(kind):
            scope.names.setdefault(kind, []).append(name)
        return name

    def assign_tensor(self, scope: Scope) -> None:
        self.define(scope, TENSOR, self.tensor(scope))

    def assign(self, scope: Scope) -> None:
        kind = self.pick(INT, INT, FLOAT, SCALAR, FLAG, TENSOR)
        if kind == FLAG:
            text = self.pick(f"{self.scalar(scope)} > {self.number()}", self.condition(scope, 1))
        else:
            text = {INT: self.host_int, FLOAT: self.host_float, SCALAR: self.scalar, TENSOR: self.tensor}[kind](scope)
        self.define(scope, kind, text)

    def aliased(self, scope: Scope) -> None:
        """A second name for a tensor, a view of one, or two names exchanged."""
        t = self.pick(*scope.of(TENSOR))
        free = [name for name in scope.of(TENSOR) if name not in scope.fixed]
        kind = self.below(4)
        if kind == 0:
            self.define(scope, TENSOR, t)
        elif kind == 1 and len(free) > 1:
            a, b = self.pick(*free), self.pick(*free)
            self.line(f"{a}, {b} = {b}, {a}")
        else:
            self.define(scope, VIEW, f"{t}[:, {self.pick(':2', '2:', '1:3', '::2')}]")

    def mutate(self, scope: Scope) -> None:
        """An in-place operation on a tensor or a view."""
        t = self.pick(*scope.of(TENSOR))
        views = scope.of(VIEW)
        options = [
            f"{t}.mul_({self.number(0.3, 0.9)})", f"{t}.clamp_(-0.7, 0.7)", f"{t}.add_({self.number()})",
            f"{t}[{self.below(2)}] = {self.number()}", f"{t}[:, {self.below(4)}] += {self.number()}",
            f"{t}[{t} > {self.number()}] = {self.number()}",
            f"{t}[{t} < {self.number()}] *= 0.5",
            f"{t}.copy_({self.tensor(scope, 1)}.clone())", f"{t}.tanh_()",
            f"{t}[:, 1:3] = {self.tensor(scope, 1)}[:, :2].clone()",
        ]
        if t not in scope.fixed:
            options += [f"{t} += {self.tensor(scope, 1)} * 0.5", f"{t} *= {self.number()}"]
        for v in views:
            options += [f"{v}.mul_({self.number(0.3, 0.9)})", f"{v}.add_({self.number()})", f"{v}[0] = {self.number()}",
                        f"{v}.copy_({self.tensor(scope, 1)}[:, 1:3].clone())", f"{t}[:, 2:] = {v} * 0.5"]
        for n in scope.of(INT):
            options.append(f"{t}[{n} % 2] = {self.number()}")
        for xs in scope.of(LIST):
            options.append(f"if {xs}: {xs}[-1].mul_(0.5)")
        self.line(self.pick(*options))

    def container(self, scope: Scope) -> None:
        kind = self.pick(LIST, LIST, DICT, BOX, "tuple", "counter")
        if kind == LIST:
            existing = list(scope.of(LIST))
            if existing and self.chance(70):
                xs = self.pick(*existing)
                self.line(self.pick(
                    f"{xs}.append({self.tensor(scope, 1)})", f"{xs}.insert(0, {self.tensor(scope, 1)})",
                    f"if {xs}: {xs}[0] = {self.tensor(scope, 1)}", f"if len({xs}) > 1: {xs}.pop()", f"{xs}.reverse()",
                ))
            else:
                self.define(scope, LIST, self.pick(
                    "[]", f"[{self.tensor(scope, 1)}, {self.tensor(scope, 1)}]",
                    f"[{self.pick(*scope.of(TENSOR))} * w for w in (0.5, -0.5)]"))
        elif kind == DICT:
            if scope.of(DICT) and self.chance(70):
                d = self.pick(*scope.of(DICT))
                self.line(self.pick(f'{d}["b"] = {self.tensor(scope, 1)}', f'{d}["a"] = {self.tensor(scope, 1)}',
                                    f'{d}.pop("b", None)'))
            else:
                self.define(scope, DICT, f'{{"a": {self.tensor(scope, 1)}}}')
        elif kind == BOX:
            if scope.of(BOX) and self.chance(70):
                p = self.pick(*scope.of(BOX))
                self.line(self.pick(f"{p}.t = {self.tensor(scope, 1)}", f"{p}.n += 1",
                                    f"{p}.n = {self.host_int(scope)}", f"{p}.t.mul_(0.5)"))
            else:
                self.define(scope, BOX, f"Box({self.tensor(scope, 1)}, {self.host_int(scope)})")
        elif kind == "tuple":
            pair = f"{self.tensor(scope, 1)}, {self.host_int(scope)}"
            t, n = self.target(scope, TENSOR), self.target(scope, INT)
            self.line(f"{t}, {n} = {pair}")
            for name, what in ((t, TENSOR), (n, INT)):
                if name not in scope.of(what):
                    scope.names.setdefault(what, []).append(name)
        else:
            free = [name for name in scope.of(INT) if name not in scope.fixed]
            if free:
                self.line(f"{self.pick(*free)} += {self.pick('1', '1', '2', '-1')}")
            else:
                self.define(scope, INT, "0")

    def change_state(self, scope: Scope) -> None:
        options = []
        if "count" in scope.state:
            options += ["self.count += 1", "self.count = (self.count + 1) % 3", f"self.count = {self.host_int(scope)}"]
        if "cache" in scope.state:
            options += [f"self.cache = {self.tensor(scope, 1)}"] * 2
            options += ["self.cache = None", "if self.cache is not None: self.cache = self.cache * 0.5"]
        if "flag" in scope.state:
            options += ["self.flag = True", "self.flag = not self.flag",
                        f"self.flag = bool({self.condition(scope, 1)})"]
        if "hist" in scope.state:
            options += [f"self.hist = (self.hist + [{self.tensor(scope, 1)}])[-2:]"]
            options += [f"self.hist.append({self.tensor(scope, 1)})\n{'    ' * self.indent}del self.hist[:-2]"]
        if "buf" in scope.state:
            options += ["self.buf.mul_(0.5)", f"self.buf.add_({self.tensor(scope, 1)} * 0.5)",
                        f"self.buf[0] = {self.tensor(scope, 1)}[1]", f"self.buf = {self.tensor(scope, 1)}.clone()"]
        self.line(self.pick(*options))

    def branch(self, scope: Scope) -> None:
        blocks = [scope.inner()]
        with self.block(f"if {self.condition(scope)}:"):
            self.small(blocks[0])
        if self.may_fork(25):
            blocks.append(scope.inner())
            with self.block(f"elif {self.condition(scope)}:"):
                self.small(blocks[-1])
        if self.chance(60):
            blocks.append(scope.inner())
            with self.block("else:"):
                self.small(blocks[-1])
            scope.keep(*blocks)

    def jump(self, scope: Scope) -> None:
        """Leave early: by return, break, continue or an exception."""
        ways: list[str] = []
        if scope.returns is not None:
            ways += [f"return {scope.returns(scope)}"] * 2
        if scope.loop:
            ways += ["break", "continue"] * 2
        if scope.raises:
            ways += [f"raise {self.pick('Exit', 'Deep')}({self.tensor(scope, 1)}, {self.below(3)})"] * 2
        if not ways:
            return self.branch(scope)
        with self.block(f"if {self.condition(scope)}:"):
            if self.chance(40):
                self.statement(scope.inner())
            self.line(self.pick(*ways))

    def while_loop(self, scope: Scope) -> None:
        counter = f"n{next(self.fresh)}"
        bound = 2 + self.below(4)
        self.line(f"{counter} = 0")
        inner = scope.inner(loop=True, fixed=scope.fixed | {counter})
        inner.names[INT] = [*inner.of(INT), counter]
        kind = self.below(4)
        if kind == 0:
            head = "while True:"
        elif kind == 1:
            head = f"while {self.condition(scope, 1)} and {counter} < {bound}:"
        else:
            head = f"while {counter} < {bound} and {self.condition(scope, 1)}:"
        with self.block(head):
            self.line(f"{counter} += 1")
            if kind == 0:
                self.line(f"if {counter} > {bound} or {self.condition(inner, 1)}:")
                self.line("    break")
            self.assign_tensor(inner)
            self.small(inner)
        if kind and self.chance(20):
            with self.block("else:"):
                self.small(scope.inner())
        scope.names[INT] = [*scope.of(INT), counter]

    def for_loop(self, scope: Scope) -> None:
        i, t = f"i{next(self.fresh)}", f"t{next(self.fresh)}"
        options: list[tuple[str, dict[str, str]]] = [
            (f"for {i} in range({2 + self.below(3)}):", {i: INT}),
            (f"for {i} in range({2 + self.below(3)}):", {i: INT}),
            (f"for {i} in range({self.up_to_four(scope)}):", {i: INT}),
            (f"for {t} in ({self.tensor(scope, 1)}, {self.tensor(scope, 1)}):", {t: TENSOR}),
        ]
        for module in scope.modules:
            part = f"b{next(self.fresh)}"
            options += [(f"for {part} in {module}:", {part: CALLABLE}),
                        (f"for {i}, {part} in enumerate({module}):", {i: INT, part: CALLABLE}),
                        (f"for {part} in reversed({module}):", {part: CALLABLE})]
            for xs in scope.of(LIST):
                options.append((f"for {part}, {t} in zip({module}, {xs}):", {part: CALLABLE, t: TENSOR}))
        for xs in scope.of(LIST):
            options += [(f"for {t} in list({xs}):", {t: TENSOR}),
                        (f"for {i}, {t} in enumerate(list({xs})):", {i: INT, t: TENSOR})]
        for d in scope.of(DICT):
            options.append((f"for {t} in list({d}.values()):", {t: TENSOR}))
        for steps in scope.generators:
            options += [(f"for {t} in {steps}({self.tensor(scope, 1)}, {2 + self.below(2)}):", {t: TENSOR})] * 3
        head, made = self.pick(*options)
        inner = scope.inner(loop=True, fixed=scope.fixed | {name for name, kind in made.items() if kind != TENSOR})
        for name, kind in made.items():
            inner.names[kind] = [*inner.of(kind), name]
        with self.block(head):
            self.assign_tensor(inner)
            self.small(inner)
        if self.chance(20):
            with self.block("else:"):
                self.small(scope.inner())

    def attempt(self, scope: Scope) -> None:
        caught = f"e{next(self.fresh)}"
        inner = scope.inner(raises=True)
        with self.block("try:"):
            risky = [part for part in scope.parts if part.risky]
            if risky and self.chance(80):
                self.define(inner, TENSOR, f"{self.pick(*risky).call}({self.tensor(inner, 1)})")
            else:
                self.jump(inner)
            self.small(inner)
        if self.chance(25):
            with self.block("except Deep:"):
                self.small(scope.inner())
        with self.block(f"except {self.pick('Exit', '(ValueError, Exit)')} as {caught}:"):
            handler = scope.inner(raises=scope.raises)
            handler.names[TENSOR] = [*handler.of(TENSOR), f"{caught}.value"]
            handler.fixed = handler.fixed | {f"{caught}.value"}
            handler.names[INT] = [*handler.of(INT), f"{caught}.code"]
            handler.fixed = handler.fixed | {f"{caught}.code"}
            self.assign_tensor(handler)
            self.small(handler)
        if self.chance(20):
            with self.block("else:"):
                self.small(scope.inner())
        if self.chance(20):
            with self.block("finally:"):
                self.small(scope.inner(loop=False, returns=None, raises=False))

    def closure(self, scope: Scope) -> None:
        name = f"c{next(self.fresh)}"
        candidates = [n for kind in (TENSOR, INT, FLOAT) for n in scope.of(kind)
                      if n not in scope.fixed and "." not in n]
        shared = sorted({self.pick(*candidates) for _ in range(self.below(3))}) if candidates else []
        everything = {n for names in scope.names.values() for n in names}
        parameter = f"t{next(self.fresh)}"
        inner = scope.inner(
            loop=False, returns=lambda s: self.tensor(s), raises=False,
            fixed=scope.fixed | (everything - set(shared)))
        inner.names[TENSOR] = [*inner.of(TENSOR), parameter]
        inner.names[CALLABLE] = [c for c in inner.of(CALLABLE) if not c.startswith("c")]
        if shared and self.chance(50) and not scope.of(BOX):
            self.line(f"kept{name} = [{shared[0]}]")
        with self.block(f"def {name}({parameter}):"):
            if shared:
                self.line(f"nonlocal {', '.join(shared)}")
            self.small(inner)
            self.line(f"return {self.all_tensors(inner)}")
        scope.names[CALLABLE] = [*scope.of(CALLABLE), name]
        self.define(scope, TENSOR, f"{name}({self.tensor(scope, 1)})")

    def filtered(self, scope: Scope) -> None:
        """A comprehension with a filter."""
        q = f"q{next(self.fresh)}"
        inner = scope.inner()
        inner.names[TENSOR] = [q]
        inner.fixed = inner.fixed | {q}
        over = self.pick(*(f"{xs}" for xs in scope.of(LIST)), f"({self.tensor(scope, 1)}, {self.tensor(scope, 1)})")
        value = self.pick(q, f"torch.tanh({q} * 2.0)", f"{q} + {self.pick(*scope.of(TENSOR))}")
        test = f"{self.scalar(replace(inner, names={TENSOR: [q]}))} > {self.number()}"
        kind = self.below(4)
        if kind < 2:
            self.define(scope, LIST, f"[{value} for {q} in {over} if {test}]")
        elif kind == 2:
            self.define(scope, TENSOR, f"next(({value} for {q} in {over} if {test}), {self.pick(*scope.of(TENSOR))})")
        else:
            self.define(scope, INT, f"sum(1 for {q} in {over} if {test})")

    def match(self, scope: Scope) -> None:
        subject = self.pick(f"int({self.pick(*scope.of(TENSOR))}.sum(0).argmax())", self.host_int(scope))
        with self.block(f"match {subject}:"):
            with self.block(f"case {self.pick('0', '1', '0 | 3')}:"):
                self.small(scope.inner())
            if self.may_fork(50):
                with self.block(f"case {self.pick('2', '1', 'other')} if {self.condition(scope, 0)}:"):
                    self.small(scope.inner())
            with self.block("case _:"):
                self.small(scope.inner())

    def choose_mode(self, scope: Scope) -> None:
        self.define(scope, MODE, f'"low" if {self.condition(scope)} else "high"')


def write(drawn: random.Random) -> str:
    """The source of a program made of the random choices of `drawn`."""
    return Writer(drawn).program()


def programs() -> st.SearchStrategy[str]:
    """Sources of programs."""
    return st.randoms(use_true_random=False).map(write)

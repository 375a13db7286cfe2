"""Random functions over integers and lists, as source text: what hypothesis draws and shrinks.

Every function ends: loops over lists are short, `while` loops burn fuel. Calls go to `note`, which logs, and to
`risky`, which raises on some values, so that a changed order of evaluation shows in the log.
"""
from __future__ import annotations

import linecache
import types
from collections.abc import Callable
from itertools import count
from typing import Any

from hypothesis import strategies as st

from tests.rewrite.traced import T, note

NAMES = ("a", "b", "c", "d")
_numbers = count()


def risky(value: Any) -> Any:
    note(f"risky {value!r}")
    if isinstance(value, int) and value % 7 == 3:
        raise KeyError(value)
    return value


class Writer:
    """Draws one function. `draw(n)` gives an integer below n; 0 is the simplest choice everywhere."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self.draw = draw
        self.lines: list[str] = []
        self.indent = 1
        self.loops = 0
        self.final = 0
        self.budget = 14
        self.generator = False
        self.fresh = count()

    def pick(self, *options: Any) -> Any:
        return options[self.draw(len(options))]

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    # -- expressions
    def name(self) -> str:
        return self.pick(*NAMES)

    def expression(self, depth: int = 2) -> str:
        if depth <= 0:
            return self.pick("1", self.name(), "0", "2", self.name())
        inner = lambda: self.expression(depth - 1)  # noqa: E731
        kind = self.draw(22)
        if kind < 3:
            return self.pick(self.name(), "3", "0")
        if kind < 6:
            return f"note('n{next(self.fresh)}', {inner()})"
        if kind == 6:
            return f"risky({inner()})"
        if kind < 9:
            return f"({inner()} {self.pick('+', '-', '*')} {inner()})"
        if kind == 9:
            return f"({inner()} {self.pick('and', 'or')} {inner()})"
        if kind == 10:
            return f"({inner()} if {inner()} else {inner()})"
        if kind == 11:
            return f"(not {self.expression(0)})"
        if kind == 12:
            return f"({inner()} {self.pick('<', '==', '>=')} {inner()} {self.pick('<', '!=')} {inner()})"
        if kind == 13:
            return f"({self.name()} := {inner()})"
        if kind == 14:
            return f"sum([{inner()} for {self.name()} in {self.items(depth)}])"
        if kind == 15:
            return f"{self.pick('sum', 'len')}(list({inner()} for v in {self.items(depth)} if v != {inner()}))"
        if kind == 16:
            return f"{self.pick('any', 'all')}({inner()} for v in {self.items(depth)})"
        if kind == 17:
            return f"(lambda v, w={inner()}: note('l', v) + w)({inner()})"
        if kind == 18:
            return f'len(f"{{{self.name()}}}{{({inner()})!r:>{{({self.pick("3", inner())}) % 5}}}}")'
        if kind == 19:
            return f"[{inner()}, {inner()}, *{self.items(depth)}][{self.pick('0', '-1', 'note(1, 1)')}]"
        if kind == 20:
            return f"{{{inner()}: {inner()}, **{{1: {inner()}}}}}.get({inner()}, {inner()})"
        return f"(lambda *p, **k: len(p) + len(k))({inner()}, *{self.items(depth)}, k={inner()})"

    def items(self, depth: int) -> str:
        return self.pick(
            "[1, 2]", "range(2)", f"[{self.expression(depth - 1)}, {self.name()}]",
            f"[v + 1 for v in range(3) if v != {self.expression(depth - 1)}]", f"T('it', [1, {self.pick('2', '3')}])",
        )

    # -- statements
    def block(self) -> None:
        self.indent += 1
        for _ in range(1 + self.draw(3)):
            self.statement()
        self.indent -= 1

    def statement(self) -> None:
        self.budget -= 1
        if self.budget < 0:
            self.line(self.pick("pass", f"{self.name()} = {self.expression(1)}"))
            return
        kind = self.draw(22)
        if kind < 4:
            self.line(f"{self.name()} = {self.expression()}")
        elif kind < 6:
            self.line(f"{self.name()} {self.pick('+', '-', '*')}= {self.expression()}")
        elif kind == 6:
            self.line(self.expression())
        elif kind < 9:
            self.conditional()
        elif kind < 11:
            self.for_loop()
        elif kind == 11:
            self.while_loop()
        elif kind == 12:
            self.try_block()
        elif kind == 13 and self.loops and not self.final:
            self.line(self.pick("break", "continue"))
        elif kind == 14:
            self.line(f"return {self.expression()}")
        elif kind == 15:
            self.inner_function()
        elif kind == 16:
            self.line(f"{self.name()}, {self.name()} = {self.expression()}, {self.expression()}")
        elif kind == 17:
            swallow = self.pick("1", "'swallow'")
            self.line(f"with T('w', {swallow}):")
            self.block()
        elif kind == 18:
            self.match()
        elif kind == 19:
            target = f"store[{self.expression(1)}]"
            self.line(self.pick(f"{target} = {self.expression()}", f"store[0] += {self.expression()}"))
        elif kind == 20:
            self.line(f"assert {self.expression()}, {self.expression(1)}")
        elif self.generator:
            self.line(self.pick(f"yield {self.expression()}", f"{self.name()} = (yield {self.expression(1)}) or 1"))
        else:
            self.line(f"{self.name()} = {self.name()}")

    def conditional(self) -> None:
        self.line(f"if {self.expression()}:")
        self.block()
        if self.draw(2):
            self.line(f"elif {self.expression()}:")
            self.block()
        if self.draw(2):
            self.line("else:")
            self.block()

    def looping(self) -> None:
        self.loops += 1
        final, self.final = self.final, 0
        self.block()
        self.loops -= 1
        self.final = final
        if self.draw(3) == 2:
            self.line("else:")
            loops, self.loops = self.loops, 0
            self.block()
            self.loops = loops

    def for_loop(self) -> None:
        self.line(f"for {self.name()} in {self.items(2)}:")
        self.looping()

    def while_loop(self) -> None:
        fuel = f"fuel{next(self.fresh)}"
        self.line(f"{fuel} = 3")
        self.line(f"while ({fuel} := {fuel} - 1) > 0 and {self.expression()}:")
        self.looping()

    def try_block(self) -> None:
        self.line("try:")
        self.block()
        form = self.draw(4)
        if form != 3:
            self.line(self.pick("except KeyError as error:", "except (KeyError, TypeError):", "except Exception:"))
            self.block()
            if self.draw(4) == 3:
                self.line("    raise")
        if form == 2:
            self.line("else:")
            self.block()
        if form in (1, 3):
            self.line("finally:")
            self.final += 1
            self.block()
            self.final -= 1

    def inner_function(self) -> None:
        name = f"f{next(self.fresh)}"
        variable = self.name()
        self.line(f"def {name}(v, w={self.expression(1)}):")
        self.indent += 1
        if self.draw(2):
            self.line(f"nonlocal {variable}")
            self.line(f"{variable} = {self.pick('v', 'note(9, v)')}")
        self.line(f"return {self.pick('v + w', 'note(8, v) and w', variable, '[v for _ in range(2)][0]')}")
        self.indent -= 1
        self.line(f"{self.name()} = {self.expression(1)} + {name}({self.expression(1)})")

    def match(self) -> None:
        self.line(f"match {self.expression()}:")
        self.indent += 1
        for _ in range(1 + self.draw(2)):
            pattern = self.pick("0", f"int({self.name()})", f"[{self.name()}, *_]", "1 | 2")
            guard = self.pick("", f" if {self.expression(1)}")
            self.line(f"case {pattern}{guard}:")
            self.block()
        self.indent -= 1

    def function(self) -> str:
        self.generator = self.draw(4) == 3
        self.line("store = {0: 1}")
        for _ in range(2 + self.draw(4)):
            self.statement()
        self.line("return a, b, c, d, sorted(store.items(), key=repr)")
        return "\n".join(["def program(a, b, c=2, *, d=3):", *self.lines, ""])


@st.composite
def sources(draw: Any) -> str:
    """The text of one function `program`."""
    return Writer(lambda n: draw(st.integers(0, n - 1))).function()


def load(text: str) -> types.FunctionType:
    """The function of a source text, whose lines are known to `linecache`."""
    file = f"<random program {next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    made: dict[str, Any] = {"note": note, "risky": risky, "T": T, "__name__": __name__}
    exec(compile(text, file, "exec"), made)
    return made["program"]

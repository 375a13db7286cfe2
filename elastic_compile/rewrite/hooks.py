"""The hook object that rewritten functions hold, in its neutral form: plain Python semantics.

In: the operands of every call, truth test, iteration step, operator and subscript, and the site of each.
Out: what Python itself would have computed.
Never: takes a decision; `n`, the number of decisions so far, stays 0.
"""
from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from elastic_compile.rewrite.build import PREFIX
from elastic_compile.rewrite.sites import Site

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow, "matmul": operator.matmul,
    "lshift": operator.lshift, "rshift": operator.rshift, "and": operator.and_, "or": operator.or_,
    "xor": operator.xor,
}
INPLACE: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.iadd, "sub": operator.isub, "mul": operator.imul, "truediv": operator.itruediv,
    "floordiv": operator.ifloordiv, "mod": operator.imod, "pow": operator.ipow, "matmul": operator.imatmul,
    "lshift": operator.ilshift, "rshift": operator.irshift, "and": operator.iand, "or": operator.ior,
    "xor": operator.ixor,
}
UNARY: dict[str, Callable[[Any], Any]] = {"neg": operator.neg, "pos": operator.pos, "invert": operator.invert}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "in": lambda a, b: a in b, "not in": lambda a, b: a not in b,
}
CONVERSIONS: dict[str | None, Callable[[Any], Any]] = {None: lambda v: v, "s": str, "r": repr, "a": ascii}


class Hooks:
    """Neutral hooks: a rewritten function bound to them behaves as the original."""

    n: int = 0
    stop: Any = object()

    def call(self, site: Site, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def truth(self, site: Site, value: Any) -> bool:
        return bool(value)

    def iter(self, site: Site, iterable: Any) -> Any:
        return iter(iterable)

    def next(self, site: Site, iterator: Any) -> Any:
        """The next item, or `self.stop`."""
        return next(iterator, self.stop)

    def binop(self, site: Site, name: str, a: Any, b: Any) -> Any:
        return BINARY[name](a, b)

    def inplace(self, site: Site, name: str, a: Any, b: Any) -> Any:
        return INPLACE[name](a, b)

    def unop(self, site: Site, name: str, a: Any) -> Any:
        return UNARY[name](a)

    def compare(self, site: Site, name: str, a: Any, b: Any) -> Any:
        return COMPARE[name](a, b)

    def getitem(self, site: Site, target: Any, key: Any) -> Any:
        return target[key]

    def setitem(self, site: Site, target: Any, key: Any, value: Any) -> None:
        target[key] = value

    def format(self, site: Site, value: Any, conversion: str | None, spec: str) -> str:
        return format(CONVERSIONS[conversion](value), spec)

    def variables(self, site: Site, values: dict[str, Any]) -> dict[str, Any]:
        """`locals()` of a rewritten function: the program's own variables of all that its frame holds."""
        return {name: value for name, value in values.items() if not name.startswith(PREFIX)}

    def point(self, site: Site) -> None:
        """A program point that follows a decision."""


NEUTRAL = Hooks()

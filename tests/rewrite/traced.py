"""Values that write down everything that is done to them.

`LOG` is the record of one run; `note` adds a line and passes its value on; a `T` logs each operator, truth test,
call, attribute access and iteration step, so that two runs with equal logs evaluated the same things in order.
"""
from __future__ import annotations

import operator
from typing import Any

LOG: list[str] = []


def note(label: object, value: Any = None) -> Any:
    LOG.append(str(label))
    return value


def settled(log: list[str]) -> list[str]:
    """A log without repeated truth tests: how often Python asks a value it has just asked is its version's choice."""
    return [line for i, line in enumerate(log) if not (line.startswith("bool ") and i and log[i - 1] == line)]


def plain(value: Any) -> Any:
    return value.value if isinstance(value, T) else value


class T:
    """A logging wrapper of a plain value."""

    def __init__(self, name: str, value: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "value", value)

    def __repr__(self) -> str:
        return f"T({self.value!r})"

    def __bool__(self) -> bool:
        LOG.append(f"bool {self.name}")
        return bool(self.value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        LOG.append(f"call {self.name} {args} {kwargs}")
        return self.value(*args, **kwargs) if callable(self.value) else T(f"{self.name}()", self.value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        LOG.append(f"get {self.name}.{name}")
        return T(f"{self.name}.{name}", self.value)

    def __setattr__(self, name: str, value: Any) -> None:
        LOG.append(f"set {self.name}.{name} = {value}")

    def __delattr__(self, name: str) -> None:
        LOG.append(f"del {self.name}.{name}")

    def __getitem__(self, key: Any) -> Any:
        LOG.append(f"item {self.name}[{key}]")
        return T(f"{self.name}[]", self.value)

    def __setitem__(self, key: Any, value: Any) -> None:
        LOG.append(f"setitem {self.name}[{key}] = {value}")

    def __delitem__(self, key: Any) -> None:
        LOG.append(f"delitem {self.name}[{key}]")

    def __iter__(self) -> Any:
        LOG.append(f"iter {self.name}")
        for item in self.value:
            LOG.append(f"next {self.name} {item}")
            yield item
        LOG.append(f"end {self.name}")

    def __contains__(self, item: Any) -> bool:
        LOG.append(f"{item} in {self.name}")
        return plain(item) in self.value

    def __enter__(self) -> Any:
        LOG.append(f"enter {self.name}")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        LOG.append(f"exit {self.name} {kind and kind.__name__}")
        return self.value == "swallow"

    def __format__(self, spec: str) -> str:
        LOG.append(f"format {self.name} {spec!r}")
        return format(str(self.value), spec)

    def __hash__(self) -> int:
        return hash(self.value)


def _binary(symbol: str, function: Any) -> None:
    def forward(self: T, other: Any) -> T:
        LOG.append(f"{self.name} {symbol} {other}")
        return T(f"({self.name}{symbol})", function(self.value, plain(other)))

    def reflected(self: T, other: Any) -> T:
        LOG.append(f"{other} {symbol} {self.name} reflected")
        return T(f"({symbol}{self.name})", function(plain(other), self.value))

    def inplace(self: T, other: Any) -> T:
        LOG.append(f"{self.name} {symbol}= {other}")
        return T(f"{self.name}'", function(self.value, plain(other)))

    setattr(T, f"__{symbol}__", forward)
    setattr(T, f"__r{symbol}__", reflected)
    setattr(T, f"__i{symbol}__", inplace)


for _symbol in ("add", "sub", "mul", "floordiv", "mod", "matmul", "xor", "lshift", "pow"):
    _binary(_symbol, getattr(operator, _symbol) if _symbol != "matmul" else operator.mul)
for _symbol, _function in (("and", operator.and_), ("or", operator.or_)):
    _binary(_symbol, _function)


def _comparison(symbol: str, function: Any) -> None:
    def compare(self: T, other: Any) -> T:
        LOG.append(f"{self.name} {symbol} {other}")
        return T(f"({self.name} {symbol})", function(self.value, plain(other)))

    setattr(T, f"__{symbol}__", compare)


for _symbol in ("lt", "le", "gt", "ge", "eq", "ne"):
    _comparison(_symbol, getattr(operator, _symbol))


def _unary(symbol: str, function: Any) -> None:
    def apply(self: T) -> T:
        LOG.append(f"{symbol} {self.name}")
        return T(f"{symbol}{self.name}", function(self.value))

    setattr(T, f"__{symbol}__", apply)


for _symbol in ("neg", "pos", "invert"):
    _unary(_symbol, getattr(operator, _symbol))

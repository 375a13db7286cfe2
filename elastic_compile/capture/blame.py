"""Where in the program something changed that must not change.

In: a path that ends in a refusal, run once more, and what to look at. Out: the site of the change.
Never: takes part in an exploration that is not refused.
"""
from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from elastic_compile.capture.tracer import Tracer


class Watch:
    """Looks at `content()` at each step of the program; `name` is the attribute that changes, if it is one.
    `place`: where it changed, None as long as it has not."""

    def __init__(self, content: Callable[[], tuple[Any, ...]], name: Any = None) -> None:
        self.content = content
        self.name = name
        self.before: tuple[Any, ...] | None = None
        self.last: Any = None
        self.place: Any = None

    def step(self, site: Any) -> None:
        """The program has come to `site`."""
        if self.place is not None:
            return
        now = self.content()
        if self.before is None:
            self.before = now
        elif len(now) != len(self.before) or any(a is not b for a, b in zip(now, self.before)):
            self.place = assignment(self.name, self.last, site) or self.last
        self.last = site if site is not None else self.last


class WatchedTracer(Tracer):
    """A tracer that tells `watch` of each step."""

    watch: Watch

    @property
    def site(self) -> Any:
        return self.__dict__["site"]

    @site.setter
    def site(self, site: Any) -> None:
        self.watch.step(site)
        self.__dict__["site"] = site


def assignment(name: Any, last: Any, following: Any) -> Any:
    """The assignment to attribute `name` between two sites that follow one another; None where none is found, or the
    first site stands in the same line."""
    if not isinstance(name, str):
        return None
    for site in (following, last):
        if site is None:
            continue
        function = _function_at(site.file, site.line)
        within = function is not None and last is not None and last.file == site.file and (
            function.lineno <= last.line <= function.end_lineno)
        found = [
            node for node in ast.walk(function) if isinstance(node, ast.Attribute) and node.attr == name
            and isinstance(node.ctx, (ast.Store, ast.Del)) and (not within or node.lineno >= last.line)
            and (site is last or node.lineno <= site.line)
        ] if function is not None else []
        if found:
            node = min(found, key=lambda one: one.lineno if site is last else -one.lineno)
            if within and node.lineno == last.line:
                return None
            text = linecache.getline(site.file, node.lineno).rstrip("\n")
            column = len(text.encode()[:node.col_offset].decode())
            return SimpleNamespace(
                file=site.file, line=node.lineno, column=column, end_line=node.lineno,
                end_column=column + node.end_col_offset - node.col_offset, text=text)
    return None


def _function_at(file: str, line: int) -> ast.AST | None:
    """The innermost function of a file that has `line`."""
    functions = [node for node in _functions(file) if node.lineno <= line <= node.end_lineno]
    return max(functions, key=lambda node: node.lineno, default=None)


@functools.lru_cache(maxsize=8)
def _functions(file: str) -> tuple[Any, ...]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))

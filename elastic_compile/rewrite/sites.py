"""Sites: the places of the original program that rewritten code names when it calls a hook.

In: AST nodes of the original file and its lines. Out: frozen `Site`s with positions in that file.
Never: looks at values; a site is known before the program runs.
"""
from __future__ import annotations

import ast
from dataclasses import dataclass

KINDS = frozenset({
    "call", "truth", "iter", "next", "yield", "binop", "unop", "compare", "inplace", "getitem", "setitem", "format",
    "variables", "point", "head",
})


@dataclass(frozen=True)
class Site:
    """One occurrence of a hook, or one program point.

    `line` and `end_line` are 1-based, `column` and `end_column` are 0-based and count characters; all are positions
    in `file`, the original source. `text` is the first source line of the construct without its newline, `snippet`
    the construct's own source.

    `live` holds the names of the frame's locals that the program may still read: after the statement for a call,
    iter, next or yield (without the name the result is assigned to), at the place itself for a point or head; other
    kinds leave it empty. It holds temporaries of the rewriting and, always, every variable shared with an inner or
    outer function; a name in it may be unbound. `opaque` says that values may be hidden on the evaluation stack, or
    a pending exit be hidden in a `finally` block, so that paths below must not be joined. `loop` is "while" or "for"
    at the head of such a loop, else "".
    """

    kind: str
    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    text: str
    snippet: str
    live: tuple[str, ...] = ()
    opaque: bool = False
    loop: str = ""


class Source:
    """The text of one file, with positions counted in characters."""

    def __init__(self, file: str, lines: list[str]) -> None:
        self.file = file
        self.lines = lines

    def column(self, line: int, offset: int) -> int:
        """The character column of a byte offset."""
        if not 1 <= line <= len(self.lines):
            return offset
        text = self.lines[line - 1]
        return offset if text.isascii() else len(text.encode()[:offset].decode(errors="ignore"))

    def site(self, kind: str, node: ast.AST, *, opaque: bool, loop: str) -> Site:
        """The site of `node`, its liveness still to be found."""
        assert kind in KINDS, kind
        line, end_line = node.lineno, node.end_lineno
        column, end_column = self.column(line, node.col_offset), self.column(end_line, node.end_col_offset)
        first = self.lines[line - 1].rstrip("\n") if line <= len(self.lines) else ""
        if line == end_line:
            snippet = first[column:end_column]
        else:
            inner = self.lines[line : end_line - 1]
            snippet = "".join([self.lines[line - 1][column:], *inner, self.lines[end_line - 1][:end_column]])
        return Site(kind, self.file, line, column, end_line, end_column, first, snippet, (), opaque, loop)

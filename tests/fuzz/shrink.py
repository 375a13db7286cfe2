"""Makes a failing program small.

In: a program's source and a test whether a source still fails. Out: a smaller source that does.
Never: asks for more than a program that parses: one that fails otherwise is not taken.
"""
from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.fuzz import harness

#: Fields of statements that hold blocks.
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
#: Functions that stay as they are.
KEPT = frozenset({"make", "calls"})


def shrink(source: str, fails: Callable[[str], bool], attempts: int = 1500) -> str:
    """Remove statements, unwrap blocks and replace expressions by their parts, as long as `fails` holds and something
    can still be taken away."""
    best = ast.unparse(ast.parse(source))
    if not fails(best):
        return source
    changed = True
    while changed and attempts > 0:
        changed = False
        position = 0
        while attempts > 0:
            candidate = _nth(best, position)
            if candidate is None:
                break
            attempts -= 1
            if len(candidate) < len(best) and fails(candidate):
                best, changed = candidate, True
            else:
                position += 1
    return best + "\n"


def _nth(source: str, position: int) -> str | None:
    """The candidate number `position` of a source; None behind the last."""
    tree = ast.parse(source)
    for number, edit in enumerate(_edits(tree)):
        if number == position:
            edit()
            return ast.unparse(ast.fix_missing_locations(tree))
    return None


def _edits(tree: ast.Module) -> Iterator[Callable[[], None]]:
    """Changes to the tree, the largest first; only one of them may be made."""
    yield from _shorter_blocks(tree)
    for node in _nodes(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr) and not isinstance(node, ast.Attribute):
                for part in _parts(value):
                    yield lambda node=node, name=name, part=part: setattr(node, name, copy.deepcopy(part))
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, ast.expr):
                        for part in _parts(item):
                            yield lambda value=value, i=i, part=part: value.__setitem__(i, copy.deepcopy(part))
                        if isinstance(node, (ast.Tuple, ast.List, ast.BoolOp)) and len(value) > 1:
                            yield lambda value=value, i=i: value.__delitem__(i)


def _nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that may be changed."""
    yield tree
    for statement in tree.body:
        if getattr(statement, "name", None) not in KEPT:
            yield from ast.walk(statement)


def _shorter_blocks(tree: ast.Module) -> Iterator[Callable[[], None]]:
    for node in _nodes(tree):
        for name in BLOCKS:
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            for i, statement in reversed(list(enumerate(block))):
                if getattr(statement, "name", None) in KEPT or _assigns_constant(tree, statement):
                    continue
                yield lambda block=block, i=i, name=name: _remove(block, i, name)
                for inner in BLOCKS[:3]:
                    content = getattr(statement, inner, None)
                    if isinstance(content, list) and content and not isinstance(
                        statement, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler, ast.match_case)
                    ):
                        yield lambda block=block, i=i, content=content: block.__setitem__(slice(i, i + 1), content)
                if getattr(statement, "orelse", None):
                    yield lambda statement=statement: setattr(statement, "orelse", [])
                for case in getattr(statement, "cases", ()):
                    yield lambda block=block, i=i, case=case: block.__setitem__(slice(i, i + 1), case.body)


def _assigns_constant(tree: ast.Module, statement: ast.stmt) -> bool:
    """Whether a statement is `STATEFUL = ...`."""
    return statement in tree.body and isinstance(statement, ast.Assign)


def _remove(block: list[ast.stmt], i: int, name: str) -> None:
    del block[i]
    if not block and name == "body":
        block.append(ast.Pass())


def _parts(value: ast.expr) -> Iterator[ast.expr]:
    """Simpler expressions that may stand for one."""
    if isinstance(value, ast.Call):
        if isinstance(value.func, ast.Attribute) and not _is_global(value.func.value):
            yield value.func.value
        yield from value.args
    elif isinstance(value, ast.IfExp):
        yield from (value.body, value.orelse, value.test)
    elif isinstance(value, ast.BinOp):
        yield from (value.left, value.right)
    elif isinstance(value, ast.BoolOp):
        yield from value.values
    elif isinstance(value, ast.UnaryOp):
        yield value.operand
    elif isinstance(value, ast.Subscript):
        yield value.value
    elif isinstance(value, ast.Compare):
        yield value.left
    elif isinstance(value, (ast.GeneratorExp, ast.ListComp)):
        yield value.generators[0].iter


def _is_global(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("torch", "nn", "self")


def main() -> None:
    """`python -m tests.fuzz.shrink FILE`: the smallest program that ends as the one in FILE does."""
    torch.set_num_threads(1)
    source = Path(sys.argv[1]).read_text()
    outcome = harness.check(source)
    forced = outcome.code == "forced"
    print(shrink(source, lambda text: harness.check(text, seconds=10.0, forced=forced).label == outcome.label))
    print(f"# {outcome.label}")


if __name__ == "__main__":
    main()

"""Finding a function's syntax tree, and proving that it is the tree of the code that runs.

In: a function object. Out: its definition's tree, with private names mangled, and the file's lines.
Never: imports or executes anything; a tree that does not compile to the running code is refused.
"""
from __future__ import annotations
import __future__

import ast
import functools
import inspect
import linecache
import re
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from elastic_compile.rewrite.sites import Source

FUTURE_FLAGS = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
ASYNC_FLAGS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
MAKER = "__ec_make"


class NotRewritable(Exception):
    """The function has no rewritten form; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Definition = ast.FunctionDef | ast.Lambda


@dataclass(frozen=True)
class Found:
    """The definition of a running function, decorators dropped and private names mangled for the class `private`."""

    node: Definition
    private: str | None
    source: Source
    flags: int


def find(fn: types.FunctionType) -> Found:
    """The definition that `fn` was compiled from.

    Raises:
        NotRewritable: no Python source, asynchronous, or the source is not what runs.
    """
    if not isinstance(fn, types.FunctionType):
        raise NotRewritable(f"a {type(fn).__name__} is not a Python function")
    code = fn.__code__
    if code.co_flags & ASYNC_FLAGS:
        raise NotRewritable("asynchronous functions are not rewritten")
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, fn.__globals__)
    if not lines:
        raise NotRewritable(f"no source for {code.co_filename}")
    flags = code.co_flags & FUTURE_FLAGS
    module = _parsed(code.co_filename, "".join(lines), flags)
    candidates = module.definitions.get((code.co_firstlineno, code.co_name), [])
    source = Source(code.co_filename, lines)
    matches = []
    for node, private in candidates:
        node = _mangled(node, private, lines)
        compiled = compile_alone(node, code.co_freevars, module.imported, flags, code.co_filename)
        if same_code(compiled, code):
            matches.append((node, compiled, private))
    if len(matches) > 1:
        positions = list(code.co_positions())
        matches = [m for m in matches if list(m[1].co_positions()) == positions] or matches
    if len(matches) != 1:
        raise NotRewritable(
            "several definitions on one line have the same code" if matches
            else "source does not match the running code"
        )
    return Found(matches[0][0], matches[0][2], source, flags)


@dataclass(frozen=True)
class Module:
    """The functions and lambdas of a file by first line and name, each with the class that its private names
    belong to; and the names that the file imports, for the compiler loads their attributes in another way."""

    definitions: dict[tuple[int, str], list[tuple[Definition, str | None]]]
    imported: frozenset[str]


@functools.lru_cache(maxsize=64)
def _parsed(file: str, text: str, flags: int) -> Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = compile(text, file, "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise NotRewritable(f"the source of {file} does not parse: {error}") from None
    found: dict[tuple[int, str], list[tuple[Definition, str | None]]] = {}
    pending: list[tuple[ast.AST, str | None]] = [(tree, None)]
    while pending:
        node, private = pending.pop()
        kind = type(node)
        if kind is ast.FunctionDef:
            first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            found.setdefault((first, node.name), []).append((node, private))
        elif kind is ast.Lambda:
            found.setdefault((node.lineno, "<lambda>"), []).append((node, private))
        elif kind is ast.ClassDef:
            outside = [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]
            pending.extend((child, private) for child in outside)
            pending.extend((child, node.name) for child in node.body)
            continue
        for field in node._fields:
            value = getattr(node, field, None)
            if type(value) is list:
                pending.extend((child, private) for child in value if isinstance(child, ast.AST))
            elif isinstance(value, ast.AST) and value._fields:
                pending.append((value, private))
    return Module(found, frozenset(_imports(tree.body)))


def _imports(statements: list[ast.stmt]) -> Iterator[str]:
    """Names that imports bind in a module's own scope."""
    for statement in statements:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from (a.asname or a.name.partition(".")[0] for a in statement.names if a.name != "*")
        elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for field in ("body", "orelse", "handlers", "finalbody", "cases"):
                inner = getattr(statement, field, [])
                yield from _imports([s for s in inner if isinstance(s, (ast.stmt, ast.ExceptHandler, ast.match_case))])


def _mangle(name: str, private: str | None) -> str:
    """`name` as the compiler stores it inside class `private`."""
    if private is None or not name.startswith("__") or name.endswith("__") or "." in name:
        return name
    owner = private.lstrip("_")
    return f"_{owner}{name}" if owner else name


class _Mangler:
    """Writes private names out as the compiler stores them; classes inside mangle their own."""

    FIELDS: ClassVar[dict[type, str]] = {
        ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.FunctionDef: "name", ast.ClassDef: "name",
        ast.ExceptHandler: "name", ast.MatchAs: "name", ast.MatchStar: "name", ast.MatchMapping: "rest",
        ast.alias: "asname",
    }

    def __init__(self, private: str) -> None:
        self.private = private

    def visit(self, node: ast.AST) -> ast.AST:
        values = {}
        for field, value in ast.iter_fields(node):
            if isinstance(node, ast.ClassDef) and field == "body":
                values[field] = value
            elif isinstance(node, (ast.Global, ast.Nonlocal)) and field == "names":
                values[field] = [_mangle(name, self.private) for name in value]
            elif isinstance(value, list):
                values[field] = [self.visit(item) if isinstance(item, ast.AST) else item for item in value]
            else:
                values[field] = self.visit(value) if isinstance(value, ast.AST) else value
        named = self.FIELDS.get(type(node))
        if named is not None and values.get(named) is not None:
            values[named] = _mangle(values[named], self.private)
        return ast.copy_location(type(node)(**values), node)


def _mangled(node: Definition, private: str | None, lines: list[str]) -> Definition:
    if private is None:
        return node
    text = "".join(lines[node.lineno - 1 : node.end_lineno])
    if all(name.endswith("__") for name in re.findall(r"(?<!\w)__\w+", text)):
        return node
    mangled = _Mangler(private).visit(node)
    if isinstance(mangled, ast.FunctionDef):
        mangled.name = node.name
    return mangled


def without_defaults(args: ast.arguments) -> ast.arguments:
    """The parameters alone: neither annotations nor default values; a default shows as `...`."""
    def bare(arg: ast.arg | None) -> ast.arg | None:
        return None if arg is None else ast.arg(arg=arg.arg)

    return ast.arguments(
        posonlyargs=[bare(a) for a in args.posonlyargs],
        args=[bare(a) for a in args.args],
        vararg=bare(args.vararg),
        kwonlyargs=[bare(a) for a in args.kwonlyargs],
        kw_defaults=[None if d is None else ast.Constant(...) for d in args.kw_defaults],
        kwarg=bare(args.kwarg),
        defaults=[ast.Constant(...) for _ in args.defaults],
    )


def maker(definition: ast.FunctionDef, parameters: tuple[str, ...]) -> ast.Module:
    """A module with one function, whose parameters become the free variables of `definition`."""
    declare = [] if definition.name in parameters else [ast.Global(names=[definition.name])]
    wrapper = ast.FunctionDef(
        name=MAKER,
        args=ast.arguments(posonlyargs=[], args=[ast.arg(arg=p) for p in parameters], kwonlyargs=[], kw_defaults=[],
                           defaults=[]),
        body=[*declare, definition],
        decorator_list=[],
    )
    return ast.Module(body=[wrapper], type_ignores=[])


def made(module: types.CodeType, name: str) -> types.CodeType:
    """The code of the function `name` inside a compiled `maker` module."""
    wrapper = next(c for c in module.co_consts if isinstance(c, types.CodeType))
    return next(c for c in wrapper.co_consts if isinstance(c, types.CodeType) and c.co_name == name)


def compile_alone(
    node: Definition, free: tuple[str, ...], imported: frozenset[str], flags: int, file: str
) -> types.CodeType:
    """`node` compiled by itself, with `free` as its free variables, in a module that imports `imported`."""
    args = without_defaults(node.args)
    if isinstance(node, ast.Lambda):
        inner: ast.stmt = ast.copy_location(ast.Expr(ast.copy_location(ast.Lambda(args, node.body), node)), node)
        name = "<lambda>"
        tree = maker(ast.FunctionDef(name="__ec_l", args=without_defaults(node.args), body=[ast.Pass()],
                                     decorator_list=[]), free)
        tree.body[0].body = [inner]
    else:
        name = node.name
        inner = ast.copy_location(
            ast.FunctionDef(name=name, args=args, body=node.body, decorator_list=[]), node
        )
        tree = maker(inner, tuple(f for f in free if f.isidentifier()))
    tree.body[:0] = [ast.Import(names=[ast.alias(name=name)]) for name in sorted(imported)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = compile(ast.fix_missing_locations(tree), file, "exec", flags, dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise NotRewritable(f"the definition does not compile by itself: {error}") from None
    return made(module, name)


def same_code(a: types.CodeType, b: types.CodeType) -> bool:
    """Whether two code objects do the same, names and constants included; positions may differ, and with them the
    line that a class keeps (Python 3.13)."""
    is_class = not a.co_flags & inspect.CO_OPTIMIZED
    return (
        a.co_code == b.co_code
        and a.co_names == b.co_names
        and a.co_varnames == b.co_varnames
        and a.co_freevars == b.co_freevars
        and a.co_cellvars == b.co_cellvars
        and (a.co_argcount, a.co_posonlyargcount, a.co_kwonlyargcount)
        == (b.co_argcount, b.co_posonlyargcount, b.co_kwonlyargcount)
        and len(a.co_consts) == len(b.co_consts)
        and all(
            _same_constant(x, y) or (is_class and x == a.co_firstlineno and y == b.co_firstlineno)
            for x, y in zip(a.co_consts, b.co_consts, strict=True)
        )
    )


def _same_constant(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, types.CodeType):
        return same_code(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same_constant, a, b))
    # Class bodies hold their qualified name, whose prefix differs when a definition is compiled by itself.
    if isinstance(a, str) and a != b:
        return a.rpartition(".")[2] == b.rpartition(".")[2] and "<locals>" in a + b
    return a == b or repr(a) == repr(b)

"""From a function to its rewritten form: found, rewritten, compiled, analysed, kept per code object.

In: a Python function. Out: a `Template`, and from it, with a hook object, a function that takes the place of the
original one: same globals, closure cells, defaults and attributes.
Never: changes the original function or its module.
"""
from __future__ import annotations

import ast
import inspect
import linecache
import os
import re
import types
from dataclasses import dataclass, replace
from typing import Any

from elastic_compile.rewrite import build
from elastic_compile.rewrite.expressions import Unit
from elastic_compile.rewrite.liveness import analyse
from elastic_compile.rewrite.sites import Site
from elastic_compile.rewrite.source import ASYNC_FLAGS, NotRewritable, find, made, maker, same_code
from elastic_compile.rewrite.statements import rewrite_definition

OPTIMISED = inspect.CO_OPTIMIZED
LAMBDA = f"{build.PREFIX}_function"
INNER_NAMES = re.compile(rf"{build.PREFIX}_(lambda|genexpr|listcomp|setcomp|dictcomp|function)\d*")


@dataclass(frozen=True, eq=False)
class Template:
    """A rewritten function, not yet bound to hooks.

    `source` is the rewritten text, registered with `linecache` under `filename`; `sites` are in the order in which
    it names them; `codes` are the code objects of all rewritten frames, inner functions included. `yields` gives the
    site of a suspended generator by the line of `source` it stands at (`gi_frame.f_lineno`).
    """

    source: str
    filename: str
    sites: tuple[Site, ...]
    codes: frozenset[types.CodeType]
    yields: dict[int, Site]
    code: types.CodeType

    def bind(self, fn: types.FunctionType, hooks: Any) -> types.FunctionType:
        """The rewritten form of `fn`, which calls `hooks`. Shares cells, defaults and attribute values with `fn`."""
        cells = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True))
        cells[build.HOOKS] = types.CellType(hooks)
        cells[build.SITES] = types.CellType(self.sites)
        cells[build.SLICE] = types.CellType(slice)
        closure = tuple(cells[name] for name in self.code.co_freevars)
        bound = types.FunctionType(self.code, fn.__globals__, fn.__name__, fn.__defaults__, closure)
        bound.__kwdefaults__ = fn.__kwdefaults__
        bound.__qualname__ = fn.__qualname__
        bound.__module__ = fn.__module__
        bound.__doc__ = fn.__doc__
        bound.__annotations__ = fn.__annotations__
        bound.__dict__.update(fn.__dict__)
        return bound


_templates: dict[int, tuple[types.CodeType, Template | NotRewritable]] = {}
_rewritten: dict[int, types.CodeType] = {}


def rewrite(fn: types.FunctionType) -> Template:
    """The template of `fn`, made once per code object.

    Raises:
        NotRewritable: with the reason.
    """
    code = getattr(fn, "__code__", None)
    known = _templates.get(id(code))
    if known is None:
        try:
            template: Template | NotRewritable = _rewrite(fn)
        except NotRewritable as error:
            template = error
        except RecursionError:
            template = NotRewritable("the source is nested too deeply")
        known = (code, template)
        if code is not None:
            _templates[id(code)] = known
    if isinstance(known[1], NotRewritable):
        raise NotRewritable(known[1].reason)
    return known[1]


def _rewrite(fn: types.FunctionType) -> Template:
    code = getattr(fn, "__code__", None)
    if id(code) in _rewritten:
        raise NotRewritable("already rewritten")
    found = find(fn)
    node = found.node
    if any(n.startswith(build.PREFIX) for n in _identifiers(code)):
        raise NotRewritable(f"names that begin with {build.PREFIX} are reserved")
    unit = Unit(
        source=found.source, globals=fn.__globals__, class_cell="__class__" in code.co_freevars,
        free=frozenset(code.co_freevars),
    )
    name = LAMBDA if isinstance(node, ast.Lambda) else node.name
    definition = rewrite_definition(unit, node, name)
    free = tuple(n for n in code.co_freevars if n.isidentifier())
    filename = _register_name(code)
    try:
        wrapped = maker(definition, (build.HOOKS, build.SITES, build.SLICE, *free))
        source = ast.unparse(ast.fix_missing_locations(wrapped)) + "\n"
        tree = compile(source, filename, "exec", ast.PyCF_ONLY_AST | found.flags, dont_inherit=True)
        module = compile(tree, filename, "exec", found.flags, dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise NotRewritable(f"the rewritten form does not compile: {error}") from error
    raw = made(module, name)
    live, lines = _liveness(tree, raw)
    sites = tuple(replace(site, live=live.get(i, ())) for i, site in enumerate(unit.sites))
    finished = _Names(filename, f"_{(found.private or '').lstrip('_')}").restore(raw, code.co_qualname, code)
    codes = frozenset(_codes(finished))
    _rewritten.update((id(c), c) for c in codes)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return Template(source, filename, sites, codes, {line: sites[i] for line, i in lines.items()}, finished)


def _identifiers(code: types.CodeType) -> set[str]:
    found = {*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _identifiers(constant)
    return found


def _register_name(code: types.CodeType) -> str:
    """A file name for the rewritten source that no other template has."""
    parts = code.co_filename.replace(os.sep, "/").split("/")
    stem = f"{'/'.join(parts[-2:])}:{code.co_qualname}"
    name, number = f"<elastic {stem}>", 1
    while name in linecache.cache:
        number += 1
        name = f"<elastic {stem} {number}>"
    return name


def _liveness(tree: ast.Module, code: types.CodeType) -> tuple[dict[int, tuple[str, ...]], dict[int, int]]:
    """The analysis of every rewritten function of a template."""
    wanted = {(c.co_firstlineno, c.co_name): c for c in _codes(code)}
    live: dict[int, tuple[str, ...]] = {}
    lines: dict[int, int] = {}
    pending: list[ast.AST] = list(tree.body[0].body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef):
            first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            inner = wanted.get((first, node.name))
            if inner is not None:
                found, yields = analyse(node, inner)
                live.update(found)
                lines.update(yields)
        if not isinstance(node, (ast.ClassDef, ast.AsyncFunctionDef, ast.expr)):
            pending.extend(ast.iter_child_nodes(node))
    return live, lines


def _codes(code: types.CodeType) -> list[types.CodeType]:
    """The code objects of rewritten frames: not those of classes and asynchronous functions, which stay native."""
    found = [code]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType) and _is_rewritten_frame(constant):
            found += _codes(constant)
    return found


def _is_rewritten_frame(code: types.CodeType) -> bool:
    return bool(code.co_flags & OPTIMISED) and not code.co_flags & ASYNC_FLAGS


@dataclass(frozen=True)
class _Names:
    """The names that the original's functions have, for the code of the rewritten ones."""

    filename: str
    private: str

    def original(self, name: str) -> str:
        generated = INNER_NAMES.fullmatch(name)
        if generated:
            return "<lambda>" if generated[1] == "function" else f"<{generated[1]}>"
        return name.removeprefix(self.private) if name.startswith(f"{self.private}__") else name

    def restore(self, code: types.CodeType, qualname: str, source: types.CodeType | None) -> types.CodeType:
        """The code of a rewritten frame under its original name, different from all other code. Classes and
        asynchronous functions in it stay native: where `source`, the frame's original, has them, they are its."""
        originals: dict[str, list[types.CodeType]] = {}
        for constant in source.co_consts if source else ():
            if isinstance(constant, types.CodeType):
                originals.setdefault(constant.co_name, []).append(constant)
        constants: list[Any] = []
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                name = self.original(constant.co_name)
                same = originals.get(name)
                original = same.pop(0) if same else None
                if _is_rewritten_frame(constant):
                    constant = self.restore(constant, f"{qualname}.<locals>.{name}", original)
                elif original is not None and same_code(original, constant):
                    constant = original
            constants.append(constant)
        constants.append((self.filename, code.co_firstlineno))
        return code.replace(co_name=self.original(code.co_name), co_qualname=qualname, co_consts=tuple(constants))

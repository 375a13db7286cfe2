"""Small constructors for the syntax of rewritten code, and its reserved names.

In: names, expressions, statements. Out: `ast` nodes without positions.
Never: knows about the original program.
"""
from __future__ import annotations

import ast

HOOKS = "__ec"
SITES = "__ec_s"
SLICE = "__ec_slice"
BOOKKEEPING = "__ec_n"
PREFIX = "__ec"


def load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def constant(value: object) -> ast.Constant:
    return ast.Constant(value)


def assign(name: str, value: ast.expr) -> ast.Assign:
    return ast.Assign(targets=[ast.Name(name, ast.Store())], value=value)


def attribute(value: ast.expr, name: str) -> ast.Attribute:
    return ast.Attribute(value, name, ast.Load())


def call(function: ast.expr, *args: ast.expr) -> ast.Call:
    return ast.Call(function, list(args), [])


def hook(name: str) -> ast.Attribute:
    return attribute(load(HOOKS), name)


def negate(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def branch(test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt] | None = None) -> ast.If:
    return ast.If(test, body or [ast.Pass()], orelse or [])


def is_stop(name: str) -> ast.Compare:
    return ast.Compare(load(name), [ast.Is()], [hook("stop")])




def has_hook(node: ast.AST) -> bool:
    """Whether evaluating generated code calls a hook."""
    return any(isinstance(n, ast.Name) and n.id == HOOKS for n in ast.walk(node))


def parameters(names: list[str]) -> ast.arguments:
    return ast.arguments(
        posonlyargs=[], args=[ast.arg(arg=n) for n in names], kwonlyargs=[], kw_defaults=[], defaults=[]
    )

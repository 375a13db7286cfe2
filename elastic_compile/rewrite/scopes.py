"""Which names belong to a function's frame, and which of them only the frame itself can change.

In: the syntax tree of a function or comprehension. Out: sets of names.
Never: guesses in favour of fewer temporaries: a name it is unsure of counts as changeable.
"""
from __future__ import annotations

import ast
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def parameters(args: ast.arguments) -> list[str]:
    """All parameter names, in the order of the frame."""
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    named += [a for a in (args.vararg, args.kwarg) if a is not None]
    return [a.arg for a in named]


def _outer_parts(node: ast.AST) -> list[ast.AST]:
    """The parts of a nested scope that are evaluated in the scope around it."""
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]
    parts: list[ast.AST | None] = [*node.args.defaults, *node.args.kw_defaults]
    if not isinstance(node, ast.Lambda):
        parts += [*node.decorator_list, node.returns]
        parts += [a.annotation for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return [p for p in parts if p is not None]


def own_nodes(roots: list[ast.AST]) -> Iterator[ast.AST]:
    """Every node that runs in the frame itself; comprehensions count, inner functions and classes do not."""
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            stack.extend(reversed(_outer_parts(node)))
        else:
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _body(node: ast.AST) -> list[ast.AST]:
    return [node.body] if isinstance(node, ast.Lambda) else list(node.body)


def target_names(target: ast.AST) -> set[str]:
    """Names that an assignment target binds."""
    return {n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def comprehension_targets(node: ast.AST) -> set[str]:
    """The names that live only inside a comprehension."""
    return set().union(*(target_names(g.target) for g in node.generators))


def bound_names(node: ast.FunctionDef | ast.Lambda) -> set[str]:
    """The local variables of a function, those shared with inner functions included."""
    bound = set(parameters(node.args))
    outside: set[str] = set()
    for part in _statement_parts(_body(node)):
        bound.update(bindings(part))
        if isinstance(part, (ast.Global, ast.Nonlocal)):
            outside.update(part.names)
    return bound - outside


def bindings(node: ast.AST) -> list[str]:
    """The names that one node binds itself."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return [name]
        case ast.NamedExpr(target=ast.Name(id=name)):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [alias.asname or alias.name.partition(".")[0] for alias in names]
    return []


def declared_global(node: ast.FunctionDef | ast.Lambda) -> set[str]:
    """Names that the function declares `global`."""
    return {name for part in own_nodes(_body(node)) if isinstance(part, ast.Global) for name in part.names}


def _statement_parts(roots: list[ast.AST]) -> Iterator[ast.AST]:
    """Like `own_nodes`, without the names that comprehensions keep to themselves."""
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        if isinstance(node, COMPREHENSIONS):
            stack.extend(n for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
            continue
        yield node
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            stack.extend(reversed(_outer_parts(node)))
        else:
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def stable_names(node: ast.FunctionDef | ast.Lambda) -> set[str]:
    """Local variables that no call can change: no inner function writes them."""
    written: set[str] = set()
    for part in own_nodes(_body(node)):
        if isinstance(part, (*FUNCTIONS, ast.ClassDef)):
            for inner in ast.walk(part):
                if isinstance(inner, ast.Nonlocal):
                    written.update(inner.names)
                elif isinstance(inner, ast.NamedExpr):
                    written.add(inner.target.id)
        elif isinstance(part, ast.GeneratorExp):
            written.update(n.target.id for n in ast.walk(part) if isinstance(n, ast.NamedExpr))
    return bound_names(node) - written


def assigned_names(nodes: list[ast.AST]) -> set[str]:
    """Names that evaluating the expressions may assign in the frame."""
    return {n.target.id for root in nodes for n in ast.walk(root) if isinstance(n, ast.NamedExpr)}


def mentions(node: ast.AST, names: set[str]) -> bool:
    """Whether any of `names` occurs inside, in whatever scope."""
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def renamed(node: ast.AST, names: dict[str, str]) -> ast.AST:
    """A copy of an expression with free occurrences of `names` replaced; positions are kept."""
    if not names:
        return node
    if isinstance(node, ast.Name):
        return ast.copy_location(ast.Name(names.get(node.id, node.id), node.ctx), node)
    if isinstance(node, COMPREHENSIONS):
        inner = {k: v for k, v in names.items() if k not in comprehension_targets(node)}
        fields = {f: renamed(getattr(node, f), inner) for f in node._fields if f != "generators"}
        fields["generators"] = [
            ast.comprehension(
                target=renamed(g.target, inner), iter=renamed(g.iter, names if i == 0 else inner),
                ifs=[renamed(c, inner) for c in g.ifs], is_async=g.is_async,
            )
            for i, g in enumerate(node.generators)
        ]
        return ast.copy_location(type(node)(**fields), node)
    if isinstance(node, ast.Lambda):
        own = set(parameters(node.args))
        inner = {k: v for k, v in names.items() if k not in own}
        return ast.copy_location(ast.Lambda(_children_renamed(node.args, names), renamed(node.body, inner)), node)
    return _children_renamed(node, names)


def _children_renamed(node: ast.AST, names: dict[str, str]) -> ast.AST:
    values = {}
    for field, value in ast.iter_fields(node):
        if isinstance(value, list):
            values[field] = [renamed(v, names) if isinstance(v, ast.AST) else v for v in value]
        else:
            values[field] = renamed(value, names) if isinstance(value, ast.AST) else value
    return ast.copy_location(type(node)(**values), node)

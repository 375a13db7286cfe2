"""Comprehensions and generator expressions as loops.

In: a comprehension of the original program. Out: a loop written in place, its variables renamed so that they stay
its own; or, where an inner function keeps one of its variables, a function of its own.
Never: evaluates an item earlier or later than the original, but for a generator expression that a builtin such as
`sum` uses up at once: its items are all computed first, in a list, and used then.
"""
from __future__ import annotations

import ast
from collections.abc import Callable

from elastic_compile.rewrite import build
from elastic_compile.rewrite.expressions import Expressions
from elastic_compile.rewrite.scopes import assigned_names, comprehension_targets, mentions, renamed
from elastic_compile.rewrite.source import NotRewritable

SHORT_CIRCUIT = {"any": True, "all": False}
EXHAUSTIVE = frozenset({"sum", "list", "tuple", "set", "frozenset", "dict", "sorted", "max", "min"})
CODE_NAMES = {"ListComp": "listcomp", "SetComp": "setcomp", "DictComp": "dictcomp", "GeneratorExp": "genexpr"}

Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Innermost = Callable[[Expressions, Comprehension], None]


class Comprehensions(Expressions):
    """Expressions whose comprehensions are loops."""

    def value_ListComp(self, node: ast.ListComp) -> ast.expr:
        return self.comprehension_list(node)

    def value_SetComp(self, node: ast.SetComp) -> ast.expr:
        return self.collected(node, ast.Set([]), collect_set)

    def value_DictComp(self, node: ast.DictComp) -> ast.expr:
        return self.collected(node, ast.Dict([], []), collect_dict)

    def value_GeneratorExp(self, node: ast.GeneratorExp) -> ast.expr:
        name, iterator = self.function_of(node, None)
        result = self.new()
        self.out.append(build.assign(result, build.call(build.load(name), build.load(iterator))))
        return build.load(result)

    def comprehension_list(self, node: ast.expr) -> ast.expr:
        return self.collected(node, ast.List([], ast.Load()), collect_list)

    # -- where the loop goes
    def refuse_locals(self, node: Comprehension) -> None:
        """The variables of a comprehension's own scope are those of its function here."""
        first = node.generators[0].iter
        inside = [n for part in ast.iter_child_nodes(node) for n in ast.walk(part)]
        outside = set(ast.walk(first))
        for inner in inside:
            if isinstance(inner, ast.Name) and inner.id == "locals" and inner not in outside:
                raise NotRewritable(f"line {node.lineno}: locals() of a comprehension")

    def collected(self, node: Comprehension, empty: ast.expr, collect: Callable[[str], Innermost]) -> ast.expr:
        """The collection that a comprehension makes."""
        if self.keeps_variable(node):
            name, iterator = self.function_of(node, (empty, collect))
            result = self.new()
            call = ast.Call(build.hook("call"), [self.site("call", node), build.load(name), build.load(iterator)], [])
            self.write(build.assign(result, call), node)
            return build.load(result)
        iterator = self.iterator(node.generators[0].iter)
        return self.inline_collection(node, iterator, empty, collect)

    def inline_collection(
        self, node: Comprehension, iterator: str, empty: ast.expr, collect: Callable[[str], Innermost]
    ) -> ast.expr:
        result = self.new()
        self.out.append(build.assign(result, empty))
        self.inline(node, iterator, collect(result))
        return build.load(result)

    def keeps_variable(self, node: Comprehension) -> bool:
        """Whether an inner function that may outlive an iteration uses a variable of the comprehension."""
        own = comprehension_targets(node)
        if own & (EXHAUSTIVE | SHORT_CIRCUIT.keys()):
            return True
        inside = [child for child in ast.walk(node) if child is not node]
        consumed = {
            id(argument)
            for child in inside
            for argument in _consumed_arguments(child)
            if not isinstance(child, ast.Call) or self.consumer(child) is not None
        }
        return any(
            isinstance(child, ast.Lambda) or (isinstance(child, ast.GeneratorExp) and id(child) not in consumed)
            for child in inside
            if isinstance(child, (ast.Lambda, ast.GeneratorExp)) and mentions(child, own)
        )

    def inline(self, node: Comprehension, iterator: str, innermost: Innermost, stop: ast.expr | None = None) -> None:
        """The loops of a comprehension, its variables renamed."""
        self.refuse_locals(node)
        names = {name: self.new(f"v_{name}_") for name in sorted(comprehension_targets(node))}
        values = {f: renamed(getattr(node, f), names) for f in node._fields if f != "generators"}
        generators = [
            ast.comprehension(
                target=renamed(g.target, names), iter=renamed(g.iter, names), ifs=[renamed(c, names) for c in g.ifs],
                is_async=g.is_async,
            )
            for g in node.generators
        ]
        copy = ast.copy_location(type(node)(**values, generators=generators), node)
        self.loops(copy, generators, iterator, innermost, stop)

    def loops(
        self, node: Comprehension, generators: list[ast.comprehension], iterator: str, innermost: Innermost,
        stop: ast.expr | None,
    ) -> None:
        """Nested loops over `generators`; `iterator` runs over the first. All end when `stop` is true."""
        first, *rest = generators
        if first.is_async:
            raise NotRewritable(f"line {node.lineno}: asynchronous comprehensions are not rewritten")
        with self.deciding(first.iter) as saved:
            with self.block() as body:
                self.loop_step(first, saved, iterator, first.target, [])
                for condition in first.ifs:
                    test = self.condition(condition)
                    self.out.append(build.branch(build.negate(test), [ast.Continue()]))
                if rest:
                    self.loops(node, rest, self.iterator(rest[0].iter), innermost, stop)
                    if stop is not None:
                        self.out.append(build.branch(stop, [ast.Break()]))
                else:
                    innermost(self, node)
            self.drop_tail_point(body)
            self.out.append(ast.While(build.constant(True), body, []))

    def loop_step(
        self, node: ast.comprehension | ast.For, saved: str, iterator: str, target: ast.expr, finish: list[ast.stmt]
    ) -> None:
        """The head of a loop, the next item, and its assignment to `target`; `finish` runs at the end."""
        self.loop_head(node.iter, saved, "for")
        item = self.new("x")
        self.write(build.assign(item, self.hook("next", node.iter, build.load(iterator))), node.iter)
        self.out.append(build.branch(build.is_stop(item), [*finish, ast.Break()]))
        self.store(target, build.load(item))

    def loop_head(self, header: ast.expr, saved: str, loop: str) -> None:
        if not self.opaque:
            self.out.append(self.point(saved, header, "head", loop))

    def store(self, target: ast.expr, value: ast.expr) -> None:
        raise NotImplementedError

    # -- a function of its own
    def function_of(
        self, node: Comprehension, collection: tuple[ast.expr, Callable[[str], Innermost]] | None
    ) -> tuple[str, str]:
        """Define a function with the loops of `node`: the names of the function and of its argument, the first
        iterator. Without a `collection` it is a generator."""
        self.refuse_locals(node)
        iterator = self.iterator(node.generators[0].iter)
        name = self.new(CODE_NAMES[type(node).__name__])
        argument = self.unit.new("a")
        shell = ast.copy_location(ast.Lambda(build.parameters([argument]), node), node)
        inner = type(self)(self.unit, shell, self)
        inner.bound = {argument} | comprehension_targets(node)
        inner.stable = set(inner.bound)
        inner.first_argument = None
        outside = assigned_names([node])
        inner.bound -= outside
        inner.stable -= outside
        if collection is None:
            inner.loops(node, node.generators, argument, yield_item, None)
        else:
            empty, collect = collection
            result = inner.new()
            inner.out.append(build.assign(result, empty))
            inner.loops(node, node.generators, argument, collect(result), None)
            inner.out.append(ast.Return(build.load(result)))
        declared = [self.outer_declaration(n) for n in sorted(outside)]
        self.out += [
            ast.AnnAssign(target=ast.Name(n, ast.Store()), annotation=build.constant(None), simple=1)
            for n in sorted(outside & self.bound)
        ]
        self.out.append(ast.FunctionDef(
            name=name, args=build.parameters([argument]), body=[*declared, *inner.out], decorator_list=[]
        ))
        return name, iterator

    def outer_declaration(self, name: str) -> ast.stmt:
        return ast.Global(names=[name]) if self.is_global(name) else ast.Nonlocal(names=[name])

    def is_global(self, name: str) -> bool:
        scope: Expressions | None = self
        while scope is not None:
            if name in scope.bound:
                return False
            if name in scope.declared_global:
                return True
            scope = scope.parent
        return name not in self.unit.free

    # -- generator expressions that are used up at once
    def consumer(self, node: ast.Call) -> str | None:
        """The name of the builtin that uses up the generator expression given first; None for anything else."""
        if not node.args or not isinstance(node.args[0], ast.GeneratorExp):
            return None
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            return None
        joins = (
            isinstance(node.func, ast.Attribute) and node.func.attr == "join"
            and isinstance(node.func.value, ast.Constant) and isinstance(node.func.value.value, str)
        )
        if joins and len(node.args) == 1 and not node.keywords:
            return "join"
        if not self.is_builtin(node.func):
            return None
        if node.func.id in SHORT_CIRCUIT:
            return node.func.id if len(node.args) == 1 and not node.keywords else None
        return node.func.id if node.func.id in EXHAUSTIVE else None

    def consumed_generator(self, node: ast.Call) -> ast.expr | None:
        name = self.consumer(node)
        generator = node.args[0] if node.args else None
        if name is None or self.keeps_variable(generator):
            return None
        iterator = self.iterator(generator.generators[0].iter)
        if name in SHORT_CIRCUIT:
            return self.short_circuit(node, generator, iterator, SHORT_CIRCUIT[name])
        others = [*node.args[1:], *(k.value for k in node.keywords)]
        operands = [self.pin(self.value(other), other, others[i + 1 :]) for i, other in enumerate(others)]
        items = self.inline_collection(generator, iterator, ast.List([], ast.Load()), collect_list)
        args = [items, *operands[: len(node.args) - 1]]
        keywords = [ast.keyword(k.arg, v) for k, v in zip(node.keywords, operands[len(node.args) - 1 :], strict=True)]
        function = self.value(node.func)
        return ast.Call(build.hook("call"), [self.site("call", node), function, *args], keywords)

    def short_circuit(self, node: ast.Call, generator: ast.GeneratorExp, iterator: str, found: bool) -> ast.expr:
        """`any` and `all`: the loop ends at the first item that decides."""
        result = self.new()
        self.out.append(build.assign(result, build.constant(not found)))

        def test(scope: Expressions, copy: Comprehension) -> None:
            truth = scope.condition(copy.elt)
            scope.out.append(build.branch(
                truth if found else build.negate(truth),
                [build.assign(result, build.constant(found)), ast.Break()],
            ))

        stop = build.load(result) if found else build.negate(build.load(result))
        self.inline(generator, iterator, test, stop)
        return build.load(result)


def _consumed_arguments(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        return node.args[:1]
    return [node.value] if isinstance(node, ast.Starred) else []


def collect_list(result: str) -> Innermost:
    def append(scope: Expressions, node: Comprehension) -> None:
        item = scope.value(node.elt)
        statement = ast.Expr(build.call(build.attribute(build.load(result), "append"), item))
        scope.write(statement, node.elt)

    return append


def collect_set(result: str) -> Innermost:
    def add(scope: Expressions, node: Comprehension) -> None:
        item = scope.value(node.elt)
        scope.write(ast.Expr(build.call(build.attribute(build.load(result), "add"), item)), node.elt)

    return add


def collect_dict(result: str) -> Innermost:
    def put(scope: Expressions, node: Comprehension) -> None:
        key, value = scope.values([node.key, node.value])
        key = scope.pin(key, node.key)
        target = ast.Subscript(build.load(result), key, ast.Store())
        scope.write(ast.Assign(targets=[target], value=value), node)

    return put


def yield_item(scope: Expressions, node: Comprehension) -> None:
    scope.suspend(node.elt, ast.Yield(scope.value(node.elt)))

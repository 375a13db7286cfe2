"""Statements in the form that hooks need: loops with explicit heads, and a point wherever paths can meet again.

In: the body of a function of the original program. Out: the body of the rewritten function.
Never: drops a statement, since dead code still says which names are local and whether a function is a generator.
"""
from __future__ import annotations

import ast
import sys

from elastic_compile.rewrite import build
from elastic_compile.rewrite.comprehensions import Comprehensions
from elastic_compile.rewrite.expressions import BINARY, COMPARE, UNARY, Expressions, Unit, is_plain
from elastic_compile.rewrite.source import Definition, NotRewritable, without_defaults

KEPT = (
    ast.Pass, ast.Break, ast.Continue, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom, ast.ClassDef,
    ast.AsyncFunctionDef,
)


class Statements(Comprehensions):
    """The rewriting of one function's frame."""

    def body(self, node: Definition) -> list[ast.stmt]:
        """The rewritten body of a function or lambda."""
        with self.block() as out:
            if isinstance(node, ast.Lambda):
                self.statement(ast.copy_location(ast.Return(node.body), node.body))
            else:
                self.suite(node.body)
        self.drop_tail_point(out)
        return out or [ast.Pass()]

    def suite(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def nested(self, statements: list[ast.stmt], followed_by_point: bool) -> list[ast.stmt]:
        """A suite in a block of its own; its last point goes when another follows at once."""
        with self.block() as out:
            self.suite(statements)
        if followed_by_point:
            self.drop_tail_point(out)
        return out or [ast.Pass()]

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, KEPT) or type(node).__name__ == "TypeAlias":
            self.out.append(node)
            return
        method = getattr(self, f"do_{type(node).__name__}", None)
        if method is None:
            raise NotRewritable(f"line {node.lineno}: {type(node).__name__} statements are not rewritten")
        method(node)

    # -- simple statements
    def do_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            self.out.append(node)
        elif isinstance(node.value, ast.Call):
            value = self.call(node.value)
            if not isinstance(value, ast.Name):
                self.write(ast.Expr(value), node)
        else:
            value = self.value(node.value)
            if not (isinstance(value, ast.Name) and value.id.startswith(build.PREFIX)):
                self.write(ast.Expr(value), node)

    def do_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self.out.append(node)
            return
        if isinstance(node.value, ast.Call):
            value = self.call(node.value)
            if build.has_hook(value):
                name = self.new("r")
                if self.protected:
                    self.write(build.assign(name, value), node)
                else:
                    self.out.append(build.assign(name, value))
                value = build.load(name)
        else:
            value = self.value(node.value)
        self.out.append(ast.Return(value))

    def do_Assign(self, node: ast.Assign) -> None:
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.assign_name(node.targets[0].id, node.value)
            return
        value = self.value(node.value)
        if len(node.targets) > 1:
            value = self.pin(value, node.value)
        for target in node.targets:
            self.store(target, value)

    def do_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            if isinstance(node.target, ast.Name):
                self.assign_name(node.target.id, node.value)
            else:
                self.store(node.target, self.value(node.value))
        elif isinstance(node.target, ast.Name):
            declared = ast.AnnAssign(target=node.target, annotation=build.constant(None), simple=node.simple)
            self.out.append(declared)
        elif isinstance(node.target, ast.Attribute):
            self.write(ast.Expr(self.value(node.target.value)), node)
        else:
            operands = self.values([node.target.value, node.target.slice])
            self.write(ast.Expr(ast.Tuple(operands, ast.Load())), node)

    def do_AugAssign(self, node: ast.AugAssign) -> None:
        target, op = node.target, build.constant(BINARY[type(node.op)])
        if isinstance(target, ast.Name):
            current = self.before(build.load(target.id), target, node.value)
            self.write(build.assign(target.id, self.hook("inplace", node, op, current, self.value(node.value))), node)
            return
        if isinstance(target, ast.Attribute):
            owner = self.pin(self.value(target.value), target.value, [node.value])
            current = self.before(build.attribute(owner, target.attr), target, node.value)
            new = self.hook("inplace", node, op, current, self.value(node.value))
            self.write(ast.Assign(targets=[ast.Attribute(owner, target.attr, ast.Store())], value=new), node)
            return
        owner, key = self.values([target.value, target.slice])
        owner = self.pin(owner, target.value, [target.slice, node.value])
        key = self.pin(key, target.slice, [node.value])
        current = self.before(self.hook("getitem", target, owner, key), target, node.value)
        new = self.pin(self.hook("inplace", node, op, current, self.value(node.value)), node)
        self.write(ast.Expr(self.hook("setitem", target, owner, key, new)), node)

    def before(self, value: ast.expr, node: ast.expr, later: ast.expr) -> ast.expr:
        """`value`, named when evaluating `later` writes statements."""
        return self.pin(value, node, [later]) if self.emits(later) else value

    def do_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self.delete(target)

    def delete(self, target: ast.expr) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for item in target.elts:
                self.delete(item)
            return
        if isinstance(target, ast.Attribute):
            place: ast.expr = ast.Attribute(self.value(target.value), target.attr, ast.Del())
        elif isinstance(target, ast.Subscript):
            owner, key = self.values([target.value, target.slice])
            place = ast.Subscript(owner, key, ast.Del())
        else:
            place = target
        self.write(ast.Delete([place]), target)

    def do_Assert(self, node: ast.Assert) -> None:
        if sys.flags.optimize:
            return
        with self.deciding(node.test):
            test = self.condition(node.test)
            with self.block() as failed:
                error: ast.expr = build.load("AssertionError")
                if node.msg is not None:
                    error = build.call(error, self.value(node.msg))
                self.out.append(ast.Raise(error))
            self.out.append(build.branch(build.negate(test), failed))

    def do_Raise(self, node: ast.Raise) -> None:
        error, cause = self.values([node.exc, node.cause])
        self.out.append(ast.Raise(error, cause))

    # -- assignment targets
    def store(self, target: ast.expr, value: ast.expr) -> None:
        """Assign an evaluated value to a target of the original program."""
        if isinstance(target, ast.Name):
            self.write(build.assign(target.id, value), target)
        elif isinstance(target, ast.Attribute):
            if self.emits(target.value):
                value = self.pin(value, target, [target])
            owner = self.value(target.value)
            self.write(ast.Assign(targets=[ast.Attribute(owner, target.attr, ast.Store())], value=value), target)
        elif isinstance(target, ast.Subscript):
            value = self.pin(value, target, [target])
            owner, key = self.values([target.value, target.slice])
            self.write(ast.Expr(self.hook("setitem", target, owner, key, value)), target)
        elif isinstance(target, ast.Starred):
            self.store(target.value, value)
        else:
            self.unpack(target, value)

    def unpack(self, target: ast.Tuple | ast.List, value: ast.expr) -> None:
        items = [item.value if isinstance(item, ast.Starred) else item for item in target.elts]
        if all(isinstance(item, ast.Name) for item in items):
            self.write(ast.Assign(targets=[target], value=value), target)
            return
        names = [self.new() for _ in items]
        pattern: list[ast.expr] = []
        for name, item in zip(names, target.elts, strict=True):
            place = ast.Name(name, ast.Store())
            pattern.append(ast.Starred(place, ast.Store()) if isinstance(item, ast.Starred) else place)
        self.write(ast.Assign(targets=[ast.Tuple(pattern, ast.Store())], value=value), target)
        for name, item in zip(names, items, strict=True):
            self.store(item, build.load(name))

    # -- decisions and loops
    def do_If(self, node: ast.If) -> None:
        with self.deciding(node.test):
            test = self.condition(node.test)
            body = self.nested(node.body, followed_by_point=True)
            orelse = self.nested(node.orelse, followed_by_point=True) if node.orelse else []
            self.out.append(build.branch(test, body, orelse))

    def do_While(self, node: ast.While) -> None:
        self.loop(node, node.test)

    def do_For(self, node: ast.For) -> None:
        self.loop(node, node.iter)

    def loop(self, node: ast.For | ast.While, header: ast.expr) -> None:
        if not node.orelse:
            self.loop_itself(node, header, [])
            return
        finished = self.new("b")
        with self.deciding(header):
            self.out.append(build.assign(finished, build.constant(False)))
            self.loop_itself(node, header, [build.assign(finished, build.constant(True))])
            self.out.append(build.branch(build.load(finished), self.nested(node.orelse, followed_by_point=True)))

    def loop_itself(self, node: ast.For | ast.While, header: ast.expr, finish: list[ast.stmt]) -> None:
        """The loop as `while True`; `finish` runs when it ends other than by `break`."""
        with self.deciding(header) as saved:
            iterator = self.iterator(node.iter) if isinstance(node, ast.For) else None
            with self.block() as body:
                if isinstance(node, ast.For):
                    self.loop_step(node, saved, iterator, node.target, finish)
                else:
                    self.loop_head(header, saved, "while")
                    test = self.condition(node.test)
                    if not (isinstance(test, ast.Constant) and test.value):
                        self.out.append(build.branch(build.negate(test), [*finish, ast.Break()]))
                self.suite(node.body)
            self.drop_tail_point(body)
            self.out.append(ast.While(build.constant(True), body, []))

    def do_Match(self, node: ast.Match) -> None:
        with self.deciding(node.subject):
            subject = self.name_value(node.subject, "m")
            cases = [
                ast.match_case(
                    pattern=case.pattern,
                    guard=None if case.guard is None else Nested(self).condition(case.guard),
                    body=self.nested(case.body, followed_by_point=True),
                )
                for case in node.cases
            ]
            self.out.append(ast.Match(build.load(subject), cases))

    # -- blocks with an exit
    def do_With(self, node: ast.With) -> None:
        with self.deciding(node.items[0].context_expr):
            self.with_items(node.items, node.body)

    def with_items(self, items: list[ast.withitem], body: list[ast.stmt]) -> None:
        item, *rest = items
        manager = self.name_value(item.context_expr, "w")
        target = item.optional_vars
        native = target is None or isinstance(target, ast.Name)
        entered = None if native else self.new()
        self.protected += 1
        with self.block() as inner:
            if entered is not None:
                self.store(target, build.load(entered))
            if rest:
                self.with_items(rest, body)
            else:
                self.suite(body)
        self.protected -= 1
        place = target if entered is None else ast.Name(entered, ast.Store())
        self.out.append(ast.With(items=[ast.withitem(build.load(manager), place)], body=inner or [ast.Pass()]))

    def do_Try(self, node: ast.Try) -> None:
        keyword = ast.copy_location(ast.Pass(), node)
        keyword.end_lineno, keyword.end_col_offset = node.lineno, node.col_offset + len("try")
        with self.deciding(keyword) as saved:
            self.protected += 1
            body = self.nested(node.body, followed_by_point=False)
            orelse = self.nested(node.orelse, followed_by_point=False) if node.orelse else []
            handlers = [self.handler(handler, saved, bool(node.finalbody)) for handler in node.handlers]
            self.protected -= 1
            outer, self.opaque = self.opaque, True
            finalbody = self.nested(node.finalbody, followed_by_point=False) if node.finalbody else []
            self.opaque = outer
            self.out.append(type(node)(body=body, handlers=handlers, orelse=orelse, finalbody=finalbody))

    do_TryStar = do_Try

    def handler(self, node: ast.ExceptHandler, saved: str, final: bool) -> ast.ExceptHandler:
        """A handler; paths that raised at different places may join where it begins."""
        name = node.name
        if name is None and re_raises(node.body):
            name = self.new("e")
        outer = self.opaque
        self.opaque = outer or hides_exception(node)
        with self.block() as body:
            if not self.opaque:
                self.out.append(self.point(saved, node.type or node.body[0], "point"))
            self.suite(node.body)
        if not final:
            self.drop_tail_point(body)
        self.opaque = outer
        kind = None if node.type is None else Nested(self).value(node.type)
        if name is not None and kind is None:
            kind = build.load("BaseException")
        return ast.ExceptHandler(type=kind, name=name, body=body)

    # -- inner functions
    def do_FunctionDef(self, node: ast.FunctionDef) -> None:
        decorators = [self.pin(self.value(d), d, node.decorator_list[i + 1 :])
                      for i, d in enumerate(node.decorator_list)]
        args = self.arguments(node.args)
        inner = type(self)(self.unit, node, self)
        definition = ast.FunctionDef(
            name=node.name, args=args, body=inner.body(node), decorator_list=decorators, returns=node.returns
        )
        if getattr(node, "type_params", None):
            definition.type_params = node.type_params
        self.out.append(definition)

    def arguments(self, args: ast.arguments) -> ast.arguments:
        """Parameters whose default values are evaluated here."""
        nodes = [*args.defaults, *args.kw_defaults]
        values = [None if n is None else self.pin(self.value(n), n, nodes[i + 1 :]) for i, n in enumerate(nodes)]
        defaults, kw_defaults = values[: len(args.defaults)], values[len(args.defaults) :]
        return ast.arguments(
            posonlyargs=args.posonlyargs, args=args.args, vararg=args.vararg, kwonlyargs=args.kwonlyargs,
            kw_defaults=kw_defaults, kwarg=args.kwarg, defaults=defaults,
        )

    def value_Lambda(self, node: ast.Lambda) -> ast.expr:
        args = self.arguments(node.args)
        if is_plain(node.body):
            return ast.Lambda(args, node.body)
        name = self.new("lambda")
        inner = type(self)(self.unit, node, self)
        self.out.append(ast.FunctionDef(name=name, args=args, body=inner.body(node), decorator_list=[]))
        return build.load(name)


def re_raises(body: list[ast.stmt]) -> bool:
    """Whether a handler raises its exception again without naming it."""
    return any(isinstance(n, ast.Raise) and n.exc is None for s in body for n in ast.walk(s))


def hides_exception(node: ast.ExceptHandler) -> bool:
    """Whether a handler still needs its exception after its name was bound to something else."""
    return node.name is not None and re_raises(node.body) and any(
        isinstance(n, ast.Name) and n.id == node.name and not isinstance(n.ctx, ast.Load)
        for s in node.body for n in ast.walk(s)
    )


class Nested:
    """Hooks inside one expression, where no statement can be written: guards and the types of handlers."""

    def __init__(self, scope: Expressions) -> None:
        self.scope = scope

    def hook(self, kind: str, node: ast.AST, *args: ast.expr) -> ast.Call:
        outer, self.scope.opaque = self.scope.opaque, True
        try:
            return self.scope.hook(kind, node, *args)
        finally:
            self.scope.opaque = outer

    def condition(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.BoolOp):
            return ast.BoolOp(node.op, [self.condition(v) for v in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return build.negate(self.condition(node.operand))
        return self.hook("truth", node, self.value(node))

    def value(self, node: ast.AST) -> ast.AST:
        """`node` with its hooks nested; what cannot be nested stays native."""
        if isinstance(node, ast.Call) and not self.scope.is_native_call(node):
            call = self.hook("call", node, self.value(node.func), *map(self.value, node.args))
            call.keywords = [ast.keyword(k.arg, self.value(k.value)) for k in node.keywords]
            return call
        if isinstance(node, ast.IfExp):
            return ast.IfExp(self.condition(node.test), self.value(node.body), self.value(node.orelse))
        if isinstance(node, ast.BinOp):
            op = build.constant(BINARY[type(node.op)])
            return self.hook("binop", node, op, self.value(node.left), self.value(node.right))
        if isinstance(node, ast.UnaryOp):
            if isinstance(node.op, ast.Not):
                return build.negate(self.condition(node.operand))
            return self.hook("unop", node, build.constant(UNARY[type(node.op)]), self.value(node.operand))
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARE:
            op = build.constant(COMPARE[type(node.ops[0])])
            return self.hook("compare", node, op, self.value(node.left), self.value(node.comparators[0]))
        if isinstance(node, ast.Subscript):
            return self.hook("getitem", node, self.value(node.value), self.value(node.slice))
        if isinstance(node, ast.Slice):
            bounds = [build.constant(None) if b is None else self.value(b) for b in (node.lower, node.upper, node.step)]
            return build.call(build.load(build.SLICE), *bounds)
        if isinstance(node, (ast.Attribute, ast.Tuple, ast.List, ast.Starred, ast.BoolOp)):
            values = {
                f: [self.value(v) for v in value] if isinstance(value, list) else
                self.value(value) if isinstance(value, ast.expr) else value
                for f, value in ast.iter_fields(node)
            }
            return type(node)(**values)
        return node


def rewrite_definition(unit: Unit, node: Definition, name: str) -> ast.FunctionDef:
    """The rewritten definition of a function, without its default values and annotations."""
    scope = Statements(unit, node, None)
    return ast.FunctionDef(name=name, args=without_defaults(node.args), body=scope.body(node), decorator_list=[])

"""Expressions in the form that hooks need.

In: an expression of the original program. Out: statements that do its calls, tests and bindings one by one, in the
order of the original, and an expression for the value that has no call left in it.
Never: leaves an operand on the evaluation stack while a call runs; what was evaluated before it gets a name.
"""
from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from elastic_compile.rewrite import build
from elastic_compile.rewrite.scopes import (
    COMPREHENSIONS,
    assigned_names,
    bound_names,
    declared_global,
    stable_names,
)
from elastic_compile.rewrite.sites import Site, Source
from elastic_compile.rewrite.source import Definition, NotRewritable

BINARY = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.Pow: "pow", ast.MatMult: "matmul", ast.LShift: "lshift", ast.RShift: "rshift", ast.BitAnd: "and",
    ast.BitOr: "or", ast.BitXor: "xor",
}
UNARY = {ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert"}
COMPARE = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.In: "in",
    ast.NotIn: "not in",
}
#: Builtins that read the frame of their caller, which is a hook's frame after the rewriting.
#: The number is that of the arguments with which they do not.
READS_FRAME = {"vars": 1, "dir": 1, "eval": 2, "exec": 2}
PLAIN = (
    ast.Name, ast.Constant, ast.Attribute, ast.Tuple, ast.List, ast.Starred, ast.Load, ast.arguments, ast.arg,
)


@dataclass
class Unit:
    """What all scopes of one rewritten function share."""

    source: Source
    globals: dict[str, Any]
    class_cell: bool
    free: frozenset[str]
    sites: list[Site] = field(default_factory=list)
    counter: int = 0
    emitting: dict[ast.AST, bool] = field(default_factory=dict)

    def new(self, kind: str) -> str:
        self.counter += 1
        return f"{build.PREFIX}_{kind}{self.counter - 1}"


def is_plain(node: ast.AST) -> bool:
    """Whether an expression reads names, attributes and constants only."""
    return all(isinstance(n, PLAIN) for n in ast.walk(node))


class Expressions:
    """The frame of one function, and the statements written for it so far."""

    def __init__(self, unit: Unit, node: Definition, parent: Expressions | None) -> None:
        self.unit = unit
        self.parent = parent
        self.bound = bound_names(node)
        self.declared_global = declared_global(node)
        self.stable = stable_names(node)
        self.first_argument = next((a.arg for a in (*node.args.posonlyargs, *node.args.args)), None)
        self.out: list[ast.stmt] = []
        self.depth = 0
        self.opaque = False
        self.protected = 0

    # -- sites and statements
    def site(self, kind: str, node: ast.AST, loop: str = "") -> ast.Subscript:
        """A new site, as the expression that names it."""
        self.unit.sites.append(self.unit.source.site(kind, node, opaque=self.opaque, loop=loop))
        return ast.Subscript(build.load(build.SITES), build.constant(len(self.unit.sites) - 1), ast.Load())

    def hook(self, kind: str, node: ast.AST, *args: ast.expr) -> ast.Call:
        return build.call(build.hook(kind), self.site(kind, node), *args)

    def new(self, kind: str = "t") -> str:
        return self.unit.new(kind)

    @contextmanager
    def block(self) -> Iterator[list[ast.stmt]]:
        """Statements written inside go to the list given."""
        outer, self.out = self.out, []
        try:
            yield self.out
        finally:
            self.out = outer

    @contextmanager
    def deciding(self, node: ast.AST) -> Iterator[str]:
        """Statements written inside may decide: a point follows them. Gives the name of the saved count."""
        saved = f"{build.BOOKKEEPING}{self.depth}"
        save = build.assign(saved, build.hook("n"))
        self.out.append(save)
        self.depth += 1
        yield saved
        self.depth -= 1
        if not self.opaque:
            point = self.point(saved, node, "point")
            point.save = save
            self.out.append(point)

    def point(self, saved: str, node: ast.AST, kind: str, loop: str = "") -> ast.If:
        decided = ast.Compare(build.hook("n"), [ast.NotEq()], [build.load(saved)])
        return build.branch(decided, [ast.Expr(build.call(build.hook("point"), self.site(kind, node, loop)))])

    @staticmethod
    def drop_tail_point(block: list[ast.stmt]) -> None:
        """Remove the point that ends a block: one with the same state follows at once."""
        save = getattr(block[-1], "save", None) if block else None
        if save is not None:
            block.pop()
            after = block[block.index(save) + 1 :]
            if not any(n.id == save.targets[0].id for s in after for n in ast.walk(s) if isinstance(n, ast.Name)):
                block.remove(save)

    def write(self, statement: ast.stmt, node: ast.AST) -> None:
        """Append a statement, followed by a point when it calls a hook."""
        if build.has_hook(statement):
            with self.deciding(node):
                self.out.append(statement)
        else:
            self.out.append(statement)

    def name_value(self, node: ast.expr, kind: str = "t") -> str:
        """Evaluate into a new local."""
        name = self.new(kind)
        self.assign_name(name, node)
        return name

    def assign_name(self, name: str, node: ast.expr) -> None:
        """Evaluate `node` and assign it to the variable `name`."""
        if isinstance(node, ast.IfExp):
            with self.deciding(node):
                self.choose(name, node)
        elif isinstance(node, ast.Call):
            self.write(build.assign(name, self.call(node)), node)
        else:
            self.write(build.assign(name, self.value(node)), node)

    # -- what emits statements
    def emits(self, node: ast.AST | None) -> bool:
        """Whether evaluating the expression writes statements whose order against its neighbours matters."""
        if node is None:
            return False
        known = self.unit.emitting.get(node)
        if known is None:
            known = self.unit.emitting[node] = self._emits(node)
        return known

    def _emits(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            return not self.is_native_call(node)
        if isinstance(node, (ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.IfExp, ast.BoolOp, *COMPREHENSIONS)):
            return True
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            return True
        if isinstance(node, ast.Lambda):
            defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
            return any(not isinstance(d, ast.Constant) for d in defaults)
        return any(self.emits(child) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context))

    def is_builtin(self, node: ast.AST, name: str | None = None) -> bool:
        """Whether `node` is a name that can only mean the builtin function."""
        if not isinstance(node, ast.Name) or (name is not None and node.id != name):
            return False
        scope: Expressions | None = self
        while scope is not None:
            if node.id in scope.bound:
                return False
            scope = scope.parent
        if node.id in self.unit.free or not hasattr(builtins, node.id):
            return False
        missing = object()
        found = self.unit.globals.get(node.id, missing)
        return found is missing or found is getattr(builtins, node.id)

    def is_native_call(self, node: ast.Call) -> bool:
        """Zero-argument `super()` and `globals()`: they read the frame and call no code of the user."""
        if node.args or node.keywords:
            return False
        return self.is_builtin(node.func, "super") or self.is_builtin(node.func, "globals")

    # -- order of evaluation
    def values(self, nodes: Sequence[ast.expr | None]) -> list[ast.expr | None]:
        """Evaluate operands from left to right; those before the last one that writes statements get names."""
        last = max((i for i, node in enumerate(nodes) if self.emits(node)), default=-1)
        result: list[ast.expr | None] = []
        for i, node in enumerate(nodes):
            if node is None:
                result.append(None)
                continue
            value = self.value(node)
            result.append(self.pin(value, node, nodes[i + 1 : last + 1]) if i < last else value)
        return result

    def pin(self, value: ast.expr, node: ast.AST, later: Sequence[ast.AST | None] = ()) -> ast.expr:
        """`value` as an atom that evaluating `later` cannot change."""
        if self.is_atom(value, later):
            return value
        if isinstance(value, ast.Starred):
            items = ast.List([value], ast.Load())
            return ast.Starred(self.pin(items, node), ast.Load())
        name = self.new()
        self.write(build.assign(name, value), node)
        return build.load(name)

    def is_atom(self, value: ast.expr, later: Sequence[ast.AST | None]) -> bool:
        if isinstance(value, ast.Constant):
            return True
        if not isinstance(value, ast.Name):
            return False
        if value.id.startswith(build.PREFIX) or self.is_builtin(value):
            return True
        return value.id in self.stable and value.id not in assigned_names([n for n in later if n is not None])

    # -- values
    def value(self, node: ast.expr) -> ast.expr:
        """An expression for the value of `node`, to be evaluated where the next statement stands."""
        method = getattr(self, f"value_{type(node).__name__}", None)
        if method is None:
            raise NotRewritable(f"line {node.lineno}: {type(node).__name__} expressions are not rewritten")
        return method(node)

    def value_Name(self, node: ast.Name) -> ast.expr:
        return build.load(node.id)

    def value_Constant(self, node: ast.Constant) -> ast.expr:
        return node

    def value_Attribute(self, node: ast.Attribute) -> ast.expr:
        return build.attribute(self.value(node.value), node.attr)

    def value_Starred(self, node: ast.Starred) -> ast.expr:
        if isinstance(node.value, ast.GeneratorExp):
            return ast.Starred(self.comprehension_list(node.value), ast.Load())
        return ast.Starred(self.value(node.value), ast.Load())

    def value_Tuple(self, node: ast.Tuple) -> ast.expr:
        return ast.Tuple(self.values(node.elts), ast.Load())

    def value_List(self, node: ast.List) -> ast.expr:
        return ast.List(self.values(node.elts), ast.Load())

    def value_Set(self, node: ast.Set) -> ast.expr:
        return ast.Set(self.values(node.elts))

    def value_Dict(self, node: ast.Dict) -> ast.expr:
        """Pairs before a `**` are put into a dict before it is evaluated, as Python does."""
        keys: list[ast.expr | None] = []
        values: list[ast.expr] = []
        pairs = list(zip(node.keys, node.values, strict=True))
        operands = [operand for pair in pairs for operand in pair]
        last = max((i for i, operand in enumerate(operands) if self.emits(operand)), default=-1)
        for i, (key, value) in enumerate(pairs):
            if key is None and keys and 2 * i < last:
                keys, values = [None], [self.pin(ast.Dict(keys, values), node)]
            for operand, into, position in ((key, keys, 2 * i), (value, values, 2 * i + 1)):
                item = None if operand is None else self.value(operand)
                if position < last and item is not None and key is not None:
                    item = self.pin(item, operand, operands[position + 1 : last + 1])
                into.append(item)
            if key is None and 2 * i + 1 < last:
                keys, values = [None], [self.pin(ast.Dict(keys, values), node)]
        return ast.Dict(keys, values)

    def value_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant):
            return node
        left, right = self.values([node.left, node.right])
        return self.hook("binop", node, build.constant(BINARY[type(node.op)]), left, right)

    def value_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Not):
            return build.negate(self.condition(node.operand))
        if isinstance(node.operand, ast.Constant):
            return node
        return self.hook("unop", node, build.constant(UNARY[type(node.op)]), self.value(node.operand))

    def value_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) > 1:
            name = self.new()
            with self.deciding(node):
                self.chain(node, name, want_truth=False)
            return build.load(name)
        left, right = self.values([node.left, node.comparators[0]])
        return self.comparison(node, node.ops[0], left, right)

    def comparison(self, node: ast.AST, op: ast.cmpop, left: ast.expr, right: ast.expr) -> ast.expr:
        if isinstance(op, (ast.Is, ast.IsNot)):
            return ast.Compare(left, [op], [right])
        return self.hook("compare", node, build.constant(COMPARE[type(op)]), left, right)

    def value_Subscript(self, node: ast.Subscript) -> ast.expr:
        target, key = self.values([node.value, node.slice])
        return self.hook("getitem", node, target, key)

    def value_Slice(self, node: ast.Slice) -> ast.expr:
        bounds = self.values([node.lower, node.upper, node.step])
        return build.call(build.load(build.SLICE), *(build.constant(None) if b is None else b for b in bounds))

    def value_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        parts = self.values(node.values)
        if not parts:
            return build.constant("")
        if len(parts) == 1:
            return parts[0]
        return build.call(build.attribute(build.constant(""), "join"), ast.Tuple(parts, ast.Load()))

    def value_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        value, spec = self.values([node.value, node.format_spec])
        conversion = None if node.conversion == -1 else chr(node.conversion)
        return self.hook("format", node, value, build.constant(conversion), spec or build.constant(""))

    def value_Call(self, node: ast.Call) -> ast.expr:
        value = self.call(node)
        if not build.has_hook(value):
            return value
        name = self.new()
        self.write(build.assign(name, value), node)
        return build.load(name)

    def value_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        self.assign_name(node.target.id, node.value)
        return build.load(node.target.id)

    def value_IfExp(self, node: ast.IfExp) -> ast.expr:
        return build.load(self.name_value(node))

    def value_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        name = self.new()
        with self.deciding(node):
            self.evaluate(node, name, want_truth=False)
        return build.load(name)

    def value_Yield(self, node: ast.Yield) -> ast.expr:
        value = None if node.value is None else self.value(node.value)
        return self.suspend(node, ast.Yield(value))

    def value_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        iterator = self.iterator(node.value)
        return self.suspend(node, ast.YieldFrom(build.load(iterator)))

    def suspend(self, node: ast.expr, value: ast.expr) -> ast.expr:
        """A yield alone on its line; the number in the name of its result is that of its site."""
        self.site("yield", node)
        name = f"{build.PREFIX}_y{len(self.unit.sites) - 1}"
        with self.deciding(node):
            self.out.append(build.assign(name, value))
        return build.load(name)

    # -- truth
    def condition(self, node: ast.expr) -> ast.expr:
        """An expression for the truth of `node`: a real bool, tested once."""
        if isinstance(node, ast.Constant):
            return build.constant(bool(node.value))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return build.negate(self.condition(node.operand))
        if isinstance(node, ast.BoolOp) or (isinstance(node, ast.Compare) and len(node.ops) > 1):
            name = self.new("c")
            with self.deciding(node):
                if isinstance(node, ast.BoolOp):
                    self.test_operands(node, name)
                else:
                    self.chain(node, name, want_truth=True)
            return build.load(name)
        return self.truth(node, self.value(node))

    def truth(self, node: ast.expr, value: ast.expr) -> ast.expr:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return value
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return value
        return self.hook("truth", node, value)

    def test_operands(self, node: ast.BoolOp, name: str) -> None:
        """The truth of `and`/`or` into `name`, without keeping the operands."""
        self.out.append(build.assign(name, self.condition(node.values[0])))
        for operand in node.values[1:]:
            with self.block() as body:
                self.out.append(build.assign(name, self.condition(operand)))
            self.out.append(build.branch(self.goes_on(node, build.load(name)), body))

    @staticmethod
    def goes_on(node: ast.BoolOp, truth: ast.expr) -> ast.expr:
        return truth if isinstance(node.op, ast.And) else build.negate(truth)

    def evaluate(self, node: ast.expr, name: str, want_truth: bool) -> ast.expr | None:
        """`node` into `name`, and its truth where wanted: each operand of `and`/`or` is tested at most once."""
        if isinstance(node, ast.BoolOp):
            first, *rest = node.values
            test = self.evaluate(first, name, want_truth=True)
            if not want_truth:
                with self.block() as body:
                    if len(rest) == 1:
                        self.evaluate(rest[0], name, want_truth=False)
                    else:
                        inner = ast.copy_location(ast.BoolOp(node.op, rest), rest[0])
                        inner.end_lineno, inner.end_col_offset = node.end_lineno, node.end_col_offset
                        self.evaluate(inner, name, want_truth=False)
                self.out.append(build.branch(self.goes_on(node, test), body))
                return None
            truth = self.new("c")
            self.out.append(build.assign(truth, test))
            for operand in rest:
                with self.block() as body:
                    self.out.append(build.assign(truth, self.evaluate(operand, name, want_truth=True)))
                self.out.append(build.branch(self.goes_on(node, build.load(truth)), body))
            return build.load(truth)
        self.out.append(build.assign(name, self.value(node)))
        return self.truth(node, build.load(name)) if want_truth else None

    def chain(self, node: ast.Compare, name: str, want_truth: bool) -> None:
        """A chained comparison into `name`: its value, or its truth."""
        left, right = self.values([node.left, node.comparators[0]])
        self.chain_links(node, name, self.pin(left, node.left), right, 0, want_truth)

    def chain_links(
        self, node: ast.Compare, name: str, left: ast.expr, right: ast.expr, i: int, want_truth: bool
    ) -> None:
        last = i == len(node.ops) - 1
        if not last:
            right = self.pin(right, node.comparators[i], node.comparators[i + 1 :])
        value = self.comparison(node, node.ops[i], left, right)
        self.out.append(build.assign(name, self.truth(node, value) if want_truth else value))
        if last:
            return
        go_on = build.load(name) if want_truth else self.truth(node, build.load(name))
        with self.block() as body:
            following = self.value(node.comparators[i + 1])
            self.chain_links(node, name, right, following, i + 1, want_truth)
        self.out.append(build.branch(go_on, body))

    def choose(self, name: str, node: ast.IfExp) -> None:
        test = self.condition(node.test)
        with self.block() as body:
            self.assign_name(name, node.body)
        with self.block() as orelse:
            self.assign_name(name, node.orelse)
        self.drop_tail_point(body)
        self.drop_tail_point(orelse)
        self.out.append(build.branch(test, body, orelse))

    # -- calls
    def call(self, node: ast.Call) -> ast.expr:
        """The call itself, its operands evaluated: a hook, or a call that stays native."""
        if self.is_native_call(node):
            return self.native_call(node)
        if self.is_builtin(node.func) and node.func.id == "locals" and not node.args:
            return self.hook("variables", node, build.call(build.load("locals")))
        if self.is_builtin(node.func) and len(node.args) < READS_FRAME.get(node.func.id, 0):
            raise NotRewritable(f"line {node.lineno}: {node.func.id}() reads its caller's variables")
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("_getframe", "currentframe"):
            raise NotRewritable(f"line {node.lineno}: {node.func.attr}() reads its caller's frame")
        consumed = self.consumed_generator(node)
        if consumed is not None:
            return consumed
        function, *operands = self.values(
            [node.func, *node.args, *(_mapping(k) for k in node.keywords)]
        )
        args = operands[: len(node.args)]
        keywords = [
            ast.keyword(k.arg, _unwrapped(value) if k.arg is None else value)
            for k, value in zip(node.keywords, operands[len(node.args) :], strict=True)
        ]
        return ast.Call(build.hook("call"), [self.site("call", node), function, *args], keywords)

    def native_call(self, node: ast.Call) -> ast.expr:
        """`super()` names its class and object, so that both are seen as live."""
        function = build.load(node.func.id)
        if node.func.id == "super" and self.unit.class_cell and self.first_argument is not None:
            return build.call(function, build.load("__class__"), build.load(self.first_argument))
        return build.call(function)

    def consumed_generator(self, node: ast.Call) -> ast.expr | None:
        """A call whose generator expression is known to be used up at once; see `Comprehensions`."""
        raise NotImplementedError

    def comprehension_list(self, node: ast.expr) -> ast.expr:
        raise NotImplementedError

    def iterator(self, node: ast.expr) -> str:
        """Evaluate `node` and make an iterator of it, in a new local."""
        value = self.value(node)
        name = self.new("i")
        self.write(build.assign(name, self.hook("iter", node, value)), node)
        return name


def _mapping(keyword: ast.keyword) -> ast.expr:
    """The operand of a keyword; `**m` as a dict display of it, so that saving it reads the mapping then."""
    if keyword.arg is not None:
        return keyword.value
    return ast.copy_location(ast.Dict([None], [keyword.value]), keyword.value)


def _unwrapped(value: ast.expr) -> ast.expr:
    return value.values[0] if isinstance(value, ast.Dict) and value.keys == [None] else value

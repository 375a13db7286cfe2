"""Live variables of rewritten functions: a backward data-flow analysis over a control-flow graph.

In: the syntax tree of rewritten source and the compiled functions in it. Out: the live names of every site that has
some, and the line of every `yield`.
Never: calls a name dead that the program may read; unsure means live.

Method: Aho, Lam, Sethi and Ullman, *Compilers* (2nd ed.), section 9.2.5, with exceptional edges from every
statement of a `try` body and of a `with` body.
"""
from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import networkx

from elastic_compile.rewrite import build
from elastic_compile.rewrite.scopes import COMPREHENSIONS, bindings

LIVE_AFTER = frozenset({"call", "iter", "next"})
#: Stands for every variable of the function: what `locals()` reads.
EVERY = "locals()"
UNSEEN = frozenset({build.HOOKS, build.SITES, build.SLICE, "__class__"})


@dataclass(frozen=True)
class Exits:
    """Where control goes when it leaves a suite other than at its end."""

    leave: int
    break_: int | None = None
    continue_: int | None = None
    handlers: tuple[int, ...] = ()
    handled: str | None = None


@dataclass
class Flow:
    """The control-flow graph of one function. Nodes are numbers; an edge is exceptional where the source node may
    not have completed."""

    graph: networkx.DiGraph = field(default_factory=networkx.DiGraph)
    uses: list[set[str]] = field(default_factory=list)
    defs: list[set[str]] = field(default_factory=list)
    sites: list[tuple[int, int, bool]] = field(default_factory=list)
    yields: dict[int, int] = field(default_factory=dict)

    def node(self, uses: set[str], defs: set[str], exits: Exits | None, *follow: int | None) -> int:
        number = len(self.uses)
        self.uses.append(uses)
        self.defs.append(defs)
        self.graph.add_node(number)
        for target in follow:
            if target is not None:
                self.graph.add_edge(number, target, exceptional=False)
        for target in exits.handlers if exits else ():
            self.graph.add_edge(number, target, exceptional=True)
        return number

    def suite(self, statements: list[ast.stmt], follow: int, exits: Exits) -> int:
        for statement in reversed(statements):
            follow = self.statement(statement, follow, exits)
        return follow

    def statement(self, node: ast.stmt, follow: int, exits: Exits) -> int:
        method = getattr(self, f"flow_{type(node).__name__}", None)
        if method is not None:
            return method(node, follow, exits)
        uses, defs = names(node)
        number = self.node(uses, defs, exits, follow)
        self.note_sites(node, number)
        return number

    def note_sites(self, node: ast.AST, number: int) -> None:
        """Remember which sites the graph's node `number` answers for."""
        for inner in walk_frame(node):
            if isinstance(inner, ast.Call) and _hook_name(inner) in LIVE_AFTER:
                self.sites.append((inner.args[0].slice.value, number, True))
            elif isinstance(inner, ast.Call) and _hook_name(inner) == "point":
                self.sites.append((inner.args[0].slice.value, number, False))
            elif isinstance(inner, (ast.Yield, ast.YieldFrom)):
                site = int(node.targets[0].id.removeprefix(f"{build.PREFIX}_y"))
                self.sites.append((site, number, isinstance(inner, ast.Yield)))
                self.yields[node.lineno] = site

    def flow_AnnAssign(self, node: ast.AnnAssign, follow: int, exits: Exits) -> int:
        return follow

    # -- leaving
    def flow_Return(self, node: ast.Return, follow: int, exits: Exits) -> int:
        uses, defs = names(node)
        number = self.node(uses, defs, exits, exits.leave)
        self.note_sites(node, number)
        return number

    def flow_Raise(self, node: ast.Raise, follow: int, exits: Exits) -> int:
        uses, defs = names(node)
        if node.exc is None and exits.handled is not None:
            uses = uses | {exits.handled}
        return self.node(uses, defs, exits)

    def flow_Break(self, node: ast.Break, follow: int, exits: Exits) -> int:
        return self.node(set(), set(), None, exits.break_)

    def flow_Continue(self, node: ast.Continue, follow: int, exits: Exits) -> int:
        return self.node(set(), set(), None, exits.continue_)

    # -- branching
    def flow_If(self, node: ast.If, follow: int, exits: Exits) -> int:
        body = self.suite(node.body, follow, exits)
        orelse = self.suite(node.orelse, follow, exits)
        uses, defs = names(node.test)
        number = self.node(uses, defs, exits, body, orelse)
        self.note_sites(node.test, number)
        return number

    def flow_While(self, node: ast.While, follow: int, exits: Exits) -> int:
        head = self.node(set(), set(), None)
        body = self.suite(node.body, head, replace(exits, break_=follow, continue_=head))
        self.graph.add_edge(head, body, exceptional=False)
        return head

    def flow_Match(self, node: ast.Match, follow: int, exits: Exits) -> int:
        otherwise = follow
        for case in reversed(node.cases):
            body = self.suite(case.body, follow, exits)
            if case.guard is not None:
                uses, _ = names(case.guard)
                body = self.node(uses, set(), exits, body, otherwise)
                self.note_sites(case.guard, body)
            uses, defs = names(case.pattern)
            matched = self.node(set(), defs, exits, body)
            otherwise = self.node(uses, set(), exits, matched, otherwise)
        return self.node(names(node.subject)[0], set(), exits, otherwise)

    # -- blocks with an exit
    def flow_With(self, node: ast.With, follow: int, exits: Exits) -> int:
        item = node.items[0]
        manager, _ = names(item.context_expr)

        def leaving(target: int | None) -> int | None:
            return None if target is None else self.node(manager, set(), exits, target)

        done = leaving(follow)
        inner = Exits(
            leave=leaving(exits.leave), break_=leaving(exits.break_), continue_=leaving(exits.continue_),
            handlers=(done,), handled=exits.handled,
        )
        body = self.suite(node.body, done, inner)
        defs = names(item.optional_vars)[1] if item.optional_vars is not None else set()
        return self.node(set(), set(), exits, self.node(set(manager), defs, inner, body))

    def flow_Try(self, node: ast.Try, follow: int, exits: Exits) -> int:
        outer = exits
        if node.finalbody:
            def finally_then(target: int | None) -> int | None:
                return None if target is None else self.suite(node.finalbody, target, exits)

            follow = finally_then(follow)
            raising = self.node(set(), set(), exits, exits.leave if not exits.handlers else None)
            outer = Exits(
                leave=finally_then(exits.leave), break_=finally_then(exits.break_),
                continue_=finally_then(exits.continue_), handlers=(finally_then(raising),), handled=exits.handled,
            )
        handlers = tuple(self.handler(handler, follow, outer) for handler in node.handlers)
        orelse = self.suite(node.orelse, follow, outer)
        return self.suite(node.body, orelse, replace(outer, handlers=(*handlers, *outer.handlers)))

    flow_TryStar = flow_Try

    def handler(self, node: ast.ExceptHandler, follow: int, exits: Exits) -> int:
        body = self.suite(node.body, follow, replace(exits, handled=node.name))
        defs = {node.name} if node.name else set()
        bound = self.node(set(), defs, exits, body)
        uses = names(node.type)[0] if node.type is not None else set()
        number = self.node(uses, set(), exits, bound)
        if node.type is not None:
            self.note_sites(node.type, number)
        return number

    # -- definitions
    def flow_FunctionDef(self, node: ast.FunctionDef, follow: int, exits: Exits) -> int:
        uses: set[str] = set()
        parts = [*node.decorator_list, *node.args.defaults, *node.args.kw_defaults, node.returns]
        parts += [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)]
        for part in parts:
            if part is not None:
                uses |= names(part)[0]
        return self.node(uses, {node.name}, exits, follow)

    flow_AsyncFunctionDef = flow_FunctionDef

    def flow_ClassDef(self, node: ast.ClassDef, follow: int, exits: Exits) -> int:
        uses = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return self.node(uses, {node.name}, exits, follow)

    # -- solution
    def live_in(self, entry: int) -> list[set[str]]:
        """Live names at the entry of every node."""
        index: dict[str, int] = {}
        bits = [[sum(1 << index.setdefault(n, len(index)) for n in group) for group in table]
                for table in (self.uses, self.defs)]
        uses, defs = bits
        live = list(uses)
        order = list(networkx.dfs_postorder_nodes(self.graph, entry))
        reached = set(order)
        order += [n for n in self.graph if n not in reached]
        edges = {n: [(t, d["exceptional"]) for t, d in self.graph.adj[n].items()] for n in self.graph}
        changed = True
        while changed:
            changed = False
            for node in order:
                after = exceptional = 0
                for target, raised in edges[node]:
                    if raised:
                        exceptional |= live[target]
                    else:
                        after |= live[target]
                new = uses[node] | (after & ~defs[node]) | exceptional
                if new != live[node]:
                    live[node] = new
                    changed = True
        known = list(index)
        return [{known[i] for i in range(len(known)) if mask >> i & 1} for mask in live]

    def live_after(self, node: int, live: list[set[str]]) -> set[str]:
        """Names live once `node` has run or failed, without those that it binds itself."""
        result: set[str] = set()
        for target, data in self.graph.adj[node].items():
            result |= live[target] if data["exceptional"] else live[target] - self.defs[node]
        return result


def walk_frame(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs in the frame itself."""
    stack = [node]
    while stack:
        inner = stack.pop()
        yield inner
        if not isinstance(inner, (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            stack.extend(ast.iter_child_nodes(inner))


def names(node: ast.AST) -> tuple[set[str], set[str]]:
    """What evaluating generated code reads, and what it surely binds. A deletion needs its variable bound."""
    uses: set[str] = set()
    defs: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Store):
            uses.add(inner.id)
        elif isinstance(inner, (ast.Lambda, *COMPREHENSIONS)):
            return _conservative(node)
        elif isinstance(inner, ast.Call) and _hook_name(inner) == "variables":
            uses.add(EVERY)
        else:
            defs.update(bindings(inner))
    return uses, defs


def _conservative(node: ast.AST) -> tuple[set[str], set[str]]:
    """Names of a statement with a scope of its own inside: every name is read, and only plain targets are bound."""
    uses = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store)}
    if any(isinstance(n, ast.Call) and _hook_name(n) == "variables" for n in ast.walk(node)):
        uses.add(EVERY)
    defs = set()
    if isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in node.targets):
        defs = {t.id for t in node.targets}
    return uses, defs


def _hook_name(node: ast.Call) -> str | None:
    function = node.func
    if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
        return None
    return function.attr if function.value.id == build.HOOKS else None


def analyse(node: ast.FunctionDef, code: types.CodeType) -> tuple[dict[int, tuple[str, ...]], dict[int, int]]:
    """The live names of each site of one rewritten function, and the site of each `yield` by line."""
    flow = Flow()
    end = flow.node(set(), set(), None)
    entry = flow.suite(node.body, end, Exits(leave=end))
    live = flow.live_in(entry)
    local = {*code.co_varnames, *code.co_cellvars}
    always = {*code.co_cellvars, *code.co_freevars} - UNSEEN
    found: dict[int, set[str]] = {}
    for site, number, after in flow.sites:
        here = flow.live_after(number, live) if after else live[number]
        found.setdefault(site, set()).update(local if EVERY in here else here & local, always)
    return {
        site: tuple(sorted(n for n in here if not n.startswith(build.BOOKKEEPING))) for site, here in found.items()
    }, flow.yields

"""The tests of the rewriting can fail: seeded faults in its rules are seen by the comparison and by the poison."""
from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest

from elastic_compile.rewrite import NEUTRAL, rewrite
from elastic_compile.rewrite.expressions import Expressions
from elastic_compile.rewrite.liveness import Flow
from elastic_compile.rewrite.statements import Statements
from elastic_compile.rewrite.template import _templates
from tests.rewrite.corpus import CASES
from tests.rewrite.oracle import PoisonError, PoisonHooks
from tests.rewrite.test_behaviour import outcome


def disagreements(bind: Callable[[Any], Any]) -> int:
    """How many functions of the corpus behave in another way once rewritten under a fault."""
    count = 0
    for fn, args, kwargs in CASES[::3]:
        if fn.__closure__:
            continue
        _templates.clear()
        try:
            bound = bind(fn)
        except SyntaxError:
            count += 1
            continue
        try:
            count += outcome(bound, args, kwargs) != outcome(fn, args, kwargs)
        except PoisonError:
            count += 1
    _templates.clear()
    return count


def neutral(fn: Any) -> Any:
    return rewrite(fn).bind(fn, NEUTRAL)


def poison(fn: Any) -> Any:
    return PoisonHooks().bind(fn)


def test_without_faults_there_is_no_disagreement() -> None:
    assert disagreements(neutral) == 0
    assert disagreements(poison) == 0


def no_pins(self: Expressions, value: ast.expr, *rest: Any) -> ast.expr:
    return value


def always_false(self: Expressions, *rest: Any) -> bool:
    return False


def swapped_branches(self: Statements, node: ast.If) -> None:
    flipped = ast.copy_location(ast.If(node.test, node.orelse or [ast.Pass()], node.body), node)
    original_if(self, flipped)


original_if = Statements.do_If


def no_loop_else(self: Statements, node: Any, header: ast.expr) -> None:
    self.loop_itself(node, header, [])


def reversed_operands(self: Expressions, nodes: Any) -> Any:
    return list(reversed([None if n is None else self.value(n) for n in reversed(list(nodes))]))


@pytest.mark.parametrize(("owner", "rule", "fault"), [
    (Expressions, "pin", no_pins),
    (Statements, "do_If", swapped_branches),
    (Statements, "loop", no_loop_else),
    (Expressions, "values", reversed_operands),
], ids=lambda v: getattr(v, "__name__", v))
def test_a_wrong_rule_is_seen(owner: type, rule: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, rule, fault)
    assert disagreements(neutral) > 0


def no_exceptional_edges(self: Flow, uses: set[str], defs: set[str], exits: Any, *follow: Any) -> int:
    return original_node(self, uses, defs, None, *follow)


original_node = Flow.node


def no_back_edge(self: Flow, node: ast.While, follow: int, exits: Any) -> int:
    from dataclasses import replace

    return self.suite(node.body, follow, replace(exits, break_=follow, continue_=follow))


@pytest.mark.parametrize(("rule", "fault"), [("node", no_exceptional_edges), ("flow_While", no_back_edge)],
                         ids=["no exceptional edges", "no back edges"])
def test_a_wrong_liveness_is_seen(rule: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flow, rule, fault)
    assert disagreements(neutral) == 0
    assert disagreements(poison) > 0


def test_a_name_missing_from_the_live_sets_is_seen() -> None:
    def f(g: Any, a: Any) -> Any:
        g(1)
        return a + 1

    assert PoisonHooks().bind(f)(print, 1) == 2
    with pytest.raises(PoisonError):
        PoisonHooks(drop=frozenset({"a"})).bind(f)(print, 1)

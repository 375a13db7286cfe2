"""What is live at calls and points: all that is still needed, and, where it is certain, nothing else."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elastic_compile.rewrite import Site, rewrite


def sites(fn: Any, snippet: str, kind: str = "call") -> list[Site]:
    found = [s for s in rewrite(fn).sites if s.snippet == snippet and s.kind == kind]
    assert found, [(s.kind, s.snippet) for s in rewrite(fn).sites]
    return found


def live(fn: Any, snippet: str, kind: str = "call") -> set[str]:
    """The user's names that are live at the only such site."""
    (site,) = sites(fn, snippet, kind)
    return {name for name in site.live if not name.startswith("__ec")}


def test_only_what_is_needed_later_is_live() -> None:
    def f(g: Callable, a: Any, b: Any) -> Any:
        x = g(a)
        y = g(b)
        g(y)
        return x

    assert live(f, "g(a)") == {"g", "b"}
    assert live(f, "g(b)") == {"g", "x"}
    assert live(f, "g(y)") == {"x"}


def test_a_name_bound_by_the_call_is_dead_during_it() -> None:
    def f(g: Callable, x: Any) -> Any:
        x = g(x)
        return x

    assert live(f, "g(x)") == set()


def test_a_name_bound_by_the_call_is_live_where_a_handler_reads_it() -> None:
    def f(g: Callable, x: Any) -> Any:
        try:
            x = g(1)
        except ValueError:
            return x
        return None

    assert live(f, "g(1)") == {"x"}


def test_operands_waiting_for_a_call_are_live_temporaries() -> None:
    def f(g: Callable, a: Any) -> Any:
        return a.x + g(1)

    (site,) = sites(f, "g(1)")
    assert len(site.live) == 1
    assert site.live[0].startswith("__ec_t")


def test_what_the_next_iteration_reads_is_live() -> None:
    def f(g: Callable, n: int) -> Any:
        total = last = 0
        while n:
            g(n)
            total = total + last
            last = n
            n = n - 1
            unused = n  # noqa: F841
        return total

    assert live(f, "g(n)") == {"g", "n", "total", "last"}
    assert live(f, "n", "head") == {"g", "n", "total", "last"}


def test_break_and_else_lead_where_they_lead() -> None:
    def f(g: Callable, items: Any, a: Any, b: Any) -> Any:
        for x in items:
            if g(x):
                break
        else:
            return a
        return b

    assert live(f, "g(x)") == {"g", "a", "b"}
    (head,) = sites(f, "items", "head")
    assert {"g", "a", "b"} < set(head.live)
    assert "x" not in head.live


def test_a_loop_variable_used_after_the_loop_is_live_at_its_head() -> None:
    def f(items: Any) -> Any:
        for x in items:
            pass
        return x

    assert "x" in sites(f, "items", "head")[0].live


def test_branches_have_their_own_needs() -> None:
    def f(g: Callable, c: Any, a: Any, b: Any) -> Any:
        if c:
            g(1)
            return a
        g(2)
        return b

    assert live(f, "g(1)") == {"a"}
    assert live(f, "g(2)") == {"b"}


def test_finally_is_on_every_way_out() -> None:
    def f(g: Callable, a: Any, b: Any, c: Any) -> Any:
        try:
            g(1)
            return a
        finally:
            g(b)
            c.x = 1

    assert live(f, "g(1)") == {"g", "a", "b", "c"}
    assert live(f, "g(b)") == {"c"}


def test_a_context_manager_is_live_in_its_block() -> None:
    def f(g: Callable, m: Any, after: Any) -> Any:
        with m(1) as x:
            g(x)
        return after

    (site,) = sites(f, "g(x)")
    assert [n[:6] for n in site.live if n.startswith("__ec")] == ["__ec_w"]
    assert live(f, "g(x)") == {"after"}


def test_a_handler_that_raises_again_needs_its_exception() -> None:
    def named(g: Callable) -> Any:
        try:
            g(1)
        except ValueError as error:  # noqa: F841
            g(2)
            raise

    def unnamed(g: Callable) -> Any:
        try:
            g(1)
        except ValueError:
            g(2)
            raise

    assert live(named, "g(2)") == {"error"}
    assert [n[:6] for n in sites(unnamed, "g(2)")[0].live] == ["__ec_e"]


def test_shared_variables_are_always_live() -> None:
    def f(g: Callable, a: Any) -> Any:
        count = 0

        def bump() -> None:
            nonlocal count
            count += 1
            g(3)

        g(1)
        return bump

    assert {"count", "g"} <= live(f, "g(1)")
    assert {"count", "g"} <= live(f, "g(3)")


def test_deleted_and_unbound_names_may_be_live_but_dead_ones_are_not() -> None:
    def f(g: Callable, a: Any) -> Any:
        del a
        g(1)
        a = 2
        return a

    assert live(f, "g(1)") == set()


def test_match_captures_are_live_in_their_case() -> None:
    def f(g: Callable, v: Any, w: Any) -> Any:
        match v:
            case [x, y] if x:
                g(1)
                return y
            case _:
                g(2)
        return w

    assert live(f, "g(1)") == {"y"}
    assert live(f, "g(2)") == {"w"}


def test_live_of_a_suspended_generator() -> None:
    def f(a: Any, b: Any) -> Any:
        x = yield a
        yield x
        yield from b

    template = rewrite(f)
    by_snippet = {s.snippet: s for s in template.yields.values()}
    assert by_snippet["yield a"].live == ("b",)
    assert by_snippet["yield x"].live == ("b",)
    assert [n[:6] for n in by_snippet["yield from b"].live] == ["__ec_i"]
    assert set(template.yields.values()) == {s for s in template.sites if s.kind == "yield"}


def test_bookkeeping_and_hooks_are_never_live() -> None:
    def f(g: Callable, items: Any) -> Any:
        return [[g(x) for y in range(x) if g(y)] for x in items if g(x) and all(g(z) for z in x)]

    for site in rewrite(f).sites:
        assert not any(n.startswith("__ec_n") or n in ("__ec", "__ec_s", "__ec_slice") for n in site.live)

"""Sites name the original program, rewritten functions keep its identity, and what cannot be rewritten says why."""
from __future__ import annotations

import ast
import functools
import inspect
import linecache
import traceback
import types
from pathlib import Path
from typing import Any

import pytest

from elastic_compile.rewrite import NEUTRAL, Hooks, NotRewritable, Site, rewrite
from tests.rewrite.corpus import CASES


class Recorder(Hooks):
    """Neutral hooks that remember which sites they were called with, and count every call as a decision."""

    def __init__(self) -> None:
        self.seen: list[Site] = []
        self.n = 0

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not isinstance(value, types.MethodType):
            return value

        def record(site: Site, *args: Any, **kwargs: Any) -> Any:
            self.n += 1
            self.seen.append(site)
            return value(site, *args, **kwargs)

        return record


def sample(x: Any, items: list[int]) -> Any:
    total = 0
    for item in items:
        total += helper(item) if item > 1 else 0  # naïve — not ASCII: é; then a call
    é = "ü" + helper("é"); y = total[helper(0)] if not x else -total  # noqa: E702
    return f"{total!r:>{x}}", [
        helper(é),
        y,
    ]


def helper(x: Any) -> Any:
    return x


def test_positions_are_those_of_the_file() -> None:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    for site in rewrite(sample).sites:
        assert site.file == __file__
        assert site.text == lines[site.line - 1]
        source = lines[site.line - 1 : site.end_line]
        source[-1] = source[-1][: site.end_column]
        source[0] = source[0][site.column :]
        assert site.snippet == "\n".join(source)


def test_each_construct_has_a_site_of_its_kind() -> None:
    found = {(s.kind, s.snippet) for s in rewrite(sample).sites}
    assert {
        ("call", "helper(item)"), ("truth", "item > 1"), ("compare", "item > 1"), ("iter", "items"), ("next", "items"),
        ("head", "items"), ("inplace", "total += helper(item) if item > 1 else 0"), ("binop", '"ü" + helper("é")'),
        ("call", 'helper("é")'), ("getitem", "total[helper(0)]"), ("truth", "x"), ("unop", "-total"),
        ("call", "helper(é)"),
    } <= found
    assert any(kind == "format" for kind, _ in found)
    assert any(kind == "point" for kind, _ in found)


def test_heads_say_which_loop() -> None:
    def f(n: int) -> list[int]:
        while n:
            n -= 1
        return [x for x in range(n) if x]

    assert [s.loop for s in rewrite(f).sites if s.kind == "head"] == ["while", "for"]


def test_points_follow_decisions_and_heads_precede_iterations() -> None:
    def f(a: Any) -> Any:
        if a:  # noqa: SIM108
            b = 1
        else:
            b = a + 2
        while b < 5:
            b += 1
        return b

    hooks = Recorder()
    assert rewrite(f).bind(f, hooks)(0) == 5
    kinds = [(s.kind, s.snippet) for s in hooks.seen if s.kind in ("point", "head", "truth")]
    assert kinds[:3] == [("truth", "a"), ("point", "a"), ("truth", "b < 5")]
    assert kinds.count(("head", "b < 5")) == 3
    assert kinds[-1] == ("point", "b < 5")


def test_paths_that_raised_apart_meet_where_the_handler_begins() -> None:
    def f(a: Any) -> Any:
        try:
            if a:
                raise ValueError(1)
            raise ValueError(2)
        except ValueError as error:
            return error.args

    hooks = Recorder()
    assert rewrite(f).bind(f, hooks)(0) == (2,)
    (entry,) = (s for s in hooks.seen if s.kind == "point" and s.snippet == "ValueError")
    assert entry.live == ("error",)


def test_no_point_without_a_decision() -> None:
    class Quiet(Hooks):
        def point(self, site: Site) -> None:
            raise AssertionError(site)

    assert rewrite(sample).bind(sample, Quiet())(5, [0, 1]) == ("    0", ["üé", 0])


def test_calls_have_a_statement_of_their_own() -> None:
    """No operand waits on the evaluation stack while a call runs, unless the site says so."""
    for fn, _, _ in CASES:
        template = rewrite(fn)
        tree = ast.parse(template.source)
        alone = {
            id(statement.value) for statement in ast.walk(tree)
            if isinstance(statement, (ast.Assign, ast.Expr)) and isinstance(statement.value, ast.Call)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("__ec.call", "__ec.iter", "__ec.next")):
                continue
            site = template.sites[node.args[0].slice.value]
            assert site.opaque or id(node) in alone, ast.unparse(node)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Yield, ast.YieldFrom)):
                assert any(isinstance(s, ast.Assign) and s.value is node for s in ast.walk(tree))


def test_places_with_a_hidden_state_are_opaque() -> None:
    def f(g: Any, x: Any) -> Any:
        try:
            g(1)
        except g(2):
            g(3)
        finally:
            g(4)
            for _ in g(5):
                pass
        match x:
            case [y] if g(6):
                g(7)
                return y
        g(8)

    opaque = {s.snippet: s.opaque for s in rewrite(f).sites if s.kind == "call"}
    assert opaque == {
        "g(1)": False, "g(2)": True, "g(3)": False, "g(4)": True, "g(5)": True, "g(6)": True, "g(7)": False,
        "g(8)": False,
    }
    assert not [s for s in rewrite(f).sites if s.kind in ("point", "head") and s.opaque]


# ----------------------------------------------------------------------------- identity
def decorate(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


class Owner:
    shared = 3

    @decorate
    def method(self, x: int, y: int = 4, *, z: int = 5) -> int:
        """Docs of the method."""
        def inner() -> str:
            return inner.__qualname__

        return inner(), (lambda: note_name())(), x + y + z + self.shared


def note_name() -> str:
    return inspect.currentframe().f_back.f_code.co_name


def test_a_bound_template_looks_like_the_original() -> None:
    original = Owner.method.__wrapped__
    original.mark = "kept"
    bound = rewrite(original).bind(original, NEUTRAL)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__globals__",
                 "__annotations__", "mark"):
        assert getattr(bound, name) == getattr(original, name), name
    assert inspect.signature(bound) == inspect.signature(original)
    assert bound.__code__.co_name == original.__code__.co_name
    assert bound(Owner(), 1)[0] == "Owner.method.<locals>.inner"
    assert bound(Owner(), 1)[2] == 13


def test_cells_are_shared_with_the_original() -> None:
    def make() -> Any:
        count = 0

        def bump() -> int:
            nonlocal count
            count += 1
            return count

        return bump

    original = make()
    bound = rewrite(original).bind(original, NEUTRAL)
    assert [original(), bound(), original(), bound()] == [1, 2, 3, 4]
    other = make()
    assert rewrite(other) is rewrite(original)
    assert rewrite(other).bind(other, NEUTRAL)() == 1


def test_codes_are_those_of_the_rewritten_frames() -> None:
    def f(n: int) -> Any:
        def inner() -> int:
            return n + 1

        class Native:
            def method(self) -> int:
                return len("x")

        return inner, (lambda: inner()), (x + n for x in range(2)), Native.method, NEUTRAL

    template = rewrite(f)
    inner, anonymous, generator, native, _ = template.bind(f, NEUTRAL)(1)
    assert template.code in template.codes
    assert {inner.__code__, anonymous.__code__, generator.gi_code} <= template.codes
    assert native.__code__ not in template.codes
    with pytest.raises(NotRewritable, match="already rewritten"):
        rewrite(inner)
    assert rewrite(native).bind(native, NEUTRAL)(None) == 1
    assert rewrite(native).sites[0].text.strip() == 'return len("x")'
    assert rewrite(native).sites[0].file == __file__


def test_equal_functions_of_two_classes_have_different_code() -> None:
    class A:
        def forward(self, x: Any) -> Any: return x + 1

    class B:
        def forward(self, x: Any) -> Any: return x + 1

    assert not rewrite(A.forward).codes & rewrite(B.forward).codes


def test_tracebacks_show_the_rewritten_line() -> None:
    def f(x: Any) -> Any:
        return helper(x) + x.missing

    bound = rewrite(f).bind(f, NEUTRAL)
    with pytest.raises(AttributeError) as caught:
        bound(1)
    frame = next(e for e in traceback.extract_tb(caught.value.__traceback__) if e.filename.startswith("<elastic"))
    assert "test_sites.py:test_tracebacks_show_the_rewritten_line.<locals>.f" in frame.filename
    assert "x.missing" in frame.line


def test_two_lambdas_on_a_line_are_told_apart() -> None:
    same = [lambda x: x + 1, lambda x: x + 1, lambda x: x + 2, lambda y: y + 1]
    assert [rewrite(f).bind(f, NEUTRAL)(1) for f in same] == [2, 2, 3, 2]
    columns = [rewrite(f).sites[0].column for f in same]
    assert columns == sorted(set(columns))


# ----------------------------------------------------------------------------- refusals
async def coroutine() -> None:
    pass


async def async_generator() -> Any:
    yield 1


def reads_locals() -> Any:
    return [locals() for _ in range(1)]


def evaluates(x: int) -> Any:
    return eval("x")


def reads_frame() -> Any:
    return inspect.currentframe()


def reserved() -> int:
    __ec_mine = 1
    return __ec_mine


def from_text(text: str, name: str) -> Any:
    made: dict[str, Any] = {}
    exec(text, made)
    return made[name]


@pytest.mark.parametrize(("fn", "reason"), [
    (coroutine, "asynchronous"),
    (async_generator, "asynchronous"),
    (reads_locals, r"locals\(\) of a comprehension"),
    (evaluates, r"eval\(\) reads its caller's variables"),
    (reads_frame, "reads its caller's frame"),
    (reserved, "reserved"),
    (from_text("def f(x): return x", "f"), "no source"),
    (len, "not a Python function"),
    (functools.partial(helper), "not a Python function"),
    (Owner().method, "not a Python function"),
], ids=lambda v: v if isinstance(v, str) else getattr(v, "__name__", "partial"))
def test_what_cannot_be_rewritten_says_why(fn: Any, reason: str) -> None:
    for _ in range(2):
        with pytest.raises(NotRewritable, match=reason) as caught:
            rewrite(fn)
        assert caught.value.reason in str(caught.value)


def test_names_that_shadow_builtins_are_no_builtins() -> None:
    def f(locals: Any, any: Any, sum: Any) -> Any:
        return locals(), any(x for x in [1, 0]), sum(x for x in [1, 2])

    bound = rewrite(f).bind(f, NEUTRAL)
    assert bound(lambda: 1, list, tuple) == f(lambda: 1, list, tuple) == (1, [1, 0], (1, 2))


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "edited.py"
    file.write_text("def f(x):\n    return x + 1\n")
    made: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), made)
    file.write_text("def f(x):\n    return x + 2  # longer\n")
    linecache.checkcache(str(file))
    with pytest.raises(NotRewritable, match="does not match"):
        rewrite(made["f"])


def test_a_comment_added_to_the_file_is_no_edit(tmp_path: Path) -> None:
    file = tmp_path / "same.py"
    file.write_text("def f(x):\n    return x + 1\n")
    made: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), made)
    file.write_text("def f(x):\n    return x + 1  # a comment\n")
    assert rewrite(made["f"]).bind(made["f"], NEUTRAL)(1) == 2

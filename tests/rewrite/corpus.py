"""Functions that use every construct of the language the rewriting covers, each with the arguments to try.

`CASES` lists them; they log through `traced`, so that order of evaluation is compared and not only results. Unidiomatic
on purpose: the linter's rules of style do not apply here.
"""
# ruff: noqa
from __future__ import annotations

import contextlib
import functools
import itertools
import linecache
from typing import Any

from tests.rewrite.traced import T, note

CASES: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []


def case(*args: Any, **kwargs: Any) -> Any:
    """Register a function with one set of arguments."""
    def register(function: Any) -> Any:
        CASES.append((getattr(function, "original", function), args, kwargs))
        return function

    return register


def t(name: str, value: Any = 1) -> T:
    return note(name, T(name, value))


def fails(label: str, kind: type[Exception] = ValueError) -> Any:
    note(label)
    raise kind(label)


# ----------------------------------------------------------------------------- order of evaluation
@case()
def operands():
    return t("a", 1) + t("b", 2) * t("c", 3) - t("d", 4)


@case()
def operand_before_call():
    a = t("a")
    return a.x + note("late", 3) + a[0] + note("later", 4)


@case()
def call_arguments():
    f = T("f", lambda *a, **k: (a, k))
    return f.method(t("a"), *note("star", [1, 2]), t("b"), k=t("c"), **note("kw", {"z": 1}), m=t("d"))


@case()
def lazy_star():
    source = T("s", [1, 2])
    return note.__call__(*("x", [*source, note("after", 3)]))


@case()
def star_before_call():
    def f(*args, **kwargs):
        return args, sorted(kwargs)

    return f(*T("s", [1, 2]), note("n", 3), *T("u", [4]), k=note("k", 1), **{"q": 2}, **note("m", {"w": 3}))


@case()
def displays():
    s = T("s", [1, 2])
    return (
        [s.a, note("n", 1), *s, note("m", 2)], (s.b, note("o", 3)), sorted({note("p", 4), 5, note("q", 6)}),
        {s.c: note("r", 7), **{"x": note("s", 8)}, note("u", "k"): s.d},
    )


@case()
def display_of_mappings():
    source = {"a": 1}

    def change():
        source["a"] = 2
        return 3

    return {**source, "b": change()}, source


@case()
def unhashable_key():
    try:
        return {[]: note("value", 1), **note("mapping", {}), "k": note("never", 2)}
    except TypeError as error:
        return str(error)


@case()
def global_is_read_before_call():
    global COUNTER
    COUNTER = 1

    def bump():
        global COUNTER
        COUNTER += 10
        return COUNTER

    return COUNTER + bump() + COUNTER


@case()
def cell_is_read_before_call():
    value = 1

    def bump():
        nonlocal value
        value += 10
        return value

    return value + bump() + value


@case()
def subscript_store():
    target = T("target", 0)
    target[t("key")] = t("value")
    target[t("a"):t("b"), t("c")] = note("slices", 5)
    target.attr = target.other = t("two")
    (target.x, target[0]), [y, *target.z] = note("nested", ((1, 2), (3, 4, 5)))
    del target[note("dk", 1)], target.gone
    return y


@case()
def augmented():
    target = T("target", [1])
    x = T("x", 1)
    x += note("right", 2)
    x -= x
    target.attr += t("v", [2])
    target[t("key")] += t("w", [3])
    target[t("l"):t("u")] += note("s", [3])
    y = [1]
    z = y
    y += [2]
    y[0] += note("i", 5)
    y[-1:] += [note("j", 6)]
    return x, y, z


@case()
def augmented_operators():
    x = T("x", 7)
    x *= 2
    x //= 3
    x %= 5
    x **= 2
    x <<= 1
    x |= 1
    x &= 7
    x ^= 2
    x @= 3
    return x, ~x, -x, +x, not x, x ** 2, x << 1, x & 1, x | 8, x ^ 1, x @ 2, x // 2, x % 3


@case()
def unpacking():
    a, (b, *c), d = note("v", (1, (2, 3, 4), 5))
    *e, f = T("it", [1, 2])
    [g, h] = "gh"
    i = j = note("chain", [])
    (k) = l = 3
    return a, b, c, d, e, f, g, h, i is j, k, l


@case()
def unpacking_fails():
    a = b = None
    try:
        a, b = note("three", (1, 2, 3))
    except ValueError as error:
        return a, b, str(error)


@case()
def partly_unpacked():
    target = T("t", 0)
    try:
        target.x, (target.y, target.z) = (1, 2)
    except TypeError:
        return "kept"


# ----------------------------------------------------------------------------- truth
@case(T("a", 0), T("b", 2), T("c", 3))
@case(T("a", 1), T("b", 0), T("c", 3))
@case(T("a", 1), T("b", 2), T("c", 0))
@case(T("a", 0), T("b", 0), T("c", 0))
def boolean_values(a, b, c):
    return (
        a and b, a or b, a and b or c, a or b and c, (a or b) and c, a and (b or c), not a,
        a and b and c, a or b or c, (a and b) or (b and c), (not a) or (not b),
    )


@case(T("a", 0), T("b", 2))
@case(T("a", 1), T("b", 0))
@case(T("a", 1), T("b", 2))
def boolean_calls(a, b):
    x = note("1", a) and note("2", b) or note("3", 4)
    if note("4", a) and not note("5", b) or note("6", a):
        x = (x, note("7", a) if note("8", b) else note("9", 9))
    return x, [note("10", a) or note("11", b), note("12", 1)], note("13", a and note("14", b))


@case(T("a", 0), T("b", 2))
@case(T("a", 1), T("b", 2))
def conditional_expressions(a, b):
    x = a if b else note("x")
    y = (note("t", 1) if a else note("f", 2)) + (3 if note("u", a) else b)
    x = x if a.y else x + note("old", 1)
    return x, y, note("in", 1 if a else 2), (lambda v: v if v else a)(b), "p" if not a else "q" if b else "r"


@case(T("a", 1), T("b", 5), T("c", 9))
@case(T("a", 6), T("b", 5), T("c", 9))
@case(T("a", 1), T("b", 5), T("c", 2))
def chained(a, b, c):
    r = [a < b < c, a < b.x < c.y, 0 < a <= b != c, a in (1, 2) in (True, 3)]
    if a < note("mid", b) < note("end", c) < 100:
        r.append("yes")
    r.append(not a < b)
    r.append(note("l", a) < note("m", b) > note("r", c))
    while a < b < c:
        a = a + 2
    return r, a, 1 if a < b < c else 2, (a < b < c) + 1


@case(3)
@case(None)
def identity(x):
    return x is None, x is not None, "none" if x is None else "some", x is x is x, not x is None


@case([1, T("t", 2)], 2)
def membership(items, x):
    return x in items, x not in items, 1 in T("c", [1]), (x in items) is True, not x in items


@case(T("x", 1))
@case(T("x", 0))
def asserts(x):
    try:
        assert x
        assert not x, note("message", ("a", 1))
    except AssertionError as error:
        return error.args
    return None


@case(0)
@case(1)
@case(2)
@case(3)
def if_chain(x):
    if x == note("one", 1):
        r = "one"
    elif note("two", x) == 2:
        r = "two"
    elif not note("zero", x):
        r = "zero"
        if x is None:
            r = "none"
        else:
            r += "!"
    else:
        pass
        r = "many"
    return r


@case(0)
def constants_as_tests(x):
    r = []
    if 1:
        r.append("a")
    if 0:
        r.append("b")
    elif "text":
        r.append("c")
    if ():
        r.append("d")
    if not 0:
        r.append("e")
    while 0:
        r.append("f")
    else:
        r.append("g")
    return r, 1 if None else 2, None or 3, 0 and x


def _truth_tables() -> None:
    """Each short expression with every combination of truth values."""
    expressions = (
        "a and b or c", "a or b and c", "(a or b) and c", "a and (b or c)", "not a", "(a and b) or (b and c)",
        "(not a) or (not b)", "a and b or c and a or b", "(a and b and c) or (c or b) and a",
        "not (not a or b) and c", "1 if not (a and b) else 2", "1 if (a and b or c) and not (b or c) else 2",
        "not (a and b) or c", "not (a or b) and c", "not a < b < c", "a < b < c and c", "not a < b", "a < b < c or c", "(a < b < c or c) and b", "(a if b else c) and b",
        "(x := a and b) or c", "(1 if not (a < b < c and b) else 2)", "2 if (a if b else c) else 3",
        "(a, b if (a if b and c else c) or a else c)", "note('x', a and b) or note('y', b or c)",
    )
    text = "".join(f"def table_{i}(a, b, c):\n    return {e}\n" for i, e in enumerate(expressions))
    file = "<truth tables>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    made: dict[str, Any] = {"note": note}
    exec(compile(text, file, "exec"), made)
    for i in range(len(expressions)):
        for values in itertools.product((0, 1, 2), repeat=3):
            args = tuple(T(name, value) for name, value in zip("abc", values, strict=True))
            CASES.append((made[f"table_{i}"], args, {}))


_truth_tables()


# ----------------------------------------------------------------------------- loops
@case([1, 2, 3])
@case([])
@case([5])
def for_else(items):
    for x in T("items", items):
        if note("test", x) == 5:
            break
        if x == 2:
            continue
        note("body")
    else:
        note("else")
        x = -1
    return x


@case([])
def loop_variable_unbound(items):
    for x in items:
        pass
    try:
        return x
    except NameError as error:
        return type(error).__name__


@case([[1, 2], [3, 4, 5], []])
def nested_loops(rows):
    r = []
    for i, row in enumerate(rows):
        for value in row:
            if value == 2:
                continue
            if value == 4:
                break
            r.append((i, value))
        else:
            r.append("full")
            continue
        r.append("cut")
        break
    else:
        r.append("never")
    return r, i, value


@case(0)
@case(3)
@case(7)
def while_else(n):
    while note("test", n) > 0:
        n -= 1
        if n == 4:
            break
        if n % 2:
            continue
        note("even", n)
    else:
        return "done", n
    return "broke", n


@case(10)
def while_true(n):
    r = []
    while True:
        n -= 3
        if n < 0:
            break
        while n > 4:
            n -= 1
            if n == 5:
                break
        r.append(n)
    return r


@case()
def while_with_bool_op():
    n, limit = 0, T("limit", 3)
    while n < limit and not note("stop", n == 2):
        n += 1
    return n


@case()
def loop_targets():
    d = {}
    target = T("t", 0)
    for d["k"] in [1, 2]:
        pass
    for target.x, (a, *b) in [(1, (2, 3, 4))]:
        pass
    for target[note("i", 0)] in "ab":
        note("body")
    return d, a, b


@case()
def list_grows_while_looping():
    items = [1, 2]
    for x in items:
        if x < 5:
            items.append(x + 2)
    return items


@case()
def break_in_else():
    r = []
    for i in range(3):
        for j in range(2):
            if j > 5:
                break
        else:
            if i == 1:
                break
            continue
        r.append(i)
    return r, i


@case()
def return_in_loop():
    for x in T("x", [1, 2, 3]):
        while True:
            if x == 2:
                return x
            break
    return None


@case()
def custom_iterator():
    class Countdown:
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            note("iter")
            return self

        def __next__(self):
            note("next")
            if not self.n:
                raise StopIteration("end")
            self.n -= 1
            return self.n

    return [x for x in Countdown(3)], list(Countdown(2))


@case()
def iteration_by_index():
    class Old:
        def __getitem__(self, i):
            note(i)
            if i > 2:
                raise IndexError
            return i

    total = 0
    for x in Old():
        total += x
    return total


@case(5)
def not_iterable(x):
    try:
        for _ in x:
            pass
    except TypeError as error:
        return str(error)


# ----------------------------------------------------------------------------- comprehensions and generators
@case([1, 2, 3], 10)
def comprehensions(items, x):
    squares = [x * x for x in items]
    pairs = [(x, y) for x in T("x", items) if x != 2 for y in range(x) if note("f", y) < 2]
    return (
        squares, pairs, x, {note("k", v): note("v", v + 1) for v in items}, sorted({v % 2 for v in items}),
        [[note("in", a * b) for a in range(2)] for b in items], [x for x in [x, note("s", x)]],
        [a if a % 2 else note("even", a) for a in items], [(lambda q: q + 1)(a) for a in items],
        [v for row in [[1, 2], [3]] for v in row], [i for i, (j, *k) in enumerate([(1, 2), (3,)])],
    )


@case([1, 2, 3])
def comprehension_scopes(items):
    y = "outer"
    a = [y for y in items]
    b = [[y for y in range(y)] for y in items]
    c = [z for z in items if (w := z) > 1]
    d = [f() for f in [lambda: y for _ in items]]
    e = [lambda: v for v in items]
    f = [lambda v=v: v for v in items]
    g = [(lambda: [v + u for u in items]) for v in items]
    return a, b, c, d, w, y, [k() for k in e], [k() for k in f], [k() for k in g]


@case()
def closures_of_repeated_comprehensions():
    kept = []
    for base in range(3):
        kept += [lambda: (base, v) for v in range(2)]
    return [k() for k in kept]


@case([0, 3, 5])
@case([0, 0])
@case([])
def any_and_all(items):
    return (
        any(note("a", x) > 2 for x in items), all(note("b", x) for x in T("i", items)),
        any(x for y in T("rows", [items, items]) for x in y if note("f", x)),
        all(T("t", x) for x in items), any([note("c", x) for x in items]),
        not any(x > 4 for x in items) and all(x >= 0 for x in items),
    )


@case([3, 1, 2])
def consumed_generators(items):
    key = note("key", -1)
    return (
        sum(note("s", x) for x in items), sum((x for x in items), 10), list(note("l", x) for x in items),
        tuple(x for x in items if x > 1), sorted((x for x in items), key=lambda v: v * key),
        max((note("m", x) for x in items), default=note("d", 0)), min(x for x in items),
        dict((x, note("v", x)) for x in items), ", ".join(str(x) for x in items), frozenset(x for x in items),
        note("star", [*(x + 1 for x in items)]), (lambda *a: a)(*(x for x in items)), sorted(set(x % 2 for x in items)),
    )


@case([1, 2, 3])
def lazy_generators(items):
    g = (note("g", x) for x in T("i", items) if x != 2)
    note("made")
    first = next(g)
    h = ((x, y) for x in items for y in g)
    rest = [*h]
    late = (x + offset for x in items)
    offset = 10
    return first, rest, [v for v in late], type(g).__name__, g.__name__, list(map(str, (x for x in items)))


@case()
def generator_fails():
    g = (fails("boom") if x == 2 else x for x in [1, 2, 3])
    r = [next(g)]
    try:
        next(g)
    except ValueError as error:
        r.append(str(error))
    return r, list(g)


@case()
def generator_walrus():
    total = 0
    running = [total := total + x for x in [1, 2, 3]]
    lazy = ((last := x) for x in [4, 5])
    seen = list(lazy)
    if any((found := x) > 1 for x in [1, 2, 3]):
        seen.append(found)
    return running, total, seen, last, [(v, w) for v in [1, 2] if (w := v * 2) > 2]


@case()
def generators():
    def count(n, step=1):
        note("start")
        i = 0
        while i < n:
            got = yield i
            note(f"got {got}")
            i += got or step
        return "result"

    def delegate():
        value = yield from count(3)
        note(value)
        inner = yield from [10, 20]
        note(inner)
        yield (yield value)

    g = count(5)
    r = [next(g), g.send(2), g.send(None)]
    g.close()
    d = delegate()
    r += [next(d) for _ in range(6)]
    r.append(d.send("sent"))
    try:
        d.send(None)
    except StopIteration as stop:
        r.append(("stop", stop.value))
    return r


@case()
def generator_exceptions():
    def worker():
        try:
            while True:
                try:
                    note(f"received {(yield note('ready', 1))}")
                except KeyError as error:
                    note(f"caught {error}")
        finally:
            note("cleanup")

    g = worker()
    next(g)
    g.send("x")
    g.throw(KeyError("k"))
    g.close()
    h = worker()
    next(h)
    try:
        h.throw(ValueError("out"))
    except ValueError as error:
        return str(error)


@case()
def yields_in_expressions():
    def g():
        x = [note("a", 1), (yield 1), note("b", (yield 2)), f"{(yield 3)!r}"]
        y = (yield 4) + note("c", 5) * (yield)
        note((yield x, y))
        if (yield "if") and (yield "and"):
            return (yield "last")

    it = g()
    return [next(it), *(it.send(v) for v in (10, 20, 30, 40, 50, 60, 70, 80))]


@case()
def never_yields():
    def g():
        return 5
        yield

    return list(g()), type(g()).__name__


# ----------------------------------------------------------------------------- functions
@case(1)
@case(1, 2, 3, k=4, z=5)
def parameters(a, b=2, /, c=3, *args, k=4, **kwargs):
    a = a + note("b", b)
    return a, b, c, args, k, kwargs


@case()
def inner_functions():
    base = note("base", 10)

    def add(x, /, y=note("default", base), *rest, z: int = note("kw", 3), **more) -> note("ann", "returns"):
        """Docs."""
        return x + y + z + base + sum(rest) + len(more)

    note("defined")
    base = 100
    return add(1), add(1, 2, 3, z=4, q=5), add.__name__, add.__doc__, add.__annotations__, add.__defaults__


@case()
def decorated_inner():
    def outer(label):
        note(f"outer {label}")

        def wrap(fn):
            note(f"wrap {label}")

            @functools.wraps(fn)
            def inner(*args, **kwargs):
                note(f"inner {label}")
                return fn(*args, **kwargs)

            return inner

        return wrap

    @outer(note("first", 1))
    @outer(note("second", 2))
    def f(x=note("default", 3)):
        return note("f", x)

    return f(), f.__name__, f.__wrapped__.__name__


@case()
def lambdas():
    fs = [lambda: 1, lambda x: x + 1, lambda x, *a, k=note("k", 2), **kw: (x, a, k, kw), lambda x=note("x", 3): x.real]
    fact = lambda n: 1 if n < 2 else n * fact(n - 1)
    return fs[0](), fs[1](2), fs[2](1, 2, k=3, z=4), fs[3](), fact(5), fs[1].__name__, (lambda: (yield))().__class__.__name__


@case()
def recursion():
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    return fib(10)


@case()
def counters():
    def make():
        count = 0

        def bump(by=1):
            nonlocal count
            count += by
            return count

        return bump, lambda: count

    bump, read = make()
    bump()
    bump(5)
    return read(), make()[1]()


@case()
def deleted_names():
    x = note("x", 1)
    del x
    try:
        x
    except UnboundLocalError as error:
        first = type(error).__name__
    y = [1, 2, 3]
    z, w = 1, 2
    del y[note("i", 0)], y[0:1], (z, w)
    return first, y


@case()
def annotations():
    x: int = note("value", 1)
    y: note("never", int)
    target = T("t", 0)
    target.a: note("not evaluated", int) = note("v", 2)
    target.b: int
    target[note("key", 0)]: int = 3
    (z): int = 4
    try:
        return x, z, y
    except UnboundLocalError:
        return x, z


@case()
def imports():
    import os.path
    import math as m
    from collections import OrderedDict as OD
    from collections import deque
    return os.path.basename("a/b"), m.floor(1.5), OD.__name__, deque([1])[0]


@case()
def walrus():
    if (n := note("n", 5)) > 3 and (m := n + 1):
        n = (n, (n := 7) + n, [n := n + 1, n])
    return n, m, (p := (q := 2) + q), p + (p := 3) * p, note("arg", (r := 1)) and r


@case()
def nested_classes():
    base = note("base", dict)

    class Inner(base, metaclass=note("meta", type)):
        attr = note("attr", 1)
        items = [attr for _ in range(2) if attr] if note("cond", False) else []

        def __init__(self, x):
            super().__init__()
            self.x = note("init", x)

        def get(self):
            return self.x + self.__hidden() + len(__class__.__name__)

        def __hidden(self):
            return 5

    return Inner(3).get(), Inner.__qualname__.rpartition(".")[2], Inner.attr


# ----------------------------------------------------------------------------- exceptions and contexts
@case()
def try_everything():
    r = []
    for kind in (None, KeyError, ValueError, TypeError):
        try:
            try:
                if kind:
                    raise kind("x")
                r.append("body")
            except KeyError as error:
                r.append(("key", str(error)))
            except (ValueError, note("types", OSError)) as error:
                r.append(("value", error.args))
                raise RuntimeError("again") from error
            else:
                r.append("else")
            finally:
                r.append(note("finally", "finally"))
        except RuntimeError as error:
            r.append((str(error), type(error.__cause__).__name__))
        except Exception as error:
            r.append(type(error).__name__)
    return r


@case()
def bare_raise():
    try:
        try:
            fails("inner")
        except:
            note("handling")
            raise
    except ValueError as error:
        return str(error), error.__context__


@case()
def raise_in_handler():
    try:
        try:
            fails("first")
        except ValueError:
            fails("second", KeyError)
    except KeyError as error:
        return repr(error.__context__), error.__suppress_context__


@case()
def raise_forms():
    r = []
    for i in range(4):
        try:
            if i == 0:
                raise note("class", ValueError)
            if i == 1:
                raise note("make", ValueError)(note("arg", 1)) from note("cause", None)
            if i == 2:
                raise (KeyError if note("c", i) else ValueError)("z")
            raise 5
        except Exception as error:
            r.append((type(error).__name__, error.args[:1], error.__suppress_context__))
    return r


@case()
def finally_and_jumps():
    r = []

    def leave(how):
        for i in range(3):
            try:
                note(f"{how} {i}")
                if how == "return":
                    return note("value", i)
                if how == "break" and i == 1:
                    break
                if how == "continue":
                    continue
                if how == "raise":
                    fails("raised")
            except KeyError:
                note("never")
            finally:
                note("finally")
                if how == "override":
                    return "overridden"
        else:
            return "exhausted"
        return "fell out"

    for how in ("return", "break", "continue", "none", "override"):
        r.append(leave(how))
    try:
        leave("raise")
    except ValueError as error:
        r.append(str(error))
    return r


@case()
def finally_decides():
    r = []
    for x in (0, 1):
        try:
            if x:
                fails("f")
        except ValueError:
            r.append("caught")
        finally:
            for y in range(2):
                r.append("even" if note("y", y) % 2 == 0 else [z for z in range(y) if note("z", z) == 0])
    return r


@case()
def exception_name_is_unbound_after():
    error = "before"
    try:
        fails("x")
    except ValueError as error:
        kept = error
    try:
        error
    except UnboundLocalError:
        return str(kept)


@case()
def exception_groups():
    try:
        raise ExceptionGroup("g", [ValueError(1), KeyError(2)])
    except* ValueError as group:
        first = note("values", group.exceptions)
    except* KeyError:
        second = note("keys", 2)
    return repr(first), second


@case()
def contexts():
    r = []
    with T("a", 1) as a, T(note("b", "b"), 2), T("c", "swallow"):
        r.append(a.name)
        fails("inside")
    with T("outer", 1):
        for x in range(3):
            with (T(f"w{x}", 1) if x else T("zero", 1)) as q:
                if x == 0:
                    continue
                if x == 1:
                    break
    return r, q.name


@case()
def context_targets():
    d = {}

    @contextlib.contextmanager
    def pair():
        note("in")
        try:
            yield 1, (2, 3)
        finally:
            note("out")

    target = T("t", 0)
    with pair() as (a, (b, c)), pair() as d["k"], pair() as (target.x, target[note("i", 0)]):
        note("body")
    try:
        with pair() as (too, many, values):
            note("never")
    except ValueError as error:
        return a, b, c, d, str(error)


@case()
def return_in_with():
    with T("w", 1):
        for x in [1, 2]:
            with T("v", 1):
                return note("result", x)


@case()
def swallowed():
    x = 1
    with T("s", "swallow"):
        x = 2
        fails("gone")
        x = 3
    return x


# ----------------------------------------------------------------------------- strings, slices, match
@case(T("x", 3.14159), "w")
def f_strings(x, w):
    n = 8
    return (
        f"{x}", f"{x!r}", f"{x!s:>{n}}", f"a{x:{note('fill', '*')}>{n + 2}}b{w!a}c", f"{w=}", f"{'nested ' + f'{w}'}", f"",
        f"{{literal}}", "plain" f"{note('call', w)}", f"{n:05d}{n:x}" "tail", f"{[y for y in w]}", f"{n if n else w}",
    )


@case()
def slices():
    x = list(range(10))
    t0 = T("t", 0)
    t0[1:2, ..., None, ::note("step", -1)]
    t0[(note("tuple", 1),)]
    t0[:]
    return x[1:], x[:note("end", 3)], x[::2], x[-1], x[note("a", 1):note("b", 5):note("c", 2)], t0[*[1, 2], 3].name


@case(0)
@case((1, 2))
@case([1, 2, 3])
@case({"k": 5, "z": 1})
@case("text")
@case(complex(1, 2))
@case(None)
@case(7)
@case(True)
def matches(value):
    match note("subject", value):
        case 0 | None:
            r = "zero"
        case (a, b) if note("guard", a) < b and not note("g2", 0):
            r = ("pair", a, b)
        case [first, *rest] if rest:
            r = (first, rest)
        case {"k": k, **others}:
            r = (k, others)
        case str() as s:
            r = s
        case complex(real=re, imag=2.0):
            r = re
        case bool(x):
            r = ("bool", x)
        case int(x) if note("big", x) > 5:
            r = x + note("more", 1)
        case _:
            r = "other"
    return r


@case(3)
@case(9)
def match_in_loop(n):
    r = []
    for i in range(n):
        match i % 4, n:
            case 0, _:
                continue
            case 1, 9:
                break
            case (x, y):
                r.append(note("xy", (x, y)))
    return r


# ----------------------------------------------------------------------------- methods
class Base:
    scale = 2

    def forward(self, x, *, k=1):
        return note("base", x) * self.scale + k

    @property
    def double(self):
        return note("property", self.scale * 2)


class Derived(Base):
    __private = 3

    def forward(self, x, *, k=1):
        y = super().forward(note("arg", x), k=k) + self.__private
        self.__count = getattr(self, "_Derived__count", 0) + 1
        self.__bump(__step=2) if k else None
        return y + super(Derived, self).forward(1) + __class__.scale + self.double + self.__count

    def __bump(self, __step):
        def __inner(__y):
            return __y + __step
        self.__count += __inner(1)

    def super_in_closures(self):
        inner = lambda me=self: super(Derived, me).double
        def nested(this):
            return super().double
        return inner(), nested(self), [s for s in [super().scale]]

    @classmethod
    def make(cls, n):
        return [cls().scale for _ in range(n)], super().__thisclass__.__name__

    @staticmethod
    def helper(x):
        return note("static", x)


for _method, _args, _kwargs in (
    (Derived.forward, (5,), {}), (Derived.forward, (5,), {"k": 0}), (Derived.super_in_closures, (), {}),
    (Derived._Derived__bump, (1,), {}),
):
    CASES.append((_method, ("SELF", *_args), _kwargs))
CASES.append((Derived.make.__func__, (Derived, 2), {}))
CASES.append((Derived.helper, (3,), {}))
CASES.append((Base.double.fget, ("SELF",), {}))


def with_decorator(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        note("wrapped")
        return fn(*args, **kwargs)

    return wrapper


@with_decorator
@with_decorator
def decorated(x, y=2):
    return note("decorated", x + y)


CASES.append((decorated, (1,), {}))
CASES.append((decorated.__wrapped__.__wrapped__, (1,), {}))
CASES.append((lambda x, y=2: note("lambda", x) + y if x else [z for z in range(y)], (1,), {}))
CASES.append((lambda x, y=2: note("lambda", x) + y if x else [z for z in range(y)], (0,), {}))


def closure_over(free):
    def uses(x):
        nonlocal free
        free += note("x", x)
        return [free + y for y in range(2)], (lambda: free)()

    return uses


CASES.append((closure_over(10), (1,), {}))


# ----------------------------------------------------------------------------------------- locals()
@case(1, c=4)
def own_variables(a, b=2, **rest):
    x = t("x")
    if x > 0:
        y = note("y", 3)
    kept = {name: value for name, value in locals().items() if name != "x"}
    z = [note("z", i) for i in range(2)]
    return kept, sorted(locals()), z, (lambda q: sorted(locals()))(5)

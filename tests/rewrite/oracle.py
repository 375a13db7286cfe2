"""Hooks that try to break the rewriting: they decide at every step and destroy every local said to be dead.

A rewritten function whose liveness is right, and that never reads a dead variable, cannot tell them from the
neutral ones. Used by the tests of behaviour; `patched` puts rewritten functions in the place of a module's own.
"""
from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from elastic_compile.rewrite import Hooks, NotRewritable, Site, Template, rewrite


class PoisonError(Exception):
    """A dead variable was read."""


class _Poison:
    def __getattribute__(self, name: str) -> Any:
        raise PoisonError(f"attribute {name} of a dead variable")

    def _refuse(self, *args: Any) -> Any:
        raise PoisonError("a dead variable was used")

    __call__ = __bool__ = __iter__ = __next__ = __len__ = __contains__ = __getitem__ = __setitem__ = __hash__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __eq__ = __lt__ = __gt__ = __le__ = _refuse
    __ge__ = __ne__ = __neg__ = __enter__ = __exit__ = __format__ = __iadd__ = __isub__ = _refuse

    def __repr__(self) -> str:
        return "POISON"


POISON = _Poison()


class PoisonHooks(Hooks):
    """Everything is a decision, and what is not live dies at once."""

    def __init__(self, drop: frozenset[str] = frozenset()) -> None:
        self.decisions = 0
        self.poisoned = 0
        self.points = 0
        self.templates: list[Template] = []
        #: Names taken out of every site's live set: the fault that the oracle must see.
        self.drop = drop

    @property
    def n(self) -> int:
        self.decisions += 1
        return self.decisions

    def kill(self, frame: types.FrameType, site: Site) -> None:
        """Destroy the locals of `frame` that are dead at `site`."""
        live = set(site.live) - self.drop
        shared = {*frame.f_code.co_cellvars, *frame.f_code.co_freevars}
        dead = [
            n for n in frame.f_code.co_varnames if n not in live and n not in shared and not n.startswith("__ec_n")
        ]
        if not dead:
            return
        self.poisoned += len(dead)
        variables = frame.f_locals
        for name in dead:
            variables[name] = POISON
        if sys.version_info < (3, 13):
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))

    def call(self, site: Site, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.kill(sys._getframe(1), site)
        return fn(*args, **kwargs)

    def iter(self, site: Site, iterable: Any) -> Any:
        self.kill(sys._getframe(1), site)
        return iter(iterable)

    def next(self, site: Site, iterator: Any) -> Any:
        self.kill(sys._getframe(1), site)
        item = next(iterator, self.stop)
        if isinstance(iterator, types.GeneratorType) and iterator.gi_frame is not None:
            for template in self.templates:
                if iterator.gi_code in template.codes and iterator.gi_frame.f_lineno in template.yields:
                    self.kill(iterator.gi_frame, template.yields[iterator.gi_frame.f_lineno])
        return item

    def point(self, site: Site) -> None:
        self.points += 1
        self.kill(sys._getframe(1), site)

    def bind(self, fn: types.FunctionType) -> types.FunctionType:
        template = rewrite(fn)
        self.templates.append(template)
        return template.bind(fn, self)


def rewritten_member(value: Any, hooks: Hooks, done: list[str]) -> Any:
    """A class member or module variable with its functions rewritten; the value itself where there is nothing to."""
    if isinstance(value, (staticmethod, classmethod)):
        inner = rewritten_member(value.__func__, hooks, done)
        return value if inner is value.__func__ else type(value)(inner)
    if type(value) is property:
        parts = [rewritten_member(f, hooks, done) for f in (value.fget, value.fset, value.fdel)]
        return property(*parts, value.__doc__)
    if not isinstance(value, types.FunctionType):
        return value
    try:
        template = rewrite(value)
    except NotRewritable:
        return value
    if isinstance(hooks, PoisonHooks):
        hooks.templates.append(template)
    done.append(value.__qualname__)
    return template.bind(value, hooks)


@contextmanager
def patched(module: types.ModuleType, hooks: Hooks, skip: frozenset[str] = frozenset()) -> Iterator[list[str]]:
    """Every function and method of `module` in rewritten form; gives the names of those replaced."""
    done: list[str] = []
    undo: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, members: dict[str, Any]) -> None:
        for name, value in list(members.items()):
            if f"{getattr(owner, '__qualname__', '')}.{name}".lstrip(".") in skip:
                continue
            if isinstance(value, type) and owner is module and value.__module__ == module.__name__:
                replace(value, dict(vars(value)))
                continue
            code = getattr(getattr(value, "__func__", value), "__code__", None)
            if code is not None and code.co_filename != module.__file__:
                continue
            new = rewritten_member(value, hooks, done)
            if new is not value:
                try:
                    setattr(owner, name, new)
                except (AttributeError, TypeError):
                    continue
                undo.append((owner, name, value))

    replace(module, dict(vars(module)))
    try:
        yield done
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)

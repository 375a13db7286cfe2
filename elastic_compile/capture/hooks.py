"""What the rewritten program calls at every step of its evaluation.

In: calls, truth tests, iteration steps, operators and program points of rewritten functions.
Out: plain Python behaviour on fake tensors, with the stack of frames known to the exploration at every point.
Never: decides anything itself; decisions are the tracer's, joins the explorer's.
"""
from __future__ import annotations

import builtins
import datetime
import dis
import functools
import linecache
import logging
import math
import operator
import random
import sys
import time
import types
from collections.abc import Callable, Container, Iterator
from typing import Any

import numpy as np
import torch

from elastic_compile.capture.emulation import call_with_hooks, construct
from elastic_compile.capture.sequences import SYMBOLIC_ITERATORS, Counter, Enumerate, Range, Rows, Zip
from elastic_compile.capture.state import FEW
from elastic_compile.capture.symbols import as_expr
from elastic_compile.capture.text import is_data, readable
from elastic_compile.capture.tracer import HostOp, PathEnd, Tracer, of_the_program
from elastic_compile.capture.unknown import unknown
from elastic_compile.hostop import HostFunction
from elastic_compile.refusals import Place, Stopped, place_of, stop
from elastic_compile.rewrite import NotRewritable, Template, rewrite
from elastic_compile.rewrite.hooks import BINARY, COMPARE, CONVERSIONS, INPLACE, NEUTRAL, UNARY
from elastic_compile.rewrite.sites import Site

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
NUMBERS = (bool, int, float, *SYMBOLIC)
HOST_BINARY = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "truediv", "floordiv": "floordiv", "mod": "mod",
    "pow": "pow",
}

#: Python containers with more entries than this are not indexed by data.
MAX_CHOICES = FEW
Indexed = (dict, torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential, torch.nn.ParameterList)

#: Packages run as they are: their functions hold no decision of the user's program.
NATIVE_PACKAGES = frozenset({
    "torch", "numpy", "builtins", "functools", "itertools", "operator", "collections", "contextlib", "typing", "abc",
    "copy", "enum", "math", "dataclasses", "re", "logging", "warnings", "inspect", "types", "weakref", "threading",
    "json", "os", "sys", "random", "time", "sympy", "einops", "packaging", "importlib", "elastic_compile",
})
#: Modules of those packages that only pass control on to the user's functions, and are rewritten like them.
REWRITTEN_MODULES = frozenset({
    "torch.nn.modules.container", "torch.utils._contextlib", "elastic_compile.capture.emulation",
})
#: Packages within them that are programs like the user's: they ask about data and raise errors of their own.
REWRITTEN_PACKAGES = ("torch.distributions.",)


#: In place of a number that a dictionary does not have.
NO_KEY = object()


class Stop:
    """The sentinel of an exhausted iterator."""


class Call:
    """A rewritten frame suspended in a call: its frame and the call's site, or an opaque callee (frame None)."""

    __slots__ = ("frame", "site")

    def __init__(self, frame: types.FrameType | None, site: Any) -> None:
        self.frame = frame
        self.site = site


class Hooks:
    """The hook object that rewritten functions hold. One per exploration."""

    stop = Stop()

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        tracer.suspended = self.stack = []
        self.on_point: Callable[[Any, list[Call]], None] = lambda site, stack: None
        self.on_function: Callable[[types.FunctionType], None] = lambda fn: None
        self.bound: dict[Any, Callable[..., Any] | None] = {}
        self.codes: dict[types.CodeType, Template] = {}
        self.templates: list[Template] = []
        self.unrewritten: dict[str, str] = {}
        self.surviving: Container[int] = ()
        #: Where a survey goes on with something unknown in place of what was refused there.
        self.skipped: Container[Place] = ()
        self.hook_codes: set[types.CodeType] = {Hooks.call.__code__, Hooks.next.__code__, Hooks.invoke.__code__}
        self.keep: list[Any] = []

    @property
    def n(self) -> int:
        """Decisions taken so far on this path."""
        return self.tracer.decisions

    # -- calls
    def call(self, site: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn`, rewritten when it is Python that may decide."""
        tracer = self.tracer
        if tracer.dead:
            raise PathEnd
        tracer.site = site
        if self.skipped and place_of(site) in self.skipped:
            return unknown(tracer, fn, args, kwargs)
        try:
            result = self.invoke(site, sys._getframe(1), fn, args, kwargs)
        except Stopped as stopped:
            stopped.called_at(site)
            raise
        tracer.site = site  # what follows stands here, not in the function that was called
        return result

    def invoke(self, site: Any, frame: types.FrameType, fn: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(fn, HostFunction):
            return self.tracer.host_call(fn, args)
        for _ in range(64):
            kind = type(fn)
            if kind is functools.partial:
                args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
            elif kind is types.MethodType:
                if depends_on_host(fn):
                    break
                if type(fn.__self__) in SYMBOLIC:
                    raise stop("EC113", site, expression=f"{fn.__name__} of a number")
                args, fn = (fn.__self__, *args), fn.__func__
            elif kind is functools._lru_cache_wrapper:
                # What one path put into a cache is none of the next path's business: each path calls anew.
                fn = fn.__wrapped__
            elif isinstance(fn, torch.nn.Module):
                fn, args, kwargs = self.module_call(fn, args, kwargs)
            elif kind is types.FunctionType or isinstance(fn, types.BuiltinFunctionType):
                break
            elif isinstance(fn, type):
                if not self.constructs(fn):
                    break
                args, kwargs, fn = (fn, args, kwargs), {}, construct
            elif isinstance(method := vars_of(type(fn)).get("__call__"), types.FunctionType):
                args, fn = (fn, *args), method
            else:
                break
        if type(fn) is types.BuiltinFunctionType and fn.__name__ == "tolist" and (
            isinstance(fn.__self__, torch.Tensor)
        ):
            return tolist(self, site, fn.__self__)
        if type(fn) is types.BuiltinFunctionType and fn.__name__ == "new_tensor" and args and (
            isinstance(fn.__self__, torch.Tensor)
        ):
            return _made_of(self, fn, args[0], kwargs, kwargs.get("dtype") or fn.__self__.dtype)
        if type(fn) is types.BuiltinFunctionType and args and type(args[0]) is torch.SymInt:
            args = self.static_arguments(site, fn, args)
        if depends_on_host(fn):
            raise stop("EC121", site, function=f"{fn.__module__ or type(fn.__self__).__module__}.{fn.__name__}")
        special = SPECIAL.get(fn) if _hashable(fn) else None
        if special is not None:
            return special(self, site, frame, *args, **kwargs)
        if getattr(fn, "__module__", None) in ("math", "cmath") and any(
            type(arg) in SYMBOLIC or isinstance(arg, torch.Tensor) for arg in args
        ):
            raise stop("EC113", site, expression=f"{fn.__module__}.{fn.__name__}")
        target = self.rewritten(fn) if type(fn) is types.FunctionType else None
        if target is None:
            self.check_operands(site, fn, args)
            self.stack.append(Call(frame, site))
            self.stack.append(Call(None, site))
            try:
                return decided(self.tracer.library(fn, args, kwargs))
            finally:
                del self.stack[-2:]
        self.stack.append(Call(frame, site))
        try:
            return target(*args, **kwargs)
        finally:
            self.stack.pop()

    def check_operands(self, site: Any, fn: Any, args: tuple[Any, ...]) -> None:
        """Refuse what a library function would take for what it is not: text that stands for data (an exception's
        message and a log line may hold it), and sequences as long as the data says."""
        owner = getattr(fn, "__self__", None)
        if (is_data(owner) or any(map(is_data, args))) and not may_hold_text(fn):
            raise stop("EC141", site)
        if any(isinstance(arg, SYMBOLIC_ITERATORS) for arg in args):
            raise stop("EC115", site)
        if any(id(arg) in self.surviving for arg in args):
            raise stop("EC150", site, name="an iterator")

    def static_arguments(self, site: Any, fn: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a method of a Python container, whose number chooses from it, with one that Python knows."""
        owner, name = fn.__self__, fn.__name__
        if isinstance(owner, list) and name == "pop":
            return (self.choose(site, owner, args[0]),)
        if isinstance(owner, list) and name == "insert":
            return (self.slice_bound(site, args[0], len(owner)), *args[1:])
        if isinstance(owner, dict) and name in ("get", "pop", "setdefault"):
            if name == "setdefault":
                return (self.known_key(site, args[0], list(owner)), *args[1:])
            key = self.among(args[0], list(owner))
            return (NO_KEY if type(key) in SYMBOLIC else key, *args[1:])
        if isinstance(owner, set) and name in ("add", "discard", "remove"):
            return (self.known_key(site, args[0], list(owner)),)
        return args

    def same_text(self, site: Any, text: str, among: Any) -> str | None:
        """Which of the strings `among` a text from data is, one path for each that it may be; None for none."""
        candidates = self.tracer.texts.candidates(text, among)
        if candidates is None:
            raise stop("EC141", site)
        return next((one for one, number, value in candidates if bool(number == value)), None)

    def module_call(self, module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """What `module(*args, **kwargs)` runs."""
        if type(module).__call__ is not torch.nn.Module.__call__:
            return type(module).__call__, (module, *args), kwargs
        if not (module._forward_pre_hooks or module._forward_hooks):
            return module.forward, args, kwargs
        return call_with_hooks, (module, args, kwargs), {}

    def constructs(self, kind: type) -> bool:
        """Whether making an instance of a class runs an `__init__` of the program's own, that may decide."""
        init = kind.__init__
        return type(init) is types.FunctionType and type(kind).__call__ is type.__call__ and (
            self.rewritten(init) is not None)

    def rewritten(self, fn: types.FunctionType) -> Callable[..., Any] | None:
        """`fn` in rewritten form; None when it runs as it is."""
        if fn.__code__ in self.codes:
            return fn
        key = (fn.__code__, id(fn))
        if key in self.bound:
            return self.bound[key]
        self.keep.append(fn)
        self.bound[key] = None
        if not self.may_rewrite(fn):
            return None
        try:
            template = rewrite(fn)
        except NotRewritable as error:
            self.unrewritten[f"{fn.__module__}.{fn.__qualname__}"] = str(error)
            return None
        if not any(code in self.codes for code in template.codes):
            self.templates.append(template)
        self.codes.update(dict.fromkeys(template.codes, template))
        for instruction in dis.get_instructions(fn.__code__):
            if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") and (
                place_of(site_of(fn, instruction)) not in self.skipped
            ):
                raise stop("EC153", site_of(fn, instruction), name=instruction.argval)
        self.on_function(fn)
        self.bound[key] = template.bind(fn, self)
        return self.bound[key]

    def may_rewrite(self, fn: types.FunctionType) -> bool:
        module = fn.__module__ or ""
        return module in REWRITTEN_MODULES or module.startswith(REWRITTEN_PACKAGES) or (
            module.partition(".")[0] not in NATIVE_PACKAGES)

    def variables(self, site: Any, values: dict[str, Any]) -> dict[str, Any]:
        return NEUTRAL.variables(site, values)

    # -- points
    def point(self, site: Any) -> None:
        """A program point at which paths may join."""
        if self.tracer.dead:
            raise PathEnd
        frame = sys._getframe(1)
        self.tracer.site = site
        if self.accounted(frame):
            self.on_point(site, [*(call for call in self.stack if call.site is not None), Call(frame, site)])

    def accounted(self, frame: types.FrameType) -> bool:
        """Whether every frame from the program's entry to `frame` is visible: no callee that runs natively, and
        no hidden temporary, in between."""
        inner = frame
        for call in reversed(self.stack):
            if call.site is None:
                break
            if call.frame is None or call.site.opaque:
                return False
            above = inner.f_back
            while above is not None and above.f_code in self.hook_codes:
                above = above.f_back
            if above is not call.frame:
                return False
            inner = call.frame
        return inner.f_back is not None and inner.f_back.f_code in self.hook_codes

    # -- truth
    def truth(self, site: Any, value: Any) -> bool:
        if value is True or value is False:
            return value
        tracer = self.tracer
        if tracer.dead:
            raise PathEnd
        tracer.site = site
        if isinstance(value, torch.Tensor) and value.dtype != torch.bool and value.numel() == 1:
            value = value != 0
        if type(value) is torch.SymFloat:
            return not self.is_zero(value)
        return bool(value)

    # -- iteration
    def iter(self, site: Any, iterable: Any) -> Any:
        if self.tracer.dead:
            raise PathEnd
        self.tracer.site = site
        return self.iterator(iterable)

    def iterator(self, iterable: Any) -> Any:
        """`iter(iterable)`, in a form whose position can be seen."""
        if isinstance(iterable, range):
            return Counter(iterable.start, iterable.stop, iterable.step)
        if isinstance(iterable, torch.Tensor) and iterable.dim() and as_expr(iterable.shape[0]) is not None:
            return Rows(iterable)
        return builtins.iter(iterable)

    def next(self, site: Any, iterator: Any) -> Any:
        if self.tracer.dead:
            raise PathEnd
        self.tracer.site = site
        if id(iterator) in self.surviving:
            raise stop("EC150", site, name="an iterator")
        frame = sys._getframe(1)
        own = type(iterator) is types.GeneratorType and iterator.gi_code in self.codes
        self.stack.append(Call(frame, site))
        if not own:
            self.stack.append(Call(None, site))
        depth = len(self.stack)
        try:
            return builtins.next(iterator, Hooks.stop)
        except Stopped as stopped:
            stopped.called_at(site)
            raise
        finally:
            del self.stack[depth - (1 if own else 2):]

    # -- operators
    def binop(self, site: Any, name: str, a: Any, b: Any) -> Any:
        self.tracer.site = site
        if self.skipped and place_of(site) in self.skipped:
            return unknown(self.tracer, BINARY[name], (a, b), {})
        if type(a) in SYMBOLIC or type(b) in SYMBOLIC:
            return self.symbolic(BINARY, name, a, b)
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
            return self.tracer.library(BINARY[name], (a, b), {})
        return BINARY[name](a, b)

    def symbolic(self, table: dict[str, Callable[..., Any]], name: str, a: Any, b: Any) -> Any:
        """An operator on symbolic numbers: with a tensor the number becomes data; floating-point arithmetic is
        recorded operation by operation."""
        if isinstance(a, torch.Tensor):
            return table[name](a, self.as_data(b, a))
        if isinstance(b, torch.Tensor):
            return table[name](self.as_data(a, b), b)
        if type(a) not in NUMBERS or type(b) not in NUMBERS:
            return table[name](a, b)
        if name in ("truediv", "floordiv", "mod") and as_expr(b) is not None and self.is_zero(b):
            raise of_the_program(ZeroDivisionError("division by zero"))
        floating = float in (type(a), type(b)) or torch.SymFloat in (type(a), type(b)) or name == "truediv"
        if not floating:
            return table[name](a, b)
        if table is COMPARE:
            operands = tuple(x if as_expr(x) is None else as_expr(x) for x in (a, b))
            return self.tracer.decide(None, HostOp(name, operands))
        if name not in HOST_BINARY:
            return table[name](a, b)
        return self.tracer.host(HOST_BINARY[name], (a, b), "float")

    def is_zero(self, number: Any) -> bool:
        """Whether a symbolic number is zero: a decision."""
        return self.check("eq", number, 0.0 if isinstance(number, torch.SymFloat) else 0)

    def check(self, op: str, a: Any, b: Any) -> bool:
        """A comparison of host numbers as a decision."""
        if isinstance(a, torch.SymFloat) or isinstance(b, (torch.SymFloat, float)):
            operands = tuple(x if as_expr(x) is None else as_expr(x) for x in (a, b))
            return self.tracer.decide(None, HostOp(op, operands))
        return bool(COMPARE[op](a, b))

    def as_data(self, number: Any, like: torch.Tensor) -> torch.Tensor:
        """A symbolic number as a tensor that promotes with `like` as the Python number would."""
        carried = self.tracer.carry(number)
        floating = isinstance(number, torch.SymFloat)
        if like.dtype.is_floating_point or like.dtype.is_complex:
            return carried.to(like.dtype)
        if floating:
            return carried.to(torch.get_default_dtype())
        return carried if like.dtype == torch.bool else carried.to(like.dtype)

    def inplace(self, site: Any, name: str, a: Any, b: Any) -> Any:
        self.tracer.site = site
        if self.skipped and place_of(site) in self.skipped:
            return unknown(self.tracer, BINARY[name], (a, b), {})
        if type(a) in SYMBOLIC or type(b) in SYMBOLIC:
            return self.symbolic(INPLACE if isinstance(a, torch.Tensor) else BINARY, name, a, b)
        return INPLACE[name](a, b)

    def unop(self, site: Any, name: str, a: Any) -> Any:
        self.tracer.site = site
        if type(a) is torch.SymFloat and name == "neg":
            return self.tracer.host("neg", (a,), "float")
        if type(a) is torch.SymInt and name == "invert":
            return -a - 1
        return UNARY[name](a)

    def compare(self, site: Any, name: str, a: Any, b: Any) -> Any:
        self.tracer.site = site
        if self.skipped and place_of(site) in self.skipped:
            return unknown(self.tracer, COMPARE[name], (a, b), {})
        if (type(a) in SYMBOLIC or type(b) in SYMBOLIC) and name not in ("in", "not in"):
            result = self.symbolic(COMPARE, name, a, b)
            return bool(result) if type(result) is torch.SymBool else result
        if is_data(a) or is_data(b):
            return self.compare_text(site, name, a, b)
        if type(a) in SYMBOLIC and name in ("in", "not in") and isinstance(b, (dict, set, frozenset)):
            return (type(self.among(a, list(b))) not in SYMBOLIC) == (name == "in")
        if (isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor)) and name not in ("in", "not in"):
            return self.tracer.library(COMPARE[name], (a, b), {})
        return decided(COMPARE[name](a, b))

    def compare_text(self, site: Any, name: str, a: Any, b: Any) -> bool:
        text, other = (a, b) if is_data(a) else (b, a)
        if is_data(a) and is_data(b):
            raise stop("EC141", site)
        if name in ("eq", "ne"):
            return (self.same_text(site, text, [other]) is not None) == (name == "eq")
        if name in ("in", "not in") and text is a and isinstance(other, (dict, list, tuple, set, *Indexed)):
            return (self.same_text(site, text, list(other)) is not None) == (name == "in")
        raise stop("EC141", site)

    def getitem(self, site: Any, target: Any, key: Any) -> Any:
        self.tracer.site = site
        if self.skipped and place_of(site) in self.skipped:
            return unknown(self.tracer, operator.getitem, (target, key), {})
        if isinstance(target, torch.Tensor):
            key = self.tensor_key(key)
            if has_symbolic_index(key) and not isinstance(key, tuple) and target.dim() and (
                self.handles_errors(sys._getframe(1))
            ):
                self.check_index(key, target.shape[0])
            return select(self.tracer, target, key)
        if is_data(key) and isinstance(target, (dict, torch.nn.ModuleDict, torch.nn.ParameterDict)):
            found = self.same_text(site, key, list(target.keys()))
            if found is None:
                raise of_the_program(KeyError(readable(key)))
            return target[found]
        if is_data(target):
            raise stop("EC141", site)
        if type(key) in SYMBOLIC or (isinstance(key, torch.Tensor) and isinstance(target, (list, tuple, *Indexed))):
            key = self.choose(site, target, key)
        elif type(key) is slice and isinstance(target, (list, tuple, str, *Indexed)):
            key = self.static_slice(site, key, len(target))
        return target[key]

    def static_slice(self, site: Any, key: slice, length: int) -> slice:
        """A slice of a Python sequence with bounds that Python knows: one path for each that differs."""
        return slice(*(self.slice_bound(site, part, length) for part in (key.start, key.stop)), key.step)

    def slice_bound(self, site: Any, number: Any, length: int) -> Any:
        """A bound of a slice of `length` items: beyond them all are as one."""
        if isinstance(number, torch.Tensor):
            number = number.item()
        if type(number) not in SYMBOLIC:
            return number
        if length > MAX_CHOICES:
            raise stop("EC114", site, count=length)
        if bool(number >= length):
            return length
        for one in range(length):
            if bool(number == one):
                return one
        return next((one - length for one in range(length - 1, 0, -1) if bool(number == one - length)), 0)

    def static(self, number: Any) -> Any:
        """A symbolic integer as one that Python knows, one path for each that it may be, where those are known and few;
        else as it is."""
        if type(number) is not torch.SymInt:
            return number
        low, high = self.tracer.symbols.bounds(number)
        if high is None or low is None or high - low >= MAX_CHOICES:
            return number
        return next((one for one in range(low, high) if bool(number == one)), high)

    def known_key(self, site: Any, number: Any, keys: Any) -> Any:
        """A symbolic number as a key of a container that has `keys`, or another one."""
        key = self.static(self.among(number, keys))
        if type(key) in SYMBOLIC:
            raise stop("EC111", site)
        return key

    def among(self, number: Any, keys: Any) -> Any:
        """Which of the numbers `keys` a symbolic number is, one path for each; itself where it is none of them."""
        return next((key for key in keys if isinstance(key, (int, float)) and self.check("eq", number, key)), number)

    def check_index(self, index: Any, size: Any) -> None:
        """Where the program handles errors, an index that is out of range is found here, not by the runtime."""
        if not (bool(index < size) and bool(index >= -size)):
            raise of_the_program(IndexError("index out of range"))

    def handles_errors(self, frame: types.FrameType) -> bool:
        """Whether the frame, or a rewritten one that it is called from, is in the body of a `try`."""
        frames = [frame, *(call.frame for call in self.stack if call.frame is not None)]
        return any(in_a_try(one.f_code, one.f_lasti) for one in frames)

    def tensor_key(self, key: Any) -> Any:
        """An index of a tensor with 0-d integer tensors read as numbers, which select as Python's ints do."""
        if isinstance(key, tuple):
            return tuple(map(self.tensor_key, key))
        if isinstance(key, slice):
            return slice(*map(self.tensor_key, (key.start, key.stop, key.step)))
        if isinstance(key, list) and any(type(number) is torch.SymInt for number in _numbers(key)):
            return _made_of(self, torch.tensor, key, {}, None)
        if isinstance(key, torch.Tensor) and key.dim() == 0 and key.dtype not in (torch.bool, torch.uint8) and (
            not key.dtype.is_floating_point
        ):
            return key.item()
        return key

    def choose(self, site: Any, target: Any, key: Any) -> Any:
        """A data-dependent key of a Python container as one of the keys that it has: one path for each. A key that it
        does not have stays unknown, and the container itself refuses it."""
        if isinstance(key, torch.Tensor):
            key = key.item()
            if type(key) not in SYMBOLIC:
                return key
        keys = list(target) if isinstance(target, dict) else range(len(target))
        if len(keys) > MAX_CHOICES:
            raise stop("EC114", site, count=len(keys))
        for one in keys:
            if bool(key == one):
                return one
        if not isinstance(target, dict):
            for one in keys:
                if bool(key == one - len(keys)):
                    return one - len(keys)
        if hasattr(type(target), "__missing__"):
            return self.known_key(site, key, ())
        raise of_the_program(
            KeyError("a key that only the data decides") if isinstance(target, dict)
            else IndexError(f"{type(target).__name__} index out of range"))

    def setitem(self, site: Any, target: Any, key: Any, value: Any) -> None:
        self.tracer.site = site
        if self.skipped and place_of(site) in self.skipped:
            return
        if isinstance(target, torch.Tensor):
            key = self.tensor_key(key)
            if type(value) in SYMBOLIC:
                value = self.as_data(value, target)
            if has_symbolic_index(key):
                target, key = select(self.tracer, target, key), ...
        elif type(key) in SYMBOLIC and isinstance(target, dict):
            key = self.known_key(site, key, list(target))
        elif type(key) in SYMBOLIC:
            key = self.choose(site, target, key)
        elif type(key) is slice and isinstance(target, list):
            key = self.static_slice(site, key, len(target))
        elif is_data(key):
            raise stop("EC141", site)
        target[key] = value

    def format(self, site: Any, value: Any, conversion: str | None, spec: str) -> str:
        self.tracer.site = site
        if self.skipped and place_of(site) in self.skipped:
            return ""
        if type(value) is torch.Tensor and not value.dim() and not spec and conversion is None:
            value = value.item()  # the text of a 0-d tensor is that of its number
        if isinstance(value, torch.Tensor) or as_expr(value) is not None:
            plain = type(value) is torch.SymInt and not spec
            return self.tracer.texts.place(value if plain else None)
        return format(CONVERSIONS[conversion](value), spec or "")


#: Hook methods in which an error is the program's own: they do nothing but what the program asked for.
Hooks.TRANSPARENT = frozenset(
    getattr(Hooks, name).__code__ for name in (
        "invoke", "truth", "iter", "next", "binop", "inplace", "unop", "compare", "getitem", "setitem", "format",
    )
) | frozenset(table[name].__code__ for table in (COMPARE, CONVERSIONS) for name in table
              if hasattr(table[name], "__code__"))


def decided(result: Any) -> Any:
    """What code that is not rewritten answers, a condition on numbers as the bool that it is on this path."""
    return bool(result) if type(result) is torch.SymBool else result


def site_of(fn: types.FunctionType, instruction: dis.Instruction) -> Site:
    """Where an instruction of a function stands in its source."""
    at, file = instruction.positions, fn.__code__.co_filename
    text = linecache.getline(file, at.lineno or 0).rstrip("\n")
    return Site(
        kind="global", file=file, line=at.lineno or 0, column=at.col_offset or 0, end_line=at.end_lineno or 0,
        end_column=at.end_col_offset or 0, text=text, snippet=text.strip(), live=(), opaque=False,
    )


def in_a_try(code: types.CodeType, at: int) -> bool:
    """Whether an instruction stands in the body of a `try`; a `with` is none."""
    for entry in dis._parse_exception_table(code):
        if entry.start <= at < entry.end and not entry.lasti:
            handler = [i.opname for i in dis.get_instructions(code) if i.offset >= entry.target][:2]
            if "WITH_EXCEPT_START" not in handler:
                return True
    return False


def may_hold_text(fn: Any) -> bool:
    """Whether a library function may be given text that stands for data: it only says it to a person, or joins it
    to other text."""
    if isinstance(fn, type):
        return issubclass(fn, BaseException)
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, str):
        return getattr(fn, "__name__", "") in ("join", "format")
    return isinstance(owner, (logging.Logger, list)) or getattr(fn, "__module__", None) in ("warnings", "logging")


def vars_of(kind: type) -> dict[str, Any]:
    """The attributes of a class, inherited ones included, as they are stored."""
    return {name: value for base in reversed(kind.__mro__) for name, value in vars(base).items()}


def depends_on_host(fn: Any) -> bool:
    """Whether a function's result is the host's clock or random numbers."""
    if getattr(fn, "__module__", None) in ("time", "secrets", "uuid", "random", "torch.random"):
        return fn not in (time.sleep,)
    owner = getattr(fn, "__self__", None)
    generators = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
    return fn is torch.Generator or isinstance(owner, generators) or (
        any(owner is kind for kind in (datetime.datetime, datetime.date)) and fn.__name__ in ("now", "today", "utcnow"))


def has_symbolic_index(key: Any) -> bool:
    """Whether an index of a tensor holds a symbolic int."""
    return any(type(part) is torch.SymInt for part in (key if isinstance(key, tuple) else (key,)))


def select(tracer: Tracer, target: torch.Tensor, key: Any) -> torch.Tensor:
    """`target[key]`. A symbolic int selects along its dimension after everything else has been applied."""
    parts = key if isinstance(key, tuple) else (key,)
    if not has_symbolic_index(parts):
        return tracer.library(operator.getitem, (target, key), {})
    if any(isinstance(part, torch.Tensor) for part in parts):
        parts = tuple(tracer.carry(part) if type(part) is torch.SymInt else part for part in parts)
        return target[tuple(part.reshape(1) if isinstance(part, torch.Tensor) and part.dim() == 0 else part
                            for part in parts)].squeeze(0)
    consumed = sum(part is not None and part is not ... for part in parts)
    whole = tuple(slice(None) if type(part) is torch.SymInt else part for part in parts)
    result = target if all(part == slice(None) for part in whole) else target[whole]
    dims: list[tuple[int, Any]] = []
    dim = 0
    for part in parts:
        if part is ...:
            dim += target.dim() - consumed
        elif type(part) is torch.SymInt:
            dims.append((dim, part))
            dim += 1
        elif part is None or isinstance(part, slice):
            dim += 1
    for dim, index in reversed(dims):
        result = result.select(dim, index)
    return result


def _hashable(fn: Any) -> bool:
    return type(fn) in (types.FunctionType, types.BuiltinFunctionType, type) or isinstance(fn, type)


# ------------------------------------------------------------------------- builtins on tensors
def _number(hooks: Hooks, site: Any, value: Any, python: type) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, bool):
        return python(value)
    if as_expr(value) is not None:
        if isinstance(value, torch.SymBool):
            return python(bool(value))
        if python is int:
            return value if isinstance(value, torch.SymInt) else hooks.tracer.host("trunc", (value,), "int")
        return torch.sym_float(value)
    return python(value)


def _int(hooks: Hooks, site: Any, frame: Any, *args: Any, **kwargs: Any) -> Any:
    return _number(hooks, site, args[0], int) if len(args) == 1 and not kwargs else int(*args, **kwargs)


def _float(hooks: Hooks, site: Any, frame: Any, *args: Any) -> Any:
    return _number(hooks, site, args[0], float) if args else 0.0


def _bool(hooks: Hooks, site: Any, frame: Any, *args: Any) -> Any:
    return hooks.truth(site, args[0]) if args else False


def _isinstance(hooks: Hooks, site: Any, frame: Any, value: Any, kinds: Any) -> bool:
    stands_for = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}.get(type(value))
    return isinstance(value, kinds) or (stands_for is not None and issubclass(stands_for, kinds))


def _print(hooks: Hooks, site: Any, frame: Any, *args: Any, **kwargs: Any) -> None:
    """Printing is no part of a program's result."""


def _str(hooks: Hooks, site: Any, frame: Any, *args: Any, **kwargs: Any) -> str:
    return hooks.format(site, args[0], None, "") if len(args) == 1 and not kwargs else str(*args, **kwargs)


def _range(hooks: Hooks, site: Any, frame: Any, *bounds: Any) -> Any:
    numbers = [bound.item() if isinstance(bound, torch.Tensor) else bound for bound in bounds]
    return Range(*numbers) if any(as_expr(number) is not None for number in numbers) else range(*numbers)


def _len(hooks: Hooks, site: Any, frame: Any, value: Any) -> Any:
    if is_data(value):
        raise stop("EC141", site)
    return value.shape[0] if isinstance(value, torch.Tensor) and value.dim() else len(value)


def _enumerate(hooks: Hooks, site: Any, frame: Any, iterable: Any, start: Any = 0) -> Any:
    inner = hooks.iterator(iterable)
    return Enumerate(inner, start) if isinstance(inner, SYMBOLIC_ITERATORS) else enumerate(iterable, start)


def _zip(hooks: Hooks, site: Any, frame: Any, *iterables: Any, **options: Any) -> Any:
    inner = [hooks.iterator(iterable) for iterable in iterables]
    if options or not any(isinstance(one, SYMBOLIC_ITERATORS) for one in inner):
        return zip(*iterables, **options)
    return Zip(inner)


def _tensor(hooks: Hooks, site: Any, frame: Any, data: Any, **options: Any) -> torch.Tensor:
    """`torch.tensor` of numbers, in lists or not, some of which only the data decides."""
    return _made_of(hooks, torch.tensor, data, options, options.get("dtype"))


def _made_of(hooks: Hooks, make: Any, data: Any, options: dict[str, Any], dtype: torch.dtype | None) -> torch.Tensor:
    numbers = list(_numbers(data))
    if not any(as_expr(number) is not None for number in numbers) or not all(
        isinstance(number, (*NUMBERS, torch.Tensor)) for number in numbers
    ):
        return hooks.tracer.library(make, (data,), options)
    if dtype is None:
        floating = any(isinstance(n, (float, torch.SymFloat)) or (
            isinstance(n, torch.Tensor) and n.dtype.is_floating_point) for n in numbers)
        dtype = torch.get_default_dtype() if floating else torch.int64

    def built(value: Any) -> torch.Tensor:
        if isinstance(value, (list, tuple)):
            return torch.stack([built(item) for item in value])
        if isinstance(value, torch.SymBool):
            value = bool(value)
        if as_expr(value) is not None:
            return hooks.tracer.carry(value).to(dtype)
        return value.reshape(()).to(dtype) if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)

    return built(data)


def _numbers(data: Any) -> Iterator[Any]:
    """The leaves of nested lists and tuples."""
    if isinstance(data, (list, tuple)):
        for item in data:
            yield from _numbers(item)
    else:
        yield data


def _one_hot(hooks: Hooks, site: Any, frame: Any, tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """`torch.nn.functional.one_hot` without its check of the classes' range, which reads data."""
    if type(num_classes) is not int or num_classes < 0:
        return torch.nn.functional.one_hot(tensor, num_classes)
    return (tensor.unsqueeze(-1) == torch.arange(num_classes)).to(torch.int64)


#: Where Python's mathematics raises: (operation, comparison, bound, exception, message).
DOMAIN: dict[str, tuple[str, float, type[Exception], str]] = {
    "sqrt": ("lt", 0.0, ValueError, "math domain error"),
    "log": ("le", 0.0, ValueError, "math domain error"),
    "log2": ("le", 0.0, ValueError, "math domain error"),
    "exp": ("gt", 709.782712893384, OverflowError, "math range error"),
}


def _math(op: str) -> Callable[..., Any]:
    def call(hooks: Hooks, site: Any, frame: Any, *args: Any) -> Any:
        numbers = [_number(hooks, site, arg, float) if isinstance(arg, torch.Tensor) else arg for arg in args]
        if not any(as_expr(number) is not None for number in numbers):
            return getattr(math, op)(*numbers)
        if op in DOMAIN and len(numbers) == 1:
            comparison, bound, error, message = DOMAIN[op]
            if hooks.check(comparison, numbers[0], bound):
                raise of_the_program(error(message))
        if op in ("isnan", "isinf"):
            return hooks.tracer.decide(None, HostOp(op, tuple(as_expr(number) for number in numbers)))
        return hooks.tracer.host(op, tuple(numbers), "int" if op in ("floor", "ceil", "trunc") else "float")

    return call


def _divmod(hooks: Hooks, site: Any, frame: Any, a: Any, b: Any) -> Any:
    if type(a) not in SYMBOLIC and type(b) not in SYMBOLIC:
        return divmod(a, b)
    return hooks.binop(site, "floordiv", a, b), hooks.binop(site, "mod", a, b)


def _isfinite(hooks: Hooks, site: Any, frame: Any, number: Any) -> bool:
    return not (SPECIAL[math.isnan](hooks, site, frame, number) or SPECIAL[math.isinf](hooks, site, frame, number))


def _pad(
    hooks: Hooks, site: Any, frame: Any, input: torch.Tensor, pad: Any, mode: str = "constant", value: Any = None
) -> torch.Tensor:
    """`torch.nn.functional.pad` by constants, as many as the data says: the operator takes only numbers known now. Like
    it, crop first, and no more than there is."""
    pad = [width.item() if isinstance(width, torch.Tensor) else width for width in pad]
    if mode != "constant" or not any(type(width) is torch.SymInt for width in pad):
        return hooks.tracer.library(torch.nn.functional.pad, (input, pad, mode, value), {})
    sides = [(input.dim() - 1 - i // 2, i % 2 == 0, width, bool(width < 0)) for i, width in enumerate(pad)]
    for dim, first, width, crops in sides:
        if crops:
            left = input.shape[dim] + width
            if bool(left < 0):
                raise of_the_program(RuntimeError("narrow(): length must be non-negative."))
            input = input.narrow(dim, -width if first else 0, left)
    for dim, first, width, crops in sides:
        if not crops and not (type(width) is int and width == 0):
            shape = [*input.shape]
            shape[dim] = width
            filling = input.new_full(shape, 0 if value is None else value)
            input = torch.cat([filling, input] if first else [input, filling], dim)
    return input


def _type(hooks: Hooks, site: Any, frame: Any, *args: Any, **kwargs: Any) -> Any:
    if len(args) == 1 and not kwargs:
        return {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}.get(type(args[0])) or type(args[0])
    return type(*args, **kwargs)


def _getattr(hooks: Hooks, site: Any, frame: Any, target: Any, name: Any, *default: Any) -> Any:
    if is_data(name):
        name = hooks.same_text(site, name, dir(target)) or "a name that only the data decides"
    return getattr(target, name, *default)


def _hasattr(hooks: Hooks, site: Any, frame: Any, target: Any, name: Any) -> bool:
    return hooks.same_text(site, name, dir(target)) is not None if is_data(name) else hasattr(target, name)


def _round(hooks: Hooks, site: Any, frame: Any, number: Any, digits: Any = None) -> Any:
    if as_expr(number) is None:
        return round(number) if digits is None else round(number, digits)
    if digits is None:
        return hooks.tracer.host("round", (number,), "int")
    return hooks.tracer.host("round_digits", (number, digits), "float")


def tolist(hooks: Hooks, site: Any, tensor: torch.Tensor) -> Any:
    """`tensor.tolist()`: nested lists of host scalars."""
    if tensor.dim() == 0:
        return tensor.item()
    if as_expr(tensor.shape[0]) is not None:
        raise stop("EC115", site)
    return [tolist(hooks, site, row) for row in tensor.unbind(0)]


SPECIAL: dict[Any, Callable[..., Any]] = {
    int: _int, float: _float, bool: _bool, isinstance: _isinstance, print: _print, str: _str,
    type: _type, getattr: _getattr, hasattr: _hasattr, range: _range, len: _len, enumerate: _enumerate, zip: _zip,
    round: _round, divmod: _divmod, math.isfinite: _isfinite, torch.nn.functional.pad: _pad,
    torch.nn.functional.one_hot: _one_hot, torch.tensor: _tensor,
    **{getattr(math, op): _math(op) for op in (
        "sqrt", "exp", "log", "log2", "sin", "cos", "tanh", "floor", "ceil", "trunc", "isnan", "isinf")},
}

"""Runs the user's own program on real tensors with the outcomes of its data-dependent tests forced.

In: a module or method, real arguments, a list of outcomes. Out: its result, and every truth test that it made.
Never: uses the compiler's capture: what data decides is found by following real tensors and numbers.

The i-th test that data decides takes the i-th outcome of the list, and its natural one when the list has ended. A
condition on numbers that was decided before is decided the same way again, since no data could do otherwise.
"""
from __future__ import annotations

import functools
import inspect
import operator
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from elastic_compile.hostop import HostFunction
from elastic_compile.rewrite import Hooks, NotRewritable, Site, rewrite
from tests.constructs.compare import Raised, array, plain

aten = torch.ops.aten
MAX_TESTS = 400
NATIVE = (types.FunctionType, types.BuiltinFunctionType)
LIBRARIES = ("torch", "numpy", "functools", "contextlib", "collections", "typing", "copy", "enum", "logging")
#: Library code that only passes control on to the user's functions.
PASSING_ON = ("torch.nn.modules.container", "torch.utils._contextlib")


class TooLong(BaseException):
    """A forced path that does not end; not an Exception, so that no handler of the program catches it."""


@dataclass(frozen=True)
class Test:
    """One truth test of a run.

    `kind`: "free" (data decides: may be forced), "known" (a condition decided before), "fixed" (a tensor that only
    weights decide), "static" (a value of Python's), "step" (whether a `for` loop goes on), "choice" (an item of a
    Python container by a number that data decided: `taken` is the number).
    """

    __test__ = False

    file: str
    line: int
    column: int
    natural: int
    taken: int
    kind: str


@dataclass(frozen=True)
class Run:
    """A finished run: the plain result (or `Raised`) and the tests in order. `error` is the exception raised."""

    result: Any
    tests: tuple[Test, ...]
    error: Exception | None = None


def run_forced(
    target: Any, args: Sequence[Any], kwargs: dict[str, Any], outcomes: Sequence[bool] = (),
    branches: frozenset[tuple[str, int]] = frozenset(),
) -> Run | None:
    """Run `target(*args, **kwargs)`; tensors and `data_number`s among the arguments are data.

    `branches`: the lines at which comparisons of numbers inside Python's own functions (`max(a, b)`) may be forced, and
    at which those written by the user are decided at once.
    None when the path does not end within `MAX_TESTS` tests.
    """
    hooks = Forced(outcomes, branches)
    plain((tuple(args), kwargs), hooks.follow)
    error = None
    _running.append(hooks)
    try:
        with torch.no_grad(), Watch(hooks):
            result = plain(hooks.call(None, target, *args, **kwargs), hooks.settled)
    except TooLong:
        return None
    except Exception as caught:
        error, result = caught, Raised(type(caught).__name__)
    finally:
        _running.pop()
    return Run(result, tuple(hooks.tests), error)


# ------------------------------------------------------------------------------- numbers from data
class Data:
    """A Python number that data decided: `key` says how, so that equal conditions are recognised. It may outlive its
    run in the state of a module; the run that asks for its truth decides."""

    key: Any


_running: list[Forced] = []
_runs = count()


def decide(natural: bool, key: Any) -> bool:
    """How the run that asks decides a condition on numbers from data."""
    return _running[-1].decide(natural, key) if _running else natural


class DataInt(Data, int):
    pass


class DataFloat(Data, float):
    pass


class DataBool(Data):
    """The outcome of comparing a data-dependent number; decided when Python asks for its truth."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return decide(self.value, self.key)

    def __and__(self, other: Any) -> bool:
        return bool(self) & bool(other)

    def __or__(self, other: Any) -> bool:
        return bool(self) | bool(other)

    __rand__, __ror__ = __and__, __or__

    def __eq__(self, other: Any) -> bool:
        return bool(self) == other

    def __hash__(self) -> int:
        return hash(bool(self))

    def __int__(self) -> int:
        return int(bool(self))

    def __index__(self) -> int:
        return int(bool(self))



def data_number(value: int | float, key: Any) -> Any:
    """`value` as a number that data decided."""
    number = (DataFloat if isinstance(value, float) else DataInt)(value)
    number.key = key
    return number


def _key(value: Any) -> Any:
    return value.key if isinstance(value, Data) else (type(value).__name__, value)


def _bare(value: Any) -> Any:
    if isinstance(value, (DataInt, DataFloat)):
        return float(value) if isinstance(value, float) else int(value)
    return value


def _arithmetic(name: str, reflected: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if reflected else (self, other)
        value = getattr(operator, name)(_bare(left), _bare(right))
        return data_number(value, (name, _key(left), _key(right)))

    return method


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    base, swap, negate = {
        "lt": ("lt", False, False), "gt": ("lt", True, False), "ge": ("lt", False, True), "le": ("lt", True, True),
        "eq": ("eq", False, False), "ne": ("eq", False, True),
    }[name]

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if swap else (self, other)
        outcome = DataBool(getattr(operator, name)(_bare(self), _bare(other)))
        outcome.key = ("not" if negate else "is", (base, _key(left), _key(right)))
        return outcome

    return method


def _unary(name: str) -> Callable[[Any], Any]:
    return lambda self: data_number(getattr(operator, name)(_bare(self)), (name, self.key))


def _as_integer(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, other: getattr(int, name)(int(bool(self)), int(other) if isinstance(other, DataBool) else other)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(DataBool, f"__{_name}__", _as_integer(f"__{_name}__"))
    setattr(DataBool, f"__r{_name}__", _as_integer(f"__r{_name}__"))
for _kind in (DataInt, DataFloat):
    for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        setattr(_kind, f"__{_name}__", _arithmetic(_name, False))
        setattr(_kind, f"__r{_name}__", _arithmetic(_name, True))
    for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(_kind, f"__{_name}__", _comparison(_name))
    for _name in ("neg", "pos", "abs"):
        setattr(_kind, f"__{_name}__", _unary(_name))
    _kind.__hash__ = int.__hash__ if _kind is DataInt else float.__hash__  # type: ignore[method-assign]
    _kind.__bool__ = lambda self: decide(_bare(self) != 0, ("not", ("eq", self.key, ("int", 0))))


# ------------------------------------------------------------------------------------ the hooks
class Forced(Hooks):
    """Hooks that run the program as it is, following data and forcing what it decides."""

    def __init__(self, outcomes: Sequence[bool], branches: frozenset[tuple[str, int]]) -> None:
        self.outcomes = list(outcomes)
        self.branches = branches
        self.inside = 0
        self.tests: list[Test] = []
        self.used = 0
        self.known: dict[Any, bool] = {}
        self.place: Site | None = None
        self.storages: dict[int, Any] = {}
        self.kept: list[Any] = []
        self.quiet = 0
        self.codes: set[types.CodeType] = set()
        self.bound: dict[Any, Any] = {}
        self.number_of_run = next(_runs)

    # -- decisions
    def record(self, natural: int, taken: int, kind: str) -> Any:
        if len(self.tests) >= MAX_TESTS:
            raise TooLong
        site = self.place
        where = (site.file, site.line, site.column) if site else ("", 0, 0)
        self.tests.append(Test(*where, natural, taken, kind))
        return taken

    def decide(self, natural: bool, key: Any = None) -> bool:
        """Which way a test goes that data decides."""
        if self.inside and key is not None and key[1][0] != "tensor" and (
            self.place is None or (self.place.file, self.place.line) not in self.branches
        ):
            return self.record(natural, natural, "static")
        negated = key is not None and key[0] == "not"
        if key is not None and key[1] in self.known:
            return self.record(natural, self.known[key[1]] != negated, "known")
        taken = self.outcomes[self.used] if self.used < len(self.outcomes) else natural
        self.used += 1
        if key is not None:
            self.known[key[1]] = taken != negated
        return self.record(natural, taken, "free")

    def truth(self, site: Any, value: Any) -> bool:
        self.place = site
        inside, self.inside = self.inside, 0
        try:
            return self.truth_of(value)
        finally:
            self.inside = inside

    def truth_of(self, value: Any) -> bool:
        if isinstance(value, Data):
            return bool(value)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            self.quiet += 1
            natural = bool(value)
            self.quiet -= 1
            return self.tensor_truth(value, natural)
        before = len(self.tests)
        outcome = bool(value)
        if isinstance(value, bool) or len(self.tests) == before:
            self.record(outcome, outcome, "static")
        return outcome

    def tensor_truth(self, tensor: torch.Tensor, natural: bool) -> bool:
        """A tensor of one element as a condition: the same tensor goes the same way."""
        if not self.depends(tensor):
            return self.record(natural, natural, "fixed")
        self.kept.append(tensor)
        return self.decide(natural, ("is", ("tensor", id(tensor), tensor._version)))

    def next(self, site: Any, iterator: Any) -> Any:
        self.place = site
        item = next(iterator, self.stop)
        self.place = site
        self.record(item is not self.stop, item is not self.stop, "step")
        return item

    # -- what depends on data
    def mark(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage

    def depends(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    # -- calls
    def call(self, site: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.place = site or self.place
        while True:
            if isinstance(fn, functools.partial):
                args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
            elif isinstance(fn, types.MethodType):
                args, fn = (fn.__self__, *args), fn.__func__
            elif isinstance(fn, HostFunction):
                return self.host(fn, args)
            elif isinstance(fn, torch.nn.Module) and type(fn).__call__ is torch.nn.Module.__call__:
                return self.module(site, fn, args, kwargs)
            else:
                called = inspect.getattr_static(type(fn), "__call__", None)
                if isinstance(fn, (type, *NATIVE)) or not isinstance(called, types.FunctionType):
                    break
                args, fn = (fn, *args), called
        if isinstance(fn, types.FunctionType):
            return self.rewritten(fn)(*args, **kwargs)
        return self.native(site, fn, args, kwargs)

    def host(self, fn: HostFunction, args: Any) -> Any:
        """A function of the application: what it gives depends on data when what it gets does."""
        result = fn(*args)
        if any(map(self.depends, args)):
            for tensor in _leaves(result):
                self.mark(tensor)
        return result

    def module(self, site: Any, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        for number, hook in list(module._forward_pre_hooks.items()):
            if number in module._forward_pre_hooks_with_kwargs:
                args, kwargs = self.call(site, hook, module, args, kwargs) or (args, kwargs)
                continue
            changed = self.call(site, hook, module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.call(site, module.forward, *args, **kwargs)
        for number, hook in list(module._forward_hooks.items()):
            given = (args, kwargs) if number in module._forward_hooks_with_kwargs else (args,)
            changed = self.call(site, hook, module, *given, output)
            output = output if changed is None else changed
        return output

    def rewritten(self, fn: types.FunctionType) -> Any:
        package = (fn.__module__ or "").partition(".")[0]
        if fn.__code__ in self.codes:
            return fn
        if package in LIBRARIES and fn.__module__ not in PASSING_ON:
            return fn
        if id(fn) not in self.bound:
            self.kept.append(fn)
            try:
                template = rewrite(fn)
                self.codes |= template.codes
                self.bound[id(fn)] = template.bind(fn, self)
            except NotRewritable:
                self.bound[id(fn)] = fn
        return self.bound[id(fn)]

    def native(self, site: Any, fn: Any, args: Any, kwargs: Any) -> Any:
        owner = getattr(fn, "__self__", None)
        if isinstance(owner, torch.Tensor) and fn.__name__ == "item":
            return self.number(owner)
        if isinstance(owner, torch.Tensor) and fn.__name__ == "tolist" and owner.dtype != torch.bool:
            return self.numbers(owner)
        if fn is type and len(args) == 1 and isinstance(args[0], Data):
            return bool if isinstance(args[0], DataBool) else type(_bare(args[0]))
        if fn in (int, float, bool) and len(args) == 1:
            return self.converted(site, fn, args[0])
        leaves = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, Data)]
        if leaves and (fn in (abs, round, pow) or getattr(fn, "__module__", "") == "math"):
            bare = pytree.tree_map(_bare, (args, kwargs))
            result = fn(*bare[0], **bare[1])
            if isinstance(result, (int, float)) and not isinstance(result, bool):
                keys = tuple(map(_key, _leaves((args, kwargs))))
                return data_number(result, (fn.__name__, keys))
            return result
        self.inside += 1
        try:
            result = fn(*args, **kwargs)
        finally:
            self.inside -= 1
        if leaves:
            for tensor in _leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.mark(tensor)
        return result

    def converted(self, site: Any, kind: type, value: Any) -> Any:
        if kind is bool:
            return self.truth(site, value)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = self.number(value)
        if not isinstance(value, Data):
            return kind(value)
        if isinstance(value, DataBool):
            return kind(bool(value))
        bare = _bare(value)
        return value if type(bare) is kind else data_number(kind(bare), (kind.__name__, value.key))

    def number(self, tensor: torch.Tensor) -> Any:
        """`tensor.item()`."""
        self.quiet += 1
        value = tensor.item()
        self.quiet -= 1
        if not self.depends(tensor):
            return value
        if isinstance(value, bool):
            return self.tensor_truth(tensor, value)
        if isinstance(value, complex):
            return value
        self.kept.append(tensor)
        return data_number(value, ("item", self.number_of_run, id(tensor), tensor._version))

    def numbers(self, tensor: torch.Tensor) -> Any:
        """`tensor.tolist()`."""
        if tensor.dim() == 0:
            return self.number(tensor)
        return [self.numbers(row) for row in tensor]

    # -- operators
    def binop(self, site: Any, name: str, a: Any, b: Any) -> Any:
        self.place = site
        return self.followed(super().binop(site, name, a, b), a, b)

    def inplace(self, site: Any, name: str, a: Any, b: Any) -> Any:
        self.place = site
        return self.followed(super().inplace(site, name, a, b), a, b)

    def compare(self, site: Any, name: str, a: Any, b: Any) -> Any:
        """A comparison of numbers is decided where it is made if the compiled program branches there, else where its
        truth is asked."""
        self.place = site
        result = super().compare(site, name, a, b)
        if isinstance(result, DataBool) and (site.file, site.line) in self.branches:
            bool(result)
        return result

    def getitem(self, site: Any, target: Any, key: Any) -> Any:
        self.place = site
        if isinstance(key, DataInt) and not isinstance(target, torch.Tensor) and not _keyed_by_data(target):
            key = _bare(key)
            self.record(key, key, "choice")
        return super().getitem(site, target, key)

    def setitem(self, site: Any, target: Any, key: Any, value: Any) -> None:
        self.place = site
        if isinstance(target, torch.Tensor) and any(isinstance(leaf, Data) for leaf in _leaves((key, value))):
            self.mark(target)
        super().setitem(site, target, key, value)

    def followed(self, result: Any, *operands: Any) -> Any:
        if isinstance(result, torch.Tensor) and any(isinstance(operand, Data) for operand in operands):
            self.mark(result)
        return result

    # -- the beginning and the end
    def follow(self, leaf: Any) -> None:
        """Count an argument among the data."""
        if isinstance(leaf, torch.Tensor):
            self.mark(leaf)

    def settled(self, leaf: Any) -> Any:
        """A leaf of the result as the runtime would give it; what is still undecided is decided here."""
        return bool(leaf) if isinstance(leaf, DataBool) else array(_bare(leaf))


class Watch(TorchDispatchMode):
    """Follows data through tensor operations, and decides truth tests made inside library functions."""

    def __init__(self, hooks: Forced) -> None:
        super().__init__()
        self.hooks = hooks

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        hooks = self.hooks
        result = func(*args, **kwargs)
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        depends = any(map(hooks.depends, given))
        if type(result) is bool and not hooks.quiet:
            if func is aten._local_scalar_dense.default:
                return hooks.tensor_truth(args[0], result)
            return hooks.decide(result) if depends else hooks.record(result, result, "fixed")
        if depends:
            written = [
                value for value, parameter in zip(args, func._schema.arguments)
                if parameter.alias_info is not None and parameter.alias_info.is_write
            ]
            for tensor in pytree.tree_leaves((result, written)):
                if isinstance(tensor, torch.Tensor):
                    hooks.mark(tensor)
        return result


def _keyed_by_data(target: Any) -> bool:
    """Whether finding an item means comparing numbers that data decided."""
    return isinstance(target, dict) and any(isinstance(key, Data) for key in target)


def _leaves(tree: Any) -> list[Any]:
    return pytree.tree_leaves(tree)


def free(tests: Sequence[Test]) -> list[Test]:
    """The tests that data decided, in order."""
    return [test for test in tests if test.kind == "free"]


__all__ = ["MAX_TESTS", "Data", "Run", "Test", "data_number", "free", "run_forced"]

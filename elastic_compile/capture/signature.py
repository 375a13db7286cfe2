"""Example calls as signatures: what varies from call to call and what is fixed.

In: a function and example calls. Out: one `CallShape` per way of calling it: the tree of each parameter, whose
tensors (and numbers that differ between the examples) are run-time inputs, everything else a constant.
Never: guesses a dynamic size: examples that disagree on a shape or dtype are refused.
"""
from __future__ import annotations

import copy
import dataclasses
import enum
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from elastic_compile.capture.structure import constant
from elastic_compile.errors import ExampleError
from elastic_compile.refusals import refuse
from elastic_runtime import schema

KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional", inspect.Parameter.POSITIONAL_OR_KEYWORD: "standard",
    inspect.Parameter.KEYWORD_ONLY: "keyword", inspect.Parameter.VAR_POSITIONAL: "varargs",
    inspect.Parameter.VAR_KEYWORD: "varkw",
}


@dataclass(frozen=True)
class Call:
    """An example call: positional and keyword arguments."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(*args: Any, **kwargs: Any) -> Call:
    """An example call with keyword arguments, for `compile`'s `example_inputs`."""
    return Call(args, kwargs)


@dataclass(frozen=True)
class Hole:
    """A run-time input in a template of the arguments."""

    index: int


@dataclass(frozen=True)
class CallShape:
    """One way of calling the function: its parameters, the example leaves of its run-time inputs (first call's),
    the calls of this shape with their leaves, and a template of the bound arguments with `Hole`s."""

    params: tuple[schema.Parameter, ...]
    leaves: tuple[Any, ...]
    calls: tuple[Call, ...]
    template: dict[str, Any]
    signature: inspect.Signature

    def arguments(self, leaves: Sequence[Any], like: Call | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Fresh arguments with `leaves` in place of the run-time inputs, given as `like` gives them: by position or by
        name, and what it leaves to its default is left out, for a decorator of the function sees the difference.
        Without `like`, given as the first call gives them, and what another call gives besides by name."""
        forms = (like,) if like else self.calls
        given = [self.signature.bind(*one.args, **one.kwargs).arguments for one in forms]
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, parameter in self.signature.parameters.items():
            if not any(name in one for one in given):
                continue
            value = fill(self.template[name], leaves)
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
                name in given[0] and name not in forms[0].kwargs
            ):
                args.append(value)
            else:
                kwargs[name] = value
        return tuple(args), kwargs

    def leaves_of(self, one: Call) -> list[Any]:
        """The run-time inputs of a call of this shape."""
        bound = bind(self.signature, one)
        out: dict[int, Any] = {}
        for name, template in self.template.items():
            _extract(template, bound[name], out)
        return [out[i] for i in range(len(self.leaves))]


def bind(signature: inspect.Signature, one: Call) -> dict[str, Any]:
    """Every parameter's value in a call, defaults included. Raises ExampleError when the call does not fit."""
    try:
        bound = signature.bind(*one.args, **one.kwargs)
    except TypeError as error:
        raise ExampleError(
            f"an example call does not fit the signature {signature}",
            reason=str(error), hint="give example_inputs as a list of tuples, or of ec.call(*args, **kwargs)",
        ) from error
    bound.apply_defaults()
    return dict(bound.arguments)


def normalise(example_inputs: Any) -> tuple[Call, ...]:
    """`example_inputs` as calls. Raises ExampleError when there are none or they are not calls."""
    if isinstance(example_inputs, Call):
        example_inputs = [example_inputs]
    if isinstance(example_inputs, (torch.Tensor, np.ndarray, dict, str)) or not hasattr(example_inputs, "__iter__"):
        raise ExampleError(
            f"example_inputs is a {type(example_inputs).__name__}",
            reason="it must be a list of calls, and a call is a tuple of positional arguments or ec.call(...)",
            hint="write example_inputs=[(x,)]",
        )
    calls = []
    for one in example_inputs:
        if isinstance(one, Call):
            calls.append(one)
        elif isinstance(one, tuple):
            calls.append(Call(one, {}))
        else:
            raise ExampleError(
                f"an example call is a {type(one).__name__}",
                reason="a call is a tuple of positional arguments or ec.call(*args, **kwargs)",
                hint="write example_inputs=[(x,)] for a module called as module(x)",
            )
    if not calls:
        raise ExampleError(
            "example_inputs is empty",
            reason="the compiler needs at least one call to know the inputs' shapes and types",
            hint="give one call per way of calling the module: example_inputs=[(x,)]",
        )
    return tuple(calls)


def shapes(function: Callable[..., Any], calls: Sequence[Call]) -> tuple[CallShape, ...]:
    """The calls grouped by structure.

    Raises ExampleError when two calls of one structure give a tensor different dtypes or shapes.
    """
    signature = inspect.signature(function)
    groups: dict[Any, list[Call]] = {}
    for one in calls:
        outline = tuple((name, _outline(value, name)) for name, value in bind(signature, one).items())
        groups.setdefault(outline, []).append(one)
    return tuple(_shape(signature, tuple(group)) for group in groups.values())


def _shape(signature: inspect.Signature, calls: tuple[Call, ...]) -> CallShape:
    bounds = [bind(signature, one) for one in calls]
    leaves: list[Any] = []
    params: list[schema.Parameter] = []
    template: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        values = [bound[name] for bound in bounds]
        tree, template[name] = _merge(values, name, leaves)
        default = (
            (parameter.default is not inspect.Parameter.empty
            and all(value is parameter.default for value in values))
            or parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        )
        params.append(schema.Parameter(
            name=name, kind=KINDS[parameter.kind], tree=tree, default=default and not _has_holes(template[name]),
        ))
    return CallShape(tuple(params), tuple(leaves), calls, template, signature)


def _outline(value: Any, name: str) -> Any:
    """What two calls must have in common to be one entry."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return "tensor"
    if type(value) in (int, float):
        return type(value).__name__
    if value is None or type(value) in (bool, str):
        return ("constant", value)
    children = _children(value)
    if children is None:
        return ("object", id(value)) if _is_static(value) else _unrepresentable(value, name)
    kind, names, items = children
    return (kind, names, tuple(_outline(item, f"{name}[{key!r}]") for key, item in zip(names, items)))


def _merge(values: list[Any], name: str, leaves: list[Any]) -> tuple[schema.Tree, Any]:
    """One parameter's tree and template from its values in all calls of a group."""
    first = values[0]
    if isinstance(first, (torch.Tensor, np.ndarray)):
        tensors = [torch.as_tensor(v) for v in values]
        for other in tensors[1:]:
            if (other.dtype, other.shape) != (tensors[0].dtype, tensors[0].shape):
                raise ExampleError(
                    f"the example calls disagree on {name}",
                    reason=f"one gives {_describe(tensors[0])}, another {_describe(other)}; a program is compiled for "
                           "one dtype and shape per input",
                    hint="give all examples the same shape and dtype, or compile a program for each",
                )
        leaves.append(tensors[0])
        return schema.ValueLeaf(id=len(leaves) - 1), Hole(len(leaves) - 1)
    if type(first) in (int, float):
        if any(v != first for v in values[1:]):
            leaves.append(first)
            return schema.ValueLeaf(id=len(leaves) - 1), Hole(len(leaves) - 1)
        return constant(first), first
    if first is None or type(first) in (bool, str):
        return constant(first), first
    children = _children(first)
    if children is None:
        return schema.ConstLeaf(v=f"<{type(first).__qualname__}>"), first
    kind, names, _ = children
    rows = [_children(v)[2] for v in values]
    merged = [_merge([row[i] for row in rows], f"{name}[{key!r}]", leaves) for i, key in enumerate(names)]
    trees, templates = [m[0] for m in merged], [m[1] for m in merged]
    if kind in ("tuple", "list"):
        return schema.SequenceNode(kind=kind, items=tuple(trees)), (tuple if kind == "tuple" else list)(templates)
    if kind == "dict":
        built = copy.copy(first)
        for key, item in zip(names, templates):
            dict.__setitem__(built, key, item)
        return schema.MapNode(keys=tuple(names), items=tuple(trees)), built
    record = "namedtuple" if isinstance(first, tuple) else "dataclass"
    return (
        schema.RecordNode(kind=record, name=type(first).__name__, fields=tuple(names), items=tuple(trees)),
        Record(type(first), first, tuple(names), tuple(templates)),
    )


@dataclass(frozen=True)
class Record:
    """A namedtuple or dataclass in a template."""

    kind: type
    like: Any
    names: tuple[str, ...]
    items: tuple[Any, ...]

    def build(self, items: list[Any]) -> Any:
        if issubclass(self.kind, tuple):
            return self.kind(*items)
        made = copy.copy(self.like)
        for name, item in zip(self.names, items):
            object.__setattr__(made, name, item)
            if isinstance(made, dict) and name in made:
                dict.__setitem__(made, name, item)
        return made


def fill(template: Any, leaves: Sequence[Any]) -> Any:
    """The template with its holes filled; containers are fresh."""
    if isinstance(template, Hole):
        return leaves[template.index]
    if isinstance(template, Record):
        return template.build([fill(item, leaves) for item in template.items])
    if type(template) in (tuple, list):
        return type(template)(fill(item, leaves) for item in template)
    if isinstance(template, dict):
        made = copy.copy(template)
        for key in template:
            dict.__setitem__(made, key, fill(dict.__getitem__(template, key), leaves))
        return made
    return template


def _extract(template: Any, value: Any, out: dict[int, Any]) -> None:
    if isinstance(template, Hole):
        out[template.index] = torch.as_tensor(value) if isinstance(value, (torch.Tensor, np.ndarray)) else value
    elif isinstance(template, Record):
        for item, part in zip(template.items, _children(value)[2]):
            _extract(item, part, out)
    elif type(template) in (tuple, list):
        for item, part in zip(template, value):
            _extract(item, part, out)
    elif isinstance(template, dict):
        for key in template:
            _extract(dict.__getitem__(template, key), value[key], out)


def _has_holes(template: Any) -> bool:
    found: dict[int, Any] = {}

    def visit(part: Any) -> None:
        if isinstance(part, Hole):
            found[part.index] = True
        elif isinstance(part, Record):
            for item in part.items:
                visit(item)
        elif type(part) in (tuple, list):
            for item in part:
                visit(item)
        elif isinstance(part, dict):
            for item in part.values():
                visit(item)

    visit(template)
    return bool(found)


def _children(value: Any) -> tuple[str, tuple[Any, ...], tuple[Any, ...]] | None:
    """A container's kind, keys and items; None for a leaf."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (f"namedtuple {type(value).__qualname__}", tuple(value._fields), tuple(value))
    if type(value) in (tuple, torch.Size):
        return "tuple", tuple(range(len(value))), tuple(value)
    if type(value) is list:
        return "list", tuple(range(len(value))), tuple(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(f.name for f in dataclasses.fields(value))
        return f"dataclass {type(value).__qualname__}", names, tuple(getattr(value, n) for n in names)
    if isinstance(value, dict) and all(type(k) in (str, int, bool) for k in value):
        return "dict", tuple(value), tuple(dict.values(value))
    return None


def _is_static(value: Any) -> bool:
    """Whether an argument may be baked in: a dtype, device, enum member or the like, which cannot vary."""
    return isinstance(value, (torch.dtype, torch.device, enum.Enum, type)) or value is ...


def _unrepresentable(value: Any, name: str) -> Any:
    raise refuse("EC160", None, kind=type(value).__qualname__, name=name)


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"

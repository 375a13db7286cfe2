"""An elastic network as the tools take it, and the parts that its subnets are made of.

In: a supernet, its space, example calls. Out: subnets, and for each the parts whose table entries are summed.
Never: measures, compiles, or takes two parts for one because their names are alike.
"""
from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from elastic_compile.errors import ExampleError
from elastic_compile.profile.space import Configuration, Space

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, eq=False)
class Elastic:
    """What a factory returns to `elastic-compile profile`, `search` and `build`.

    `supernet`: has `subnet(config) -> nn.Module`, or `activate(config)` in place. `space`: the configurations.
    `example_inputs`: calls as `compile` takes them, or a function of the configuration. `evaluate(config)`: the
    measured objectives by name, "quality" among them (higher is better). `parts`: patterns of submodule paths such as
    "blocks.*", which together make up a subnet: each distinct one is measured once, and sums of them predict.
    `recalibrate`: as `compile_family` takes it.
    """

    supernet: Any
    space: Space
    example_inputs: Any
    evaluate: Callable[[Configuration], Mapping[str, float]] | None = None
    parts: tuple[str, ...] = ()
    recalibrate: Any = None

    def subnet(self, configuration: Configuration) -> Any:
        """The module of a configuration. Raises `ExampleError` when the supernet has no way to give it."""
        make = getattr(self.supernet, "subnet", None) or getattr(self.supernet, "activate", None)
        if not callable(make):
            raise ExampleError(
                f"a {type(self.supernet).__name__} is no supernet",
                reason="it has neither subnet(config) nor activate(config)",
                hint="wrap it: a class whose subnet(config) returns the nn.Module of that configuration")
        made = make(dict(configuration))
        return self.supernet if made is None else made

    def calls(self, configuration: Configuration) -> Sequence[Any]:
        """Example calls of a configuration."""
        given = self.example_inputs
        return given(dict(configuration)) if callable(given) else given

    def made_of(self, configuration: Configuration) -> list[Part]:
        """The parts of a subnet, in the order in which they run; a part that runs twice is listed twice."""
        return parts_of(self.subnet(configuration), self.calls(configuration), self.parts)


@dataclass(frozen=True, eq=False)
class Part:
    """A module of a subnet and one call of it."""

    path: str
    module: Any
    args: tuple
    kwargs: dict[str, Any]

    @cached_property
    def content(self) -> dict[str, Any]:
        """What decides how long it takes: classes, plain attributes, shapes of tensors; no names, no weights."""
        return {"modules": [[type(module).__qualname__, _attributes(module)] for module in self.module.modules()],
                "inputs": _shapes((self.args, self.kwargs))}

    @cached_property
    def key(self) -> str:
        """For people, and unique: class, shape of the first input, a hash."""
        digest = hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()
        shapes = [shape for kind, shape in self.content["inputs"] if kind != "value"]
        first = "x".join(map(str, shapes[0])) if shapes else ""
        return f"{type(self.module).__name__} {first} {digest[:12]}"


def parts_of(module: Any, calls: Sequence[Any], patterns: Sequence[str]) -> list[Part]:
    """The submodules of `module` whose paths match a pattern ("blocks.*" matches "blocks.3", not "blocks.3.conv"), with
    the arguments of each call that they get in the first example call.

    Raises `ExampleError` when a pattern matches nothing that runs.
    """
    import torch

    from elastic_compile.capture.signature import normalise

    found: list[Part] = []
    handles = []
    matched: set[str] = set()
    for path, child in module.named_modules():
        for pattern in patterns:
            if path and fnmatch.fnmatchcase(path, pattern) and path.count(".") == pattern.count("."):
                handles.append(child.register_forward_pre_hook(
                    lambda one, args, kwargs, path=path, pattern=pattern: (
                        found.append(Part(path, one, args, dict(kwargs))), matched.add(pattern), None)[-1],
                    with_kwargs=True))
                break
    try:
        call = normalise(calls)[0]
        with torch.no_grad():
            module(*call.args, **call.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    if unmatched := [pattern for pattern in patterns if pattern not in matched]:
        raise ExampleError(
            f"no part of {type(module).__name__} that runs matches {', '.join(unmatched)}",
            reason=f"its parts are {', '.join(name for name, _ in module.named_children())}",
            hint="give parts= paths of submodules, such as ('stem', 'blocks.*', 'head')")
    return found


def _attributes(module: Any) -> list[Any]:
    plain = [[name, _value(value)] for name, value in sorted(vars(module).items())
             if name != "training" and not name.startswith("_") and _is_plain(value)]
    tensors = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in
               (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
    return [plain, tensors]


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(map(_is_plain, value)))


def _value(value: Any) -> Any:
    return [_value(item) for item in value] if isinstance(value, (tuple, list)) else value


def _shapes(tree: Any) -> list[list[Any]]:
    from torch.utils import _pytree as pytree

    return [[str(leaf.dtype), list(leaf.shape)] if hasattr(leaf, "shape") else ["value", repr(leaf)]
            for leaf in pytree.tree_leaves(tree)]

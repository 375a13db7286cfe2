"""Which regions are alike: the same operations on the same types, up to the names of values and weights.

In: regions. Out: a key that is equal for regions that are alike, and a compiled region handed on to one that is.
Never: takes two regions for alike whose operations, arguments or types differ in any way.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree

from elastic_compile.backends.protocol import CompiledRegion, RegionSource


def structure(source: RegionSource, of_weight: Callable[[torch.Tensor], object]) -> object:
    """The key of `source`; `of_weight` says what of a weight must be equal."""
    numbers: dict[torch.fx.Node, int] = {}

    def leaf(value: Any) -> object:
        if isinstance(value, torch.fx.Node):
            return "node", numbers[value]
        return type(value).__name__, value.hex() if isinstance(value, float) else str(value)

    exported = source.exported
    places = {name: place for place, name in enumerate(exported.state_dict)}
    parts: list[object] = [source.inputs, source.outputs, tuple(
        (spec.kind.name, places.get(spec.target, spec.target)) for spec in exported.graph_signature.input_specs)]
    for node in exported.graph.nodes:
        if node.op == "get_attr":
            parts.append(id(source))  # it holds a graph or data that is not looked into
        flat, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        parts.append((node.op, str(node.target) if node.op == "call_function" else "", tuple(map(leaf, flat)),
                      str(spec), _type(node.meta.get("val"))))
        numbers[node] = len(numbers)
    parts.append(tuple(of_weight(t) for t in exported.state_dict.values()))
    parts.append(tuple((name, of_weight(t)) for name, t in exported.constants.items()
                       if isinstance(t, torch.Tensor)))
    return tuple(parts)


def handed_on(made: CompiledRegion, weights: tuple[str, ...], source: RegionSource) -> CompiledRegion:
    """`made`, compiled of a region like `source` whose weights had the names `weights`, for `source`."""
    names = dict(zip(weights, source.exported.state_dict))
    return dataclasses.replace(
        made, name=source.name, weights={key: names.get(weight, weight) for key, weight in made.weights.items()})


def _type(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return str([_type(item) for item in value])
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}{list(value.stride())}"
    return type(value).__name__

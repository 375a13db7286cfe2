"""The structure of results: containers taken apart, the same way for traced and for eager results.

In: a Python value and what to do with its leaves. Out: a plain tree, or the schema's.
Never: keeps a class of the user's: namedtuples and dataclasses become records by field.

A plain tree is a leaf, or ("tuple" | "list", items), ("dict", {key: item}),
("namedtuple" | "dataclass", name, {field: item}).
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from elastic_runtime import schema


def take_apart(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The plain tree of `value`; `leaf` gets everything that is not a container."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "namedtuple", type(value).__name__, {
            name: take_apart(item, leaf) for name, item in zip(value._fields, value)}
    if isinstance(value, (tuple, torch.Size)):
        return "tuple", [take_apart(item, leaf) for item in value]
    if type(value) is list:
        return "list", [take_apart(item, leaf) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, dict):
            fields = dict(dict.items(value))
        else:
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return "dataclass", type(value).__name__, {name: take_apart(item, leaf) for name, item in fields.items()}
    if isinstance(value, dict) and all(type(key) in (str, int, bool) for key in value):
        return "dict", {key: take_apart(item, leaf) for key, item in dict.items(value)}
    return leaf(value)


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a plain tree, in order."""
    if isinstance(tree, tuple) and tree and isinstance(tree[0], str):
        children = tree[-1]
        for child in children.values() if isinstance(children, dict) else children:
            yield from leaves(child)
    else:
        yield tree


def keys(tree: Any) -> Iterator[Any]:
    """The keys of the dicts in a plain tree."""
    if isinstance(tree, tuple) and tree and isinstance(tree[0], str):
        children = tree[-1]
        if tree[0] == "dict":
            yield from children
        for child in children.values() if isinstance(children, dict) else children:
            yield from keys(child)


def to_schema(tree: Any, leaf: Callable[[Any], schema.Tree | None]) -> schema.Tree:
    """A plain tree in the schema's terms; `leaf` gives a leaf's node, or None for a constant."""
    if isinstance(tree, tuple) and tree and isinstance(tree[0], str):
        kind, *rest = tree
        if kind in ("tuple", "list"):
            return schema.SequenceNode(kind=kind, items=tuple(to_schema(item, leaf) for item in rest[0]))
        if kind == "dict":
            return schema.MapNode(
                keys=tuple(rest[0]), items=tuple(to_schema(item, leaf) for item in rest[0].values()))
        return schema.RecordNode(
            kind=kind, name=rest[0], fields=tuple(rest[1]),
            items=tuple(to_schema(item, leaf) for item in rest[1].values()),
        )
    node = leaf(tree)
    return constant(tree) if node is None else node


def constant(value: Any) -> schema.Tree:
    """A constant leaf."""
    if isinstance(value, float):
        return schema.FloatLeaf(v=schema.encode_float(value))
    return schema.ConstLeaf(v=value)

"""The self-test: a bundle's recorded calls, replayed and compared.

In: a model set back to its first state, and the reference with its tensors.
Out: nothing; the first difference raises `SelfTestFailed`.
Never: changes a tolerance, or skips a leaf that it cannot compare.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from elastic_runtime.binding import tell
from elastic_runtime.errors import ElasticRuntimeError, ModelRaised, SelfTestFailed
from elastic_runtime.schema import (
    ConstLeaf,
    FloatLeaf,
    MapNode,
    Program,
    RecordNode,
    Reference,
    ReferenceCall,
    ScalarType,
    SequenceNode,
    Tree,
    ValueLeaf,
    decode_float,
    encode_float,
)

if TYPE_CHECKING:
    from elastic_runtime.model import Model


def inputs(program: Program, call: ReferenceCall, tensors: Mapping[str, np.ndarray]) -> list[Any]:
    """The flat inputs of `call`; a scalar is stored as a tensor of one element."""
    kinds = [program.values[value] for value in program.entries[call.entry].inputs]
    return [tensors[name].item() if isinstance(kind, ScalarType) and tensors[name].size == 1 else tensors[name]
            for kind, name in zip(kinds, call.inputs, strict=True)]


def replay(model: Model, reference: Reference, tensors: Mapping[str, np.ndarray]) -> None:
    """Make the reference's calls in order. Integers, bools, constants, structure, dtypes, shapes and the path
    must be equal, floats within the reference's tolerances. Raises `SelfTestFailed`."""
    for number, call in enumerate(reference.calls):
        try:
            result = model.call_flat(call.entry, inputs(model.program, call, tensors))
        except ModelRaised as error:
            if error.type != call.raises:
                raise SelfTestFailed(number, "exception", str(error), call.raises or "a result") from error
        except ElasticRuntimeError as error:
            raise SelfTestFailed(number, "the call", f"{type(error).__name__}: {error}",
                                 call.raises or "a result") from error
        else:
            if call.raises:
                raise SelfTestFailed(number, "result", tell(result), f"an exception {call.raises}")
            difference = compare(call.result, result, [tensors[name] for name in call.outputs],
                                 reference.rtol, reference.atol)
            if difference:
                raise SelfTestFailed(number, *difference)
        if call.path and call.path != model.last_path:
            raise SelfTestFailed(number, "path", model.last_path, call.path)


def compare(tree: Tree, given: Any, outputs: Sequence[np.ndarray], rtol: float, atol: float,
            place: str = "output") -> tuple[str, str, str] | None:
    """The first place where `given` differs from `tree` over `outputs`: (place, given, expected); None if none."""
    if isinstance(tree, ValueLeaf):
        return _compare_leaf(given, outputs[tree.id], rtol, atol, place)
    if isinstance(tree, (ConstLeaf, FloatLeaf)):
        expected = decode_float(tree.v) if isinstance(tree, FloatLeaf) else tree.v
        same = type(given) is type(expected) and (
            encode_float(given) == encode_float(expected) if isinstance(expected, float) else given == expected)
        return None if same else (place, tell(given), repr(expected))
    if isinstance(tree, SequenceNode):
        kind = {"tuple": tuple, "list": list}[tree.kind]
        fine = type(given) is kind and len(given) == len(tree.items)
        parts, names = given, [f"[{index}]" for index in range(len(tree.items))]
    elif isinstance(tree, RecordNode) and tree.kind == "namedtuple":
        fine = getattr(given, "_fields", None) == tree.fields
        parts, names = given, [f".{name}" for name in tree.fields]
    else:
        keys = tree.keys if isinstance(tree, MapNode) else tree.fields
        fine = isinstance(given, dict) and tuple(given) == keys
        parts, names = given.values() if fine else (), [f"[{key!r}]" for key in keys]
    if not fine:
        return place, tell(given), f"a {getattr(tree, 'kind', 'dict')} of {len(tree.items)}"
    for item, part, name in zip(tree.items, parts, names, strict=True):
        difference = compare(item, part, outputs, rtol, atol, place + name)
        if difference:
            return difference
    return None


def _compare_leaf(given: Any, expected: np.ndarray, rtol: float, atol: float,
                  place: str) -> tuple[str, str, str] | None:
    if isinstance(given, (bool, int, float)):
        fitting = {bool: "b", int: "iu", float: "f"}[type(given)]
        if expected.size != 1 or expected.dtype.kind not in fitting:
            return place, tell(given), tell(expected)
        given = np.asarray(given, expected.dtype if type(given) is not int else None).reshape(expected.shape)
    elif not isinstance(given, np.ndarray) or given.dtype != expected.dtype or given.shape != expected.shape:
        return place, tell(given), tell(expected)
    if expected.dtype.kind in "fc":
        coarse = 10 if expected.dtype == np.float16 else 1
        same = np.isclose(given, expected, rtol=rtol * coarse, atol=atol * coarse, equal_nan=True)
    else:
        same = given == expected
    if np.all(same):
        return None
    worst = tuple(int(index) for index in np.argwhere(~np.atleast_1d(same))[0])
    at = worst if given.ndim else ()
    return (f"{place}{list(at) if at else ''}", f"{given[at]!r} ({int(np.sum(~same))} of {given.size} differ)",
            repr(expected[at]))

"""What stands for the result of an operation that was refused, so that a survey can go on behind it.

In: the operation and its operands as the running program has them. Out: a value of the type, shape and kind that the
operation gives on tensors of ones; its tensors are data of unknown origin.
Never: part of a program that is built: a survey only looks for what else is refused.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from elastic_compile.capture.symbols import as_expr
from elastic_compile.capture.tracer import Tracer

#: How many entries a size that only the data decides is taken to have.
SOME = 2


def unknown(tracer: Tracer, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Something that `fn(*args, **kwargs)` may give; the first tensor among the operands where that fails too."""
    owner = getattr(fn, "__self__", None)
    with tracer.plain_torch():
        try:
            given, named = pytree.tree_map(_example, (args, kwargs))
            made = fn if not isinstance(owner, torch.Tensor) else getattr(_example(owner), fn.__name__)
            result = made(*given, **named)
        except Exception:
            tensors = [leaf for leaf in pytree.tree_leaves((owner, args, kwargs)) if isinstance(leaf, torch.Tensor)]
            result = _example(tensors[0]) if tensors else None

    def opaque(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return torch._to_functional_tensor(tracer.draw("unknown", tuple(leaf.shape), leaf.dtype))
        if isinstance(leaf, np.ndarray):
            tracer.unknown_arrays[leaf.ctypes.data] = leaf
        return leaf

    return pytree.tree_map(opaque, result)


def _example(value: Any) -> Any:
    """An operand with ones for data."""
    if isinstance(value, torch.Tensor):
        sizes = [SOME if as_expr(size) is not None else int(size) for size in value.shape]
        return torch.ones(sizes, dtype=value.dtype)
    if isinstance(value, torch.SymBool):
        return True
    if as_expr(value) is not None:
        return 1 if isinstance(value, torch.SymInt) else 1.0
    return value

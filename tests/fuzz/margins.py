"""How nearly each decision of a run was taken the other way.

In: a rewritten program bound to these hooks, on real tensors. Out: the smallest distance of anything that was compared
or rounded from what would have changed the outcome, 0 when the program did something that PyTorch leaves undefined.
Never: changes what the program does.
"""
from __future__ import annotations

import math
from typing import Any

import torch

from elastic_compile.rewrite import Hooks
from elastic_compile.rewrite.hooks import COMPARE, INPLACE


class Margins(Hooks):
    """Neutral hooks that note margins. `smallest`: infinity when nothing was decided."""

    def __init__(self) -> None:
        self.smallest = math.inf

    def note(self, distances: torch.Tensor) -> None:
        if distances.numel():
            self.smallest = min(self.smallest, float(distances.min()))

    def compare(self, site: Any, name: str, a: Any, b: Any) -> Any:
        if name not in ("in", "not in") and any(map(_floating, (a, b))):
            with torch.no_grad():
                self.note(torch.abs(torch.as_tensor(a, dtype=torch.float64) - torch.as_tensor(b, dtype=torch.float64)))
        return COMPARE[name](a, b)

    def inplace(self, site: Any, name: str, a: Any, b: Any) -> Any:
        self.written(a, b)
        return INPLACE[name](a, b)

    def setitem(self, site: Any, target: Any, key: Any, value: Any) -> None:
        self.written(target, value)
        target[key] = value

    def written(self, target: Any, value: Any) -> None:
        """Writing a tensor into memory that it lies in itself has no defined result."""
        if isinstance(target, torch.Tensor) and isinstance(value, torch.Tensor) and (
            target.untyped_storage()._cdata == value.untyped_storage()._cdata
        ) and (target.data_ptr(), target.shape, target.stride()) != (value.data_ptr(), value.shape, value.stride()):
            self.smallest = 0.0

    def call(self, site: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        tensor = getattr(fn, "__self__", None)
        if isinstance(tensor, torch.Tensor) and fn.__name__ == "argmax":
            two = torch.topk(tensor.detach().flatten(), 2).values
            self.note(two[0] - two[1])
        elif isinstance(tensor, torch.Tensor) and fn.__name__.endswith("_") and args:
            self.written(tensor, args[0])
        elif fn is int and len(args) == 1 and _floating(args[0]):
            number = float(args[0])
            self.note(torch.tensor(abs(number - round(number)) if abs(number) > 0.5 else 1.0))
        return fn(*args, **kwargs)


def _floating(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, torch.Tensor) and value.dtype.is_floating_point)

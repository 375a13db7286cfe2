"""Library control flow written as plain Python, so that it can be rewritten like the user's own.

In and out: as the library function that each stands for. Never: anything that the library function does not do.
"""
from __future__ import annotations

from typing import Any

import torch


def construct(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`kind(*args, **kwargs)` for a class that `type` itself calls."""
    made = kind.__new__(kind, *args, **kwargs)
    if isinstance(made, kind):
        type(made).__init__(made, *args, **kwargs)
    return made


def call_with_hooks(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.nn.Module.__call__` for a module that has forward hooks or pre-hooks."""
    for number, hook in list(module._forward_pre_hooks.items()):
        if number in module._forward_pre_hooks_with_kwargs:
            result = hook(module, args, kwargs)
            if result is not None:
                args, kwargs = result
        else:
            result = hook(module, args)
            if result is not None:
                args = result if isinstance(result, tuple) else (result,)
    output = module.forward(*args, **kwargs)
    for number, hook in list(module._forward_hooks.items()):
        if number in module._forward_hooks_with_kwargs:
            result = hook(module, args, kwargs, output)
        else:
            result = hook(module, args, output)
        if result is not None:
            output = result
    return output

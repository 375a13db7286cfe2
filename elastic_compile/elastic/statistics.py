"""Statistics of a subnet's own: its batch norms see the subnet's activations, not the supernet's.

In: a subnet, and calibration data or a function. Out: for the time of a `with`, the subnet with statistics of its
own; after it, the module as it was.
Never: changes a tensor that the supernet holds.

Method: the running mean and variance are averaged anew over the calibration calls (Yu and Huang, "Universally
Slimmable Networks and Improved Training Techniques", ICCV 2019, section 3.4).
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from elastic_compile.capture.signature import normalise
from elastic_compile.errors import ExampleError


@contextlib.contextmanager
def own_statistics(
    module: torch.nn.Module, recalibrate: Sequence[Any] | Callable[[torch.nn.Module], None] | None
) -> Iterator[None]:
    """Within, the batch norms of `module` that the calibration runs have statistics from it alone."""
    if recalibrate is None:
        yield
        return
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    kept = [(norm, dict(norm._buffers), norm.momentum, norm.training) for norm in norms]
    try:
        for norm in norms:
            for name, buffer in norm._buffers.items():
                norm._buffers[name] = None if buffer is None else buffer.clone()
        if callable(recalibrate):
            recalibrate(module)
        else:
            _average(module, norms, recalibrate)
        for norm, _, momentum, training in kept:
            norm.momentum, norm.training = momentum, training
        yield
    finally:
        for norm, buffers, momentum, training in kept:
            norm._buffers.update(buffers)
            norm.momentum, norm.training = momentum, training


def _average(module: torch.nn.Module, norms: list[_BatchNorm], calls: Sequence[Any]) -> None:
    """Cumulative averages over `calls` for the norms that run; the others keep what they have. Raises `ExampleError`
    where none runs."""
    ran: set[_BatchNorm] = set()
    before = {norm: {name: b.clone() for name, b in norm._buffers.items() if b is not None} for norm in norms}
    hooks = [norm.register_forward_pre_hook(lambda norm, _: ran.add(norm)) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True
        with torch.no_grad():
            for one in normalise(calls):
                module(*one.args, **one.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    if norms and not ran:
        raise ExampleError(
            "the calibration reaches none of the batch norms", reason="the module's forward reads their statistics "
            "without calling them", hint="give recalibrate a function that sets the statistics of the subnet")
    for norm in norms:
        if norm not in ran:
            for name, buffer in before[norm].items():
                norm._buffers[name].copy_(buffer)

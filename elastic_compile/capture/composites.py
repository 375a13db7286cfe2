"""Operations recorded whole instead of decomposed.

In: a call of a public PyTorch function. Out: the ATen operator and arguments that say the same in one operation,
or None where the call has a side that the operator does not cover (dropout, training statistics).
Never: operators whose result may alias an input.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

aten = torch.ops.aten
Recorded = tuple[Any, tuple[Any, ...], dict[str, Any]]
Entry = Callable[[tuple[Any, ...], dict[str, Any]], "Recorded | None"]


def _direct(target: Any) -> Entry:
    """A builtin with the operator's own signature; one int stands for a list of equal ones, as in `stride=2`."""
    arguments = target._schema.arguments
    names = [argument.name for argument in arguments]

    def entry(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recorded | None:
        if not set(kwargs) <= set(names) or any(isinstance(a, str) for a in (*args, *kwargs.values())):
            return None
        values = list(args)
        for argument in arguments[len(args):]:
            if argument.name in kwargs:
                values.append(kwargs[argument.name])
            elif argument.has_default_value():
                values.append(argument.default_value)
            else:
                return None
        return target, tuple(
            [value] * argument.N if argument.N and isinstance(value, (int, torch.SymInt)) else value
            for argument, value in zip(arguments, values, strict=True)), {}

    return entry


def _bound(function: Callable[..., Any], build: Callable[..., Any]) -> Entry:
    """A Python function: its arguments bound by name, then given to `build`."""
    signature = inspect.signature(function)

    def entry(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recorded | None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return build(**bound.arguments)

    return entry


def _layer_norm(input: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    return aten.layer_norm.default, (input, list(normalized_shape), weight, bias, eps), {}


def _group_norm(input: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Any:
    return aten.group_norm.default, (input, num_groups, weight, bias, eps), {}


def _batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, training: bool, momentum: Any, eps: float
) -> Any:
    if training or running_mean is None:
        return None
    return aten.batch_norm.default, (
        input, weight, bias, running_mean, running_var, False, momentum or 0.0, eps, False,
    ), {}


def batch_norm_in_training(
    input: torch.Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> torch.Tensor:
    """`F.batch_norm` where it may use the batch's own statistics: PyTorch's operator changes the running ones out of
    sight, so they are updated by operations of their own."""
    if training and running_mean is not None:
        dims = [0, *range(2, input.dim())]
        with torch.no_grad():
            running_mean.mul_(1 - momentum).add_(input.mean(dims) * momentum)
            running_var.mul_(1 - momentum).add_(input.var(dims, correction=1) * momentum)
        running_mean = running_var = None
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recorded | None:
    """Heads that share keys and values (grouped-query attention) get copies of them first, as PyTorch itself does."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args)) | kwargs
    if given.get("dropout_p"):
        return None
    query, key, value = given["query"], given["key"], given["value"]
    if given.get("enable_gqa"):
        key, value = (one if one.shape[-3] == query.shape[-3] else
                      one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    scale = {} if given.get("scale") is None else {"scale": given["scale"]}
    return aten.scaled_dot_product_attention.default, (
        query, key, value, given.get("attn_mask"), 0.0, bool(given.get("is_causal")),
    ), scale


def _recurrent(target: Any) -> Entry:
    """LSTM and GRU over a whole sequence: (input, hx, weights, bias, layers, dropout, training, bidirectional,
    batch_first); the packed-sequence form is left alone."""

    def entry(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recorded | None:
        if kwargs or len(args) != 9 or not isinstance(args[3], bool):
            return None
        return target, (*args[:5], 0.0, False, *args[7:]), {}

    return entry


COMPOSITES: dict[Any, Entry] = {
    F.linear: _direct(aten.linear.default),
    torch.conv1d: _direct(aten.conv1d.default),
    torch.conv2d: _direct(aten.conv2d.default),
    torch.conv3d: _direct(aten.conv3d.default),
    torch.conv_transpose1d: _direct(aten.conv_transpose1d.default),
    torch.conv_transpose2d: _direct(aten.conv_transpose2d.input),
    F.layer_norm: _bound(F.layer_norm, _layer_norm),
    F.group_norm: _bound(F.group_norm, _group_norm),
    F.batch_norm: _bound(F.batch_norm, _batch_norm),
    F.scaled_dot_product_attention: _attention,
    torch.matmul: _direct(aten.matmul.default),
    torch.Tensor.matmul: _direct(aten.matmul.default),
    torch.Tensor.__matmul__: _direct(aten.matmul.default),
    torch.det: _direct(aten.linalg_det.default),
    torch.Tensor.det: _direct(aten.linalg_det.default),
    torch.linalg.det: _direct(aten.linalg_det.default),
    torch.lstm: _recurrent(aten.lstm.input),
    torch.gru: _recurrent(aten.gru.input),
}
COMPOSITES[F.conv1d] = COMPOSITES[torch.conv1d]
COMPOSITES[F.conv2d] = COMPOSITES[torch.conv2d]
COMPOSITES[F.conv3d] = COMPOSITES[torch.conv3d]

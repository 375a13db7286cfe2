"""Random operations as a draw by the runtime and deterministic arithmetic on it.

In: a random ATen operation of the running program. Out: the same distribution from uniform, normal or exponential
draws, which the runtime takes from its own seeded generator.
Never: reproduces PyTorch's stream of numbers: a compiled program has the same distribution, not the same sample.

Sampling without replacement uses exponential races (Efraimidis and Spirakis 2006, "Weighted random sampling with a
reservoir"): the k largest of weight / exponential are a sample without replacement.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten

#: `draw(kind, sizes, dtype)` and `op(target, *args, **kwargs)`, both recorded.
Draw = Callable[[str, tuple[Any, ...], torch.dtype], torch.Tensor]
Operate = Callable[..., torch.Tensor]


def floating(dtype: torch.dtype | None) -> torch.dtype:
    """The dtype to draw in for a wanted dtype."""
    wanted = dtype or torch.get_default_dtype()
    return wanted if wanted in (torch.float32, torch.float64) else torch.float32


def _filled(kind: str) -> Callable[..., torch.Tensor]:
    def make(draw: Draw, op: Operate, size: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
        drawn = draw(kind, tuple(size), floating(dtype))
        return drawn if dtype in (None, drawn.dtype) else op(aten._to_copy.default, drawn, dtype=dtype)

    return make


def _like(kind: str) -> Callable[..., torch.Tensor]:
    def make(draw: Draw, op: Operate, like: torch.Tensor, dtype: Any = None, **_: Any) -> torch.Tensor:
        return _filled(kind)(draw, op, like.shape, dtype or like.dtype)

    return make


def _bernoulli(draw: Draw, op: Operate, p: torch.Tensor, **_: Any) -> torch.Tensor:
    drawn = draw("uniform", tuple(p.shape), floating(p.dtype))
    return op(aten._to_copy.default, op(aten.lt.Tensor, drawn, p), dtype=p.dtype)


def _bernoulli_p(draw: Draw, op: Operate, like: torch.Tensor, p: float = 0.5, **_: Any) -> torch.Tensor:
    drawn = draw("uniform", tuple(like.shape), floating(None))
    return op(aten._to_copy.default, op(aten.lt.Scalar, drawn, p), dtype=like.dtype)


def _uniform(draw: Draw, op: Operate, like: Any, low: float = 0.0, high: float = 1.0, **_: Any) -> torch.Tensor:
    drawn = draw("uniform", tuple(like.shape), floating(like.dtype))
    return op(aten.add.Scalar, op(aten.mul.Scalar, drawn, high - low), low)


def _normal(draw: Draw, op: Operate, like: Any, mean: float = 0.0, std: float = 1.0, **_: Any) -> torch.Tensor:
    drawn = draw("normal", tuple(like.shape), floating(like.dtype))
    return op(aten.add.Scalar, op(aten.mul.Scalar, drawn, std), mean)


def _normal_sized(draw: Draw, op: Operate, mean: float, std: float, size: Any, dtype: Any = None, **_: Any) -> Any:
    drawn = draw("normal", tuple(size), floating(dtype))
    return op(aten.add.Scalar, op(aten.mul.Scalar, drawn, std), mean)


def _normal_around(draw: Draw, op: Operate, mean: torch.Tensor, std: Any = 1.0, **_: Any) -> torch.Tensor:
    drawn = draw("normal", tuple(mean.shape), floating(mean.dtype))
    scaled = op(aten.mul.Tensor, drawn, std) if isinstance(std, torch.Tensor) else op(aten.mul.Scalar, drawn, std)
    return op(aten.add.Tensor, scaled, mean)


def _exponential(draw: Draw, op: Operate, like: torch.Tensor, rate: float = 1.0, **_: Any) -> torch.Tensor:
    return op(aten.div.Scalar, draw("exponential", tuple(like.shape), floating(like.dtype)), rate)


def _multinomial(
    draw: Draw, op: Operate, weights: torch.Tensor, count: int, replacement: bool = False, **_: Any
) -> torch.Tensor:
    if count == 1 or not replacement:
        race = op(aten.div.Tensor, weights, draw("exponential", tuple(weights.shape), floating(weights.dtype)))
        if count == 1:
            return op(aten.argmax.default, race, -1, True)
        return op(aten.topk.default, race, count)[1]
    shape = (*weights.shape[:-1], count, weights.shape[-1])
    race = op(aten.div.Tensor, op(aten.unsqueeze.default, weights, -2),
              draw("exponential", shape, floating(weights.dtype)))
    return op(aten.argmax.default, race, -1)


def _randint(draw: Draw, op: Operate, low: int, high: int, size: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
    scaled = op(aten.mul.Scalar, draw("uniform", tuple(size), torch.float64), float(high - low))
    whole = op(aten._to_copy.default, op(aten.floor.default, scaled), dtype=dtype or torch.int64)
    return op(aten.add.Scalar, whole, low)


def _randint_from_zero(draw: Draw, op: Operate, high: int, size: Any, **options: Any) -> torch.Tensor:
    return _randint(draw, op, 0, high, size, **options)


def _randperm(draw: Draw, op: Operate, n: int, dtype: Any = None, **_: Any) -> torch.Tensor:
    return op(aten.argsort.default, draw("uniform", (n,), torch.float64))


def _dropout(draw: Draw, op: Operate, x: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, Any]:
    keep = op(aten.ge.Scalar, draw("uniform", tuple(x.shape), floating(x.dtype)), p)
    return op(aten.div.Scalar, op(aten.mul.Tensor, x, keep), 1.0 - p), keep


RANDOM: dict[Any, Callable[..., Any]] = {
    aten.rand.default: _filled("uniform"),
    aten.randn.default: _filled("normal"),
    aten.rand_like.default: _like("uniform"),
    aten.randn_like.default: _like("normal"),
    aten.bernoulli.default: _bernoulli,
    aten.bernoulli.p: _bernoulli_p,
    aten.uniform.default: _uniform,
    aten.normal_functional.default: _normal,
    aten.normal.float_float: _normal_sized,
    aten.normal.Tensor_float: _normal_around,
    aten.normal.Tensor_Tensor: _normal_around,
    aten.exponential.default: _exponential,
    aten.multinomial.default: _multinomial,
    aten.randint.default: _randint_from_zero,
    aten.randint.low: _randint,
    aten.randperm.default: _randperm,
    aten.native_dropout.default: _dropout,
}

"""Where rounding decides: the places of a region's results that no two implementations need agree on.

In: a region and data for it. Out: masks over its outputs, true where PyTorch's own result is one of several that
differently rounded arithmetic gives, or what a solver left that found no solution.
Never: calls a place undecided because two results differ; only what PyTorch computes is looked at.

Random rounding (Vignes 1993, "A stochastic arithmetic for reliable scientific computation"): the region is computed
several times, every floating-point result changed by about what rounding may be. A comparison is undecided where the
difference of its operands is no larger than what rounding adds to it, and then goes either way.
"""
from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.utils._pytree as pytree

from elastic_compile.program.export import run_eager
from elastic_compile.program.ir import Graph, Program

#: What rounding changes, in parts of a tensor's largest number, and how often it is tried.
ROUNDING, TRIALS = 1e-6, 8

aten = torch.ops.aten
COMPARISONS = frozenset(
    getattr(getattr(aten, name), kind) for name in ("lt", "le", "gt", "ge", "eq", "ne") for kind in ("Tensor", "Scalar")
)

SOLVERS = frozenset({aten._linalg_solve_ex.default, aten.linalg_inv_ex.default})


def undecided(
    program: Program, graph: Graph, inputs: list[torch.Tensor], expected: list[torch.Tensor], rtol: float, atol: float
) -> list[torch.Tensor]:
    """A mask per output of the region, over `expected` (PyTorch's results for `inputs`): where results of different
    rounding lie further apart than the tolerances. Everywhere, when they differ in shape or PyTorch raises."""
    masks = [torch.zeros(one.shape, dtype=torch.bool) for one in expected]
    try:
        plain = _Trial(0, {}, 0.0)
        plain.run(program, graph, inputs)
        added = {number: torch.zeros_like(one) for number, one in plain.differences.items()}
        for seed in range(TRIALS):
            trial = _Trial(seed, {})
            trial.run(program, graph, inputs)
            for number, one in plain.differences.items():
                added[number] = torch.maximum(added[number], (trial.differences[number] - one).abs())
        unsure = {
            number: (one.abs() <= 2 * added[number]) & (added[number] > 0) for number, one in plain.differences.items()}
        for seed in range(TRIALS, 2 * TRIALS):
            results = _Trial(seed, unsure).run(program, graph, inputs)
            for mask, one, wanted in zip(masks, results, expected):
                if wanted.is_floating_point():
                    mask |= ~torch.isclose(one, wanted, rtol, atol, equal_nan=True)
                else:
                    mask |= one != wanted
    except (RuntimeError, IndexError):
        return [torch.ones_like(mask) for mask in masks]
    return masks


def unsolved(
    program: Program, graph: Graph, inputs: list[torch.Tensor], expected: list[torch.Tensor]
) -> list[torch.Tensor]:
    """A mask per output of the region, over `expected`: where it depends on the solution of a linear system that has
    none. What a solver leaves there is nobody's result; that there is none is, and is not masked."""
    def run(fill: float) -> list[torch.Tensor]:
        def apply(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = target(*args, **kwargs)
            if target not in SOLVERS:
                return result
            solution, *rest = result
            failed = (rest[-1] != 0).reshape(rest[-1].shape + (1,) * (solution.dim() - rest[-1].dim()))
            return torch.where(failed, fill, solution), *rest
        return run_eager(program, graph, inputs, apply)

    if not any(op.target in SOLVERS for op in graph.ops):
        return [torch.zeros(one.shape, dtype=torch.bool) for one in expected]
    return [~((one == other) | (one.isnan() & other.isnan())) for one, other in zip(run(1.0), run(2.0))]


class _Trial:
    """One run of a region. `unsure`: by the number of a comparison, where it goes either way; `differences`: between
    the operands of each comparison; `rounding`: as `ROUNDING`."""

    def __init__(self, seed: int, unsure: dict[int, torch.Tensor], rounding: float = ROUNDING) -> None:
        self.rounding = rounding
        self.draw = torch.Generator().manual_seed(seed)
        self.unsure = unsure
        self.differences: dict[int, torch.Tensor] = {}
        self.count = itertools.count()

    def run(self, program: Program, graph: Graph, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return run_eager(program, graph, [self.rounded(one) for one in inputs], self.apply)

    def apply(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = target(*args, **kwargs)
        if target in COMPARISONS and any(isinstance(one, torch.Tensor) and one.is_floating_point() for one in args):
            number = next(self.count)
            self.differences[number] = torch.as_tensor(args[0]).double() - torch.as_tensor(args[1]).double()
            if number in self.unsure:
                other = torch.rand(result.shape, generator=self.draw) < 0.5
                result = result ^ (other & self.unsure[number])
            return result
        return pytree.tree_map_only(torch.Tensor, self.rounded, result)

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor rounded otherwise; whole numbers are taken for exact."""
        if not tensor.is_floating_point() or not tensor.numel():
            return tensor
        size = torch.nan_to_num(tensor.abs(), 0.0, 0.0).max()
        noise = torch.randn(tensor.shape, generator=self.draw).to(tensor.dtype) * (size * self.rounding)
        return torch.where(tensor == tensor.round(), tensor, tensor + noise)

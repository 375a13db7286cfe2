"""Which layers to leave out, by dynamic programming.

In: a number of layers, a score for a set of removed layers, optionally the cost of each layer. Out: for each number
of removed layers the best set found. Never: removes a layer that it was told to keep.

The depth shrinking of AmoebaLLM (Fu et al., NeurIPS 2024): let S(n, m) be the best way to remove m of the
first n layers, the others being all there. Then S(n, m) is the better of S(n-1, m) and S(n-1, m-1) + {n}, judged by
the network's own score: about n·m evaluations instead of n over m.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DepthChoice:
    """`removed` layers (from 0, ascending), the score without them, the summed cost of the layers that stay."""

    removed: tuple[int, ...]
    score: float
    cost: float


def select_depth(
    layers: int,
    most_removed: int,
    score: Callable[[tuple[int, ...]], float],
    *,
    costs: Sequence[float] | None = None,
    keep: Sequence[int] = (),
) -> tuple[DepthChoice, ...]:
    """The best choice for each number of removed layers from 0 to `most_removed`.

    `score(removed)`: larger is better; each set is scored once. `costs`: per layer, for instance ms of a table
    (default 1 each). `keep`: layers that stay. Raises ValueError for numbers that do not fit together.
    """
    free = [layer for layer in range(layers) if layer not in set(keep)]
    if layers < 1 or not 0 <= most_removed <= len(free):
        raise ValueError(f"cannot remove {most_removed} of {layers} layers, {len(free)} of which may go")
    costs = [1.0] * layers if costs is None else list(costs)
    if len(costs) != layers or min(costs) < 0:
        raise ValueError(f"expected {layers} costs of zero or more, given {costs}")
    scores: dict[tuple[int, ...], float] = {}

    def scored(removed: tuple[int, ...]) -> float:
        if removed not in scores:
            scores[removed] = float(score(removed))
        return scores[removed]

    best: list[tuple[int, ...] | None] = [(), *[None] * most_removed]
    for layer in free:
        for count in range(most_removed, 0, -1):
            if best[count - 1] is None:
                continue
            grown = (*best[count - 1], layer)
            if best[count] is None or scored(grown) > scored(best[count]):
                best[count] = grown
    return tuple(DepthChoice(removed, scored(removed), sum(costs) - sum(costs[layer] for layer in removed))
                 for removed in best)


def within(choices: Sequence[DepthChoice], budget: float) -> DepthChoice | None:
    """The best-scored choice whose cost is at most `budget`; None when there is none."""
    fitting = [choice for choice in choices if choice.cost <= budget]
    return max(fitting, key=lambda choice: choice.score, default=None)

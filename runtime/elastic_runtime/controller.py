"""Holds a latency objective over a stream of requests by switching among subnets.

In: a model with a latency table, an objective. Out: the results of calls.
Never: drops or delays a request, or tries a slower subnet to find out whether it is fast enough now.
"""
from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

from elastic_runtime.errors import NoSubnetFits
from elastic_runtime.model import Model
from elastic_runtime.selection import Wish

_PATIENCE = 24
_MOST_PATIENCE = 1024


@dataclass(frozen=True)
class Served:
    """The latest request: the subnet that ran, its latency in ms (waiting included), the factor by which the device is
    slower than its table."""

    subnet: str
    latency_ms: float
    scale: float


class Controller:
    """`controller(*args)` is `model(*args)` on the best subnet whose latency stays within `slo_ms` at `percentile`.

    A request that breaks the estimate leads to a smaller subnet at once; to a larger one only after `patience` requests
    in a row for which it would have kept the objective with a tenth to spare. When a larger one had to be left again
    soon, patience doubles (up to 1024 requests), so that a load at the edge does not make it swing.
    """

    def __init__(self, model: Model, slo_ms: float, percentile: float = 99.0, *, min_quality: float | None = None,
                 memory_mb: float | None = None, patience: int = _PATIENCE, insist: bool = False) -> None:
        """Raises `InputError` for numbers out of range or a bundle without a table, `TableMismatch` for a table of
        another device unless `insist`, `NoSubnetFits` when no subnet has that quality and memory."""
        self.model = model
        self.wish = Wish(slo_ms, memory_mb, min_quality, percentile)
        self._selector = model.selector(insist=insist)
        self._patience = self._first_patience = patience
        self._better, self._since = 0, patience
        self.last: Served | None = None
        self._allowed = Wish(None, memory_mb, min_quality)
        self._selector.choose(model.active, self._allowed)
        model.switch(self._choice())

    def __call__(self, *args: Any, waited_ms: float = 0.0, **kwargs: Any) -> Any:
        """Run a request. `waited_ms`: how long it waited before, which counts as latency. Raises as `model` does."""
        model = self.model
        start = perf_counter()
        result = model(*args, **kwargs)
        self.last = Served(model.last_subnet, (perf_counter() - start) * 1e3 + waited_ms, self._selector.scale)
        self._decide(waited_ms)
        return result

    def _choice(self, waited_ms: float = 0.0) -> str:
        """The subnet for the objective, or the fastest allowed one where none keeps it."""
        wish, selector = self.wish, self._selector
        left = max(wish.latency_ms - waited_ms, 1e-9)
        try:
            return selector.choose(self.model.active, Wish(left, wish.memory_mb, wish.min_quality, wish.percentile))
        except NoSubnetFits as error:
            return error.nearest

    def _decide(self, waited_ms: float) -> None:
        model, selector = self.model, self._selector
        active, choice = model.active, self._choice(waited_ms)
        self._since += 1
        if choice == active:
            self._better = 0
            if self._since > 8 * self._patience:
                self._patience = self._first_patience
            return
        if selector.table_ms[choice] < selector.table_ms[active]:
            if self._since <= 2 * self._patience:
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
            self._better = 0
            model.switch(choice)
            return
        self._better += 1
        if self._better >= self._patience:
            self._better, self._since = 0, 0
            model.switch(choice)

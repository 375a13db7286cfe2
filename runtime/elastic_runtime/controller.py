"""Holds a latency objective over a stream of requests by switching among subnets.

In: a model with a latency table, an objective. Out: the results of calls.
Never: drops or delays a request, or tries a slower subnet to find out whether it is fast enough now.
"""
from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

from elastic_runtime import device
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

    Before each request the latencies to expect are the table's, times the largest of three factors: what calls took
    lately, their tail included; how many threads want each core at this moment, where the system tells; and, after a
    request that broke the objective, its own factor for the next `patience` requests. The second one sees a load before
    a request meets it, and keeps a small subnet, which the load hardly slows down, from passing for a fast device.

    A smaller subnet is taken at once; a larger one only after `patience` requests in a row for which it would have kept
    the objective with a tenth to spare. When a larger one had to be left again soon, and no crowd says why, patience
    doubles (up to 1024 requests), so that a load at the edge does not make it swing.
    """

    def __init__(self, model: Model, slo_ms: float, percentile: float = 99.0, *, min_quality: float | None = None,
                 memory_mb: float | None = None, patience: int = _PATIENCE, insist: bool = False) -> None:
        """Raises `InputError` for numbers out of range or a bundle without a table, `TableMismatch` for a table of
        another device unless `insist`, `NoSubnetFits` when no subnet has that quality and memory."""
        self.model = model
        self.wish = Wish(slo_ms, memory_mb, min_quality, percentile)
        self._selector = model.selector(insist=insist)
        self._crowd = device.Crowd()
        self._patience = self._first_patience = patience
        self._better, self._since = 0, patience
        self._alarm, self._alarmed = 0.0, 0
        self.last: Served | None = None
        self._selector.choose(model.active, Wish(None, memory_mb, min_quality))
        model.switch(self._choice(0.0))

    def __call__(self, *args: Any, waited_ms: float = 0.0, **kwargs: Any) -> Any:
        """Run a request. `waited_ms`: how long it waited before, which counts as latency. Raises as `model` does."""
        model, selector = self.model, self._selector
        start = perf_counter()
        self._decide(waited_ms)
        result = model(*args, **kwargs)
        taken = (perf_counter() - start) * 1e3
        self.last = Served(model.last_subnet, taken + waited_ms, selector.scale)
        self._alarmed = max(0, self._alarmed - 1)
        if self.last.latency_ms > self.wish.latency_ms and model.last_subnet in selector.table_ms:
            self._alarm, self._alarmed = taken / selector.table_ms[model.last_subnet], self._first_patience
        return result

    def _choice(self, waited_ms: float) -> str:
        """The subnet for the objective, or the fastest allowed one where none keeps it."""
        wish = self.wish
        left = max(wish.latency_ms - waited_ms, 1e-9)
        self._selector.crowd = crowd = self._crowd.share(self.model.threads)
        expected = max(crowd * (1 + self._selector.margin) if crowd > 1 else 1.0, self._alarm if self._alarmed else 1.0)
        try:
            return self._selector.choose(
                self.model.active, Wish(left, wish.memory_mb, wish.min_quality, wish.percentile), expected)
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
        if selector.table_ms[choice] < selector.table_ms.get(active, float("inf")):
            if self._since <= 2 * self._patience and selector.crowd <= 1:
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
            self._better = 0
            model.switch(choice)
            return
        self._better += 1
        if self._better >= self._patience:
            self._better, self._since = 0, 0
            model.switch(choice)

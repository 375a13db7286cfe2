"""Holds a latency objective over a stream of requests by switching among subnets.

In: a model with a latency table, an objective. Out: the results of calls.
Never: drops or delays a request, or tries a slower subnet to find out whether it is fast enough now.
"""
from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from elastic_runtime import device
from elastic_runtime.errors import InputError, NoSubnetFits
from elastic_runtime.model import Model
from elastic_runtime.selection import Wish

_PATIENCE = 24
_LONGEST_PERIOD = 10_000
_LONGEST_PAUSE = 16
_STALL = 4
_CAREFUL = 0.5


@dataclass(frozen=True)
class Served:
    """The latest request: the subnet that ran, its latency in ms (waiting included), the factor by which the device is
    slower than its table."""

    subnet: str
    latency_ms: float
    scale: float


@dataclass(frozen=True)
class _Bar:
    """Keeps a subnet and all slower ones from the requests before number `until`, in a crowd of `crowd` or more."""

    until: int
    crowd: float
    pause: int


class Controller:
    """`controller(*args)` is `model(*args)` on the best subnet whose latency stays within `slo_ms` at `percentile`.

    Before each request the latencies to expect are the table's, times the largest of three factors: what calls took
    lately; how many threads want each core at this moment, where the system tells; and, after a request that broke the
    objective, its own factor for the next `patience` requests. The second one sees a load before a request meets it,
    and keeps a small subnet, which the load hardly slows down, from passing for a fast device.

    A smaller subnet is taken at once; a larger one only after `patience` requests in a row for which it would have kept
    the objective with a tenth to spare.

    The percentile allows one miss in a *period*: 100 requests for 99 %. The subnet that missed and all slower ones sit
    the next period out, in a crowd like that one or a larger one; two periods when they fail again within a period, up
    to 16. So trying a larger subnet loses at most one request of a period, whatever the load does. In a crowd, the
    other subnets have to keep the objective with half of it to spare until the period ends. A single miss of a subnet
    that needs less than a quarter of the objective is the system's, and a smaller one would have waited as well: it
    sits out only when the next request misses too, or more of its latest ones than the percentile allows.
    """

    def __init__(self, model: Model, slo_ms: float, percentile: float = 99.0, *, min_quality: float | None = None,
                 memory_mb: float | None = None, patience: int = _PATIENCE, insist: bool = False) -> None:
        """Raises `InputError` for numbers out of range or a bundle without a table, `TableMismatch` for a table of
        another device unless `insist`, `NoSubnetFits` when no subnet has that quality and memory."""
        if not 50 <= percentile < 100:
            raise InputError("percentile", "value", percentile, "at least 50, less than 100")
        self.model = model
        self.wish = Wish(slo_ms, memory_mb, min_quality)
        self._selector = model.selector(insist=insist)
        self._crowd, self._here = device.Crowd(), 1.0
        self._patience = patience
        self._period = min(math.ceil(100 / (100 - percentile) - 1e-9), _LONGEST_PERIOD)
        self._served, self._arrived, self._better = 0, 0, 0
        self._alarm, self._alarmed = 0.0, 0
        self._missed, self._careful_until = False, 0
        self._outcomes: defaultdict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=2 * self._period))
        self._bars: dict[str, _Bar] = {}
        self.last: Served | None = None
        self._selector.choose(model.active, Wish(None, memory_mb, min_quality))
        model.switch(self._choice(0.0))

    def __call__(self, *args: Any, waited_ms: float = 0.0, **kwargs: Any) -> Any:
        """Run a request. `waited_ms`: how long it waited before, which counts as latency. Raises as `model` does."""
        model = self.model
        start = perf_counter()
        self._decide(waited_ms)
        result = model(*args, **kwargs)
        taken = (perf_counter() - start) * 1e3
        self.last = Served(model.last_subnet, taken + waited_ms, self._selector.scale)
        self._learn(model.last_subnet, taken, self.last.latency_ms > self.wish.latency_ms)
        return result

    # -------------------------------------------------------------------------------------------- before a request
    def _choice(self, waited_ms: float) -> str:
        """The subnet for the objective, or the fastest allowed one where none keeps it."""
        wish, selector = self.wish, self._selector
        self._here = crowd = self._crowd.share(self.model.threads)
        careful = crowd > 1 and self._served < self._careful_until
        left = max(wish.latency_ms * (_CAREFUL if careful else 1.0) - waited_ms, 1e-9)
        expected = max(crowd * (1 + selector.margin) if crowd > 1 else 1.0, self._alarm if self._alarmed else 1.0)
        try:
            return selector.choose(self.model.active, Wish(left, wish.memory_mb, wish.min_quality), expected,
                                   self._barred(crowd))
        except NoSubnetFits as error:
            return error.nearest

    def _barred(self, crowd: float) -> float:
        """The table's latency in ms from which on subnets are barred."""
        table = self._selector.table_ms
        return min((table[name] for name, bar in self._bars.items()
                    if self._served < bar.until and crowd >= bar.crowd), default=math.inf)

    def _decide(self, waited_ms: float) -> None:
        model, table = self.model, self._selector.table_ms
        active, choice = model.active, self._choice(waited_ms)
        if choice == active:
            self._better = 0
            return
        if table[choice] < table.get(active, math.inf):
            if active in table and self._here <= 1 and self._served - self._arrived <= 2 * self._patience:
                self._bar(active, self._here)
            self._better = 0
            model.switch(choice)
            return
        self._better += 1
        if self._better >= self._patience:
            self._better, self._arrived = 0, self._served
            model.switch(choice)

    # --------------------------------------------------------------------------------------------- after a request
    def _learn(self, name: str, taken: float, missed: bool) -> None:
        table, again = self._selector.table_ms.get(name), self._missed
        self._served, self._alarmed, self._missed = self._served + 1, max(0, self._alarmed - 1), missed
        if table is None:
            return
        outcomes = self._outcomes[name]
        outcomes.append(missed)
        if not missed:
            return
        self._careful_until = self._served + self._period
        if not again and _STALL * self._selector.estimate_ms(name) <= self.wish.latency_ms and (
                sum(outcomes) * self._period <= len(outcomes) + self._period):
            return
        self._alarm, self._alarmed = taken / table, self._patience
        self._bar(name, max(self._here, self._crowd.share(self.model.threads)))

    def _bar(self, name: str, crowd: float) -> None:
        last = self._bars.get(name)
        soon = last is not None and self._served - self._arrived <= self._period
        pause = min(2 * last.pause, _LONGEST_PAUSE * self._period) if soon else self._period
        self._bars[name] = _Bar(self._served + pause, crowd, pause)

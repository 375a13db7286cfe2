"""The whole subnets that a table measured, as a predictor takes them.

In: a latency table. Out: configurations, latencies in ms, times. Never: includes an entry without a timing.
"""
from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from elastic_compile.profile.space import Space
from elastic_runtime.latency_table import LatencyTable, TableError


@dataclass(frozen=True)
class Anchors:
    """Measured subnets, in the order of time where the table knows it. `at`: seconds, None where a time is missing.

        fit(space, anchors.configurations, anchors.latency_ms, at=anchors.at)
    """

    configurations: tuple[dict, ...]
    latency_ms: tuple[float, ...]
    at: tuple[float, ...] | None


def anchors(table: LatencyTable, space: Space) -> Anchors:
    """The entries of kind "subnet" that have a timing, their configurations in canonical form.

    Raises `OutOfSpace` for a configuration of another space, `TableError` for a time that is not ISO 8601.
    """
    found = []
    for entry in table.entries:
        if entry.kind == "subnet" and entry.timing is not None:
            found.append((_seconds(entry.key, entry.measured), space.canonical(entry.config), entry.timing.ms))
    timed = all(seconds is not None for seconds, _, _ in found)
    if timed:
        found.sort(key=lambda anchor: anchor[0])
    return Anchors(tuple(configuration for _, configuration, _ in found), tuple(ms for _, _, ms in found),
                   tuple(seconds for seconds, _, _ in found) if timed and found else None)


def _seconds(key: str, measured: str) -> float | None:
    if not measured:
        return None
    try:
        return msgspec.convert(measured, datetime).timestamp()
    except msgspec.ValidationError:
        raise TableError(key, "measured", measured, "a time in ISO 8601, such as 2026-01-31T12:00:00Z") from None

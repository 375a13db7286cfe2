"""Latency lookup tables of Once-for-All and ProxylessNAS, as latency tables.

In: their YAML (one mapping per block: `mean`, and mostly `count` and `std`), and what the file does not say: the
unit, the device and the environment. Out: a `LatencyTable` with one entry per block, its key kept as written.
Never: guesses a unit, a device or a missing number.

The format: han-cai/proxylessnas and mit-han-lab/once-for-all, `latency_lookup_table`; a key spells the block,
for instance `expanded_conv-input:10x10x136-output:10x10x136-expand:408-kernel:3-stride:1-idskip:1-se:1-hs:1`.
"""
from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

import yaml

from elastic_runtime import latency_table
from elastic_runtime.latency_table import Device, Entry, Environment, LatencyTable, TableError, Timing

_MS = {"ms": 1.0, "s": 1e3, "us": 1e-3}
_BYTES = 64 << 20


class _Loader(yaml.SafeLoader):
    """Plain YAML without repeated keys and without references."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "references are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: str | os.PathLike[str], *, unit: Literal["ms", "s", "us"], device: Device,
         environment: Environment) -> LatencyTable:
    """Read a lookup table file. `unit` is what its `mean` and `std` are in.

    Raises `TableError` for a file that is not such a table, or has a mean that is missing, negative, zero or not
    finite; OSError.
    """
    file = str(path)
    if unit not in _MS:
        raise TableError(file, "unit", unit, f"one of {', '.join(_MS)}", "The file does not say its unit.")
    raw = Path(path).read_bytes()
    if len(raw) > _BYTES:
        raise TableError(file, "size", f"{len(raw)} bytes", f"<= {_BYTES}")
    try:
        content = yaml.load(raw, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TableError(file, "yaml", " ".join(str(error).split()), "a YAML mapping, whole") from None
    if not isinstance(content, dict) or not content:
        raise TableError(file, "yaml", type(content).__name__, "a mapping from blocks to measurements")
    return latency_table.table(device, environment, (
        _entry(file, key, fields, _MS[unit]) for key, fields in content.items()))


def _entry(file: str, key: Any, fields: Any, factor: float) -> Entry:
    where = f"{file}: {key}"
    if not isinstance(key, str) or not isinstance(fields, dict):
        raise TableError(where, "block", type(fields).__name__, "a mapping with mean, count and std")
    unknown = sorted(map(str, set(fields) - {"mean", "count", "std"}))
    if unknown:
        raise TableError(where, "unknown-key", unknown, "mean, count and std")
    mean = _number(where, fields, "mean")
    if mean is None:
        raise TableError(where, "missing", sorted(fields), "mean")
    count, std = fields.get("count", 1), _number(where, fields, "std")
    if isinstance(count, bool) or not isinstance(count, int):
        raise TableError(where, "count", count, "an integer")
    half = 1.96 * std / math.sqrt(count) if std is not None and count >= 6 else None
    return Entry(
        id=latency_table.content_id("region", {"once-for-all block": key}), key=key, kind="region",
        timing=Timing(
            count=count, mean_ms=mean * factor, spread_ms=None if std is None else std * factor,
            low_ms=None if half is None or half >= mean else (mean - half) * factor,
            high_ms=None if half is None else (mean + half) * factor))


def _number(where: str, fields: dict, name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TableError(where, name, value, "a number")
    return float(value)

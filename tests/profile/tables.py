"""Small latency tables for tests."""
from __future__ import annotations

import numpy as np

from elastic_runtime import latency_table as lt

DEVICE = lt.Device(name="bench", model="Some CPU", architecture="x86_64", cores=2, features=("avx2",))
ENVIRONMENT = lt.Environment(backend="onnxruntime", version="1.32.0", threads=1)


def entry(key: str, centre: float = 2.0, runs: int = 50, seed: int = 0, **fields) -> lt.Entry:
    """An entry of `runs` runs around `centre` ms with 1 % noise."""
    samples = centre * np.random.default_rng(seed).normal(1.0, 0.01, runs)
    return lt.Entry(id=lt.content_id("region", {"graph": key}), key=key, kind="region",
                    **{"timing": lt.summarise(samples), **fields})


def small(*entries: lt.Entry) -> lt.LatencyTable:
    return lt.table(DEVICE, ENVIRONMENT, entries or (entry("a", 1.0), entry("b", 2.0)))

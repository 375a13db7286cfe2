"""Search problems for tests: importable evaluations, so that other processes can call them."""
from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from elastic_compile.profile import Categorical, Integer, Space, When
from elastic_compile.search import Estimate, Limit, Objective, Problem, exactly

SPACE = Space((
    Integer("depth", 1, 4),
    *(Categorical(f"k{i}", (3, 5, 7), when=When("depth", tuple(range(i, 5)))) for i in range(1, 5)),
    Integer("width", 1, 6),
))


def cost(c) -> float:
    return c["width"] * (1 + sum(c[f"k{i}"] for i in range(1, c["depth"] + 1)))


def quality(c) -> dict[str, float]:
    """Saturating in each block, with an interaction; a hard trade against `cost`."""
    blocks = sum(1 - np.exp(-c[f"k{i}"] / (2 + i)) for i in range(1, c["depth"] + 1))
    return {"quality": float(10 * blocks * np.log1p(c["width"]) - 0.3 * (c["k1"] == 7) * c["width"])}


def failing(c) -> dict[str, float]:
    if c["width"] == 3:
        raise RuntimeError("out of memory")
    return quality(c)


def slow_and_logged(c) -> dict[str, float]:
    """Writes a line per call into the file that ELASTIC_TEST_LOG names."""
    with open(Path(os.environ["ELASTIC_TEST_LOG"]), "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.02)
    return quality(c)


def problem(*limits: Limit, evaluate=quality, margin: float = 0.0) -> Problem:
    """Cost is predicted with ±`margin` (relative), quality is measured."""
    def estimate(configurations) -> Estimate:
        value = exactly(cost)(configurations).value
        return Estimate(value, value * (1 - margin), value * (1 + margin))
    return Problem(SPACE, (Objective("cost", estimate=estimate), Objective("quality", maximise=True)), evaluate, limits)

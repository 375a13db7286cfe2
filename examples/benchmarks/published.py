"""Other people's measurements of elastic networks, as spaces, configurations and numbers.

In: a folder with the published files (`ELASTIC_PUBLISHED_DATA`, else `../shared/data` beside the checkout).
Out: per data set a space, its configurations and measured values. Never: downloads anything.

Sources: HELP (Lee et al., NeurIPS 2021) for Once-for-All subnets on GPUs; HAT (Wang et al., ACL 2020) for
transformers on CPUs; DyNAS-T (Cummings et al., 2022) for ImageNet accuracies of Once-for-All subnets.
"""
from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from elastic_compile.profile import Categorical, Integer, Real, Space, When

DATA = Path(os.environ.get("ELASTIC_PUBLISHED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

TITAN_1, TITAN_64, V100_64 = "titan_rtx_1_ms", "titan_rtx_64_ms", "v100_64_ms"
HAT_CPU = ("wmt14ende_cpu_raspberrypi", "wmt14enfr_cpu_raspberrypi", "wmt14ende_cpu_xeon", "wmt14enfr_cpu_xeon")


@dataclass(frozen=True, eq=False)
class Measured:
    """`values[name][i]` belongs to `configurations[i]`; rows are in the order of the file."""

    space: Space
    configurations: list[dict]
    values: dict[str, np.ndarray]


def once_for_all_space(resolutions: Integer | None) -> Space:
    """MobileNetV3 of Once-for-All: five stages of two to four blocks; a block's kernel size and expansion count when
    the stage is deep enough."""
    decisions: list = []
    for stage in range(5):
        decisions.append(Categorical(f"d{stage}", (2, 3, 4)))
        for block in range(4):
            when = None if block < 2 else When(f"d{stage}", tuple(range(block + 1, 5)))
            decisions.append(Categorical(f"ks{stage}.{block}", (3, 5, 7), when=when, part=True))
            decisions.append(Categorical(f"e{stage}.{block}", (3, 4, 6), when=when))
    return Space((*decisions, *[resolutions] * (resolutions is not None)))


def _once_for_all(row: dict[str, str]) -> dict[str, int]:
    found = {f"d{stage}": int(depth) for stage, depth in enumerate(row["d"].split())}
    for letter in ("ks", "e"):
        for position, value in enumerate(row[letter].split()):
            found[f"{letter}{position // 4}.{position % 4}"] = int(value)
    return found


def _rows(name: str) -> list[dict[str, str]]:
    with open(DATA / name, newline="") as file:
        return list(csv.DictReader(file))


def gpu_latencies() -> Measured:
    """5000 Once-for-All subnets: ms on Titan RTX at batch 1 and 64, on V100 at batch 64."""
    rows = _rows("latency/help_ofa/latency.csv")
    space = once_for_all_space(Integer("r", 128, 224, 4))
    return Measured(space, [space.canonical({**_once_for_all(row), "r": int(row["r"])}) for row in rows],
                    {name: np.array([float(row[name]) for row in rows]) for name in (TITAN_1, TITAN_64, V100_64)})


def cpu_latencies(name: str) -> Measured:
    """2000 transformers of HAT: encoder, decoder and their sum in ms, and the decoder's standard deviation."""
    rows = _rows(f"latency/hat/{name}_all.csv")
    decisions = [column for column in rows[0] if not column.startswith("latency")]
    columns = {name: [float(row[name]) for row in rows] for name in decisions}
    space = Space(tuple(
        Categorical(name, tuple(sorted(set(values)))) if len(set(values)) <= 6
        else Real(name, min(values), max(values)) for name, values in columns.items()))
    configurations = [{name: columns[name][row] for name in decisions} for row in range(len(rows))]
    encoder, decoder, deviation = (
        np.array([float(row[name]) for row in rows])
        for name in ("latency_mean_encoder", "latency_mean_decoder", "latency_std_decoder"))
    return Measured(space, configurations, {
        "encoder": encoder, "decoder": decoder, "total": encoder + decoder, "decoder_std": deviation})


def accuracies() -> Measured:
    """2223 Once-for-All subnets at 224 pixels: ImageNet top-1 in percent, multiply-adds, parameters."""
    rows = _rows("accuracy/ofa_mbv3_w1.0_imagenet_top1.csv")
    space = once_for_all_space(None)
    return Measured(space, [space.canonical(_once_for_all(row)) for row in rows],
                    {name: np.array([float(row[name]) for row in rows]) for name in ("top1_percent", "macs", "params")})

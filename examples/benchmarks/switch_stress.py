"""Switches a family from several threads for as long as one likes, and compares every output.

    python examples/benchmarks/switch_stress.py --minutes 5

In: nothing. Out: how many calls and switches were made, the median time of a switch, and whether an output belonged to
no subnet (exit status 1). Never: compares with anything but what each subnet alone gave before.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er


class Deep(nn.Module):
    """A supernet of elastic depth; a configuration is a number of layers."""

    def __init__(self, width: int = 128, depth: int = 6) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(width, width) for _ in range(depth)), nn.Linear(width, 10)

    def subnet(self, depth: int) -> nn.Module:
        parts = [part for layer in self.layers[:depth] for part in (layer, nn.Tanh())]
        return nn.Sequential(*parts, self.head).eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--callers", type=int, default=3)
    parser.add_argument("--switchers", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    family = ec.compile_family(Deep(), {f"d{n}": n for n in (6, 4, 3, 2, 1)}, [(torch.randn(1, 128),)])
    with tempfile.TemporaryDirectory() as folder:
        family.save(Path(folder) / "f.elastic")
        model = er.load(Path(folder) / "f.elastic", self_test=True)
    x = np.random.default_rng(0).standard_normal((1, 128), np.float32)
    known = set()
    for name in model.subnets:
        model.switch(name)
        known.add(model(x).tobytes())
    end = time.monotonic() + 60 * options.minutes
    calls, wrong, times = [], [], []

    def call() -> None:
        made = 0
        while time.monotonic() < end:
            if model(x).tobytes() not in known:
                wrong.append(made)
            made += 1
        calls.append(made)

    def switch(seed: int) -> None:
        names = [str(name) for name in np.random.default_rng(seed).choice(model.subnets, 1000)]
        while time.monotonic() < end:
            for name in names:
                start = time.perf_counter_ns()
                model.switch(name)
                times.append(time.perf_counter_ns() - start)
            del times[:-100_000]
            time.sleep(0.001)

    threads = [*(threading.Thread(target=call) for _ in range(options.callers)),
               *(threading.Thread(target=switch, args=(seed,)) for seed in range(options.switchers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{sum(calls)} calls from {options.callers} threads, {options.switchers} threads switching among "
          f"{len(model.subnets)} subnets: {len(wrong)} outputs of no subnet; a switch takes "
          f"{statistics.median(times) / 1e3:.2f} µs (median, clock included)")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

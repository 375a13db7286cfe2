"""What a switch costs between subnets with many states, and what it leaves to the call that follows.

    python -m examples.benchmarks.state_switch [--rounds 2000]

In: nothing. Out: per family the time of `switch()` right after a call, memory that it allocates, and the first call
after it against the calls that follow. One family has 100 states (50 layers with two each, of which subnets run 50, 25
or 5); the other is the next-scale image transformer of `examples/var`, small, switched between two scales.
Never: times a switch that did not follow a call.
"""
from __future__ import annotations

import argparse
import sys
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er

sys.path.insert(0, str(Path(__file__).parents[1] / "var"))

from schedules import compiled
from transformer import VAR, gumbel
from vqvae import Quantiser

from examples.benchmarks.limits import limit

LIMIT_NS = 1000
WARM = 20
SCALES = (1, 2, 3, 4, 5)


class Sums(nn.Module):
    """A layer with two states: the sum and the latest of what it saw."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, width))
        self.register_buffer("latest", torch.zeros(1, width))
        self.mix = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x
        y = torch.tanh(self.mix(x) + 0.1 * self.latest + 0.01 * self.seen)
        self.latest.copy_(x)
        return y


class Stateful(nn.Module):
    def __init__(self, layers: int = 50, width: int = 16) -> None:
        super().__init__()
        self.layers, self.depth = nn.ModuleList(Sums(width) for _ in range(layers)), layers

    def activate(self, depth: int) -> None:
        self.depth = depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:self.depth]:
            x = layer(x)
        return x


def loaded(family: ec.CompiledFamily) -> er.Model:
    with tempfile.TemporaryDirectory(prefix="elastic-states-") as folder:
        family.save(Path(folder) / "f.elastic")
        return er.load(Path(folder) / "f.elastic", self_test=True)


def report(title: str, model: er.Model, path: list[str], call: Callable[[], object], calls: int, rounds: int) -> None:
    """`path`: the subnets of a round, from the first; `calls`: how many calls of each before the next switch."""
    states = max(len(mode.names) for name in model.subnets for mode in model.loaded(name).program.modes)
    took, clock, first, steady, grown = array("q"), array("q"), array("q"), array("q"), []
    for number in range(rounds + WARM):
        model.reset()
        model.switch(path[0])
        for place, name in enumerate(path):
            if place:
                if number < WARM:  # counting objects walks through memory: not where time is taken
                    before = sys.getallocatedblocks()
                    model.switch(name)
                    grown.append(sys.getallocatedblocks() - before)
                else:
                    start = perf_counter_ns()
                    clock.append(perf_counter_ns() - start)
                    start = perf_counter_ns()
                    model.switch(name)
                    took.append(perf_counter_ns() - start)
            for repeat in range(calls):
                start = perf_counter_ns()
                call()
                if place and number >= WARM:
                    (steady if repeat else first).append(perf_counter_ns() - start)
    spent = float(np.median(clock))
    shares = [float(np.percentile(took, share)) - spent for share in (50, 90, 99)]
    objects = max(0, int(np.median(grown)))
    print(f"{title}: {states} states\n"
          f"  switch() {shares[0]:.0f} ns ({limit(shares[0], LIMIT_NS, unit=' ns')}), 90 % within {shares[1]:.0f}, 99 "
          f"% within {shares[2]:.0f} ns; objects it makes: {objects} ({limit(objects, 0)})\n"
          f"  first call after it {np.median(first) / 1e3:.1f} µs"
          + (f", those that follow {np.median(steady) / 1e3:.1f} µs" if steady else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(1, 16)
    model = loaded(ec.compile_family(Stateful().eval(), {"n50": 50, "n25": 25, "n5": 5}, [(x,), (x,)]))
    report("counters", model, ["n50", "n25", "n5"], lambda: model(x.numpy()), 4, options.rounds)
    var = VAR(Quantiser(48, 8, SCALES), 64, 8, 4, 10).eval()
    label, noise = torch.tensor([3]), gumbel(1, var.ends[-1], 48, seed=0)
    images = loaded(compiled(var, [8, 4, 2], label, noise))
    arrays = label.numpy(), noise.numpy()
    for rollback in (True, False):
        images.rollback = rollback
        report(f"image transformer, rollback {rollback}", images, ["d8", "d8", "d4", "d2", "d2"],
               lambda: images(*arrays), 1, options.rounds // 10)


if __name__ == "__main__":
    main()

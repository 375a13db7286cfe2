"""What compiling costs as a network grows: gates, exits, the bound of a loop, and real models against torch.export.

    python -m examples.benchmarks.growth [--rounds 3] [--models NAME ...]

In: nothing; the models of tests/models/zoo that have a static twin, those that are installed.
Out: tables on the terminal: blocks, seconds of capture and of the whole compilation (processor time), and for each
real model the time that its capture takes, with all paths, over what torch.export takes for one path of its twin.
Never: times one thing long after another: both sides of a ratio are timed in turn, and the ratio is the median of
those of the rounds.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import elastic_compile as ec
from elastic_compile.capture.explore import EntryInput, Exploration, explore
from elastic_compile.capture.signature import normalise, shapes
from tests.models import zoo


class Gate(nn.Module):
    """A residual block behind a gate of its own (SkipNet, Wang et al., 2018)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.gate = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate(x).mean() > 0:
            x = x + self.body(x)
        return x


class Exits(nn.Module):
    """A stack with an exit after each layer (BranchyNet, Teerapittayanon et al., 2016)."""

    def __init__(self, layers: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Gate(width).body for _ in range(layers))
        self.heads = nn.ModuleList(nn.Linear(width, 4) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer, head in zip(self.layers, self.heads):
            x = layer(x)
            y = head(x)
            if y.softmax(-1).max() > 0.9:
                return y
        return y


class Loop(nn.Module):
    """A layer applied until its input is small, `limit` times at most."""

    def __init__(self, limit: int, width: int = 16) -> None:
        super().__init__()
        self.layer, self.limit = nn.Linear(width, width), limit

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        n = 0
        while x.norm() > 1 and n < self.limit:
            x = self.layer(x)
            n += 1
        return x, n


def gates(n: int) -> nn.Module:
    return nn.Sequential(*(Gate() for _ in range(n)))


def captured(target: Any, calls: list[Any]) -> Exploration:
    """All paths of a module or bound method."""
    module = target if isinstance(target, nn.Module) else target.__self__
    function = module.forward if target is module else target
    found = shapes(function, normalise(calls))
    with torch.no_grad():
        return explore(target, [EntryInput(s.leaves, s.arguments) for s in found], [("self", module), ("", function)])


def seconds(function: Callable[..., Any], *args: Any) -> float:
    begun = time.process_time()
    function(*args)
    return time.process_time() - begun


def growth(title: str, make: Callable[[int], nn.Module], sizes: tuple[int, ...], rounds: int) -> None:
    print(f"{title:<28} {'blocks':>7} {'capture s':>10} {'per unit ms':>12} {'compile s':>10} {'per unit ms':>12}")
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    captured(make(2).eval(), [(x,)])
    for size in sizes:
        torch.manual_seed(0)
        module = make(size).eval()
        capture = statistics.median(seconds(captured, module, [(x,)]) for _ in range(rounds))
        begun = time.process_time()
        blocks = len(ec.compile(module, [(x,)]).program.blocks)
        whole = time.process_time() - begun
        print(f"{size:>28} {blocks:>7} {capture:>10.3f} {1e3 * capture / size:>12.2f} {whole:>10.3f} "
              f"{1e3 * whole / size:>12.2f}", flush=True)


def real_models(names: list[str], rounds: int) -> None:
    print(f"{'model':<28} {'export s':>9} {'capture s':>10} {'ratio':>7}   lowest to highest")
    models = zoo.load()
    chosen = {name: model.build for name, model in models.items() if not names or name in names}
    if "lightglue" in chosen:
        chosen["lightglue of 9 layers"] = lambda: models["lightglue"].factory(layers=9)
    for name, build in chosen.items():
        built = build()
        if built.static is None:
            continue
        module, args = built.static
        calls = list(built.examples)
        try:  # not timed: the first round imports
            with torch.no_grad():
                torch.export.export(module, args)
        except Exception as error:
            print(f"{name:<28} torch.export refuses the twin: {type(error).__name__}", flush=True)
            continue
        captured(built.target, calls)
        export, capture = [], []
        for _ in range(rounds):
            with torch.no_grad():
                export.append(seconds(torch.export.export, module, args))
            capture.append(seconds(captured, built.target, calls))
        ratios = sorted(c / e for c, e in zip(capture, export))
        print(f"{name:<28} {statistics.median(export):>9.2f} {statistics.median(capture):>10.2f} "
              f"{statistics.median(ratios):>7.1f}   {ratios[0]:.1f} to {ratios[-1]:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is timed")
    parser.add_argument("--models", nargs="*", default=[], help="real models, all of them where none is named")
    parser.add_argument("--sizes", nargs="*", type=int, default=[8, 32, 128])
    options = parser.parse_args()
    growth("gates", gates, tuple(options.sizes), options.rounds)
    growth("exits", Exits, tuple(options.sizes), options.rounds)
    growth("bound of a loop", Loop, (10, 1_000, 100_000), options.rounds)
    real_models(options.models, options.rounds)


if __name__ == "__main__":
    main()

"""Region formation by measured cost against plain splitting, on networks where it should pay and on others.

    python -m examples.benchmarks.formation [--seconds 2] [--json FILE]

In: nothing. Out: a table on the terminal, a JSON file when asked for.
Never: times one form after the other: both run their example calls in turn, in five parts, and ratios are medians.
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.tuning import calls
from elastic_runtime.bench import interleave

PARTS = 5
DIGITS = Path(__file__).resolve().parents[1] / "digits_early_exit"
#: Construct cases of the test suite, one per kind of control flow.
CONSTRUCTS = (
    "if_elif_else", "chained_comparisons", "early_return_three_deep", "early_exit_by_exception",
    "cascade_with_default_argument", "module_list_by_index", "token_pruning_with_empty_selection", "branchynet",
    "skipnet_three_modules_deep",
)


class Gated(nn.Module):
    """Residual blocks of a few elementwise operations, each behind a gate of its own (SkipNet, Wang et al., 2018)."""

    def __init__(self, blocks: int = 12, width: int = 16) -> None:
        super().__init__()
        self.gates = nn.ParameterList(nn.Parameter(torch.randn(width) / width**0.5) for _ in range(blocks))
        self.scales = nn.ParameterList(nn.Parameter(torch.randn(width)) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for gate, scale in zip(self.gates, self.scales):
            if (x * gate).sum() > 0:
                x = x + torch.tanh(x * scale)
        return x


class Exits(nn.Module):
    """Narrow stages with an exit after each (BranchyNet, Teerapittayanon et al., 2016)."""

    def __init__(self, stages: int = 8, width: int = 32) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(width, width) for _ in range(stages))
        self.heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(stages))

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        for depth, (stage, head) in enumerate(zip(self.stages, self.heads)):
            x = torch.relu(stage(x))
            scores = head(x)
            if scores.abs().max() > 5:
                break
        return scores, depth


class Heavy(nn.Module):
    """A gated network whose blocks cost far more than a dispatch, each taken half of the time."""

    def __init__(self, blocks: int = 4, width: int = 512) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            if x[0, number] > 0:
                x = x + 0.1 * block(x)
        return x


class Settle(nn.Module):
    """A fixed-point iteration with a tolerance."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        with torch.no_grad():
            self.linear.weight.mul_(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        z, rounds = torch.zeros_like(x), 0
        while rounds < 30:
            new = torch.tanh(self.linear(z) + x)
            rounds += 1
            if (new - z).abs().max() < 1e-3:
                break
            z = new
        return new, rounds


def normal(count: int, *shape: int, scale: float = 1.0) -> list[tuple[Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    return [(torch.randn(*shape, generator=drawn) * scale,) for _ in range(count)]


def digits() -> tuple[nn.Module, list[tuple[Tensor]]]:
    sys.path.insert(0, str(DIGITS))
    from model import factory
    return factory()


def networks() -> dict[str, Callable[[], tuple[nn.Module, list]]]:
    """Networks by name. The first two are those where plain splitting is expected to lose most."""
    from tests.constructs.registry import load

    cases = load()
    made: dict[str, Callable[[], tuple[nn.Module, list]]] = {
        "gated, cheap blocks": lambda: (Gated(), normal(8, 1, 16)),
        "early exit, one hot path": lambda: (Exits(), [*normal(9, 1, 32), *normal(1, 1, 32, scale=100.0)]),
        "gated, heavy blocks": lambda: (Heavy(), normal(8, 1, 512)),
        "fixed point": lambda: (Settle(), normal(6, 1, 32)),
        "digits demo": digits,
    }
    made |= {name: cases[name].make for name in CONSTRUCTS if name in cases}
    return made


@dataclass(frozen=True)
class Row:
    """One network: µs per example call, how often `auto` is faster (median, least and most of the parts), blocks and
    regions of both, and what became of the branches."""

    network: str
    split_us: float
    auto_us: float
    ratio: float
    least: float
    most: float
    blocks: tuple[int, int]
    regions: tuple[int, int]
    decisions: dict[str, int]


def measure(name: str, make: Callable[[], tuple[nn.Module, list]], seconds: float) -> Row:
    models, programs = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        for formation in ("split", "auto"):
            torch.manual_seed(0)
            module, examples = make()
            if isinstance(module, nn.Module):
                module.eval()
            programs[formation] = ec.compile(module, examples, formation=formation)
            path = Path(directory) / f"{formation}.elastic"
            programs[formation].save(path)
            models[formation] = er.load(path)
    count = len(programs["split"].reference.calls)
    parts = [interleave({formation: calls(model) for formation, model in models.items()},
                        warmup_ms=100, duration_s=seconds / PARTS) for _ in range(PARTS)]
    took = {formation: [part[formation].median_ms * 1e3 / count for part in parts] for formation in models}
    ratios = [split / auto for split, auto in zip(took["split"], took["auto"])]
    both = [programs[formation].program for formation in ("split", "auto")]
    return Row(
        name, statistics.median(took["split"]), statistics.median(took["auto"]), statistics.median(ratios),
        min(ratios), max(ratios), tuple(len(one.blocks) for one in both), tuple(len(one.regions) for one in both),
        dict(Counter(one.kind for one in programs["auto"].provenance.formation.decisions)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring per network")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':<36}{'split µs':>10}{'auto µs':>10}{'faster':>9}{'(spread)':>14}  {'blocks':>9}{'regions':>9}  "
          "branches")
    rows = []
    for name, make in networks().items():
        row = measure(name, make, given.seconds)
        rows.append(row)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(row.decisions.items()))
        print(f"{row.network:<36}{row.split_us:>10.1f}{row.auto_us:>10.1f}{row.ratio:>8.2f}×"
              f"{f'({row.least:.2f}–{row.most:.2f})':>14}  {row.blocks[0]:>4}→{row.blocks[1]:<4}"
              f"{row.regions[0]:>4}→{row.regions[1]:<4}  {kinds}", flush=True)
    changed = [row.ratio for row in rows if set(row.decisions) != {"split"}]
    kept = len(rows) - len(changed)
    print(f"{len(changed)} changed, {kept} kept as they are (their ratio is noise); of the changed "
          f"none slower by more than {max(0.0, 1 - min(changed, default=1.0)):.1%}")
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()

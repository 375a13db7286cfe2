"""Memory, disk, speed and switching of elastic families, against the same subnets compiled alone.

    python -m examples.benchmarks.family_memory [--families depth,width,width-tvm,ofa] [--threads 1,2] [--duration-s 10]

In: nothing. Out: one table per family: the depths 12, 9, 6 and 3 of a transformer of width 768; a feed-forward
network of four widths with ONNX Runtime and with TVM; Once-for-All MobileNetV3. Every memory figure is of a fresh
process after all subnets have run (proportional set size), every time a median over interleaved calls.
Never: compares figures of two runs, or keeps what it makes unless told where.

"alone" is the same subnet in a bundle of its own, "sessions" are all of those in one process. Beside a number that has
been set a limit stands whether it is met; the first run after a switch has one where a subnet's weights are more than
twice what the cache of a core holds.
"""
from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import elastic_compile as ec
from elastic_compile.elastic import subnet_of
from elastic_compile.elastic.adapters import OnceForAll
from elastic_compile.elastic.family import SLOWER
from elastic_runtime import load
from elastic_runtime.bench import after_switch, interleave, switch_ns
from elastic_runtime.bundle_reader import BundleReader
from elastic_runtime.limits import DEFAULT_LIMITS
from elastic_runtime.residence import measure
from examples.benchmarks.elastic_spaces import without_torchvision
from examples.benchmarks.limits import limit


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.proj(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


class Depths(nn.Module):
    """A transformer whose subnets run some of its layers, evenly spaced."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 100)
        self.active = list(range(layers))

    def activate(self, depth: int) -> None:
        self.active = [round(i * (len(self.blocks) - 1) / max(1, depth - 1)) for i in range(depth)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in self.active:
            x = self.blocks[index](x)
        return self.head(self.norm(x).mean(1))


class Widths(nn.Module):
    """A residual feed-forward network whose subnets take the first hidden units and the first features."""

    def __init__(self, layers: int = 4, width: int = 1024, hidden: int = 4096) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(layers))
        self.stem, self.head = nn.Linear(256, width), nn.Linear(width, 100)
        self.share = 1.0

    def activate(self, share: float) -> None:
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width, hidden = (int(size * self.share) for size in (self.head.in_features, self.up[0].out_features))
        x = nn.functional.linear(x, self.stem.weight[:width], self.stem.bias[:width])
        for up, down in zip(self.up, self.down, strict=True):
            inside = torch.relu(nn.functional.linear(x, up.weight[:hidden, :width], up.bias[:hidden]))
            x = x + nn.functional.linear(inside, down.weight[:width, :hidden], down.bias[:width])
        return nn.functional.linear(x, self.head.weight[:, :width], self.head.bias)


@dataclass(frozen=True)
class Case:
    """`configs` from the largest to the smallest. `memory`, `disk`: the most that the family should take, in times of
    its largest subnet."""

    title: str
    supernet: Callable[[], Any]
    configs: dict[str, Any]
    example: Callable[[], torch.Tensor]
    backend: str = "onnxruntime"
    memory: float = math.inf
    disk: float = math.inf


def once_for_all() -> OnceForAll:
    """MobileNetV3 of Once-for-All, width 1.0, with the statistics and weights that it is made with."""
    with without_torchvision():
        from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
    return OnceForAll(OFAMobileNetV3(
        n_classes=1000, dropout_rate=0, base_stage_width="proxyless", width_mult=1.0, ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]).eval())


SLOWER_THAN_ALONE, SLOWER_AFTER_SWITCH, SWITCH_NS = 1.02, 1.02, 1000
DEPTHS = {f"d{depth}": depth for depth in (12, 9, 6, 3)}
EXPANSIONS = {f"e{expand}d{depth}": {"ks": 7, "e": expand, "d": depth} for expand, depth in (
    (6, 4), (4, 4), (3, 4), (3, 2))}
WIDTHS = {f"w{int(share * 100)}": share for share in (1.0, 0.75, 0.5, 0.25)}
CASES = {
    "depth": Case("transformer, width 768, 12 / 9 / 6 / 3 of 12 layers, 64 tokens, onnxruntime", Depths, DEPTHS,
                  lambda: torch.randn(1, 64, 768), memory=1.05, disk=1.02),
    "width": Case("feed-forward, width 1024 / 768 / 512 / 256, 16 rows, onnxruntime", Widths, WIDTHS,
                  lambda: torch.randn(16, 256), memory=1.3),
    "width-tvm": Case("feed-forward, width 1024 / 768 / 512 / 256, 16 rows, tvm", Widths, WIDTHS,
                      lambda: torch.randn(16, 256), "tvm", memory=1.05),
    "ofa": Case("Once-for-All MobileNetV3, expand ratio 6 / 4 / 3 and 3 with depth 2, onnxruntime", once_for_all,
                EXPANSIONS, lambda: torch.randn(1, 3, 224, 224), memory=1.3),
    "small": Case("transformer, width 64, 12 / 9 / 6 / 3 of 12 layers, 16 tokens: fits the cache",
                  lambda: Depths(width=64, heads=4), DEPTHS, lambda: torch.randn(1, 16, 64)),
}


def run(case: Case, folder: Path, threads: list[int], duration_s: float, slower: float,
        memory: bool) -> None:
    print(f"\n{case.title}", flush=True)
    family, native = folder / "family.elastic", case.backend == "tvm"
    alone = {name: folder / f"{name}.elastic" for name in case.configs}
    torch.manual_seed(0)
    x = case.example().numpy()
    if not all(path.exists() for path in (family, *alone.values())):
        _compile(case, family, alone, slower)
    with BundleReader(family, DEFAULT_LIMITS) as reader:
        sharing = reader.sharing()
    print("".join(f"  {decision}\n" for decision in sharing.decisions), end="")
    if memory:
        measure(family, allow_native=native, cache=folder / "cache")  # packs
        _memory(case, family, alone, native, folder / "cache")
    for number in threads:
        _speed(family, alone, native, folder / "cache", number, x, duration_s, sharing.alone)


def _compile(case: Case, family: Path, alone: dict[str, Path], slower: float) -> None:
    torch.manual_seed(0)
    supernet, examples = case.supernet(), [(case.example(),)]
    if isinstance(supernet, nn.Module):
        supernet.eval()
    ec.compile_family(supernet, case.configs, examples, backend=case.backend, slower=slower).save(family)
    for name, config in case.configs.items():
        ec.compile(subnet_of(supernet, name, config), examples, backend=case.backend).save(alone[name])


def _memory(case: Case, family: Path, alone: dict[str, Path], native: bool, cache: Path) -> None:
    def disk(*paths: Path) -> float:
        return sum(file.stat().st_size for path in paths for file in path.iterdir()) / 2**20

    names = list(alone)
    rows = [("largest alone", measure(alone[names[0]], allow_native=native, cache=cache), disk(alone[names[0]]))]
    for count in range(1, len(names) + 1):
        rows.append((f"family, {count} of {len(names)}",
                     measure(family, [names[:count]], allow_native=native, cache=cache), disk(family)))
    rows.append((f"{len(names)} sessions", measure(family, [[name] for name in names], allow_native=native,
                                                   cache=cache), disk(*alone.values())))
    first, size = rows[0][1], rows[0][2]
    print("  memory after all have run      PSS, MiB      x   of the models      x   private   disk, MiB      x"
          "   load, s")
    for name, found, on_disk in rows:
        print(f"  {name:28} {found.run:10.1f} {found.run / first.run:6.3f} {found.models:15.1f} "
              f"{found.models / first.models:6.3f} {found.private:9.1f} {on_disk:11.1f} {on_disk / size:6.3f} "
              f"{found.load_s:9.2f}", flush=True)
    every, on_disk = rows[len(names)][1:]
    memory, disk = every.run / first.run, on_disk / size
    print(f"  family, memory of the process {memory:.3f} x{_limited(memory, case.memory)}; disk {disk:.3f} x"
          f"{_limited(disk, case.disk)}", flush=True)


def _limited(value: float, bound: float) -> str:
    return f", {limit(value, bound)}" if bound < math.inf else ""


def _cache_bytes() -> int:
    """Of the largest cache that is one core's own (Linux), else none."""
    sizes = [0]
    for cache in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (cache / "shared_cpu_list").read_text().strip() == "0":
            sizes.append(int((cache / "size").read_text().strip().removesuffix("K")) * 1024)
    return max(sizes)


def _speed(family: Path, alone: dict[str, Path], native: bool, cache: Path, threads: int, x: np.ndarray,
           duration_s: float, weights: Mapping[str, int]) -> None:
    model = load(family, threads=threads, allow_native=native, cache=cache)
    single = {name: load(path, threads=threads, allow_native=native, cache=cache) for name, path in alone.items()}
    latency = {}
    for name in alone:
        model.switch(name)
        assert np.allclose(model(x), single[name](x), atol=1e-4)
        latency[name] = interleave({"family": lambda: model(x), "alone": lambda one=single[name]: one(x)},
                                   duration_s=duration_s / len(alone))
    single.clear()
    switched = after_switch(model, {name: lambda: model(x) for name in alone}, duration_s=duration_s)
    nanoseconds = switch_ns(model)
    print(f"  {threads} thread{'s' * (threads > 1)}, switch() {nanoseconds:.0f} ns"
          f"{_limited(nanoseconds, SWITCH_NS)}\n    {'':10}in the family, ms   alone, ms      x{'':22}"
          f"first after a switch, ms   steady, ms      x{'':22}cold caches, x")
    for name, timings in latency.items():
        inside, outside, after = timings["family"].median_ms, timings["alone"].median_ms, switched[name]
        large = weights[name] > 2 * _cache_bytes()
        print(f"    {name:10}{inside:17.3f} {outside:11.3f} {inside / outside:6.3f}"
              f"{_limited(inside / outside, SLOWER_THAN_ALONE):22}{after.first_ms:24.3f} {after.steady_ms:12.3f} "
              f"{1 + after.penalty:6.3f}{_limited(1 + after.penalty, SLOWER_AFTER_SWITCH if large else math.inf):22}"
              f"{1 + after.refill:14.3f}", flush=True)


def depth() -> tuple[nn.Module, dict[str, int], list[tuple[torch.Tensor]]]:
    """For the command line: `elastic-compile family`, and `bench --switch --source`."""
    torch.manual_seed(0)
    return Depths().eval(), DEPTHS, [(torch.randn(1, 64, 768),)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default="depth,small,width,width-tvm,ofa")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--slower", type=float, default=SLOWER, help="compile_family's slower")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--keep", type=Path, help="a directory for the bundles; those that lie there are measured")
    given = parser.parse_args()
    for name in given.families.split(","):
        with tempfile.TemporaryDirectory(prefix="elastic-family-") as folder:
            if given.keep is not None:
                folder = given.keep / name
                folder.mkdir(parents=True, exist_ok=True)
            run(CASES[name], Path(folder), [int(number) for number in given.threads.split(",")], given.duration_s,
                given.slower, not given.no_memory)


if __name__ == "__main__":
    main()

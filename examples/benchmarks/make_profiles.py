"""Measures the tables in device_profiles/ on this machine.

    python -m examples.benchmarks.make_profiles [--out device_profiles] [--work out/profiles] [--only NAME,...]

In: this machine, best otherwise idle; `--work`, where compiled parts stay, so that a stopped run goes on. Out: the
distinct parts of elastic networks and whole subnets of them (`elastic_spaces`), one table per backend and thread count.
Never: calls a table that of a machine which it was not measured on: a restriction is named in `emulation`.
"""
from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from elastic_compile.profile import measuring
from elastic_runtime import device, profiler
from elastic_runtime import latency_table as lt
from examples.benchmarks import elastic_spaces
from examples.benchmarks.predictor_here import say

NAME = "xeon-avx512-2-cores"


@dataclass(frozen=True)
class Profile:
    """`networks`: how many whole subnets of each network of `elastic_spaces`, besides their parts. `target`: of the
    code that the backend makes; `emulation`: in words."""

    backend: str
    threads: int
    networks: Mapping[str, int]
    target: Mapping[str, object] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    emulation: str = ""


PROFILES = {
    f"{NAME}-onnxruntime-1-thread": Profile("onnxruntime", 1, {"once_for_all": 12, "llama": 12}),
    f"{NAME}-onnxruntime-2-threads": Profile("onnxruntime", 2, {"once_for_all": 12, "llama": 12}),
    f"{NAME}-tvm-1-thread": Profile("tvm", 1, {"llama": 0}),
    f"{NAME}-tvm-1-thread-sse4": Profile(
        "tvm", 1, {"llama": 0}, {"kind": "llvm", "mcpu": "x86-64-v2"}, {"mcpu": "x86-64-v2"},
        "code for x86-64-v2 only (SSE4.2: no AVX, AVX2, AVX-512, FMA), run on the same processor"),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("device_profiles"))
    options.add_argument("--work", type=Path, default=Path("out/profiles"))
    options.add_argument("--only", default=",".join(PROFILES))
    options.add_argument("--budget-s", type=float, default=180.0, help="of measuring each table")
    options.add_argument("--compile-only", action="store_true")
    given = options.parse_args()
    for name in given.only.split(","):
        profile = PROFILES[name]
        engine = None
        if profile.target is not None:
            from elastic_compile.backends.tvm import TvmBackend

            engine = TvmBackend(dict(profile.target))
        compiler = measuring.Compiler(
            profile.backend, profile.threads, given.work / "bundles", engine, profile.settings)
        subjects = [measuring.dispatch(compiler)]
        for network, count in profile.networks.items():
            elastic = getattr(elastic_spaces, network)()
            drawn = elastic.space.sample(60, np.random.default_rng(7))
            subjects += measuring.parts(compiler, measuring.distinct_parts(elastic, drawn))
            subjects += measuring.anchors(compiler, elastic, drawn[:count])
        for number, subject in enumerate(subjects):
            say(f"{name}: compiled {number} of {len(subjects)}")
            subject.compile()
        print(f"{name}: {len(subjects)} compiled", flush=True)
        if given.compile_only:
            continue
        path = given.out / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = lt.load(path) if path.exists() else None
        outcome = profiler.measure(
            subjects, device.describe(NAME, emulation=profile.emulation),
            profiler.environment(profile.backend, profile.threads, settings=profile.settings),
            profiler.Settings(given.budget_s), known=known, save=lambda table, path=path: lt.save(table, path),
            progress=lambda key, done, total, name=name: say(f"{name}: measured {done} of {total}"))
        flagged = sum(bool(entry.flags) for entry in outcome.table.entries)
        print(f"{path}: {len(outcome.table.entries)} entries, {flagged} of them noisy or failed, "
              f"{len(outcome.left)} to measure again", flush=True)
        for key, why in outcome.failed.items():
            print(f"  {key}: {why}")
        if outcome.stopped:
            break


if __name__ == "__main__":
    main()

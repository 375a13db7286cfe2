"""The memory that loaded subnets take, each case in a process of its own.

    python -m elastic_runtime.residence BUNDLE [--subnets A,B ...] [--threads 1] [--allow-native] [--cache DIR]

In: a bundle, and groups of its subnets: each group is one model. Out: `Residence`, also printed as JSON.
Never: counts a page twice that is mapped twice (PSS, proc(5) smaps_rollup), or measures beside other work.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from elastic_runtime.model import Model, load


class Residence(msgspec.Struct, frozen=True):
    """MiB of proportional set size: `runtime` with only the runtime imported, `loaded` when all models are, `run`
    after each subnet has run its reference calls, of which `private` is no page of a file. `load_s`: seconds."""

    runtime: float
    loaded: float
    run: float
    private: float
    load_s: float

    @property
    def models(self) -> float:
        """What the models themselves take, after running."""
        return self.run - self.runtime


def measure(bundle: str | Path, groups: Sequence[Sequence[str] | None] = (None,), *, threads: int = 1,
            allow_native: bool = False, cache: str | Path | None = None) -> Residence:
    """Load one model per group of subnets (None: all) in a fresh process, run all their reference calls, and say how
    much memory that took. Raises `RuntimeError` with what the process wrote when it fails. Needs Linux."""
    command = [sys.executable, "-m", "elastic_runtime.residence", str(bundle), "--threads", str(threads)]
    command += ["--allow-native"] * allow_native + ([] if cache is None else ["--cache", str(cache)])
    for group in groups:
        command += ["--subnets", "" if group is None else ",".join(group)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Residence)


def _pss() -> dict[str, float]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) / 1024 for name, rest in (line.split(":") for line in lines)}


def _run_all(model: Model) -> None:
    for name in model.subnets:
        model.reset()
        model.switch(name)
        for entry, inputs in model.reference_inputs():  # in order, since a call may need what those before it left
            model.call_flat(entry, inputs)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m elastic_runtime.residence")
    parser.add_argument("bundle")
    parser.add_argument("--subnets", action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--allow-native", action="store_true")
    parser.add_argument("--cache")
    given = parser.parse_args()
    from time import perf_counter

    from elastic_runtime import engines
    for name in ("onnxruntime", "tvm")[:1 + given.allow_native]:
        engines.factory(name)
    runtime = _pss()["Pss"]
    start = perf_counter()
    models = [load(given.bundle, threads=given.threads, allow_native=given.allow_native,
                   cache=given.cache or True, subnets=group.split(",") if group else None)
              for group in given.subnets or [""]]
    load_s, loaded = perf_counter() - start, _pss()["Pss"]
    for model in models:
        _run_all(model)
    after = _pss()
    print(json.dumps(msgspec.to_builtins(Residence(runtime, loaded, after["Pss"], after["Pss_Anon"], load_s))))


if __name__ == "__main__":
    _main()

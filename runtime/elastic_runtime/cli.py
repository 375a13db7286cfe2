"""`elastic-run`: run or time a bundle from a shell, with the runtime alone.

In: a bundle, and inputs from an .npz file whose arrays are named by parameter ("x", "x/0", "x/mask").
Out: the result's leaves on the terminal or in an .npz file, or a table of latencies; `--json` writes a report.
Never: unpickles (`allow_pickle=False`), or leaves half an output file.

`elastic-run profile BUNDLE` measures what the bundle is made of and writes a latency table.

Exit status: 0 done, 1 the self-test failed, 2 anything else that was refused, 130 stopped by the user.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from elastic_runtime import device, latency_table, profiler, subjects
from elastic_runtime.bench import Timing, interleave
from elastic_runtime.binding import signature_text
from elastic_runtime.check import describe
from elastic_runtime.errors import ElasticRuntimeError, InputError, SelfTestFailed
from elastic_runtime.model import Model, load
from elastic_runtime.schema import (
    ConstLeaf,
    Entry,
    FloatLeaf,
    MapNode,
    ScalarType,
    SequenceNode,
    Tree,
    ValueLeaf,
    decode_float,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    profiling = arguments[:1] == ["profile"]
    options = _profile_parser().parse_args(arguments[1:]) if profiling else _parser().parse_args(arguments)
    try:
        if profiling:
            return _profile(options)
        model = load(options.bundle, threads=options.threads, allow_native=options.allow_native,
                     self_test=options.self_test, seed=options.seed)
        if options.subnet is not None:
            model.switch(options.subnet)
        report = _bench(model, options) if options.bench else _run(model, options)
        if options.json:
            text = json.dumps(report, indent=1) + "\n"
            _write(options.json, lambda file: file.write(text.encode()))
    except SelfTestFailed as error:
        print(f"elastic-run: self-test failed: {error}", file=sys.stderr)
        return 1
    except (ElasticRuntimeError, OSError, ValueError) as error:
        print(f"elastic-run: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="elastic-run", description="Run or time a compiled bundle.")
    add = parser.add_argument
    add("bundle", help="directory of the bundle")
    add("--subnet", metavar="NAME", help="which of the bundle's subnets to run (default: the first)")
    add("--input", metavar="NPZ", help="arrays named by parameter; nested ones as name/0, name/key")
    add("--output", metavar="NPZ", help="write the result's leaves here")
    add("--threads", type=int, default=1, help="intra-op threads (default 1)")
    add("--allow-native", action="store_true", help="run machine code that the bundle brings")
    add("--self-test", action="store_true", help="replay the bundle's reference calls first")
    add("--seed", type=int, help="of the random generator")
    add("--json", metavar="FILE", help="write a report here")
    add("--bench", action="store_true", help="time calls; without --input, of the bundle's reference inputs")
    add("--warmup-ms", type=float, default=200.0, help="milliseconds before measuring (default 200)")
    add("--duration-s", type=float, default=3.0, help="seconds of measuring (default 3)")
    add("--iterations", type=int, default=10, help="at least this many calls (default 10)")
    add("--percentiles", type=_percentiles, default=(50.0, 90.0, 99.0), help="default 50,90,99")
    return parser


def _profile_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="elastic-run profile", description="Measure a bundle's distinct regions and its subnets on this machine.")
    add = parser.add_argument
    add("bundle", help="directory of the bundle")
    add("--device", required=True, metavar="NAME", help="what you call this machine")
    add("-o", "--output", required=True, metavar="TABLE", help="the table's file; one that is there is gone on with")
    add("--threads", type=int, default=1, help="intra-op threads (default 1)")
    add("--budget-s", type=float, default=120.0, help="seconds of measuring (default 120)")
    add("--precision", type=float, default=0.02,
        help="half the 95 %% interval of the median, relative, at which an entry is done (default 0.02)")
    add("--emulation", default="", metavar="TEXT", help="how this machine is restricted or slowed down, in words")
    add("--samples", action="store_true", help="store the raw samples too")
    add("--allow-native", action="store_true", help="run machine code that the bundle brings")
    return parser


def _profile(options: argparse.Namespace) -> int:
    model = load(options.bundle, threads=options.threads, allow_native=options.allow_native)
    known = latency_table.load(options.output) if os.path.exists(options.output) else None
    engine = subjects.engine_of(model)
    dispatch = subjects.dispatch(engine, options.threads)
    if dispatch is None:
        print(f"no entry for a dispatch of {engine}: elastic-compile profile measures one", file=sys.stderr)
    outcome = profiler.measure(
        [*([dispatch] if dispatch else []), *subjects.of_bundle(options.bundle, model, threads=options.threads)],
        device.describe(options.device, emulation=options.emulation), profiler.environment(engine, options.threads),
        profiler.Settings(options.budget_s, options.precision, keep=options.samples), known=known,
        save=lambda table: latency_table.save(table, options.output),
        progress=lambda key, done, total: print(f"{done} of {total} {key}", file=sys.stderr))
    for key, why in outcome.failed.items():
        print(f"failed: {key}: {why}")
    noisy = sum(bool(entry.flags) for entry in outcome.table.entries)
    print(f"{len(outcome.table.entries)} entries in {options.output}, {noisy} of them noisy or failed")
    if outcome.left:
        print(f"{len(outcome.left)} left out or noisy: the same command goes on with them")
    return 130 if outcome.stopped else 0


def _percentiles(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if not all(0 <= value <= 100 for value in values):
        raise argparse.ArgumentTypeError("percentiles lie between 0 and 100")
    return values


# ------------------------------------------------------------------------------------------------------- run
def _run(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    if options.input is None:
        if not options.self_test:
            raise InputError("--input", "missing-argument", "nothing", "an .npz file",
                             "Give --input, or --bench or --self-test. " + model.inspect())
        print("self-test passed")
        return {"bundle": model.program.name, "subnet": model.active, "self_test": "passed"}
    result = _call(model, options.input)()
    leaves = dict(flatten(result))
    for name, value in leaves.items():
        print(f"{name}: {_leaf_text(value)}")
    print(f"path: {' -> '.join(map(str, model.last_path))}")
    if options.output:
        arrays = {name: np.asarray(value) for name, value in leaves.items() if value is not None}
        _write(options.output, lambda file: np.savez(file, **arrays))
    return {"bundle": model.program.name, "subnet": model.active, "path": list(model.last_path),
            "outputs": {name: _leaf_text(value) for name, value in leaves.items()}}


def _call(model: Model, path: str) -> Callable[[], Any]:
    """A call of `model` on the arrays of the .npz file at `path`. Raises `InputError` when no signature fits."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    entries = [model.program.entries[number] for number in model.program.modes[0].entries]
    errors = []
    for entry in entries:
        try:
            args, kwargs = arguments(model, entry, arrays)
            return lambda: model(*args, **kwargs)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def arguments(model: Model, entry: Entry, arrays: Mapping[str, np.ndarray]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of `entry` out of named arrays; constants need not be given.

    Raises `InputError` for an array that is missing or that no parameter takes.
    """
    left = dict(arrays)

    def take(tree: Tree, name: str) -> Any:
        if isinstance(tree, ValueLeaf):
            kind = model.program.values[tree.id]
            if name not in left:
                raise InputError(name, "missing-argument", f"arrays {sorted(arrays)}", describe(kind),
                                 f"The program takes {signature_text(entry)}.")
            array = left.pop(name)
            return array.item() if isinstance(kind, ScalarType) and array.size == 1 else array
        if isinstance(tree, (ConstLeaf, FloatLeaf)):
            if name in left:
                return left.pop(name).item()
            return decode_float(tree.v) if isinstance(tree, FloatLeaf) else tree.v
        if isinstance(tree, SequenceNode):
            items = [take(item, f"{name}/{number}") for number, item in enumerate(tree.items)]
            return items if tree.kind == "list" else tuple(items)
        keys = tree.keys if isinstance(tree, MapNode) else tree.fields
        return {key: take(item, f"{name}/{key}") for key, item in zip(keys, tree.items, strict=True)}

    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for param in entry.params:
        value = take(param.tree, param.name)
        if param.kind in ("positional", "standard"):
            args.append(value)
        elif param.kind == "varargs":
            args.extend(value)
        elif param.kind == "keyword":
            kwargs[param.name] = value
        else:
            kwargs.update(value)
    if left:
        name = next(iter(left))
        raise InputError(name, "unknown-argument", f"an array named {name!r}", signature_text(entry))
    return args, kwargs


def flatten(result: Any, name: str = "output") -> Iterator[tuple[str, Any]]:
    """The leaves of a result with their names: "output", "output/0", "output/logits"."""
    if isinstance(result, dict):
        items = list(result.items())
    elif hasattr(result, "_fields"):
        items = list(zip(result._fields, result, strict=True))
    elif isinstance(result, (tuple, list)):
        items = list(enumerate(result))
    else:
        yield name, result
        return
    for key, value in items:
        yield from flatten(value, f"{name}/{key}")


def _leaf_text(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    start = ", ".join(f"{item:.6g}" if value.dtype.kind in "fc" else str(item) for item in value.flat[:6])
    return f"{value.dtype}{list(value.shape)} [{start}{', …' if value.size > 6 else ''}]"


# ----------------------------------------------------------------------------------------------------- bench
def _bench(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    if options.input is not None:
        candidates = {"input": _call(model, options.input)}
    else:
        candidates = {f"reference {number}": _flat_call(model, entry, inputs)
                      for number, (entry, inputs) in enumerate(model.reference_inputs())}
    if not candidates:
        raise InputError("--input", "missing-argument", "a bundle without reference calls", "an .npz file")
    paths = {}
    for name, call in candidates.items():
        model.reset()
        call()
        paths[name] = list(model.last_path)
    timings = interleave(candidates, warmup_ms=options.warmup_ms, duration_s=options.duration_s,
                         iterations=options.iterations, percentiles=options.percentiles)
    print(table(timings))
    return {"bundle": model.program.name, "subnet": model.active, "threads": options.threads,
            "timings": {name: asdict(timing) | {"path": paths[name]} for name, timing in timings.items()}}


def _flat_call(model: Model, entry: int, inputs: list[Any]) -> Callable[[], Any]:
    def call() -> Any:
        model.reset()
        return model.call_flat(entry, inputs)

    return call


def table(timings: Mapping[str, Timing]) -> str:
    """Timings as aligned text: milliseconds per percentile, inferences per second."""
    percentiles = list(next(iter(timings.values())).percentiles_ms)
    rows = [["", "calls", *(f"p{p:g} ms" for p in percentiles), "spread", "inferences/s"]]
    rows += [[t.name, str(t.count), *(f"{t.percentiles_ms[p]:.4f}" for p in percentiles), f"{t.spread:.1%}",
              f"{t.throughput:.1f}"] for t in timings.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) if not number else cell.rjust(width)
                               for number, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows)


def _write(path: str, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".elastic-run-", delete=False) as file:
        try:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


if __name__ == "__main__":
    sys.exit(main())

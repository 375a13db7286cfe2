"""The whole road on real images: compile, verify, run without torch, measure, draw.

    python examples/digits_early_exit/demo.py --runtime-python .venv-runtime/bin/python

In: the trained network of this example and the test images. Out: two bundles, a drawing and tables, in `out/`.
Never: measures a contender in another run than the rest, or prints a number that this run did not measure.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from data import images_by_exit, splits
from model import trained
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile import bench
from elastic_compile.inspect.drawing import draw
from elastic_compile.inspect.text import bytes_text

HERE = Path(__file__).parent
BACKENDS = ("onnxruntime", "tvm")
console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime-python", type=Path, required=True, help="a Python that has elastic-runtime alone")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "out")
    parser.add_argument("--duration-s", type=float, default=6.0, help="of measuring, per path")
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    network = trained()
    bundles = compile_both(network, options.output)
    predicted = predictions(network)
    apart = run_apart(bundles, options.runtime_python, options.output)
    rows, missing = measure(network, bundles, options.duration_s)
    picture(bundles["onnxruntime"], options.output / "digits.png")
    wrong = report(bundles, predicted, apart, rows, missing)
    console.print(f"\nbundles and drawing: {options.output}")
    return 1 if wrong else 0


def compile_both(network: torch.nn.Module, output: Path) -> dict[str, Path]:
    """Compile with each backend. `compile` itself compares every block, by both outcomes of every branch."""
    examples = [(image,) for image in images_by_exit(network)]
    bundles = {}
    for backend in BACKENDS:
        start = time.perf_counter()
        program = ec.compile(network, examples, backend=backend, name="digits")
        path = output / f"digits-{backend}.elastic"
        program.save(path)
        taken = {call.path for call in program.reference.calls}
        console.print(
            f"compiled with {backend} in {time.perf_counter() - start:.1f} s: {len(program.program.blocks)} blocks, "
            f"{len(program.program.regions)} regions; the examples take {len(taken)} paths, all equal to eager")
        bundles[backend] = path
    return bundles


def predictions(network: torch.nn.Module) -> dict[str, list[int]]:
    """Classes, exits and labels of the test images in eager PyTorch."""
    _, _, images, labels = splits()
    with torch.no_grad():
        results = [network(image) for image in images.split(1)]
    return {"classes": [int(result["scores"].argmax()) for result in results],
            "exits": [result["exit"] for result in results], "labels": labels.tolist()}


def run_apart(bundles: dict[str, Path], python: Path, output: Path) -> dict[str, dict]:
    """The test images through each bundle in an environment that has no torch."""
    images = output / "test_images.npz"
    np.savez(images, images=splits()[2].numpy())
    done = subprocess.run(
        [python, HERE / "run_without_torch.py", images, *bundles.values()], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the run without torch failed:\n{done.stderr}")
    results = json.loads(done.stdout)
    console.print(f"ran {len(splits()[2])} test images in {results['python']}, which has "
                  f"{'a' if results['torch'] else 'no'} torch and {results['packages']}")
    return dict(zip(bundles, results["bundles"], strict=True))


def measure(
    network: torch.nn.Module, bundles: dict[str, Path], duration_s: float
) -> tuple[list[bench.PathTimings], dict[str, str]]:
    """Eager, `torch.compile` and the bundles, interleaved, one thread, one image per exit."""
    calls = [((image,), {}) for image in images_by_exit(network)]
    models = {f"bundle, {backend}": er.load(path, threads=1, allow_native=backend == "tvm")
              for backend, path in bundles.items()}
    with Progress(console=console, transient=True) as bars:
        bars.add_task("torch.compile", total=None)
        others, missing = bench.torch_calls(network, calls, threads=1)
        task = bars.add_task("measure", total=len(calls))
        rows = bench.compare(
            {name: (model, bench.example_calls(model, calls)) for name, model in models.items()}, others,
            bench.Settings(duration_s=duration_s, percentiles=(50.0, 90.0)),
            lambda done, total: bars.update(task, completed=done, total=total))
    return rows, missing


def picture(bundle: Path, target: Path) -> None:
    """Draw the program with what the test images did in it."""
    model = er.load(bundle, profile=True)
    for image in splits()[2].split(1):
        model(image.numpy())
    draw(model.program, target, model.statistics())


def report(bundles: dict[str, Path], eager: dict[str, list[int]], apart: dict[str, dict],
           rows: list[bench.PathTimings], missing: dict[str, str]) -> bool:
    """Print the tables. True when a bundle differs from eager on any image."""
    count = len(eager["labels"])
    exits = range(len(rows))
    images = [eager["exits"].count(number) for number in exits]
    accuracy = Table(title=f"{count} test images, one at a time", title_justify="left")
    for name in ("run by", "accuracy", "like eager", *(f"exit {number}" for number in exits), "size"):
        accuracy.add_column(name, justify="left" if name == "run by" else "right")
    accuracy.add_row("eager", f"{_share(eager['classes'], eager['labels']):.1%}", "", *map(str, images), "")
    wrong = False
    for backend, result in apart.items():
        same = sum(a == b and c == d for a, b, c, d in zip(
            result["classes"], eager["classes"], result["exits"], eager["exits"], strict=True))
        wrong |= same < count
        size = sum(file.stat().st_size for file in bundles[backend].iterdir())
        accuracy.add_row(
            f"bundle, {backend}, without torch", f"{_share(result['classes'], eager['labels']):.1%}",
            f"{same} of {count}", *(str(result["exits"].count(number)) for number in exits), bytes_text(size))
    console.print(accuracy)

    latency = Table(title="latency in ms, 1 thread, interleaved in one run", title_justify="left")
    latency.add_column("run by")
    for number in exits:
        latency.add_column(f"exit {number}\np50 / p90", justify="right")
    for name in ("all images\nmean of p50", "against\neager", "host µs\nper region"):
        latency.add_column(name, justify="right")
    means = {name: sum(row.timings[name].median_ms * images[row.call] for row in rows) / count
             for name in rows[0].timings}
    for name in rows[0].timings:
        host = [row.host_us[name] for row in rows if name in row.host_us]
        latency.add_row(
            name, *(f"{row.timings[name].percentiles_ms[50]:.3f} / {row.timings[name].percentiles_ms[90]:.3f}"
                    for row in rows),
            f"{means[name]:.3f}", f"{means['eager'] / means[name]:.2f}×",
            " ".join(f"{each:.1f}" for each in host) if host else "")
    for name, why in missing.items():
        latency.add_row(name, f"missing: {why}")
    console.print(latency)
    return wrong


def _share(given: list[int], expected: list[int]) -> float:
    return sum(a == b for a, b in zip(given, expected, strict=True)) / len(expected)


if __name__ == "__main__":
    sys.exit(main())

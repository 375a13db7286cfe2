"""Dynamic models of public packages through PyTorch's own tools and through elastic-compile: captured, right, how fast.

    python -m examples.benchmarks.peers [--only NAME ...] [--seconds 1] [--tvm] [--json FILE]

In: the models of `tests/models/zoo` and the digits demo. Out: two tables on the terminal, a JSON file when asked for.
Never: counts a tool as right that was not compared with eager PyTorch on every call, or times contenders apart: all of
them run each path's call in turn.

A tool that gives a result for the example and another result than eager PyTorch for some other call is "wrong".
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import math
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn
from torch.utils import _pytree as pytree

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.bench import COMPILED, EAGER, Settings, compare, example_calls, torch_calls
from elastic_compile.verify import same

DIGITS = Path(__file__).resolve().parents[1] / "digits_early_exit"
OURS, OURS_TVM, SCRIPT, ONNX = "ours", "ours, tvm", "torch.jit.script", "torch.onnx"
LIMIT_S = 120
Calls = Sequence[tuple[Any, ...]]


class Late(BaseException):
    """A tool takes too long."""


class Tensors(nn.Module):
    """A target whose result is a tuple of tensors, which is all that tracing takes."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target

    def forward(self, *args: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.as_tensor(leaf) for leaf in leaves(self.target(*args)))


class Called(nn.Module):
    """A function or bound method as a module."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target

    def forward(self, *args: Any) -> Any:
        return self.target(*args)


def leaves(result: Any) -> list[Any]:
    """The tensors and numbers of a result, in order."""
    plain = dict(result) if isinstance(result, dict) else result
    kinds = (torch.Tensor, np.ndarray, bool, int, float)
    return [leaf for leaf in pytree.tree_leaves(plain) if isinstance(leaf, kinds)]


def array(leaf: Any) -> np.ndarray:
    return leaf.detach().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf)


def equal(given: Any, wanted: Any) -> bool:
    """Whether two results hold the same tensors and numbers, within the compiler's tolerances."""
    one, other = ([array(leaf) for leaf in leaves(result)] for result in (given, wanted))
    return len(one) == len(other) and all(
        a.shape == b.shape and same(a.astype(b.dtype), b) for a, b in zip(one, other))


# ------------------------------------------------------------------------------------------------ models
@dataclass(frozen=True)
class Subject:
    """`make()` gives the target and its example calls anew, `calls` are all calls to compare."""

    name: str
    package: str
    make: Callable[[], tuple[Any, Calls]]
    calls: Calls


def subjects() -> Iterator[Subject]:
    """The models, the demo first."""
    sys.path.insert(0, str(DIGITS))
    from model import factory
    yield Subject("digits demo", "this repository", factory, factory()[1])

    from tests.models import zoo
    for name, entry in zoo.load().items():
        def make(entry: Any = entry) -> tuple[Any, Calls]:
            built = entry.build()
            return built.target, built.examples

        yield Subject(name, entry.package, make, entry.build().inputs)


# ------------------------------------------------------------------------------------------------- peers
def exported(module: nn.Module, example: tuple) -> Callable[..., Any]:
    return torch.export.export(module, example).module()


def scripted(module: nn.Module, example: tuple) -> Callable[..., Any]:
    return torch.jit.script(module)


def traced(module: nn.Module, example: tuple) -> Callable[..., Any]:
    return torch.jit.trace(Tensors(module).eval(), example, check_trace=False)


def onnx(module: nn.Module, example: tuple) -> Callable[..., Any]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        torch.onnx.export(module, example, path, dynamo=True, verbose=False)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *args: session.run(None, dict(zip(names, (array(arg) for arg in args))))


def whole(module: nn.Module, example: tuple) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True)


def broken(module: nn.Module, example: tuple) -> Callable[..., Any]:
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(module)


PEERS: dict[str, Callable[[nn.Module, tuple], Callable[..., Any]]] = {
    "torch.export": exported, ONNX: onnx, SCRIPT: scripted, "torch.jit.trace": traced,
    "compile(fullgraph)": whole, COMPILED: broken,
}


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise Late when the time is over, and let nothing be printed meanwhile."""
    def stop(number: int, frame: Any) -> None:
        raise Late(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
                io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Outcome:
    """What a tool made of a model. `captured`: it gave something for the example; `wrong`: on how many of the calls it
    gave another result than eager PyTorch, without an error; `failed`: on how many it raised; `reason`: the error."""

    captured: bool
    wrong: int = 0
    failed: int = 0
    reason: str = ""

    @property
    def text(self) -> str:
        if not self.captured:
            return "no"
        return f"wrong {self.wrong}" if self.wrong else f"fails {self.failed}" if self.failed else "yes"


def told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:150] if lines else ''}"


def attempt(make: Callable[[], Callable[..., Any]], calls: Calls, wanted: Sequence[Any]) -> Outcome:
    """Capture, then compare all calls."""
    wrong = failed = 0
    reason = ""
    try:
        with within(LIMIT_S):
            run = make()
    except (Exception, Late) as error:
        return Outcome(False, reason=told(error))
    for number, (call, result) in enumerate(zip(calls, wanted)):
        try:
            with within(LIMIT_S), torch.no_grad():
                wrong += not equal(run(*copy.deepcopy(call)), result)
        except (Exception, Late) as error:
            if not number:
                return Outcome(False, reason=told(error))
            failed, reason = failed + 1, reason or told(error)
    return Outcome(True, wrong, failed, reason)


def as_module(target: Any) -> nn.Module:
    return target if isinstance(target, nn.Module) else Called(target)


# ------------------------------------------------------------------------------------------------- tables
@dataclass
class Row:
    """One model. `paths`: per path the median ms by contender."""

    name: str
    package: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    size: str = ""
    paths: list[dict[str, float]] = field(default_factory=list)

    def faster(self, contender: str, than: str) -> list[float]:
        """Per path, how often `contender` is faster."""
        return [path[than] / path[contender] for path in self.paths if contender in path and than in path]


def geometric(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else float("nan")


def study(subject: Subject, seconds: float, tvm: bool, directory: Path) -> Row:
    row = Row(subject.name, subject.package)
    target, examples = subject.make()
    with torch.no_grad():
        wanted = [target(*copy.deepcopy(call)) for call in subject.calls]
    for name, peer in PEERS.items():
        module = as_module(subject.make()[0])
        row.outcomes[name] = attempt(lambda peer=peer, module=module: peer(module, examples[0]), subject.calls, wanted)
    models: dict[str, tuple[er.Model, list[Callable[[], Any]]]] = {}
    keywords = [(tuple(call), {}) for call in subject.calls]
    for name, backend in ((OURS, "onnxruntime"), *(((OURS_TVM, "tvm"),) if tvm else ())):
        made: list[Any] = []

        def build(backend: str = backend, made: list[Any] = made) -> Callable[..., Any]:
            program = ec.compile(*subject.make(), backend=backend, formation="auto")
            program.save(directory / f"{backend}.elastic")
            model = er.load(directory / f"{backend}.elastic", allow_native=True, host_ops=program.host_ops)
            made.extend((program, model))
            return lambda *args: model(*(array(arg) if isinstance(arg, torch.Tensor) else arg for arg in args))

        row.outcomes[name] = attempt(build, subject.calls, wanted)
        if row.outcomes[name].text == "yes":
            program, model = made
            models[name] = model, example_calls(model, keywords)
            row.size = row.size or f"{len(program.program.blocks)} blocks, {len(program.program.regions)} regions"
    if OURS not in models:
        return row
    with within(LIMIT_S):
        others, _ = torch_calls(subject.make()[0], keywords, 1)
    for name in (SCRIPT, ONNX):
        if row.outcomes[name].text == "yes":
            with within(LIMIT_S):
                run = PEERS[name](as_module(subject.make()[0]), examples[0])
            others[name] = [lambda run=run, call=call: run(*call) for call in subject.calls]
    if row.outcomes[COMPILED].text != "yes":
        others.pop(COMPILED, None)
    timings = compare(models, others, Settings(warmup_ms=100, duration_s=seconds))
    row.paths = [{name: timing.median_ms for name, timing in each.timings.items()} for each in timings]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring per path")
    parser.add_argument("--tvm", action="store_true", help="compile with TVM too")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for subject in subjects():
        if given.only and subject.name not in given.only:
            continue
        with tempfile.TemporaryDirectory() as directory:
            rows.append(study(subject, given.seconds, given.tvm, Path(directory)))
        print(f"  {subject.name} done", file=sys.stderr, flush=True)
    report(rows)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def report(rows: Sequence[Row]) -> None:
    tools = list(dict.fromkeys(name for row in rows for name in row.outcomes))
    print("captured, and right on every call (wrong N: another result than eager PyTorch on N calls)\n")
    print(f"{'model':<24}" + "".join(f"{name:>20}" for name in tools))
    for row in rows:
        print(f"{row.name:<24}" + "".join(
            f"{row.outcomes[name].text if name in row.outcomes else '':>20}" for name in tools))
    print(f"{'right':<24}" + "".join(
        f"{sum(name in row.outcomes and row.outcomes[name].text == 'yes' for row in rows):>14} of {len(rows):>2}"
        for name in tools))
    for row in rows:
        for name, outcome in row.outcomes.items():
            if outcome.reason and name.startswith("ours"):
                print(f"    {row.name}, {name}: {outcome.reason}")
    contenders = list(dict.fromkeys(name for row in rows for path in row.paths for name in path))
    print("\nms per call by path (median; all contenders in turn), and how often ours is faster\n")
    print(f"{'model':<24}" + "".join(f"{name:>18}" for name in contenders) + f"{'than eager':>12}{'than compile':>14}")
    for row in rows:
        for number, path in enumerate(row.paths):
            print(f"{row.name if not number else '':<24}" + "".join(
                f"{path[name]:>18.3f}" if name in path else f"{'':>18}" for name in contenders)
                + f"{path[EAGER] / path[OURS]:>11.2f}×"
                + (f"{path[COMPILED] / path[OURS]:>13.2f}×" if COMPILED in path else ""))
    for than in (EAGER, COMPILED):
        means = {row.name: geometric(row.faster(OURS, than)) for row in rows if row.faster(OURS, than)}
        if means:
            slowest = min(means, key=means.__getitem__)
            print(f"geometric mean over {len(means)} models, {than}: {geometric(list(means.values())):.2f}×, "
                  f"least {means[slowest]:.2f}× ({slowest})")


if __name__ == "__main__":
    main()

"""Dynamic models of public packages through PyTorch's own tools and through elastic-compile: captured, right, how fast.

    python -m examples.benchmarks.peers [--keep DIR] [--only NAME ...] [--untimed] [--seconds 1] [--limit 300]

In: the models of `tests/models/zoo` and the digits demo. Out: tables on the terminal. With --keep, what is known of
each model is written to DIR as soon as it is known, and a later run goes on from there: with --untimed first what each
tool makes of the models, then the measurement, a model at a time.
Never: counts a tool as right that was not compared with eager PyTorch on every call, or times contenders apart: all of
them run each path's call in turn.

A tool that gives a result for the example and another result than eager PyTorch for some other call is "wrong", on as
many paths as such calls take. Bundles are made with ONNX Runtime, and with TVM, where ONNX Runtime takes the regions
that TVM refuses.
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
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import torch
from torch import nn
from torch.utils import _pytree as pytree

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.bench import COMPILED, EAGER, Settings, compare, example_calls, torch_calls
from elastic_compile.errors import CompileError
from elastic_compile.verify import same

DIGITS = Path(__file__).resolve().parents[1] / "digits_early_exit"
OURS, OURS_TVM, FILE, SCRIPT, ONNX = "ours", "ours, tvm", "ours, one ONNX file", "torch.jit.script", "torch.onnx"
BACKENDS = {OURS: "onnxruntime", OURS_TVM: "tvm,onnxruntime"}
Calls = Sequence[tuple[Any, ...]]
Run = Callable[..., Any]


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
def exported(module: nn.Module, example: tuple) -> Run:
    return torch.export.export(module, example).module()


def scripted(module: nn.Module, example: tuple) -> Run:
    return torch.jit.script(module)


def traced(module: nn.Module, example: tuple) -> Run:
    return torch.jit.trace(Tensors(module).eval(), example, check_trace=False)


def onnx(module: nn.Module, example: tuple) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        torch.onnx.export(module, example, path, dynamo=True, verbose=False)
        made = session(path)
    names = [given.name for given in made.get_inputs()]
    return lambda *args: made.run(None, dict(zip(names, (array(arg) for arg in args))))


def whole(module: nn.Module, example: tuple) -> Run:
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True)


def broken(module: nn.Module, example: tuple) -> Run:
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(module)


PEERS: dict[str, Callable[[nn.Module, tuple], Run]] = {
    "torch.export": exported, ONNX: onnx, SCRIPT: scripted, "torch.jit.trace": traced,
    "compile(fullgraph)": whole, COMPILED: broken,
}


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def one_file(path: Path) -> Run:
    """A file of `save_onnx` as a function of the call's tensors, in order; gives the leaves of the result."""
    made = session(path)
    names = [given.name for given in made.get_inputs()]
    result = json.loads(made.get_modelmeta().custom_metadata_map["elastic_compile.result"])

    def found(tree: Any, outputs: dict[str, Any]) -> Iterable[Any]:
        if not isinstance(tree, dict):
            yield tree
        elif "output" in tree:
            yield outputs[tree["output"]]
        else:
            items = [item for _, item in tree["map"]] if "map" in tree else \
                tree["fields"].values() if "record" in tree else next(iter(tree.values()))
            for item in items:
                yield from found(item, outputs)

    wanted = [output.name for output in made.get_outputs()]

    def run(*args: Any) -> list[Any]:
        given = [array(leaf) for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        outputs = made.run(wanted, dict(zip(names, given, strict=True)))
        return list(found(result, dict(zip(wanted, outputs))))

    return run


#: A tool's limit is processor time, which a busy machine does not shorten; this many times as long it may wait.
_WAITING = 10


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise Late when so much processor time is over, and let nothing be printed meanwhile."""
    def stop(number: int, frame: Any) -> None:
        raise Late(f"not in {seconds} s")

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(_WAITING * seconds)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
                io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before:
            signal.signal(number, handler)


@dataclass(frozen=True)
class Outcome:
    """What a tool made of a model. `captured`: it gave something for the example; `wrong`: the numbers of the calls for
    which it gave another result than eager PyTorch, without an error; `failed`: of those for which it raised; `reason`:
    the error; `seconds`: what capturing and the first run of every call took."""

    captured: bool
    wrong: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    reason: str = ""
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        return self.captured and not self.wrong and not self.failed

    def text(self, path_of: Sequence[int]) -> str:
        """For a table. `path_of`: the path of each call; the call itself where paths are not known."""
        if not self.captured:
            return self.reason.removeprefix("Late: ") if self.reason.startswith("Late: ") else "no"
        kind, calls = ("wrong", self.wrong) if self.wrong else ("fails", self.failed)
        if not calls:
            return "yes"
        paths = {path_of[call] if path_of else call for call in calls}
        return f"{kind} on {len(paths)} of {len(set(path_of)) if path_of else '?'}"


def told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:150] if lines else ''}"


def attempt(make: Callable[[], Run], calls: Calls, wanted: Sequence[Any], limit: int) -> Outcome:
    """Capture, then compare all calls, in `limit` seconds."""
    wrong, failed = [], []
    reason, start = "", time.monotonic()

    def outcome(captured: bool, why: str) -> Outcome:
        return Outcome(captured, tuple(wrong), tuple(failed), why, round(time.monotonic() - start, 1))

    try:
        with within(limit):
            run = make()
            for number, (call, result) in enumerate(zip(calls, wanted)):
                try:
                    with torch.no_grad():
                        if not equal(run(*copy.deepcopy(call)), result):
                            wrong.append(number)
                except Exception as error:
                    if not number:
                        raise
                    failed.append(number)
                    reason = reason or told(error)
    except (Exception, Late) as error:
        return outcome(False, told(error))
    return outcome(True, reason)


def as_module(target: Any) -> nn.Module:
    return target if isinstance(target, nn.Module) else Called(target)


# -------------------------------------------------------------------------------------------------- rows
@dataclass(frozen=True)
class Measured:
    """Median ms per call, and how far the medians of fifths of the measurement lie apart, relative to it."""

    ms: float
    spread: float


@dataclass
class Row:
    """One model. `size`: by bundle, what became of the model. `path_of`: the path of each call, where ours captured the
    model. `paths`: per path what was measured of each contender."""

    name: str
    package: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    size: dict[str, str] = field(default_factory=dict)
    path_of: list[int] = field(default_factory=list)
    paths: list[dict[str, Measured]] = field(default_factory=list)

    def faster(self, contender: str, than: str) -> list[float]:
        """Per path, how often `contender` is faster."""
        return [path[than].ms / path[contender].ms for path in self.paths if contender in path and than in path]


class Kept:
    """Rows in a file, and what was compiled beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.file = directory, directory / "rows.json"
        directory.mkdir(parents=True, exist_ok=True)
        known = msgspec.json.decode(self.file.read_bytes(), type=list[Row]) if self.file.exists() else []
        self.rows = {row.name: row for row in known}

    def row(self, subject: Subject) -> Row:
        return self.rows.setdefault(subject.name, Row(subject.name, subject.package))

    def path(self, subject: Subject, what: str) -> Path:
        made = self.directory / subject.name.replace(" ", "_")
        made.mkdir(exist_ok=True)
        return made / what

    def write(self) -> None:
        made = self.file.with_suffix(".part")
        made.write_bytes(msgspec.json.format(msgspec.json.encode(list(self.rows.values())), indent=1))
        made.replace(self.file)


def geometric(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else float("nan")


def loaded(subject: Subject, kept: Kept, name: str, host_ops: Any = None) -> er.Model:
    return er.load(kept.path(subject, BACKENDS[name]), allow_native=True, host_ops=host_ops)


def study(subject: Subject, kept: Kept, limit: int) -> None:
    """What each tool makes of the model; what is known already is not asked again."""
    row = kept.row(subject)
    target, examples = subject.make()
    with torch.no_grad():
        wanted = [target(*copy.deepcopy(call)) for call in subject.calls]

    def ask(name: str, make: Callable[[], Run]) -> None:
        if name not in row.outcomes:
            print(f"  {subject.name}: {name} ...", file=sys.stderr, end=" ", flush=True)
            row.outcomes[name] = attempt(make, subject.calls, wanted, limit)
            print(row.outcomes[name].text(row.path_of), file=sys.stderr, flush=True)
            kept.write()

    def ours(name: str) -> Run:
        program = ec.compile(*subject.make(), backend=BACKENDS[name])
        program.save(kept.path(subject, BACKENDS[name]))
        engines = Counter(region.engine for region in program.program.regions)
        row.size[name] = f"{len(program.program.blocks)} blocks, {engines.total()} regions: " + ", ".join(
            f"{count} {engine}" for engine, count in engines.items())
        if name == OURS:
            file.unlink(missing_ok=True)
            try:
                program.save_onnx(file)
            except CompileError as error:
                refused.append(error)
        model = loaded(subject, kept, name, program.host_ops)

        def run(*args: Any) -> Any:
            result = model(*pytree.tree_map_only(torch.Tensor, array, args))
            if name == OURS:
                taken.append(model.last_path)
            return result

        return run

    file, taken, refused = kept.path(subject, "model.onnx"), [], []
    ask(OURS, lambda: ours(OURS))
    if taken and row.outcomes[OURS].captured:
        numbers = {path: number for number, path in enumerate(dict.fromkeys(taken))}
        row.path_of = [numbers[path] for path in taken]
    if FILE not in row.outcomes and refused:
        row.outcomes[FILE] = Outcome(False, reason=told(refused[0]))
    ask(OURS_TVM, lambda: ours(OURS_TVM))
    ask(FILE, lambda: one_file(file))
    for name, peer in PEERS.items():
        ask(name, lambda peer=peer: peer(as_module(subject.make()[0]), examples[0]))
    kept.write()


def measure(subject: Subject, kept: Kept, seconds: float, limit: int) -> None:
    """Latency of those that are right on every call, per path, in turn."""
    row = kept.row(subject)
    right = [name for name, outcome in row.outcomes.items() if outcome.right]
    if row.paths or OURS not in right:
        return
    keywords = [(tuple(call), {}) for call in subject.calls]
    models = {}
    for name in BACKENDS:
        if name in right:
            model = loaded(subject, kept, name)
            models[name] = model, example_calls(model, keywords)
    target, examples = subject.make()
    others: dict[str, list[Callable[[], Any]]] = {}
    with within(10 * limit):
        if COMPILED in right:
            others, _ = torch_calls(target, keywords, 1)
        else:
            others[EAGER] = [lambda call=call: torch.no_grad()(target)(*call) for call in subject.calls]
        makers = {name: lambda peer=peer: peer(as_module(subject.make()[0]), examples[0])
                  for name, peer in PEERS.items() if name not in (COMPILED, "compile(fullgraph)")}
        makers[FILE] = lambda: one_file(kept.path(subject, "model.onnx"))
        for name in right:
            if name in makers:
                others[name] = [lambda run=run, call=call: run(*call) for run in (makers[name](),)
                                for call in subject.calls]
    timings = compare(models, others, Settings(warmup_ms=100, duration_s=seconds))
    row.paths = [{name: Measured(timing.median_ms, timing.spread) for name, timing in each.timings.items()}
                 for each in timings]
    kept.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a directory for what is known so far")
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--untimed", action="store_true", help="do not measure yet")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring per path")
    parser.add_argument("--limit", type=int, default=300, help="seconds of processor time for each tool and model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        kept = Kept(given.keep or Path(directory))
        for subject in subjects():
            if not given.only or subject.name in given.only:
                study(subject, kept, given.limit)
                if not given.untimed:
                    print(f"  {subject.name}: measuring", file=sys.stderr, flush=True)
                    measure(subject, kept, given.seconds, given.limit)
        report(list(kept.rows.values()))


def report(rows: Sequence[Row]) -> None:
    tools = list(dict.fromkeys(name for row in rows for name in row.outcomes))
    print("captured, and right on every call (wrong on N of M: another result than eager PyTorch on N of M paths)\n")
    print(f"{'model':<24}" + "".join(f"{name:>21}" for name in tools))
    for row in rows:
        print(f"{row.name:<24}" + "".join(
            f"{row.outcomes[name].text(row.path_of) if name in row.outcomes else '':>21}" for name in tools))
    print(f"{'right':<24}" + "".join(
        f"{sum(name in row.outcomes and row.outcomes[name].right for row in rows):>15} of {len(rows):>2}"
        for name in tools))
    print()
    for row in rows:
        for name, size in row.size.items():
            print(f"    {row.name}, {name}: {size}")
        for name, outcome in row.outcomes.items():
            if outcome.reason and name.startswith("ours"):
                print(f"    {row.name}, {name}: {outcome.reason}")
    found = {name for row in rows for path in row.paths for name in path}
    contenders = [name for name in dict.fromkeys((EAGER, COMPILED, *tools)) if name in found]
    if not contenders:
        return
    print("\nms per call by path, all contenders in turn: median ± how far the medians of fifths lie apart\n")
    print(f"{'model':<24}" + "".join(f"{name:>21}" for name in contenders))
    for row in rows:
        for number, path in enumerate(row.paths):
            print(f"{row.name if not number else '':<24}" + "".join(
                f"{path[name].ms:>14.3f} ± {path[name].spread:>4.0%}" if name in path else f"{'':>21}"
                for name in contenders))
    ours = [name for name in (OURS, OURS_TVM, FILE) if name in contenders]
    print("\nhow often faster, least and greatest of the paths\n")
    print(f"{'model':<24}" + "".join(f"{f'{name} than {than}':>40}" for name in ours for than in (EAGER, COMPILED)))
    for row in rows:
        print(f"{row.name:<24}" + "".join(
            f"{f'{min(ratios):.2f} to {max(ratios):.2f}' if ratios else '':>40}"
            for name in ours for than in (EAGER, COMPILED) for ratios in (row.faster(name, than),)))
    for name in ours:
        for than in (EAGER, COMPILED):
            means = {row.name: geometric(row.faster(name, than)) for row in rows if row.faster(name, than)}
            slowest = min(means, key=means.__getitem__, default=None)
            if slowest:
                print(f"{name}, geometric mean over {len(means)} models, than {than}: "
                      f"{geometric(list(means.values())):.2f}×, least {means[slowest]:.2f}× ({slowest})")


if __name__ == "__main__":
    main()

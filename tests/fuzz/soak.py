"""Runs many random programs: `python -m tests.fuzz.soak --programs 20000 --seed 1 --log soak.jsonl`.

In: a number of programs and a seed; `--first` for a later range, so that several processes share the work, each with
its log. Out: a log with one line of JSON per program, the counts on the terminal, and each
failing program as a file beside the log. Interrupted and called again, it goes on where the log ends.
Never: runs a program twice, or counts one whose line is not in the log.
"""
from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz import harness
from tests.fuzz.generator import write

PROGRESS = 100
#: A process runs so many programs; PyTorch keeps something of each.
PER_PROCESS = 500
#: What one program may take of the processor.
SECONDS = 12.0


def source_of(seed: int, number: int) -> str:
    """The program `number` of a soak."""
    return write(random.Random(f"{seed}:{number}"))


def finished(log: Path) -> dict[int, str]:
    """The outcomes in the log, by program; an unfinished last line is cut off."""
    if not log.exists():
        return {}
    text = log.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        log.write_text(whole)
    return {line["program"]: line["outcome"] for line in map(json.loads, whole.splitlines())}


def keep_failure(folder: Path, seed: int, number: int, source: str, outcome: harness.Outcome) -> None:
    folder.mkdir(exist_ok=True)
    told = "".join(f"# {line}\n" for line in f"{outcome.label}\n{outcome.detail}".splitlines())
    (folder / f"{seed}_{number}_{outcome.kind}_{outcome.code}.py").write_text(told + source)


def summary(counts: Counter[str]) -> str:
    return ", ".join(f"{label}: {n}" for label, n in counts.most_common())


def soak(numbers: range, seed: int, log: Path, onnxruntime_every: int) -> tuple[Counter[str], bool]:
    """Run those of the programs that the log does not have yet, as many as one process may: one in which a program was
    stopped is not used again, for the stop can leave PyTorch's modes on. Returns the counts by outcome, those in the
    log included, and whether everything has run."""
    done = finished(log)
    counts = Counter(done.values())
    folder = log.with_name(f"{log.stem}_failures")
    began, ran = time.monotonic(), 0
    with log.open("a") as file:
        for number in (n for n in numbers if n not in done):
            source = source_of(seed, number)
            start = time.monotonic()
            outcome = harness.check(source, poison=True, onnxruntime=number % onnxruntime_every == 0, seconds=SECONDS)
            line = {"program": number, "outcome": outcome.label, "seconds": round(time.monotonic() - start, 3)}
            if outcome.kind not in ("equal", "borderline"):
                line["detail"] = outcome.detail.split("\n  reason:")[0][:400]
                keep_failure(folder, seed, number, source, outcome)
            file.write(json.dumps(line) + "\n")
            file.flush()
            counts[outcome.label] += 1
            ran += 1
            if outcome.kind in ("wrong", "broken"):
                print(f"program {number}: {outcome.label}: {outcome.detail.splitlines()[0] if outcome.detail else ''}")
            if ran % PROGRESS == 0:
                pace = (time.monotonic() - began) / ran
                left = (len(numbers) - len(done) - ran) * pace / 60
                print(f"{len(done) + ran} of {len(numbers)}, {pace:.2f} s each, {left:.0f} min left: {summary(counts)}",
                      flush=True)
            if outcome.kind == "slow" or ran == PER_PROCESS:
                return counts, len(done) + ran == len(numbers)
    return counts, True


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile random programs and compare them with eager PyTorch.")
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with program N (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--onnxruntime-every", type=int, default=40, metavar="N",
                        help="run every N-th program with ONNX Runtime (default: 40)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    try:
        counts, finished_all = soak(
            range(given.first, given.first + given.programs), given.seed, given.log, given.onnxruntime_every)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on from {given.log}")
        return 130
    if not finished_all:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "tests.fuzz.soak", *sys.argv[1:]])
    print(summary(counts))
    return int(any(label.startswith(("wrong", "broken")) for label in counts))


if __name__ == "__main__":
    sys.exit(main())

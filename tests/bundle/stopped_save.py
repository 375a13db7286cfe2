"""Saves a bundle over another again and again, stopping dead at one more step each time.

    python stopped_save.py DIRECTORY (atomic | naive)

Prints one JSON object per stop: the step that it stopped before, and what stands at the target afterwards:
"absent", "old", "new" or "broken". A process of its own, because it forks.
"""
from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from elastic_compile.bundle import Packed, replace, write
from elastic_runtime import ElasticRuntimeError, load
from tests.programs import scalar_parts

STOPPED = 9
CONSTANTS = {"old": 2.0, "new": 3.0}


class Stop:
    """Counts the steps that change a file system and ends the process in front of the one numbered `at`."""

    def __init__(self, at: int, report: int) -> None:
        self.at, self.report, self.count = at, report, 0

    def step(self, name: str) -> None:
        if self.count == self.at:
            os.write(self.report, name.encode())
            os._exit(STOPPED)
        self.count += 1

    def around(self, name: str, function: Callable) -> Callable:
        def stopping(*args, **kwargs):
            self.step(name)
            return function(*args, **kwargs)
        return stopping

    def install(self) -> None:
        for name in ("open", "mkdir", "rename", "fsync", "unlink", "rmdir", "close"):
            setattr(os, name, self.around(name, getattr(os, name)))
        replace._exchange = self.around("exchange", replace._exchange)
        replace.open = lambda *args, **kwargs: HalvingFile(open(*args, **kwargs), self)


class HalvingFile:
    """A file whose every write takes only half of what it is given, so that stops hit half-written files."""

    def __init__(self, file, stop: Stop) -> None:
        self.file, self.stop = file, stop

    def write(self, data: memoryview) -> int:
        self.stop.step("write")
        return self.file.write(data[: (len(data) + 1) // 2])

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def naive_write(path: Path, packed: Packed) -> None:
    """The obvious way, which is wrong: delete, then write in place."""
    if path.exists():
        shutil.rmtree(path)
    os.mkdir(path)
    spare = path.parent / "spare"
    write(spare, packed)
    for file in sorted(spare.iterdir()):
        with replace.open(path / file.name, "wb", buffering=0) as copy:
            left = file.read_bytes()
            while left:
                left = left[copy.write(left):]
    shutil.rmtree(spare)


def state(path: Path) -> str:
    """What an application finds: it loads the bundle, which checks every file, and replays the reference calls."""
    if not path.exists():
        return "absent"
    try:
        result = load(path, self_test=True)(np.float32(1))
    except ElasticRuntimeError:
        return "broken"
    return next(name for name, constant in CONSTANTS.items() if result == constant)


def run(directory: Path, save: Callable, *, over: bool) -> None:
    """Stop at step 0, 1, 2, … until a save goes through; `over`: an old bundle stands at the target."""
    target = directory / "model.elastic"
    at = 0
    while True:
        shutil.rmtree(target, ignore_errors=True)
        if over:
            write(target, scalar_parts(CONSTANTS["old"]))
        read, report = os.pipe()
        child = os.fork()
        if not child:
            Stop(at, report).install()
            save(target, scalar_parts(CONSTANTS["new"]))
            os._exit(0)
        os.close(report)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with open(read, "rb") as pipe:
            step = pipe.read().decode()
        hidden = sum(entry.name.startswith(".") for entry in directory.iterdir())
        print(json.dumps(
            {"over": over, "at": at, "step": step, "code": code, "state": state(target), "hidden": hidden}))
        if code != STOPPED:
            return
        at += 1


if __name__ == "__main__":
    place, how = Path(sys.argv[1]), {"atomic": write, "naive": naive_write}[sys.argv[2]]
    for over in (False, True):
        run(place, how, over=over)

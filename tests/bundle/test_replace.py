"""A save that is stopped at any step leaves the old bundle or the new one."""
from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elastic_compile.bundle import BundleWriteError, replace, write
from tests.programs import scalar_parts

ROOT = Path(__file__).parents[2]


def stops(directory: Path, how: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bundle.stopped_save", str(directory), how],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def atomic(tmp_path_factory) -> list[dict]:
    return stops(tmp_path_factory.mktemp("stops"), "atomic")


def test_stopped_first_save_leaves_nothing_or_the_new_bundle(atomic):
    first = [stop for stop in atomic if not stop["over"]]
    assert first[-1]["code"] == 0 and first[-1]["state"] == "new"
    assert {stop["state"] for stop in first} == {"absent", "new"}


def test_stopped_second_save_leaves_the_old_or_the_new_bundle(atomic):
    second = [stop for stop in atomic if stop["over"]]
    assert second[-1]["code"] == 0 and second[-1]["state"] == "new"
    assert {stop["state"] for stop in second} == {"old", "new"}
    states = [stop["state"] for stop in second]
    assert states == sorted(states, key=["old", "new"].index), "one step alone switches"


def test_every_kind_of_step_was_stopped_at(atomic):
    assert {stop["step"] for stop in atomic} >= {
        "mkdir", "open", "write", "fsync", "rename", "exchange", "unlink", "rmdir"}
    assert sum(stop["over"] for stop in atomic) > 60


def test_leftovers_do_not_pile_up(atomic):
    assert max(stop["hidden"] for stop in atomic) == 1
    assert atomic[-1]["hidden"] == 0


def test_the_same_test_catches_a_writer_that_deletes_first(tmp_path):
    states = {stop["state"] for stop in stops(tmp_path, "naive") if stop["over"]}
    assert {"absent", "broken"} <= states


def test_an_error_in_the_middle_leaves_the_old_bundle_and_no_leftover(tmp_path, monkeypatch):
    target = tmp_path / "m.elastic"
    write(target, scalar_parts())
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(target, scalar_parts(5.0))
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.elastic"]


def test_a_file_system_that_cannot_exchange_keeps_the_old_bundle(tmp_path, monkeypatch):
    target = tmp_path / "m.elastic"
    write(target, scalar_parts())
    before = (target / "program.json").read_bytes()

    class NoExchange:
        @staticmethod
        def renameat2(*_: object) -> int:
            replace.ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(replace.ctypes, "CDLL", lambda *_, **__: NoExchange)
    with pytest.raises(BundleWriteError, match=r"EC501.*cannot replace") as caught:
        write(target, scalar_parts(5.0))
    assert "remove the old bundle first" in str(caught.value)
    assert (target / "program.json").read_bytes() == before


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("notes"),
    lambda path: path.mkdir(),
    lambda path: (path.mkdir(), (path / "thesis.tex").write_text("x")),
    lambda path: (path.mkdir(), (path / "manifest.json").write_text('{"format": "something else"}')),
    lambda path: path.symlink_to("/"),
])
def test_what_is_not_a_bundle_is_not_replaced(tmp_path, make):
    target = tmp_path / "thing"
    make(target)
    with pytest.raises(BundleWriteError, match="something else is already there"):
        write(target, scalar_parts())
    assert [entry.name for entry in tmp_path.iterdir()] == ["thing"]


def test_a_missing_parent_is_named(tmp_path):
    with pytest.raises(BundleWriteError, match="no_such is not a directory"):
        write(tmp_path / "no_such" / "m.elastic", scalar_parts())


def test_a_link_to_a_bundle_stays_a_link(tmp_path):
    write(tmp_path / "v1.elastic", scalar_parts())
    link = tmp_path / "current.elastic"
    link.symlink_to("v1.elastic")
    write(link, scalar_parts(5.0))
    assert link.is_symlink()
    assert b"1.4000000000000p+2" in (tmp_path / "v1.elastic" / "program.json").read_bytes()


def test_two_writers_at_once_both_finish(tmp_path):
    code = ("import sys; from elastic_compile.bundle import write; from tests.programs import scalar_parts\n"
            "for _ in range(20): write(sys.argv[1], scalar_parts(float(sys.argv[2])))")
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "m.elastic"), constant], cwd=ROOT)
               for constant in ("2.0", "3.0")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.elastic"]

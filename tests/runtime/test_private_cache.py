"""The runtime's own files: made once, checked at every use, replaced when damaged, never shared with others."""
from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from elastic_runtime import private_cache
from elastic_runtime.private_cache import PrivateCache, temporary

DATA = b"weights" * 1000


def fill(folder):
    (folder / "data").write_bytes(DATA)
    (folder / "note").write_bytes(b"note")


def refuse(folder):
    raise AssertionError("made again")


@pytest.fixture
def kept(tmp_path):
    made = PrivateCache(tmp_path / "cache")
    made.make("key", fill)
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_was_made_is_found_with_its_bytes(kept):
    entry = kept.find("key")
    assert entry.read("data") == DATA and set(entry.files) == {"data", "note"}
    assert kept.find("other") is None
    assert stat.S_IMODE(os.stat(kept.root).st_mode) == stat.S_IMODE(os.stat(entry.path).st_mode) == 0o700


def damaged(change):
    return pytest.param(change, id=change.__name__)


def flipped(path):
    data = bytearray((path / "data").read_bytes())
    data[-1] ^= 1
    (path / "data").write_bytes(data)


def cut(path):
    os.truncate(path / "data", 10)


def grown(path):
    with open(path / "data", "ab") as file:
        file.write(b"!")


def gone(path):
    (path / "data").unlink()


def extra(path):
    (path / "more").write_bytes(b"")


def linked(path):
    os.rename(path / "data", path.parent / "data")
    os.symlink(path.parent / "data", path / "data")


def hard_linked(path):
    os.link(path / "data", path.parent / "again")


def piped(path):
    (path / "data").unlink()
    os.mkfifo(path / "data")


def no_index(path):
    (path / "index.json").unlink()


def other_index(path):
    (path / "index.json").write_bytes(b'{"../data": [7000, "00"]}')


def nonsense(path):
    (path / "index.json").write_bytes(b"\xff{")


def open_to_others(path):
    os.chmod(path, 0o777)


@pytest.mark.parametrize("change", [damaged(change) for change in (
    flipped, cut, grown, gone, extra, linked, hard_linked, piped, no_index, other_index, nonsense, open_to_others)])
def test_a_damaged_entry_is_as_good_as_none_and_is_made_again(kept, change):
    change(kept.root / "key")
    assert kept.find("key") is None
    assert kept.make("key", fill).read("data") == DATA
    assert kept.find("key").read("data") == DATA
    assert not [name for name in os.listdir(kept.root) if name.startswith(".")]


def test_a_link_or_a_file_in_place_of_an_entry_is_replaced(kept, tmp_path):
    os.rename(kept.root / "key", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", kept.root / "key")
    assert kept.find("key") is None
    kept.make("key", fill)
    assert (tmp_path / "elsewhere" / "data").exists() and not (kept.root / "key").is_symlink()
    (kept.root / "file").write_bytes(b"")
    assert kept.find("file") is None and kept.make("file", fill).read("note") == b"note"


def test_a_file_that_changes_after_it_was_opened_is_noticed(kept):
    entry = kept.find("key")
    flipped(entry.path)
    with pytest.raises(ValueError, match="changed"):
        entry.read("data")


def test_a_directory_that_others_can_enter_is_not_used(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    os.chmod(tmp_path / "open", 0o755)
    (tmp_path / "mine").mkdir(mode=0o700)
    os.symlink(tmp_path / "mine", tmp_path / "link")
    (tmp_path / "file").write_bytes(b"")
    for name in ("open", "link", "file", "file/below"):
        with pytest.raises(OSError):
            PrivateCache(tmp_path / name)


def test_nothing_is_left_of_what_failed(kept):
    def stop(folder):
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.make("other", stop)
    assert os.listdir(kept.root) == ["key"]


def test_another_process_that_was_first_wins(kept):
    before = os.stat(kept.root / "key").st_ino
    assert kept.make("key", fill).path == kept.root / "key"
    assert os.stat(kept.root / "key").st_ino == before and os.listdir(kept.root) == ["key"]


def test_many_that_make_the_same_at_once_all_get_it(tmp_path):
    roots, failures = tmp_path / "cache", []
    start = threading.Barrier(8)

    def work():
        try:
            cache = PrivateCache(roots)
            start.wait()
            for key in "abcde":
                assert cache.make(key, fill).read("data") == DATA
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and sorted(os.listdir(roots)) == list("abcde")


def test_a_process_that_is_killed_leaves_no_entry(tmp_path):
    code = ("import os, sys\nfrom pathlib import Path\nfrom elastic_runtime.private_cache import PrivateCache\n"
            "def fill(folder):\n    (folder / 'data').write_bytes(b'half')\n    os._exit(9)\n"
            "PrivateCache(Path(sys.argv[1])).make('key', fill)\n")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "cache")], check=False).returncode == 9
    cache = PrivateCache(tmp_path / "cache")
    assert cache.find("key") is None and cache.make("key", fill).read("data") == DATA


def test_old_remains_and_unused_entries_go(kept, monkeypatch):
    kept.make("fresh", fill)
    remains = kept.root / ".making-old"
    remains.mkdir()
    old = time.time() - private_cache._UNUSED_S - 10
    for path in (remains, kept.root / "key" / "index.json"):
        os.utime(path, (old, old))
    kept.make("new", fill)
    assert sorted(os.listdir(kept.root)) == ["fresh", "new"]


def test_use_keeps_an_entry(kept):
    old = time.time() - private_cache._UNUSED_S - 10
    os.utime(kept.root / "key" / "index.json", (old, old))
    assert kept.find("key") is not None
    kept.make("new", fill)
    assert sorted(os.listdir(kept.root)) == ["key", "new"]


def test_a_temporary_entry_goes_when_it_is_discarded(tmp_path, monkeypatch):
    monkeypatch.setattr(private_cache.tempfile, "tempdir", str(tmp_path))
    entry = temporary(fill)
    assert entry.read("data") == DATA and entry.path.parent == tmp_path
    entry.discard()
    assert os.listdir(tmp_path) == []
    with pytest.raises(AssertionError):
        temporary(refuse)
    assert os.listdir(tmp_path) == []


def test_no_descriptor_stays_open(kept):
    before = descriptors()
    for change in (flipped, linked, piped, hard_linked):
        change(kept.root / "key")
        assert kept.find("key") is None
        kept.make("key", fill)
        for name in os.listdir(kept.root):
            if name != "key":
                os.unlink(kept.root / name)
    assert descriptors() == before


def test_the_default_place_is_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert str(private_cache.default_root()) == "/somewhere/cache/elastic-runtime"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(private_cache.default_root()) == "/home/someone/.cache/elastic-runtime"

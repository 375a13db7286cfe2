"""A directory of the runtime's own, where it keeps what it made of bundles on this machine.

In: a key and a function that fills a directory. Out: an `Entry`: files whose size and SHA-256 were just checked.
Never: uses a directory or file that others could write to, follows a link, leaves a half-made entry under its key,
or raises over an entry that is damaged: such an entry is as good as none, and is replaced.

An entry is made in a directory beside its place and renamed. Two processes may make the same entry: the first one
to rename wins, the other uses that one or makes do with its own. A mapping of a file outlives the entry.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

_INDEX = "index.json"
_INDEX_BYTES = 1 << 24
_MAKING = ".making-"
_ABANDONED_S = 24 * 3600.0
_UNUSED_S = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Entry:
    """`files`: SHA-256 in hex by name, of the files in `path` as they were when the entry was opened."""

    path: Path
    files: dict[str, str]

    def read(self, name: str) -> bytes:
        """The bytes of a file, checked. Raises OSError, ValueError when they are no longer those of the index."""
        with open(_descriptor(self.path / name), "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            raise ValueError(f"{name} has changed")
        return data

    def discard(self) -> None:
        """Remove the entry's files; what is mapped stays mapped."""
        shutil.rmtree(self.path, ignore_errors=True)


class PrivateCache:
    """`root`: a directory that is made with mode 0700 where it is missing. Raises OSError when it cannot be made or
    written to, or when it is not this user's alone."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(root)
        if not stat.S_ISDIR(status.st_mode) or not _own(status) or not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(f"{root} is not a directory that only this user can use")
        self.root = root

    def find(self, key: str) -> Entry | None:
        """The entry made under `key`, if it is there and whole."""
        path = self.root / key
        try:
            entry = _opened(path)
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path / _INDEX)
        return entry

    def make(self, key: str, fill: Callable[[Path], None]) -> Entry:
        """Have `fill` write plain files into an empty directory, and keep that under `key`.

        Where another process has made a whole entry meanwhile, that one is given. Raises OSError, and what `fill`
        raises; nothing is left then.
        """
        self._tidy()
        made = Path(tempfile.mkdtemp(prefix=_MAKING, dir=self.root))
        try:
            fill(made)
            listed = {name: (os.lstat(made / name).st_size, sha256) for name, sha256 in _hashes(made).items()}
            (made / _INDEX).write_bytes(msgspec.json.encode(listed))
            return self._publish(key, made)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def _publish(self, key: str, made: Path) -> Entry:
        path = self.root / key
        for _ in range(8):
            with contextlib.suppress(OSError):
                os.rename(made, path)
                return _opened(path)
            standing = self.find(key)
            if standing is not None:
                shutil.rmtree(made, ignore_errors=True)
                return standing
            aside = self.root / f"{_MAKING}{secrets.token_hex(8)}"
            with contextlib.suppress(OSError):
                os.rename(path, aside)
            _remove(aside)
        raise OSError(f"{path} cannot be replaced")

    def _tidy(self) -> None:
        """Remove what was left half made a day ago, and entries that nobody used for a month."""
        now = time.time()
        for item in os.scandir(self.root):
            with contextlib.suppress(OSError):
                if item.name.startswith(_MAKING):
                    if now - item.stat(follow_symlinks=False).st_mtime > _ABANDONED_S:
                        _remove(Path(item.path))
                elif now - os.stat(os.path.join(item.path, _INDEX)).st_mtime > _UNUSED_S:
                    _remove(Path(item.path))


def temporary(fill: Callable[[Path], None]) -> Entry:
    """An entry that no cache keeps; `discard` it once its files are mapped. Raises OSError, and what `fill` raises."""
    made = Path(tempfile.mkdtemp(prefix="elastic-"))
    try:
        fill(made)
        return Entry(made, _hashes(made))
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def default_root() -> Path:
    """`$XDG_CACHE_HOME/elastic-runtime`, in `~/.cache` where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "elastic-runtime"


def _own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _opened(path: Path) -> Entry:
    """Raises OSError or ValueError unless `path` holds the files of its index, nothing else, and all of them whole."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or not _own(status):
        raise ValueError(f"{path} is not a directory that only this user can use")
    with open(_descriptor(path / _INDEX), "rb") as file:
        raw = file.read(_INDEX_BYTES + 1)
    if len(raw) > _INDEX_BYTES:
        raise ValueError("a long index")
    listed = msgspec.json.decode(raw, type=dict[str, tuple[int, str]])
    if set(os.listdir(path)) != {*listed, _INDEX} or any("/" in name for name in listed):
        raise ValueError("other files than those of the index")
    for name, (size, sha256) in listed.items():
        if os.lstat(path / name).st_size != size or _sha256_of(path / name) != sha256:
            raise ValueError(f"{name} is damaged")
    return Entry(path, {name: sha256 for name, (_, sha256) in listed.items()})


def _descriptor(path: Path) -> int:
    """Of a regular file of this user's with one name. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise PermissionError(f"{path} is not a plain file of this user")
    return descriptor


def _hashes(folder: Path) -> dict[str, str]:
    return {name: _sha256_of(folder / name) for name in sorted(os.listdir(folder))}


def _sha256_of(path: Path) -> str:
    with open(_descriptor(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)

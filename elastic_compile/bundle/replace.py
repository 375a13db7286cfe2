"""Directories that appear, and are replaced, in one step.

In: a target path and the files that the directory shall hold.
Out: the directory at the target, durable on disk. Whenever the process or the machine stops, the target
is what it was before or what it shall be: absent or old, or new and whole; never anything in between.
Never: touches a target that its caller's test does not recognise as the same kind of directory.

The new directory is built beside the target under a hidden name, each file and then the directory flushed
to disk. Where the target does not exist, a rename puts it there. Where it exists, Linux exchanges the two
names in one step (`renameat2` with `RENAME_EXCHANGE`) and the old directory, now hidden, is deleted. Moving
the old one aside first would leave a moment with nothing at the target, so where the file system cannot
exchange (NFS, for one) the replacement is refused and the old directory stays. Hidden directories that a
stopped writer left behind are deleted by the next one; a lock on the parent directory keeps writers apart.
"""
from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from elastic_compile.errors import CompileError


class BundleWriteError(CompileError):
    """A bundle cannot be written where it was asked for. What was there before is untouched."""

    code = "EC501"


class Add(Protocol):
    """Writes one file of the new directory. Gives its size in bytes and its SHA-256 in hex."""

    def __call__(self, name: str, pieces: Iterable[bytes | memoryview]) -> tuple[int, str]: ...


def replace_directory(path: Path, recognise: Callable[[Path], bool], fill: Callable[[Add], None]) -> None:
    """Make `path` a directory of the files that `fill` adds.

    `recognise` says whether what stands at `path` may be replaced. A link at `path` is followed.
    Raises `BundleWriteError` when the parent is no directory, when `path` holds something else, and when the
    file system cannot replace a directory in one step; OSError as the file system gives it. After any error
    `path` is as it was.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise BundleWriteError(
            f"cannot write {path}: {target.parent} is not a directory", hint="create the directory first")
    with _locked(target.parent) as parent:
        exists = os.path.lexists(target)
        if exists and not recognise(target):
            raise BundleWriteError(
                f"cannot write {path}: something else is already there",
                reason="only a bundle is ever replaced by a bundle",
                hint="choose another name, or remove it first")
        _sweep(target)
        new = target.parent / f"{_prefix(target)}{secrets.token_hex(8)}"
        os.mkdir(new, 0o755)
        try:
            fill(lambda name, pieces: _add(new / name, pieces))
            _flush_directory(new)
            if exists:
                _exchange(new, target)
            else:
                os.rename(new, target)
            os.fsync(parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.part-"


def _sweep(target: Path) -> None:
    for left in target.parent.iterdir():
        if left.name.startswith(_prefix(target)) and left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield descriptor
    finally:
        os.close(descriptor)


def _add(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb", buffering=0) as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            left = memoryview(piece)
            while left:
                left = left[file.write(left):]
        os.fsync(descriptor)
    return size, digest.hexdigest()


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step (renameat2(2), Linux 3.15)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        if not renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        raise BundleWriteError(
            f"cannot replace {other}: {os.strerror(code)}",
            reason="this file system cannot exchange two directories in one step",
            hint="remove the old bundle first, or write under another name")
    raise OSError(code, os.strerror(code), str(one), None, str(other))

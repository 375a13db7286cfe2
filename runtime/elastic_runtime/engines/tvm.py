"""The engine "tvm": a region is an entry of a shared library that TVM compiled. It runs native code.

In: a region whose payload is {"library": bytes of a shared library}, and its weights. Out: a kernel.
Never: imports `tvm` (the runtime libraries are loaded from its package by path), hands the library's own file to
the loader (the verified bytes are written to a private file, and that is loaded), or keeps an input.
"""
from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

# Without this, tvm_ffi compiles a C++ extension on import where PyTorch is installed.
os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")

import numpy as np
import tvm_ffi

from elastic_runtime.engines import EngineOptions, Kernel
from elastic_runtime.errors import BundleError, EngineMissing, ExecutionError
from elastic_runtime.schema import Region

ALIGNMENT = 64
"""Bytes. TVM's code loads vectors from any tensor as if its memory were aligned to this."""

_HINT = "Install elastic-runtime[tvm]"
_CPU, _POOLED = 1, 2


class TvmEngine:
    name = "tvm"
    native = True
    strided = True

    def __init__(self) -> None:
        _runtime_libraries()
        self._libraries: dict[str, tuple[object, threading.Lock]] = {}
        self._weights: dict[tuple, tuple[tvm_ffi.Tensor, np.ndarray]] = {}

    def load(self, region: Region, files: Mapping[str, memoryview], weights: Mapping[str, np.ndarray],
             options: EngineOptions) -> Kernel:
        """A kernel; kernels of one library wait for each other. Raises `BundleError`."""
        file = region.files.get("library", region.name)
        if set(files) != {"library"} or set(region.options) != {"symbol", "copy", "rows"}:
            raise BundleError(file, "tvm-region", f"roles {sorted(files)}, options {sorted(region.options)}",
                              "the role 'library' and the options 'symbol', 'copy' and 'rows'")
        if set(weights) != {f"w{index}" for index in range(len(weights))}:
            raise BundleError(file, "tvm-region", f"weights {sorted(weights)}", "w0, w1, ...")
        _set_threads(options.threads)
        machine, lock = self._machine(file, files["library"])
        try:
            entry = machine[region.options["symbol"]]
        except Exception as error:
            raise BundleError(file, "tvm-symbol", region.options["symbol"], "an entry of the library") from error
        copied = _numbers(file, region, "copy", len(region.outputs))
        rows = _numbers(file, region, "rows", len(weights))
        arrays = [weights[f"w{index}"] for index in range(len(weights))]
        if any(arrays[index].ndim != 2 for index in rows):
            raise BundleError(file, "tvm-region", f"rows {region.options['rows']}", "numbers of matrices")
        tensors = [self._weight(_enclosing(array) if index in rows else array) for index, array in enumerate(arrays)]
        return _kernel(region, entry, lock, copied, tensors)

    def _weight(self, array: np.ndarray) -> tvm_ffi.Tensor:
        """One tensor, and at most one copy, for all regions that read the same."""
        key = array.ctypes.data, array.dtype.str, array.shape, array.strides
        if key not in self._weights:
            # Keeping the array keeps its address from being another one's.
            self._weights[key] = _weight(array), array
        return self._weights[key][0]

    def _machine(self, file: str, library: memoryview) -> tuple[object, threading.Lock]:
        key = hashlib.sha256(library).hexdigest()
        if key not in self._libraries:
            try:
                machine = _load_privately(library)["vm_load_executable"]()
                machine["vm_initialization"](_CPU, 0, _POOLED)
            except Exception as error:
                raise BundleError(file, "tvm-load", str(error), "a library that this TVM runtime accepts") from error
            self._libraries[key] = machine, threading.Lock()
        return self._libraries[key]


def _set_threads(count: int) -> None:
    """The pool of threads is the process's: the engine that is loaded last decides. TVM ties the calling thread, and
    with it all threads that it starts later, to one core: that is taken back."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, count)
    if cores is not None:
        os.sched_setaffinity(0, cores)


@cache
def _runtime_libraries() -> tuple[ctypes.CDLL, ...]:
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        raise EngineMissing("tvm", reason="the package apache-tvm is not installed", hint=_HINT)
    folder = Path(found.origin).parent / "lib"
    try:
        return tuple(ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
                     for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"))
    except OSError as error:
        raise EngineMissing("tvm", reason=str(error), hint=_HINT) from error


def _load_privately(library: memoryview) -> tvm_ffi.Module:
    """Load the very bytes that were verified: from a file that only this user can reach, gone after."""
    with tempfile.TemporaryDirectory(prefix="elastic-") as folder:
        path = os.path.join(folder, "library.so")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(library)
        return tvm_ffi.load_module(path)


def _numbers(file: str, region: Region, option: str, count: int) -> tuple[int, ...]:
    text = region.options[option]
    try:
        chosen = tuple(int(item) for item in text.split(",")) if text else ()
    except ValueError:
        chosen = (-1,)
    if any(not 0 <= index < count for index in chosen):
        raise BundleError(file, "tvm-region", f"{option} {text!r}", f"numbers below {count}")
    return chosen


def _enclosing(matrix: np.ndarray) -> np.ndarray:
    """The matrix of whole rows in which `matrix` is the first columns, where it can be given as it lies. The kernel
    reads no other columns, so that it does not matter that the last row may end before."""
    rows, size = len(matrix), matrix.itemsize
    distance, rest = divmod(matrix.strides[0], size) if rows > 1 else (matrix.shape[1], 0)
    along = matrix.shape[1] < 2 or matrix.strides[1] == size
    if rest or distance < matrix.shape[1] or not along or matrix.ctypes.data % ALIGNMENT or not matrix.dtype.isnative:
        return matrix
    return np.lib.stride_tricks.as_strided(matrix, (rows, distance), (distance * size, size), writeable=False)


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy whose memory is contiguous, writable and aligned."""
    space = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -space.ctypes.data % ALIGNMENT
    made = space[start:start + array.nbytes].view(array.dtype.newbyteorder("=")).reshape(array.shape)
    made[...] = array
    return made


def _weight(array: np.ndarray) -> tvm_ffi.Tensor:
    """The array itself where it is aligned (read-only memory too: nothing writes to a weight), else a copy."""
    if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous or not array.dtype.isnative:
        array = _aligned(array)
    elif not array.flags.writeable:
        raw = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
        raw.array = array
        array = np.frombuffer(raw, array.dtype).reshape(array.shape)
    return tvm_ffi.from_dlpack(array)


def _kernel(region: Region, entry: tvm_ffi.Function, lock: threading.Lock, copies: Sequence[int],
            weights: Sequence[tvm_ffi.Tensor], wrap: Callable[[Callable], Callable] = lambda run: run) -> Kernel:
    name, outputs, run = region.name, range(len(region.outputs)), wrap(entry)
    borrow, give = tvm_ffi.from_dlpack, np.from_dlpack

    def tensor(array: np.ndarray) -> tvm_ffi.Tensor:
        if array.flags.carray and array.dtype.isnative:
            borrowed = borrow(array)
            if borrowed.data_ptr() % ALIGNMENT == 0:
                return borrowed
        return borrow(_aligned(array))

    def kernel(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        try:
            with lock:
                made = run(*map(tensor, arrays), *weights)
            result = [give(made[index]) for index in outputs]
        except Exception as error:
            raise ExecutionError(name, "tvm", str(error), "a run without an error") from error
        for index in copies:
            result[index] = result[index].copy()
        return result

    kernel.around = lambda wrap: _kernel(region, entry, lock, copies, weights, wrap)
    return kernel

"""The engine "onnxruntime": a region is an ONNX model that ONNX Runtime executes on the CPU.

In: a region whose payload is {"model": ModelProto bytes}, and its weights, mapped. Out: a kernel.
Never: lets ONNX Runtime resolve a path of the bundle's (`onnx_scan` comes first, weights are fed from memory or from a
file that the runtime itself wrote), or shares an output's memory with a later call.

A session keeps a copy of most weights, packed for its kernels. Where regions share weights, such copies would be as
many as the regions: then the packed form of all is made once, kept in the runtime's cache, and mapped by every
session (`onnx_packed`). Whatever goes wrong there, the regions are loaded as they are without it.

A complex tensor crosses the boundary as a real one whose last dimension, of 2, holds the two parts.
"""
from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from elastic_runtime.engines import EngineOptions, Kernel, Part, onnx_packed
from elastic_runtime.errors import BundleError, ExecutionError
from elastic_runtime.onnx_scan import scan
from elastic_runtime.private_cache import Entry, PrivateCache, temporary
from elastic_runtime.schema import Port, Region

PACKED_FROM = 1 << 20
"""Bytes of weights that regions have in common from which one packed copy of them is worth making."""

_REAL = {"complex64": "float32", "complex128": "float64"}
_ONNX_NAMES = {"float16": "float16", "float32": "float", "float64": "double"}


class OnnxRuntimeEngine:
    name = "onnxruntime"
    native = False
    strided = True

    def __init__(self) -> None:
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._contiguous: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    def prepare(self, parts: Sequence[Part], options: EngineOptions) -> None:
        """Make one packed copy of the weights for all of `parts` where some of them share weights. Raises
        `BundleError` for a model that `load` would refuse."""
        sources = {}
        for part in parts:
            _scanned(part.region, part.files, part.weights)
            if part.weights:
                sources[_key(part.region, part.files)] = onnx_packed.Source(
                    part.files["model"], part.weights, _is_fixed(part.region))
        if _shared_bytes(sources.values()) < PACKED_FROM:
            return
        made: dict[str, ort.InferenceSession] = {}
        entry = _entry(sources, options, made)
        if entry is None:
            return
        try:
            for key, source in sources.items():
                if key in entry.files and key not in made:
                    with contextlib.suppress(Exception):
                        made[key] = onnx_packed.open_session(
                            entry.read(key), entry.path, _session_options(options, source.fixed))
            self._sessions = made
        finally:
            if options.cache is None or options.cache not in entry.path.parents:
                entry.discard()

    def load(self, region: Region, files: Mapping[str, memoryview], weights: Mapping[str, np.ndarray],
             options: EngineOptions) -> Kernel:
        """A kernel that may be called from several threads at once. Raises `BundleError`."""
        file = _scanned(region, files, weights)
        session = self._sessions.get(_key(region, files)) if self._sessions else None
        if session is None:
            weights = {name: self._in_c_order(array) for name, array in weights.items()}
            session = _session(region, files, weights, options)
        else:
            weights = {}
        _check_ports(file, "inputs", session.get_inputs(), region.inputs)
        _check_ports(file, "outputs", session.get_outputs(), region.outputs)
        return _kernel(region, session, weights)

    def _in_c_order(self, array: np.ndarray) -> np.ndarray:
        """The array itself where it can be, else one copy for all that ask for the same."""
        if array.flags.c_contiguous:
            return array
        key = array.ctypes.data, array.dtype.str, array.shape, array.strides
        if key not in self._contiguous:
            # Keeping the array keeps its address from being another one's.
            self._contiguous[key] = np.ascontiguousarray(array), array
        return self._contiguous[key][0]


def _scanned(region: Region, files: Mapping[str, memoryview], weights: Mapping[str, np.ndarray]) -> str:
    """The name of the model's file, once it is known to be harmless."""
    file = region.files.get("model", region.name)
    if set(files) != {"model"} or region.options:
        raise BundleError(file, "onnx-region", f"roles {sorted(files)}, options {sorted(region.options)}",
                          "the role 'model' and no options")
    scan(files["model"], weights, file)
    return file


def _session(region: Region, files: Mapping[str, memoryview], weights: Mapping[str, np.ndarray],
             options: EngineOptions) -> ort.InferenceSession:
    made = _session_options(options, _is_fixed(region))
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        made.add_external_initializers(list(weights), values)
    try:
        return ort.InferenceSession(bytes(files["model"]), made, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(region.files["model"], "onnx-load", str(error), "a model that ONNX Runtime "
                          f"{ort.__version__} accepts") from error


# ----------------------------------------------------------------------------------- weights that regions share
def _key(region: Region, files: Mapping[str, memoryview]) -> str:
    """Equal for regions of a bundle that have the same model and weights."""
    made = hashlib.sha256(files["model"])
    for use in sorted(region.weights, key=lambda use: use.name):
        made.update(repr((use.name, use.tensor)).encode())
    return made.hexdigest()


def _shared_bytes(sources: Iterable[onnx_packed.Source]) -> int:
    """Bytes that would be there again without a packed copy: of each weight that n sources read, n - 1 times its own;
    and of one that does not lie in C order, as many more."""
    readers: Counter[tuple] = Counter()
    for source in sources:
        for array in source.weights.values():
            readers[array.ctypes.data, array.nbytes] += 1 if array.flags.c_contiguous else 2
    return sum(size * (times - 1) for (_, size), times in readers.items())


def _entry(sources: Mapping[str, onnx_packed.Source], options: EngineOptions,
           sessions: dict[str, ort.InferenceSession]) -> Entry | None:
    """The packed form of `sources`: from the cache, made for it, or made for this process; None if none can be.
    `sessions` receives those that making it has opened."""
    def fill(folder: Path) -> None:
        sessions.update(onnx_packed.pack(sources, folder, lambda fixed: _session_options(options, fixed)))

    if options.cache is not None and options.bundle:
        parts = [onnx_packed.machine(), options.bundle, *sorted(sources)]
        key = hashlib.sha256(" ".join(parts).encode()).hexdigest()
        with contextlib.suppress(OSError):
            kept = PrivateCache(options.cache)
            return kept.find(key) or kept.make(key, fill)
    with contextlib.suppress(OSError):
        return temporary(fill)
    return None


@cache
def _share_allocator() -> None:
    """One arena for all sessions of the process: forty small regions hold 2 MiB of it instead of 17."""
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT), None)


def _is_fixed(region: Region) -> bool:
    return all(isinstance(size, int) for port in region.inputs for size in port.type.shape)


def _session_options(options: EngineOptions, fixed: bool) -> ort.SessionOptions:
    _share_allocator()
    made = ort.SessionOptions()
    made.log_severity_level = 4
    made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.intra_op_num_threads = options.threads
    made.inter_op_num_threads = 1
    made.enable_mem_pattern = fixed
    made.add_session_config_entry("session.use_env_allocators", "1")
    # Threads that wait for work between two operators spin, or each operator has to wake them: 0.7 x the time of a
    # region of small layers. After a run they would spin on the cores that the next region's threads need.
    made.add_session_config_entry("session.force_spinning_stop", "1")
    return made


def _check_ports(file: str, what: str, made: Sequence[ort.NodeArg], ports: tuple[Port, ...]) -> None:
    given = [(item.name, item.type, len(item.shape)) for item in made]
    expected = [_declared(port) for port in ports]
    if given != expected:
        raise BundleError(file, "onnx-ports", f"{what} {given}", expected)


def _declared(port: Port) -> tuple[str, str, int]:
    real = _REAL.get(port.type.dtype)
    dtype = real or port.type.dtype
    return port.name, f"tensor({_ONNX_NAMES.get(dtype, dtype)})", len(port.type.shape) + bool(real)


def _kernel(region: Region, session: ort.InferenceSession, weights: Mapping[str, np.ndarray]) -> Kernel:
    def around(wrap: Callable[[Callable], Callable]) -> Kernel:
        # What the public run() calls after checks that `_check_ports` has made once: 1.3 us less per call.
        kernel = _calling(wrap(session._sess.run), region)
        if not any(port.type.dtype in _REAL for port in (*region.inputs, *region.outputs)):
            kernel.into = _writing(wrap(session._sess.run_with_iobinding), session, region)
        kernel.weights = weights  # the session reads their memory and holds no reference to it
        kernel.around = around
        return kernel

    return around(lambda run: run)


def _writing(run: Callable, session: ort.InferenceSession, region: Region) -> Callable:
    """A kernel's `into`: outputs are bound to the memory that they are to be written to."""
    names = tuple(enumerate(port.name for port in region.inputs))
    outputs = tuple((port.name, np.dtype(port.type.dtype)) for port in region.outputs)

    def into(arrays: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]) -> Sequence[np.ndarray]:
        binding = session.io_binding()
        for index, port in names:
            array = arrays[index]
            binding.bind_cpu_input(port, array if array.dtype.isnative else array.astype(
                array.dtype.newbyteorder("=")))
        for (port, dtype), target in zip(outputs, targets, strict=True):
            if target is None:
                binding.bind_output(port)
            else:
                binding.bind_output(port, "cpu", 0, dtype, target.shape, target.ctypes.data)
        try:
            run(binding._iobinding, None)
            made = binding.get_outputs()
        except Exception as error:
            raise ExecutionError(region.name, "onnxruntime", str(error), "a run without an error") from error
        return [value.numpy() if target is None else target for value, target in zip(made, targets, strict=True)]

    return into


def _calling(run: Callable, region: Region) -> Kernel:
    names = tuple(enumerate(port.name for port in region.inputs))
    outputs = [port.name for port in region.outputs]
    name = region.name

    def kernel(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        feed = {}
        for index, port in names:
            array = arrays[index]
            feed[port] = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        try:
            return run(outputs, feed, None)
        except Exception as error:
            raise ExecutionError(name, "onnxruntime", str(error), "a run without an error") from error

    if not any(port.type.dtype in _REAL for port in (*region.inputs, *region.outputs)):
        return kernel

    complex_inputs = [index for index, port in enumerate(region.inputs) if port.type.dtype in _REAL]
    complex_outputs = [(index, port.type.dtype) for index, port in enumerate(region.outputs)
                       if port.type.dtype in _REAL]

    def complex_kernel(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        arrays = list(arrays)
        for index in complex_inputs:
            array = np.ascontiguousarray(arrays[index]).reshape(arrays[index].shape)
            arrays[index] = array[..., np.newaxis].view(array.real.dtype)
        made = list(kernel(arrays))
        for index, dtype in complex_outputs:
            made[index] = np.ascontiguousarray(made[index]).view(dtype)[..., 0]
        return made

    return complex_kernel

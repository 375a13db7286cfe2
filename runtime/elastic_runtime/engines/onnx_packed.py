"""One file of weights in the form that ONNX Runtime computes with, mapped by the sessions of all models that use them.

In: ONNX models that were scanned, with their weights. Out: a directory with the optimised models and `DATA`, the one
file that holds every initializer and every pre-packed weight of theirs once; sessions that map it.
Never: has ONNX Runtime follow a path that a model brought (all locations are written here), keeps a model whose
results differ from those of the session it was made from, or writes outside the directory that it is given.

ONNX Runtime can save an optimised model with its constants, folded, laid out for the CPU and pre-packed for its
kernels, and reads them back by mapping them. Each model alone has its own file; here they are written again into one
in which equal bytes stand once, and the models are made to point there. A session packs each weight once more when it
is created, and takes the mapped form instead when both have the same hash.
"""
from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnxruntime as ort

from elastic_runtime import wire

DATA = "elastic-packed.bin"

#: Changes whenever what is written here changes.
FORMAT = 2

_EXTERNAL_FROM = 4096
_LINE, _PAGE = 64, 4096
_FREE_SIZE = 3
_ROOM = 16
"""Times the size of a model's weights that must be free in memory for them to be written there."""
_NUMPY = {"float": "float32", "double": "float64"}

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_EXTERNAL = 7, 5, 13

Outputs = Sequence[np.ndarray] | None


@dataclass(frozen=True)
class Source:
    """A scanned model and the arrays of its external weights, in any layout. `fixed`: it has no free sizes."""

    model: memoryview
    weights: Mapping[str, np.ndarray]
    fixed: bool


#: Makes the options of an ordinary session for a model with or without free sizes.
Options = Callable[[bool], ort.SessionOptions]


def machine() -> str:
    """What the packed form depends on besides model and weights: this library's build and this CPU."""
    parts = [str(FORMAT), ort.__version__, ort.get_build_info(), platform.machine(), platform.processor()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = {line.strip() for line in file if line.startswith(("model name", "flags", "Features", "CPU part"))}
        parts += sorted(lines)
    except OSError:
        pass
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def pack(sources: Mapping[str, Source], folder: Path, options: Options) -> dict[str, ort.InferenceSession]:
    """Write `DATA` into `folder`, and for each of `sources` that can be packed a model of the same name; gives their
    sessions on the mapped data.

    A model that ONNX Runtime cannot save, whose saved form is not understood, or which computes other outputs than its
    ordinary session, is left out. Raises OSError.
    """
    sessions = {}
    with open(folder / DATA, "x+b") as out:
        store = _Store(out)
        # The larger weights first: of those that begin alike the others are parts.
        for name, source in sorted(sources.items(), key=lambda item: _bytes(item[1]), reverse=True):
            try:
                model, expected = _packed(source, store, folder, options(source.fixed))
                out.flush()
                session = open_session(model, folder, options(source.fixed))
                if _equal(_probe(session), expected):
                    (folder / name).write_bytes(model)
                    sessions[name] = session
            except OSError:
                raise
            except Exception:
                continue
    return sessions


def _bytes(source: Source) -> tuple[int, int]:
    sizes = [array.nbytes for array in source.weights.values()]
    return max(sizes, default=0), sum(sizes)


def open_session(model: bytes, folder: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session of a model that `pack` wrote, on the mapped data in `folder`. Raises what ONNX Runtime raises."""
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Store:
    """Writes pieces of memory to a file, equal ones once; large ones begin at a page. A piece with which a larger one
    begins is that one's beginning: ONNX Runtime packs a matrix in runs of 256 rows, so that one with fewer runs of as
    many columns is such a piece."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._places: dict[tuple[int, bytes], int] = {}
        self._beginning: dict[bytes, list[tuple[int, int]]] = {}

    def add(self, piece: memoryview) -> int:
        """Where the piece begins in the file."""
        key = len(piece), hashlib.sha256(piece).digest()
        if key not in self._places:
            self._places[key] = self._found(piece) if len(piece) >= _PAGE else self._written(piece)
        return self._places[key]

    def _found(self, piece: memoryview) -> int:
        beginning = hashlib.sha256(piece[:_PAGE]).digest()
        for at, length in self._beginning.setdefault(beginning, []):
            if length > len(piece) and self._read(at, len(piece)) == piece:
                return at
        self._beginning[beginning].append((self._written(piece), len(piece)))
        return self._beginning[beginning][-1][0]

    def _written(self, piece: memoryview) -> int:
        at = self._out.seek(0, os.SEEK_END)
        gap = -at % (_PAGE if len(piece) >= _PAGE else _LINE)
        self._out.write(bytes(gap))
        self._out.write(piece)
        return at + gap

    def _read(self, at: int, length: int) -> bytes:
        self._out.seek(at)
        return self._out.read(length)


def _packed(source: Source, store: _Store, folder: Path, options: ort.SessionOptions) -> tuple[bytes, Outputs]:
    """The optimised model, its data in `store`, and what the ordinary session gives for the probe."""
    arrays = {name: np.ascontiguousarray(array) for name, array in source.weights.items()}
    options.add_external_initializers(
        list(arrays), [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()])
    with tempfile.TemporaryDirectory(dir=_scratch(folder, arrays.values())) as scratch:
        options.optimized_model_filepath = os.path.join(scratch, "model")
        for entry, value in (("optimized_model_external_initializers_file_name", DATA),
                             ("optimized_model_external_initializers_min_size_in_bytes", str(_EXTERNAL_FROM)),
                             ("save_external_prepacked_constant_initializers", "1")):
            options.add_session_config_entry(f"session.{entry}", value)
        session = ort.InferenceSession(bytes(source.model), options, providers=["CPUExecutionProvider"])
        expected = _probe(session)
        del session, options
        model = Path(scratch, "model").read_bytes()
        data = Path(scratch, DATA)
        if not data.exists():
            return model, expected
        with open(data, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, \
                memoryview(mapped) as view:
            return _relocated(model, lambda entries: _moved(entries, view, store)), expected


def _scratch(folder: Path, arrays: Iterable[np.ndarray]) -> Path:
    """Where ONNX Runtime is to write what is read once and removed: memory, where there is plenty, since what all
    models of a family have together is many times what is kept."""
    memory = Path("/dev/shm")
    size = sum(array.nbytes for array in arrays)
    with contextlib.suppress(OSError):
        found = os.statvfs(memory)
        if os.access(memory, os.W_OK | os.X_OK) and found.f_bavail * found.f_frsize > _ROOM * size:
            return memory
    return folder


# -------------------------------------------------------------------------------------- rewriting a model
def _relocated(model: bytes, move: Callable[[dict[str, str]], dict[str, str]]) -> bytes:
    """The model with the external data of its main graph's initializers described anew. Raises ValueError."""
    found = 0

    def tensor(view: memoryview) -> bytes:
        nonlocal found
        parts, entries = [], {}
        for field in wire.fields(view):
            if field.number == _TENSOR_EXTERNAL:
                key, value = _pair(field.value)
                entries[key] = value
            else:
                parts.append(bytes(view[field.start:field.end]))
        if entries:
            found += 1
            parts += [wire.encode(_TENSOR_EXTERNAL, wire.encode(1, key.encode()) + wire.encode(2, value.encode()))
                      for key, value in move(entries).items()]
        return b"".join(parts)

    made = _replaced(memoryview(model), _MODEL_GRAPH, lambda graph: _replaced(graph, _GRAPH_INITIALIZER, tensor))
    if made.count(DATA.encode()) != found:
        raise ValueError("external data outside the main graph")
    return made


def _replaced(view: memoryview, number: int, change: Callable[[memoryview], bytes]) -> bytes:
    return b"".join(wire.encode(number, change(field.value)) if field.number == number
                    else bytes(view[field.start:field.end]) for field in wire.fields(view))


def _pair(entry: memoryview) -> tuple[str, str]:
    texts = {field.number: bytes(field.value).decode() for field in wire.fields(entry)}
    return texts[1], texts.get(2, "")


def _moved(entries: Mapping[str, str], data: memoryview, store: _Store) -> dict[str, str]:
    """Entries of one initializer: `location`, `offset`, `length`, and `prepacked_N`, each the key of a packed form and
    its buffers, "key|offset;length;checksum|...". Raises ValueError for anything else."""
    made = {"location": DATA}
    for key, value in entries.items():
        if key.startswith("prepacked_"):
            name, *buffers = value.split("|")
            made[key] = "|".join([name, *(_buffer(buffer, data, store) for buffer in buffers)])
        elif key == "offset":
            made[key] = str(_place(int(value), int(entries["length"]), data, store))
        elif key in ("length", "checksum"):
            made[key] = value
        elif key != "location" or value != DATA:
            raise ValueError(f"{key} {value}")
    return made


def _buffer(text: str, data: memoryview, store: _Store) -> str:
    offset, length, checksum = text.split(";")
    return f"{_place(int(offset), int(length), data, store)};{length};{checksum}"


def _place(offset: int, length: int, data: memoryview, store: _Store) -> int:
    if not 0 <= offset <= offset + length <= len(data):
        raise ValueError(f"bytes {offset} to {offset + length} of {len(data)}")
    return store.add(data[offset:offset + length]) if length else 0


# ---------------------------------------------------------------------------------------------- comparing
def _probe(session: ort.InferenceSession) -> Outputs:
    """Outputs for inputs drawn with a fixed seed, None when they make the model fail. A free size is 3."""
    random, feed = np.random.default_rng(0), {}
    for item in session.get_inputs():
        name = item.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype(_NUMPY.get(name, name))
        shape = [size if isinstance(size, int) else _FREE_SIZE for size in item.shape]
        drawn = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        feed[item.name] = np.asarray(drawn, dtype)
    try:
        return session.run(None, feed)
    except Exception:
        return None


def _equal(given: Outputs, expected: Outputs) -> bool:
    if given is None or expected is None:
        return given is expected
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
               for a, b in zip(given, expected, strict=True))

"""Where a bundle comes from: versions, the source's hash, the machine, the options.

In: the source texts and options of a compilation. Out: `schema.Provenance`.
Never: records a user's name, a path or an environment variable; nothing is decided by it at load.
"""
from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from elastic_runtime import schema

_DISTRIBUTIONS = (
    "elastic-compile", "elastic-runtime", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "apache-tvm",
    "apache-tvm-ffi", "safetensors",
)
_CPU_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)


def collect(sources: Iterable[str], options: Mapping[str, object]) -> schema.Provenance:
    """The provenance of a compilation on this machine, now.

    `sources` are the texts that the program was compiled from, in a fixed order. The environment variable
    SOURCE_DATE_EPOCH (seconds since 1970), where set, is taken for the time of creation, so that equal
    compilations give equal bytes (https://reproducible-builds.org/specs/source-date-epoch/).
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    created = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    return schema.Provenance(
        created=created.isoformat(timespec="seconds"),
        versions=versions(),
        source_sha256=_digest(sources),
        device=device(),
        options={name: str(value) for name, value in sorted(options.items())},
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the distributions that take part, those installed here."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device() -> dict[str, str]:
    """The machine: system, architecture, CPU model, usable cores and the vector instructions that it has."""
    cpu = _cpu_info()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": cpu.get("model name") or platform.processor() or "unknown",
        "cores": str(_usable_cores()),
        "instructions": " ".join(flag for flag in _CPU_FLAGS if flag in flags),
    }


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _digest(sources: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in sources:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _cpu_info() -> dict[str, str]:
    """The first processor's fields in /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

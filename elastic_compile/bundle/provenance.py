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

from elastic_runtime import schema
from elastic_runtime.device import describe

_DISTRIBUTIONS = (
    "elastic-compile", "elastic-runtime", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "apache-tvm",
    "apache-tvm-ffi", "safetensors",
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
    found = describe("")
    return {
        "system": platform.system(),
        "architecture": found.architecture,
        "cpu": found.model,
        "cores": str(found.cores),
        "instructions": " ".join(found.features),
    }


def _digest(sources: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in sources:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()

"""elastic-compile: the deployment compiler for neural networks that change shape while they run.

    import elastic_compile as ec
    program = ec.compile(module, [(x,)])
    program.save("model.elastic")

In: an `nn.Module` whose Python may decide per input what to compute. Out: a bundle that `elastic_runtime` executes
without torch. Never: a program that silently differs from the module.
"""
import importlib
from typing import TYPE_CHECKING, Any

from elastic_compile.errors import (
    BackendError,
    BackendUnavailable,
    CompileError,
    ExampleError,
    InternalError,
    Refusal,
    TrainingModeError,
    VerificationError,
)
from elastic_runtime.schema import Budget

if TYPE_CHECKING:
    from elastic_compile.api import CompiledProgram, compile
    from elastic_compile.capture.signature import call
    from elastic_compile.elastic import CompiledFamily, compile_family
    from elastic_compile.hostop import host_op

__all__ = [
    "BackendError", "BackendUnavailable", "Budget", "CompileError", "CompiledFamily", "CompiledProgram",
    "ExampleError", "InternalError", "Refusal", "TrainingModeError", "VerificationError", "call", "compile",
    "compile_family", "host_op",
]

_NEED_TORCH = {
    "CompiledProgram": "elastic_compile.api", "compile": "elastic_compile.api",
    "CompiledFamily": "elastic_compile.elastic", "compile_family": "elastic_compile.elastic",
    "call": "elastic_compile.capture.signature",
    "host_op": "elastic_compile.hostop",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for: looking at a bundle does not wait for torch."""
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_NEED_TORCH[name]), name)
    return value

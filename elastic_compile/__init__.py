"""elastic-compile: the deployment compiler for neural networks that change shape while they run.

    import elastic_compile as ec
    program = ec.compile(module, [(x,)])
    program.save("model.elastic")

In: an `nn.Module` whose Python may decide per input what to compute. Out: a bundle that `elastic_runtime` executes
without torch. Never: a program that silently differs from the module.
"""
from elastic_compile.api import CompiledProgram, compile
from elastic_compile.capture.signature import call
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

__all__ = [
    "BackendError", "BackendUnavailable", "CompileError", "CompiledProgram", "ExampleError", "InternalError",
    "Refusal", "TrainingModeError", "VerificationError", "call", "compile",
]

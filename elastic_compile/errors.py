"""Errors of the compiler.

In: what was found, where, and why it cannot be compiled. Out: exceptions whose text shows the user's own
source line with a caret, the reason and what to write instead. Never: a framework's stack as the message.
"""
from __future__ import annotations


class CompileError(Exception):
    """Something the compiler refuses.

    `code` is stable ("EC101"); `file`, `line` (1-based), `column` (0-based) and `source` locate the construct in
    the user's program where one is to blame; `reason` says why, `hint` what to write instead.
    """

    code = "EC000"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        file: str = "",
        line: int = 0,
        column: int = 0,
        width: int = 1,
        source: str = "",
        reason: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        self.width = max(1, width)
        self.source = source
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        if self.file:
            lines.append(f"  --> {self.file}:{self.line}")
        if self.source:
            lines.append(f"   | {self.source}")
            lines.append(f"   | {' ' * self.column}{'^' * self.width}")
        if self.reason:
            lines.append(f"  reason: {self.reason}")
        if self.hint:
            lines.append(f"  instead: {self.hint}")
        return "\n".join(lines)


class ExampleError(CompileError):
    """The example inputs cannot be compiled for: empty, inconsistent, or not callable with the module."""

    code = "EC001"


class TrainingModeError(CompileError):
    """The module, or a part of it whose behaviour depends on it, is in training mode."""

    code = "EC002"


class Refusal(CompileError):
    """A construct of the user's program that the compiler does not accept; see `refusals.CATALOGUE`."""


class BackendUnavailable(CompileError):
    """The backend asked for is unknown or not installed."""

    code = "EC301"


class BackendError(CompileError):
    """A backend could not compile a region. `regions`: the names of all that it cannot compile, as far as it knows; the
    error tells of the first."""

    code = "EC302"
    regions: tuple[str, ...] = ()


class OnnxFileError(CompileError):
    """A program cannot be written as one ONNX file, or the file does not give the program's results."""

    code = "EC303"


class VerificationError(CompileError):
    """The compiled program and eager PyTorch disagree."""

    code = "EC401"


class InternalError(CompileError):
    """A program that the verifier rejects: a defect of the compiler, never of the user's program."""

    code = "EC900"

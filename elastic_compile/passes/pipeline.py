"""Runs passes one after another and verifies between them.

In: a program and passes. Out: the last pass's program, verified.
Never: skips the verifier.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from elastic_compile.program.ir import Program, verify


class Pass(Protocol):
    """A frozen dataclass whose fields are its options, called with a program."""

    def __call__(self, program: Program) -> Program: ...


def run(
    program: Program, passes: Sequence[Pass], observe: Callable[[str, Program], None] | None = None
) -> Program:
    """`passes` applied in order. `observe(name, program)` sees every stage."""
    for one in passes:
        program = verify(one(program))
        if observe:
            observe(type(one).__name__, program)
    return program

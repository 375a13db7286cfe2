"""Region formation wherever it is legal, whatever it costs.

In: kinds of changes. Out: within the context, a compiler that makes each of them on every branch and join that allows
it. Never: makes a change that `Form` would not make if it paid.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from elastic_compile import api
from elastic_compile.passes import SMALLER, STANDARD, Costs, Form
from elastic_compile.program.ir import Program, jumps


def unknown_costs(program: Program) -> Costs:
    """Costs of a program that was not measured: every way as likely as another."""
    ways = [len(jumps(block.terminator)) for block in program.blocks]
    entries = {entry.block for entry in program.entries}
    return Costs(
        regions=(5.0,) * len(program.graphs), dispatch=5.0, floor=2.0, select=1.0, select_byte=0.0,
        odds=tuple((1 / max(count, 1),) * count for count in ways),
        calls=tuple(float(number in entries) for number in range(len(program.blocks))))


@dataclass(frozen=True)
class Everywhere:
    """The pass. `log` receives the kinds of changes made."""

    kinds: tuple[str, ...]
    log: list[str]

    def __call__(self, program: Program) -> Program:
        formed = Form(unknown_costs(program), self.kinds, everywhere=True)(program)
        self.log.extend(decision.kind for decision in formed.decisions)
        return formed


@contextmanager
def formed_everywhere(kinds: Sequence[str]) -> Iterator[list[str]]:
    """`ec.compile` forms regions everywhere; gives the kinds of the changes that it made."""
    log: list[str] = []
    with mock.patch.object(api, "STANDARD", (*STANDARD, Everywhere(tuple(kinds), log), *SMALLER)):
        yield log

"""Every stage of a compilation as readable files.

In: the rewritten functions, the program after each pass, the regions and what the backend made of them.
Out: text files under one directory (`01-rewritten-….py`, `02-captured.txt`, …).
Never: anything that the compiler reads back; nothing at all when no directory is given.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.utils._pytree as pytree

from elastic_compile.program.ir import Graph, Program, Symbol, Use, Weight, jumps


class Stages:
    """Writes the stages of one compilation to `directory` (None: writes nothing)."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        self.directory = Path(directory) if directory is not None else None
        self.count = 0
        if self.directory:
            self.directory.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, text: str | bytes) -> None:
        if self.directory is None:
            return
        self.count += 1
        path = self.directory / f"{self.count:02d}-{name}"
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(text if isinstance(text, bytes) else text.encode())
        partial.replace(path)

    def rewritten(self, hooks: Any) -> None:
        """The source of every rewritten function, and why others run as they are."""
        if self.directory is None:
            return
        seen = dict.fromkeys(template.source for template in hooks.templates)
        self.write("rewritten.py", "\n\n".join(seen) + "\n")
        self.write("not-rewritten.txt", "".join(
            f"{name}: {why}\n" for name, why in sorted(hooks.unrewritten.items())))

    def program(self, name: str, program: Program) -> None:
        if self.directory is not None:
            self.write(f"{name.lower()}.txt", describe(program))

    def regions(self, program: Program, compiled: Sequence[Any]) -> None:
        """Each region's operations and its compiled artefacts."""
        if self.directory is None:
            return
        for i, (graph, one) in enumerate(zip(program.graphs, compiled)):
            self.write(f"region-{i}.txt", describe_graph(program, graph))
            for role, data in one.payload.items():
                self.write(f"region-{i}.{role}", data)


def describe(program: Program) -> str:
    """The program before the backend, as text: blocks with their steps, and every region's operations."""
    lines = [f"program {program.name}: {len(program.blocks)} blocks, {len(program.graphs)} regions"]
    for b, block in enumerate(program.blocks):
        lines.append(f"block {b} ({block.label}) {list(block.params)}")
        lines.extend(f"  {step}" for step in block.steps)
        lines.append(f"  {type(block.terminator).__name__} -> {[j.block for j in jumps(block.terminator)]}"
                     f"  {block.terminator}")
    for g, graph in enumerate(program.graphs):
        lines.append(f"region {g}:")
        lines.append(describe_graph(program, graph))
    return "\n".join(lines) + "\n"


def describe_graph(program: Program, graph: Graph) -> str:
    """One region's operations as text."""

    def leaf(value: Any) -> str:
        if isinstance(value, Use):
            return f"v{value.id}"
        if isinstance(value, Weight):
            return f"weight[{value.name}]"
        if isinstance(value, Symbol):
            return str(value.expr)
        return repr(value)

    lines = ["  inputs " + ", ".join(f"v{v}: {_type(program, v)}" for v in graph.inputs)]
    for op in graph.ops:
        args = pytree.tree_map(leaf, list(op.args))
        kwargs = pytree.tree_map(leaf, dict(op.kwargs))
        made = ", ".join("_" if o is None else f"v{o}: {_type(program, o)}" for o in op.outputs)
        text = ", ".join([str(a) for a in args] + [f"{k}={v}" for k, v in kwargs.items()])
        lines.append(f"  {made} = {op.target}({text})")
    lines.append("  outputs " + ", ".join(f"v{v}" for v in graph.outputs))
    return "\n".join(lines) + "\n"


def _type(program: Program, value: int) -> str:
    kind = program.values[value]
    return f"{kind.dtype}{list(kind.shape)}"

"""Passes: program -> program, each verified.

In: a program. Out: an equivalent one. Never: changes the program it is given.
"""
from elastic_compile.passes.append import AppendInPlace
from elastic_compile.passes.hoist import HoistState
from elastic_compile.passes.pipeline import Pass, run
from elastic_compile.passes.simplify import Deduplicate, MergeChains, PruneParameters, ThreadJumps

#: The passes that every compilation runs, in order.
STANDARD: tuple[Pass, ...] = (
    ThreadJumps(), MergeChains(), PruneParameters(), HoistState(), Deduplicate(), ThreadJumps(),
    MergeChains(), PruneParameters(), AppendInPlace(),
)

__all__ = [
    "STANDARD", "AppendInPlace", "Deduplicate", "HoistState", "MergeChains", "Pass", "PruneParameters", "ThreadJumps",
    "run",
]

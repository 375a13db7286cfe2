"""Passes: program -> program, each verified.

In: a program. Out: an equivalent one. Never: changes the program it is given.
"""
from elastic_compile.passes.append import AppendInPlace
from elastic_compile.passes.divide import DivideLarge
from elastic_compile.passes.fold_weights import FoldWeights
from elastic_compile.passes.formation import Costs, Form
from elastic_compile.passes.hoist import HoistState
from elastic_compile.passes.pipeline import Pass, run
from elastic_compile.passes.simplify import Deduplicate, MergeChains, PruneParameters, ThreadJumps

#: The passes that make a program small.
SMALLER: tuple[Pass, ...] = (
    ThreadJumps(), MergeChains(), PruneParameters(), Deduplicate(), ThreadJumps(), MergeChains(), PruneParameters(),
)

#: The passes that every compilation runs, in order.
STANDARD: tuple[Pass, ...] = (*SMALLER[:3], FoldWeights(), HoistState(), *SMALLER[3:], AppendInPlace(),
                               DivideLarge())

__all__ = [
    "SMALLER", "STANDARD", "AppendInPlace", "Costs", "Deduplicate", "DivideLarge", "FoldWeights", "Form", "HoistState",
    "MergeChains", "Pass", "PruneParameters", "ThreadJumps", "run",
]

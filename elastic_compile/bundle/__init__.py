"""Bundles on disk: the compiled program and everything that it needs, as one directory of plain data.

In: compiled programs, their region artefacts, weights, reference calls and provenance.
Out: a bundle directory, complete or not there at all.
Never: compiles, runs or loads anything; reading is the runtime's part.
"""
from elastic_compile.bundle.pack import FALLBACK, ONLY, Member, Packed, pack
from elastic_compile.bundle.replace import BundleWriteError
from elastic_compile.bundle.writer import write

__all__ = ["FALLBACK", "ONLY", "BundleWriteError", "Member", "Packed", "pack", "write"]

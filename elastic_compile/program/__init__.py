"""The intermediate representation: blocks of static regions and a terminator each.

In: what the capture found. Out: a frozen `Program` that passes rewrite and backends compile.
Never: knows a backend.
"""
from elastic_compile.program.ir import Graph, Op, Program, Symbol, Use, Weight, verify

__all__ = ["Graph", "Op", "Program", "Symbol", "Use", "Weight", "verify"]

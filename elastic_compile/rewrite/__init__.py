"""Rewriting: the same function, its calls, decisions, loops and joins made explicit.

In: a Python function with source. Out: a `Template` that binds to a hook object and then behaves as the function,
every call, truth test, iteration step, operator and subscript going through the hooks; sites say where each of them
stands in the original file, and which variables are live there.
Never: evaluates anything of the user's program, or guesses: what cannot be rewritten raises `NotRewritable`.

Known differences from the original under neutral hooks: an operator's operands that are plain local variables are
read when the operator runs, so an unbound one raises after its neighbours' calls; a generator expression given to
`sum`, `sorted` and the like is computed whole before the first item is used; `not (a and b)` tests each operand at
most once where Python may test the last one twice; objects may live until the function
returns, since temporaries name them; functions that read their caller's frame see a hook's frame.
"""
from elastic_compile.rewrite.hooks import NEUTRAL, Hooks
from elastic_compile.rewrite.sites import Site
from elastic_compile.rewrite.source import NotRewritable
from elastic_compile.rewrite.template import Template, rewrite

__all__ = ["NEUTRAL", "Hooks", "NotRewritable", "Site", "Template", "rewrite"]

"""Runs the rewritten program on fake tensors and forks at every decision that the data makes.

In: a module or function and its example calls. Out: the program of all paths (`elastic_compile.program`).
Never: compiles a region, or knows what will.
"""

"""Elastic families: many subnets of one supernet, compiled into one bundle with one copy of the weights.

In: a supernet and configurations. Out: a `CompiledFamily`. Never: changes the supernet's weights or statistics.
"""
from elastic_compile.elastic.family import CompiledFamily, compile_family, examples_of, subnet_of
from elastic_compile.elastic.statistics import own_statistics

__all__ = ["CompiledFamily", "compile_family", "examples_of", "own_statistics", "subnet_of"]

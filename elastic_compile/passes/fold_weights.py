"""Computes what depends on weights alone when compiling: slices of a supernet, transformed kernels, weight norms.

In: a program. Out: one whose regions read the results as weights of their own.
Never: folds what would make the weights larger, or a mere other order of a whole weight's elements, which a backend
reads where it lies. A slice stays a view of the supernet's memory, so that subnets go on sharing it.
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree

from elastic_compile.passes.simplify import prune
from elastic_compile.program.ir import Graph, Op, Program, Symbol, Use, Weight

#: Operations that give a tensor's elements in another order or shape, all of them, or copy them.
_REORDER = frozenset({
    "_unsafe_view", "alias", "clone", "contiguous", "detach", "expand", "flatten", "lift_fresh_copy", "movedim",
    "numpy_T", "permute", "reshape", "squeeze", "swapaxes", "t", "transpose", "unflatten", "unsqueeze", "view",
})


@dataclass(frozen=True)
class FoldWeights:
    """See the module."""

    def __call__(self, program: Program) -> Program:
        weights = dict(program.weights)
        names: dict[Any, str] = {}
        graphs = tuple(_Folding(weights, names).run(graph) for graph in program.graphs)
        return program.replace(graphs=graphs, weights=weights)


class _Folding:
    """Folds one region. `weights` grows by what is computed; `names` knows equal computations by what they read."""

    def __init__(self, weights: dict[str, torch.Tensor], names: dict[Any, str]) -> None:
        self.weights, self.names = weights, names
        self.known: dict[int, torch.Tensor] = {}
        self.text: dict[int, str] = {}
        self.reads: dict[int, int] = {}
        self.origin: dict[int, str] = {}
        self.folded: dict[int, Weight] = {}

    def run(self, graph: Graph) -> Graph:
        ops = []
        for op in graph.ops:
            self._evaluate(op)
            args, kwargs = pytree.tree_map(
                lambda leaf: self.folded.get(leaf.id, leaf) if isinstance(leaf, Use) else leaf,
                (op.args, dict(op.kwargs)))
            ops.append(dataclasses.replace(op, args=tuple(args), kwargs=kwargs))
        if not self.folded:
            return graph
        # Its inputs stay, since its callers give them.
        return dataclasses.replace(prune(dataclasses.replace(graph, ops=tuple(ops))), inputs=graph.inputs)

    def _evaluate(self, op: Op) -> None:
        leaves = pytree.tree_leaves((op.args, dict(op.kwargs)))
        tensors = [leaf for leaf in leaves if isinstance(leaf, (Use, Weight))]
        if not tensors or any(isinstance(leaf, Symbol) for leaf in leaves):
            return
        if any(isinstance(leaf, Use) and leaf.id not in self.known for leaf in leaves):
            return
        if torch.Tag.nondeterministic_seeded in op.target.tags:
            return
        with torch.no_grad():
            args, kwargs = pytree.tree_map(self._value, (op.args, dict(op.kwargs)))
            try:
                made = op.target(*args, **kwargs)
            except (RuntimeError, IndexError):
                return  # it fails where the program runs it, if it does
        results = pytree.tree_leaves(made)
        reads = sum(self._bytes(leaf) for leaf in tensors)
        text = f"{op.target}({pytree.tree_map(self._describe, (op.args, dict(op.kwargs)))})"
        reorders = op.target._schema.name.removeprefix("aten::") in _REORDER
        for number, (value, result) in enumerate(zip(op.outputs, results)):
            if value is None or not isinstance(result, torch.Tensor):
                continue
            self.known[value], self.text[value], self.reads[value] = result, f"{text}#{number}", reads
            first = tensors[0]
            self.origin[value] = first.name if isinstance(first, Weight) else self.origin[first.id]
            if not reorders and result.numel() and result.numel() * result.element_size() <= reads:
                self.folded[value] = Weight(self._named(value, result))

    def _value(self, leaf: Any) -> Any:
        if isinstance(leaf, Use):
            return self.known[leaf.id]
        return self.weights[leaf.name] if isinstance(leaf, Weight) else leaf

    def _bytes(self, leaf: Use | Weight) -> int:
        if isinstance(leaf, Use):
            return self.reads[leaf.id]
        return self.weights[leaf.name].numel() * self.weights[leaf.name].element_size()

    def _describe(self, leaf: Any) -> str:
        return self.text[leaf.id] if isinstance(leaf, Use) else repr(leaf)

    def _named(self, value: int, result: torch.Tensor) -> str:
        """A name after the first weight that the value comes from."""
        key = self.text[value]
        if key not in self.names:
            name = base = f"{self.origin[value].split('~')[0]}~"
            count = 1
            while name in self.weights:
                count += 1
                name = f"{base}{count}"
            self.names[key] = name
            self.weights[name] = result
        return self.names[key]

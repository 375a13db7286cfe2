"""Linear systems for ONNX Runtime, which has an operator that inverts matrices.

In: a program. Out: `DECOMPOSITIONS`, linear systems and inverses written with it; `applies(program)`, whether they may
stand for PyTorch's.
Never: where a program sees the factors, the order of the rows, or at which row a matrix was found to be singular: the
elimination of `decompositions` tells these, in some thirty operators a row.
"""
from __future__ import annotations

import operator

import torch
from torch.export import ExportedProgram

aten = torch.ops.aten

_SOLVE, _INVERT = aten._linalg_solve_ex.default, aten.linalg_inv_ex.default
_SINGULAR = {_SOLVE: 3, _INVERT: 1}
"""Which result counts the rows up to a zero on the diagonal."""
_WHOLE = frozenset({
    aten.linalg_solve_ex.default, aten.linalg_solve.default, aten.linalg_inv.default, aten.inverse.default,
})


def applies(program: ExportedProgram) -> bool:
    """Whether the program asks of its linear systems whether there is a solution, and for nothing else but that."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return all(node.target not in _WHOLE and (node.target not in _SINGULAR or _asks_only_whether(node))
               for node in nodes)


def _asks_only_whether(node: torch.fx.Node) -> bool:
    items: dict[int, list[torch.fx.Node]] = {}
    for item in node.users:
        if item.target is not operator.getitem:
            return False
        items.setdefault(item.args[1], []).extend(item.users)
    items.pop(0, None)
    asked = items.pop(_SINGULAR[node.target], [])
    return bool(asked) and not any(items.values()) and all(
        use.target is aten.ne.Scalar and use.args[1] == 0 for use in asked)


def _solve(A, B, *, left=True, check_errors=False):
    """Through the inverse and one step of refinement, after which the residual is as small as that of a solver."""
    vector = B.dim() == 1 or (B.dim() == A.dim() - 1 and B.shape == A.shape[:-1])
    matrix, known = A if left else A.mT, B.unsqueeze(-1) if vector else B if left else B.mT
    inverse = _inverse(matrix)
    solved = inverse @ known
    solved = solved + inverse @ (known - matrix @ solved)
    result = solved.squeeze(-1) if vector else solved if left else solved.mT
    # Nothing reads the factors and the order of the rows (see `applies`).
    return result, torch.empty_like(A), A.new_empty(A.shape[:-1], dtype=torch.int32), _singular(matrix, inverse)


def _invert(A, *, check_errors=False):
    inverse = _inverse(A)
    return inverse, _singular(A, inverse)


def _inverse(matrix: torch.Tensor) -> torch.Tensor:
    return torch.onnx.ops.symbolic(
        "com.microsoft::Inverse", [matrix], dtype=matrix.dtype, shape=list(matrix.shape), version=1)


def _singular(matrix: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """1 where a finite matrix has no finite inverse, else 0."""
    sums = torch.stack([_nothing_if_finite(matrix), _nothing_if_finite(inverse)])
    return ((sums[0] == 0) & (sums[1] != 0)).to(torch.int32)


def _nothing_if_finite(matrix: torch.Tensor) -> torch.Tensor:
    """0, or nan."""
    return (matrix * 0).sum((-2, -1))


DECOMPOSITIONS = {_SOLVE: _solve, _INVERT: _invert}

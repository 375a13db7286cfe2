"""Host scalars: sizes and numbers that only the data decides.

In: questions that PyTorch or the user's program asks of a symbolic number (is it 1? is it above 3?).
Out: an answer proved from what is known, or a decision handed to the path being traced.
Never: guesses; an integer that must become a concrete Python int is refused by the caller of `decide`.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_unbacked_symbols


class Symbols(ShapeEnv):
    """A shape environment whose undecidable guards become decisions of the traced path.

    `decide(expr, type) -> bool | int` is called for a guard on data-dependent symbols that has no fallback.
    """

    def __init__(self, decide: Callable[[sympy.Basic, type], Any]) -> None:
        super().__init__(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)
        self.decide = decide

    def evaluate_sym_node(
        self, sym_node: Any, size_oblivious: bool = False, fallback_value: bool | None = None
    ) -> Any:
        expr = sym_node.expr
        if fallback_value is None and free_unbacked_symbols(expr):
            known = self._maybe_evaluate_static(expr)
            if known is not None:
                return sym_node.pytype(known)
            return self.decide(expr, sym_node.pytype)
        return super().evaluate_sym_node(sym_node, size_oblivious, fallback_value)

    def proves(self, expr: sympy.Basic) -> bool:
        """Whether a condition is known to hold."""
        return expr is sympy.true or self._maybe_evaluate_static(expr) is sympy.true

    def snapshot(self) -> dict[str, Any]:
        """A copy of everything that learning a fact can change."""
        return {name: value.copy() for name, value in vars(self).items() if isinstance(value, (dict, list, set))}

    def restore(self, state: dict[str, Any]) -> None:
        """Forget every fact learned since `snapshot`, keeping symbols (their names must stay unique)."""
        ranges = dict(self.var_to_range)
        for name, value in state.items():
            setattr(self, name, value.copy())
        for symbol, known in ranges.items():
            self.var_to_range.setdefault(symbol, known)
        self._clear_caches()

    def bounds(self, number: torch.SymInt) -> tuple[int | None, int | None]:
        """The smallest and the largest that a symbolic integer may be; None where there is no bound."""
        known = self.bound_sympy(number.node.expr)
        return tuple(  # type: ignore[return-value]
            int(bound) if isinstance(bound, (int, sympy.Integer)) else None for bound in (known.lower, known.upper))

    def constrain(self, number: torch.SymInt, low: int | None = None, high: int | None = None) -> None:
        """Take a new symbolic integer to lie between `low` and `high`."""
        if low is not None:
            torch._check(number >= low)
        if high is not None:
            torch._check(number <= high)

    def knows_more(self, state: dict[str, Any]) -> bool:
        """Whether more is known than at `snapshot` of the symbols that there were then."""
        facts = ("axioms", "replacements", "divisible")
        return any(len(getattr(self, name)) != len(state[name]) for name in facts) or any(
            self.var_to_range[symbol] is not known and self.var_to_range[symbol] != known
            for symbol, known in state["var_to_range"].items())

    def _clear_caches(self) -> None:
        for name in ("_version_counter",):
            if hasattr(self, name):
                setattr(self, name, getattr(self, name) + 1)


def as_expr(value: Any) -> sympy.Basic | None:
    """The symbolic expression behind a SymInt, SymFloat or SymBool, else None."""
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value.node.expr
    return None

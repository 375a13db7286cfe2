"""What a benchmark writes beside a number that has been set a limit.

In: the number, the limit. Out: a short text. Never: rounds before it compares.
"""
from __future__ import annotations


def limit(value: float, bound: float, *, least: bool = False, unit: str = "") -> str:
    """Such as "limit 1.02: met". `least`: `bound` is the least that `value` should be, not the most."""
    met = value >= bound if least else value <= bound
    return f"{'at least' if least else 'limit'} {bound:g}{unit}: {'met' if met else 'not met'}"

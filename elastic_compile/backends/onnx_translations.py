"""Translations of ATen operators that torch.onnx lacks or writes wastefully.

In: ATen operators. Out: `TRANSLATIONS`, functions that write ONNX operators for one, and `DECOMPOSITIONS`, which
replace one by other ATen operators before the translation. Never: depends on a region or a weight.
"""
from __future__ import annotations

from collections.abc import Callable

from torch._ops import OpOverload

TRANSLATIONS: dict[OpOverload, Callable] = {}
DECOMPOSITIONS: dict[OpOverload, Callable] = {}

from __future__ import annotations

import torch

aten = torch.ops.aten
KEPT = (aten.linear.default,)
DECOMPOSITIONS = {}

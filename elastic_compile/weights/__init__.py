"""The weight store: what several subnets read, each byte once.

In: arrays by name, per subnet, and where there is one the supernet's. Out: what is stored, and how each subnet's
tensors lie in it. Never: knows what a tensor means; needs no PyTorch.
"""
from elastic_compile.weights.share import Shared, share

__all__ = ["Shared", "share"]

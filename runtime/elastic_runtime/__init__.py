"""Runs compiled dynamic networks without torch.

In: a bundle written by elastic-compile. Out: `load` gives a `Model` to call.
Never: imports the compiler or torch, or trusts a bundle.
"""
from elastic_runtime.errors import (
    BundleError,
    DeadlineExceeded,
    ElasticRuntimeError,
    EngineMissing,
    ExecutionError,
    HostOpMissing,
    InputError,
    LimitExceeded,
    ModelRaised,
    NativeCodeRefused,
    ProgramError,
    SelfTestFailed,
    VersionError,
)
from elastic_runtime.limits import Limits
from elastic_runtime.model import BlockRun, Model, RegionStatistics, Statistics, load
from elastic_runtime.schema import SCHEMA_VERSION

__all__ = [
    "SCHEMA_VERSION",
    "BlockRun",
    "BundleError",
    "DeadlineExceeded",
    "ElasticRuntimeError",
    "EngineMissing",
    "ExecutionError",
    "HostOpMissing",
    "InputError",
    "LimitExceeded",
    "Limits",
    "Model",
    "ModelRaised",
    "NativeCodeRefused",
    "ProgramError",
    "RegionStatistics",
    "SelfTestFailed",
    "Statistics",
    "VersionError",
    "load",
]

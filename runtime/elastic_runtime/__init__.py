"""Runs compiled dynamic networks without torch.

In: a bundle written by elastic-compile. Out: `load` gives a `Model` to call.
Never: imports the compiler or torch, or trusts a bundle.
"""
from elastic_runtime.controller import Controller, Served
from elastic_runtime.errors import (
    BudgetExceeded,
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
    NoSubnetFits,
    ProgramError,
    SelfTestFailed,
    SwitchRefused,
    VersionError,
)
from elastic_runtime.limits import Limits
from elastic_runtime.model import BlockRun, Model, load
from elastic_runtime.prepared import RegionStatistics, Statistics
from elastic_runtime.schema import SCHEMA_VERSION, Budget

__all__ = [
    "SCHEMA_VERSION",
    "BlockRun",
    "Budget",
    "BudgetExceeded",
    "BundleError",
    "Controller",
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
    "NoSubnetFits",
    "ProgramError",
    "RegionStatistics",
    "SelfTestFailed",
    "Served",
    "Statistics",
    "SwitchRefused",
    "VersionError",
    "load",
]

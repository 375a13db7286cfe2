"""Latency tables and predictors: what a device needs for a subnet, measured or predicted.

In: measurements. Out: tables (`latency_table`), predictions with intervals (`fit`, `transfer`).
Never: imports torch, a backend or an engine.
"""
from elastic_compile.profile.anchors import Anchors, anchors
from elastic_compile.profile.elastic import Elastic
from elastic_compile.profile.ofa_yaml import read as read_ofa_yaml
from elastic_compile.profile.predictor import (
    MeasurementError,
    Prediction,
    Predictor,
    Report,
    fit,
    transfer,
)
from elastic_compile.profile.space import (
    Categorical,
    Configuration,
    Integer,
    OutOfSpace,
    Real,
    Space,
    SpaceError,
    When,
)
from elastic_runtime import latency_table

__all__ = [
    "Anchors", "Categorical", "Configuration", "Elastic", "Integer", "MeasurementError", "OutOfSpace", "Prediction",
    "Predictor", "Real", "Report", "Space", "SpaceError", "When", "anchors", "fit", "latency_table",
    "read_ofa_yaml", "transfer",
]

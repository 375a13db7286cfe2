"""Results: every structure that a forward returns, also one that depends on the path."""
from __future__ import annotations

import collections
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import nn

from tests.constructs.registry import case, normal, sweep


class NestedResult(nn.Module):
    def forward(self, x):
        s = x.sum()
        if s > 0:
            return {"scores": (x, [x + 1, {"deep": x * 2}]), "count": 1}
        return {"scores": (x, [x - 1, {"deep": x * 3}]), "count": 2}


@case(paths=2)
def nested_tuples_lists_dicts():
    return NestedResult(), [(torch.ones(2),), (-torch.ones(2),)]


class StructureByPath(nn.Module):
    """Another structure on each path: a tensor, a tuple, a dict, None."""

    def forward(self, x):
        s = x.sum()
        if s > 5:
            return x
        if s > 0:
            return x, s
        if s > -5:
            return {"negative": x}
        return None


@case(paths=4)
def structure_depends_on_the_path():
    return StructureByPath(), [(torch.full((2,), v),) for v in (9.0, 1.0, -1.0, -9.0)]


Detection = collections.namedtuple("Detection", ["box", "score", "label"])


class Prediction(NamedTuple):
    mean: torch.Tensor
    confident: bool
    detection: Detection | None = None


class Named(nn.Module):
    def forward(self, x):
        if x.max() > 1:
            return Prediction(x.mean(), True, Detection(x[:2], x.max(), "large"))
        return Prediction(x.mean(), False)


@case(paths=2)
def namedtuples():
    return Named(), [(torch.full((3,), v),) for v in (0.5, 2.0)]


@dataclass
class Output:
    logits: torch.Tensor
    exit: int
    features: torch.Tensor | None = None


class DataclassOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, return_features: bool = False):
        y = self.linear(x)
        if y[0, 0] > 0:
            return Output(y, 1, x if return_features else None)
        return Output(logits=y, exit=2)


@case(paths=4)
def dataclass_output():
    import elastic_compile as ec

    return DataclassOutput(), [(x,) for x in sweep(32, 1, 2)] + [
        ec.call(normal(s, 1, 2, scale=3.0), return_features=True) for s in range(4)]


class ModelOutput(OrderedDict):
    """A dict with attributes and tuple-like access, as model libraries define it: fields that are None are left out."""

    def __post_init__(self):
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                self[entry.name] = value

    def to_tuple(self):
        return tuple(self[name] for name in self.keys())


@dataclass
class ExitOutput(ModelOutput):
    logits: torch.Tensor = None
    hidden: torch.Tensor = None
    exit_layer: int = None


class WithModelOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x, return_dict=True):
        for i, layer in enumerate(self.layers):
            x = torch.tanh(layer(x))
            if x.sum() > 0.3:
                break
        else:
            i = None
        output = ExitOutput(logits=x, hidden=x * 2 if i == 0 else None, exit_layer=i)
        return output if return_dict else output.to_tuple()


@case(paths=3)
def model_output():
    return WithModelOutput(), [(x,) for x in sweep(32, 1, 2)]


@case(paths=3)
def model_output_to_tuple():
    import elastic_compile as ec

    return WithModelOutput(), [ec.call(normal(s, 1, 2, scale=3.0), return_dict=False) for s in range(12)]


class Scalars(nn.Module):
    """None, bool, int, float and str beside tensors; numbers from data and from Python."""

    def forward(self, x):
        n = int(x.sum())
        if x.mean() > 0:
            return n, float(x.mean()), True, "positive", None, x
        return -n, 0.5, False, "negative", None, x


@case(paths=2)
def python_scalars():
    return Scalars(), [(torch.full((2,), v),) for v in (1.5, -2.5)]


class ListByPath(nn.Module):
    """A list whose length is the number of layers that ran."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        hidden = [x]
        for layer in self.layers:
            if hidden[-1].norm() < 0.7:
                break
            hidden.append(torch.relu(layer(hidden[-1])))
        return hidden


@case(paths=4)
def list_whose_length_depends_on_the_path():
    return ListByPath(), [(x,) for x in sweep(32, 1, 2)]


class InputAsOutput(nn.Module):
    """The input itself, a weight, a constant and one tensor twice among the outputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(2.0))
        self.register_buffer("table", torch.eye(2))

    def forward(self, x):
        y = x * self.weight
        if x.sum() > 0:
            return x, self.weight, y, y
        return self.table, torch.ones(2), y, x


@case(paths=2)
def inputs_and_weights_as_outputs():
    return InputAsOutput(), [(torch.ones(2),), (-torch.ones(2),)]


class DictComprehension(nn.Module):
    """A dict built by a comprehension with a tensor filter; its keys depend on the path."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)})

    def forward(self, x):
        outputs = {name: head(x) for name, head in self.heads.items()}
        return {name: value for name, value in outputs.items() if value.sum() > 0}


@case(paths=4)
def dict_with_keys_by_path():
    return DictComprehension(), [(x,) for x in sweep(32, 1, 2)]


class IntegerKeys(nn.Module):
    def forward(self, x):
        return {1: x, 0: x.sum(), True: None} if x.sum() > 0 else {2: x}


@case(paths=2)
def dicts_with_integer_keys():
    return IntegerKeys(), [(torch.ones(2),), (-torch.ones(2),)]


class Dtypes(nn.Module):
    """Integers, booleans and doubles come back as they are."""

    def forward(self, x):
        ids = (x * 10).long()
        if (ids % 2 == 0).all():
            return ids, x > 0, x.double(), ids.to(torch.int32)
        return ids + 1, x < 0, x.double() / 3, ids.to(torch.uint8)


@case(paths=2)
def dtypes_of_results():
    return Dtypes(), [(torch.tensor(v),) for v in ([0.2, 0.4], [0.1, 0.4])]


class EmptyResults(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return (), [], {}, x.new_empty(0)
        return (x,), [x], {"x": x}, x


@case(paths=2)
def empty_containers():
    return EmptyResults(), [(torch.ones(2),), (-torch.ones(2),)]

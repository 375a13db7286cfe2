"""Builds one ONNX graph with nested subgraphs, name by name.

In: operators with the names of their inputs. Out: names of their outputs, and in the end a ModelProto.
Never: gives a name twice, or lets a subgraph's output be a value of the graph around it (ONNX forbids it).
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from elastic_runtime.schema import ScalarType, TensorType, ValueType

SCALAR_DTYPES = {"bool": "bool", "int": "int64", "float": "float64"}
IR_VERSION = 10


@dataclass(frozen=True)
class Text:
    """A 0-d string tensor."""


@dataclass(frozen=True)
class Listed:
    """A sequence of tensors of one dtype."""

    dtype: str


Kind = ValueType | Text | Listed

INT = ScalarType(kind="int")
BOOL = ScalarType(kind="bool")


def dtype_of(kind: Kind) -> np.dtype:
    """The element type that holds a value: a host scalar is a 0-d bool, int64 or float64 tensor."""
    if isinstance(kind, Text):
        return np.dtype(object)
    return np.dtype(SCALAR_DTYPES[kind.kind] if isinstance(kind, ScalarType) else kind.dtype)


def rank_of(kind: Kind) -> int:
    return len(kind.shape) if isinstance(kind, TensorType) else 0


def element(kind: Kind) -> int:
    """The ONNX element type of a value."""
    return helper.np_dtype_to_tensor_dtype(dtype_of(kind))


def described(name: str, kind: Kind, shape: Sequence[int | str | None] | None = None) -> onnx.ValueInfoProto:
    """A value's name and type; without `shape`, a tensor of any."""
    if isinstance(kind, Listed):
        return helper.make_tensor_sequence_value_info(name, element(kind), None)
    return helper.make_tensor_value_info(name, element(kind), shape)


class Scope:
    """The nodes of one (sub)graph, and the names that they define."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.defined: set[str] = set()


class Builder:
    """Collects nodes into the innermost open scope. Initializers belong to the outermost graph, which every subgraph
    sees."""

    def __init__(self) -> None:
        self.scopes = [Scope()]
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.opsets: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    @property
    def scope(self) -> Scope:
        return self.scopes[-1]

    @contextlib.contextmanager
    def inside(self, inputs: Sequence[str] = ()) -> Iterator[Scope]:
        """Collect nodes into a new scope, whose subgraph has the given inputs."""
        self.scopes.append(Scope())
        self.scope.defined.update(inputs)
        try:
            yield self.scope
        finally:
            self.scopes.pop()

    def name(self, prefix: str = "v") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; the name of its output, or a list of names when `outputs` is not 1."""
        names = [self.name() for _ in range(outputs)]
        self.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def append(self, node: onnx.NodeProto) -> None:
        self.scope.nodes.append(node)
        self.scope.defined.update(node.output)

    def constant(self, value: Any, dtype: str | np.dtype) -> str:
        """The name of an initializer with this value; equal ones share it."""
        array = np.array(value, dtype)
        key = array.dtype.name, array.shape, repr(value).encode() if array.dtype == object else array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.initializer(self.name("c"), array)
        return self._constants[key]

    def initializer(self, name: str, array: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def dummy(self, kind: Kind) -> str:
        """A value of this type that nobody reads: what a subgraph gives for a path that was not taken."""
        if isinstance(kind, Listed):
            return self.node("SequenceEmpty", dtype=element(kind))
        if isinstance(kind, Text):
            return self.constant("", object)
        return self.constant(np.zeros((1,) * rank_of(kind), dtype_of(kind)), dtype_of(kind))

    def cast(self, name: str, dtype: str) -> str:
        return self.node("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def own(self, names: Sequence[str]) -> list[str]:
        """The values under names that this scope defines, each once: what may be a subgraph's outputs."""
        made: list[str] = []
        for name in names:
            fine = name in self.scope.defined and name not in made
            made.append(name if fine else self.node("Identity", name))
        return made

    def subgraph(self, scope: Scope, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[tuple[str, Kind]]
                 ) -> onnx.GraphProto:
        """`scope` as a graph; the shapes of its outputs are left open."""
        return helper.make_graph(scope.nodes, self.name("graph"), list(inputs),
                                 [described(name, kind) for name, kind in outputs])

    def region(self, model: onnx.ModelProto, prefix: str, inputs: Sequence[str], weights: Mapping[str, str]
               ) -> list[str]:
        """Append the nodes of a region's model. `inputs`: names for x0, x1, …; `weights`: name in the model -> name of
        an initializer here; `prefix` distinguishes the region's constants. Returns the names of y0, y1, …"""
        for opset in model.opset_import:
            self.opsets[opset.domain] = max(self.opsets.get(opset.domain, 1), opset.version)
        names = {value.name: name for value, name in zip(model.graph.input, inputs, strict=True)} | dict(weights)
        for tensor in model.graph.initializer:
            if tensor.name not in names:
                names[tensor.name] = self.initializer(f"{prefix}{tensor.name}", numpy_helper.to_array(tensor))
        for node in model.graph.node:
            self.append(self._renamed(node, names))
        return [names[value.name] for value in model.graph.output]

    def _renamed(self, node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name = ""
        made.input[:] = [names[name] if name else "" for name in node.input]
        for attribute in made.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                self._rename_graph(graph, dict(names))
        for name in node.output:
            if name:
                names[name] = self.name()
        made.output[:] = [names[name] if name else "" for name in node.output]
        return made

    def _rename_graph(self, graph: onnx.GraphProto, names: dict[str, str]) -> None:
        graph.name = self.name("graph")
        for value in (*graph.input, *graph.initializer):
            names[value.name] = self.name()
            value.name = names[value.name]
        nodes = [self._renamed(node, names) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.value_info[:]
        for value in graph.output:
            value.name = names[value.name]

    def model(self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
              metadata: Mapping[str, str], default_opset: int) -> onnx.ModelProto:
        """The whole model; unused initializers are left out."""
        used: set[str] = {value.name for value in inputs}

        def note(nodes: Sequence[onnx.NodeProto]) -> None:
            for node in nodes:
                used.update(node.input)
                for attribute in node.attribute:
                    if attribute.HasField("g"):
                        note(attribute.g.node)

        note(self.scope.nodes)
        graph = helper.make_graph(
            self.scope.nodes, name, list(inputs), list(outputs),
            [tensor for tensor in self.initializers.values() if tensor.name in used])
        opsets = {"": default_opset, **self.opsets}
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
            ir_version=IR_VERSION, producer_name="elastic-compile")
        helper.set_model_props(model, dict(metadata))
        return model

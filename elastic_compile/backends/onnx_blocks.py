"""Linear layers of an ONNX model written as blocks of output features, each with a weight of its own.

In: a model of `onnx_export`, and for each weight that is to be divided the places to cut it at.
Out: the model with several smaller layers and a Concat in place of each such layer, and what its new weights are.
Never: changes a sum (each output feature is computed by the same operations), or touches a weight that anything else
than linear layers reads.

ONNX Runtime packs a layer's weight for its kernels as a whole, so that two layers of which one has the other's first
features share nothing. Of layers divided at the same features the common blocks are equal, and are packed once.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir

from elastic_runtime.onnx_scan import SENTINEL


@dataclass(frozen=True)
class Block:
    """The part `start` to `stop` along `axis` of the weight that was called `of`."""

    of: str
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Divided:
    """`weights`: each external weight of `model` by name: its former name, or the block of one."""

    model: bytes
    weights: Mapping[str, str | Block]


@dataclass(frozen=True)
class Linear:
    """A linear layer: `weight` has its output features along `axis`. `node` multiplies; `turn` is the transposition
    of the weight before it and `add` the addition of a bias after it, where there are such nodes."""

    weight: str
    axis: int
    node: ir.Node
    turn: ir.Node | None
    add: ir.Node | None
    bias: ir.Value | None


def linear_axes(model: bytes) -> dict[str, int]:
    """The weights that can be divided: by name, the axis of their output features."""
    return {layers[0].weight: layers[0].axis for layers in _layers(_read(model).graph).values()}


def divide(model: bytes, cuts: Mapping[str, Sequence[int]]) -> Divided:
    """Divide the layers of the weights in `cuts`, which `linear_axes` names, between those output features."""
    read = _read(model)
    graph = read.graph
    weights: dict[str, str | Block] = {name: name for name, value in graph.initializers.items() if _outside(value)}
    layers = _layers(graph)
    for name, places in cuts.items():
        shape = tuple(graph.initializers[name].shape)
        axis = layers[name][0].axis
        bounds = list(pairwise((0, *places, shape[axis])))
        blocks = []
        for start, stop in bounds:
            blocks.append(_external(graph, name, shape, axis, start, stop))
            weights[blocks[-1].name] = Block(name, axis, start, stop)
        for layer in layers[name]:
            _divide(graph, layer, blocks, bounds, weights)
        graph.initializers.pop(name)
        del weights[name]
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)
        weights.pop(name, None)
    return Divided(ir.serde.serialize_model(read).SerializeToString(deterministic=True), weights)


def _read(model: bytes) -> ir.Model:
    return ir.serde.deserialize_model(onnx.load_model_from_string(model))


def _outside(value: ir.Value) -> bool:
    return isinstance(value.const_value, ir.ExternalTensor)


def _layers(graph: ir.Graph) -> dict[str, list[Linear]]:
    """The linear layers of the main graph, by their weights, of those that nothing else reads."""
    found: dict[str, list[Linear]] = {}
    for name, value in graph.initializers.items():
        if not _outside(value) or len(value.shape) != 2 or value.is_graph_output():
            continue
        layers = [layer for use in value.uses() for layer in _layers_at(graph, name, value, use.node, use.idx)]
        if layers and all(layer is not None and layer.axis == layers[0].axis for layer in layers):
            found[name] = layers
    return found


def _layers_at(graph: ir.Graph, name: str, weight: ir.Value, node: ir.Node, index: int) -> list[Linear | None]:
    """The layers that multiply by a weight at one of its uses; None for a use that is something else."""
    if node.op_type == "Gemm" and node.graph is graph and index == 1 and not _flag(node, "transA"):
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        axis = 0 if _flag(node, "transB") else 1
        return [Linear(name, axis, node, None, None, bias)
                if bias is None or _divisible(bias, weight.shape[axis]) else None]
    if node.op_type != "Transpose":
        return [_product(graph, name, weight, node, index, None)]
    turned = node.outputs[0]
    if list(node.attributes["perm"].as_ints()) != [1, 0] or turned.is_graph_output():
        return [None]
    return [_product(graph, name, weight, use.node, use.idx, node) for use in turned.uses()]


def _product(graph: ir.Graph, name: str, weight: ir.Value, node: ir.Node, index: int,
             turn: ir.Node | None) -> Linear | None:
    if node.op_type != "MatMul" or index != 1 or node.graph is not graph:
        return None
    axis = 1 if turn is None else 0
    add, bias = _addition(node.outputs[0], weight.shape[axis])
    return Linear(name, axis, node, turn, add, bias)


def _addition(product: ir.Value, features: int) -> tuple[ir.Node | None, ir.Value | None]:
    uses = product.uses()
    if len(uses) == 1 and not product.is_graph_output() and uses[0].node.op_type == "Add":
        add = uses[0].node
        bias = add.inputs[1 - uses[0].idx]
        if add.graph is product.producer().graph and bias is not None and _divisible(bias, features):
            return add, bias
    return None, None


def _divisible(bias: ir.Value, features: int) -> bool:
    return bias.is_initializer() and tuple(bias.shape) == (features,)


def _flag(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int() if name in node.attributes else 0


def _external(graph: ir.Graph, name: str, shape: tuple[int, ...], axis: int, start: int, stop: int) -> ir.Value:
    """The block of an external weight as an initializer; blocks of one weight that are asked for again are the same."""
    made = f"{name}_{start}"
    if made not in graph.initializers:
        old = graph.initializers[name]
        cut = tuple(stop - start if number == axis else size for number, size in enumerate(shape))
        value = ir.Value(name=made, shape=ir.Shape(cut), type=ir.TensorType(old.dtype))
        value.const_value = ir.ExternalTensor(
            SENTINEL, offset=0, length=math.prod(cut) * old.dtype.itemsize, dtype=old.dtype, shape=ir.Shape(cut),
            name=made)
        graph.register_initializer(value)
    return graph.initializers[made]


def _biases(graph: ir.Graph, bias: ir.Value, bounds: Sequence[tuple[int, int]],
            weights: dict[str, str | Block]) -> list[ir.Value]:
    made = []
    for start, stop in bounds:
        name = f"{bias.name}_{start}"
        if _outside(bias):
            made.append(_external(graph, bias.name, tuple(bias.shape), 0, start, stop))
            weights[name] = Block(bias.name, 0, start, stop)
        else:
            if name not in graph.initializers:
                array = np.ascontiguousarray(bias.const_value.numpy()[start:stop])
                value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(bias.dtype))
                value.const_value = ir.tensor(array, name=name)
                graph.register_initializer(value)
            made.append(graph.initializers[name])
    return made


def _divide(graph: ir.Graph, layer: Linear, blocks: Sequence[ir.Value], bounds: Sequence[tuple[int, int]],
            weights: dict[str, str | Block]) -> None:
    node, last = layer.node, layer.add or layer.node
    biases = [None] * len(blocks) if layer.bias is None else _biases(graph, layer.bias, bounds, weights)
    result, made, parts = last.outputs[0], [], []
    for number, (weight, bias) in enumerate(zip(blocks, biases)):
        def named(what: str, number: int = number) -> ir.Value:
            return ir.Value(name=f"{result.name}_{what}{number}")

        if layer.turn is not None:
            made.append(ir.node("Transpose", [weight], {"perm": [1, 0]}, outputs=[named("t")]))
            weight = made[-1].outputs[0]
        inputs = [node.inputs[0], weight] + ([bias] if bias is not None and layer.add is None else [])
        made.append(ir.Node("", node.op_type, inputs, list(node.attributes.values()), outputs=[named("p")]))
        if layer.add is not None:
            made.append(ir.node("Add", [made[-1].outputs[0], bias], outputs=[named("s")]))
        parts.append(made[-1].outputs[0])
    whole = ir.node("Concat", parts, {"axis": -1}, outputs=[ir.Value(name=f"{result.name}_c")])
    graph.insert_after(last, [*made, whole])
    ir.convenience.replace_all_uses_with(result, whole.outputs[0], replace_graph_outputs=True)
    if whole.outputs[0].is_graph_output():
        whole.outputs[0].shape, whole.outputs[0].type = result.shape, result.type
    graph.remove([node] if layer.add is None else [layer.add, node], safe=True)
    if layer.turn is not None and not layer.turn.outputs[0].uses():
        graph.remove(layer.turn, safe=True)
    name, result.name = result.name, None
    whole.outputs[0].name = name

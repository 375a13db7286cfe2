"""A region as an exported program, the form that backends compile.

In: a `Graph` of a program. Out: a `torch.export.ExportedProgram` with the weights as parameters and every other
input and output a tensor.
Never: traces the region again: the operations are those captured, with the shapes captured.
"""
from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import CallMethodKey
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from elastic_compile.program.ir import Graph, Program, Symbol, Use, Weight

aten = torch.ops.aten


def export(program: Program, graph: Graph, name: str) -> ExportedProgram:
    """The exported program of `graph`; parameters are named as in `program.weights`."""
    fx = torch.fx.Graph()
    state: dict[str, torch.Tensor] = {}
    inputs: list[InputSpec] = []
    nodes: dict[Any, torch.fx.Node] = {}
    fake_mode = next((f.fake_mode for f in program.fakes.values() if isinstance(f, FakeTensor)), None)

    for i, weight in enumerate(graph.weights()):
        node = fx.placeholder(f"w{i}")
        data = program.weights[weight]
        node.meta["val"] = fake_mode.from_tensor(data, static_shapes=True)
        state[weight] = torch.nn.Parameter(data, requires_grad=False)
        inputs.append(InputSpec(InputKind.PARAMETER, TensorArgument(node.name), weight))
        nodes[Weight(weight)] = node
    for i, value in enumerate(graph.inputs):
        node = fx.placeholder(f"x{i}")
        node.meta["val"] = program.fakes[value]
        inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None))
        nodes[value] = node

    symbols: dict[sympy.Symbol, torch.fx.Node] = {}

    def symbol(wanted: sympy.Symbol) -> torch.fx.Node:
        if wanted not in symbols:
            place = next((value, axis) for s, value, axis in graph.symbols if s == wanted)
            value, axis = place
            if axis is None:
                node = fx.call_function(aten._local_scalar_dense.default, (nodes[value],))
            else:
                node = fx.call_function(aten.sym_size.int, (nodes[value], axis))
            env = fake_mode.shape_env
            integer = axis is not None or program.fakes[value].dtype == torch.int64
            python = int if integer else float
            made = SymNode(wanted, env, python, None)
            node.meta["val"] = torch.SymInt(made) if integer else torch.SymFloat(made)
            if axis is None:
                node.meta["unbacked_bindings"] = {wanted: ()}
            symbols[wanted] = node
        return symbols[wanted]

    def leaf(value: Any) -> Any:
        if isinstance(value, Use):
            return nodes[value.id]
        if isinstance(value, Weight):
            return nodes[value]
        if isinstance(value, Symbol):
            if value.expr.is_Symbol:
                return symbol(value.expr)
            env = {s: torch.fx.Proxy(symbol(s)) for s in value.expr.free_symbols}
            proxy = sympy_interp(PythonReferenceAnalysis, env, value.expr)
            _fill_meta(proxy.node)
            return proxy.node
        return value

    bound = {s for value in graph.inputs for s in _size_symbols(program.fakes[value])}

    def bind(node: torch.fx.Node) -> None:
        """Say which symbols the node's data decides: those of its sizes that nothing before it has."""
        value = node.meta["val"]
        fresh: dict[sympy.Symbol, Any] = {}
        for i, one in enumerate(value if isinstance(value, (list, tuple)) else (value,)):
            prefix = (pytree.SequenceKey(i),) if isinstance(value, (list, tuple)) else ()
            for axis, size in enumerate(one.shape):
                expr = as_expr(size)
                if expr is not None and expr.is_Symbol and expr not in bound:
                    bound.add(expr)
                    fresh[expr] = (*prefix, CallMethodKey("size"), pytree.SequenceKey(axis))
        if fresh:
            node.meta["unbacked_bindings"] = fresh

    for op in graph.ops:
        args, kwargs = pytree.tree_map(leaf, (op.args, dict(op.kwargs)))
        node = fx.call_function(op.target, tuple(args), kwargs)
        returns = op.target._schema.returns
        if len(returns) == 1 and isinstance(returns[0].type, torch.TensorType):
            node.meta["val"] = _fake(program, op.outputs[0], node)
            nodes[op.outputs[0]] = node
            bind(node)
            continue
        recomputed = _recompute(node, fake_mode)
        flat = list(recomputed)
        kept = {i: o for i, o in enumerate(op.outputs) if o is not None}
        for i, value in kept.items():
            flat[i] = program.fakes[value]
        node.meta["val"] = flat if isinstance(recomputed, list) else tuple(flat)
        bind(node)
        for i, value in kept.items():
            item = fx.call_function(operator.getitem, (node, i))
            item.meta["val"] = flat[i]
            nodes[value] = item
    fx.output(tuple(nodes[value] for value in graph.outputs))
    _drop_dead(fx)
    if fake_mode is not None and fake_mode.shape_env is not None:
        fake_mode.shape_env.pending_fresh_unbacked_symbols.clear()
    module = torch.fx.GraphModule({}, fx, class_name=name)
    outputs = [
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(nodes[value].name), None) for value in graph.outputs
    ]
    examples = (tuple(torch.empty(0) for _ in graph.inputs), {})
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=ExportGraphSignature(input_specs=inputs, output_specs=outputs),
        state_dict=state,
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", ModuleCallSignature(
            inputs=[], outputs=[], in_spec=pytree.tree_flatten(examples)[1],
            out_spec=pytree.tree_flatten(tuple(range(len(graph.outputs))))[1],
        ))],
        example_inputs=None,
        constants={},
    )


def run_eager(program: Program, graph: Graph, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The region computed by PyTorch on real data: the reference that a compiled region is compared with."""
    values: dict[int, Any] = dict(zip(graph.inputs, inputs))
    bound: dict[sympy.Symbol, Any] = {}
    places = {s: (value, axis) for s, value, axis in graph.symbols}

    def number(expr: sympy.Basic) -> Any:
        for s in expr.free_symbols:
            if s not in bound:
                value, axis = places[s]
                bound[s] = values[value].item() if axis is None else values[value].shape[axis]
        return sympy_interp(PythonReferenceAnalysis, dict(bound), expr)

    def leaf(value: Any) -> Any:
        if isinstance(value, Use):
            return values[value.id]
        if isinstance(value, Weight):
            return program.weights[value.name]
        if isinstance(value, Symbol):
            return number(value.expr)
        return value

    with torch.no_grad():
        for op in graph.ops:
            args, kwargs = pytree.tree_map(leaf, (op.args, dict(op.kwargs)))
            result = op.target(*args, **kwargs)
            for value, data in zip(op.outputs, pytree.tree_leaves(result)):
                if value is not None:
                    values[value] = data
    return [values[value] for value in graph.outputs]


def _size_symbols(fake: torch.Tensor) -> set[sympy.Symbol]:
    return {s for size in fake.shape if as_expr(size) is not None for s in as_expr(size).free_symbols}


def as_expr(value: Any) -> sympy.Basic | None:
    """The symbolic expression behind a symbolic number, else None."""
    return value.node.expr if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) else None


def _fake(program: Program, value: int | None, node: torch.fx.Node) -> Any:
    if value is None:
        return _recompute(node, None)
    return program.fakes[value]


def _recompute(node: torch.fx.Node, fake_mode: Any) -> Any:
    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    mode = fake_mode or torch._guards.detect_fake_mode([args, kwargs])
    with torch.no_grad(), mode:
        return node.target(*args, **kwargs)


def _fill_meta(node: torch.fx.Node) -> None:
    """Give scalar arithmetic nodes their symbolic value."""
    for arg in node.args:
        if isinstance(arg, torch.fx.Node) and "val" not in arg.meta:
            _fill_meta(arg)
    args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    node.meta["val"] = node.target(*args, **kwargs)


def _drop_dead(fx: torch.fx.Graph) -> None:
    for node in reversed(list(fx.nodes)):
        if node.op == "call_function" and not node.users:
            fx.erase_node(node)

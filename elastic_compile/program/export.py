"""A region as an exported program, the form that backends compile.

In: a `Graph` of a program. Out: a `torch.export.ExportedProgram` with the weights as parameters and every other
input and output a tensor.
Never: traces the user's program again: the operations are those captured.
"""
from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensorMode
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
from torch.fx.experimental.symbolic_shapes import ShapeEnv, compute_unbacked_bindings, free_unbacked_symbols
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from elastic_compile.program.ir import Graph, Program, Symbol, Use, Weight

aten = torch.ops.aten


class GenericSizes(ShapeEnv):
    """Symbols of one region. A question about a data-dependent size that cannot be proved is answered as for a large
    size that equals no other: the capture has already taken every decision of the program itself."""

    def evaluate_sym_node(
        self, sym_node: Any, size_oblivious: bool = False, fallback_value: bool | None = None
    ) -> Any:
        expr = sym_node.expr
        if fallback_value is None and free_unbacked_symbols(expr):
            known = self._maybe_evaluate_static(expr)
            if known is None:
                known = expr.xreplace(_generic_sizes(expr))
            return sym_node.pytype(known)
        return super().evaluate_sym_node(sym_node, size_oblivious, fallback_value)


def export(program: Program, graph: Graph, name: str) -> ExportedProgram:
    """The exported program of `graph`; parameters are named as in `program.weights`, sizes that only the data decides
    are symbols of the exported program's own."""
    env = GenericSizes(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)
    mode = FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
    fx = torch.fx.Graph()
    state: dict[str, torch.Tensor] = {}
    inputs: list[InputSpec] = []
    nodes: dict[Any, torch.fx.Node] = {}
    sizes: dict[sympy.Basic, Any] = {}

    def size(old: Any) -> Any:
        expr = as_expr(old)
        if expr is None:
            return old
        if expr not in sizes:
            sizes[expr] = env.create_unbacked_symint()
            torch._check(sizes[expr] >= 0)
        return sizes[expr]

    for i, weight in enumerate(graph.weights()):
        node = fx.placeholder(f"w{i}")
        data = program.weights[weight]
        node.meta["val"] = mode.from_tensor(data, static_shapes=True)
        state[weight] = torch.nn.Parameter(data, requires_grad=False)
        inputs.append(InputSpec(InputKind.PARAMETER, TensorArgument(node.name), weight))
        nodes[Weight(weight)] = node
    for i, value in enumerate(graph.inputs):
        node = fx.placeholder(f"x{i}")
        old = program.fakes[value]
        with mode:
            node.meta["val"] = torch.empty_strided(
                tuple(old.shape), tuple(old.stride()), dtype=old.dtype
            ) if not any(as_expr(s) is not None for s in old.shape) else _empty_like(old, size)
        inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None))
        nodes[value] = node
    env.pending_fresh_unbacked_symbols.clear()

    def call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.fx.Node:
        """A node, with what it computes on stand-ins."""
        node = fx.call_function(target, args, kwargs)
        given, named = torch.fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
        with torch.no_grad(), mode:
            node.meta["val"] = target(*given, **named)
        bindings = compute_unbacked_bindings(env, node.meta["val"])
        if bindings:
            node.meta["unbacked_bindings"] = bindings
        return node

    symbols: dict[sympy.Symbol, torch.fx.Node] = {}

    def symbol(wanted: sympy.Symbol) -> torch.fx.Node:
        if wanted not in symbols:
            value, axis = next((value, axis) for s, value, axis in graph.symbols if s == wanted)
            symbols[wanted] = call(aten._local_scalar_dense.default, (nodes[value],), {}) if axis is None else (
                call(aten.sym_size.int, (nodes[value], axis), {}))
        return symbols[wanted]

    def leaf(value: Any) -> Any:
        if isinstance(value, Use):
            return nodes[value.id]
        if isinstance(value, Weight):
            return nodes[value]
        if isinstance(value, Symbol):
            if value.expr.is_Symbol:
                return symbol(value.expr)
            env_nodes = {s: torch.fx.Proxy(symbol(s)) for s in value.expr.free_symbols}
            proxy = sympy_interp(PythonReferenceAnalysis, env_nodes, value.expr)
            _fill_meta(proxy.node)
            return proxy.node
        return value

    for op in graph.ops:
        args, kwargs = pytree.tree_map(leaf, (op.args, dict(op.kwargs)))
        node = call(op.target, tuple(args), kwargs)
        if isinstance(node.meta["val"], torch.Tensor):
            nodes[op.outputs[0]] = node
            continue
        for i, value in enumerate(op.outputs):
            if value is not None:
                nodes[value] = fx.call_function(operator.getitem, (node, i))
                nodes[value].meta["val"] = node.meta["val"][i]
    fx.output(tuple(nodes[value] for value in graph.outputs))
    _drop_dead(fx)
    env.pending_fresh_unbacked_symbols.clear()
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


#: Values between regions are contiguous, whatever the program's own tensors were: a view of one may need a copy.
WHATEVER_THE_LAYOUT = dict.fromkeys(
    (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default), torch.ops.aten.reshape.default)


def _sorted(tensor: torch.Tensor, dim: int = -1, descending: bool = False) -> Any:
    """`aten.sort` with equal elements in the order in which they stand."""
    return torch.ops.aten.sort.stable(tensor, stable=True, dim=dim, descending=descending)


def _first(tensor: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """`aten.topk`, the first of equal elements chosen."""
    if not tensor.dim():
        return torch.ops.aten.topk.default(tensor, k, dim, largest, sorted)
    return tuple(part.narrow(dim, 0, k) for part in _sorted(tensor, dim, largest))


#: The order of equal elements, which PyTorch leaves open (and decides by size and processor), as backends choose it.
ORDERED = {torch.ops.aten.sort.default: _sorted, torch.ops.aten.topk.default: _first}


def run_eager(
    program: Program, graph: Graph, inputs: list[torch.Tensor], apply: Callable[..., Any] | None = None
) -> list[torch.Tensor]:
    """The region computed by PyTorch on real data: the reference that a compiled region is compared with.
    `apply(target, args, kwargs)` computes each operation in place of a plain call."""
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
            target = WHATEVER_THE_LAYOUT.get(op.target, op.target)
            target = ORDERED.get(target, target) if apply is None else target
            result = target(*args, **kwargs) if apply is None else apply(target, args, kwargs)
            for value, data in zip(op.outputs, pytree.tree_leaves(result)):
                if value is not None:
                    values[value] = data
    return [values[value] for value in graph.outputs]


def _empty_like(old: torch.Tensor, size: Callable[[Any], Any]) -> torch.Tensor:
    """A tensor whose sizes are `size` of the old ones, with its dimensions in the old one's order in memory, on which
    depends whether a view can be taken."""
    strides = [_generic(stride) for stride in old.stride()]
    order = sorted(range(old.dim()), key=lambda dim: -strides[dim])
    made = torch.empty([size(old.shape[dim]) for dim in order], dtype=old.dtype)
    return made.permute([order.index(dim) for dim in range(old.dim())])


def _generic(number: Any) -> int:
    """A number as it is for large sizes that equal no other."""
    expr = as_expr(number)
    if expr is None:
        return number
    return int(expr.xreplace(_generic_sizes(expr)))


def _generic_sizes(expr: sympy.Basic) -> dict[sympy.Symbol, int]:
    """For each symbol of an expression a large size that no other has."""
    return {s: sympy.prime(2000 + int(str(s).lstrip("zuf"))) for s in expr.free_symbols}


def as_expr(value: Any) -> sympy.Basic | None:
    """The symbolic expression behind a symbolic number, else None."""
    return value.node.expr if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) else None


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

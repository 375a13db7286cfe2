"""What a step may do besides computing its outputs: fail, draw, call, depend on sizes that only data decides.

In: a program and a step of it. Out: why the step must not run where the program would not run it, or "".
Never: guesses: an operation that is not known to give a result for all data counts as one that may fail.
"""
from __future__ import annotations

import torch
import torch.utils._pytree as pytree

from elastic_compile.program.ir import Graph, Op, Program, Symbol
from elastic_runtime import schema

#: Operations without the tag "pointwise" that give a result for all data of their static shapes.
_TOTAL = frozenset({
    "_adaptive_avg_pool2d", "_log_softmax", "_native_batch_norm_legit_no_training", "_safe_softmax", "_softmax",
    "_to_copy", "_unsafe_view", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "addbmm", "addmm", "addmv", "addr",
    "alias", "all", "amax", "amin", "any", "arange", "argmax", "argmin", "avg_pool1d", "avg_pool2d", "baddbmm",
    "batch_norm", "bmm", "broadcast_to", "cat", "chunk", "clone", "constant_pad_nd", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "convolution", "cumprod", "cumsum", "detach", "diagonal", "dot",
    "empty_like", "expand", "expand_as", "eye", "flatten", "flip", "full", "full_like", "gelu", "group_norm",
    "hardswish", "hardtanh", "instance_norm", "layer_norm", "leaky_relu", "lift_fresh_copy", "linalg_vector_norm",
    "linear", "log_softmax", "logsumexp", "masked_fill", "matmul", "max", "max_pool1d", "max_pool2d",
    "max_pool2d_with_indices", "mean", "min", "mish", "mm", "movedim", "mv", "narrow", "native_batch_norm",
    "native_group_norm", "native_layer_norm", "norm", "ones", "ones_like", "outer", "pad", "permute", "prod", "relu",
    "relu6", "repeat", "reshape", "roll", "rsub", "scalar_tensor", "scaled_dot_product_attention", "select",
    "select_scatter", "selu", "silu", "slice", "slice_scatter", "softmax", "softplus", "sort", "split",
    "split_with_sizes", "squeeze", "stack", "std", "std_mean", "sum", "t", "tile", "topk", "transpose", "tril", "triu",
    "unbind", "unflatten", "unsafe_chunk", "unsafe_split", "unsqueeze", "upsample_bilinear2d", "upsample_nearest1d",
    "upsample_nearest2d", "var", "var_mean", "view", "view_as", "where", "zero", "zeros", "zeros_like",
})

#: Pointwise operations that fail, or do as the processor pleases, for some integers.
_FAILS_ON_INTEGERS = frozenset({
    "bitwise_left_shift", "bitwise_right_shift", "__lshift__", "__rshift__", "floor_divide", "fmod", "gcd", "lcm",
    "pow", "float_power", "remainder", "divide", "div",
})

#: Host operations that give a result for all operands of one kind.
_TOTAL_HOST = frozenset({
    "const", "item", "size", "tensor_bool", "bool", "neg", "abs", "min", "max", "and", "or", "not", "bitand", "bitor",
    "bitxor", "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "select", "add", "sub",
})


def obstacle(program: Program, step: schema.Step) -> str:
    """Why `step` cannot be run where the program would not run it: it may fail, has an effect, or its cost and
    shapes depend on data. Empty when nothing speaks against it."""
    if isinstance(step, schema.HostCallStep):
        return f"calls the host function {step.name}"
    if isinstance(step, schema.RandomStep):
        return "draws random numbers"
    if isinstance(step, schema.AppendStep):
        return "appends to a tensor that grows"
    if isinstance(step, schema.ScalarStep):
        return _host_obstacle(program, step)
    if dynamic(program, (*step.inputs, *step.outputs)):
        return "has sizes that only data decides"
    return next(filter(None, (_op_obstacle(program, op) for op in program.graphs[step.region].ops)), "")


def dynamic(program: Program, values: tuple[int, ...]) -> bool:
    """Whether the shape of one of the values is known only at run time."""
    kinds = (program.values[value] for value in values)
    return any(isinstance(kind, schema.TensorType) and any(isinstance(size, str) for size in kind.shape)
               for kind in kinds)


def symbolic(graph: Graph) -> bool:
    """Whether a region uses numbers that only data decides."""
    return bool(graph.symbols)


def _host_obstacle(program: Program, step: schema.ScalarStep) -> str:
    if step.op == "const":
        return ""
    kinds = {getattr(program.values[value], "kind", "tensor") for value in step.inputs}
    kinds |= {type(schema.decode_literal(text)).__name__ for _, text in step.literals} if step.op != "size" else set()
    fine = (step.op in _TOTAL_HOST and (len(kinds) == 1 or step.op == "select")) or (
        step.op == "tensor_float" and kinds == {"float"})
    fine = fine and not dynamic(program, step.inputs)
    return "" if fine else f"computes {step.op} on the host, which may fail"


def _op_obstacle(program: Program, op: Op) -> str:
    told = str(op.target).removeprefix("aten.")
    if not isinstance(op.target, torch._ops.OpOverload) or op.target.namespace != "aten":
        return f"computes {told}, which may fail"
    leaves = pytree.tree_leaves((op.args, dict(op.kwargs)))
    if any(isinstance(leaf, Symbol) for leaf in leaves):
        return "has sizes that only data decides"
    name = op.target._schema.name.removeprefix("aten::")
    if name in _FAILS_ON_INTEGERS:
        made = [program.values[value] for value in op.outputs if value is not None]
        modes = [leaf for leaf in leaves if isinstance(leaf, str)]
        whole = any("int" in kind.dtype or kind.dtype == "bool" for kind in made)
        return f"computes {told} on integers, which may fail" if whole or modes else ""
    tags = op.target.tags
    if op.total or name in _TOTAL or (torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags):
        return ""
    return f"computes {told}, which may fail"

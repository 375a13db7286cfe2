"""From an exported region to the bytes of an ONNX model.

In: `RegionSource`. Out: `OnnxRegion`: a serialised ModelProto, which weights it reads, how many nodes it has.
Never: copies a weight into the model, writes a file, prints, or keeps a trace of the user's file system.

Values are named by position ("x0", "y0", "w0", "v0"), and nothing of where they came from is kept, so two
regions with the same structure give the same bytes whatever their weights are. A weight is hidden from the
optimiser as if it were an input: no transposed, fused or folded copy of it can come to be in the model. It is
an initializer at the location `SENTINEL`, where no file exists; the runtime feeds it from the weight store.

The translation is torch.onnx's (`torch.onnx._internal.exporter`, entered below its report and capture layers,
which cost 0.3 s a region) with the translations of `onnx_translations` before its own.
"""
from __future__ import annotations

import contextlib
import copy
import logging
import math
import operator
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from onnxscript import rewriter, version_converter
from onnxscript.optimizer import _constant_folding
from onnxscript.rewriter import _pattern_ir
from onnxscript.rewriter.rules.common import _fuse_batchnorm
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.onnx._internal.exporter import _core, _decomp, _dispatching, _errors, _fx_passes, _registration

from elastic_compile.backends import onnx_solving, onnx_translations
from elastic_compile.backends.decompositions import ASSERTIONS, DECOMPOSITIONS
from elastic_compile.backends.protocol import RegionSource
from elastic_compile.errors import BackendError
from elastic_runtime import schema
from elastic_runtime.onnx_scan import SENTINEL

OPSET = 20

#: A parameter or buffer of at least this many bytes stays outside the model; smaller ones are inlined.
EXTERNAL_BYTES = 1024

#: Constant folding gives up above this many elements, so that computed tables do not swell the bundle.
FOLD_ELEMENTS = 1024

#: One operator of ONNX each, which is many times as fast as the gathers that PyTorch would make of it.
_WHOLE = (torch.ops.aten.upsample_bilinear2d.default, torch.ops.aten.upsample_bicubic2d.default)


@dataclass(frozen=True)
class OnnxRegion:
    """`model`: a ModelProto. `weights`: initializer name -> key in the region's state_dict or constants."""

    model: bytes
    weights: dict[str, str]
    nodes: int


def export(source: RegionSource) -> OnnxRegion:
    """Translate `source`. Raises `BackendError` naming the region and the operator that has no translation."""
    with _quiet():
        program = _lower(source)
        _check_operators(source, program)
        _check_interface(source, program)
        model = _translate(source, program)
        hidden = _hide_weights(source, program, model)
        _optimise(model)
        return _finish(source, model, hidden)


def _refused(source: RegionSource, what: str, reason: str, hint: str = "") -> BackendError:
    return BackendError(f"region {source.name}: {what}", reason=reason, hint=hint)


def is_inside(tensor: torch.Tensor) -> bool:
    """Whether the model holds the weight `tensor` itself."""
    return tensor.numel() * tensor.element_size() < EXTERNAL_BYTES


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No logging and no warnings from torch.onnx and onnxscript, which report to a console by default."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@cache
def _registry() -> _registration.ONNXRegistry:
    registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    for name in [name for name in registry.functions if str(name).startswith(onnx_translations.RANDOM)]:
        del registry.functions[name]
    for target, function in onnx_translations.TRANSLATIONS.items():
        registry.register_op(target, function)
    return registry


@cache
def _decompositions(inverting: bool) -> dict:
    registered = set(_decomp.get_onnx_implemented_overloads(_registry()))
    return _decomp.create_onnx_friendly_decomposition_table(registered) | DECOMPOSITIONS | (
        onnx_solving.DECOMPOSITIONS if inverting else {})


@contextlib.contextmanager
def _kept_whole() -> Iterator[None]:
    """Operators that PyTorch takes apart whatever the table says, because their derivatives are written in Python."""
    key = torch._C.DispatchKey.Autograd
    taken = {one: one.py_kernels.pop(key) for one in _WHOLE if key in one.py_kernels}
    try:
        for one in taken:
            one._dispatch_cache.clear()
        yield
    finally:
        for one, kernel in taken.items():
            one.py_kernels[key] = kernel
            one._dispatch_cache.clear()


def _lower(source: RegionSource) -> ExportedProgram:
    """A copy of the region's program in which every operator has a translation."""
    original = source.exported
    program = original._update(
        torch.fx.GraphModule(original.graph_module, _copy(original.graph)), original.graph_signature)
    # Guards on the example inputs are the front end's matter, and some cannot be run on fake tensors.
    program._guards_code = []
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        if not _is_lowered(program):
            try:
                with _kept_whole():
                    program = program.run_decompositions(_decompositions(onnx_solving.applies(program)))
            except Exception as error:
                raise _refused(source, "its operators cannot be decomposed", _root(error)) from error
        _fx_passes.insert_type_promotion_nodes(program.graph_module)
    for node in list(program.graph_module.graph.nodes):
        if node.target in ASSERTIONS:
            program.graph_module.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _copy(graph: torch.fx.Graph) -> torch.fx.Graph:
    """A copy whose nodes keep their names, which the signature refers to (fx renames "input" to "input_1")."""
    copied = copy.deepcopy(graph)
    for node, original in zip(copied.nodes, graph.nodes, strict=True):
        node.name = original.name
    return copied


def _is_lowered(program: ExportedProgram) -> bool:
    """Whether each operator is functional and translated as it is: a decomposition costs 0.1 s and is spared."""
    registry = _registry()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            return False
        if node.op != "call_function" or node.target is operator.getitem or node.target in ASSERTIONS:
            continue
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            return False
        if node.target in DECOMPOSITIONS or _dispatching.dispatch(node, registry)[0] is None:
            return False
    return True


def _check_interface(source: RegionSource, program: ExportedProgram) -> None:
    signature = program.graph_signature
    for spec in signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise _refused(source, f"it changes {spec.target!r} in place", "a region is a function of its inputs")
    given = [spec.arg for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    made = [spec.arg for spec in signature.output_specs]
    for what, arguments, types in (("inputs", given, source.inputs), ("outputs", made, source.outputs)):
        if len(arguments) != len(types) or not all(isinstance(item, TensorArgument) for item in arguments):
            raise _refused(source, f"its {what} do not fit its graph",
                           f"the graph has {[str(item) for item in arguments]}, the region {len(types)} tensors")


def _check_operators(source: RegionSource, program: ExportedProgram) -> None:
    unknown = sorted({
        str(node.target) for node in program.graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
        and _dispatching.dispatch(node, _registry())[0] is None
    })
    if unknown:
        known = {why for part, why in onnx_translations.UNSUPPORTED.items() if any(part in name for name in unknown)}
        reason = "; ".join(sorted(known)) or "neither torch.onnx nor this backend can write it with ONNX operators"
        raise _refused(source, f"ONNX has no translation of {', '.join(unknown)}", reason,
                       "write it with other operators, or keep it on the host with @host_op")


def _translate(source: RegionSource, program: ExportedProgram) -> ir.Model:
    try:
        model = _core._exported_program_to_onnx_program(program, registry=_registry()).model
        version_converter.convert_version(model, OPSET)
        return model
    except _errors.ConversionError as error:
        raise _refused(source, f"the translation of {_operator_of(error)} to ONNX failed", _root(error)) from error
    except Exception as error:
        raise _refused(source, "the translation to ONNX failed", _root(error)) from error


def _operator_of(error: Exception) -> str:
    found = re.search(r"target=([\w.:]+)", str(error))
    return found.group(1) if found else "an operator"


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _hide_weights(source: RegionSource, program: ExportedProgram, model: ir.Model) -> dict[ir.Value, str]:
    """Turn each large parameter, buffer and constant of the region into an input; returns its key by value."""
    hidden: dict[ir.Value, str] = {}
    for key, value in list(model.graph.initializers.items()):
        tensor = source.exported.state_dict.get(key, source.exported.constants.get(key))
        if not isinstance(tensor, torch.Tensor) or is_inside(tensor):
            continue
        if str(tensor.dtype).removeprefix("torch.") not in schema.DTYPES:
            raise _refused(source, f"its weight {key} is {tensor.dtype}", f"a bundle holds {schema.DTYPES}",
                           "convert the module, as in module.float()")
        del model.graph.initializers[key]
        value.const_value = None
        model.graph.inputs.append(value)
        hidden[value] = key
    return hidden


def _optimise(model: ir.Model) -> None:
    """onnxscript's optimiser with a bound on what is folded, and without fusions that make new weights."""
    rules = [_Rule(rule) for rule in rewriter._DEFAULT_REWRITE_RULES if rule not in _fuse_batchnorm.rules]
    folding = _constant_folding.FoldConstantsPass(
        shape_inference=True, input_size_limit=FOLD_ELEMENTS, output_size_limit=FOLD_ELEMENTS)
    clean = [common_passes.RemoveUnusedNodesPass(), common_passes.RemoveUnusedFunctionsPass(),
             common_passes.RemoveUnusedOpsetsPass()]
    ir.passes.Sequential(
        common_passes.InlinePass(),
        ir.passes.PassManager([folding, rewriter.RewritePass(rules), *clean], steps=2, early_stop=True),
        _BroadcastInstead(),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.LiftSubgraphInitializersToMainGraphPass(),
        common_passes.DeduplicateInitializersPass(),
        common_passes.CommonSubexpressionEliminationPass(),
        common_passes.OutputFixPass(),
        common_passes.ClearMetadataAndDocStringPass(),
    )(model)


class _BroadcastInstead(ir.passes.InPlacePass):
    """Reads what an `Expand` gives before it is expanded, where the operator that reads it does that itself."""

    OPERATORS = frozenset({"Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
                           "Mul", "Sub", "Where"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in model.graph:
            if node.op_type == "Expand":
                for reader, place in tuple(node.outputs[0].uses()):
                    if reader.op_type in self.OPERATORS and self._full(reader, node.outputs[0]):
                        reader.replace_input_with(place, node.inputs[0])
                        changed = True
        return ir.passes.PassResult(model, modified=changed)

    def _full(self, reader: ir.Node, expanded: ir.Value) -> bool:
        """Whether another input of `reader` has the whole shape, in numbers."""
        shape = expanded.shape
        return shape is not None and all(isinstance(size, int) for size in shape) and any(
            other is not None and other is not expanded and other.shape == shape for other in reader.inputs)


class _Rule:
    """A rewrite rule that is tried only where the operator of its last node stands; onnxscript tries each everywhere,
    which was half of the time of compiling a region. Its numbers are those of the model exactly: onnxscript takes what
    is within 1e-8 of 0 for it, and adds no 1e-8 that keeps from dividing by zero."""

    def __init__(self, rule: rewriter.pattern.RewriteRule) -> None:
        self._rule, self._operator = rule, rule._target_pattern.output_nodes[0].op
        for node in rule._target_pattern:
            for number in node.inputs:
                if isinstance(number, _pattern_ir.Constant):
                    number._rel_tol = number._abs_tol = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._rule, name)

    def try_rewrite(self, model: ir.Model, graph: ir.Graph | ir.Function, node: ir.Node, **how: object) -> object:
        return self._rule.try_rewrite(model, graph, node, **how) if self._operator.matches(node.op_type) else None


def _finish(source: RegionSource, model: ir.Model, hidden: dict[ir.Value, str]) -> OnnxRegion:
    """Name values by position, give the interface the region's types, put weights outside, serialise."""
    graph = model.graph
    _copy_constant_outputs(graph)
    inputs = [value for value in graph.inputs if value not in hidden]
    constants = set(graph.initializers.values())
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.initializers.clear()

    names = {value: f"x{index}" for index, value in enumerate(inputs)}
    names |= {value: f"y{index}" for index, value in enumerate(graph.outputs)}
    interface = frozenset(names)
    counts = dict.fromkeys("wcv", 0)
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    for node in nodes:
        node.name = None
        for value in (*node.inputs, *node.outputs):
            if value is None or value in names:
                continue
            kind = "w" if value in hidden else "c" if value in constants else "v"
            names[value] = f"{kind}{counts[kind]}"
            counts[kind] += 1

    weights: dict[str, str] = {}
    for value, name in names.items():
        value.name = name
        value.metadata_props.clear()
        if value in hidden:
            weights[name] = hidden[value]
            size = int(value.dtype.itemsize * math.prod(value.shape))
            value.const_value = ir.ExternalTensor(
                SENTINEL, offset=0, length=size, dtype=value.dtype, shape=value.shape, name=name)
            graph.register_initializer(value)
        elif value in constants:
            value.const_value.name = name
            graph.register_initializer(value)
        elif value not in interface:
            value.shape, value.type = None, None

    for values, types in ((inputs, source.inputs), (graph.outputs, source.outputs)):
        for value, kind in zip(values, types, strict=True):
            _declare(value, kind)
    graph.name = "region"
    model.producer_name, model.producer_version = "elastic-compile", None
    proto = ir.serde.serialize_model(model)
    return OnnxRegion(proto.SerializeToString(deterministic=True), weights, len(nodes))


def _copy_constant_outputs(graph: ir.Graph) -> None:
    for index, value in enumerate(graph.outputs):
        if value.is_initializer():
            node = ir.node("Identity", [value])
            graph.append(node)
            graph.outputs[index] = node.outputs[0]


def _declare(value: ir.Value, kind: schema.TensorType) -> None:
    """A complex tensor is a real one with a last dimension of 2."""
    real = _REAL.get(kind.dtype)
    value.dtype = ir.DataType.from_numpy(np.dtype(real or kind.dtype))
    value.shape = ir.Shape((*kind.shape, 2) if real else kind.shape)


_REAL = {"complex64": "float32", "complex128": "float64"}

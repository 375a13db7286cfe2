"""The TVM backend: all regions in one shared library, with one entry symbol per region.

In: regions. Out: compiled regions for the engine "tvm", which share the payload {"library": bytes of the .so} and
differ in the options "symbol" (the entry), "copy" (outputs that are views of other values) and "rows" (weights that
may lie in wider matrices, so that the subnets of a family read one).
Never: tunes by measuring, embeds a weight of `EMBED_BYTES` or more in the library, or needs TVM to be imported
before a TVM backend is asked for.

Each program is decomposed to core ATen, imported to relax with its weights as inputs, and lowered with the
schedules of `tvm_schedule`. Small weights become constants, so that what depends on them alone is folded.
"""
from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    TensorArgument,
)

from elastic_compile.backends import tvm_operators
from elastic_compile.backends.decompositions import ASSERTIONS
from elastic_compile.backends.protocol import CompiledRegion, Progress, RegionSource
from elastic_compile.errors import BackendError, BackendUnavailable
from elastic_runtime import schema
from elastic_runtime.engines import EngineOptions
from elastic_runtime.errors import BundleError

#: A weight smaller than this many bytes becomes a constant of the library.
EMBED_BYTES = 4096

_PINNED = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}

aten = torch.ops.aten


class TvmBackend:
    """`target`: a TVM target such as {"kind": "llvm", "mcpu": "cortex-a72"}; None is the host's CPU."""

    name = "tvm"
    engine = "tvm"
    native = True

    def __init__(self, target: dict[str, object] | None = None) -> None:
        self.target = target

    def require(self) -> None:
        """Raise `BackendUnavailable` unless the pinned TVM and a linker are installed."""
        for package, version in _PINNED.items():
            try:
                found = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found = "none"
            if found != version:
                raise BackendUnavailable(
                    f"the backend 'tvm' needs {package} {version}, and {found} is installed",
                    hint="pip install 'elastic-compile[tvm]'")
        if not any(shutil.which(tool) for tool in ("g++", "clang++", "c++")):
            raise BackendUnavailable(
                "the backend 'tvm' links a shared library, and there is no C++ compiler to do it with",
                reason="none of g++, clang++ and c++ is on PATH",
                hint="install g++ (Debian: apt-get install g++), or compile with backend='onnxruntime'")

    def compile(
        self, regions: Sequence[RegionSource], progress: Progress | None = None
    ) -> list[CompiledRegion]:
        """One library for all `regions`. Raises `BackendError` naming the region and the operator; its `regions` are
        all those that TVM refuses."""
        if not regions:
            return []
        with _quiet():
            imported, refused = [], []
            for done, source in enumerate(regions):
                if progress:
                    progress(done, len(regions), source.name)
                try:
                    imported.append(_import(source))
                except BackendError as error:
                    refused.append(error)
            if refused:
                raise _first(refused)
            built = _build(imported, self.target)
        made = [_compiled(region, built) for region in imported]
        if self.target is None:
            _load_once(imported, made)
        if progress:
            progress(len(regions), len(regions), "")
        return made


@dataclass(frozen=True)
class _Imported:
    """`module`: relax, entry "main". `weights`: keys of the entry's parameters after the inputs, in order."""

    source: RegionSource
    module: object
    weights: tuple[str, ...]


@dataclass(frozen=True)
class _Built:
    """`library`: the shared object. By region: `ops`, kernels called; `shared`, outputs to copy (see `_shared`);
    `apart`, parameters that are matrices whose rows may lie apart."""

    library: bytes
    ops: dict[str, int]
    shared: dict[str, tuple[int, ...]]
    apart: dict[str, tuple[int, ...]]


def _compiled(region: _Imported, built: _Built) -> CompiledRegion:
    source = region.source
    shared = ",".join(map(str, built.shared[source.name]))
    rows = ",".join(str(index - len(source.inputs)) for index in built.apart[source.name])
    return CompiledRegion(
        name=source.name,
        engine=TvmBackend.engine,
        payload={"library": built.library},
        inputs=tuple(schema.Port(name=f"x{i}", type=kind) for i, kind in enumerate(source.inputs)),
        outputs=tuple(schema.Port(name=f"y{i}", type=kind) for i, kind in enumerate(source.outputs)),
        weights={f"w{i}": key for i, key in enumerate(region.weights)},
        options={"symbol": source.name, "copy": shared, "rows": rows},
        ops=built.ops[source.name],
    )


def _load_once(imported: Sequence[_Imported], made: Sequence[CompiledRegion]) -> None:
    """What the host cannot load is found out here, not at the user's."""
    from elastic_runtime.engines.tvm import TvmEngine

    engine = TvmEngine()
    for region, compiled in zip(imported, made, strict=True):
        tensors = {**region.source.exported.constants, **region.source.exported.state_dict}
        weights = {name: tensors[key].detach().numpy() for name, key in compiled.weights.items()}
        described = schema.Region(
            name=compiled.name, engine=compiled.engine, files={"library": "library"}, inputs=compiled.inputs,
            outputs=compiled.outputs, options=dict(compiled.options))
        try:
            engine.load(described, {"library": memoryview(compiled.payload["library"])}, weights, EngineOptions())
        except BundleError as error:
            raise _refused(region.source, "TVM's runtime does not accept its code", _first_line(error)) from error


def _refused(source: RegionSource, what: str, reason: str, hint: str = "") -> BackendError:
    error = BackendError(f"region {source.name}: {what}", reason=reason, hint=hint)
    error.regions = (source.name,)
    return error


def _first(refused: Sequence[BackendError]) -> BackendError:
    """The first, with the regions of all."""
    refused[0].regions = tuple(name for error in refused for name in error.regions)
    return refused[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TVM tells of its choices on the console."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


# ------------------------------------------------------------------------------------- to relax
def _import(source: RegionSource) -> _Imported:
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    program = source.exported._update(source.exported.graph_module, source.exported.graph_signature)
    program._guards_code = []
    try:
        program = program.run_decompositions(tvm_operators.decompositions())
    except Exception as error:
        raise _refused(source, "its operators cannot be decomposed", _first_line(error)) from error
    _drop_assertions(program)
    _check_outputs(source, program)
    _check_operators(source, program)
    program, state = _state_as_inputs(source, program)
    try:
        module = from_exported_program(
            program, run_ep_decomposition=False, custom_convert_map=tvm_operators.CONVERTERS)
    except Exception as error:
        raise _refused(source, "TVM cannot import it", _first_line(error)) from error
    _check_types(source, module)
    small = {name: tvm.runtime.tensor(tensor.detach().contiguous().numpy()) for name, (key, tensor) in state.items()
             if key is None or tensor.numel() * tensor.element_size() < EMBED_BYTES}
    module = relax.transform.BindParams("main", small)(module)
    weights = tuple(key for name, (key, _) in state.items() if name not in small)
    return _Imported(source, module, weights)


def _check_types(source: RegionSource, module) -> None:
    """The importer computes some types otherwise than ATen, and loses sizes that are known only at run time."""
    from tvm import relax

    bound = [binding.var.ty for block in module["main"].body.blocks for binding in block.bindings]
    if any(isinstance(kind, relax.TensorType) and not isinstance(kind.shape, relax.ShapeExpr) for kind in bound):
        raise _refused(source, "TVM does not follow its sizes", "one of its tensors has a shape that TVM does not know",
                       "compile with backend='tvm,onnxruntime'")
    made = [(field.dtype, field.ndim) for field in module["main"].ret_ty.fields]
    wanted = [(kind.dtype, len(kind.shape)) for kind in source.outputs]
    if made != wanted:
        raise _refused(source, "TVM would give it other types", f"outputs {made}, expected {wanted}",
                       "compile with backend='tvm,onnxruntime', or convert explicitly with .to(dtype)")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _drop_assertions(program: ExportedProgram) -> None:
    graph = program.graph
    for node in list(graph.nodes):
        if node.target in ASSERTIONS:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _check_outputs(source: RegionSource, program: ExportedProgram) -> None:
    for spec in program.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT or not isinstance(spec.arg, TensorArgument):
            raise _refused(source, f"its output {spec.arg} is not a tensor that it computes",
                           "a region is a function of its inputs")


def _check_operators(source: RegionSource, program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if any(isinstance(size, int) and size == 0 for size in getattr(node.meta.get("val"), "shape", ())):
            if node.users:
                raise _refused(source, f"TVM cannot hold {node.name}, a tensor without elements",
                               f"its shape is {tuple(node.meta['val'].shape)}",
                               "compile with backend='tvm,onnxruntime'")
            continue
        reason = tvm_operators.unsupported(node)
        if reason:
            raise _refused(source, f"TVM cannot compile {node.target}", reason,
                           "compile with backend='tvm,onnxruntime', or write it with other operators")


def _state_as_inputs(
    source: RegionSource, program: ExportedProgram
) -> tuple[ExportedProgram, dict[str, tuple[str | None, torch.Tensor]]]:
    """The program with its used weights as inputs after the region's own, and those weights by input name.

    A weight's key is None when it is not one of the region's own (a decomposition made it).
    """
    own = {**source.exported.constants, **source.exported.state_dict}
    graph = program.graph
    inputs: list[InputSpec] = []
    state: dict[str, tuple[str | None, torch.Tensor]] = {}
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(spec)
        elif not node.users:
            graph.erase_node(node)
        else:
            tensor = program.state_dict.get(spec.target, program.constants.get(spec.target))
            state[node.name] = (spec.target if spec.target in own else None, tensor)
    last = placeholders[inputs[-1].arg.name] if inputs else None
    for name in state:
        if last is not None:
            last.append(placeholders[name])
        last = placeholders[name]
    specs = [*inputs, *(InputSpec(InputKind.USER_INPUT, TensorArgument(name=name), None) for name in state)]
    program.graph_module.recompile()
    program._graph_signature = ExportGraphSignature(specs, program.graph_signature.output_specs)
    program._state_dict, program._constants = {}, {}
    return program, state


# ------------------------------------------------------------------------------------ to a library
def _build(imported: Sequence[_Imported], target: dict[str, object] | None) -> _Built:
    import tvm
    from tvm import relax

    from elastic_compile.backends import tvm_schedule

    chosen = tvm.target.Target(target or host_target())
    names = [region.source.name for region in imported]
    try:
        with chosen:
            module = tvm_schedule.to_kernels(chosen)(_merge(imported))
            ops = {name: _calls(module[name]) for name in names}
            shared = {name: _shared(module[name]) for name in names}
            apart = {name: tvm_schedule.rows_apart(module[name]) for name in names}
            module = tvm_schedule.to_runtime(chosen)(module)
        executable = relax.build(module, chosen, relax_pipeline=None, exec_mode="compiled")
        return _Built(_link(executable), ops, shared, apart)
    except Exception as error:
        raise _whose(imported, target, error) from error


_VIEWS = ("relax.reshape", "relax.memory.view", "relax.memory.ensure_zero_offset")


def _shared(function) -> tuple[int, ...]:
    """Outputs that are memory of a parameter, a constant or an earlier output: copies keep them the caller's."""
    from tvm import relax

    values = {binding.var: binding.value for block in function.body.blocks for binding in block.bindings}

    def owner(made):
        while made in values:
            value = values[made]
            if isinstance(value, relax.Call):
                if getattr(value.op, "name", "") not in _VIEWS:
                    return made
                value = value.args[0]
            made = value
        return made

    result = values.get(function.body.body, function.body.body)
    owners = [owner(field) for field in result.fields]
    return tuple(index for index, made in enumerate(owners)
                 if made not in values or any(made.same_as(earlier) for earlier in owners[:index]))


def _whose(imported: Sequence[_Imported], target: dict[str, object] | None, error: Exception) -> BackendError:
    """The region that TVM fails on: by building each alone."""
    if len(imported) == 1:
        return _refused(imported[0].source, "TVM cannot compile it", _first_line(error))
    refused = []
    for region in imported:
        try:
            _build([region], target)
        except BackendError as alone:
            refused.append(alone)
    if not refused:
        return BackendError("TVM cannot compile the regions together", reason=_first_line(error))
    return _first(refused)


def host_target() -> dict[str, object]:
    from tvm.target import codegen

    return {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(),
            "fast-math-reassoc": True, "fast-math-contract": True}


def _merge(imported: Sequence[_Imported]):
    import tvm

    from elastic_compile.backends import tvm_schedule

    return tvm.IRModule({
        tvm.ir.GlobalVar(region.source.name):
            region.module["main"].with_attr("global_symbol", region.source.name)
            .with_attr(tvm_schedule.INPUTS, len(region.source.inputs))
        for region in imported
    })


def _calls(function) -> int:
    from tvm import relax

    return sum(
        isinstance(binding.value, relax.Call) and isinstance(binding.value.op, relax.GlobalVar)
        for block in function.body.blocks for binding in block.bindings)


def _link(executable) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "regions.so")
        executable.export_library(path, options=["-Wl,--build-id=none", "-s"])
        return Path(path).read_bytes()

"""How regions become machine code with TVM: the relax pipeline, and schedules for a CPU by rule.

In: a relax module, a target. Out: the lowered module, whose loop nests are tiled for registers and vectors.
Never: measures (no tuning), or changes what is computed beyond the order of sums; a loop nest that no rule fits
keeps TVM's default.

Rules, for each fused kernel of static shape: producers that only move data are inlined; a contraction
(convolution, matrix product) is tiled so that its accumulators stay in vector registers, with what follows it
computed on the tile before it leaves them (Goto and van de Geijn, "Anatomy of high-performance matrix
multiplication", 2008); other reductions and elementwise nests are vectorised along memory.
"""
from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import ir, relax, s_tir, sym, te, tirx, topi
from tvm.relax.backend.cpu_generic import pipeline as cpu
from tvm.relax.expr_functor import PyExprMutator, mutator

#: Multiply-adds or elements from which a kernel is worth the cost of waking a second thread.
_PARALLEL_FROM = 1_000_000

#: An attribute of a relax function: how many of its parameters are inputs; the others are weights.
INPUTS = "inputs"

#: Vector registers that one tile of accumulators may take.
_ACCUMULATORS = 24


def to_kernels(target: tvm.target.Target) -> tvm.transform.Pass:
    """Relax operators to scheduled TensorIR, and calls of it on tensors that are allocated by name."""
    return tvm.transform.Sequential([
        _write_for_vectors,
        relax.transform.DeadCodeElimination(),
        *cpu.library_dispatch_passes(target),
        *cpu.legalize_passes(target),
        _schedule_all,
        *cpu.dataflow_lower_passes(target),
    ])


def rows_apart(function: relax.Function) -> tuple[int, ...]:
    """After `to_kernels`: the parameters that are matrices whose rows may lie apart; a wider matrix is to be given."""
    first = int(function.attrs[INPUTS])
    return tuple(number for number, parameter in enumerate(function.params)
                 if number >= first and not all(isinstance(size, tirx.IntImm) for size in parameter.ty.shape))


def to_runtime(target: tvm.target.Target) -> tvm.transform.Pass:
    """Allocations planned to share memory, and calls of TVM's runtime in place of relax."""
    return tvm.transform.Sequential(cpu.finalize_passes(target))


@mutator
class _ForVectors(PyExprMutator):
    """Products with a transposed weight read it as it lies; transcendental functions become polynomials.

    The rational approximations are topi's (from Eigen), within 1e-6 of the library's functions for every finite
    argument. exp itself stays: its fast form does not overflow to infinity.
    """

    def rows_apart(self, function: relax.Function) -> relax.Function:
        """`function` rewritten. A weight that is only read as the transposed operand of products may lie in a wider
        matrix: its second dimension is a variable, the distance of its rows; the product reads what it needs of each.
        """
        apart = {}
        for parameter in _transposed_weights(function):
            apart[parameter] = relax.Var(parameter.name, relax.TensorType(
                [parameter.ty.shape[0], tirx.Var("distance", "int64")], parameter.ty.dtype))
            self.set_var_remap(parameter, apart[parameter])
        made = self.visit_expr(function)
        return relax.Function([apart.get(parameter, parameter) for parameter in function.params], made.body,
                              made.ret_ty, made.is_pure, made.attrs)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        name = getattr(call.op, "name", "")
        if name == "relax.matmul":
            weight = self._transposed_weight(call.args[1])
            if weight is not None:
                product = self.builder_.call_te(
                    _times_transposed, self.visit_expr(call.args[0]), self.visit_expr(weight),
                    primfunc_name_hint="matmul_transposed")
                return product
        elif name in _POLYNOMIALS and call.ty.dtype == "float32":
            extra = [call.attrs.axis] if name == "relax.nn.softmax" else []
            return self.builder_.call_te(_POLYNOMIALS[name], self.visit_expr(call.args[0]), *extra)
        return super().visit_call_(call)

    def _transposed_weight(self, operand: relax.Expr) -> relax.Expr | None:
        made = self.lookup_binding(operand) if isinstance(operand, relax.Var) else None
        if not isinstance(made, relax.Call) or getattr(made.op, "name", "") != "relax.permute_dims":
            return None
        return made.args[0] if len(made.ty.shape) == 2 and made.ty.dtype == "float32" else None


def _transposed_weights(function: relax.Function) -> list[relax.Var]:
    """Weights that nothing reads but products, as their transposed second operand."""
    readers: dict[relax.Var, list[relax.Var | None]] = {}
    values = {binding.var: binding.value for block in function.body.blocks for binding in block.bindings}

    def read(value: relax.Expr, by: relax.Var | None) -> None:
        relax.analysis.post_order_visit(
            value, lambda part: readers.setdefault(part, []).append(by) if isinstance(part, relax.Var) else None)

    for made, value in values.items():
        read(value, made)
    read(function.body.body, None)

    def multiplies(made: relax.Var, by: relax.Var | None) -> bool:
        value = values.get(by)
        return (isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.matmul"
                and value.args[1].same_as(made) and not value.args[0].same_as(made))

    def transposes(by: relax.Var | None) -> bool:
        value = values.get(by)
        return (isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.permute_dims"
                and all(multiplies(by, reader) for reader in readers.get(by, [None])))

    return [parameter for parameter in function.params[int(function.attrs[INPUTS]):]
            if isinstance(parameter.ty, relax.TensorType) and parameter.ty.dtype == "float32"
            and parameter.ty.shape is not None and len(parameter.ty.shape) == 2
            and all(isinstance(size, tirx.IntImm) for size in parameter.ty.shape)
            and all(map(transposes, readers.get(parameter, [None])))]


def _times_transposed(left: te.Tensor, weight: te.Tensor) -> te.Tensor:
    step = te.reduce_axis((0, left.shape[-1]), "k")
    return te.compute(
        (*left.shape[:-1], weight.shape[0]),
        lambda *at: te.sum(left(*at[:-1], step) * weight(at[-1], step), axis=step), name="matmul_transposed")


def _sigmoid(x: te.Tensor) -> te.Tensor:
    half = topi.fast_tanh(topi.multiply(x, 0.5))
    return topi.add(topi.multiply(half, 0.5), 0.5)


_POLYNOMIALS = {
    "relax.nn.softmax": topi.nn.fast_softmax,
    "relax.tanh": topi.fast_tanh,
    "relax.erf": topi.fast_erf,
    "relax.sigmoid": _sigmoid,
    "relax.nn.silu": lambda x: topi.multiply(x, _sigmoid(x)),
    "relax.nn.gelu": lambda x: topi.multiply(
        topi.multiply(x, 0.5), topi.add(topi.fast_erf(topi.multiply(x, 0.5**0.5)), 1.0)),
}


@tvm.transform.module_pass(opt_level=0, name="WriteForVectors")
def _write_for_vectors(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    rewriter = _ForVectors(module)
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            rewriter.builder_.update_func(name, rewriter.rows_apart(function))
    return rewriter.builder_.get()


@tvm.transform.module_pass(opt_level=0, name="ScheduleForCpu")
def _schedule_all(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    lanes = max(4, tvm.target.codegen.llvm_get_vector_width(tvm.target.Target.current()) // 32)
    for name, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            module[name] = _scheduled(function, lanes)
    return module


def _scheduled(function: tirx.PrimFunc, lanes: int) -> tirx.PrimFunc:
    sch = s_tir.Schedule(ir.IRModule({"main": function}), error_render_level="none")
    _inline(sch)
    for block in _blocks(sch):
        _gather_strides(sch, block)
    for block in _blocks(sch):
        # Every step keeps the meaning, so a nest that a later step does not fit stays as far as it came.
        with contextlib.suppress(s_tir.ScheduleError):
            nest = _Nest.of(sch, block)
            if nest is None:
                continue
            if nest.reduce and len(nest.reads) == 2 and nest.multiplies:
                _tile_contraction(sch, nest, lanes)
            elif nest.reduce:
                _tile_reduction(sch, nest, lanes)
            else:
                _tile_elementwise(sch, nest, lanes)
    return sch.mod["main"]


def _blocks(sch: s_tir.Schedule) -> list:
    try:
        return list(sch.get_child_blocks(sch.get_sblock("root")))
    except s_tir.ScheduleError:
        return []


# --------------------------------------------------------------------------------- what a nest is
@dataclass(frozen=True)
class _Axis:
    """One loop of a nest, and the variable of the block that it drives."""

    loop: object
    var: tirx.Var
    extent: int


_CALL = re.compile(r"T\.(\w+)\(")

#: What TensorIR may call in a body whose loop becomes a vector; other functions have no vector form in TVM.
_VECTOR_CALLS = frozenset({
    "Buffer", "Cast", "Select", "bool", "ceil", "exp", "fabs", "float32", "float64", "floor", "if_then_else",
    "int32", "int64", "int8", "log", "max", "min", "pow", "reinterpret", "round", "rsqrt", "sqrt", "trunc", "uint8",
})


@dataclass(frozen=True)
class _Nest:
    """A block whose loops drive its variables one to one. `reads`: per operand, its index expressions."""

    block: object
    spatial: tuple[_Axis, ...]
    reduce: tuple[_Axis, ...]
    reads: tuple[tuple[tirx.Expr, ...], ...]
    multiplies: bool
    vectorises: bool

    @staticmethod
    def of(sch: s_tir.Schedule, block: object) -> _Nest | None:
        body, loops = sch.get(block), sch.get_loops(block)
        known = all(isinstance(iterator.dom.extent, tirx.IntImm) for iterator in body.iter_vars)
        if len(loops) != len(body.iter_vars) or not known or not isinstance(body.body, tirx.stmt.BufferStore):
            return None
        axes = [_Axis(loop, iterator.var, int(iterator.dom.extent))
                for loop, iterator in zip(loops, body.iter_vars, strict=True)]
        kinds = [iterator.iter_type for iterator in body.iter_vars]
        written = {region.source for region in body.writes}
        reads = tuple(tuple(item.min for item in region.region) for region in body.reads
                      if region.source not in written and all(_is_one(item.extent) for item in region.region))
        return _Nest(
            block,
            tuple(axis for axis, kind in zip(axes, kinds, strict=True) if kind == tirx.IterVar.DataPar),
            tuple(axis for axis, kind in zip(axes, kinds, strict=True) if kind == tirx.IterVar.CommReduce),
            reads, _is_product(body.body), {*_CALL.findall(body.body.script())} <= _VECTOR_CALLS)

    def work(self) -> int:
        total = 1
        for axis in (*self.spatial, *self.reduce):
            total *= axis.extent
        return total


def _is_one(extent: tirx.Expr) -> bool:
    return isinstance(extent, tirx.IntImm) and int(extent) == 1


def _is_product(body: tirx.Stmt) -> bool:
    value = getattr(body, "value", None)
    return isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul)


def _uses(indices: tuple[tirx.Expr, ...], axis: _Axis) -> bool:
    return any(axis.var.same_as(var) for index in indices
               for var in tirx.analysis.undefined_vars(tirx.Evaluate(index), []))


def _runs_along(indices: tuple[tirx.Expr, ...], axis: _Axis) -> bool:
    """Whether consecutive values of `axis` are consecutive in memory."""
    if not indices or _uses(indices[:-1], axis):
        return False
    linear = sym.detect_linear_equation(indices[-1], [axis.var])
    return len(linear) == 2 and isinstance(linear[0], tirx.IntImm) and int(linear[0]) == 1


def _divisor(extent: int, most: int) -> int:
    return max(size for size in range(1, max(1, min(most, extent)) + 1) if extent % size == 0)


# ------------------------------------------------------------------------------------------ rules
def _inline(sch: s_tir.Schedule) -> None:
    """Inline blocks that move data, and chains of elementwise ones; padding stays, for its own loops."""
    for block in _blocks(sch):
        nest = _Nest.of(sch, block)
        consumers = sch.get_consumers(block)
        if nest is None or nest.reduce or not consumers or _is_padding(sch, block):
            continue
        reducing = [other for other in consumers if (found := _Nest.of(sch, other)) is None or found.reduce]
        moves = isinstance(sch.get(block).body.value, ir.TensorLoad)
        if moves or (len(consumers) == 1 and not reducing):
            with contextlib.suppress(s_tir.ScheduleError):
                sch.compute_inline(block)


def _is_padding(sch: s_tir.Schedule, block: object) -> bool:
    value = sch.get(block).body.value
    return isinstance(value, ir.Call) and value.op.name == "prim.if_then_else"


def _tile_contraction(sch: s_tir.Schedule, nest: _Nest, lanes: int) -> None:
    vector = nest.spatial[-1]
    streams = [indices for indices in nest.reads if _uses(indices, vector)]
    along_sum = nest.reduce[-1]
    dot = along_sum.extent >= lanes and all(_runs_along(indices, along_sum) for indices in nest.reads)
    sizes = _dot_tile(nest) if dot else _outer_tile(nest, vector, streams, lanes)
    inner, outer = [], []
    for axis in _heaviest_outermost(nest) if dot else nest.spatial:
        size = sizes.get(axis.var, 1)
        if size == 1:
            outer.append(axis.loop)
        elif size == axis.extent:
            inner.append(axis.loop)
        else:
            split = sch.split(axis.loop, [None, size])
            outer.append(split[0])
            inner.append(split[1])
    if not outer:
        outer.append(sch.add_unit_loop(inner[0]))
    sch.reorder(*outer, *(axis.loop for axis in nest.reduce), *inner)
    after = _accumulate_in_registers(sch, nest.block, outer[-1])
    _share_out(sch, outer[:-1] or outer, nest.work())
    vectorise = not dot and sizes[vector.var] > 1
    _unroll(sch, inner, vectorise)
    steps = 1
    for axis in reversed(nest.reduce):
        steps *= axis.extent
        if steps > 9:
            break
        sch.unroll(axis.loop)
    before = sch.decompose_reduction(nest.block, nest.reduce[0].loop)
    for block in (before, *after):
        loops = sch.get_loops(block)
        _unroll(sch, loops[len(loops) - len(inner):], vectorise)


def _gather_strides(sch: s_tir.Schedule, block: object) -> None:
    """Where a strided convolution reads its padded input, lay the input out by residue: vectors become whole."""
    nest = _Nest.of(sch, block)
    if nest is None or not nest.reduce or not nest.multiplies:
        return
    for place, indices in enumerate(nest.reads):
        linear = sym.detect_linear_equation(indices[-1], [nest.spatial[-1].var])
        step = int(linear[0]) if len(linear) == 2 and isinstance(linear[0], tirx.IntImm) else 1
        if step > 1 and any(_is_padding(sch, producer) for producer in sch.get_producers(block)):
            with contextlib.suppress(s_tir.ScheduleError):
                sch.transform_layout(block, ("read", place), _by_residue(step), pad_value=0.0)


def _by_residue(step: int) -> Callable:
    return lambda *at: [*at[:-1], at[-1] % step, at[-1] // step]


def _outer_tile(nest: _Nest, vector: _Axis, streams: list, lanes: int) -> dict:
    """Vectors along the output's memory; rows that reuse a loaded vector; then rows that reuse a weight."""
    sizes = {vector.var: _divisor(vector.extent, lanes)}
    free = _ACCUMULATORS
    others = [axis for axis in nest.spatial[:-1] if axis.extent > 1]
    reusing = [axis for axis in others if not any(_uses(indices, axis) for indices in streams)]
    for axis in sorted(others, key=lambda axis: axis not in reusing):
        size = _divisor(axis.extent, min(8 if axis in reusing else 4, free))
        sizes[axis.var] = size
        free //= size
    return sizes


def _heaviest_outermost(nest: _Nest) -> list[_Axis]:
    """The larger operand, most often a weight, is read from memory once: what it does not depend on goes inside."""
    def work(axis: _Axis) -> int:
        """Elements of the operands that another step of `axis` reads anew."""
        return sum(math.prod(other.extent for other in (*nest.spatial, *nest.reduce) if _uses(indices, other))
                   for indices in nest.reads if _uses(indices, axis))

    return sorted(nest.spatial, key=work, reverse=True)


def _dot_tile(nest: _Nest) -> dict:
    """Both operands run along the sum: a block of dot products, which LLVM vectorises along it."""
    sizes, free = {}, 16
    for axis in reversed(nest.spatial):
        if axis.extent > 1:
            sizes[axis.var] = _divisor(axis.extent, min(4 if len(nest.spatial) > 1 else 8, free))
            free //= sizes[axis.var]
    return sizes


def _accumulate_in_registers(sch: s_tir.Schedule, block: object, at: object) -> list:
    """Make the accumulators local, and what consumes them part of the tile; returns the blocks that do."""
    consumers = list(sch.get_consumers(block))
    if len(consumers) == 1:
        nest = _Nest.of(sch, consumers[0])
        if nest is not None and not nest.reduce:
            with contextlib.suppress(s_tir.ScheduleError):
                sch.reverse_compute_at(consumers[0], at)
                sch.set_scope(block, 0, "local")
                return consumers
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, at)
    return [copy]


def _unroll(sch: s_tir.Schedule, loops: list, vectorise: bool) -> None:
    for loop in loops[:-1] if vectorise else loops:
        sch.unroll(loop)
    if vectorise and loops:
        sch.vectorize(loops[-1])


def _tile_reduction(sch: s_tir.Schedule, nest: _Nest, lanes: int) -> None:
    loops = [axis.loop for axis in nest.spatial]
    sums = [axis.loop for axis in nest.reduce]
    along = any(_runs_along(indices, axis) for indices in nest.reads for axis in nest.reduce)
    across = bool(loops) and nest.vectorises and not along
    if across:
        outer, inner = sch.split(loops[-1], [None, _divisor(nest.spatial[-1].extent, lanes)])
        loops[-1] = outer
        sch.reorder(*loops, *sums, inner)
        sch.vectorize(inner)
    _share_out(sch, loops, nest.work())
    before = sch.decompose_reduction(nest.block, sums[0])
    if across:
        sch.vectorize(sch.get_loops(before)[-1])


def _tile_elementwise(sch: s_tir.Schedule, nest: _Nest, lanes: int) -> None:
    loops = [axis.loop for axis in nest.spatial]
    if not loops:
        return
    last = nest.spatial[-1]
    size = _divisor(last.extent, lanes)
    if size > 1 and nest.vectorises:
        outer, inner = sch.split(last.loop, [None, size])
        sch.vectorize(inner)
        loops[-1] = outer
    _share_out(sch, loops, nest.work())


def _share_out(sch: s_tir.Schedule, loops: list, work: int) -> None:
    if loops and work >= _PARALLEL_FROM:
        sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])

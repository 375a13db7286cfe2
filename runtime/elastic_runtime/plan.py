"""From a checked program to something that runs in a microsecond per region.

In: a program that `check_program` accepted, a kernel per region, host functions, and a generator holder.
Out: a `Plan`: one list of registers, and per block a tuple of step functions and a function that ends the block.
Never: makes code from text, touches a file, or keeps state between two calls.

Values get registers by coalescing block parameters: a parameter that every incoming edge gives the same
register shares it (removal of trivial phi functions: Braun et al., "Simple and Efficient Construction of
Static Single Assignment Form", CC 2013, section 3.1). The jump then has nothing to copy. What remains to
copy on an edge is copied in parallel. A tensor's register is emptied after its last use.
"""
from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from time import perf_counter
from typing import Any

import numpy as np

from elastic_runtime import growing, host_ops
from elastic_runtime.binding import Builder, Registers, Signature, builder, tell
from elastic_runtime.check import describe, leaves
from elastic_runtime.engines import Kernel
from elastic_runtime.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    ElasticRuntimeError,
    ExecutionError,
    LimitExceeded,
    ModelRaised,
)
from elastic_runtime.limits import Limits
from elastic_runtime.schema import (
    AppendStep,
    Block,
    Branch,
    HostCallStep,
    HostSignature,
    Jump,
    Program,
    RandomStep,
    RegionStep,
    Return,
    ScalarStep,
    ScalarType,
    Step,
    Switch,
    TensorType,
    Terminator,
    ValueType,
    decode_literal,
)
from elastic_runtime.worst import jumps

StepFunction = Callable[[Registers], None]


@dataclass(frozen=True)
class Exit:
    """How a call ends: what builds its result (None when the model raises), and the state it leaves."""

    build: Builder | None
    error: tuple[str, str]
    mode: int
    carry: tuple[int, ...]
    results: tuple[int, ...]


EndFunction = Callable[[Registers], "int | Exit"]


class Random:
    """The generator that a model's random steps draw from (PCG64); replaced as a whole by seeding."""

    def __init__(self, seed: int | None) -> None:
        self.generator = np.random.Generator(np.random.PCG64(seed))


@dataclass(frozen=True)
class Plan:
    """`template`: the registers of a fresh call. `blocks`: per block its steps and its end. `regions`: per block
    which of its steps run a region. `state`: per entry the registers of the carried state."""

    template: list[Any]
    blocks: tuple[tuple[tuple[StepFunction, ...], EndFunction], ...]
    signatures: tuple[Signature, ...]
    state: tuple[tuple[int, ...], ...]
    place: tuple[int, ...]
    regions: tuple[tuple[bool, ...], ...]

    def run(self, registers: Registers, block: int, path: list[int], max_steps: int | None) -> Exit:
        """Run from `block` until the call ends, noting the blocks taken in `path`."""
        blocks, note = self.blocks, path.append
        for _ in repeat(None) if max_steps is None else repeat(None, max_steps):
            note(block)
            steps, end = blocks[block]
            for step in steps:
                step(registers)
            block = end(registers)
            if block.__class__ is not int:
                return block
        raise LimitExceeded(max_steps)

    def run_bounded(self, registers: Registers, block: int, path: list[int], max_steps: int | None,
                    deadline_s: float, max_regions: float) -> Exit:
        """`run`, but looking at the clock before each block and each region, and at the number of regions run."""
        start, ran = perf_counter(), 0
        for _ in repeat(None) if max_steps is None else repeat(None, max_steps):
            elapsed = perf_counter() - start
            if elapsed > deadline_s:
                raise DeadlineExceeded(deadline_s, elapsed)
            path.append(block)
            steps, end = self.blocks[block]
            for step, region in zip(steps, self.regions[block], strict=True):
                if region:
                    if ran >= max_regions:
                        raise BudgetExceeded(int(max_regions))
                    elapsed = perf_counter() - start
                    if elapsed > deadline_s:
                        raise DeadlineExceeded(deadline_s, elapsed)
                    ran += 1
                step(registers)
            block = end(registers)
            if block.__class__ is not int:
                return block
        raise LimitExceeded(max_steps)


def make_plan(program: Program, kernels: Sequence[Kernel], hosts: Mapping[str, Callable], random: Random,
              limits: Limits, *, records: dict[tuple[str, ...], type], coalesce: bool = True) -> Plan:
    """Lower `program`. With `coalesce` False every value has the register of its own number and keeps its
    value until the block is run again, which is what looking into single blocks needs."""
    places = _coalesce(program) if coalesce else list(range(len(program.values)))
    return _Lowering(program, kernels, hosts, random, limits, places, records, coalesce).plan()


def truth(value: Any) -> bool:
    """A branch's condition as a bool. Raises `ExecutionError` for a tensor that has not exactly one element."""
    if isinstance(value, (bool, int, float)):
        return bool(value)
    if value.size != 1:
        raise ExecutionError("branch", "one-element", tell(value), "a bool or a tensor of one element")
    return bool(value)


def case(value: Any) -> int:
    """A switch's index as an int. Raises `ExecutionError` for a tensor that has not exactly one element."""
    if isinstance(value, int):
        return int(value)
    if value.size != 1:
        raise ExecutionError("switch", "one-element", tell(value), "an int or a tensor of one element")
    return int(value.item())


def choose(end: Terminator, read: Callable[[int], Any]) -> Terminator:
    """The jump that `end` takes for the values that `read` gives by number; a return or raise is itself."""
    if isinstance(end, Branch):
        return end.then if truth(read(end.cond)) else end.orelse
    if isinstance(end, Switch):
        return dict(end.cases).get(case(read(end.index)), end.default)
    return end


# ------------------------------------------------------------------------------------------------- registers
def _coalesce(program: Program) -> list[int]:
    """A register per value: its own number, or that of the value it always equals."""
    same = list(range(len(program.values)))

    def find(value: int) -> int:
        while same[value] != value:
            same[value] = same[same[value]]
            value = same[value]
        return value

    sources: dict[int, set[int]] = {}
    users: dict[int, list[int]] = {}
    for block in program.blocks:
        for jump in jumps(block.terminator):
            for param, value in zip(program.blocks[jump.block].params, jump.args, strict=True):
                sources.setdefault(param, set()).add(value)
                users.setdefault(value, []).append(param)
    for entry in program.entries:
        for param in program.blocks[entry.block].params:
            sources.pop(param, None)
    work = deque(sources)
    queued = set(sources)
    while work:
        param = work.popleft()
        queued.discard(param)
        given = {find(value) for value in sources[param]} - {param}
        if same[param] != param or len(given) != 1:
            continue
        same[param] = source = given.pop()
        waiting = [user for user in users.pop(param, ()) if user in sources and same[user] == user]
        users.setdefault(source, []).extend(waiting)
        for user in waiting:
            if user not in queued:
                queued.add(user)
                work.append(user)
    return [find(value) for value in range(len(program.values))]


class _Lowering:
    def __init__(self, program: Program, kernels: Sequence[Kernel], hosts: Mapping[str, Callable], random: Random,
                 limits: Limits, places: list[int], records: dict[tuple[str, ...], type], release: bool) -> None:
        self.program, self.kernels, self.hosts, self.random = program, kernels, hosts, random
        self.limits, self.records, self.release = limits, records, release
        used = sorted(set(places))
        dense = {register: number for number, register in enumerate(used)} if release else {}
        self.place = [dense.get(register, register) for register in places]
        self.template: list[Any] = [None] * (len(used) if release else len(places))
        self.constants: dict[str, int] = {}
        self.signatures = {host.name: host for host in program.host_ops}

    def plan(self) -> Plan:
        program, place = self.program, self.place
        blocks = [self.block(number) for number in range(len(program.blocks))]
        return Plan(
            blocks=tuple((steps, end) for steps, _, end in blocks),
            regions=tuple(regions for _, regions, _ in blocks),
            template=self.template,
            signatures=tuple(Signature(entry, program.values, place.__getitem__) for entry in program.entries),
            state=tuple(tuple(place[value] for value in program.blocks[entry.block].params[len(entry.inputs):])
                        for entry in program.entries),
            place=tuple(place))

    def constant(self, text: str) -> int:
        if text not in self.constants:
            self.constants[text] = len(self.template)
            self.template.append(decode_literal(text))
        return self.constants[text]

    # ------------------------------------------------------------------------------------------------ blocks
    def block(self, number: int) -> tuple[tuple[StepFunction, ...], tuple[bool, ...], EndFunction]:
        block = self.program.blocks[number]
        place = self.place
        last = {place[value]: len(block.steps) for value in _terminator_uses(block.terminator)}
        for index in range(len(block.steps) - 1, -1, -1):
            for value in (*_step_uses(block.steps[index]), *block.steps[index].outputs):
                last.setdefault(place[value], index)
        local = (*block.params, *(value for step in block.steps for value in step.outputs))
        held = {place[value] for value in local if self.is_tensor(value)} if self.release else set()
        final = max((i for i, step in enumerate(block.steps)
                     if isinstance(step, (RegionStep, HostCallStep, AppendStep))), default=-1)
        dying: dict[int, list[int]] = {}
        for register in sorted(held):
            if last.get(register, final) < final:
                dying.setdefault(last[register], []).append(register)
        functions, regions = [], []
        placed = self.placed(block)
        for index, step in enumerate(block.steps):
            if not any(step is append for appends in placed.values() for _, append in appends):
                functions.append(self.writing(step, placed[index]) if index in placed else self.step(step))
                regions.append(isinstance(step, RegionStep))
            if index in dying:
                functions.append(_empty(tuple(dying[index])))
                regions.append(False)
                held -= set(dying[index])
        return tuple(functions), tuple(regions), self.end(block.terminator, held)

    def placed(self, block: Block) -> dict[int, list[tuple[int, AppendStep]]]:
        """By step: the outputs of a region, by position, that it writes where they are appended."""
        uses = Counter(value for step in block.steps for value in _step_uses(step))
        uses.update(_terminator_uses(block.terminator))
        made = {value: (index, position) for index, step in enumerate(block.steps)
                for position, value in enumerate(step.outputs)}
        found: dict[int, list[tuple[int, AppendStep]]] = {}
        for step in block.steps:
            if not isinstance(step, AppendStep) or step.inputs[1] not in made:
                continue
            prefix, rows = step.inputs
            index, position = made[rows]
            maker = block.steps[index]
            if (isinstance(maker, RegionStep) and uses[rows] == 1 and made.get(prefix, (-1,))[0] < index
                    and isinstance(self.program.values[rows].shape[step.axis], int)
                    and hasattr(self.kernels[maker.region], "into")):
                found.setdefault(index, []).append((position, step))
        return found

    def writing(self, step: RegionStep, appends: list[tuple[int, AppendStep]]) -> StepFunction:
        """A region some of whose outputs are written behind the tensors that they are appended to."""
        kernel, name = self.kernels[step.region], self.program.regions[step.region].name
        read = _reader(tuple(self.place[value] for value in step.inputs))
        positions = {position for position, _ in appends} if self.release else ()
        written = tuple((index, self.place[value]) for index, value in enumerate(step.outputs)
                        if index not in positions)
        places = tuple(
            (position, self.place[append.inputs[0]], self.place[append.outputs[0]],
             self.program.values[append.inputs[1]].shape[append.axis], append.axis, append.capacity)
            for position, append in appends)
        count = len(step.outputs)

        def run(registers):
            targets = [None] * count
            try:
                for position, prefix, whole, rows, axis, capacity in places:
                    registers[whole], targets[position] = growing.grow(registers[prefix], rows, axis, capacity)
                made = kernel.into(read(registers), targets)
                if len(made) != count:
                    raise ValueError(f"{len(made)} outputs instead of {count}")
                for index, register in written:
                    registers[register] = made[index]
            except Exception as error:
                raise _failed(name, error) from error
        return run

    def is_tensor(self, value: int) -> bool:
        return isinstance(self.program.values[value], TensorType)

    def end(self, end: Terminator, held: set[int]) -> EndFunction:
        if isinstance(end, Jump):
            return self.jump(end, held)
        if isinstance(end, Branch):
            return self.branch(end, held)
        if isinstance(end, Switch):
            index, default = self.place[end.index], self.jump(end.default, held)
            cases = {value: self.jump(jump, held) for value, jump in end.cases}
            return lambda registers: cases.get(case(registers[index]), default)(registers)
        carry = tuple(self.place[value] for value in end.carry)
        if isinstance(end, Return):
            results = tuple(self.place[value] for value in leaves(end.tree))
            exit_ = Exit(builder(end.tree, self.place.__getitem__, self.records), ("", ""), end.mode, carry, results)
        else:
            exit_ = Exit(None, (end.type, end.message), end.mode, carry, ())
        return lambda registers: exit_

    def branch(self, end: Branch, held: set[int]) -> EndFunction:
        cond, tensor = self.place[end.cond], isinstance(self.program.values[end.cond], TensorType)
        edges = [self.edge(jump, held) for jump in (end.then, end.orelse)]
        if any(moves for _, moves, _ in edges):
            then, orelse = self.jump(end.then, held), self.jump(end.orelse, held)
            return lambda registers: then(registers) if truth(registers[cond]) else orelse(registers)
        yes, no = [(block, dead) for block, _, dead in edges]

        def run(registers):
            value = registers[cond]
            if tensor and value.size != 1:
                truth(value)
            block, dead = yes if value else no
            for register in dead:
                registers[register] = None
            return block
        return run

    def edge(self, jump: Jump, held: set[int]) -> tuple[int, list[tuple[int, int]], tuple[int, ...]]:
        """The block that a jump goes to, the (from, to) registers that it copies, and those that it empties."""
        targets = [self.place[param] for param in self.program.blocks[jump.block].params]
        moves = {(self.place[value], target) for value, target in zip(jump.args, targets, strict=True)}
        moves = sorted((source, target) for source, target in moves if source != target)
        return jump.block, moves, tuple(sorted(held - set(targets)))

    def jump(self, jump: Jump, held: set[int]) -> EndFunction:
        block, moves, dead = self.edge(jump, held)
        if not moves:
            def clear(registers):
                for register in dead:
                    registers[register] = None
                return block
            return clear
        if len(moves) == 1 and not dead:
            (source, target), = moves

            def move(registers):
                registers[target] = registers[source]
                return block
            return move
        read = itemgetter(*(source for source, _ in moves), 0)
        written = tuple(target for _, target in moves)

        def move_all(registers):
            values = read(registers)
            for register in dead:
                registers[register] = None
            for register, value in zip(written, values, strict=False):
                registers[register] = value
            return block
        return move_all

    # ------------------------------------------------------------------------------------------------- steps
    def step(self, step: Step) -> StepFunction:
        outputs = tuple(self.place[value] for value in step.outputs)
        if isinstance(step, RandomStep):
            return self.draw(step, outputs[0])
        inputs = tuple(self.place[value] for value in step.inputs)
        if isinstance(step, RegionStep):
            region = self.program.regions[step.region]
            return _region(self.kernels[step.region], region.name, inputs, outputs)
        if isinstance(step, HostCallStep):
            return _host_call(self.hosts[step.name], self.signatures[step.name], inputs, outputs)
        if isinstance(step, AppendStep):
            return _append(step, inputs, outputs[0])
        return self.scalar(step, inputs, outputs[0])

    def scalar(self, step: ScalarStep, inputs: tuple[int, ...], output: int) -> StepFunction:
        compute = host_ops.function(step.op, self.program.values[step.outputs[0]], self.limits.int_bits)
        operands = list(inputs)
        for position, text in sorted(step.literals):
            operands.insert(position, self.constant(text))
        if step.op == "const":
            source = operands[0]

            def run(registers):
                registers[output] = registers[source]
        elif len(operands) == 1:
            source, = operands

            def run(registers):
                try:
                    registers[output] = compute(registers[source])
                except _PYTHON_ERRORS as error:
                    raise ModelRaised(type(error).__name__, str(error)) from error
        elif len(operands) == 2:
            left, right = operands

            def run(registers):
                try:
                    registers[output] = compute(registers[left], registers[right])
                except _PYTHON_ERRORS as error:
                    raise ModelRaised(type(error).__name__, str(error)) from error
        else:
            read = itemgetter(*operands)

            def run(registers):
                registers[output] = compute(*read(registers))
        return run

    def draw(self, step: RandomStep, output: int) -> StepFunction:
        random, limit = self.random, self.limits.random_elements
        dtype = np.dtype(self.program.values[step.outputs[0]].dtype)
        name = {"uniform": "random", "normal": "standard_normal", "exponential": "standard_exponential"}[step.kind]
        sizes = tuple(self.constant(f"i{size}") if isinstance(size, int) else self.place[int(size[1:])]
                      for size in step.sizes)

        def run(registers):
            shape = tuple([registers[register] for register in sizes])
            if any(size < 0 for size in shape):
                raise ModelRaised("RuntimeError", f"a random tensor of negative size {list(shape)}")
            total = 1
            for size in shape:
                total *= size
            if total > limit:
                raise ExecutionError("random", "elements", f"a tensor of shape {list(shape)}", f"<= {limit} elements")
            drawn = getattr(random.generator, name)(shape, dtype=dtype)
            registers[output] = drawn if isinstance(drawn, np.ndarray) else np.asarray(drawn, dtype)
        return run


_PYTHON_ERRORS = (ArithmeticError, ValueError, IndexError)


def _step_uses(step: Step) -> list[int]:
    if isinstance(step, RandomStep):
        return [int(size[1:]) for size in step.sizes if isinstance(size, str)]
    return list(step.inputs)


def _terminator_uses(end: Terminator) -> set[int]:
    uses = {value for jump in jumps(end) for value in jump.args}
    if isinstance(end, Branch):
        uses.add(end.cond)
    elif isinstance(end, Switch):
        uses.add(end.index)
    elif not isinstance(end, Jump):
        uses.update(end.carry, leaves(end.tree) if isinstance(end, Return) else ())
    return uses


def _empty(dead: tuple[int, ...]) -> StepFunction:
    def run(registers):
        for register in dead:
            registers[register] = None
    return run


def _region(kernel: Kernel, name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> StepFunction:
    """A call of `kernel`; what it raises comes out as `ExecutionError` with the region's name."""
    read, count, written = _reader(inputs), len(outputs), tuple(enumerate(outputs))

    def run(registers):
        try:
            made = kernel(read(registers))
            if len(made) != count:
                raise ValueError(f"{len(made)} outputs instead of {count}")
            for index, register in written:
                registers[register] = made[index]
        except Exception as error:
            raise _failed(name, error) from error
    return run


def _failed(name: str, error: Exception) -> ElasticRuntimeError:
    if isinstance(error, ElasticRuntimeError):
        return error
    return ExecutionError(f"region {name}", "engine", f"{type(error).__name__}: {error}", "a result")


def _append(step: AppendStep, inputs: tuple[int, ...], output: int) -> StepFunction:
    (prefix, rows), axis, capacity = inputs, step.axis, step.capacity

    def run(registers):
        try:
            registers[output] = growing.append(registers[prefix], registers[rows], axis, capacity)
        except ValueError as error:
            raise ExecutionError("append", "rows", str(error), "tensors that are equal but along one axis") from error
    return run


def _reader(inputs: tuple[int, ...]) -> Callable[[Registers], Sequence[np.ndarray]]:
    if len(inputs) > 1:
        return itemgetter(*inputs)
    return itemgetter(slice(inputs[0], inputs[0] + 1) if inputs else slice(0))


def _host_call(function: Callable, signature: HostSignature, inputs: tuple[int, ...],
               outputs: tuple[int, ...]) -> StepFunction:
    """A call of an application's function, whose results are held to its declared types."""
    def run(registers):
        dims: dict[str, int] = {}
        given = [registers[register] for register in inputs]
        for value, kind in zip(given, signature.inputs, strict=True):
            _conform(value, kind, dims, signature.name)
        made = function(*given)
        results = () if not outputs else (made,) if len(outputs) == 1 else tuple(made)
        if len(results) != len(outputs):
            raise ExecutionError(f"host function {signature.name}", "output-count", len(results), len(outputs))
        for register, value, kind in zip(outputs, results, signature.outputs, strict=True):
            registers[register] = _conform(value, kind, dims, signature.name)
    return run


def _conform(value: Any, kind: ValueType, dims: dict[str, int], name: str) -> Any:
    """`value` as a `kind`, binding dimension names in `dims`. Raises `ExecutionError`."""
    if isinstance(kind, ScalarType):
        convert, accepted = {"bool": (bool, (bool, np.bool_)), "int": (int, (int, np.integer)),
                             "float": (float, (float, np.floating))}[kind.kind]
        if isinstance(value, accepted) and not (convert is int and isinstance(value, bool)):
            return convert(value)
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype == np.dtype(kind.dtype) and array.ndim == len(kind.shape) and all(
                dims.setdefault(want, size) == size if isinstance(want, str) else want == size
                for size, want in zip(array.shape, kind.shape, strict=True)):
            return np.require(array, requirements="CA") if array.ndim else array
    bound = f" with {dims}" if dims else ""
    raise ExecutionError(f"host function {name}", "type", tell(value), f"{describe(kind)}{bound}")

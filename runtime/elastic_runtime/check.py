"""Whether a decoded program means anything: the rules that its types alone cannot state.

In: a `schema.Program`, from a bundle or fresh from the compiler, and `Limits`.
Out: nothing; the first broken rule raises `ProgramError`, with the place, what was given and what was expected.
Never: opens a file, looks at weights or engines, or recurses deeper than `Limits.depth`.
"""
from __future__ import annotations

import keyword
import math
import re
from collections.abc import Collection, Iterator, Mapping

from elastic_runtime import schema
from elastic_runtime.errors import ProgramError
from elastic_runtime.host_ops import result_kind
from elastic_runtime.limits import DEFAULT_LIMITS, Limits
from elastic_runtime.schema import ScalarType, TensorType, ValueType

PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", re.ASCII)
"""A file name in a bundle: one component, no leading dot."""

SUBNET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
"""A subnet's name: what files can be named after."""

_TYPE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,199}", re.ASCII)
_ENGINE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SIZE_REFERENCE = re.compile(r"v(0|[1-9][0-9]{0,8})", re.ASCII)
_INT_DTYPES = ("bool", "int8", "uint8", "int16", "int32", "int64")
_RANDOM_KINDS = ("uniform", "normal", "exponential")
_RANDOM_DTYPES = ("float32", "float64")
_PARAMETER_ORDER = ("positional", "standard", "varargs", "keyword", "varkw")
_MAX_CASE = 1 << 62

Dims = dict[str, "int | str"]


def check_program(program: schema.Program, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check every rule of the schema that spans more than one field.

    Values: numbers in range, defined once in the program, used only in the defining block and after their
    definition. Jumps, region calls, host calls, carries and entries: number and types of the arguments; a
    static dimension must be equal, and a dimension name on the receiving side stands for one size throughout.
    Trees, literals, names, switch cases, modes and all counts: well formed and within `limits`.

    Raises `ProgramError`.
    """
    _Check(program, limits).run()


def fits(given: ValueType, wanted: ValueType, dims: Dims) -> bool:
    """Whether a value of type `given` may stand where `wanted` is expected; binds wanted's names in `dims`."""
    if type(given) is not type(wanted):
        return False
    if isinstance(given, ScalarType):
        return given.kind == wanted.kind
    if given.dtype != wanted.dtype or len(given.shape) != len(wanted.shape):
        return False
    return all(dims.setdefault(want, size) == size if isinstance(want, str) else want == size
               for size, want in zip(given.shape, wanted.shape, strict=True))


def describe(kind: ValueType) -> str:
    """A type for a message: "float32[2, s0]" or "int"."""
    if isinstance(kind, ScalarType):
        return kind.kind
    return f"{kind.dtype}[{', '.join(map(str, kind.shape))}]"


def leaves(tree: schema.Tree) -> Iterator[int]:
    """The numbers of the tree's value leaves, in order. The tree's depth must have been checked."""
    if isinstance(tree, schema.ValueLeaf):
        yield tree.id
    elif isinstance(tree, (schema.SequenceNode, schema.MapNode, schema.RecordNode)):
        for item in tree.items:
            yield from leaves(item)


def check_tree(tree: schema.Tree, where: str, limits: Limits, depth: int = 0) -> int:
    """Check the form of `tree`, not its value numbers; returns how many nodes it has. Raises `ProgramError`."""
    if depth > limits.depth:
        raise ProgramError(where, "tree-depth", f"more than {limits.depth} levels", f"<= {limits.depth}")
    if isinstance(tree, schema.FloatLeaf):
        _check_float(tree.v, where)
    elif isinstance(tree, schema.ConstLeaf) and isinstance(tree.v, str):
        _bound(len(tree.v), limits.text, where, "text")
    if isinstance(tree, (schema.ValueLeaf, schema.ConstLeaf, schema.FloatLeaf)):
        return 1
    if isinstance(tree, schema.SequenceNode):
        _one_of(tree.kind, ("tuple", "list"), where, "tree-kind")
    elif isinstance(tree, schema.MapNode):
        _distinct(tree.keys, where, "tree-keys")
        _count(len(tree.keys), len(tree.items), where, "tree-keys")
        for key in tree.keys:
            _bound(len(str(key)) if isinstance(key, str) else 0, limits.name, where, "name")
    else:
        _one_of(tree.kind, ("namedtuple", "dataclass"), where, "tree-kind")
        for name in (tree.name, *tree.fields):
            _identifier(name, where, limits)
        if tree.kind == "namedtuple" and any(name.startswith("_") for name in tree.fields):
            raise ProgramError(where, "identifier", tree.fields, "field names without a leading underscore")
        _distinct(tree.fields, where, "tree-keys")
        _count(len(tree.fields), len(tree.items), where, "tree-keys")
    nodes = 1
    for item in tree.items:
        nodes += check_tree(item, where, limits, depth + 1)
        _bound(nodes, limits.ports, where, "tree-size")
    return nodes


class _Check:
    def __init__(self, program: schema.Program, limits: Limits) -> None:
        self.program, self.limits = program, limits
        self.hosts: dict[str, schema.HostSignature] = {}
        self.defined: set[int] = set()
        self.steps = 0

    def run(self) -> None:
        program, limits = self.program, self.limits
        self.text(program.name, "name", limits.name)
        for what in ("values", "blocks", "regions", "entries", "modes", "sources"):
            _bound(len(getattr(program, what)), getattr(limits, what), what, "count")
        for what in ("blocks", "entries", "modes"):
            if not getattr(program, what):
                raise ProgramError(what, "count", 0, "at least 1")
        for number, kind in enumerate(program.values):
            self.type(kind, f"values[{number}]")
        for number, source in enumerate(program.sources):
            where = f"sources[{number}]"
            self.text(source.file, where, limits.text)
            self.text(source.text, where, limits.text)
            _range(source.line, 0, 1 << 31, where, "line")
        for number, region in enumerate(program.regions):
            self.region(region, f"regions[{number}]")
        for number, host in enumerate(program.host_ops):
            self.host(host, f"host_ops[{number}]")
        for number, mode in enumerate(program.modes):
            self.mode(mode, f"modes[{number}]")
        _count(len(program.initial), len(program.modes[0].state), "initial", "state")
        for number, block in enumerate(program.blocks):
            self.parameters(block, f"blocks[{number}]")
        for number, block in enumerate(program.blocks):
            self.block(block, f"blocks[{number}]")
        for number, entry in enumerate(program.entries):
            self.entry(entry, f"entries[{number}]")
        for number, mode in enumerate(program.modes):
            self.mode_entries(mode, f"modes[{number}]")

    # ------------------------------------------------------------------------------------ names and types
    def text(self, text: str, where: str, limit: int) -> None:
        _bound(len(text), limit, where, "text")

    def type(self, kind: ValueType, where: str) -> None:
        if isinstance(kind, ScalarType):
            return _one_of(kind.kind, schema.SCALAR_KINDS, where, "scalar-kind")
        _one_of(kind.dtype, schema.DTYPES, where, "dtype")
        _bound(len(kind.shape), self.limits.rank, where, "rank")
        for size in kind.shape:
            if isinstance(size, str):
                if not size or not size.isprintable() or len(size) > self.limits.name:
                    raise ProgramError(where, "dimension", size, "a size or a short printable name")
            else:
                _range(size, 0, self.limits.elements + 1, where, "dimension")
        _bound(math.prod(size for size in kind.shape if isinstance(size, int)), self.limits.elements, where,
               "elements")

    def region(self, region: schema.Region, where: str) -> None:
        self.text(region.name, where, self.limits.name)
        if not _ENGINE_NAME.fullmatch(region.engine):
            raise ProgramError(where, "engine-name", region.engine, "letters, digits, '_', '.', '-'")
        _range(region.ops, 0, 1 << 31, where, "count")
        for group in (region.files, region.options, region.weights, region.inputs, region.outputs):
            _bound(len(group), self.limits.ports, where, "count")
        for role, name in region.files.items():
            self.text(role, where, self.limits.name)
            if not PLAIN_NAME.fullmatch(name):
                raise ProgramError(f"{where}.files", "file-name", name, "one plain file name")
        for name, value in region.options.items():
            self.text(name, where, self.limits.name)
            self.text(value, where, self.limits.text)
        for side in ("inputs", "outputs"):
            for number, port in enumerate(getattr(region, side)):
                self.text(port.name, f"{where}.{side}[{number}]", self.limits.name)
                self.type(port.type, f"{where}.{side}[{number}]")
        for use in region.weights:
            self.text(use.name, f"{where}.weights", self.limits.name)
            self.text(use.tensor, f"{where}.weights", self.limits.name)
        _distinct([*(port.name for port in region.inputs), *(use.name for use in region.weights)],
                  f"{where}.inputs", "port-names")
        _distinct([port.name for port in region.outputs], f"{where}.outputs", "port-names")

    def host(self, host: schema.HostSignature, where: str) -> None:
        self.text(host.name, where, self.limits.name)
        if host.name in self.hosts or not _TYPE_NAME.fullmatch(host.name):
            raise ProgramError(where, "host-name", host.name, "a dotted identifier, declared once")
        _bound(len(host.inputs) + len(host.outputs), self.limits.ports, where, "count")
        for kind in (*host.inputs, *host.outputs):
            self.type(kind, where)
        self.hosts[host.name] = host

    # ---------------------------------------------------------------------------------------------- blocks
    def define(self, value: int, where: str, local: set[int]) -> None:
        _range(value, 0, len(self.program.values), where, "value-number")
        if value in self.defined:
            raise ProgramError(where, "defined-twice", f"value {value}", "one definition in the program")
        self.defined.add(value)
        local.add(value)

    def parameters(self, block: schema.Block, where: str) -> None:
        _bound(len(block.params), self.limits.ports, where, "count")
        self.text(block.label, where, self.limits.text)
        for value in block.params:
            self.define(value, where, set())

    def use(self, value: int, where: str, local: Collection[int]) -> ValueType:
        _range(value, 0, len(self.program.values), where, "value-number")
        if value not in local:
            raise ProgramError(where, "not-defined-here", f"value {value}", "a value defined earlier in this block")
        return self.program.values[value]

    def block(self, block: schema.Block, where: str) -> None:
        self.steps += len(block.steps)
        _bound(self.steps, self.limits.steps, where, "steps")
        local = set(block.params)
        for number, step in enumerate(block.steps):
            place = f"{where}.steps[{number}]"
            self.source(step.source, place)
            if isinstance(step, schema.RandomStep):
                given = self.random(step, place, local)
            else:
                _bound(len(step.inputs) + len(step.outputs), self.limits.ports, place, "count")
                given = [self.use(value, place, local) for value in step.inputs]
            for value in step.outputs:
                self.define(value, place, local)
            made = [self.program.values[value] for value in step.outputs]
            if isinstance(step, schema.RegionStep):
                _range(step.region, 0, len(self.program.regions), place, "region-number")
                region = self.program.regions[step.region]
                self.call(place, given, [port.type for port in region.inputs],
                          made, [port.type for port in region.outputs])
            elif isinstance(step, schema.HostCallStep):
                if step.name not in self.hosts:
                    raise ProgramError(place, "host-name", step.name, f"one of {sorted(self.hosts)}")
                host = self.hosts[step.name]
                self.call(place, given, host.inputs, made, host.outputs)
            elif isinstance(step, schema.ScalarStep):
                self.scalar(step, place, given, made)
            elif isinstance(step, schema.AppendStep):
                self.append(step, place, given, made)
        self.terminator(block.terminator, f"{where}.terminator", local)

    def source(self, source: int, where: str) -> None:
        _range(source, -1, len(self.program.sources), where, "source-number")

    def call(self, where: str, given: Collection[ValueType], wanted: Collection[ValueType],
             made: Collection[ValueType] = (), promised: Collection[ValueType] = ()) -> None:
        dims: Dims = {}
        for what, have, want in (("argument", given, wanted), ("output", made, promised)):
            _count(len(have), len(want), where, f"{what}-count")
            for number, (one, other) in enumerate(zip(have, want, strict=True)):
                if not fits(one, other, dims):
                    bound = {size: dims[size] for size in getattr(other, "shape", ()) if size in dims}
                    raise ProgramError(where, f"{what}-type", f"{describe(one)} for {what} {number}",
                                       describe(other) + (f" with {bound}" if bound else ""))

    def scalar(self, step: schema.ScalarStep, where: str, given: list[ValueType], made: list[ValueType]) -> None:
        _one_of(step.op, tuple(schema.HOST_OPS), where, "host-op")
        arity = schema.HOST_OPS[step.op]
        _count(len(given) + len(step.literals), arity, where, "operand-count")
        _count(len(made), 1, where, "output-count")
        operands: list[ValueType | None] = [None] * arity
        literals: dict[int, bool | int | float] = {}
        for position, text in step.literals:
            _range(position, 0, arity, where, "literal-position")
            if position in literals:
                raise ProgramError(where, "literal-position", f"{position} twice", "each position once")
            literals[position] = _literal(text, where)
            operands[position] = ScalarType(type(literals[position]).__name__)
        rest = iter(given)
        operands = [next(rest) if operand is None else operand for operand in operands]
        kind = result_kind(step.op, operands, literals)
        if kind is None:
            raise ProgramError(where, "operand-type", f"{step.op}({', '.join(map(describe, operands))})",
                               "operands that the operation takes")
        if made[0] not in kind:
            raise ProgramError(where, "output-type", describe(made[0]), " or ".join(map(describe, kind)))

    def append(self, step: schema.AppendStep, where: str, given: list[ValueType], made: list[ValueType]) -> None:
        _count(len(given), 2, where, "operand-count")
        _count(len(made), 1, where, "output-count")
        kinds = (*given, *made)
        if not all(isinstance(kind, TensorType) for kind in kinds) or len({
                (kind.dtype, len(kind.shape)) for kind in kinds}) > 1:
            raise ProgramError(where, "operand-type", f"append({', '.join(map(describe, kinds))})",
                               "tensors of one dtype and rank")
        _range(step.axis, 0, len(made[0].shape), where, "axis")
        _range(step.capacity, 0, self.limits.elements + 1, where, "count")
        row = made[0].shape[step.axis + 1:]
        _bound(step.capacity * math.prod(size for size in row if isinstance(size, int)), self.limits.elements, where,
               "elements")
        sizes = [kind.shape[step.axis] for kind in kinds]
        fixed = all(isinstance(size, int) for size in sizes)
        if any(kind.shape[: step.axis] != (1,) * step.axis or kind.shape[step.axis + 1:] != row for kind in kinds) or (
                fixed and sizes[0] + sizes[1] != sizes[2]):
            raise ProgramError(where, "operand-type", f"append({', '.join(map(describe, kinds))})",
                               f"equal but along dimension {step.axis}, where the sizes add up; 1 before it")

    def random(self, step: schema.RandomStep, where: str, local: Collection[int]) -> list[ValueType]:
        _one_of(step.kind, _RANDOM_KINDS, where, "random-kind")
        _count(len(step.outputs), 1, where, "output-count")
        _range(step.outputs[0], 0, len(self.program.values), where, "value-number")
        made = self.program.values[step.outputs[0]]
        if not isinstance(made, TensorType) or made.dtype not in _RANDOM_DTYPES:
            raise ProgramError(where, "random-dtype", describe(made), f"a tensor of {' or '.join(_RANDOM_DTYPES)}")
        _count(len(step.sizes), len(made.shape), where, "rank")
        for size, declared in zip(step.sizes, made.shape, strict=True):
            if isinstance(size, int):
                if size < 0 or (isinstance(declared, int) and size != declared):
                    raise ProgramError(where, "dimension", size, declared)
                continue
            reference = _SIZE_REFERENCE.fullmatch(size)
            if reference is None:
                raise ProgramError(where, "dimension", size, "a size, or a value written as \"v12\"")
            kind = self.use(int(reference[1]), where, local)
            if kind != ScalarType("int"):
                raise ProgramError(where, "argument-type", describe(kind), "an int scalar as size")
        return []

    # ------------------------------------------------------------------------------------------- terminators
    def terminator(self, end: schema.Terminator, where: str, local: Collection[int]) -> None:
        self.source(end.source, where)
        if isinstance(end, schema.Jump):
            self.jump(end, where, local)
        elif isinstance(end, schema.Branch):
            self.decision(end.cond, where, local, "bool", schema.DTYPES)
            self.jump(end.then, f"{where}.then", local)
            self.jump(end.orelse, f"{where}.orelse", local)
        elif isinstance(end, schema.Switch):
            self.decision(end.index, where, local, "int", _INT_DTYPES)
            _bound(len(end.cases), self.limits.ports, where, "count")
            _distinct([case for case, _ in end.cases], f"{where}.cases", "switch-cases")
            for case, jump in end.cases:
                _range(case, -_MAX_CASE, _MAX_CASE, where, "switch-cases")
                self.jump(jump, f"{where}.cases[{case}]", local)
            self.jump(end.default, f"{where}.default", local)
        else:
            if isinstance(end, schema.Return):
                check_tree(end.tree, f"{where}.tree", self.limits)
                for value in leaves(end.tree):
                    self.use(value, f"{where}.tree", local)
            else:
                if not _TYPE_NAME.fullmatch(end.type):
                    raise ProgramError(where, "identifier", end.type, "the name of an exception type")
                self.text(end.message, where, self.limits.text)
            _range(end.mode, 0, len(self.program.modes), where, "mode-number")
            self.call(f"{where}.carry", [self.use(value, where, local) for value in end.carry],
                      self.program.modes[end.mode].state)

    def decision(self, value: int, where: str, local: Collection[int], scalar: str, dtypes: Collection[str]) -> None:
        kind = self.use(value, where, local)
        if isinstance(kind, ScalarType):
            good = kind.kind == scalar
        else:
            good = kind.dtype in dtypes and all(size == 1 for size in kind.shape if isinstance(size, int))
        if not good:
            raise ProgramError(where, "decision-type", describe(kind), f"{scalar} scalar or a one-element tensor")

    def jump(self, jump: schema.Jump, where: str, local: Collection[int]) -> None:
        self.source(jump.source, where)
        _range(jump.block, 0, len(self.program.blocks), where, "block-number")
        self.call(where, [self.use(value, where, local) for value in jump.args],
                  [self.program.values[value] for value in self.program.blocks[jump.block].params])

    # ----------------------------------------------------------------------------------------------- entries
    def entry(self, entry: schema.Entry, where: str) -> None:
        self.text(entry.name, where, self.limits.name)
        _range(entry.block, 0, len(self.program.blocks), where, "block-number")
        _bound(len(entry.params), self.limits.ports, where, "count")
        _distinct([param.name for param in entry.params], where, "parameter-names")
        found: list[int] = []
        last = 0
        for param in entry.params:
            place = f"{where}.{param.name if param.name.isidentifier() else 'params'}"
            _identifier(param.name, where, self.limits)
            _one_of(param.kind, _PARAMETER_ORDER, place, "parameter-kind")
            order = _PARAMETER_ORDER.index(param.kind)
            if order < last or (order == last and param.kind in ("varargs", "varkw")):
                raise ProgramError(place, "parameter-order", param.kind, f"after {_PARAMETER_ORDER[last]}")
            last = order
            check_tree(param.tree, place, self.limits)
            ids = list(leaves(param.tree))
            found += ids
            if param.default and ids:
                raise ProgramError(place, "parameter-default", f"values {ids}", "constants only")
            if param.kind == "varargs" and not (
                    isinstance(param.tree, schema.SequenceNode) and param.tree.kind == "tuple"):
                raise ProgramError(place, "parameter-tree", type(param.tree).__name__, "a tuple for varargs")
            if param.kind == "varkw" and not (
                    isinstance(param.tree, schema.MapNode) and all(isinstance(k, str) for k in param.tree.keys)):
                raise ProgramError(place, "parameter-tree", type(param.tree).__name__, "a map by str for varkw")
        params = self.program.blocks[entry.block].params
        if tuple(found) != entry.inputs or params[: len(found)] != entry.inputs:
            raise ProgramError(where, "entry-inputs", f"leaves {found}, inputs {list(entry.inputs)}",
                               f"the first parameters of block {entry.block}: {list(params)}")

    def mode(self, mode: schema.Mode, where: str) -> None:
        _bound(len(mode.entries) + len(mode.state), self.limits.ports, where, "count")
        if not mode.entries:
            raise ProgramError(where, "count", "no entries", "at least 1")
        _distinct(mode.entries, where, "mode-entries")
        for entry in mode.entries:
            _range(entry, 0, len(self.program.entries), where, "entry-number")
        for kind in mode.state:
            self.type(kind, where)
        if mode.names:
            _count(len(mode.names), len(mode.state), where, "state-names")
            _distinct(mode.names, where, "state-names")
        for name in mode.names:
            self.text(name, where, self.limits.name)
        _bound(len(mode.static), self.limits.ports, where, "count")
        for name, text in mode.static.items():
            self.text(name, where, self.limits.name)
            self.text(text, where, self.limits.text)

    def mode_entries(self, mode: schema.Mode, where: str) -> None:
        for number in mode.entries:
            entry = self.program.entries[number]
            carried = self.program.blocks[entry.block].params[len(entry.inputs):]
            self.call(f"{where} into entries[{number}]", mode.state,
                      [self.program.values[value] for value in carried])


# -------------------------------------------------------------------------------------------------- small rules
def _range(given: int, low: int, stop: int, where: str, rule: str) -> None:
    if not low <= given < stop:
        raise ProgramError(where, rule, given, f"{low} to {stop - 1}" if stop > low else "none, there are none")


def _bound(given: int, limit: int, where: str, rule: str) -> None:
    if given > limit:
        raise ProgramError(where, rule, given, f"<= {limit}")


def _count(given: int, wanted: int, where: str, rule: str) -> None:
    if given != wanted:
        raise ProgramError(where, rule, given, wanted)


def _one_of(given: str, known: Collection[str], where: str, rule: str) -> None:
    if given not in known:
        raise ProgramError(where, rule, given, f"one of {', '.join(known)}")


def _distinct(given: Collection[object], where: str, rule: str) -> None:
    seen: Mapping[object, int] = {}
    for item in given:
        if item in seen:
            raise ProgramError(where, rule, f"{item!r} twice", "each once")
        seen[item] = 1


def _identifier(name: str, where: str, limits: Limits) -> None:
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or len(name) > limits.name:
        raise ProgramError(where, "identifier", name, "a Python identifier")


def _literal(text: str, where: str) -> bool | int | float:
    try:
        value = schema.decode_literal(text)
        if schema.encode_literal(value) == text:
            return value
    except (ValueError, OverflowError):
        pass
    raise ProgramError(where, "literal", text, "what encode_literal writes")


def _check_float(text: str, where: str) -> None:
    try:
        if schema.encode_float(schema.decode_float(text)) == text:
            return
    except (ValueError, OverflowError):
        pass
    raise ProgramError(where, "literal", text, "what float.hex() writes, nan, inf or -inf")

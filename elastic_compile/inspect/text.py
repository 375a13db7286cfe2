"""The host program as text: blocks, region calls, host operations, branches with their source lines.

In: a program, and where known the size of its weights and what its calls did.
Out: text, equal for equal input.
Never: needs more than the program itself, and never fails on a program that the runtime would refuse.

The notation: `v7` is a value; `f32[1, s0]` a float32 tensor of one row and a size `s0` known at run time;
`-> 3 exit(v7)` goes to block 3, labelled "exit", and gives `v7` for its first parameter. A source line stands
beside the last of the operations made of it: beside the branch that decides, where there is one.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from elastic_runtime import Statistics, schema

_SHORT = {
    "bool": "bool", "int8": "i8", "uint8": "u8", "int16": "i16", "int32": "i32", "int64": "i64",
    "float16": "f16", "float32": "f32", "float64": "f64", "complex64": "c64", "complex128": "c128",
}
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "and": "and", "or": "or", "bitand": "&", "bitor": "|", "bitxor": "^", "lshift": "<<", "rshift": ">>",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}
_PREFIX = {"neg": "-", "not": "not "}
_SOURCE_COLUMN = 64
_MOST_SOURCE = 48


def render_text(
    program: schema.Program, statistics: Statistics | None = None, *, weight_bytes: int | None = None,
    formation: schema.Formation | None = None,
) -> str:
    """`program` as text that a person can read.

    `statistics`: as `Model.statistics()` gives them, for visits per call and median times in ms.
    `weight_bytes`: the size of the weight store. `formation`: what became of each branch.
    """
    sections = [summary(program, weight_bytes=weight_bytes), _entries(program)]
    if program.initial or len(program.modes) > 1 or any(mode.state for mode in program.modes):
        sections.append(_modes(program))
    if program.host_ops:
        sections.append("\n".join(
            f"needs host function {op.name}({', '.join(map(type_text, op.inputs))})"
            f" -> {', '.join(map(type_text, op.outputs)) or 'None'}" for op in program.host_ops))
    if formation is not None:
        sections.append(formation_text(formation))
    sections.extend(_block(program, number, statistics) for number in range(len(program.blocks)))
    return "\n\n".join(sections) + "\n"


_MOST_REASONS = 12


def render_sharing(subnets: Sequence[schema.Subnet], sharing: schema.Sharing, fallback: str = "",
                   worst_ms: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """The subnets of a bundle, what they share, and why the rest is not shared. The first subnet is active first.

    `worst_ms`: per subnet, by the name of a device, what its costliest path takes there.
    """
    largest = max(sharing.alone.values(), default=0)
    share = f", {sharing.stored / largest:.2f} × the largest subnet's" if largest else ""
    lines = [f"{_count(len(subnets), 'subnet')}, weights {bytes_text(sharing.stored)}{share}"]
    lines += [f"    {decision}" for decision in sharing.decisions]
    for subnet in subnets:
        about = sharing.subnets.get(subnet.name)
        settings = ", ".join(f"{name}={value}" for name, value in subnet.config.items())
        quality = "" if subnet.quality is None else f", quality {subnet.quality:g}"
        lines.append(f"\nsubnet {subnet.name}{quality}" + (f"  ({settings})" if settings else ""))
        told = cost(subnet.budget, subnet.worst, (worst_ms or {}).get(subnet.name))
        lines.append(f"    {told}" + ("; takes over when a call exceeds its budget" if subnet.name == fallback else ""))
        if about is None:
            continue
        regions, common = sharing.regions.get(subnet.name, (0, 0))
        lines.append(f"    regions {regions}, of which {common} in other subnets too")
        lines.append(f"    weights {bytes_text(about.own + about.shared + about.viewed)}: "
                     f"{bytes_text(about.shared)} shared as they are, {bytes_text(about.viewed)} parts of larger "
                     f"tensors, {bytes_text(about.own)} of its own")
        if about.copied:
            lines.append(f"    {bytes_text(about.copied)} of the parts are not contiguous: made once in memory, for "
                         "an engine that needs them so")
        told = list(about.reasons.items())
        lines += [f"    {name}: {why}" for name, why in told[:_MOST_REASONS]]
        if len(told) > _MOST_REASONS:
            lines.append(f"    … and {len(told) - _MOST_REASONS} more in sharing.json")
    return "\n".join(lines) + "\n"


def cost(budget: schema.Budget, regions: int | None, worst_ms: Mapping[str, float] | None = None) -> str:
    """What one call can cost and may cost. `regions`: the most that it runs; `worst_ms`: by the name of a device."""
    worst = "a loop without a known bound" if regions is None else f"at most {_count(regions, 'region run')}"
    worst += "".join(f", {ms:.3g} ms on {device}" for device, ms in (worst_ms or {}).items())
    bounds = [f"{budget.regions} region runs"] if budget.regions is not None else []
    bounds += [f"{budget.deadline_s * 1e3:g} ms"] if budget.deadline_s is not None else []
    return f"a call: {worst}; budget {' and '.join(bounds) or 'none'}"


def summary(program: schema.Program, *, weight_bytes: int | None = None) -> str:
    """One line: blocks, regions, distinct compiled regions, operators, engines and weights."""
    compiled = {(*sorted(region.files.values()), *sorted(region.options.items())) for region in program.regions}
    parts = [
        _count(len(program.blocks), "block"),
        f"{_count(len(program.regions), 'region')} ({len(compiled)} compiled)",
        _count(sum(region.ops for region in program.regions), "operator"),
    ]
    if program.regions:
        parts.append(" + ".join(sorted({region.engine for region in program.regions})))
    if weight_bytes is not None:
        parts.append(f"weights {bytes_text(weight_bytes)}")
    return f"program {program.name}: {', '.join(parts)}"


def formation_text(formation: schema.Formation) -> str:
    """How regions were formed: the measurements in µs, then each branch with what was made of it and why."""
    measured = ", ".join(f"{name} {value:.1f}" for name, value in formation.measured.items())
    lines = [f"regions formed by measured cost (µs: {measured})"]
    lines.extend(f"    {one.branch:<{_SOURCE_COLUMN - 4}}  {one.kind}: {one.reason}" for one in formation.decisions)
    return "\n".join(lines)


def bytes_text(size: int) -> str:
    """A size in bytes with a binary unit: 512 B, 1.5 KiB, 20.0 MiB."""
    amount, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"


def visits_text(visits: float, calls: int = 1) -> str:
    """Visits per call: "40%", "3.2 ×" in a loop, "never"."""
    if not visits:
        return "never"
    return f"{visits / calls:.0%}" if visits <= calls else f"{visits / calls:.1f} ×"


def region_ms(statistics: Statistics) -> dict[int, float]:
    """Region -> median time of one run in ms, for the regions that ran while times were taken."""
    return {number: region.median_ms for number, region in enumerate(statistics.regions) if region.calls}


def type_text(kind: schema.ValueType) -> str:
    """A value's type: `f32[1, s0]`, `int`."""
    if isinstance(kind, schema.ScalarType):
        return kind.kind
    return f"{_SHORT.get(kind.dtype, kind.dtype)}[{', '.join(map(str, kind.shape))}]"


def block_text(program: schema.Program, number: int) -> str:
    """A block's number and label: `3 exit`."""
    label = program.blocks[number].label if 0 <= number < len(program.blocks) else ""
    return f"{number} {label}".rstrip()


def source_text(program: schema.Program, source: int) -> str:
    """A position in the user's program: `model.py:12  if score > 0.9:`; empty where it is not known."""
    if not 0 <= source < len(program.sources):
        return ""
    place = program.sources[source]
    text = place.text.strip()
    short = text if len(text) <= _MOST_SOURCE else f"{text[:_MOST_SOURCE - 1]}…"
    return f"{PurePath(place.file).name}:{place.line}  {short}".rstrip()


def tree_text(tree: schema.Tree) -> str:
    """A tree in Python's notation, values as `v<number>`."""
    match tree:
        case schema.ValueLeaf(id=number):
            return f"v{number}"
        case schema.ConstLeaf(v=value):
            return repr(value)
        case schema.FloatLeaf(v=text):
            return repr(schema.decode_float(text))
        case schema.SequenceNode(kind="list", items=items):
            return f"[{', '.join(map(tree_text, items))}]"
        case schema.SequenceNode(items=items):
            return f"({', '.join(map(tree_text, items))}{',' if len(items) == 1 else ''})"
        case schema.MapNode(keys=keys, items=items):
            given = (f"{key!r}: {tree_text(item)}" for key, item in zip(keys, items, strict=True))
            return f"{{{', '.join(given)}}}"
        case schema.RecordNode(name=name, fields=fields, items=items):
            given = (f"{field}={tree_text(item)}" for field, item in zip(fields, items, strict=True))
            return f"{name}({', '.join(given)})"
    raise TypeError(f"not a tree: {type(tree).__name__}")


def expression_text(step: schema.ScalarStep) -> str:
    """A host operation in Python's notation: `v3 + 1`."""
    operands = [f"v{number}" for number in step.inputs]
    for position, literal in sorted(step.literals):
        operands.insert(position, repr(schema.decode_literal(literal)))
    if step.op == "const":
        return operands[0]
    if step.op in _INFIX and len(operands) == 2:
        return f"{operands[0]} {_INFIX[step.op]} {operands[1]}"
    if step.op in _PREFIX and len(operands) == 1:
        return f"{_PREFIX[step.op]}{operands[0]}"
    if step.op == "select" and len(operands) == 3:
        return f"{operands[1]} if {operands[0]} else {operands[2]}"
    if step.op == "size" and len(operands) == 2:
        return f"{operands[0]}.shape[{operands[1]}]"
    if step.op == "item" and len(operands) == 1:
        return f"{operands[0]}.item()"
    return f"{step.op}({', '.join(operands)})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _value(program: schema.Program, number: int) -> str:
    known = 0 <= number < len(program.values)
    return f"v{number}: {type_text(program.values[number]) if known else '?'}"


def _values(numbers: tuple[int, ...]) -> str:
    return ", ".join(f"v{number}" for number in numbers)


def _entries(program: schema.Program) -> str:
    lines = []
    for entry in program.entries:
        lines.append(f"entry {entry.name}{_signature(entry)} -> {block_text(program, entry.block)}")
        lines.extend(f"    {_value(program, number)}" for number in entry.inputs)
    return "\n".join(lines)


def _signature(entry: schema.Entry) -> str:
    kinds = [parameter.kind for parameter in entry.params]
    parts: list[str] = []
    for position, parameter in enumerate(entry.params):
        if parameter.kind == "keyword" and "keyword" not in kinds[:position] and "varargs" not in kinds:
            parts.append("*")
        star = {"varargs": "*", "varkw": "**"}.get(parameter.kind, "")
        optional = " (optional)" if parameter.default else ""
        parts.append(f"{star}{parameter.name}={tree_text(parameter.tree)}{optional}")
        if parameter.kind == "positional" and "positional" not in kinds[position + 1:]:
            parts.append("/")
    return f"({', '.join(parts)})"


def _modes(program: schema.Program) -> str:
    lines = []
    for number, mode in enumerate(program.modes):
        names = ", ".join(
            program.entries[entry].name if 0 <= entry < len(program.entries) else f"entry {entry}"
            for entry in mode.entries)
        state = ", ".join(map(type_text, mode.state)) or "nothing"
        lines.append(f"mode {number}: calls {names}; keeps {state}")
    if program.initial:
        lines.append(f"starts from {', '.join(program.initial)}")
    return "\n".join(lines)


def _block(program: schema.Program, number: int, statistics: Statistics | None) -> str:
    block = program.blocks[number]
    parameters = ", ".join(_value(program, parameter) for parameter in block.params)
    visits = f"  [{visits_text(statistics.visits[number], statistics.calls)}]" if statistics else ""
    times = region_ms(statistics) if statistics else {}
    lines = [f"block {block_text(program, number)}({parameters}){visits}"]
    following = (*(step.source for step in block.steps[1:]), block.terminator.source)
    for step, after in zip(block.steps, following, strict=False):
        source = -1 if step.source == after else step.source
        lines.append(_with_source(program, f"    {_step(program, step, times)}", source))
    lines.extend(_terminator(program, block.terminator))
    return "\n".join(lines)


def _step(program: schema.Program, step: schema.Step, times: dict[int, float]) -> str:
    outputs = ", ".join(_value(program, number) for number in step.outputs)
    match step:
        case schema.RegionStep(region=index, inputs=inputs):
            if not 0 <= index < len(program.regions):
                return f"{outputs} = region {index}({_values(inputs)})"
            region = program.regions[index]
            time = f", {times[index]:.3f} ms" if index in times else ""
            return f"{outputs} = {region.name}({_values(inputs)})  [{_count(region.ops, 'operator')}{time}]"
        case schema.ScalarStep():
            return f"{outputs} = {expression_text(step)}"
        case schema.RandomStep(kind=kind, sizes=sizes):
            return f"{outputs} = {kind}({', '.join(map(str, sizes))})"
        case schema.HostCallStep(name=name, inputs=inputs):
            return f"{outputs} = host {name}({_values(inputs)})"
        case schema.AppendStep(inputs=inputs, axis=axis, capacity=capacity):
            room = f"  [room for {capacity}]" if capacity else ""
            return f"{outputs} = append({_values(inputs)}, axis {axis}){room}"
    raise TypeError(f"not a step: {type(step).__name__}")


def _jump(program: schema.Program, jump: schema.Jump) -> str:
    return f"-> {block_text(program, jump.block)}({_values(jump.args)})"


def _terminator(program: schema.Program, end: schema.Terminator) -> list[str]:
    match end:
        case schema.Jump():
            return [_with_source(program, f"    {_jump(program, end)}", end.source)]
        case schema.Branch(cond=cond, then=then, orelse=orelse, source=source):
            return [_with_source(program, f"    if v{cond}", source),
                    f"        then {_jump(program, then)}",
                    f"        else {_jump(program, orelse)}"]
        case schema.Switch(index=index, cases=cases, default=default, source=source):
            return [_with_source(program, f"    switch v{index}", source),
                    *(f"        case {value} {_jump(program, jump)}" for value, jump in cases),
                    f"        default {_jump(program, default)}"]
        case schema.Return(tree=tree, mode=mode, carry=carry, source=source):
            kept = f"; next call in mode {mode} with ({_values(carry)})" if mode or carry else ""
            return [_with_source(program, f"    return {tree_text(tree)}{kept}", source)]
        case schema.Raise(type=name, message=message, mode=mode, carry=carry, source=source):
            kept = f"; next call in mode {mode} with ({_values(carry)})" if mode or carry else ""
            text = json.dumps(message, ensure_ascii=False)
            return [_with_source(program, f"    raise {name}({text}){kept}", source)]
    raise TypeError(f"not a terminator: {type(end).__name__}")


def _with_source(program: schema.Program, line: str, source: int) -> str:
    text = source_text(program, source)
    return f"{line:<{_SOURCE_COLUMN}}  # {text}" if text else line

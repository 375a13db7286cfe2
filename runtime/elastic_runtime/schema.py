"""The bundle's schema: what a compiled program is, as plain frozen data.

In: nothing (type definitions, JSON encoding and strict decoding).
Out: the structures that the compiler writes and the runtime executes.
Never: reads a file, imports an engine, or holds anything that is not plain data.

A *program* is a control-flow graph. A *basic block* has parameters (its live-ins), a list of steps
and one terminator. Values are numbered program-wide (`Program.values[i]` is the type of value `i`);
a value may be used only in the block that defines it: everything a block needs from outside comes
in through its parameters (strict block-argument form), so a block can be checked, timed, replaced
or forced on its own.

Tensor shapes hold ints and dimension names ("s0"); equal names within one block's parameters, or
between a call's inputs and outputs, denote equal sizes.
"""
from __future__ import annotations

import json
from typing import Any

import msgspec

SCHEMA_VERSION = 2

DTYPES = (
    "bool", "int8", "uint8", "int16", "int32", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
)

SCALAR_KINDS = ("bool", "int", "float")


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all schema types: immutable, and refusing keys that it does not know."""


# ---------------------------------------------------------------------------------------- types
class TensorType(Data, tag_field="t", tag="tensor"):
    """A dense tensor. `shape`: a size per dimension, or a name where the size is known only at run time."""

    dtype: str
    shape: tuple[int | str, ...]


class ScalarType(Data, tag_field="t", tag="scalar"):
    """A host scalar (a Python bool, int or float at run time). `kind`: "bool" | "int" | "float"."""

    kind: str


ValueType = TensorType | ScalarType


# ---------------------------------------------------------------------------------------- trees
class ValueLeaf(Data, tag_field="t", tag="value"):
    """A leaf computed at run time: the number of a value."""

    id: int


class ConstLeaf(Data, tag_field="t", tag="const"):
    """A leaf fixed at compile time: None, bool, int or str. In an input tree: the call must give this very value."""

    v: bool | int | str | None


class FloatLeaf(Data, tag_field="t", tag="float"):
    """A float fixed at compile time, as `float.hex()` or "nan" | "inf" | "-inf" (exact)."""

    v: str


class SequenceNode(Data, tag_field="t", tag="sequence"):
    """A tuple or a list. `kind`: "tuple" | "list"."""

    kind: str
    items: tuple[Tree, ...]


class MapNode(Data, tag_field="t", tag="map"):
    """A dict; keys in insertion order, each a str, int or bool."""

    keys: tuple[bool | int | str, ...]
    items: tuple[Tree, ...]


class RecordNode(Data, tag_field="t", tag="record"):
    """A namedtuple (`kind` "namedtuple": comes back as a namedtuple) or a dataclass / ModelOutput
    (`kind` "dataclass": comes back as a dict by field)."""

    kind: str
    name: str
    fields: tuple[str, ...]
    items: tuple[Tree, ...]


Tree = ValueLeaf | ConstLeaf | FloatLeaf | SequenceNode | MapNode | RecordNode


# ---------------------------------------------------------------------------------------- steps
class RegionStep(Data, tag_field="t", tag="region"):
    """Run a compiled region. `region`: index into `Program.regions`; inputs and outputs are values (tensors)."""

    region: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    source: int = -1


class ScalarStep(Data, tag_field="t", tag="host"):
    """One host scalar operation from the closed set `HOST_OPS`.

    `inputs` are values; `literals` are (position, literal) pairs spliced among them, so that
    `add(v3, 1)` is `inputs=(3,), literals=((1, "i1"),)`. A literal is encoded by `encode_literal`.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    literals: tuple[tuple[int, str], ...] = ()
    source: int = -1


class RandomStep(Data, tag_field="t", tag="random"):
    """Draw a float32 or float64 tensor from the call's seeded generator.

    `kind`: "uniform" (in [0, 1)) | "normal" (standard) | "exponential" (rate 1).
    `sizes`: per dimension an int, or a value (an int scalar) written as "v12".
    """

    kind: str
    sizes: tuple[int | str, ...]
    outputs: tuple[int, ...]
    source: int = -1


class HostCallStep(Data, tag_field="t", tag="call"):
    """Call a function that the embedding application registered under `name`."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    source: int = -1


class AppendStep(Data, tag_field="t", tag="append"):
    """`inputs` are a tensor and the rows to follow it along `axis`, before which all dimensions are of size 1; the
    output is both, in memory where the first need not be copied.

    Values stay what they are: nobody sees the first input change. Where the rows come from a region and go nowhere
    else, the region writes them in place. `capacity`: rows worth reserving memory for, 0 where the bound is unknown.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axis: int = 0
    capacity: int = 0
    source: int = -1


Step = RegionStep | ScalarStep | RandomStep | HostCallStep | AppendStep

#: The closed set of host scalar operations: name -> number of operands.
#: "item" reads a one-element tensor as a Python scalar; "tensor_bool|int|float" makes a 0-d
#: bool/int64/float64 tensor of a scalar; "size" is `size(tensor, dim)`; arithmetic has Python's meaning.
HOST_OPS: dict[str, int] = {
    "const": 1, "item": 1, "size": 2, "tensor_bool": 1, "tensor_int": 1, "tensor_float": 1,
    "int": 1, "float": 1, "bool": 1,
    "add": 2, "sub": 2, "mul": 2, "truediv": 2, "floordiv": 2, "mod": 2, "pow": 2, "neg": 1, "abs": 1,
    "min": 2, "max": 2, "and": 2, "or": 2, "not": 1, "bitand": 2, "bitor": 2, "bitxor": 2,
    "lshift": 2, "rshift": 2, "eq": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2,
    "round": 1, "round_digits": 2, "floor": 1, "ceil": 1, "trunc": 1,
    "sqrt": 1, "exp": 1, "log": 1, "log2": 1, "sin": 1, "cos": 1, "tanh": 1, "isnan": 1, "isinf": 1,
    "select": 3,
}


# ---------------------------------------------------------------------------------- terminators
class Jump(Data, tag_field="t", tag="jump"):
    """Go to `block`, giving its parameters the values `args`."""

    block: int
    args: tuple[int, ...]
    source: int = -1


class Branch(Data, tag_field="t", tag="branch"):
    """Go to `then` when the value `cond` (a bool scalar, or a one-element tensor) is true, else to `orelse`."""

    cond: int
    then: Jump
    orelse: Jump
    source: int = -1


class Switch(Data, tag_field="t", tag="switch"):
    """Go to the case whose int equals the value `index` (an int scalar or a one-element tensor), else to `default`."""

    index: int
    cases: tuple[tuple[int, Jump], ...]
    default: Jump
    source: int = -1


class Return(Data, tag_field="t", tag="return"):
    """End the call with the output `tree`; `carry` becomes the state of `mode`, where the next call starts."""

    tree: Tree
    mode: int = 0
    carry: tuple[int, ...] = ()
    source: int = -1


class Raise(Data, tag_field="t", tag="raise"):
    """End the call with an exception that the model itself raises: its type's name and its message."""

    type: str
    message: str
    mode: int = 0
    carry: tuple[int, ...] = ()
    source: int = -1


Terminator = Jump | Branch | Switch | Return | Raise


# -------------------------------------------------------------------------------------- program
class Block(Data):
    """A basic block: parameters (live-ins), steps in order, one terminator."""

    params: tuple[int, ...]
    steps: tuple[Step, ...]
    terminator: Terminator
    label: str = ""


class Parameter(Data):
    """One parameter of the entry's Python signature, and the tree that the call must give for it.

    `kind`: "positional" (positional-only) | "standard" | "keyword" (keyword-only) | "varargs" | "varkw".
    `default`: the tree's leaves are all constants and the caller may leave the argument out.
    """

    name: str
    kind: str
    tree: Tree
    default: bool = False


class Entry(Data):
    """One way to call the program: a signature whose value leaves are, in order, the first parameters of
    `block`; the remaining parameters of `block` are the carried state of the mode."""

    name: str
    params: tuple[Parameter, ...]
    block: int
    inputs: tuple[int, ...]


class Mode(Data):
    """A static state of the program between two calls: the entries callable in it and its state's types.

    A stateless program has the single mode 0 with an empty `state`. `names`: where each state value lives in the
    module ("blocks.0.cache"), as many as `state`, or none; `static`: what else in the module differs from its first
    state, by place, as text. Only a switch between subnets reads the two.
    """

    entries: tuple[int, ...]
    state: tuple[ValueType, ...] = ()
    names: tuple[str, ...] = ()
    static: dict[str, str] = {}


class Port(Data):
    """A region's input or output: its name in the compiled artifact and its type (always a tensor)."""

    name: str
    type: TensorType


class WeightUse(Data):
    """`name` in the compiled artifact is the tensor `tensor` of the bundle's weight store."""

    name: str
    tensor: str


class Region(Data):
    """A compiled static sub-graph. `files`: role -> file name in the bundle; what roles mean is the engine's."""

    name: str
    engine: str
    files: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: tuple[WeightUse, ...] = ()
    options: dict[str, str] = {}
    ops: int = 0


class Source(Data):
    """A position in the user's program. `line` is 1-based."""

    file: str
    line: int
    text: str


class Program(Data):
    """The whole host program. `initial`: names in the weight store of mode 0's state, in order
    (tensors; a scalar is a 0-d tensor)."""

    name: str
    values: tuple[ValueType, ...]
    blocks: tuple[Block, ...]
    entries: tuple[Entry, ...]
    regions: tuple[Region, ...]
    modes: tuple[Mode, ...] = (Mode(entries=(0,)),)
    initial: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    host_ops: tuple[HostSignature, ...] = ()


class HostSignature(Data):
    """A function that the embedding application must provide: name, input and output types."""

    name: str
    inputs: tuple[ValueType, ...]
    outputs: tuple[ValueType, ...]


# --------------------------------------------------------------------------------------- bundle
class FileEntry(Data):
    """One file of the bundle: a plain file name, its size in bytes and its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


class Budget(Data):
    """What one call may cost: regions run, and seconds. None: no bound. Both are looked at between regions."""

    regions: int | None = None
    deadline_s: float | None = None


class Subnet(Data):
    """One program of the bundle, that `Model.switch` takes by `name`. `program` and `reference` are file names.

    `budget` holds for its calls unless the application sets another. `worst`: the most regions that a call can run
    whatever its input; None where a loop has no bound that is known.

    `config`: the configuration that it was made with, flattened ("blocks.0.heads": 4), and `quality`, what its maker
    measured (higher is better): both informative, the latter for `Model.select`.
    """

    name: str
    program: str
    reference: str
    config: dict[str, bool | int | float | str] = {}
    quality: float | None = None
    budget: Budget = Budget()
    worst: int | None = None


class View(Data, tag_field="t", tag="view"):
    """A tensor that is part of the stored `tensor`: element i, j, ... is that at `offset` + i * strides[0] + ...
    of its elements in C order. `offset` and `strides` count elements and are not negative."""

    tensor: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Gather(Data, tag_field="t", tag="gather"):
    """A tensor that is part of the stored `tensor`: along each dimension the places that the stored int64 vector
    `indices[dimension]` lists, or all of them where it is None."""

    tensor: str
    indices: tuple[str | None, ...]


class Parts(Data):
    """`weights.json`: tensors that the weight store does not hold themselves, as parts of those it holds."""

    parts: dict[str, View | Gather] = {}


class SharedBytes(Data):
    """What one subnet reads of the weight store, in bytes. `own`: nobody else reads them; `shared`: tensors that
    others read too, as they are; `viewed`: parts of tensors that others read too. `copied`: bytes that have to be
    materialised in memory because an engine needs them contiguous, those of `viewed` among them. `reasons`: per
    tensor that is not shared as it is, or that stands alone, why."""

    own: int
    shared: int
    viewed: int
    copied: int
    reasons: dict[str, str] = {}


class Sharing(Data):
    """`sharing.json`. `stored`: bytes of the store; `alone`: per subnet the bytes of its weights in a bundle of its
    own; `regions`: per subnet [its regions, of these in other subnets too]; `decisions`: what was chosen for the family
    and why. Informative: nothing is decided by it."""

    stored: int
    alone: dict[str, int]
    subnets: dict[str, SharedBytes]
    regions: dict[str, tuple[int, int]]
    decisions: tuple[str, ...] = ()


class Manifest(Data):
    """`manifest.json`. `version` is the schema's; `files` lists every other file of the bundle.

    A bundle of one program has one subnet. The first of `subnets` is active after loading. `parts` names the file of
    `Parts`, `sharing` that of `Sharing`; `tables` are latency tables (`elastic_runtime.latency_table`).
    `fallback`: the subnet, without state, that gives the result of a call which its budget ended; "" for none.
    """

    format: str
    version: int
    name: str
    subnets: tuple[Subnet, ...]
    weights: str
    parts: str
    sharing: str
    provenance: str
    files: tuple[FileEntry, ...]
    tables: tuple[str, ...] = ()
    fallback: str = ""


class ReferenceCall(Data):
    """One recorded call: which entry, and the names in the reference tensor file of its flat inputs and,
    in the order of the return tree's value leaves, outputs; `result` is the output tree over those names'
    positions (ValueLeaf.id = index into `outputs`); `path` the blocks taken; `raises` the exception's type
    name when the call raises."""

    entry: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    result: Tree
    path: tuple[int, ...] = ()
    raises: str = ""


class Reference(Data):
    """`reference.json`: calls to replay in order from a reset state; `rtol`, `atol` for floats (ten times
    as much for float16), exact for the rest."""

    tensors: str
    calls: tuple[ReferenceCall, ...]
    rtol: float = 1e-3
    atol: float = 1e-4


class BranchDecision(Data):
    """What region formation made of one branch of the source. `branch`: its place and text. `kind`: "split" |
    "if-converted" | "tail-duplicated" | "speculated"."""

    branch: str
    kind: str
    reason: str


class Formation(Data):
    """How regions were formed by measured cost: what was measured (name -> µs) and what became of each branch."""

    measured: dict[str, float]
    decisions: tuple[BranchDecision, ...]


class Provenance(Data):
    """`provenance.json`: where the bundle comes from. Informative: nothing is decided by it."""

    created: str
    versions: dict[str, str]
    source_sha256: str
    device: dict[str, str]
    options: dict[str, str]
    formation: Formation | None = None


FORMAT = "elastic-bundle"


# ------------------------------------------------------------------------------------- encoding
class DuplicateKey(ValueError):
    """A JSON object names a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise DuplicateKey(key)
        out[key] = value
    return out


def encode(data: Data) -> bytes:
    """`data` as indented UTF-8 JSON, stable across runs."""
    return msgspec.json.format(msgspec.json.encode(data, order="deterministic"), indent=1) + b"\n"


def decode(raw: bytes | memoryview, kind: type) -> Any:
    """Strictly decode JSON `raw` into `kind`.

    Raises `DuplicateKey`, `ValueError`/`RecursionError` (not JSON, or nested too deep) or `msgspec.ValidationError`
    (unknown key, missing key, wrong type).
    """
    plain = json.loads(bytes(raw).decode("utf-8"), object_pairs_hook=_unique)
    return msgspec.convert(plain, kind, strict=True)


def encode_literal(value: bool | int | float) -> str:
    """A host literal as text: "b0"/"b1", "i<decimal>", "f<hex or nan/inf/-inf>" (exact)."""
    if isinstance(value, bool):
        return f"b{int(value)}"
    if isinstance(value, int):
        return f"i{value}"
    return "f" + encode_float(value)


def decode_literal(text: str) -> bool | int | float:
    """The inverse of `encode_literal`. Raises ValueError on anything else."""
    kind, body = text[:1], text[1:]
    if kind == "b" and body in ("0", "1"):
        return body == "1"
    if kind == "i" and len(body) <= 80:
        return int(body)
    if kind == "f":
        return decode_float(body)
    raise ValueError(f"not a literal: {text!r}")


def encode_float(value: float) -> str:
    """A float as `float.hex()`, or "nan" | "inf" | "-inf"."""
    return value.hex() if value - value == 0 else repr(value)


def decode_float(text: str) -> float:
    """The inverse of `encode_float`. Raises ValueError."""
    return float(text) if text in ("nan", "inf", "-inf") else float.fromhex(text)

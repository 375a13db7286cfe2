"""The semantic check: each rule has a program that breaks it, and nothing but `ProgramError` ever comes out."""
from __future__ import annotations

import copy

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import elastic_runtime as er
from elastic_runtime import schema as s
from elastic_runtime.check import check_program, fits
from elastic_runtime.plan import Random, make_plan
from tests.runtime.handmade import (
    BOOL,
    BOOL0,
    FLOAT,
    INT,
    OPERATIONS,
    block,
    branch,
    const,
    countdown,
    entry,
    f32,
    give,
    host,
    jump,
    leaf,
    on_sign,
    param,
    program,
    region,
    run,
    running_sum,
)

X = f32("n")
ENTRY = entry([param("x", leaf(0))], [0])


def one(steps, end, values, regions=(), **more) -> s.Program:
    return program([X, *values], [block([0], steps, end)], [ENTRY], regions, **more)


def with_tree(tree) -> s.Program:
    return one([], give(tree), [])


def with_params(*params, values=(X,), inputs=(0,), live=None) -> s.Program:
    return program(values, [block(live if live is not None else range(len(values)), [], give(const(0)))],
                   [entry(params, inputs)])


def with_scalar(op, inputs, made, values=(INT, FLOAT, BOOL), literals=()) -> s.Program:
    """Values 1.. are an int, a float and a bool parameter; the step defines the last value."""
    count = len(values) + 1
    step = s.ScalarStep(op=op, inputs=tuple(inputs), outputs=(count,), literals=tuple(literals))
    return program([X, *values, made], [block(range(count), [step], give(const(0)))],
                   [entry([param(f"p{i}", leaf(i)) for i in range(count)], range(count))])


BOOL1 = s.TensorType(dtype="bool", shape=(1,))


def with_append(inputs, made, rows=None, prefix=None, **options) -> s.Program:
    rows, prefix = rows or f32(1), prefix or f32(2)
    step = s.AppendStep(inputs=tuple(inputs), outputs=(2,), **options)
    return program([prefix, rows, made], [block([0, 1], [step], give(const(0)))],
                   [entry([param("x", leaf(0)), param("y", leaf(1))], [0, 1])])


@pytest.mark.parametrize("made", [
    on_sign(), countdown(), running_sum(), with_append([0, 1], f32(3)),
    with_append([0, 1], f32(1, 1, "k", 4), f32(1, 1, "m", 4), f32(1, 1, 2, 4), axis=2, capacity=7),
])
def test_good_programs_pass(made):
    check_program(made)
    assert s.decode(s.encode(made), s.Program) == made


BROKEN = {
    # values and blocks
    "no-blocks": (program([X], [], [ENTRY]), "blocks", "count"),
    "no-entries": (program([X], [block([0], [], give(const(0)))], []), "entries", "count"),
    "dtype": (program([s.TensorType(dtype="bfloat16", shape=())], [block([0], [], give(const(0)))], [ENTRY]),
              "values[0]", "dtype"),
    "scalar-kind": (one([], give(const(0)), [s.ScalarType(kind="complex")]), "values[1]", "scalar-kind"),
    "negative-size": (one([], give(const(0)), [f32(-1)]), "values[1]", "dimension"),
    "empty-name": (one([], give(const(0)), [f32("")]), "values[1]", "dimension"),
    "huge": (one([], give(const(0)), [f32(1 << 30, 1 << 30)]), "values[1]", "elements"),
    "unknown-value": (one([], give(leaf(9)), []), "blocks[0].terminator.tree", "value-number"),
    "negative-value": (one([], give(leaf(-1)), []), "blocks[0].terminator.tree", "value-number"),
    "never-defined": (one([], give(leaf(1)), [X]), "blocks[0].terminator.tree", "not-defined-here"),
    "other-block": (program([X, X], [block([0], [], jump(1)), block([], [], give(leaf(0)))], [ENTRY]),
                    "blocks[1].terminator.tree", "not-defined-here"),
    "before-definition": (one([run(0, [2], [1]), run(0, [0], [2])], give(leaf(1)), [X, X],
                              [region("double", [X], [X])]), "blocks[0].steps[0]", "not-defined-here"),
    "twice": (one([run(0, [0], [0])], give(leaf(0)), [], [region("double", [X], [X])]),
              "blocks[0].steps[0]", "defined-twice"),
    "twice-params": (program([X], [block([0], [], jump(1, 0)), block([0], [], give(const(0)))], [ENTRY]),
                     "blocks[1]", "defined-twice"),
    "source": (one([], s.Jump(block=0, args=(0,), source=0), []), "blocks[0].terminator", "source-number"),
    # jumps
    "jump-range": (one([], jump(5, 0), []), "blocks[0].terminator", "block-number"),
    "jump-count": (one([], jump(0), []), "blocks[0].terminator", "argument-count"),
    "jump-dtype": (program([X, INT], [block([0], [], jump(1, 0)), block([1], [], give(const(0)))], [ENTRY]),
                   "blocks[0].terminator", "argument-type"),
    "jump-rank": (program([X, f32("n", 1)], [block([0], [], jump(1, 0)), block([1], [], give(const(0)))], [ENTRY]),
                  "blocks[0].terminator", "argument-type"),
    "jump-static": (program([X, f32(3)], [block([0], [], jump(1, 0)), block([1], [], give(const(0)))], [ENTRY]),
                    "blocks[0].terminator", "argument-type"),
    "jump-names": (program([f32(2), f32(3), f32("a"), f32("a")], [
        block([0, 1], [], jump(1, 0, 1)), block([2, 3], [], give(const(0)))],
        [entry([param("x", leaf(0)), param("y", leaf(1))], [0, 1])]), "blocks[0].terminator", "argument-type"),
    "branch-type": (one([host("const", [], 1, at0=1)], branch(1, jump(0, 0), jump(0, 0)), [INT]),
                    "blocks[0].terminator", "decision-type"),
    "branch-elements": (program([f32(2)], [block([0], [], branch(0, jump(0, 0), jump(0, 0)))], [ENTRY]),
                        "blocks[0].terminator", "decision-type"),
    "switch-float": (one([], s.Switch(index=0, cases=(), default=jump(0, 0)), []),
                     "blocks[0].terminator", "decision-type"),
    "switch-cases": (one([host("const", [], 1, at0=1)],
                         s.Switch(index=1, cases=((1, jump(0, 0)), (1, jump(0, 0))), default=jump(0, 0)), [INT]),
                     "blocks[0].terminator.cases", "switch-cases"),
    "raise-type": (one([], s.Raise(type="os.system('x')", message=""), []), "blocks[0].terminator", "identifier"),
    # regions and host calls
    "region-number": (one([run(0, [0], [1])], give(const(0)), [X]), "blocks[0].steps[0]", "region-number"),
    "region-arguments": (one([run(0, [], [1])], give(const(0)), [X], [region("double", [X], [X])]),
                         "blocks[0].steps[0]", "argument-count"),
    "region-outputs": (one([run(0, [0], [])], give(const(0)), [X], [region("double", [X], [X])]),
                       "blocks[0].steps[0]", "output-count"),
    "region-input-type": (one([run(0, [0], [1])], give(const(0)), [X], [region("double", [f32(2)], [f32(2)])]),
                          "blocks[0].steps[0]", "argument-type"),
    "region-output-type": (one([run(0, [0], [1])], give(const(0)), [f32("m")], [region("double", [X], [X])]),
                           "blocks[0].steps[0]", "output-type"),
    "region-ports": (one([], give(const(0)), [], [s.Region(name="r", engine="e", files={}, outputs=(), inputs=(
        s.Port(name="a", type=X), s.Port(name="a", type=X)))]), "regions[0].inputs", "port-names"),
    "region-engine": (one([], give(const(0)), [], [region("double", [X], [X], engine="a b")]),
                      "regions[0]", "engine-name"),
    "region-file": (one([], give(const(0)), [], [region("double", [X], [X], files={"m": "a/b"})]),
                    "regions[0].files", "file-name"),
    "host-call": (one([s.HostCallStep(name="f", inputs=(), outputs=())], give(const(0)), []),
                  "blocks[0].steps[0]", "host-name"),
    "host-call-type": (one([s.HostCallStep(name="f", inputs=(0,), outputs=())], give(const(0)), [], host_ops=(
        s.HostSignature(name="f", inputs=(INT,), outputs=()),)), "blocks[0].steps[0]", "argument-type"),
    "host-name": (one([], give(const(0)), [], host_ops=(s.HostSignature(name="a b", inputs=(), outputs=()),)),
                  "host_ops[0]", "host-name"),
    # scalars
    "unknown-op": (with_scalar("eval", [1], INT), "blocks[0].steps[0]", "host-op"),
    "operand-count": (with_scalar("add", [1], INT), "blocks[0].steps[0]", "operand-count"),
    "operand-type": (with_scalar("bitand", [1, 2], INT), "blocks[0].steps[0]", "operand-type"),
    "operand-tensor": (with_scalar("add", [0, 1], INT), "blocks[0].steps[0]", "operand-type"),
    "result-type": (with_scalar("add", [1, 2], INT), "blocks[0].steps[0]", "output-type"),
    "result-tensor": (with_scalar("add", [1, 1], BOOL0), "blocks[0].steps[0]", "output-type"),
    "literal": (with_scalar("add", [1], INT, literals=[(1, "i0x1")]), "blocks[0].steps[0]", "literal"),
    "literal-code": (with_scalar("add", [1], INT, literals=[(1, "__import__('os')")]), "blocks[0].steps[0]", "literal"),
    "literal-twice": (with_scalar("add", [], INT, literals=[(1, "i1"), (1, "i1")]), "blocks[0].steps[0]",
                      "literal-position"),
    "literal-far": (with_scalar("add", [1], INT, literals=[(2, "i1")]), "blocks[0].steps[0]", "literal-position"),
    "size-dim": (with_scalar("size", [0], INT, literals=[(1, "i1")]), "blocks[0].steps[0]", "operand-type"),
    # appending
    "append-count": (with_append([0], f32(3)), "blocks[0].steps[0]", "operand-count"),
    "append-scalar": (with_append([0, 1], f32(3), INT), "blocks[0].steps[0]", "operand-type"),
    "append-dtype": (with_append([0, 1], f32(3), BOOL1), "blocks[0].steps[0]", "operand-type"),
    "append-rank": (with_append([0, 1], f32(3), f32(1, 1)), "blocks[0].steps[0]", "operand-type"),
    "append-sum": (with_append([0, 1], f32(4), f32(1)), "blocks[0].steps[0]", "operand-type"),
    "append-axis": (with_append([0, 1], f32(3), f32(1), axis=1), "blocks[0].steps[0]", "axis"),
    "append-axis-negative": (with_append([0, 1], f32(3), f32(1), axis=-1), "blocks[0].steps[0]", "axis"),
    "append-leading": (with_append([0, 1], f32(2, 3), f32(2, 1), f32(2, 2), axis=1), "blocks[0].steps[0]",
                       "operand-type"),
    "append-row": (with_append([0, 1], f32(3, 4), f32(1, 5), f32(2, 4)), "blocks[0].steps[0]", "operand-type"),
    "append-capacity": (with_append([0, 1], f32(3), f32(1), capacity=-1), "blocks[0].steps[0]", "count"),
    "append-huge": (with_append([0, 1], f32(3, 1 << 30), f32(1, 1 << 30), f32(2, 1 << 30), capacity=1 << 20),
                    "blocks[0].steps[0]", "elements"),
    # randomness
    "random-kind": (one([s.RandomStep(kind="os", sizes=(1,), outputs=(1,))], give(const(0)), [f32(1)]),
                    "blocks[0].steps[0]", "random-kind"),
    "random-dtype": (one([s.RandomStep(kind="normal", sizes=(), outputs=(1,))], give(const(0)), [BOOL0]),
                     "blocks[0].steps[0]", "random-dtype"),
    "random-rank": (one([s.RandomStep(kind="normal", sizes=(1,), outputs=(1,))], give(const(0)), [f32()]),
                    "blocks[0].steps[0]", "rank"),
    "random-size": (one([s.RandomStep(kind="normal", sizes=(2,), outputs=(1,))], give(const(0)), [f32(1)]),
                    "blocks[0].steps[0]", "dimension"),
    "random-reference": (one([s.RandomStep(kind="normal", sizes=("v0+1",), outputs=(1,))], give(const(0)), [f32(1)]),
                         "blocks[0].steps[0]", "dimension"),
    "random-tensor": (one([s.RandomStep(kind="normal", sizes=("v0",), outputs=(1,))], give(const(0)), [f32(1)]),
                      "blocks[0].steps[0]", "argument-type"),
    # trees
    "tree-kind": (with_tree(s.SequenceNode(kind="set", items=())), "blocks[0].terminator.tree", "tree-kind"),
    "tree-keys": (with_tree(s.MapNode(keys=("a", "a"), items=(const(0), const(0)))),
                  "blocks[0].terminator.tree", "tree-keys"),
    "tree-keys-equal": (with_tree(s.MapNode(keys=(1, True), items=(const(0), const(0)))),
                        "blocks[0].terminator.tree", "tree-keys"),
    "tree-count": (with_tree(s.MapNode(keys=("a",), items=())), "blocks[0].terminator.tree", "tree-keys"),
    "tree-float": (with_tree(s.FloatLeaf(v="1.5")), "blocks[0].terminator.tree", "literal"),
    **{f"record-{name!r}": (with_tree(s.RecordNode(kind="namedtuple", name=name, fields=(field,), items=(const(0),))),
                            "blocks[0].terminator.tree", "identifier")
       for name, field in (("a b", "x"), ("class", "x"), ("R", "_x"), ("R", "x.y"), ("R", "import"), ("", "x"),
                           ("R", "x=1):0\nimport os#"), ("ä", "x"))},
    # entries and modes
    "entry-inputs": (with_params(param("x", leaf(0)), inputs=()), "entries[0]", "entry-inputs"),
    "entry-order": (with_params(param("x", leaf(1)), param("y", leaf(0)), values=(X, X), inputs=(1, 0)),
                    "entries[0]", "entry-inputs"),
    "entry-state": (with_params(param("x", leaf(0)), values=(X, X)), "modes[0] into entries[0]", "argument-count"),
    "parameter-name": (with_params(param("x y", leaf(0))), "entries[0]", "identifier"),
    "parameter-twice": (with_params(param("x", leaf(0)), param("x", const(0))), "entries[0]", "parameter-names"),
    "parameter-kind": (with_params(param("x", leaf(0), "any")), "entries[0].x", "parameter-kind"),
    "parameter-order": (with_params(param("x", leaf(0), "keyword"), param("y", const(0))),
                        "entries[0].y", "parameter-order"),
    "parameter-default": (with_params(param("x", leaf(0), default=True)), "entries[0].x", "parameter-default"),
    "parameter-varargs": (with_params(param("x", leaf(0), "varargs")), "entries[0].x", "parameter-tree"),
    "parameter-varkw": (with_params(param("x", leaf(0)), param("k", const(None), "varkw")),
                        "entries[0].k", "parameter-tree"),
    "mode-number": (one([], give(const(0), mode=1), []), "blocks[0].terminator", "mode-number"),
    "mode-entry": (one([], give(const(0)), [], modes=(s.Mode(entries=(1,)),)), "modes[0]", "entry-number"),
    "mode-empty": (one([], give(const(0)), [], modes=(s.Mode(entries=()),)), "modes[0]", "count"),
    "mode-initial": (one([], give(const(0)), [], initial=("w",)), "initial", "state"),
    "carry": (one([], give(const(0), carry=[0]), []), "blocks[0].terminator.carry", "argument-count"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_programs_are_refused(name):
    made, where, rule = BROKEN[name]
    with pytest.raises(er.ProgramError) as caught:
        check_program(made)
    assert (caught.value.where, caught.value.rule) == (where, rule), caught.value
    assert "given" in str(caught.value) and "expected" in str(caught.value)


def test_trees_as_deep_as_memory_do_not_end_the_process():
    tree = const(0)
    for _ in range(100_000):
        tree = s.SequenceNode(kind="list", items=(tree,))
    with pytest.raises(er.ProgramError, match="tree-depth"):
        check_program(with_tree(tree))
    while isinstance(tree, s.SequenceNode):  # taken apart from outside, as freeing it at once would recurse
        tree = tree.items[0]


def test_names_stand_for_one_size_throughout():
    dims = {}
    assert fits(f32(2, "k"), f32("a", "b"), dims) and dims == {"a": 2, "b": "k"}
    assert fits(f32("k"), f32("b"), dims)
    assert not fits(f32(3), f32("a"), dims)
    assert not fits(f32("k"), f32(2), {})
    assert fits(f32(2, 2), f32("a", "a"), {}) and not fits(f32(2, 3), f32("a", "a"), {})


# -------------------------------------------------------------------------------------------------------- fuzzing
INTS = st.integers(-3, 12) | st.sampled_from([1 << 63, 1 << 200, 10 ** 9])
TEXTS = st.sampled_from(["", "v0", "v99", "n", "i1", "f0x1p0", "add", "item", "float32", "int", "tuple", "standard",
                         "keyword", "\0", "é", "x" * 1000])
ANY = INTS | TEXTS | st.sampled_from([None, True, 0.5]) | st.builds(list) | st.builds(dict)


def like(value: object) -> st.SearchStrategy:
    """Mostly another value of the same type, so that most mutants get past the schema's types."""
    same = {int: INTS, str: TEXTS, bool: st.booleans(), list: st.builds(list)}.get(type(value), ANY)
    return st.one_of(same, same, same, ANY)


def places(plain: object, path: tuple = ()) -> list[tuple]:
    found = [path]
    for key, item in plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ():
        found += places(item, (*path, key))
    return found


def at(plain, path):
    for key in path:
        plain = plain[key]
    return plain


PLAIN = [msgspec.to_builtins(made) for made in (on_sign(), countdown(), running_sum())]
for _plain in PLAIN:
    _plain.update(msgspec.json.decode(msgspec.json.encode(_plain)))  # tuples become lists


@st.composite
def mutants(draw):
    plain = copy.deepcopy(draw(st.sampled_from(PLAIN)))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(places(plain)))
        if not path:
            continue
        parent, key = at(plain, path[:-1]), path[-1]
        what = draw(st.sampled_from(["replace", "replace", "graft", "copy", "remove"]))
        if what == "replace":
            parent[key] = draw(like(parent[key]))
        elif what == "graft":
            other = draw(st.sampled_from([place for place in places(plain) if place[-1:] == path[-1:]]))
            parent[key] = copy.deepcopy(at(plain, other))
        elif what == "copy" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            del parent[key]
    return plain


def kernel(operation):
    return lambda inputs: operation(*inputs)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(mutants())
def test_a_mutant_is_refused_or_safe_to_run(plain):
    try:
        made = msgspec.convert(plain, s.Program, strict=True)
        check_program(made)
    except (msgspec.ValidationError, er.ProgramError):
        return
    kernels = [kernel(OPERATIONS.get(item.options.get("op"), OPERATIONS["identity"])) for item in made.regions]
    plan = make_plan(made, kernels, {}, Random(0), er.Limits(), records={})
    for number, item in enumerate(made.entries):
        registers = plan.template.copy()
        for value, register in ((v, plan.place[v]) for v in made.blocks[item.block].params):
            kind = made.values[value]
            registers[register] = {"bool": True, "int": 2, "float": 0.5}[kind.kind] if isinstance(kind, s.ScalarType) \
                else np.ones([size if isinstance(size, int) and size < 9 else 2 for size in kind.shape], kind.dtype)
        try:
            end = plan.run(registers, item.block, [], 200)
            if end.build is not None:
                end.build(registers)
        except er.ElasticRuntimeError:
            pass
        assert plan.signatures[number].entry is item


def test_the_fuzzer_reaches_both_outcomes():
    accepted, rejected = [], []

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(mutants())
    def probe(plain):
        try:
            check_program(msgspec.convert(plain, s.Program, strict=True))
            accepted.append(1)
        except (msgspec.ValidationError, er.ProgramError) as error:
            rejected.append(getattr(error, "rule", "schema"))

    probe()
    assert len(accepted) > 5 and len(set(rejected)) > 10

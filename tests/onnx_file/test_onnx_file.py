"""One ONNX file per program: every construct, on every path, against eager PyTorch; what ONNX cannot say is refused."""
from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import elastic_compile as ec
from elastic_compile.errors import OnnxFileError
from elastic_compile.onnx_file import writing
from elastic_runtime import schema
from tests.constructs import registry
from tests.constructs.build import build

CASES = registry.load()
READY = [case for case in CASES.values() if not case.pending and not case.broken and case.exact]

#: Cases that a file cannot hold, by what ONNX lacks.
REFUSED = ("the path", "static states", "signatures", "random numbers", "host function", "host operation",
           "module with state", "without numbers", "a loop with two entries")


def saved(program, path, *calls):
    compiled = ec.compile(program, list(calls))
    return compiled.save_onnx(path), compiled


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def operators(graph, counts=None):
    counts = Counter() if counts is None else counts
    for node in graph.node:
        counts[node.op_type] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                operators(attribute.g, counts)
    return counts


@pytest.mark.slow
@registry.parametrize(READY)
def test_every_construct_is_equal_or_refused(name, tmp_path):
    """`save_onnx` itself runs the file on the case's calls, which take every path."""
    compiled = build(CASES[name]).compiled
    try:
        made = compiled.save_onnx(tmp_path / "model.onnx")
    except OnnxFileError as error:
        assert any(part in error.message for part in REFUSED), error
        assert error.reason and error.hint and not list(tmp_path.iterdir())
        return
    onnx.checker.check_model(str(made.path))
    assert made.calls == len(compiled.reference.calls)


@pytest.mark.slow
def test_most_constructs_can_be_said():
    made = [1 for case in READY if not _refused(case)]
    assert len(made) >= 0.75 * len(READY)


def _refused(case):
    try:
        writing._Writer(build(case).compiled.source).model()
    except (OnnxFileError, ec.CompileError):
        return True
    return False


class Gates(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x) if x.mean() > 0 else x + 1
        return x


@pytest.mark.parametrize("count", [3, 12])
def test_the_file_grows_with_the_program_not_with_its_paths(count, tmp_path):
    made, _ = saved(Gates(count).eval(), tmp_path / "m.onnx", (torch.randn(1, 4),))
    counts = operators(onnx.load(made.path).graph)
    assert counts["If"] == count and counts["Gemm"] == count and not counts["Loop"]


def settle(x):
    rounds = 0
    while x.abs().max() > 1:
        x, rounds = x / 2, rounds + 1
        if rounds > 20:
            return x * 0, rounds
    return x, rounds


def test_a_loop_is_a_loop(tmp_path):
    made, _ = saved(settle, tmp_path / "m.onnx", (torch.ones(3) * 9,))
    assert operators(onnx.load(made.path).graph)["Loop"] == 1
    run = session(made.path)
    for size in (0.5, 1.5, 100.0, 1e30):
        expected, rounds = settle(torch.ones(3) * size)
        given = run.run(None, {"x": np.full(3, size, np.float32)})
        assert np.allclose(given[0], expected.numpy()) and given[1] == rounds and given[1].dtype == np.int64
    assert made.unchecked  # the call does not run past 20 rounds


class Counter_(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x):
        if x.sum() > 0:
            self.total += x
        return self.total * 2


def test_state_goes_in_and_out(tmp_path):
    made, _ = saved(Counter_().eval(), tmp_path / "m.onnx", (torch.ones(2),), (-torch.ones(2),))
    assert made.inputs == ("x", "state.0") and made.outputs == ("out", "next_state.0")
    run, eager, state = session(made.path), Counter_().eval(), None
    for x in (torch.ones(2), -torch.ones(2), torch.tensor([3.0, -1.0])):
        feed = {"x": x.numpy()} | ({} if state is None else {"state.0": state})
        out, state = run.run(None, feed)
        assert np.array_equal(out, eager(x).numpy())


def stages(x):
    found = []
    for factor in (1.0, 2.0, 3.0):
        found.append(x * factor)
        if x.sum() * factor > 4:
            break
    return found


def test_a_list_whose_length_depends_on_the_path_is_a_sequence(tmp_path):
    made, _ = saved(stages, tmp_path / "m.onnx", (torch.ones(2),))
    run = session(made.path)
    for size in (0.1, 1.1, 5.0):
        expected = stages(torch.ones(2) * size)
        given, = run.run(None, {"x": np.full(2, size, np.float32)})
        assert len(given) == len(expected)
        assert all(np.allclose(a, b.numpy()) for a, b in zip(given, expected, strict=True))


def named(x):
    return (x + 1, "up") if x.sum() > 0 else (x - 1, "down")


def test_a_text_that_depends_on_the_path_is_a_string(tmp_path):
    made, _ = saved(named, tmp_path / "m.onnx", (torch.ones(2),), (-torch.ones(2),))
    assert session(made.path).run(["out[1]"], {"x": -np.ones(2, np.float32)}) == ["down"]


def checked(x):
    if x.sum() < 0:
        raise ValueError("negative")
    return x.sqrt()


def test_an_exception_of_the_model_fails_the_run(tmp_path):
    made, _ = saved(checked, tmp_path / "m.onnx", (torch.ones(2),), (-torch.ones(2),))
    run = session(made.path)
    assert np.array_equal(run.run(None, {"x": np.full(2, 4, np.float32)})[0], [2, 2])
    with pytest.raises(Exception, match=r"out of data bounds|indices"):
        run.run(None, {"x": np.full(2, -4, np.float32)})


def scaled(x, count):
    for _ in range(count):
        count = count * 1000003
    return x + (1 if count > 0 else -1)


def test_an_integer_of_more_than_64_bits_fails_the_run(tmp_path):
    compiled = ec.compile(scaled, [(torch.ones(1), 1), (torch.ones(1), 2)])
    made = compiled.save_onnx(tmp_path / "m.onnx")
    with pytest.raises(Exception, match=r"out of data bounds|indices"):
        session(made.path).run(None, {"x": np.ones(1, np.float32), "count": np.array(9, np.int64)})


def test_a_wrong_file_is_found(tmp_path, monkeypatch):
    """The comparison can fail: with the arms of every `If` swapped, nothing is written."""
    choose = writing.Control.choose
    monkeypatch.setattr(writing.Control, "choose", lambda self, condition, then, orelse:
                        choose(self, condition, orelse, then))
    compiled = ec.compile(Gates(2).eval(), [(torch.ones(1, 4),), (-torch.ones(1, 4),)])
    with pytest.raises(OnnxFileError, match="differs from the program on example call"):
        compiled.save_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_large_weights_stand_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "INLINE_BYTES", 1 << 10)
    made, _ = saved(nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval(), tmp_path / "m.onnx", (torch.ones(1, 64),))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert made.path.stat().st_size < 16 << 10


def test_two_entries_of_a_loop_are_refused():
    """No Python program makes one; this graph enters the loop of blocks 1 and 2 at both."""
    def block(*targets):
        ends = [schema.Jump(block=target, args=()) for target in targets]
        return schema.Block(params=(), steps=(), terminator=(
            schema.Branch(cond=0, then=ends[0], orelse=ends[1]) if len(ends) == 2 else ends[0] if ends else
            schema.Return(tree=schema.ConstLeaf(v=None))))

    program = ec.compile(settle, [(torch.ones(3) * 9,)]).source
    program = program.replace(blocks=(block(1, 2), block(2), block(1, 3), block()))
    with pytest.raises(writing.Irreducible):
        writing.Control(writing.Builder(), program, 0, (), None, None)

"""What the compiler refuses: by a stable code, at a place in the user's program, with a reason and a way out."""
from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import elastic_compile as ec
import elastic_runtime as er
from elastic_compile.refusals import CATALOGUE
from tests.constructs import refused, rewritten
from tests.constructs.compare import difference, plain


def position(code: str, blamed: str) -> tuple[int, int, str]:
    """Line (1-based), column (0-based) and text of the expression to blame."""
    with open(refused.__file__) as file:
        for number, text in enumerate(file, start=1):
            if text.rstrip().endswith(f"# {code}"):
                return number, text.index(blamed), text.rstrip("\n")
    raise LookupError(code)


@functools.cache
def refusal(code: str) -> ec.Refusal:
    """What the compiler answers to the program for `code`."""
    target, calls = refused.PROGRAMS[code][0]()
    with pytest.raises(ec.Refusal) as caught:
        ec.compile(target, calls)
    return caught.value


def test_the_whole_catalogue_has_programs():
    assert set(refused.PROGRAMS) == set(CATALOGUE)


@pytest.mark.parametrize("code", sorted(refused.PROGRAMS))
def test_refusal_at_its_place(code):
    error = refusal(code)
    blamed = refused.PROGRAMS[code][1]
    if blamed:
        line, column, text = position(code, blamed)
        assert (error.file, error.line, error.column) == (refused.__file__, line, column)
        assert error.source == text
        source, caret = str(error).splitlines()[2:4]
        assert source[caret.index("^"):].startswith(blamed)


@pytest.mark.parametrize("code", sorted(refused.PROGRAMS))
def test_refusal(code):
    error = refusal(code)
    assert error.code == code
    assert error.reason and error.hint
    shown = str(error)
    assert shown.startswith(f"{code}: {error.message}")
    assert f"reason: {error.reason}" in shown and f"instead: {error.hint}" in shown
    assert "{" not in error.message
    if refused.PROGRAMS[code][1]:
        assert error.file == refused.__file__ and f"--> {error.file}:{error.line}" in shown
        assert "^" in shown and error.source in open(refused.__file__).read()


def test_the_whole_catalogue_has_rewritten_programs():
    assert set(rewritten.PROGRAMS) == set(CATALOGUE)


@pytest.mark.parametrize("code", sorted(rewritten.PROGRAMS))
def test_what_a_refusal_says_to_write_compiles(code, tmp_path):
    target, calls, host_ops = rewritten.PROGRAMS[code]()
    ec.compile(target, calls).save(tmp_path / "m.elastic")
    model = er.load(tmp_path / "m.elastic", **({"host_ops": host_ops} if host_ops else {}))
    target, calls, _ = rewritten.PROGRAMS[code]()
    with torch.no_grad():
        for call in calls:
            given = [leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf for leaf in call]
            assert difference(model(*given), plain(target(*call))) == ""


def test_a_refusal_is_not_swallowed_by_the_program():
    class Careful(nn.Module):
        def forward(self, x):
            try:
                return torch.poisson(x)
            except Exception:
                return x

    with pytest.raises(ec.Refusal) as caught:
        ec.compile(Careful().eval(), [(torch.ones(2),)])
    assert caught.value.code == "EC130"


# ------------------------------------------------------------------------------- bad examples
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, scale=1):
        return self.linear(x) * scale if x.sum() > 0 else x


ONE = torch.ones(1, 2)


@pytest.mark.parametrize("examples, told", [
    ([], "empty"),
    (ONE, "Tensor"),
    ([ONE], "Tensor"),
    ({"x": ONE}, "dict"),
    ([(ONE,), (torch.ones(2, 2),)], "float32[1, 2]"),
    ([(ONE,), (ONE.double(),)], "float64[1, 2]"),
    ([(ONE, 1, 2)], "signature"),
    ([ec.call(y=ONE)], "signature"),
    (None, "NoneType"),
])
def test_bad_examples(examples, told):
    with pytest.raises(ec.ExampleError) as caught:
        ec.compile(Gate().eval(), examples)
    error = caught.value
    assert error.code == "EC001"
    assert told in str(error)
    assert error.reason and error.hint


def test_training_mode():
    module = Gate()
    with pytest.raises(ec.TrainingModeError) as caught:
        ec.compile(module, [(ONE,)])
    assert "eval()" in caught.value.hint and caught.value.code == "EC002"
    assert module.training


def test_a_part_in_training_mode():
    module = nn.Sequential(Gate(), nn.Sequential(Gate())).eval()
    module[1][0].linear.train()
    with pytest.raises(ec.TrainingModeError, match=r"1\.0\.linear \(Linear\)"):
        ec.compile(module, [(ONE,)])


def test_what_is_no_network():
    with pytest.raises(ec.ExampleError, match="str"):
        ec.compile("a network", [(ONE,)])


def test_an_unknown_backend():
    with pytest.raises(ec.BackendUnavailable) as caught:
        ec.compile(Gate().eval(), [(ONE,)], backend="abacus")
    assert "abacus" in str(caught.value) and "onnxruntime" in str(caught.value)


# ---------------------------------------------------------------------------- bad calls at run time
@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("gate") / "gate.elastic"
    ec.compile(Gate().eval(), [(ONE,), (-ONE,)]).save(path)
    return er.load(path)


ARRAY = np.ones((1, 2), np.float32)


@pytest.mark.parametrize("args, kwargs, given, expected", [
    ((ARRAY.astype(np.float64),), {}, "float64", "float32"),
    ((np.ones((2, 2), np.float32),), {}, "[2, 2]", "[1, 2]"),
    ((np.ones(2, np.float32),), {}, "[2]", "[1, 2]"),
    ((np.ones((1, 1, 2), np.float32),), {}, "[1, 1, 2]", "[1, 2]"),
    (("text",), {}, "text", "NumPy array"),
    ((None,), {}, "None", "NumPy array"),
    ((), {}, "x", ""),
    ((ARRAY, 1, 2), {}, "3", ""),
    ((ARRAY,), {"scale": 2}, "2", "1"),
    ((ARRAY,), {"other": 1}, "other", ""),
])
def test_bad_calls(model, args, kwargs, given, expected):
    with pytest.raises(er.InputError) as caught:
        model(*args, **kwargs)
    assert given in str(caught.value) and expected in str(caught.value)
    assert model(ARRAY).shape == (1, 2)

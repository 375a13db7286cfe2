"""Functions that nobody wrote for these tests: the standard library and torch's layers, rewritten and used."""
from __future__ import annotations

import argparse
import collections
import configparser
import difflib
import fractions
import heapq
import importlib
import io
import json
import json.decoder
import json.encoder
import json.scanner
import pprint
import shlex
import statistics
import string
import textwrap
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from elastic_compile.rewrite import NEUTRAL, Hooks
from tests.rewrite.oracle import PoisonHooks, patched

TEXT = "The quick brown fox  jumped over\n the lazy dog; hyphen-ated-words, and averyveryverylongwordindeed. " * 3


def use_textwrap() -> Any:
    return [
        textwrap.wrap(TEXT, 20), textwrap.fill(TEXT, 33, initial_indent="* ", subsequent_indent="  "),
        textwrap.shorten(TEXT, 40), textwrap.dedent("  a\n    b\n  c"), textwrap.indent(TEXT, "> "),
        textwrap.wrap(TEXT, 12, break_long_words=False, max_lines=4, placeholder="…"),
    ]


def use_statistics() -> Any:
    data = [1, 2.5, 3, 3, fractions.Fraction(7, 2), 10]
    normal = statistics.NormalDist(1, 2)
    return [
        statistics.mean(data), statistics.fmean(data), statistics.median(data), statistics.pvariance(data),
        statistics.stdev(data), statistics.mode(data), statistics.multimode("aabbc"), statistics.quantiles(data),
        statistics.harmonic_mean([1, 2, 3]), statistics.geometric_mean([1, 2, 3]), statistics.correlation(data, data),
        statistics.linear_regression(data, [1, 2, 3, 4, 5, 6]), normal.inv_cdf(0.3), normal.overlap(normal * 2),
    ]


def use_heapq() -> Any:
    heap = [5, 1, 8, 3, 2]
    heapq._heapify_max(heap)
    items = [3, 1, 2, 9, 4]
    return heap, heapq.nlargest(2, items), heapq.nsmallest(3, items, key=lambda v: -v), list(
        heapq.merge([1, 4], [2, 3], key=lambda v: v))


def use_json() -> Any:
    scan = json.scanner.py_make_scanner(json.decoder.JSONDecoder(strict=False))
    text = r'{"a": [1, 2.5e3, true, null, "\u00e9\n"], "b": {"c": {}}}'
    broken = []
    for bad in ('{"a" 1}', "[1,]", '"\\q"', ""):
        try:
            json.decoder.JSONDecoder().decode(bad)
        except json.JSONDecodeError as error:
            broken.append(str(error))
    parts = json.encoder._make_iterencode({}, lambda o: repr(o), json.encoder.py_encode_basestring_ascii, "  ",
                                          float.__repr__, ": ", ", ", False, False, False)
    return scan(text, 0), broken, "".join(parts({"z": [1, {"y": None}], "a": 2.5, 3: True}, 0))


def use_difflib() -> Any:
    a, b = TEXT.split(), TEXT.replace("fox", "cat").split()[3:]
    return list(difflib.unified_diff(a, b, "a", "b")), list(difflib.ndiff(a[:5], b[:5])), difflib.get_close_matches(
        "appel", ["ape", "apple", "peach"])


def use_fractions() -> Any:
    third = fractions.Fraction("1/3")
    return [third + 1, third ** -2, 2 ** third, round(third, 2), fractions.Fraction(3.14159).limit_denominator(100),
            third == 1 / 3, -third // 2, str(fractions.Fraction.from_float(0.5))]


def use_shlex() -> Any:
    return shlex.split("a 'b c' \"d\\\"e\" f#g", comments=True), shlex.join(["a b", "c"]), list(shlex.shlex("x=1;y"))


def use_string() -> Any:
    return [string.Formatter().vformat("{0!r:>{w}} {a[0]} {b.real}", (1,), {"w": 5, "a": [2], "b": 3}),
            string.Template("$x ${y} $$").substitute(x=1, y=2), string.capwords("a bc  d")]


def use_pprint() -> Any:
    inner = {"a": list(range(20)), "b": ("x" * 50, "y" * 50)}
    nested = {"key": [inner] * 2, "set": {3, 1}, "d": collections.Counter("ab")}
    return pprint.pformat(nested, width=40), pprint.pformat(nested, depth=2, sort_dicts=False)


def use_configparser() -> Any:
    parser = configparser.ConfigParser()
    parser.read_string("[DEFAULT]\nroot = /r\n[a]\npath = %(root)s/x\nflag = yes\nlong = 1\n  2\n")
    out = io.StringIO()
    parser.write(out)
    try:
        parser.get("b", "c")
    except configparser.NoSectionError as error:
        return parser["a"]["path"], parser.getboolean("a", "flag"), out.getvalue(), str(error)


def use_argparse() -> Any:
    parser = argparse.ArgumentParser(prog="p", description=TEXT)
    parser.add_argument("files", nargs="+", type=str)
    parser.add_argument("-n", "--number", type=int, default=3, choices=range(9), help="how many (%(default)s)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--yes", action="store_true")
    group.add_argument("--no", action="store_const", const=5)
    return parser.parse_args(["a", "b", "-n", "4", "--yes"]), parser.format_help()


LIBRARY = [
    (textwrap, use_textwrap), (statistics, use_statistics), (heapq, use_heapq), (json.decoder, use_json),
    (json.scanner, use_json), (json.encoder, use_json), (difflib, use_difflib), (fractions, use_fractions),
    (shlex, use_shlex), (string, use_string), (pprint, use_pprint), (configparser, use_configparser),
    (argparse, use_argparse), (collections, use_pprint),
]


@pytest.mark.parametrize("hooks", [NEUTRAL, None], ids=["neutral", "poison"])
@pytest.mark.parametrize(("module", "use"), LIBRARY, ids=lambda v: v.__name__)
def test_standard_library(module: types.ModuleType, use: Callable[[], Any], hooks: Hooks | None) -> None:
    expected = use()
    with patched(module, hooks or PoisonHooks()) as done:
        assert done
        assert repr(use()) == repr(expected)


TORCH_MODULES = (
    "linear", "conv", "normalization", "batchnorm", "activation", "transformer", "rnn", "container", "pooling",
    "dropout", "sparse",
)


def layers() -> list[tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]]:
    torch.manual_seed(0)
    nn = torch.nn
    sequence = torch.randn(2, 5, 8)
    image = torch.randn(2, 4, 8, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    return [
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2), (sequence,), {"mask": mask}),
        (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (sequence, sequence), {"tgt_mask": mask}),
        (nn.MultiheadAttention(8, 2, batch_first=True), (sequence, sequence, sequence), {"need_weights": True}),
        (nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), (sequence,), {}),
        (nn.GRU(8, 6), (sequence,), {}),
        (nn.LSTMCell(8, 3), (sequence[0],), {}),
        (nn.Sequential(nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.GELU(), nn.AdaptiveAvgPool2d(2),
                       nn.Flatten(), nn.Linear(24, 3), nn.LayerNorm(3), nn.Softmax(-1)), (image,), {}),
        (nn.ConvTranspose2d(4, 2, 3, stride=2), (image,), {"output_size": (17, 17)}),
        (nn.GroupNorm(2, 4), (image,), {}),
        (nn.EmbeddingBag(10, 4, mode="mean"), (torch.tensor([1, 2, 4, 5]), torch.tensor([0, 2])), {}),
    ]


@pytest.mark.parametrize("hooks", [NEUTRAL, None], ids=["neutral", "poison"])
def test_torch_layers(hooks: Hooks | None) -> None:
    """The forwards of torch's layers, and `torch.nn.functional` under them, give the same bits."""
    cases = [(m.eval(), args, kwargs) for m, args, kwargs in layers()]
    with torch.no_grad():
        expected = [m(*args, **kwargs) for m, args, kwargs in cases]
    hooks = hooks or PoisonHooks()
    done: list[str] = []
    with torch.no_grad():
        contexts = [patched(importlib.import_module(f"torch.nn.modules.{name}"), hooks) for name in TORCH_MODULES]
        contexts.append(patched(torch.nn.functional, hooks))
        for context in contexts:
            done += context.__enter__()
        try:
            found = [m(*args, **kwargs) for m, args, kwargs in cases]
        finally:
            for context in reversed(contexts):
                context.__exit__(None, None, None)
    assert len(done) > 100
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

"""The TVM backend and engine: equal to eager, one library, and kernels that keep the engine's promises."""
from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from elastic_compile import backends
from elastic_compile.errors import BackendError, BackendUnavailable
from elastic_runtime import engines
from elastic_runtime.errors import BundleError, ExecutionError
from tests.backends.regions import compiled, described, differences, load, source, weights_of
from tests.backends.snippets import SNIPPETS


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _installed("apache-tvm"), reason="apache-tvm is not installed")

#: One of each kind of loop nest and of each operator with a translation of its own.
CHOSEN = frozenset({
    "adaptive_avg_pool2d", "any_all", "arg_extrema", "avg_pool2d", "batch_norm", "batch_norm_batch_statistics",
    "bitwise_bool", "bmm", "causal_softmax", "cdist", "clamp_ints", "comparisons", "conv1d", "conv2d",
    "conv2d_groups", "conv3d", "conv_transpose2d", "cumsum", "dynamic_conv", "dynamic_mlp", "dynamic_reshape",
    "einsum", "elu", "embedding", "erf", "expands", "extrema", "float_division", "gather", "gelu",
    "grid_sample", "group_norm", "index_select", "index_split", "index_tensor", "int_division", "ints_beside_floats",
    "item_position", "masks_as_numbers",
    "layer_norm", "linear", "linear_3d_no_bias", "linear_dynamic", "local_response_norm", "logical",
    "lstm_cell", "matmul_broadcast", "max_pool2d", "multihead_attention", "pad_constant", "pad_reflect",
    "passthrough", "pixel_shuffle", "powers", "rms_norm", "roll_flip", "sdpa", "sdpa_bool_mask", "selu", "silu",
    "softmax", "splits", "subtractions", "sums", "topk", "transformer_encoder_layer", "transposes",
    "trigonometry", "twice", "upsample_bilinear", "upsample_nearest", "variances", "views", "where",
})
CASES = [snippet for snippet in SNIPPETS if snippet.name in CHOSEN]


@pytest.fixture(scope="module")
def tvm() -> backends.Backend:
    return backends.get("tvm")


@pytest.fixture(scope="module")
def cases(tvm: backends.Backend) -> dict[str, tuple[backends.RegionSource, backends.CompiledRegion]]:
    sources = [source(case.model, case.inputs[0], case.dynamic, name=f"region_{case.name}") for case in CASES]
    return dict(zip((case.name for case in CASES), zip(sources, tvm.compile(sources), strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_eager(case, cases) -> None:
    made, region = cases[case.name]
    kernel = load(region, made.exported)
    for inputs in case.inputs:
        assert differences(kernel, case.model, inputs) == []


def test_one_library_with_an_entry_for_each_region(cases) -> None:
    regions = [region for _, region in cases.values()]
    assert len({region.payload["library"] for region in regions}) == 1
    assert len({region.options["symbol"] for region in regions}) == len(regions)


def test_large_weights_stay_outside_the_library(tvm) -> None:
    made = source(nn.Linear(64, 64, bias=False), [torch.ones(1, 64)])
    region = tvm.compile([made])[0]
    assert list(region.weights.values()) == ["weight"]
    assert made.exported.state_dict["weight"].detach().numpy().tobytes()[:256] not in region.payload["library"]


def test_same_regions_same_bytes(tvm) -> None:
    def build() -> bytes:
        return tvm.compile([source(lambda x: x.relu() + 1, [torch.ones(4, 4)])])[0].payload["library"]

    assert build() == build()


@pytest.mark.parametrize(("model", "inputs", "reason"), [
    (torch.nonzero, [torch.ones(3)], "nonzero"),
    (lambda x: x[x > 0], [torch.ones(3)], "index.Tensor"),
    (lambda x: x @ x, [torch.ones(3, 3, dtype=torch.int64)], "other types"),
    (lambda x: x @ x, [torch.ones(3, 3, dtype=torch.float64)], "other types"),
    (lambda x: torch.nn.functional.avg_pool2d(x, 2, divisor_override=3), [torch.ones(1, 1, 4, 4)], "divisor_override"),
    (nn.MaxPool2d(2, return_indices=True), [torch.ones(1, 1, 4, 4)], "indices"),
    (lambda x, i: x.scatter(0, i, 1.0), [torch.ones(3), torch.tensor([1])], "scatter"),
    (lambda x: x[:0].sum(), [torch.ones(3)], "without elements"),
    (torch.lgamma, [torch.ones(3)], "lgamma"),
    (lambda x: x + torch.rand(3), [torch.ones(3)], "rand"),
])
def test_what_tvm_gets_wrong_is_refused_by_name(tvm, model, inputs, reason) -> None:
    with pytest.raises(BackendError) as caught:
        tvm.compile([source(lambda x: x + 1, [torch.ones(2)], name="fine"), source(model, inputs, name="block_7")])
    assert "block_7" in str(caught.value) and reason in str(caught.value)


def _with_chosen_sizes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    longest, shortest = torch.sym_max(x.shape[0] - 3, 2), torch.sym_min(x.shape[0], 5)
    return x.new_zeros(longest, 3) + x[0, 0], x.new_ones(shortest, 2)


def test_chosen_sizes_and_parts_without_elements(tvm) -> None:
    def first_rows(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:0], x]) + 1

    length = ({0: torch.export.Dim("length", min=4, max=100)},)
    sources = [source(function, [torch.randn(6, 4)], length, name=f"region_{number}")
               for number, function in enumerate((_with_chosen_sizes, first_rows))]
    for made, region, function in zip(sources, tvm.compile(sources), (_with_chosen_sizes, first_rows), strict=True):
        kernel = load(region, made.exported)
        for size in (4, 5, 6, 9):
            assert differences(kernel, function, [torch.randn(size, 4)]) == []


def test_positions_from_the_end(tvm) -> None:
    def last(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x[:, -1], x[-2] + 1, x[..., -6].sum(), (x * 2)[0, -1]

    assert differences(compiled(tvm, last, [torch.randn(3, 6)]), last, [torch.randn(3, 6)]) == []


def test_nothing_is_printed(tvm, capfd: pytest.CaptureFixture[str]) -> None:
    made = source(lambda x, i: x[i].softmax(-1), [torch.randn(4, 8), torch.tensor([1, 2])])
    capfd.readouterr()
    tvm.compile([made])
    assert capfd.readouterr() == ("", "")


def test_missing_tvm_is_a_typed_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "apache-tvm" else real(name))
    with pytest.raises(BackendUnavailable, match=r"elastic-compile\[tvm\]"):
        backends.get("tvm")


def test_missing_linker_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BackendUnavailable, match=r"g\+\+"):
        backends.get("tvm")


# ------------------------------------------------------------------------------------ the kernel
@pytest.fixture(scope="module")
def plus_one(tvm) -> engines.Kernel:
    return compiled(tvm, lambda x: (x + 1, x.view(-1), x.sum(0)), [torch.ones(2, 3)])


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::2],
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.arange(6, dtype=">f4").reshape(2, 3),
    np.frombuffer(b"\0" + np.arange(6, dtype=np.float32).tobytes(), np.float32, offset=1).reshape(2, 3),
    np.broadcast_to(np.float32(3), (2, 3)),
], ids=["strided", "fortran", "big-endian", "unaligned", "broadcast"])
def test_any_layout_of_input(plus_one, array: np.ndarray) -> None:
    array.flags.writeable = False
    assert np.array_equal(plus_one([array])[0], np.asarray(array, np.float32) + 1)


def test_outputs_belong_to_the_caller(plus_one) -> None:
    array = np.ones((2, 3), np.float32)
    kept = plus_one([array])
    copies = [made.copy() for made in kept]
    for value in range(2, 20):
        for made in plus_one([np.full((2, 3), value, np.float32)]):
            made[...] = -1
    assert all(np.array_equal(made, copy) for made, copy in zip(kept, copies, strict=True))
    kept[1][...] = -1
    assert np.array_equal(array, np.ones((2, 3), np.float32))


class Echo(nn.Module):
    """Gives back what it was given, in every way that a compiler may turn into no work at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.relu()
        return (x, x.view(-1), x + 0, x * 1, x.clone(), x.t(), y, y, y.reshape(-1), y + 0,
                self.weight, self.weight.view(-1), self.weight * 1, torch.ones(2))


def test_outputs_share_no_memory(tvm) -> None:
    model, x = Echo(), torch.randn(2, 3)
    made = source(model, [x])
    region = tvm.compile([made])[0]
    weights = weights_of(region, made.exported)
    files = {"library": memoryview(region.payload["library"])}
    kernel = engines.factory("tvm")().load(described(region), files, weights, engines.EngineOptions())
    assert differences(kernel, model, [x]) == []
    aligned = kernel([x.numpy()])[6]
    outputs = kernel([aligned])
    assert len(outputs) == 14
    for index, made in enumerate(outputs):
        for other in (aligned, *weights.values(), *outputs[:index]):
            assert not np.shares_memory(made, other)


def test_results_carried_round_a_loop(plus_one) -> None:
    value = np.zeros((2, 3), np.float32)
    for _ in range(10):
        value = plus_one([value])[0]
    assert np.array_equal(value, np.full((2, 3), 10, np.float32))


def test_weights_may_be_read_only_and_unaligned(tvm) -> None:
    layer = nn.Linear(64, 64, bias=False)
    made = source(layer, [torch.ones(1, 64)])
    region = tvm.compile([made])[0]
    plain = layer.weight.detach().numpy()
    for offset in (0, 4, 16):
        raw = b"\0" * offset + plain.tobytes()
        weights = {"w0": np.frombuffer(raw, np.float32, offset=offset).reshape(64, 64)}
        files = {"library": memoryview(region.payload["library"])}
        kernel = engines.factory("tvm")().load(described(region), files, weights, engines.EngineOptions())
        del weights, raw
        assert differences(kernel, layer, [torch.ones(1, 64)]) == []


def test_more_threads_give_the_same_result(tvm) -> None:
    layer = nn.Conv2d(16, 32, 3, padding=1)
    image = torch.randn(1, 16, 32, 32)
    made = source(layer, [image])
    region = tvm.compile([made])[0]
    assert differences(load(region, made.exported, threads=2), layer, [image]) == []
    assert differences(load(region, made.exported, threads=1), layer, [image]) == []


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell a thread's cores")
@pytest.mark.parametrize("threads", [1, 2])
def test_loading_leaves_the_threads_cores_as_they_are(tvm, threads) -> None:
    before = os.sched_getaffinity(0)
    made = source(nn.Linear(4, 4).eval(), [torch.ones(2, 4)])
    load(tvm.compile([made])[0], made.exported, threads=threads)
    assert os.sched_getaffinity(0) == before


def test_inputs_of_another_shape_or_type_are_a_typed_error(plus_one) -> None:
    for array in (np.ones((3, 3), np.float32), np.ones((2, 3), np.float64), np.ones(6, np.float32)):
        with pytest.raises(ExecutionError):
            plus_one([array])


def test_index_outside_its_data_reads_nothing_else(tvm) -> None:
    kernel = compiled(tvm, lambda x, i: x.index_select(0, i), [torch.arange(4.0), torch.tensor([1])])
    assert np.array_equal(kernel([np.arange(4, dtype=np.float32), np.array([10**12])])[0], [3.0])


# -------------------------------------------------------------------------------- the artifact
@pytest.fixture(scope="module")
def linear(tvm):
    made = source(nn.Linear(64, 64), [torch.ones(1, 64)])
    region = tvm.compile([made])[0]
    return region, weights_of(region, made.exported)


@pytest.mark.parametrize(("rule", "fields", "files", "names"), [
    ("tvm-load", {}, {"library": b"\x7fELF" + b"\0" * 64}, None),
    ("tvm-load", {}, {"library": b""}, None),
    ("tvm-symbol", {"options": {"symbol": "nowhere", "copy": "", "rows": ""}}, None, None),
    ("tvm-region", {"options": {"symbol": "region"}}, None, None),
    ("tvm-region", {"options": {"symbol": "region", "copy": "1", "rows": "0"}}, None, None),
    ("tvm-region", {"options": {"symbol": "region", "copy": "x", "rows": "0"}}, None, None),
    ("tvm-region", {"options": {"symbol": "region", "copy": "", "rows": "1"}}, None, None),
    ("tvm-region", {"options": {"symbol": "region", "copy": "", "rows": "-1"}}, None, None),
    ("tvm-region", {}, {"library": b"", "more": b""}, None),
    ("tvm-region", {}, None, ["other"]),
])
def test_a_foreign_artifact_is_refused(linear, rule, fields, files, names) -> None:
    region, weights = linear
    plain = msgspec.structs.replace(described(region), **fields)
    payload = {role: memoryview(data) for role, data in (files or region.payload).items()}
    weights = dict(zip(names, weights.values(), strict=True)) if names else weights
    with pytest.raises(BundleError) as caught:
        engines.factory("tvm")().load(plain, payload, weights, engines.EngineOptions())
    assert caught.value.rule == rule


# ---------------------------------------------------------------------- weights that lie in wider matrices
class Narrow(nn.Module):
    """The first `width` hidden units and `size` features of a wider network's two layers."""

    def __init__(self, first: torch.Tensor, second: torch.Tensor, width: int, size: int) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(first[:width, :size]), nn.Parameter(second[:size, :width])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.nn.functional.linear(torch.relu(torch.nn.functional.linear(x, self.first)), self.second)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("cut", [slice(None), slice(3, None)], ids=["aligned", "unaligned"])
def test_subnets_of_other_widths_read_the_supernets_own_memory(tvm, rows, cut, monkeypatch) -> None:
    from elastic_runtime.engines import tvm as engine

    whole = engine._aligned(np.random.default_rng(0).standard_normal((2, 96, 96)).astype(np.float32) * 0.1)
    whole.flags.writeable = False
    first, second = (torch.from_numpy(matrix) for matrix in whole[:, :, cut])
    given = []
    original = engine.tvm_ffi.from_dlpack
    monkeypatch.setattr(engine.tvm_ffi, "from_dlpack", lambda array: given.append(array) or original(array))
    for width, size in ((64, 48), (80, 93), (40, 41)):
        made = source(Narrow(first, second, width, size), [torch.randn(rows, size)])
        region = tvm.compile([made])[0]
        assert region.options["rows"] == "0,1"
        tensors = {**made.exported.constants, **made.exported.state_dict}
        weights = {name: tensors[key].detach().numpy() for name, key in region.weights.items()}
        given.clear()
        kernel = engines.factory("tvm")().load(
            described(region), {role: memoryview(data) for role, data in region.payload.items()}, weights,
            engines.EngineOptions())
        lies = [np.shares_memory(whole, array) for array in given]
        assert lies == [cut == slice(None)] * 2
        assert differences(kernel, Narrow(first, second, width, size), [torch.randn(rows, size)]) == []


def test_a_product_goes_through_its_weight_once(tvm) -> None:
    """Rows of the other operand are taken inside; a pass over all weights for a few of them reads memory again."""
    from tvm import te

    from elastic_compile.backends import tvm_schedule

    rows, weight = te.placeholder((16, 256), "float32"), te.placeholder((512, 256), "float32")
    product = te.create_prim_func([rows, weight, tvm_schedule._times_transposed(rows, weight)])
    loops = [line.split() for line in tvm_schedule._scheduled(product, 16).script().splitlines() if "for i" in line]
    assert [loop[3] for loop in loops[:2]] == ["T.parallel(128):", "range(4):"]


def test_a_matrix_that_is_read_otherwise_too_is_taken_as_it_is(tvm) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.weight) + self.weight.sum(0)

    made = source(Tied(), [torch.randn(3, 64)])
    region = tvm.compile([made])[0]
    assert region.options["rows"] == ""
    assert differences(load(region, made.exported), Tied.forward.__get__(
        made.exported.module()), [torch.randn(3, 64)]) == []


def test_the_library_leaves_no_file_behind(linear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region, weights = linear
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = {role: memoryview(data) for role, data in region.payload.items()}
    kernel = engines.factory("tvm")().load(described(region), files, weights, engines.EngineOptions())
    assert list(tmp_path.iterdir()) == []
    assert kernel([np.ones((1, 64), np.float32)])[0].shape == (1, 64)


def test_the_engine_is_native_and_does_not_import_tvm() -> None:
    assert engines.is_native(engines.factory("tvm"))
    code = ("import sys\nfrom elastic_runtime.engines.tvm import TvmEngine\nTvmEngine()\n"
            "assert 'tvm' not in sys.modules and 'elastic_compile' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)

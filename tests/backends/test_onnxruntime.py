"""The ONNX Runtime backend and engine: what a region's artifact holds and how its kernel behaves."""
from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elastic_compile import backends
from elastic_compile.backends import onnx_translations
from elastic_compile.errors import BackendError, BackendUnavailable
from elastic_runtime import engines, schema
from elastic_runtime.errors import BundleError, ExecutionError
from tests.backends.regions import compiled, described, differences, load, source, weights_of

ONNX = backends.get("onnxruntime")


class Net(nn.Module):
    """Two convolutions and a classifier; `used` is kept, `unused` is not read."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)
        self.unused = nn.Parameter(torch.zeros(4096))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.norm(self.first(x)))
        scores = self.head(torch.relu(self.second(x)).mean((2, 3)))
        return scores, scores.softmax(-1).max(-1).values > 0.5


IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def model_of(region: backends.CompiledRegion) -> onnx.ModelProto:
    return onnx.load_from_string(region.payload["model"])


# ---------------------------------------------------------------------------------- the artifact
def test_weights_stay_outside_the_model() -> None:
    made = source(Net().eval(), [IMAGE])
    region = ONNX.compile([made])[0]
    assert sorted(region.weights.values()) == ["first.weight", "head.weight", "second.weight"]
    for tensor in model_of(region).graph.initializer:
        if tensor.name in region.weights:
            assert tensor.data_location == onnx.TensorProto.EXTERNAL and not tensor.raw_data
            assert {entry.key: entry.value for entry in tensor.external_data}["location"] == "elastic-weights"
        else:
            assert len(tensor.raw_data) < 1024
    assert differences(load(region, made.exported), Net().eval(), [IMAGE]) == []


def test_no_copy_of_a_transposed_weight() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.t() @ self.weight

    made = source(Twice(), [torch.randn(3, 64)])
    region = ONNX.compile([made])[0]
    assert len(region.payload["model"]) < 1024
    assert len(region.weights) == 1


def test_ports_have_the_types_of_the_region() -> None:
    region = ONNX.compile([source(Net().eval(), [IMAGE])])[0]
    assert [(port.name, port.type.dtype, port.type.shape) for port in region.inputs] == [
        ("x0", "float32", (1, 3, 8, 8))]
    assert [(port.name, port.type.dtype, port.type.shape) for port in region.outputs] == [
        ("y0", "float32", (1, 10)), ("y1", "bool", (1,))]
    assert region.engine == "onnxruntime" and region.ops == len(model_of(region).graph.node)


def test_dynamic_dimensions_keep_their_names() -> None:
    made = source(nn.Linear(8, 4), [torch.randn(3, 8)], dynamic=({0: torch.export.Dim("rows")},))
    name = made.inputs[0].shape[0]
    graph = model_of(ONNX.compile([made])[0]).graph
    assert isinstance(name, str)
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == name
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == name


def test_same_region_same_bytes() -> None:
    first, second = (ONNX.compile([source(Net().eval(), [IMAGE])])[0] for _ in range(2))
    assert first.payload == second.payload


def test_same_structure_shares_bytes_whatever_the_weights_and_names() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(64, 64, bias=False)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.other(tokens).relu()

    plain = source(nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU()), [torch.randn(3, 64)], name="a")
    renamed = source(Renamed(), [torch.randn(3, 64)], name="b")
    first, second = ONNX.compile([plain, renamed])
    assert first.payload == second.payload and first.weights != second.weights


def test_small_weights_are_part_of_the_structure() -> None:
    """A model holds them, and they differ even where they compare equal."""
    regions = []
    for number, value in enumerate((0.0, -0.0, 0.0, 1.0)):
        made = nn.Linear(4, 4)
        nn.init.constant_(made.weight, value)
        nn.init.zeros_(made.bias)
        regions.append(source(made, [torch.ones(1, 4)], name=f"region_{number}"))
    made = backends.get("onnxruntime").compile(regions)
    models = [one.payload["model"] for one in made]
    assert models[0] == models[2] and len(set(models)) == 3
    assert [one.name for one in made] == [f"region_{number}" for number in range(4)]


def test_a_region_handed_on_reads_its_own_weights() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256)) for _ in range(3)]
    swapped = nn.Sequential(layers[0][1], layers[0][0])
    x = torch.randn(2, 256)
    regions = [source(one, [x], name=f"region_{number}") for number, one in enumerate((*layers, swapped))]
    made = backends.get("onnxruntime").compile(regions)
    assert len({one.payload["model"] for one in made}) == 1
    for one, region, module in zip(made, regions, (*layers, swapped), strict=True):
        given, = load(one, region.exported)([x.numpy()])
        np.testing.assert_allclose(given, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_an_operator_that_onnx_has_is_kept_whole_beside_one_that_it_lacks() -> None:
    def resized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True).fmax(x.mean())

    operators = [node.op_type for node in model_of(ONNX.compile([source(resized, [IMAGE])])[0]).graph.node]
    assert "Resize" in operators and "GatherND" not in operators


def test_what_an_operator_broadcasts_itself_is_not_expanded() -> None:
    def normalised(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z = y.expand_as(x)
        return F.normalize(x, dim=-1), torch.where(x > z, x, z), z * z, z.exp()

    inputs = [torch.randn(3, 4, 5), torch.randn(1, 5)]
    made = source(normalised, inputs)
    region = ONNX.compile([made])[0]
    expanded = [node for node in model_of(region).graph.node if node.op_type == "Expand"]
    assert len(expanded) <= 2, "only a product and an exponential of nothing but the smaller one need it expanded"
    assert not differences(load(region, made.exported), normalised, inputs)


def test_nothing_of_the_users_files_is_kept() -> None:
    assert __file__.encode() not in ONNX.compile([source(Net().eval(), [IMAGE])])[0].payload["model"]


def test_region_is_left_as_it_was() -> None:
    made = source(Net().eval(), [IMAGE])
    before = str(made.exported)
    ONNX.compile([made])
    assert str(made.exported) == before


def test_progress_is_told() -> None:
    seen: list[tuple[int, int, str]] = []
    made = [source(lambda x: x + 1, [torch.ones(2)], name=name) for name in ("a", "b")]
    ONNX.compile(made, lambda *step: seen.append(step))
    assert seen == [(0, 2, "a"), (1, 2, "b"), (2, 2, "")]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    made = source(Net().eval(), [IMAGE])
    capfd.readouterr()
    recwarn.clear()
    ONNX.compile([made])
    assert capfd.readouterr() == ("", "") and not recwarn.list


# -------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("model", "inputs", "operator"), [
    (torch.linalg.inv, [torch.eye(33)], "linalg_inv"),
    (torch.linalg.svdvals, [torch.eye(3)], "linalg_svd"),
    (torch.lgamma, [torch.ones(3)], "lgamma"),
    (lambda x: torch.gcd(x, x + 1), [torch.ones(3, dtype=torch.int64)], "gcd"),
    (lambda x: torch.mode(x)[0], [torch.ones(3)], "mode"),
    (lambda x: x.view(torch.int32), [torch.ones(3)], "view.dtype"),
    (lambda x: x + torch.rand(3), [torch.ones(3)], "rand"),
    (torch.bernoulli, [torch.ones(3)], "rand"),
    (lambda x: torch.multinomial(x, 1), [torch.ones(3)], "multinomial"),
    (lambda x: x.put(torch.tensor([0]), torch.ones(1)), [torch.ones(3)], "put"),
    (lambda x: x.index_reduce(0, torch.tensor([0]), torch.ones(1), "amax"), [torch.ones(3)], "index_reduce"),
    (nn.Conv2d(1, 1, 3).double(), [torch.ones(1, 1, 4, 4, dtype=torch.float64)], "Conv"),
    (lambda x: (x.bfloat16() @ x.bfloat16()).float(), [torch.eye(3)], "MatMul"),
])
def test_what_cannot_be_said_is_refused_by_name(model, inputs, operator) -> None:
    with pytest.raises(BackendError) as caught:
        ONNX.compile([source(model, inputs, name="block_7")])
    assert "block_7" in str(caught.value) and operator in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_reasons_of_the_catalogue_are_given() -> None:
    with pytest.raises(BackendError) as caught:
        ONNX.compile([source(torch.linalg.svdvals, [torch.eye(3)])])
    assert onnx_translations.UNSUPPORTED["linalg"] in caught.value.reason


def test_in_place_change_is_refused() -> None:
    with pytest.raises(BackendError, match="in place"):
        ONNX.compile([source(lambda x: x.add_(1), [torch.ones(3)])])


def test_weights_of_a_type_that_bundles_lack_are_refused() -> None:
    with pytest.raises(BackendError, match="bfloat16"):
        ONNX.compile([source(nn.Linear(64, 64).bfloat16(), [torch.ones(1, 64, dtype=torch.bfloat16)])])


def test_unknown_backend_is_a_typed_error_with_the_known_ones() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        backends.get("openvimo")
    assert "'openvimo'" in str(caught.value) and "onnxruntime" in caught.value.reason


# ------------------------------------------------------------------------------------ the kernel
def test_outputs_belong_to_the_caller() -> None:
    kernel = compiled(ONNX, lambda x: (x * 2, x.sum(0)), [torch.ones(3, 4)])
    kept = kernel([np.full((3, 4), 1, np.float32)])
    copies = [array.copy() for array in kept]
    for value in range(2, 6):
        kernel([np.full((3, 4), value, np.float32)])
    assert all(np.array_equal(array, copy) for array, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize("model", [
    lambda x: (x, x.view(-1), torch.tensor([1.0, 2.0])),
    nn.Linear(64, 64),
], ids=["passthrough", "weights"])
def test_writing_to_an_output_changes_nothing_else(model) -> None:
    inputs = torch.arange(64.0).view(1, 64)
    kernel = compiled(ONNX, model, [inputs])
    array = inputs.numpy().copy()
    expected = [made.copy() for made in kernel([array])]
    for made in kernel([array]):
        made[...] = -1
    assert np.array_equal(array, inputs.numpy())
    assert all(np.array_equal(made, wanted) for made, wanted in zip(kernel([array]), expected, strict=True))


def test_results_carried_round_a_loop() -> None:
    kernel = compiled(ONNX, lambda x: x * 2, [torch.ones(4)])
    value = np.ones(4, np.float32)
    for _ in range(10):
        (value,) = kernel([value])
    assert np.array_equal(value, np.full(4, 1024, np.float32))


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::2],
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    np.arange(6, dtype=">f4").reshape(2, 3),
    np.frombuffer(b"\0" + np.arange(6, dtype=np.float32).tobytes(), np.float32, offset=1).reshape(2, 3),
    np.broadcast_to(np.float32(3), (2, 3)),
], ids=["strided", "fortran", "big-endian", "unaligned", "broadcast"])
def test_any_layout_of_input(array: np.ndarray) -> None:
    kernel = compiled(ONNX, lambda x: x + 1, [torch.ones(2, 3)])
    array.flags.writeable = False
    assert np.array_equal(kernel([array])[0], np.asarray(array, np.float32) + 1)


def test_no_inputs_and_no_elements() -> None:
    kernel = compiled(ONNX, lambda x: x.reshape(0, 6) + 1, [torch.ones(2, 0, 3)])
    assert kernel([np.zeros((2, 0, 3), np.float32)])[0].shape == (0, 6)


def test_weights_may_be_read_only_and_are_not_copied() -> None:
    made = source(nn.Linear(64, 64, bias=False), [torch.ones(1, 64)])
    region = ONNX.compile([made])[0]
    weights = weights_of(region, made.exported)
    kernel = engines.factory("onnxruntime")().load(
        described(region), {"model": memoryview(region.payload["model"])}, weights, engines.EngineOptions())
    array = np.ones((1, 64), np.float32)
    expected = kernel([array])[0].copy()
    del weights
    assert np.array_equal(kernel([array])[0], expected)


def test_called_from_several_threads_at_once() -> None:
    kernel = compiled(ONNX, nn.Linear(64, 64), [torch.ones(1, 64)])
    arrays = [np.full((1, 64), value, np.float32) for value in range(4)]
    expected = [kernel([array])[0] for array in arrays]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(200):
            if not np.array_equal(kernel([arrays[index]])[0], expected[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_more_threads_give_the_same_result() -> None:
    net = Net().eval()
    made = source(net, [IMAGE])
    region = ONNX.compile([made])[0]
    assert differences(load(region, made.exported, threads=2), net, [IMAGE]) == []


def test_error_of_a_run_is_typed() -> None:
    kernel = compiled(ONNX, lambda x, i: x[i], [torch.ones(3), torch.tensor([1])])
    with pytest.raises(ExecutionError, match="region"):
        kernel([np.ones(3, np.float32), np.array([7])])
    assert np.array_equal(kernel([np.ones(3, np.float32), np.array([2])])[0], [1])


def test_division_by_zero_is_an_error_not_a_crash() -> None:
    kernel = compiled(ONNX, lambda a, b: a // b, [torch.tensor([4]), torch.tensor([2])])
    with pytest.raises(ExecutionError):
        kernel([np.array([4]), np.array([0])])


# ---------------------------------------------------------------------------- artifacts made up
def broken(change) -> None:
    made = source(nn.Linear(64, 64), [torch.ones(1, 64)])
    region = ONNX.compile([made])[0]
    weights = weights_of(region, made.exported)
    model, plain = model_of(region), described(region)
    files, plain, weights = change(model, plain, weights) or (None, plain, weights)
    files = files or {"model": memoryview(model.SerializeToString())}
    engines.factory("onnxruntime")().load(plain, files, weights, engines.EngineOptions())


def _change(plain: schema.Region, **fields: object) -> schema.Region:
    import msgspec
    return msgspec.structs.replace(plain, **fields)


@pytest.mark.parametrize(("rule", "change"), [
    ("onnx-external-data", lambda m, r, w: (None, r, {})),
    ("onnx-load", lambda m, r, w: (None, r, {name: array[:8] for name, array in w.items()})),
    ("onnx-load", lambda m, r, w: (None, r, {name: array.astype(np.float64) for name, array in w.items()})),
    ("onnx-load", lambda m, r, w: (None, r, {**w, "q": np.ones(3, np.float32)})),
    ("onnx-ports", lambda m, r, w: (None, _change(r, inputs=(*r.inputs, *r.inputs)), w)),
    ("onnx-ports", lambda m, r, w: (None, _change(r, outputs=()), w)),
    ("onnx-ports", lambda m, r, w: (None, _change(r, inputs=tuple(
        _change(port, type=schema.TensorType(dtype="float64", shape=port.type.shape)) for port in r.inputs)), w)),
    ("onnx-region", lambda m, r, w: ({"model": memoryview(b""), "more": memoryview(b"")}, r, w)),
    ("onnx-region", lambda m, r, w: (None, _change(r, options={"provider": "CUDAExecutionProvider"}), w)),
    ("onnx-malformed", lambda m, r, w: ({"model": memoryview(b"\xff" * 64)}, r, w)),
    ("onnx-load", lambda m, r, w: m.graph.node[0].input.append("nowhere")),
])
def test_a_foreign_artifact_is_refused(rule: str, change) -> None:
    with pytest.raises(BundleError) as caught:
        broken(change)
    assert caught.value.rule == rule


def test_an_untouched_artifact_is_not_refused() -> None:
    broken(lambda m, r, w: None)


def test_the_engine_needs_neither_torch_nor_onnx() -> None:
    code = ("import sys, elastic_runtime.engines.onnxruntime\n"
            "assert not {'torch', 'onnx', 'onnxscript', 'elastic_compile'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)

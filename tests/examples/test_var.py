"""The VAR example: the model itself in PyTorch, and its compiled form on every schedule of depths."""
from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import elastic_runtime as er
from elastic_compile import api
from elastic_compile.passes import STANDARD, AppendInPlace

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "var"))

import digits
from schedules import cache_peak, compiled, eager_cache_peak, peak_rows, run, run_eager
from transformer import VAR, equidistant, generate, gumbel, sample
from vqvae import VQVAE, Quantiser, resizing

SIZES = (1, 2, 3, 5)


def small(depth: int = 4, **options) -> tuple[VAR, VQVAE]:
    torch.manual_seed(0)
    vqvae = VQVAE(3, (16, 32), codes=48, latent=8, sizes=SIZES)
    var = VAR(vqvae.quantiser, 32, depth, 4, classes=10, **{"top_k": 20, "top_p": 0.9, **options})
    with torch.no_grad():
        for parameter in var.blocks.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        var.head.linear.weight *= 10
    return var.eval(), vqvae.eval()


def noise(batch: int, seed: int = 1) -> torch.Tensor:
    return gumbel(batch, sum(size * size for size in SIZES), 48, seed=seed)


# ------------------------------------------------------------------------------------------------- in PyTorch
@pytest.mark.parametrize("mode", ["bicubic", "area"])
@pytest.mark.parametrize(("source", "target"), [(3, 16), (16, 13), (8, 8), (1, 5)])
def test_resizing_is_what_interpolate_does(mode, source, target):
    image = torch.randn(2, 3, source, source)
    matrix = resizing(source, target, mode)
    torch.testing.assert_close(matrix @ image @ matrix.T, F.interpolate(image, (target, target), mode=mode),
                               atol=1e-5, rtol=1e-5)


def test_the_tokens_of_an_image_give_its_quantised_latent_image_back():
    _, vqvae = small()
    with torch.no_grad():
        latent, tokens, _ = vqvae.quantiser(vqvae.encoder(torch.randn(2, 3, 10, 10)))
        summed = sum(vqvae.quantiser.contribution(each, scale) for scale, each in enumerate(tokens))
    assert [each.shape for each in tokens] == [(2, size * size) for size in SIZES]
    torch.testing.assert_close(latent, summed, atol=1e-5, rtol=1e-5)


def test_equidistant_layers_and_which_of_them_contain_which():
    assert equidistant(16, 4) == (0, 5, 10, 15) and equidistant(16, 2) == (0, 15)
    assert equidistant(16, 16) == tuple(range(16))
    assert not set(equidistant(16, 4)) <= set(equidistant(16, 8))
    with pytest.raises(ValueError, match="a depth of 1 layers"):
        equidistant(16, 1)


def test_sampling():
    logits = torch.randn(3, 7, 40)
    drawn = gumbel(3, 7, 40, seed=0)
    assert torch.equal(sample(logits, drawn, 1, 1.0), logits.argmax(-1))
    assert torch.equal(sample(logits, drawn, 40, 0.0001), logits.argmax(-1))
    assert torch.equal(sample(logits, drawn, 40, 1.0), (logits + drawn).argmax(-1))
    many = sample(logits[:1, :1].expand(20_000, 1, 40), gumbel(20_000, 1, 40, seed=1), 40, 1.0)
    share = torch.bincount(many.flatten(), minlength=40) / 20_000
    torch.testing.assert_close(share, logits[0, 0].softmax(-1), atol=0.02, rtol=0)
    few = sample(logits[:1, :1].expand(2_000, 1, 40), gumbel(2_000, 1, 40, seed=1), 5, 1.0)
    assert set(few.flatten().tolist()) == set(logits[0, 0].topk(5).indices.tolist())
    ranked, order = logits[0, 0].softmax(-1).sort(descending=True)
    enough = int((ranked.cumsum(-1) < 0.6).sum()) + 1
    some = sample(logits[:1, :1].expand(5_000, 1, 40), gumbel(5_000, 1, 40, seed=2), 40, 0.6)
    assert set(some.flatten().tolist()) == set(order[:enough].tolist())


@pytest.mark.parametrize("depths", [(4, 4, 4, 4), (4, 4, 2, 2), (4, 3, 3, 3), (2, 2, 2, 2)])
def test_scale_by_scale_gives_what_all_scales_at_once_give(depths):
    var, vqvae = small(guidance=0.0)
    label, drawn = torch.tensor([3, 7]), noise(2)
    with torch.no_grad():
        tokens = []
        for depth in depths:
            var.activate({"depth": depth})
            tokens.append(var(label, drawn)["tokens"])
        scores = var.train().scores(label, vqvae.quantiser.inputs(tokens), depths)
        assert torch.equal(sample(scores, drawn, var.top_k, var.top_p), torch.cat(tokens, 1))
    assert len(torch.cat(tokens, 1).unique()) > 5


def test_a_layer_that_skipped_a_scale_cannot_come_back_in_training():
    var, _ = small()
    with pytest.raises(ValueError, match="runs at a scale after one that skips it"):
        var.train().scores(torch.tensor([1]), torch.zeros(1, 38, 8), (2, 4, 4, 4))


def test_unfinished_images_are_forgotten_on_reset():
    var, _ = small()
    label, drawn = torch.tensor([3]), noise(1)
    with torch.no_grad():
        first = [var(label, drawn)["latent"] for _ in SIZES][-1]
        var(label, drawn)
        var.reset()
        again = [var(label, drawn)["latent"] for _ in SIZES][-1]
    assert torch.equal(first, again)
    assert isinstance(var.quantiser, Quantiser) and np.isfinite(again.numpy()).all()


@pytest.mark.parametrize("depth", [8, 4, 2])
def test_the_trained_model_draws_the_digits_that_it_is_asked_for(depth):
    models = digits.trained()
    labels = torch.arange(10).repeat(20)
    images = generate(models["var"], models["vqvae"].decoder, labels, gumbel(200, 30, 128, seed=0),
                      digits.schedule(depth))
    with torch.no_grad():
        right = (models["classifier"](images).argmax(1) == labels).float().mean()
    assert right > 0.95


# ---------------------------------------------------------------------------------------------------- compiled
DEPTHS = (8, 4, 3, 2)


@pytest.fixture
def family(compiled_once):
    var, model, made = compiled_once
    var.reset()
    model.reset()
    return var, model, made


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """The model, the bundle of its depths, and what it takes; caches are appended to from the first byte."""
    var, _ = small(8)
    eager_to_append = tuple(AppendInPlace(0) if isinstance(one, AppendInPlace) else one for one in STANDARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "STANDARD", eager_to_append)
        made = compiled(var, DEPTHS, torch.tensor([3]), noise(1))
    path = tmp_path_factory.mktemp("var") / "family"
    made.save(path)
    return var, er.load(path), made


@pytest.mark.slow
@pytest.mark.parametrize("rollback", [True, False])
@pytest.mark.parametrize("schedule", [
    (8, 8, 8, 8), (8, 8, 8, 4), (8, 8, 4, 4), (8, 4, 4, 4), (4, 4, 4, 4), (8, 8, 3, 3), (8, 2, 2, 2), (2, 2, 2, 2),
    (8, 8, 4, 2), (8, 4, 2, 2), (8, 3, 2, 2),
])
def test_every_schedule_gives_what_eager_gives(family, schedule, rollback):
    var, model, _ = family
    model.rollback = rollback
    for seed in (1, 2):
        label, drawn = torch.tensor([seed]), noise(1, seed)
        with torch.no_grad():
            for depth in schedule:
                var.activate({"depth": depth})
                model.switch(f"d{depth}")
                expected, given = var(label, drawn), model(label.numpy(), drawn.numpy())
                np.testing.assert_array_equal(given["tokens"], expected["tokens"].numpy())
                np.testing.assert_allclose(given["latent"], expected["latent"].numpy(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_subnet_whose_layers_have_no_cache_is_refused_and_the_image_goes_on(family):
    var, model, _ = family
    label, drawn = torch.tensor([3]), noise(1)
    with torch.no_grad():
        for step, depth in enumerate((8, 4, 4, 4)):
            var.activate({"depth": depth})
            model.switch(f"d{depth}")
            expected, given = var(label, drawn), model(label.numpy(), drawn.numpy())
            np.testing.assert_allclose(given["latent"], expected["latent"].numpy(), atol=1e-5, rtol=0)
            if step in (1, 2):
                for other in ("d8", "d3"):
                    with pytest.raises(er.SwitchRefused, match=r"blocks\.\d\.attention\.keys"):
                        model.switch(other)
    model.switch("d8")


@pytest.mark.slow
def test_the_caches_are_dropped_at_the_switch_and_behind_their_last_reader(family):
    var, model, _ = family
    row = 2 * 2 * 32 * 4  # keys and values, both halves of the guidance, floats of the width
    for schedule in ((8, 8, 8, 8), (8, 8, 4, 4), (8, 8, 2, 2), (8, 4, 2, 2)):
        model.rollback = False
        with cache_peak() as peak:
            run(model, np.array([3]), noise(1).numpy(), schedule)
        dropped = peak_rows(8, SIZES, schedule)
        # the first scale's rows are no growing buffer yet
        assert dropped * row * 0.9 < peak[0] <= dropped * row
        with torch.no_grad(), eager_cache_peak(var) as eager:
            run_eager(var, torch.tensor([3]), noise(1), schedule)
        assert eager[0] == peak_rows(8, SIZES, schedule, drop=False) * row
        assert peak[0] < eager[0]


@pytest.mark.slow
def test_conditioning_is_computed_once_and_layers_are_shared(family):
    _, _, made = family
    for name, program in made.programs.items():
        steps = [step for block in program.program.blocks for step in block.steps if hasattr(step, "region")]
        readers = Counter(use.tensor for step in steps for use in program.program.regions[step.region].weights)
        assert {readers[weight] for weight in readers if "modulation" in weight} == {1}, name
        assert {readers[weight] for weight in readers if "feed_forward" in weight} == {len(SIZES)}, name
    regions = made.sharing.regions
    assert all(shared >= total - 1 for name, (total, shared) in regions.items() if name != "d8")
    assert sum(used.own for used in made.sharing.subnets.values()) < made.sharing.stored


@pytest.mark.parametrize(("layers", "depth", "kept", "dropped"), [
    (30, 16, 0.596, 0.345), (30, 8, 0.365, 0.179), (30, 2, 0.192, 0.134), (16, 2, 0.242, 0.134)])
def test_peak_caches_by_formula(layers, depth, kept, dropped):
    sizes = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    schedule, whole = [layers] * 6 + [depth] * 4, layers * 680
    assert round(peak_rows(layers, sizes, schedule, drop=False) / whole, 3) == kept
    assert round(peak_rows(layers, sizes, schedule) / whole, 3) == dropped

"""Trains the small models of this example on scikit-learn's digits and writes their weights.

    python examples/var/train.py [--seed 0] [--output digits.safetensors] [--scale 1.0]

In: the training images. Out: a safetensors file. Never: looks at the test images before training is over.

The transformer is trained as a supernet: each step the scales behind the switch run a depth drawn at random, so that
all schedules share its weights (the sandwich of Yu et al., "Universally Slimmable Networks", 2019, with one draw).
"""
from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from digits import DEPTHS, WEIGHTS, models, schedule, splits
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformer import VAR
from vqvae import VQVAE

from examples.benchmarks.limits import limit

BATCH = 64
LIMIT_S = 1200


def batches(images: Tensor, labels: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` random batches, each shifted by up to half a pixel."""
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,))
        moves = torch.eye(2, 3).repeat(BATCH, 1, 1)
        moves[:, :, 2] = (torch.rand(BATCH, 2) - 0.5) / 8
        grid = F.affine_grid(moves, (BATCH, 1, 8, 8), align_corners=False)
        yield F.grid_sample(images[rows] + 1, grid, align_corners=False) - 1, labels[rows]


def fit(name: str, parameters: list[nn.Parameter], rate: float, steps: int, losses: Iterator[Tensor]) -> None:
    """One optimiser step per loss, the rate rising and falling; prints how it goes."""
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    start, mean = time.perf_counter(), 0.0
    for step, loss in enumerate(losses):
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        rates.step()
        mean += (loss.item() - mean) * max(0.01, 1 / (step + 1))
        if (step + 1) % max(1, steps // 10) == 0:
            print(f"{name}: step {step + 1} of {steps}, loss {mean:.4f}, {time.perf_counter() - start:.0f} s",
                  flush=True)


def classifier_losses(classifier: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Iterator[Tensor]:
    for some, of in batches(images, labels, steps):
        yield F.cross_entropy(classifier(some), of)


def vqvae_losses(vqvae: VQVAE, images: Tensor, labels: Tensor, steps: int) -> Iterator[Tensor]:
    for step, (some, _) in enumerate(batches(images, labels, steps)):
        if step < steps // 2 and step % 50 == 0:
            revive(vqvae, some)
        image, _, loss = vqvae(some)
        yield F.mse_loss(image, some) + F.l1_loss(image, some) + loss


def revive(vqvae: VQVAE, images: Tensor) -> None:
    """Give each code that a batch does not use the place of a random piece of a latent image."""
    with torch.no_grad():
        latent = vqvae.encoder(images)
        _, tokens, _ = vqvae.quantiser(latent)
        used = torch.cat([map_.flatten() for map_ in tokens]).unique()
        unused = torch.ones(vqvae.quantiser.codebook.num_embeddings, dtype=torch.bool)
        unused[used] = False
        pieces = torch.cat([vqvae.quantiser.shrunk(latent, s).flatten(2).transpose(1, 2).flatten(0, 1)
                            for s in range(len(vqvae.quantiser.sizes))])
        vqvae.quantiser.codebook.weight[unused] = pieces[torch.randint(len(pieces), (int(unused.sum()),))]


def var_losses(var: VAR, vqvae: VQVAE, images: Tensor, labels: Tensor, steps: int) -> Iterator[Tensor]:
    for some, of in batches(images, labels, steps):
        with torch.no_grad():
            _, tokens, _ = vqvae(some)
            inputs = vqvae.quantiser.inputs(tokens)
        of = torch.where(torch.rand(BATCH) < 0.1, 10, of)
        scores = var.scores(of, inputs, schedule(random.choice(DEPTHS)))
        yield F.cross_entropy(scores.flatten(0, 1), torch.cat(tokens, 1).flatten(), label_smoothing=0.02)


def train(seed: int, scale: float) -> nn.ModuleDict:
    """All three models, one after the other; `scale` multiplies the number of steps."""
    torch.manual_seed(seed)
    random.seed(seed)
    images, labels, test_images, test_labels = splits()
    made = models().train()
    steps = [int(count * scale) for count in (600, 1200, 2500)]
    classifier, vqvae, var = made["classifier"], made["vqvae"], made["var"]
    fit("classifier", list(classifier.parameters()), 2e-3, steps[0],
        classifier_losses(classifier, images, labels, steps[0]))
    fit("vqvae", list(vqvae.parameters()), 2e-3, steps[1], vqvae_losses(vqvae, images, labels, steps[1]))
    vqvae.eval().requires_grad_(False)
    trainable = [each for each in var.parameters() if each.requires_grad]
    fit("var", trainable, 2e-3, steps[2], var_losses(var, vqvae, images, labels, steps[2]))
    made.eval()
    with torch.no_grad():
        right = (classifier(test_images).argmax(1) == test_labels).float().mean()
        image, _, _ = vqvae(test_images)
        print(f"test: classifier {right:.1%}, on reconstructions "
              f"{(classifier(image).argmax(1) == test_labels).float().mean():.1%}, "
              f"reconstruction error {F.mse_loss(image, test_images):.4f}")
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    result = train(arguments.seed, arguments.scale)
    save_file({name: tensor.half().contiguous() for name, tensor in result.state_dict().items()
               if not name.startswith("var.quantiser.")}, arguments.output)
    took = time.perf_counter() - begun
    print(f"{took:.0f} s ({limit(took, LIMIT_S, unit=' s')}) with {torch.get_num_threads()} threads, wrote "
          f"{arguments.output}")

"""What each depth schedule is worth on digits: how well they are drawn, beside latency and cache memory.

    python examples/var/quality.py [--images 1000] [--threads 1]

In: the trained weights. Out: a table, and the trade-off as a picture, `tradeoff.svg` beside this file.
Never: generates with anything but the bundle, whose results the tests compare with eager PyTorch.

Digits are judged by a classifier that has seen real ones: the share of images that it takes for the digit that was
asked for, and the Fréchet distance between its features of the generated and of all real images (Heusel et al., "GANs
Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017, with this classifier's features).
"""
from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from digits import DEPTH, DEPTHS, SIZES, WIDTH, schedule, splits, trained
from rich.console import Console
from rich.table import Table
from schedules import compiled, peak_rows, run
from torch import Tensor, nn
from transformer import gumbel

import elastic_compile as ec
import elastic_runtime as er

BATCH = 10
ROW = 2 * 2 * WIDTH * 4
"""Bytes of a cache row: keys and values, with and without guidance, of float32."""
PICTURE = Path(__file__).with_name("tradeoff.svg")


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance between normal distributions fitted to two sets of features [count, features]."""
    mean_a, mean_b, cov_a, cov_b = a.mean(0), b.mean(0), np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def features(classifier: nn.Module, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        return classifier.features(images).double().numpy()


def measure(models: nn.ModuleDict, images: int, threads: int) -> list[dict[str, float]]:
    """Per depth: accuracy, Fréchet distance, milliseconds per image (batches of ten, schedules taking turns), and the
    peak of the caches in bytes, counted from the schedule (`benchmark.py` measures it)."""
    var, classifier = models["var"], models["classifier"]
    labels, tokens = torch.arange(BATCH), var.ends[-1]
    codes = models["vqvae"].quantiser.codebook.num_embeddings
    real = features(classifier, torch.cat(splits()[::2]))
    drawn: dict[int, list[np.ndarray]] = {depth: [] for depth in DEPTHS}
    times: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    with tempfile.TemporaryDirectory() as directory:
        family, decoder = Path(directory) / "var", Path(directory) / "decoder"
        example = gumbel(BATCH, tokens, codes, seed=0)
        compiled(var, DEPTHS, labels, example).save(family)
        ec.compile(models["vqvae"].decoder, [(torch.zeros(BATCH, 8, SIZES[-1], SIZES[-1]),)]).save(decoder)
        model, decode = er.load(family, threads=threads), er.load(decoder, threads=threads)
        model.rollback = False
        for number in range(images // BATCH):
            noise = gumbel(BATCH, tokens, codes, seed=number).numpy()
            for depth in DEPTHS:
                latent, timing = run(model, labels.numpy(), noise, schedule(depth))
                times[depth].append(timing.total * 1e3 / BATCH)
                drawn[depth].append(decode(latent))
    rows = []
    for depth in DEPTHS:
        made = torch.from_numpy(np.concatenate(drawn[depth]))
        with torch.no_grad():
            right = classifier(made).argmax(1) == labels.repeat(len(made) // BATCH)
        rows.append({"depth": depth, "accuracy": float(right.float().mean()),
                     "frechet": frechet(features(classifier, made), real),
                     "ms": statistics.median(times[depth]),
                     "cache": peak_rows(DEPTH, SIZES, schedule(depth)) * ROW})
    return rows


def picture(rows: list[dict[str, float]], floor: float, target: Path) -> None:
    """The trade-off: Fréchet distance over latency; the area of a point is its cache."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tradeoff"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot([row["ms"] for row in rows], [row["frechet"] for row in rows], color="0.6", zorder=1)
    axes.scatter([row["ms"] for row in rows], [row["frechet"] for row in rows],
                 s=[row["cache"] / max(row["cache"] for row in rows) * 400 for row in rows], zorder=2)
    for row in rows:
        axes.annotate(f"depth {row['depth']}, {row['accuracy']:.1%} right", (row["ms"], row["frechet"]),
                      textcoords="offset points", xytext=(0, 16), ha="center", fontsize=8)
    axes.axhline(floor, linestyle=":", color="0.4")
    axes.annotate("real test images against real training images", (0.02, floor), xycoords=("axes fraction", "data"),
                  fontsize=8, va="bottom")
    axes.margins(0.25)
    axes.set_xlabel("ms per image (transformer)")
    axes.set_ylabel("Fréchet distance to real digits")
    axes.set_title(f"{DEPTH} layers at first, fewer from scale 3 on; area: peak cache", fontsize=9)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = trained()
    train, _, test, _ = splits()
    floor = frechet(features(models["classifier"], test), features(models["classifier"], train))
    rows = measure(models, options.images, options.threads)
    table = Table(title=f"{options.images} digits, batches of {BATCH}, {options.threads} thread(s)",
                  title_justify="left")
    for name in ("depth from scale 3 on", "taken for the digit asked for", "Fréchet distance", "ms per image",
                 "peak cache KiB per image"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(str(row["depth"]), f"{row['accuracy']:.1%}", f"{row['frechet']:.2f}", f"{row['ms']:.3f}",
                      f"{row['cache'] / 1024:.1f}")
    console = Console(highlight=False, width=120)
    console.print(table)
    console.print(f"real test images against real training images: Fréchet distance {floor:.2f}")
    picture(rows, floor, options.picture)
    console.print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()

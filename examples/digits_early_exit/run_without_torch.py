"""What an application does: load a bundle with `elastic_runtime` and call it on images.

    python run_without_torch.py images.npz BUNDLE...

In: an .npz file with `images`, float32 [count, 1, 8, 8], and bundles. Out: one JSON object on standard output.
Never: imports torch, nor could it: this is made for an environment that has none.
"""
from __future__ import annotations

import importlib.util
import json
import sys
from importlib import metadata

import numpy as np

import elastic_runtime as er


def run(bundle: str, images: np.ndarray) -> dict[str, list[int]]:
    model = er.load(bundle, threads=1, allow_native=True, self_test=True)
    results = [model(images[number:number + 1]) for number in range(len(images))]
    return {"classes": [int(result["scores"].argmax()) for result in results],
            "exits": [result["exit"] for result in results]}


if __name__ == "__main__":
    if importlib.util.find_spec("torch") is not None:
        sys.exit("this environment has torch; run it where only elastic-runtime is installed")
    images = np.load(sys.argv[1], allow_pickle=False)["images"]
    installed = sorted(item.metadata["Name"] for item in metadata.distributions())
    print(json.dumps({
        "python": sys.executable, "torch": importlib.util.find_spec("torch") is not None,
        "packages": ", ".join(name for name in installed if name not in ("pip", "setuptools")),
        "bundles": [run(bundle, images) for bundle in sys.argv[2:]],
    }))

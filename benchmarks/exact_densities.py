"""PixelRNNs beside a PixelCNN of as many parameters on MNIST of 14 x 14 pixels, and the cost of samples of 28 x 28.

    python benchmarks/exact_densities.py --root data
    python benchmarks/exact_densities.py --root data --epochs 1 --images 1000 --out densities

Two by two pixels of MNIST are averaged, and binarized at random for every batch. All networks are trained for the same
number of epochs; log p(x) of the test images is exact. The number of sequential steps is that of one pass over an image
of 14 x 14, each of which waits for the one before: layers, rows or diagonals.

Samples: processor seconds for 64 images of 28 x 28 pixel by pixel, once from the cache, and once by a full pass for
each pixel, of which some are timed and the time is multiplied by their share. An interrupted run continues where it
stopped.

References:
    Pixel recurrent neural networks (van den Oord et al., 2016). https://arxiv.org/abs/1601.06759
    Fast generation for convolutional autoregressive models (Ramachandran et al., 2017).
    https://arxiv.org/abs/1704.06001
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import provenance

from pyro_vae import fit, log_likelihood
from pyro_vae.data import MNIST, ImageSet
from pyro_vae.models import AutoregressiveModel
from pyro_vae.networks import (
    CausalNetworkFactory,
    DiagonalLSTM,
    GatedPixelCNN,
    MaskedMLP,
    MultiScale,
    PixelAttention,
    PixelCNN,
    PixelCNNPlusPlus,
    RowLSTM,
)

RESULTS = Path(__file__).parent / "results" / "exact-densities"
SIZE = 14
TRAINED: dict[str, tuple[CausalNetworkFactory, int]] = {
    "PixelCNN": (partial(PixelCNN, channels=20, num_layers=6, kernel_size=5), 6),
    "RowLSTM": (partial(RowLSTM, channels=27, num_layers=2), 1 + 2 * SIZE),
    "DiagonalLSTM": (partial(DiagonalLSTM, channels=25, num_layers=2), 1 + 2 * (2 * SIZE - 1)),
}
"""Each network with its number of sequential steps; all have about as many parameters."""
SAMPLED: dict[str, CausalNetworkFactory] = {
    "MaskedMLP": partial(MaskedMLP, hidden=(2000,)),
    "PixelCNN": partial(PixelCNN, channels=16),
    "GatedPixelCNN": partial(GatedPixelCNN, channels=16),
    "PixelCNNPlusPlus": partial(PixelCNNPlusPlus, channels=16),
    "RowLSTM": partial(RowLSTM, channels=16),
    "DiagonalLSTM": partial(DiagonalLSTM, channels=16),
    "PixelAttention": partial(PixelAttention, channels=16),
    "MultiScale": partial(MultiScale, net=partial(GatedPixelCNN, channels=16)),
}


def small_images(images: ImageSet, num: int) -> torch.Tensor:
    """The first images at half the resolution, ``(num, 1, 14, 14)``, as probabilities."""
    x = images.images[:num].float() / 255
    return torch.nn.functional.avg_pool2d(x, 2)


def seconds(function: Any) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def trained(name: str, train: torch.Tensor, test: torch.Tensor, epochs: int, lr: float) -> dict[str, Any]:
    """The exact test log-likelihood of a network, and the cost of its training."""
    net, steps = TRAINED[name]
    torch.manual_seed(0)
    m = AutoregressiveModel((1, SIZE, SIZE), net=net)
    m.base.initialise_mean(train.mean(0))
    options: dict[str, Any] = {"optimizer": partial(torch.optim.Adam, lr=lr), "engine": "eager", "progress": False}
    options |= {"batch_size": 50, "ema": 0.99, "epochs": epochs}
    cost = seconds(lambda: fit(m.model, m.guide, ImageSet(train, dynamic=True), **options))
    result = log_likelihood(m.model, m.guide, torch.bernoulli(test, generator=torch.Generator().manual_seed(0)))
    return {
        "network": name,
        "parameters": sum(p.numel() for p in m.parameters()),
        "sequential_steps": steps,
        "log_p": result.mean(),
        "error": result.sampling_error(),
        "seconds_per_step": cost / (epochs * -(-len(train) // 50)),
    }


def sampled(name: str, num: int, passes: int) -> dict[str, Any]:
    """The cost of samples of a network with random weights."""
    torch.manual_seed(0)
    m = AutoregressiveModel((1, 28, 28), net=SAMPLED[name])
    p, x, sites = m.distribution(), torch.zeros(num, 1, 28, 28), m.net.num_sites
    cached = seconds(lambda: p.complete(x, 0))
    plain = seconds(lambda: p.complete(x, sites - passes, cached=False)) * sites / passes
    return {"network": name, "images": num, "cached": cached, "plain": plain, "ratio": plain / cached}


def summary(record: dict[str, Any]) -> list[str]:
    """Both tables."""
    lines = ["| network | parameters | sequential steps | seconds per step of 50 | log p(x) in nats |"]
    lines.append("|---|---|---|---|---|")
    for r in record["trained"]:
        cells = r["network"], r["parameters"], r["sequential_steps"], f"{r['seconds_per_step']:.3f}"
        lines.append(f"| {' | '.join(map(str, cells))} | {r['log_p']:.2f} +- {r['error']:.2f} |")
    lines += ["", "| network | cached: seconds | full passes: seconds | ratio |", "|---|---|---|---|"]
    for r in record["sampled"]:
        lines.append(f"| {r['network']} | {r['cached']:.2f} | {r['plain']:.1f} | {r['ratio']:.0f} |")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Train, sample, write the record and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data", help="folder with MNIST/raw (%(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the data (%(default)s)")
    parser.add_argument("--images", type=int, default=20_000, help="training images (%(default)s)")
    parser.add_argument("--test", type=int, default=5000, help="test images (%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (%(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="images to sample (%(default)s)")
    parser.add_argument("--passes", type=int, default=16, help="full passes that are timed (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args(argv)
    names = ("epochs", "images", "test", "lr", "samples", "passes")
    protocol = {name: getattr(options, name) for name in names}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "exact-densities.json"
    record = json.loads(file.read_text()) if file.exists() else {"protocol": protocol, "trained": [], "sampled": []}
    if record["protocol"] != protocol:
        raise SystemExit(
            f"exact_densities: {file} must be of these options, got {record['protocol']}. Use another --out."
        )
    splits = MNIST(options.root, binarize="none").load()
    data = small_images(splits.train, options.images), small_images(splits.test, options.test)
    parts: dict[str, tuple[dict[str, Any], Any]] = {
        "sampled": (SAMPLED, lambda name: sampled(name, options.samples, options.passes)),
        "trained": (TRAINED, lambda name: trained(name, *data, options.epochs, options.lr)),
    }
    for part, (networks, measure) in parts.items():
        for name in networks:
            if not any(row["network"] == name for row in record[part]):
                record[part].append(measure(name))
                record |= provenance(["python benchmarks/exact_densities.py --root data"], "")
                file.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(summary(record)))


if __name__ == "__main__":
    main()

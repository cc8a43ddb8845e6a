"""Train the VAEs of benchmarks/outliers.py, one after the other; those that are in the folder are kept.

    python benchmarks/outlier_models.py FOLDER --root data --seeds 0 1 2 3 4

Grey levels with a discretized logistic likelihood, 784-400-400-20, Adam. The settings were chosen before any
outlier was scored, by the time that they take.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.optim import Adam
from torchvision.datasets.mnist import read_image_file

from pyro_vae.data import ImageSet
from pyro_vae.data.splitting import hold_out
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import DiscretizedLogisticLikelihood
from pyro_vae.models import VAE
from pyro_vae.models.build import build_vae
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import fit

LATENT_DIM, HIDDEN = 20, (400, 400)


def images_of(root: Path, name: str, split: str) -> ImageSet:
    """The grey images of MNIST or FashionMNIST, ``"train"`` or ``"t10k"``."""
    return ImageSet(read_image_file(str(root / name / "raw" / f"{split}-images-idx3-ubyte")).unsqueeze(1))


def splits_of(root: Path, name: str, seed: int) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Training, validation and test images: 50,000, 10,000 and 10,000."""
    images = images_of(root, name, "train")
    kept, held_out = hold_out(len(images), 10_000, seed=seed, name="validation")
    return images.subset(kept), images.subset(held_out), images_of(root, name, "t10k")


def build(seed: int) -> VAE:
    """An untrained VAE of 28 x 28 grey images."""
    net = partial(MLP, hidden=HIDDEN, activation="relu")
    likelihood = partial(DiscretizedLogisticLikelihood, net=net)
    pieces = StandardNormalPrior, likelihood, partial(DiagonalNormalGuide, net=net)
    return build_vae((1, 28, 28), LATENT_DIM, *pieces, seed=seed)


def trained(folder: Path, root: Path, name: str, seed: int, epochs: int) -> VAE:
    """The VAE of a seed: read from the folder, or trained and written there."""
    file, vae = folder / f"{name}-{seed}.safetensors", build(seed)
    if file.exists():
        vae.load_state_dict(load_file(file))
        return vae.eval()
    train, validation, _ = splits_of(root, name, seed)
    start, cpu = time.perf_counter(), time.process_time()
    options = {"epochs": epochs, "batch_size": 200, "optimizer": partial(Adam, lr=1e-3), "seed": seed}
    result = fit(vae.model, vae.guide, train, validation=validation, engine="eager", progress=False, **options)
    cost = {"minutes": (time.perf_counter() - start) / 60, "processor_minutes": (time.process_time() - cpu) / 60}
    record = {**cost, "epochs": epochs, "best_epoch": result.best_epoch, "last": result.history[-1]}
    (folder / f"{name}-{seed}.json").write_text(json.dumps(record, indent=1) + "\n")
    save_file(vae.state_dict(), file)
    return vae.eval()


def main(argv: list[str] | None = None) -> None:
    """Train the models of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--names", nargs="+", default=["FashionMNIST"])
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.names:
        for seed in options.seeds:
            trained(options.folder, options.root, name, seed, options.epochs)


if __name__ == "__main__":
    main()

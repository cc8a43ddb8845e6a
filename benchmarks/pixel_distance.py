"""What pixel distance does: distorted digits by the distance of pixels, by that of features, and by log p(x) of a VAE.

    python benchmarks/pixel_distance.py --root data

The features are those of a classifier of the training digits; the VAE has grey pixels that are normal around its mean,
with one learned scale, so that its distortion is the squared distance of pixels.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import provenance

from pyro_vae import VAE, fit
from pyro_vae.data import MNIST, ImageSet
from pyro_vae.evaluation import distorted_images
from pyro_vae.evaluation.image_distortions import DISTORTIONS
from pyro_vae.evaluation.image_features import ImageFeatures
from pyro_vae.evaluation.result import mean_error
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.networks import MLP
from pyro_vae.plotting import distortion_ranks
from pyro_vae.priors import StandardNormalPrior

RESULTS = Path(__file__).parent / "results" / "learned-losses"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "pixel-distance.png"


def trained(images: ImageSet, epochs: int) -> VAE:
    """A VAE with 20 latents."""
    torch.manual_seed(0)
    net = partial(MLP, hidden=(200, 200), activation="relu")
    likelihood = NormalLikelihood(20, images.data_shape, net=net, scale="global")
    vae = VAE(StandardNormalPrior(20), likelihood, DiagonalNormalGuide(images.data_shape, 20, net=net))
    options: dict[str, Any] = {"optimizer": partial(torch.optim.Adam, lr=1e-3), "engine": "eager", "progress": False}
    fit(vae.model, vae.guide, images, epochs=epochs, batch_size=128, **options)
    return vae


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data", help="folder with MNIST/raw (%(default)s)")
    parser.add_argument("--images", type=int, default=100, help="test images (%(default)s)")
    parser.add_argument("--samples", type=int, default=200, help="of log p(x), per image (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of the classifier (%(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of the VAE (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    args = parser.parse_args(argv)
    splits = MNIST(args.root, binarize="none").load()
    features = ImageFeatures(splits.train, num_steps=args.steps)
    x = splits.test.batch(slice(args.images), dtype=torch.float32)
    options: dict[str, Any] = {"num_samples": args.samples, "options": {"engine": "eager"}}
    result = distorted_images(x, features, vae=trained(splits.train, args.epochs), **options)
    means = {
        measure: {
            name: {"mean": float(column.mean()), "error": mean_error(column)}
            for name, column in zip(DISTORTIONS, values.T, strict=True)
        }
        for measure, values in result.distances.items()
    }
    settings = {name: getattr(args, name) for name in ("images", "samples", "steps", "epochs")}
    accuracy = {"classifier_accuracy": features.accuracy(splits.test)}
    record = {"means": means, "ranks": result.ranks(), **accuracy, "settings": settings}
    record |= provenance(["python benchmarks/pixel_distance.py --root data"], "")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pixel-distance.json").write_text(json.dumps(record, indent=1) + "\n")
    caption = f"The first of {args.images} test images of MNIST with its distortions, and mean distances"
    distortion_ranks(result, caption=caption).savefig(args.figure)
    print("\n".join(result.lines()))


if __name__ == "__main__":
    main()

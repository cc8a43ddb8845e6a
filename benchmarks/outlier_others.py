"""Outlier scores that need further models: a background, several runs (WAIC), a hierarchy (ratio over layers).

    python benchmarks/outlier_others.py FOLDER --root data --out benchmarks/results/outliers/others.json

FOLDER holds the VAEs of benchmarks/outlier_models.py: FashionMNIST-0 is scored, the other seeds are the further runs.
The background is the same VAE, trained on images of which every pixel is replaced by a random level with probability
0.2; the hierarchy has two layers of 20 and 10 latents. Both are trained here, unless they are in the folder. No setting
was tuned. The reference is 1,500 test images, since the training images of one seed are held out by another; the data
are the next 1,000.

References:
    Likelihood ratios for out-of-distribution detection (Ren et al., 2019). https://arxiv.org/abs/1906.02845
    WAIC, but why? (Choi et al., 2018). https://arxiv.org/abs/1810.01392
    Hierarchical VAEs know what they don't know (Havtorn et al., 2021). https://arxiv.org/abs/2102.08248
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from outlier_models import HIDDEN, LATENT_DIM, build, images_of, splits_of
from outliers import NUM_DATA, NUM_REFERENCE, OTHER, outlier_sets
from record import provenance
from safetensors.torch import load_file, save_file
from torch.optim import Adam

from pyro_vae._core.contexts import isolated_rng
from pyro_vae.data import ImageSet
from pyro_vae.evaluation import OutlierDetector, detection
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import DiscretizedLogisticLikelihood
from pyro_vae.models import HierarchicalVAE, TopDownGuide
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import fit

NAME, UPPER_DIM, MUTATED = "FashionMNIST", 10, 0.2


def mutated(images: ImageSet, share: float, seed: int = 0) -> ImageSet:
    """The images with a share of the pixels replaced by uniform levels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = images.images
    noise = torch.randint(0, 256, pixels.shape, generator=generator, dtype=torch.uint8)
    return ImageSet(torch.where(torch.rand(pixels.shape, generator=generator) < share, noise, pixels))


def hierarchy(seed: int = 0) -> HierarchicalVAE:
    """An untrained model p(z2) p(z1 | z2) p(x | z1), whose guide samples z2 first."""
    shape, net = (1, 28, 28), partial(MLP, hidden=HIDDEN, activation="relu")
    below = partial(ContextNetwork, context_dim=UPPER_DIM, hidden=HIDDEN[:1], activation="relu")
    with isolated_rng(seed):
        layers = DiagonalNormalGuide(shape, LATENT_DIM, net=below), DiagonalNormalGuide(shape, UPPER_DIM, net=net)
        conditionals = [DiagonalNormalGuide((UPPER_DIM,), LATENT_DIM, net=partial(MLP, hidden=HIDDEN[:1]))]
        likelihood = DiscretizedLogisticLikelihood(LATENT_DIM, shape, net=net)
        return HierarchicalVAE(StandardNormalPrior(UPPER_DIM), conditionals, likelihood, TopDownGuide(layers))


def trained(vae: Any, file: Path, train: Callable[[], ImageSet], epochs: int) -> tuple[Any, dict[str, Any]]:
    """The model of a file, or trained and written there, and the cost of its training."""
    record = file.with_suffix(".json")
    if not file.exists():
        cpu, options = time.process_time(), {"batch_size": 200, "engine": "eager", "progress": False, "seed": 0}
        fit(vae.model, vae.guide, train(), epochs=epochs, optimizer=partial(Adam, lr=1e-3), **options)
        record.write_text(json.dumps({"epochs": epochs, "processor_minutes": (time.process_time() - cpu) / 60}))
        save_file(vae.state_dict(), file)
    vae.load_state_dict(load_file(file))
    return vae.eval(), json.loads(record.read_text())


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, and write the AUROC of each score with its bootstrap interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=15, help="of the background and of the hierarchy (%(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    files = sorted(options.folder.glob(f"{NAME}-[0-9]*.safetensors"))
    runs = []
    for file in files:
        runs.append(build(0))
        runs[-1].load_state_dict(load_file(file))
    train, test = splits_of(options.root, NAME, 0)[0], images_of(options.root, NAME, "t10k")
    noisy = partial(mutated, train, MUTATED)
    background, cost = trained(build(0), options.folder / "background.safetensors", noisy, options.epochs)
    layered, layered_cost = trained(
        hierarchy(), options.folder / "hierarchy.safetensors", lambda: train, options.epochs
    )
    further = {"background": (background.model, background.guide), "ensemble": [(v.model, v.guide) for v in runs[1:]]}
    reference, data = (
        test.subset(slice(*ends)) for ends in ((0, NUM_REFERENCE), (NUM_REFERENCE, NUM_REFERENCE + NUM_DATA))
    )
    detectors = {
        "VAE": OutlierDetector(runs[0].model, runs[0].guide, reference, **further),
        "hierarchy": OutlierDetector(layered.model, layered.guide, reference),
    }
    sets = outlier_sets(options.root, NAME, data)
    results: dict[str, Any] = {}
    for kind, detector in detectors.items():
        inside = detector.scores(data)
        for other in (OTHER[NAME], "FreyFaces"):
            outside = detector.scores(sets[other].subset(slice(NUM_DATA)))
            columns = {name: (inside[:, i], outside[:, i]) for i, name in enumerate(detector.names)}
            results[f"{kind}: {other}"] = {name: detection(*pair)._asdict() for name, pair in columns.items()}
            print(
                f"{kind}: {other}", {name: f"{100 * d['auroc']:.2f}" for name, d in results[f"{kind}: {other}"].items()}
            )
    content = provenance([f"python benchmarks/outlier_others.py FOLDER --epochs {options.epochs}"], "")
    content |= {"runs": [file.stem for file in files], "background": cost, "hierarchy": layered_cost}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**content, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

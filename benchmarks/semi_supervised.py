"""M2 and M1+M2 on MNIST with few labels: test error over several choices of the labels.

    python benchmarks/semi_supervised.py --root data --labels 3000 --out runs/m2-3000
    python benchmarks/semi_supervised.py --root data --labels 100 --m1 runs/mnist-1l --out runs/m1m2-100 --seeds 0 1 2

With ``--m1 RUN`` the data are draws of the latents of that run's VAE, new ones for every batch, of its active
dimensions. One run folder per seed, ``OUT-SEED``, is made or gone on with; the seed is that of the labels too. Test
images are looked at once, at the end of each run.

References:
    Semi-supervised learning with deep generative models (Kingma et al., 2014), section 4 and appendix.
    https://arxiv.org/abs/1406.5298
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import (
    MLP,
    MNIST,
    BernoulliLikelihood,
    CategoricalGuide,
    CategoricalPrior,
    ContextNetwork,
    DiagonalNormalGuide,
    ImageSet,
    NormalLikelihood,
    Run,
    SemiSupervisedVAE,
    StandardNormalPrior,
    fit,
)
from pyro_vae.data.encoded_set import EncodedSet
from pyro_vae.experiment import load_run
from pyro_vae.files import write_atomically
from pyro_vae.models import classification_weight
from pyro_vae.objectives import SummedELBO

CLASSES = 10


def build(train: ImageSet, options: argparse.Namespace) -> SemiSupervisedVAE:
    """M2 with one hidden layer of softplus units everywhere; of latents, with a normal likelihood."""
    shape, dims, width = train.data_shape, options.latent_dim, (options.width,)
    both = partial(ContextNetwork, context_dim=CLASSES, net=partial(MLP, hidden=()), hidden=width)
    both = partial(both, activation="softplus")
    if isinstance(train, EncodedSet):
        likelihood = NormalLikelihood(dims, shape, net=both, scale="network", min_scale=1e-3)
        with torch.no_grad():
            likelihood.log_scale.zero_()
    else:
        likelihood = BernoulliLikelihood(dims, shape, net=both).start_at(train.mean())
    classifier = CategoricalGuide(
        shape, CLASSES, net=partial(MLP, hidden=width, activation="softplus", dropout=options.dropout)
    )
    weight = classification_weight(len(train), options.labels, alpha=options.alpha)
    guide = DiagonalNormalGuide(shape, dims, net=both)
    prior, labels = StandardNormalPrior(dims), CategoricalPrior(CLASSES)
    return SemiSupervisedVAE(prior, likelihood, guide, classifier, labels, classification_weight=weight)


def latents_of(run: str, root: str, images: list[ImageSet], threshold: float = 0.1) -> list[EncodedSet]:
    """Draws of the active latents of a run's VAE, as data; test images are not looked at to find these."""
    vae = load_run(run, root=root).vae.eval()
    train = images[0]
    with torch.no_grad():
        loc = torch.cat([vae.encode(train.batch(part)).mean for part in torch.arange(len(train)).split(1000)])
    active = (loc.std(0) > threshold).nonzero().squeeze(-1)
    print(f"M1: {len(active)} of {vae.latent_dim} dimensions are active", flush=True)

    def encode(x: torch.Tensor) -> torch.Tensor:
        return vae.encode(x).sample()[..., active]

    return [EncodedSet.of(part, encode, (len(active),)) for part in images]


def error(vae: SemiSupervisedVAE, images: ImageSet, draws: int = 1) -> float:
    """Classification error in percent; where data are encoded at random, of the mean probability over draws."""
    wrong = 0
    for part in torch.arange(len(images)).split(1000):
        with torch.no_grad():
            probability = sum(vae.classify(images.batch(part)) for _ in range(draws))
        wrong += int((probability.argmax(-1) != images.labels[part]).sum())
    return 100 * wrong / len(images)


def train_one(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A run of one choice of labels, made or gone on with."""
    splits = MNIST(root=options.root, labels=options.labels, label_seed=seed, validation=options.validation).load()
    train, validation, test = splits.train, splits.validation, splits.test
    if options.m1:
        train, validation, test = latents_of(options.m1, options.root, [train, validation, test])
    torch.manual_seed(seed)
    vae = build(train, options)
    folder = Path(f"{options.out}-{seed}")
    config = yaml.safe_dump({**{k: v for k, v in vars(options).items() if k not in ("out", "seeds")}, "seed": seed})
    run = Run(folder) if folder.exists() else Run.create(folder, config=config)
    result = fit(
        vae.model,
        vae.guide,
        train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        objective=SummedELBO(),
        optimizer=partial(Adam, lr=options.lr),
        lr_schedule=partial(CosineAnnealingLR, T_max=options.epochs),
        monitor=lambda: {"validation_error": error(vae, validation)},
        seed=seed,
        run=run,
        resume=(folder / "state.pt").exists(),
    )
    draws = 10 if options.m1 else 1
    torch.manual_seed(seed)
    found = {"seed": seed, "test_error": error(vae, test, draws), "validation_error": error(vae, validation, draws)}
    minutes = sum(record["seconds"] for record in run.metrics()) / 60
    found |= {"epochs": result.history[-1]["epoch"] if result.history else options.epochs, "minutes": minutes}
    write_atomically(folder / "classification.json", json.dumps(found).encode(), overwrite=True)
    print(found, flush=True)
    return found


def main() -> None:
    """Train, one run after another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", required=True, help="where MNIST lies")
    parser.add_argument("--labels", type=int, default=3000, help="labelled training images (%(default)s)")
    parser.add_argument("--m1", help="run folder of a VAE of these images: M1+M2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of labels and training (%(default)s)")
    parser.add_argument("--epochs", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's, to zero by a cosine (%(default)s)")
    parser.add_argument("--width", type=int, default=500, help="of the hidden layers (%(default)s)")
    parser.add_argument("--latent-dim", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--alpha", type=float, default=0.1, help="classification weight (%(default)s)")
    parser.add_argument("--dropout", type=float, default=0.0, help="in the classifier (%(default)s)")
    parser.add_argument("--validation", type=int, default=10_000, help="images kept apart (%(default)s)")
    parser.add_argument("--out", required=True, help="run folders OUT-SEED")
    options = parser.parse_args()
    found = [train_one(seed, options) for seed in options.seeds]
    print(f"mean test error {sum(f['test_error'] for f in found) / len(found):.2f}%")


if __name__ == "__main__":
    main()

"""M2 and M1+M2 on MNIST with few labels: test error over several choices of the labels.

    python benchmarks/semi_supervised.py --root data --labels 3000 --out runs/m2-3000
    python benchmarks/semi_supervised.py --root data --labels 100 --m1 runs/mnist-1l --out runs/m1m2-100 --seeds 0 1 2

With ``--m1 RUN`` the data are the active dimensions of the latents of that run's VAE, sampled for every batch. For each
seed, which also chooses the labels, the run folder ``OUT-SEED`` is created or resumed. Test images are used once, at
the end of each run.

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

from pyro_vae import MNIST, SemiSupervisedVAE, StackedVAE, fit
from pyro_vae._core.files import json_ready, write_atomically
from pyro_vae.data import ImageSet, Splits
from pyro_vae.data.latent_set import LatentSet
from pyro_vae.evaluation import class_posterior, classification, mean_interval
from pyro_vae.experiments.experiment import load_run
from pyro_vae.experiments.latent_data import active_latents, latents_of
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.models import LabelledVAE, classification_weight
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.objectives import EnumeratedELBO
from pyro_vae.plotting import analogies, class_samples, reliability_diagram
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior
from pyro_vae.training import RunFolder

CLASSES = 10


def build(train: ImageSet, options: argparse.Namespace) -> SemiSupervisedVAE:
    """M2 with one hidden layer of softplus units in each network; for latents, with a normal likelihood."""
    shape, dims, width = train.data_shape, options.latent_dim, (options.width,)
    both = partial(ContextNetwork, context_dim=CLASSES, net=partial(MLP, hidden=()), hidden=width)
    both = partial(both, activation="softplus")
    if isinstance(train, LatentSet):
        likelihood = NormalLikelihood(dims, shape, net=both, scale="network", min_scale=1e-3)
        with torch.no_grad():
            likelihood.log_scale.zero_()
    else:
        likelihood = BernoulliLikelihood(dims, shape, net=both).initialise_mean(train.mean())
    classifier = CategoricalGuide(
        shape, CLASSES, net=partial(MLP, hidden=width, activation="softplus", dropout=options.dropout)
    )
    weight = classification_weight(len(train), options.labels, alpha=options.alpha)
    guide = DiagonalNormalGuide(shape, dims, net=both)
    prior, labels = StandardNormalPrior(dims), CategoricalPrior(CLASSES)
    return SemiSupervisedVAE(prior, likelihood, guide, classifier, labels, classification_weight=weight)


def evaluate(vae: LabelledVAE, splits: Splits, run: RunFolder, num_samples: int) -> dict[str, Any]:
    """Errors of q(y | x) on validation and test images, class posterior of the first 1,000 test images, and figures."""
    run_protocol = {**splits.protocol, "classifier": "q(y|x)", "split": "test"}
    assert splits.validation is not None
    validation = classification(vae, splits.validation)
    test = classification(vae, splits.test, protocol=run_protocol)
    test.save(run.path / "classification-test.json", overwrite=True)
    first = splits.test.subset(slice(1000))
    posterior = class_posterior(
        vae.model, vae.guide, first, num_classes=CLASSES, num_samples=num_samples, protocol=run_protocol
    )
    posterior.save(run.path / "class_posterior-test.json", overwrite=True)
    same = classification(posterior.probabilities(), first, protocol={**run_protocol, "classifier": "p(y|x)"})
    figures = {
        "reliability": reliability_diagram(test, caption=f"MNIST test, {splits.protocol['labels']} labels"),
        "analogies": analogies(vae, first.batch(slice(10)), first.labels[:10]),
        "class_samples": class_samples(vae),
    }
    for name, figure in figures.items():
        figure.savefig(run.figures / f"{name}.png")
    return {
        "test_error": test.error_rate,
        "validation_error": validation.error_rate,
        "test": test.summary(),
        "first 1000 test images": {
            "error of q(y|x)": float(test.error[:1000].double().mean()),
            "error of p(y|x)": same.error_rate,
            "class posterior": posterior.summary(),
        },
    }


def train_one(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one choice of labels in a new or resumed run."""
    images = MNIST(root=options.root, labels=options.labels, label_seed=seed, validation=options.validation).load()
    splits, lower, active = images, None, None
    if options.m1:
        lower = load_run(options.m1, root=options.root).vae.eval()
        active = active_latents(lower, images.train)
        splits = latents_of(lower, images, active)
        print(f"M1: {len(active)} dimensions are active", flush=True)
    train, validation = splits.train, splits.validation
    torch.manual_seed(seed)
    vae = build(train, options)
    folder = Path(f"{options.out}-{seed}")
    config = yaml.safe_dump({**{k: v for k, v in vars(options).items() if k not in ("out", "seeds")}, "seed": seed})
    run = RunFolder(folder) if folder.exists() else RunFolder.create(folder, config=config)
    fit(
        vae.model,
        vae.guide,
        train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        objective=EnumeratedELBO(),
        optimizer=partial(Adam, lr=options.lr),
        lr_schedule=partial(CosineAnnealingLR, T_max=options.epochs),
        monitor=lambda: {"validation_error": classification(vae, validation).error_rate},
        seed=seed,
        run=run,
        resume=(folder / "state.pt").exists(),
    )
    whole = vae if lower is None else StackedVAE(lower, vae, active)
    record = {"seed": seed, **evaluate(whole, images, run, options.num_samples)}
    write_atomically(
        folder / "classification.json", (json.dumps(json_ready(record), indent=1) + "\n").encode(), overwrite=True
    )
    print({name: record[name] for name in ("seed", "test_error", "validation_error")}, flush=True)
    return record


def main() -> None:
    """Train and evaluate one run per seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", required=True, help="folder with MNIST/raw")
    parser.add_argument("--labels", type=int, default=3000, help="labelled training images (%(default)s)")
    parser.add_argument("--m1", help="run folder of a VAE of these images, for M1+M2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of labels and training (%(default)s)")
    parser.add_argument("--epochs", type=int, default=200, help="passes over the data (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch (%(default)s)")
    parser.add_argument(
        "--lr", type=float, default=1e-3, help="initial learning rate of Adam with a cosine schedule (%(default)s)"
    )
    parser.add_argument("--width", type=int, default=500, help="width of the hidden layers (%(default)s)")
    parser.add_argument("--latent-dim", type=int, default=50, help="latent dimensions (%(default)s)")
    parser.add_argument("--alpha", type=float, default=0.1, help="classification weight (%(default)s)")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout in the classifier (%(default)s)")
    parser.add_argument("--validation", type=int, default=10_000, help="validation images (%(default)s)")
    parser.add_argument("--num-samples", type=int, default=100, help="samples per class for p(y | x) (%(default)s)")
    parser.add_argument("--out", required=True, help="run folders OUT-SEED")
    options = parser.parse_args()
    records = [train_one(seed, options) for seed in options.seeds]
    print(f"test error {mean_interval([record['test_error'] for record in records])}")


if __name__ == "__main__":
    main()

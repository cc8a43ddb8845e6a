"""The two-level VAE of the VampPrior paper on MNIST, with a standard normal prior or a VampPrior for the top layer.

    python benchmarks/two_level.py --root data --out runs/two-level
    python benchmarks/two_level.py --root data --prior vamp --out runs/two-level-vamp
    python benchmarks/two_level.py --root data --out runs/two-level --resume

z1 and z2 of 40 dimensions, gated layers of 300, q(z2 | x) q(z1 | x, z2), p(z1 | z2), and x from both (skip connection).

References:
    VAE with a VampPrior (Tomczak and Welling, 2018), section 3 and 4. https://arxiv.org/abs/1705.07120
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
import yaml
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import MNIST, HierarchicalVAE, fit, log_likelihood
from pyro_vae.data import ImageSet
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.models import TopDownGuide
from pyro_vae.networks import ContextNetwork, GatedMLP
from pyro_vae.objectives import BetaELBO, LinearWarmUp
from pyro_vae.priors import StandardNormalPrior, VampPrior
from pyro_vae.training import RunFolder

BOUNDS = (-3.0, 1.0)  # of the log scale; the paper clips the log variance to (-6, 2)


def build(train: ImageSet, prior: str, dims: int, width: int) -> HierarchicalVAE:
    """The model with its guide; a VampPrior is initialised at training images."""
    shape = train.data_shape
    net = partial(GatedMLP, hidden=(width, width))
    layer = partial(DiagonalNormalGuide, log_scale_bounds=BOUNDS)
    both = partial(ContextNetwork, context_dim=dims, net=partial(GatedMLP, hidden=(width,)), hidden=(width,))
    top = layer(shape, dims, net=net)
    guide = TopDownGuide([layer(shape, dims, net=both), top])
    if prior == "vamp":
        p = VampPrior(top).initialise_pseudo_inputs(train.batch(torch.randperm(len(train))[:500]))
    else:
        p = StandardNormalPrior(dims)
    likelihood = BernoulliLikelihood(2 * dims, shape, net=net).initialise_mean(train.mean())
    return HierarchicalVAE(p, [layer((dims,), dims, net=net)], likelihood, guide, skip=True)


def main() -> None:
    """Train, then evaluate the first test images."""
    parser = argparse.ArgumentParser(description="The two-level VAE of the VampPrior paper on MNIST.")
    parser.add_argument("--root", required=True, help="folder with MNIST/raw")
    parser.add_argument(
        "--prior", choices=["standard", "vamp"], default="standard", help="prior of the top layer (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=100, help="passes over the data (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=20, help="epochs until beta = 1 (%(default)s)")
    parser.add_argument("--dims", type=int, default=40, help="latent dimensions of each layer (%(default)s)")
    parser.add_argument("--width", type=int, default=300, help="width of the hidden layers (%(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="test images to evaluate (%(default)s)")
    parser.add_argument("--num-samples", type=int, default=5000, help="samples per image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, training and evaluation (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--resume", action="store_true", help="resume the run")
    options = parser.parse_args()

    splits = MNIST(root=options.root, validation=10_000).load()
    torch.manual_seed(options.seed)
    vae = build(splits.train, options.prior, options.dims, options.width)
    config = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    run = RunFolder(options.out) if options.resume else RunFolder.create(options.out, config=yaml.safe_dump(config))
    fit(
        vae.model,
        vae.guide,
        splits.train,
        epochs=options.epochs,
        objective=BetaELBO(beta=LinearWarmUp(options.warm_up)),
        optimizer=partial(Adam, lr=1e-3),
        lr_schedule=partial(CosineAnnealingLR, T_max=options.epochs),
        validation=splits.validation,
        seed=options.seed,
        run=run,
        resume=options.resume,
    )
    protocol = {**splits.protocol, "prior": options.prior, "likelihood": "BernoulliLikelihood", "split": "test"}
    test = splits.test.subset(slice(options.images))
    result = log_likelihood(
        vae.model, vae.guide, test, num_samples=options.num_samples, seed=options.seed, protocol=protocol
    )
    result.save(run.path / f"log_likelihood-test-guide-{options.num_samples}-seed{options.seed}.json", overwrite=True)
    print(result)


if __name__ == "__main__":
    main()

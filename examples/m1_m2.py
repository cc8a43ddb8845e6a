"""M1+M2: a VAE of the digits, a semi-supervised model of its latents, and both as one model of the images.

M1 is a VAE trained without labels. M2, p(y) p(z) p(z1 | y, z), is trained on the active dimensions of its latents z1,
which are sampled for every batch. Together they are a model of the images with a hundred labels, which classifies,
samples images of a class, and has a log-likelihood.

Run it::

    python examples/m1_m2.py
    python examples/m1_m2.py --root data --m1-epochs 300 --epochs 300 --latent-dim 50 --style-dim 20 --width 400
"""

import argparse
from functools import partial

import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import MNIST, VAE, Digits, SemiSupervisedVAE, StackedVAE, fit, guides, likelihoods, log_likelihood, priors
from pyro_vae.evaluation import classification
from pyro_vae.experiments.latent_data import active_latents, initialise_at_data, latents_of
from pyro_vae.models import classification_weight
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.objectives import EnumeratedELBO

NUM_CLASSES = 10


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def m1(train, latent_dim, width):
    """p(z1) p(x | z1) with q(z1 | x)."""
    net = partial(MLP, hidden=(width, width))
    likelihood = likelihoods.BernoulliLikelihood(latent_dim, train.data_shape, net=net).initialise_mean(train.mean())
    guide = guides.DiagonalNormalGuide(train.data_shape, latent_dim, net=net)
    return VAE(priors.StandardNormalPrior(latent_dim), likelihood, guide)


def m2(train, labels, args):
    """p(y) p(z) p(z1 | y, z) with q(y | z1) q(z | z1, y)."""
    shape, hidden = train.data_shape, (args.width,)
    net = partial(ContextNetwork, context_dim=NUM_CLASSES, net=partial(MLP, hidden=()), hidden=hidden)
    return SemiSupervisedVAE(
        priors.StandardNormalPrior(args.style_dim),
        likelihoods.NormalLikelihood(args.style_dim, shape, net=net, scale="network", min_scale=1e-3),
        guides.DiagonalNormalGuide(shape, args.style_dim, net=net),
        guides.CategoricalGuide(shape, NUM_CLASSES, net=partial(MLP, hidden=hidden)),
        classification_weight=classification_weight(len(train), labels, alpha=args.alpha),
    )


def train(vae, data, epochs, objective=None, *, seed=0):
    """Train with Adam and a cosine schedule from 1e-3 to 0."""
    schedule = partial(CosineAnnealingLR, T_max=epochs)
    optimizer = partial(Adam, lr=1e-3)
    fit(
        vae.model,
        vae.guide,
        data,
        epochs=epochs,
        objective=objective,
        optimizer=optimizer,
        lr_schedule=schedule,
        seed=seed,
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description="M1+M2 on the digits.")
    parser.add_argument("--labels", type=positive, default=100, help="labelled images (%(default)s)")
    parser.add_argument("--m1-epochs", type=positive, default=100, help="epochs of the VAE, M1 (%(default)s)")
    parser.add_argument(
        "--epochs", type=positive, default=200, help="epochs of the model of its latents, M2 (%(default)s)"
    )
    parser.add_argument("--latent-dim", type=positive, default=10, help="dimensions of z1 (%(default)s)")
    parser.add_argument("--style-dim", type=positive, default=5, help="dimensions of z (%(default)s)")
    parser.add_argument("--width", type=positive, default=200, help="width of the hidden layers (%(default)s)")
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of the classification term (%(default)s)")
    parser.add_argument("--num-samples", type=positive, default=500, help="samples per test image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of labels, weights and training (%(default)s)")
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits)")
    args = parser.parse_args(argv)

    choice = {"labels": args.labels, "label_seed": args.seed}
    splits = (MNIST(args.root, **choice) if args.root else Digits(**choice)).load()
    torch.manual_seed(args.seed)
    lower = m1(splits.train, args.latent_dim, args.width)
    train(lower, splits.train.unpaired(), args.m1_epochs, seed=args.seed)

    active = active_latents(lower, splits.train)
    latents = latents_of(lower, splits, active)
    upper = m2(latents.train, args.labels, args)
    initialise_at_data(upper, latents.train)
    train(upper, latents.train, args.epochs, EnumeratedELBO(), seed=args.seed)

    both = StackedVAE(lower, upper, active)
    print(f"{len(active)} of {args.latent_dim} dimensions of z1 are active")
    print(classification(both, splits.test))
    for name, vae in (("M1", lower), ("M1+M2", both)):
        result = log_likelihood(vae.model, vae.guide, splits.test, num_samples=args.num_samples, seed=args.seed)
        print(f"{name}: log p(x) >= {result.mean():.3f} +- {result.monte_carlo_error():.3f} nats per image")
    rows = both.sample(y=torch.arange(NUM_CLASSES), mean=True)
    print(f"one image of each class: {tuple(rows.shape)}")


if __name__ == "__main__":
    main()

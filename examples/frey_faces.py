"""Grey-level images, two likelihoods: a density in nats, and a probability in bits per dimension.

``NormalLikelihood`` treats grey values as real numbers: log p(x) is a *density*. It depends on the unit of the pixels,
can be positive, has no upper bound, and is not a code length. ``DiscretizedLogisticLikelihood`` assigns a probability
to each grey level, so that its bits per dimension are a code length and comparable with any other model of the same
levels. The two numbers below are on different scales and cannot be compared with each other.

Without ``--root`` the images are scikit-learn's digits in their 17 grey levels, offline. Run it::

    python examples/frey_faces.py
    python examples/frey_faces.py --root data

The first command (about 10 s on two cores, torch 2.15, 2026-11-21) printed, for the digits, a -log p(x) of -17.21 +-
0.62 nats per image as a density and 2.105 +- 0.015 bits per dimension as a probability. ``--root data --epochs 300``
(48 s) gave -888.9 +- 14.8 nats and 5.259 +- 0.047 bits per dimension for the faces; the errors are standard errors over
the test images.

References:
    Auto-encoding variational Bayes (Kingma and Welling, 2014), section 5: the normal likelihood on Frey Faces.
    https://arxiv.org/abs/1312.6114
    VAE with a VampPrior (Tomczak and Welling, 2018), section 4: the discretized logistic.
    https://arxiv.org/abs/1705.07120
"""

import argparse
from functools import partial

import torch
from torch.optim import Adam

from pyro_vae import VAE, Digits, FreyFaces, fit, guides, likelihoods, log_likelihood, priors
from pyro_vae.networks import MLP


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def train(likelihood, splits, *, epochs, seed):
    """Train a VAE with this likelihood on grey-level images."""
    guide = guides.DiagonalNormalGuide(splits.data_shape, likelihood.latent_dim, net=partial(MLP, hidden=(200,)))
    vae = VAE(priors.StandardNormalPrior(likelihood.latent_dim), likelihood.initialise_mean(splits.train.mean()), guide)
    fit(vae.model, vae.guide, splits.train, epochs=epochs, optimizer=partial(Adam, lr=1e-3), seed=seed)
    return vae


def main(argv=None):
    parser = argparse.ArgumentParser(description="Grey-level images: a density and a probability.")
    parser.add_argument(
        "--root",
        help="folder with FreyFaces/frey_faces.npz, or that file (default: scikit-learn's digits, grey levels)",
    )
    parser.add_argument("--latent-dim", type=positive, default=10, help="latent dimensions (%(default)s)")
    parser.add_argument("--epochs", type=positive, default=50, help="passes over the data (%(default)s)")
    parser.add_argument("--num-samples", type=positive, default=500, help="samples per test image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training (%(default)s)")
    args = parser.parse_args(argv)
    try:
        splits = (FreyFaces(args.root) if args.root else Digits(binarize="none")).load()
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))

    torch.manual_seed(args.seed)  # of the initial weights
    levels = splits.train.max_value + 1  # 256 for the faces, 17 for the digits
    net = partial(MLP, hidden=(200,))
    normal = likelihoods.NormalLikelihood(args.latent_dim, splits.data_shape, net=net, scale="global")
    logistic = likelihoods.DiscretizedLogisticLikelihood(args.latent_dim, splits.data_shape, net=net, levels=levels)

    print(f"{splits.protocol['dataset']}, {len(splits.test)} test images; -ELBO and -log p(x), lower is better")
    for likelihood in (normal, logistic):
        vae = train(likelihood, splits, epochs=args.epochs, seed=args.seed)
        result = log_likelihood(vae.model, vae.guide, splits.test, num_samples=args.num_samples)
        print(f"{type(likelihood).__name__}, scale at least {likelihood.min_scale} of the grey range:")
        report(result, density=likelihood is normal)


def report(result, *, density):
    """Print a density in nats per image or a probability in bits per dimension, +- standard error over data."""
    per_nat = 1.0 if density else result.bits_per_dim() / -result.mean()
    unit = "nats per image, a density of pixels in [0, 1]" if density else "bits per dimension"
    for label, name in (("-ELBO", "elbo"), ("-log p(x)", "log_likelihood")):
        mean, error = -result.mean(name) * per_nat, result.sampling_error(name) * per_nat
        print(f"  {label:<10} {mean:9.4f} +- {error:.4f} {unit}")
    print(f"  Monte Carlo standard error of -log p(x): {result.monte_carlo_error() * per_nat:.4f}")


if __name__ == "__main__":
    main()

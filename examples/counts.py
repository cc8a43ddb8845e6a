"""Counts: four likelihoods of the same data, and why the Poisson distribution is rarely the best.

A Poisson variable has a variance equal to its mean. Counts given a code z usually vary more, which a negative binomial
distribution models by an inverse dispersion r for each entry, and contain more zeros, which the zero-inflated one
models by a probability of its own. All are probabilities of the same integers, so that their log-likelihoods can
be compared; the errors of the gains are of the paired differences over the test data. ``BetaBinomialLikelihood``
knows in addition that these counts end at 16.

The data are scikit-learn's digits, offline: each pixel counts the black ones of a 4 x 4 block, 0 to 16. The encoder
takes log(1 + x). Run it::

    python examples/counts.py
    python examples/counts.py --epochs 300 --seed 1

The first command (one minute of one core, torch 2.14, 2026-11-28) printed gains in test log-likelihood over the Poisson
likelihood of 1.789 +- 0.143 nats per image for the negative binomial, 4.239 +- 0.250 for the zero-inflated one and
16.024 +- 0.385 for the beta-binomial. The errors do not include the variation between trainings.

References:
    Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018).
    https://doi.org/10.1038/s41592-018-0229-2
"""

import argparse
from functools import partial

import torch
from torch.optim import Adam

from pyro_vae import VAE, Digits, fit, guides, likelihoods, log_likelihood, priors
from pyro_vae.networks import MLP

LIKELIHOODS = {
    "Poisson": likelihoods.PoissonLikelihood,
    "negative binomial": likelihoods.NegativeBinomialLikelihood,
    "zero-inflated negative binomial": likelihoods.ZeroInflatedNegativeBinomialLikelihood,
    "beta-binomial": partial(likelihoods.BetaBinomialLikelihood, levels=17),
}


class LogMLP(MLP):
    """A multilayer perceptron of log(1 + x), whose inputs stay small for large counts."""

    def transform(self, x):
        return super().transform(x.log1p())


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Likelihoods of counts, compared on one data set.")
    parser.add_argument("--latent-dim", type=positive, default=10, help="latent dimensions (%(default)s)")
    parser.add_argument("--hidden", type=positive, default=200, help="width of the networks (%(default)s)")
    parser.add_argument("--epochs", type=positive, default=100, help="passes over the data (%(default)s)")
    parser.add_argument("--num-samples", type=positive, default=1000, help="samples per test image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training (%(default)s)")
    args = parser.parse_args(argv)

    splits = Digits(binarize="none").load()
    first = None
    print(f"{len(splits.test)} test images, nats per image, higher is better; gain over the Poisson likelihood")
    for name, likelihood in LIKELIHOODS.items():
        unit = 1 if name == "beta-binomial" else splits.train.max_value  # of which the pixels are fractions
        train, test = (unit * split.batch(range(len(split))) for split in (splits.train, splits.test))
        result = evaluate(likelihood, train, test, args)
        first = first or result
        gain, error = result.gain(first)
        print(
            f"{name:<32} log-likelihood {result.mean():9.3f} +- {result.monte_carlo_error():.3f}  "
            f"ELBO {result.mean('elbo'):9.3f}  gain {gain:+8.3f} +- {error:.3f}",
            flush=True,
        )


def evaluate(likelihood, train, test, args):
    """Train a VAE with this likelihood and estimate the log-likelihood of the test data."""
    torch.manual_seed(args.seed)  # of the initial weights
    shape, hidden = tuple(train.shape[1:]), {"hidden": (args.hidden, args.hidden)}
    vae = VAE(
        priors.StandardNormalPrior(args.latent_dim),
        likelihood(args.latent_dim, shape, net=partial(MLP, **hidden)).initialise_mean(train.mean(0)),
        guides.DiagonalNormalGuide(shape, args.latent_dim, net=partial(LogMLP, **hidden)),
    )
    optimizer = partial(Adam, lr=1e-3)
    fit(vae.model, vae.guide, train, epochs=args.epochs, optimizer=optimizer, seed=args.seed, progress=False)
    return log_likelihood(vae.model, vae.guide, test, num_samples=args.num_samples)


if __name__ == "__main__":
    main()

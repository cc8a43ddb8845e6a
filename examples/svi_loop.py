"""Pyro's own training loop: ``SVI``, ``Trace_ELBO``, ``pyro.optim``.

A VAE of this package is an ordinary Pyro model and guide, so ``fit`` is optional. Comments mark three pitfalls of a
custom loop. The third is demonstrated: two VAEs are trained one after the other in this process, without
``pyro.clear_param_store()`` in between, and both losses decrease. (If two models call ``pyro.module("decoder", ...)``,
the parameter store keeps the tensors of the first, and the second does not train.)

Run it::

    python examples/svi_loop.py

That command (about 11 s on two cores, torch 2.15, 2026-11-21) printed losses of 31.65 in the first epoch and 24.67 in
the last for the first VAE, 30.74 and 24.80 for the second, and test log-likelihoods of -24.136 and -24.032 nats per
image, each +- 0.004 or less (Monte Carlo) +- 0.2 (over data).
"""

import argparse
from functools import partial

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_vae import VAE, Digits, guides, likelihoods, log_likelihood, priors
from pyro_vae.networks import MLP


def build(splits, latent_dim=10):
    """A small VAE of binary images."""
    net = partial(MLP, hidden=(100,), dropout=0.1)
    return VAE(
        priors.StandardNormalPrior(latent_dim),
        likelihoods.BernoulliLikelihood(latent_dim, splits.data_shape, net=net).initialise_mean(splits.train.mean()),
        guides.DiagonalNormalGuide(splits.data_shape, latent_dim, net=net),
    )


def train(vae, images, *, epochs, batch_size=100):
    """Train; return the loss of every epoch, -ELBO in nats per image."""
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    vae.train()
    losses = []
    for _ in range(epochs):
        total = 0.0
        for index in torch.randperm(len(images)).split(batch_size):
            # Pitfall 1: the loss (and its gradient) is a *sum* over the batch. Divide by the number of images, not by
            # the number of batches: the last batch is smaller.
            total += svi.step(images.batch(index))
        losses.append(total / len(images))
    vae.eval()  # Pitfall 2: without it dropout stays active in all later reconstructions and samples.
    return losses


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Pyro's own training loop, on two VAEs in one process.")
    parser.add_argument("--epochs", type=positive, default=50, help="passes over the data (%(default)s)")
    parser.add_argument("--num-samples", type=positive, default=500, help="samples per test image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training (%(default)s)")
    args = parser.parse_args(argv)

    pyro.set_rng_seed(args.seed)
    splits = Digits(binarize="dynamic").load()
    for name in ("first", "second"):  # Pitfall 3: the second VAE of a process must train, too.
        vae = build(splits)
        losses = train(vae, splits.train, epochs=args.epochs)
        result = log_likelihood(vae.model, vae.guide, splits.test, num_samples=args.num_samples)
        print(f"{name} VAE, nats per image:")
        print(f"  loss of the first epoch {losses[0]:.3f}, of the last {losses[-1]:.3f} (train, -ELBO)")
        print(
            f"  log-likelihood {result.mean():.3f} +- {result.monte_carlo_error():.3f} Monte Carlo, "
            f"+- {result.sampling_error():.3f} over data; ELBO {result.mean('elbo'):.3f} (test)"
        )


if __name__ == "__main__":
    main()

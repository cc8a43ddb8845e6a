"""Six ways to one bound: log p(x) >= E_q[log p(x, z)] + H(q) on the digits, raised in six ways.

The distortion is -E_q[log p(x | z)], the rate KL(q || p(z)), in nats per test image; minus their sum is the bound.

Run from a clone::

    python examples/six_ways.py
    python examples/six_ways.py --figure six_ways.png

The first command (torch 2.15, 2026-11-28) printed::

                             distortion     rate   log p(x)
    mixture, exact EM             20.16     2.96     -23.12
    mixture, hard EM              20.13     3.31     -23.28
    mixture, gradient             20.07     3.00     -23.06
    autoencoder                   22.20        -          -
    rate-distortion               22.78     2.46          -
    VAE                           22.17     2.29     -24.10
    decoder, Monte Carlo EM       24.09     1.44     -25.48

The autoencoder has no rate and no log p(x): its code is a point, and has no distribution.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch.optim import Adam

from pyro_vae import (
    MLP,
    VAE,
    BernoulliLikelihood,
    BetaELBO,
    DiagonalNormalGuide,
    Digits,
    StandardNormalPrior,
    fit,
    log_likelihood,
    refit_guide,
)
from pyro_vae.guides import DeltaGuide, QuantizedGuide
from pyro_vae.models import BernoulliComponents, MixtureModel
from pyro_vae.priors import FactorizedPrior, MixtureOfNormalsPrior
from pyro_vae.training import fit_em, fit_latent_density

ROW = "{:24} {:>10} {:>8} {:>10}"


def mixture(x, test, e_step, args):
    """Fit a mixture, and return the terms of its bound on test images."""
    torch.manual_seed(0)
    model = MixtureModel(BernoulliComponents(tuple(x.shape[1:]), args.components, min_probability=0.01))
    fit_em(model, x, e_step=e_step, iterations=args.iterations, m_steps=5, optimizer=partial(Adam, lr=0.05))
    log_joint, log_prior = model.log_joints(test), model.prior.logits[0].log_softmax(-1).detach()
    q = log_joint.softmax(-1)
    if e_step == "hard":
        q = torch.nn.functional.one_hot(q.argmax(-1), args.components).float()
    distortion = -(q * (log_joint - log_prior)).sum(-1).mean()
    rate = (q * -log_prior).sum(-1).mean() - torch.special.entr(q).sum(-1).mean()
    return float(distortion), float(rate), float(model.log_prob(test).mean())


def build(shape, guide, args, prior=StandardNormalPrior):
    """A VAE, with a DeltaGuide an autoencoder, or with a QuantizedGuide a rate-distortion autoencoder."""
    torch.manual_seed(0)
    net = partial(MLP, hidden=(args.hidden,))
    return VAE(prior(2), BernoulliLikelihood(2, shape, net=net), guide(shape, 2, net=net))


@torch.no_grad()
def terms(vae, test, args):
    """Distortion, rate and log p(x) of a VAE."""
    result = log_likelihood(vae.model, vae.guide, test, num_samples=args.num_samples)
    distortion = -float(vae.decode(vae.encode(test).sample()).log_prob(test).mean())
    return distortion, -result.mean("elbo") - distortion, result.mean()


@torch.no_grad()
def draw(models, test, labels, path):
    """Codes of the test images and samples, of the autoencoder and of the VAE."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7.6), layout="constrained")
    axes = figure.subplots(2, 2)
    for (name, vae), (left, right) in zip(models.items(), axes, strict=True):
        z = vae.encode(test).sample().numpy()
        left.scatter(*z.T, c=labels, cmap="tab10", s=6)
        left.set(title=f"{name}: codes of test images", xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
        images = torch.nn.functional.pad(vae.sample(64, mean=True), (1, 1, 1, 1)).reshape(8, 8, 10, 10)
        images = images.permute(0, 2, 1, 3).reshape(80, 80)
        right.imshow(images.numpy(), cmap="gray_r")
        right.set(title=f"{name}: samples", xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=positive, default=200, help="of the autoencoder and the VAE (%(default)s)")
    parser.add_argument("--em-epochs", type=positive, default=20, help="of Monte Carlo EM (%(default)s)")
    parser.add_argument("--iterations", type=positive, default=50, help="of EM of the mixtures (%(default)s)")
    parser.add_argument("--components", type=positive, default=30, help="of the mixtures (%(default)s)")
    parser.add_argument("--hidden", type=positive, default=100, help="width of the networks (%(default)s)")
    parser.add_argument("--num-samples", type=positive, default=500, help="for log p(x) (%(default)s)")
    parser.add_argument("--figure", help="PNG of codes and samples of autoencoder and VAE")
    args = parser.parse_args(argv)
    splits = Digits(binarize="fixed").load()
    x, test = (split.batch(slice(None), dtype=torch.float32) for split in (splits.train, splits.test))
    shape, options = tuple(x.shape[1:]), {"epochs": args.epochs, "optimizer": partial(Adam, lr=3e-3), "progress": False}
    print(ROW.format("", "distortion", "rate", "log p(x)"))

    def report(name, values):
        print(ROW.format(name, *("-" if value is None else f"{value:.2f}" for value in values)), flush=True)

    for name, e_step in (("exact EM", "exact"), ("hard EM", "hard"), ("gradient", "gradient")):
        report(f"mixture, {name}", mixture(x, test, e_step, args))
    autoencoder = build(shape, DeltaGuide, args)
    fit(autoencoder.model, autoencoder.guide, x, objective=BetaELBO(beta=0.0), **options)
    distortion = -autoencoder.decode(autoencoder.encode(test).sample()).log_prob(test).mean().detach()
    report("autoencoder", (distortion, None, None))
    coder = build(shape, QuantizedGuide, args, FactorizedPrior)
    fit(coder.model, coder.guide, x, **options)
    z = coder.guide.code(test)  # log p(x), a sum over all codes, is not estimated
    with torch.no_grad():
        values = (-coder.decode(z).log_prob(test).mean(), -coder.prior().log_prob(z).mean(), None)
    report("rate-distortion", values)
    vae = build(shape, DiagonalNormalGuide, args)
    fit(vae.model, vae.guide, x, **options)
    report("VAE", terms(vae, test, args))
    by_em = build(shape, DiagonalNormalGuide, args)
    sizes = {"iterations": args.em_epochs, "batch_size": 100, "num_transitions": 2, "m_steps": 5}
    fit_em(by_em.model, x, e_step="monte-carlo", optimizer=partial(Adam, lr=1e-3), **sizes)
    refit_guide(by_em, by_em.guide, x, **{**options, "epochs": max(1, args.epochs // 2)})
    report("decoder, Monte Carlo EM", terms(by_em, test, args))
    sampled = fit_latent_density(autoencoder, x, density=partial(MixtureOfNormalsPrior, num_components=20))
    if args.figure:
        draw({"autoencoder, density fitted": sampled, "VAE": vae}, test, splits.test.labels, args.figure)


if __name__ == "__main__":
    main()

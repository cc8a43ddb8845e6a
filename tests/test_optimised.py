"""The proposal optimised per datum: exact for linear-Gaussian models, valid for others, refused for the rest."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, Categorical, Gamma, Normal, Poisson

from pyro_vae import log_likelihood
from pyro_vae._core.owners import Owners
from pyro_vae.evaluation.gaussian_fit import fit_normal
from pyro_vae.evaluation.optimised import MAX_DIM, SHARES, OptimisedSampler
from tests import test_hierarchical
from tests.linear_gaussian import LinearGaussian

LATENTS = torch.arange(-20, 20, 0.001)  # of quadratures over one latent


EAGER = {"engine": "eager", "num_calls": 1, "chunk_size": 50}


def sampler_of(case: LinearGaussian, shares: tuple[float, float, float]) -> OptimisedSampler:
    owners = Owners(model=case.vae.model, guide=case.vae.guide)
    return OptimisedSampler("test", case.vae.model, [case.vae.guide], None, owners, **EAGER, shares=shares)


def poor(**options) -> LinearGaussian:
    """A correlated posterior, and a guide far from it."""
    return LinearGaussian(6, 9, correlated=True, shift=0.4, inflate=2.0, **options)


@torch.no_grad()
def test_for_a_linear_gaussian_model_every_weight_is_the_evidence() -> None:
    case = poor()
    x = case.data(7)
    sampler = sampler_of(case, (1.0, 0.0, 0.0))
    sampler.check((x,), 40)
    assert (sampler(40, (x,)).total - case.log_prob(x)).abs().max() < 1e-9
    assert (sampler.fit.loc - case.posterior_mean(x)).abs().max() < 1e-9
    covariance = sampler.fit.scale_tril @ sampler.fit.scale_tril.mT
    assert (covariance - case.posterior_covariance()).abs().max() < 1e-9


@torch.no_grad()
def test_the_shares_limit_the_weights_and_leave_them_unbiased() -> None:
    case = poor()
    x = case.data(40)
    sampler = sampler_of(case, SHARES)
    sampler.check((x,), 4000)
    ratio = (sampler(4000, (x,)).total - case.log_prob(x)).exp()  # with mean 1
    assert ratio.max() < 1 / SHARES[0] + 1e-9  # the fitted normal is the posterior
    z = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(4000))
    assert z.abs().max() < 4.5
    assert abs(float(z.mean())) < 4.5 / math.sqrt(len(z))
    assert ratio.min() < 1e-3  # samples of the prior, far from the posterior


@torch.no_grad()
def test_the_share_of_the_prior_limits_every_weight() -> None:
    case = poor()
    x = case.data(5)
    sampler = sampler_of(case, (0.0, 0.75, 0.25))
    sampler.check((x,), 2000)
    weights = sampler(2000, (x,))
    assert (weights.total <= weights.log_likelihood + math.log(4) + 1e-9).all()
    ratio = (weights.total - case.log_prob(x)).exp()
    assert ((ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(2000))).abs().max() < 4.5


def test_the_estimate_and_its_protocol(uncompiled: None) -> None:
    case = poor()
    x = case.data(30)
    estimate = partial(log_likelihood, case.vae.model, case.vae.guide, x, proposal="optimised", num_samples=500)
    result = estimate(batch_size=12)
    assert ((result.log_likelihood - case.log_prob(x)) / result.standard_error).abs().max() < 4.5
    assert result.standard_error.max() < 0.05  # of the guide: 0.7
    assert result.protocol["proposal"] == "optimised"
    assert result.pareto_k.max() < 0.7
    assert all(p.grad is None for p in case.vae.parameters())
    compiled = estimate(batch_size=12, engine="compiled")
    assert (compiled.log_likelihood - result.log_likelihood).abs().max() < 1e-9


@torch.no_grad()
def test_for_a_linear_gaussian_chain_of_two_latents_every_weight_is_the_evidence() -> None:
    vae = test_hierarchical.chain(test_hierarchical.exact_guide("bottom-up"))
    for layer in vae.guide.layers:
        layer.net.log_scale += 1.0  # the guide is no longer the posterior
    x = vae.sample(6)
    owners = Owners(model=vae.model, guide=vae.guide)
    sampler = OptimisedSampler("test", vae.model, [vae.guide], None, owners, **EAGER, shares=(1.0, 0.0, 0.0))
    sampler.check((x,), 40)
    assert (sampler(40, (x,)).total - test_hierarchical.log_prob(x)).abs().max() < 1e-9


def counts(x):
    """A positive latent, log p(x) of which is a negative binomial: not quadratic, and on the unconstrained scale."""
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", Gamma(2.0, 1.0))
        pyro.sample("x", Poisson(rate.unsqueeze(-1)).expand([len(x), x.shape[-1]]).to_event(1), obs=x)


def counts_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("rate", Gamma(torch.full((len(x),), 5.0), 5.0))


def test_positive_latents_of_a_plain_pyro_program() -> None:
    x = torch.poisson(torch.tensor([[1.0], [2.0], [4.0]]).expand(3, 4))
    result = log_likelihood(counts, counts_guide, x, proposal="optimised", num_samples=4000, chunk_size=4000)
    s, n = x.sum(-1), x.shape[-1]
    exact = torch.lgamma(2 + s) - (2 + s) * math.log(1 + n) - torch.lgamma(x + 1).sum(-1)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
    assert result.standard_error.max() < 0.01


def test_a_latent_that_the_model_sums_out() -> None:
    x = torch.randn(6)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", Normal(2.0 * y, 1.0))
            pyro.sample("x", Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x, 1.0))

    result = log_likelihood(model, guide, x, proposal="optimised", num_samples=4000, chunk_size=4000)
    parts = torch.stack([Normal(loc, math.hypot(1, 0.5)).log_prob(x) for loc in (0.0, 2.0)])
    exact = (parts + torch.tensor([[0.3], [0.7]]).log()).logsumexp(0)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5


def test_a_posterior_without_a_quadratic_logarithm_is_approximated_by_the_best_normal() -> None:
    """Under the best normal the expected gradient is 0 and the expected Hessian is minus the precision."""
    slope = torch.tensor([3.0, 1.0])  # of a logistic likelihood

    def log_density(u):
        return (-0.5 * u**2 + torch.nn.functional.logsigmoid(slope.unsqueeze(-1) * u)).sum(-1)

    fits = []
    for seed in range(20):
        torch.manual_seed(seed)
        fits.append(fit_normal(log_density, torch.full((2, 1), -2.0), torch.ones(2, 1), torch.ones(2, 1)))
    loc = torch.stack([fit.loc for fit in fits]).squeeze(-1).mean(0)
    variance = torch.stack([fit.scale_tril for fit in fits]).flatten(1).square().mean(0)
    density = Normal(loc, variance.sqrt()).log_prob(LATENTS.unsqueeze(-1)).exp() * 0.001  # (points, 2)
    p = torch.sigmoid(slope * LATENTS.unsqueeze(-1))
    gradient = -LATENTS.unsqueeze(-1) + slope * (1 - p)
    curvature = 1 + slope**2 * p * (1 - p)
    assert ((density * gradient).sum(0).abs() * variance.sqrt()).max() < 0.05  # in standard deviations
    assert ((density * curvature).sum(0) * variance - 1).abs().max() < 0.1


def test_latents_that_it_cannot_handle_are_refused_in_one_line() -> None:
    x = torch.ones(3)

    def discrete(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Bernoulli(0.5))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def discrete_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Bernoulli(0.5))

    with pytest.raises(
        ValueError, match=r"^log_likelihood: latent sites must be continuous, got the discrete site 'z'"
    ):
        log_likelihood(discrete, discrete_guide, x, proposal="optimised", num_samples=2)

    def wide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(MAX_DIM + 1), 1.0).to_event(1))
            pyro.sample("x", Normal(z.sum(-1), 1.0), obs=x)

    def wide_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(torch.zeros(MAX_DIM + 1), 1.0).to_event(1))

    with pytest.raises(
        ValueError, match=r"^log_likelihood: proposal='optimised' takes at most 500 dimensions, got 501"
    ):
        log_likelihood(wide, wide_guide, x, proposal="optimised", num_samples=2)

"""Active units and KL per dimension against the linear-Gaussian posterior."""

from __future__ import annotations

import re

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pyro_vae import VAE, guides, latent_diagnostics, likelihoods, objectives
from pyro_vae.likelihoods import BernoulliLikelihood, Likelihood
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian


def test_activity_and_kl_are_those_of_the_posterior() -> None:
    case = LinearGaussian(inflate=1.2)
    x = case.data(40)
    q = case.vae.encode(x)
    result = latent_diagnostics(case.vae, x, batch_size=7)
    assert torch.allclose(result.means, q.mean)
    assert torch.allclose(result.activity, q.mean.var(0, correction=0))
    expected = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(result.kl, expected)


def test_a_unit_that_ignores_the_data_is_not_active() -> None:
    case = LinearGaussian()
    with torch.no_grad():
        case.vae.guide.net.layers[0].weight[1] = 0.0
    assert latent_diagnostics(case.vae, case.data(40)).active_units == 2


def test_the_moments_of_the_aggregate_posterior_are_those_of_the_mixture() -> None:
    case = LinearGaussian(inflate=1.2)
    x = case.data(40)
    result = latent_diagnostics(case.vae, x, batch_size=7)
    q = case.vae.encode(x)
    assert torch.allclose(result.aggregate_mean, q.mean.mean(0))
    second = (q.mean.square() + q.variance).mean(0)
    assert torch.allclose(result.aggregate_variance, second - q.mean.mean(0).square())
    assert torch.equal(result.prior_mean, torch.zeros(3))
    assert torch.equal(result.prior_variance, torch.ones(3))
    assert result.prior_draws.shape == (2_000, 3)


def test_the_full_rank_kl_is_that_of_the_margins() -> None:
    case = LinearGaussian(correlated=True)
    x = case.data(40)
    std = case.posterior_covariance().diagonal().sqrt()
    expected = kl_divergence(Normal(case.posterior_mean(x), std), Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(latent_diagnostics(case.vae, x).kl, expected)


def collapsed(guide: guides.Guide) -> VAE:
    for parameter in guide.parameters():
        torch.nn.init.zeros_(parameter)
    return VAE(StandardNormalPrior(8), BernoulliLikelihood(8, (5,)), guide)


def test_sampling_noise_of_the_means_is_not_activity() -> None:
    vae = collapsed(guides.AuxiliaryGuide((5,), 8))
    result = latent_diagnostics(vae, torch.rand(400, 5).round(), num_samples=25)
    # The variance of a mean of 25 draws, 0.04, would be above the threshold; its standard error over 400 data is 0.003.
    assert result.means.var(0).min() > 0.01
    assert result.activity.max() < 4.5 * 0.04 * (2 / 400) ** 0.5
    assert result.active_units <= 8


def test_collapse_is_reported_with_existing_remedies() -> None:
    result = latent_diagnostics(collapsed(guides.DiagonalNormalGuide((5,), 8)), torch.rand(50, 5).round())
    advice = result.advice()
    assert "collapsed: 0 of 8" in advice
    assert "collapsed" in str(result)
    named = re.findall(r"\b[A-Z][a-z]\w*[A-Z]\w*", advice)
    assert {"BetaELBO", "LinearWarmUp", "FreeBits", "InfoVAE"} <= set(named)
    assert all(hasattr(objectives, name) or hasattr(likelihoods, name) for name in named)
    assert hasattr(Likelihood, "initialise_mean")


def test_few_active_units_are_reported() -> None:
    case = LinearGaussian(latent_dim=5)
    assert "units" not in latent_diagnostics(case.vae, case.data(40)).advice()
    with torch.no_grad():
        case.vae.guide.net.layers[0].weight[:4] = 0.0
    result = latent_diagnostics(case.vae, case.data(40))
    assert result.active_units == 1
    assert "Few units, 1 of 5" in result.advice()


@pytest.mark.parametrize("option", ["batch_size", "num_samples", "num_decomposed", "num_draws"])
def test_numbers_that_are_too_small_raise(option: str) -> None:
    case = LinearGaussian()
    with pytest.raises(ValueError, match=f"latent_diagnostics: {option} must be at least"):
        latent_diagnostics(case.vae, case.data(4), **{option: -1})

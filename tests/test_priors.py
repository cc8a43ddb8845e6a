"""Priors: mixtures equal their definitions, pseudo-inputs train, and p(z) is normalised."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from pyro.distributions import Normal
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae import VAE, fit
from pyro_vae import priors as folder
from pyro_vae.guides import DiagonalNormalGuide, FullRankNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import FactorizedPrior, MixtureOfNormalsPrior, VampPrior
from pyro_vae.priors.vamp import log_normals
from tests.test_contracts import concrete, names

small = partial(MLP, hidden=(6,))


def vamp(num_components=3, latent_dim=2, **options) -> VampPrior:
    return VampPrior(DiagonalNormalGuide((5,), latent_dim, net=small), num_components=num_components, **options)


def test_the_vamp_prior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs() -> None:
    prior, z = vamp(), torch.randn(4, 7, 2)
    u = prior.pseudo_inputs
    assert u.shape == (3, 5)
    q = [prior.guide.posterior(u[k]).log_prob(z).exp() for k in range(3)]
    torch.testing.assert_close(prior().log_prob(z), (sum(q) / 3).log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_densities_by_matrix_products_are_those_of_the_normals(dtype, tolerance) -> None:
    loc, z = torch.randn(50, 40).to(dtype), torch.randn(3, 7, 40).to(dtype)
    scale = torch.linspace(-3, 1, 40).exp().expand(50, 40).to(dtype)
    expected = Normal(loc, scale).to_event(1).log_prob(z.unsqueeze(-2))  # down to tens of thousands of nats
    log_density = log_normals(z, loc, scale)
    assert log_density.dtype == dtype
    torch.testing.assert_close(log_density, expected, rtol=tolerance, atol=tolerance)
    near = loc[:, None] + 0.01 * scale[:, None] * torch.randn(50, 1, 40).to(dtype)
    exact = Normal(loc.double(), scale.double()).to_event(1).log_prob(near.squeeze(1).double())
    log_density = log_normals(near.squeeze(1), loc, scale).diagonal().double()
    torch.testing.assert_close(log_density, exact, rtol=tolerance, atol=tolerance)


def test_a_prior_through_a_non_normal_guide_is_the_same_mixture() -> None:
    guide = FullRankNormalGuide((5,), 2, net=small)
    prior, z = VampPrior(guide, num_components=3), torch.randn(4, 2)
    q = guide.posterior(prior.pseudo_inputs).log_prob(z.unsqueeze(1))
    torch.testing.assert_close(prior().log_prob(z), q.logsumexp(-1) - math.log(3), rtol=1e-12, atol=1e-12)


def test_vamp_draws_come_from_that_mixture() -> None:
    prior = vamp()
    with torch.no_grad():
        prior.guide.net.layers[-1].weight.mul_(30)  # components apart
        z = prior().sample((20_000,))
        q = prior.guide.posterior(prior.pseudo_inputs)
        mean = q.mean.mean(0)
        variance = (q.variance + q.mean.square()).mean(0) - mean.square()
    assert q.mean.std(0).min() > 0.3
    assert ((z.mean(0) - mean) / (variance / len(z)).sqrt()).abs().max() < 4.5
    fourth = (z - z.mean(0)).pow(4).mean(0)
    error = ((fourth - variance.square()) / len(z)).sqrt()
    assert ((z.var(0) - variance) / error).abs().max() < 4.5


def test_the_prior_has_gradients_to_pseudo_inputs_and_guide() -> None:
    prior = vamp()
    prior().log_prob(torch.randn(4, 2)).sum().backward()
    assert prior.raw.grad.flatten(1).any(1).all()
    assert all(p.grad.any() for p in prior.guide.parameters())


def test_pseudo_inputs_start_at_the_data_and_stay_within_bounds() -> None:
    x = torch.rand(2, 5)
    prior = vamp().initialise_pseudo_inputs(x)
    torch.testing.assert_close(prior.pseudo_inputs, x[[0, 1, 0]].clamp(0.02, 0.98), rtol=1e-9, atol=1e-9)
    nn.init.constant_(prior.raw, 1e3)
    assert prior.pseudo_inputs.max() <= 1
    x = 5 + torch.randn(3, 5)
    torch.testing.assert_close(vamp(bounds=None).initialise_pseudo_inputs(x).pseudo_inputs, x)
    torch.testing.assert_close(vamp(bounds=(-1.0, 9.0)).initialise_pseudo_inputs(x).pseudo_inputs, x.clamp(-0.8, 8.8))
    with pytest.raises(ValueError, match=r"^VampPrior: x must be data of shape \(N, \*\(5,\)\), got shape=\(3, 4\)"):
        vamp().initialise_pseudo_inputs(torch.rand(3, 4))
    with pytest.raises(ValueError, match=r"^VampPrior: bounds must be \(low, high\), finite with low < high, or None"):
        vamp(bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"^VampPrior: num_components must be at least 1"):
        vamp(0)


def test_pseudo_inputs_train_and_swapping_the_guide_preserves_the_prior() -> None:
    prior = vamp()
    vae = VAE(prior, BernoulliLikelihood(2, (5,), net=small), prior.guide)
    before, z = prior.raw.detach().clone(), torch.randn(6, 2)
    fit(vae.model, vae.guide, torch.ones(8, 5), epochs=1, batch_size=4, progress=False)
    assert (prior.raw != before).all()
    log_prob = vae.prior().log_prob(z)
    other = vae.with_guide(DiagonalNormalGuide((5,), 2, net=small))
    assert torch.equal(other.prior().log_prob(z), log_prob)
    assert len({id(p) for p in vae.parameters()}) == len(list(vae.parameters()))


def test_pseudo_inputs_of_another_shape_raise() -> None:
    with pytest.raises(ValueError, match=r"^VAE: likelihood, guide and pseudo-inputs must share data_shape, got"):
        VAE(vamp(), BernoulliLikelihood(2, (6,)), DiagonalNormalGuide((6,), 2))


def test_the_mixture_of_normals_prior_with_one_component_is_a_normal() -> None:
    prior = MixtureOfNormalsPrior(3, num_components=1)
    nn.init.constant_(prior.log_scales, math.log(0.5))
    z = torch.randn(7, 3)
    expected = MultivariateNormal(prior.locs[0], 0.25 * torch.eye(3)).log_prob(z)
    torch.testing.assert_close(prior().log_prob(z), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"^MixtureOfNormalsPrior: num_components must be at least 1, got"):
        MixtureOfNormalsPrior(3, num_components=0)


BUILD = {"VampPrior": lambda: vamp(latent_dim=2), "FactorizedPrior": lambda: FactorizedPrior(2, filters=(2,))}


@pytest.mark.parametrize("cls", [c for c in concrete(folder) if not c.discrete and not c.conditional], ids=names)
def test_the_density_integrates_to_one(cls) -> None:
    prior = BUILD.get(cls.__name__, lambda: cls(2))()
    grid = torch.linspace(-20, 20, 801)
    z = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    weights = torch.ones(801)  # Simpson's rule: the Laplace density has an edge at 0
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    weights *= (grid[1] - grid[0]) / 3
    with torch.no_grad():
        total = weights @ prior().log_prob(z).exp() @ weights
    assert abs(total - 1) < 1e-6

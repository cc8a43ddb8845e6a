"""Active units and KL per dimension against the linear-Gaussian posterior."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from pyro_vae import latent_diagnostics
from tests.linear_gaussian import LinearGaussian


def test_activity_and_kl_are_those_of_the_posterior() -> None:
    case = LinearGaussian(inflate=1.2)
    x = case.data(40)
    q = case.vae.encode(x)
    found = latent_diagnostics(case.vae, x, batch_size=7)
    assert torch.allclose(found.means, q.mean)
    assert torch.allclose(found.activity, q.mean.var(0, correction=0))
    expected = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0)).mean(0)
    assert torch.allclose(found.kl, expected)


def test_a_unit_that_ignores_the_data_is_not_active() -> None:
    case = LinearGaussian()
    with torch.no_grad():
        case.vae.guide.net.layers[0].weight[1] = 0.0
    assert latent_diagnostics(case.vae, case.data(40)).active_units == 2

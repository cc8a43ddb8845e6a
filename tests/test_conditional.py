"""The conditional VAE against a linear-Gaussian model in closed form, and contexts of every kind."""

from __future__ import annotations

import pytest
import torch

from pyro_vae import annealed_log_likelihood, fit, inference_gaps, log_likelihood, refit_guide, sandwich
from tests.conditional_linear_gaussian import C, D, ConditionalLinearGaussian

each_form = pytest.mark.parametrize("joined", [False, True], ids=["argument", "part of x"])


@each_form
def test_the_exact_posterior_gives_the_conditional_log_likelihood(joined: bool) -> None:
    exact = ConditionalLinearGaussian(joined=joined)
    x, c = exact.draw(9)
    vae, data = exact.vae, exact.data(x, c)
    result = log_likelihood(vae.model, vae.guide, data, num_samples=7, batch_size=4, chunk_size=3)
    torch.testing.assert_close(result.log_likelihood, exact.log_prob(x, c), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.elbo, exact.log_prob(x, c), rtol=0, atol=1e-9)
    posterior = vae.encode(*data) if isinstance(data, tuple) else vae.encode(data)
    torch.testing.assert_close(posterior.mean, exact.posterior_mean(x, c), rtol=0, atol=1e-9)
    assert result.protocol["dimensions"] == D

"""Replicates of the linear-Gaussian model are normal, so that every p value has a closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_vae import VAE, guides, priors
from pyro_vae.evaluation import PredictiveCheck, Result, default_statistics, posterior_predictive_check
from pyro_vae.likelihoods import BernoulliLikelihood
from tests.linear_gaussian import LinearGaussian

S = 4_000


def mean(x: Tensor) -> Tensor:
    return x.mean(-1)


def replicated(case: LinearGaussian, x: Tensor) -> Normal:
    """Distribution of the mean entry of x_rep for each datum: x_rep ~ N(W m + b, W C W' + sigma^2 I)."""
    w, one = case.weight, torch.full((case.weight.shape[0],), 1 / case.weight.shape[0])
    loc = (case.posterior_mean(x) @ w.T + case.bias) @ one
    variance = one @ (w @ case.posterior_covariance() @ w.T) @ one + case.scale**2 * one.square().sum()
    return Normal(loc, variance.sqrt())


def test_probabilities_are_those_of_the_normal(exact: LinearGaussian) -> None:
    x = exact.data(30)
    result = posterior_predictive_check(exact.vae, x, statistics=mean, num_samples=S, batch_size=7, chunk_size=999)
    law = replicated(exact, x)
    p = 1 - law.cdf(x.mean(-1))
    assert result.statistics == ["mean"]
    assert torch.allclose(result.observed[:, 0], x.mean(-1))
    assert float(((result.p_values[:, 0] - p) / (p * (1 - p) / S).sqrt()).abs().max()) < 4.5
    assert float(((result.replicated_mean[:, 0] - law.mean) / law.stddev * math.sqrt(S)).abs().max()) < 4.5
    assert float((result.replicated_std[:, 0] / law.stddev - 1).abs().max()) < 4.5 / math.sqrt(2 * S)
    # The set's mean is that of 30 independent normals.
    of_set = Normal(law.mean.mean(), law.variance.sum().sqrt() / 30)
    whole = 1 - of_set.cdf(x.mean())
    assert abs(float(result.set_p_values()[0] - whole)) < 4.5 * math.sqrt(whole * (1 - whole) / S)
    assert torch.allclose(result.set_observed, x.mean().expand(S, 1))
    assert float(result.set_replicated.std()) / float(of_set.stddev) == pytest.approx(1, abs=4.5 / math.sqrt(2 * S))


def test_the_prior_predictive_check_is_of_the_margin(exact: LinearGaussian) -> None:
    x = exact.data(30)
    result = posterior_predictive_check(exact.vae, x, statistics=mean, num_samples=S, source="prior")
    w, one = exact.weight, torch.full((7,), 1 / 7)
    variance = one @ (w @ w.T) @ one + exact.scale**2 / 7
    p = 1 - Normal(exact.bias.mean(), variance.sqrt()).cdf(x.mean(-1))
    assert float(((result.p_values[:, 0] - p) / (p * (1 - p) / S).sqrt()).abs().max()) < 4.5
    assert "log p(x|z)" not in posterior_predictive_check(exact.vae, x, source="prior", num_samples=9).statistics


def test_over_data_of_the_model_prior_probabilities_are_uniform(exact: LinearGaussian) -> None:
    result = posterior_predictive_check(exact.vae, exact.data(2_000), source="prior", num_samples=100)
    u = result.p_values[:, 0]
    assert abs(float(u.mean()) - 0.5) < 4.5 * math.sqrt(1 / 12 / 2_000)
    assert abs(float((u < 0.25).double().mean()) - 0.25) < 4.5 * math.sqrt(0.1875 / 2_000) + 0.01  # 100 replicates


def test_the_discrepancy_has_the_law_of_a_chi_square(exact: LinearGaussian) -> None:
    x = exact.data(20)
    result = posterior_predictive_check(exact.vae, x, num_samples=S)
    assert result.statistics == ["mean", "standard deviation", "largest", "log p(x|z)"]
    # log p(x_rep | z) = const - chi^2_7 / 2 for every z
    const = -7 * math.log(exact.scale) - 3.5 * math.log(2 * math.pi)
    assert float((result.replicated_mean[:, -1] - (const - 3.5)).abs().max()) < 4.5 * math.sqrt(14) / 2 / math.sqrt(S)
    z = exact.vae.encode(x).sample((S,))
    likelihood = exact.vae.decode(z).log_prob(x).detach()
    error = likelihood.std(0) * math.sqrt(2 / S)
    assert float(((result.observed[:, -1] - likelihood.mean(0)) / error).abs().max()) < 4.5
    # P(chi^2_7 < 2 (const - log p(x | z))) given z, so the mean over z is the probability.
    p = torch.special.gammainc(torch.tensor(3.5), const - likelihood).mean(0)
    assert float(((result.p_values[:, -1] - p) * math.sqrt(S)).abs().max()) < 4.5 * 0.5 * math.sqrt(2)
    assert float(result.set_observed[:, -1].std()) > 0


def test_ties_count_half() -> None:
    vae = VAE(priors.StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), guides.DiagonalNormalGuide((5,), 2))
    result = posterior_predictive_check(vae, torch.ones(6, 5), statistics=lambda x: 0 * x.sum(-1), num_samples=9)
    assert result.p_values.tolist() == [[0.5]] * 6
    assert result.set_p_values().tolist() == [0.5]


def test_data_of_another_spread_are_detected(exact: LinearGaussian) -> None:
    x = exact.data(50)
    good = posterior_predictive_check(exact.vae, x)
    assert good.advice() == ""
    bad = posterior_predictive_check(exact.vae, x + torch.randn(50, 7))
    assert bad.set_p_values()[-1] > 0.995
    assert "log p(x|z) too large" in bad.advice()
    assert bad.extreme()[-1] > 0.5


def test_default_statistics() -> None:
    x = torch.tensor([[[[0.0, 1.0], [4.0, 1.0]]]])
    values = {name: f(x).item() for name, f in default_statistics((1, 2, 2)).items()}
    assert values == pytest.approx(
        {
            "mean": 1.5,
            "standard deviation": math.sqrt((2.25 + 0.25 + 6.25 + 0.25) / 4),
            "largest": 4.0,
            "roughness": ((1 + 3) / 2 + (4 + 0) / 2) / 2,
        }
    )
    assert "roughness" not in default_statistics((1, 5))


def test_every_guide_and_batch_size_works() -> None:
    prior, likelihood, x = priors.StandardNormalPrior(2), BernoulliLikelihood(2, (1, 3, 4)), torch.ones(7, 1, 3, 4)
    for guide in (guides.AuxiliaryGuide((1, 3, 4), 2), guides.HMCGuide((1, 3, 4), 2)):
        result = posterior_predictive_check(VAE(prior, likelihood, guide), x, num_samples=5, batch_size=3, chunk_size=2)
        assert result.observed.shape == (7, 5)
        assert result.set_replicated.shape == (5, 5)
    batches = posterior_predictive_check(VAE(prior, likelihood, guide), [x[:3], x[3:]], num_samples=3)
    assert len(batches) == 7


def test_the_seed_decides_and_global_state_stays(exact: LinearGaussian) -> None:
    x, state = exact.data(5), torch.get_rng_state()
    one, other = (posterior_predictive_check(exact.vae, x, seed=2, num_samples=9) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.replicated, other.replicated)
    assert not torch.equal(one.replicated, posterior_predictive_check(exact.vae, x, num_samples=9).replicated)


def test_it_is_saved_with_its_protocol(exact: LinearGaussian, tmp_path: Any) -> None:
    result = posterior_predictive_check(exact.vae, exact.data(12), num_samples=20, protocol={"dataset": "simulated"})
    result.save(tmp_path / "predictive.json")
    again = Result.load(tmp_path / "predictive.json")
    assert isinstance(again, PredictiveCheck)
    assert again.summary() == result.summary()
    assert again.protocol == result.protocol
    assert "log p(x|z)" in str(again)


def test_bad_arguments_raise(exact: LinearGaussian) -> None:
    x = exact.data(4)
    with pytest.raises(ValueError, match=r"one number per datum, got \(4, 7\) of 'whole'"):
        posterior_predictive_check(exact.vae, x, statistics={"whole": lambda x: x})
    with pytest.raises(ValueError, match="statistics must not be empty"):
        posterior_predictive_check(exact.vae, x, statistics={})
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        posterior_predictive_check(exact.vae, x, num_samples=0)
    with pytest.raises(ValueError, match="source must be one of 'posterior', 'prior'"):
        posterior_predictive_check(exact.vae, x, source="guide")  # type: ignore[arg-type]
    grey = VAE(priors.StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), guides.DiagonalNormalGuide((5,), 2))
    with pytest.raises(ValueError, match="support of p"):
        posterior_predictive_check(grey, torch.full((3, 5), 0.5))

"""Posterior samples by HMC, and the estimator of log p(x) from them."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import log_likelihood
from pyro_vae.evaluation import (
    HarmonicLogLikelihood,
    Result,
    annealed_log_likelihood,
    harmonic_log_likelihood,
    posterior_samples,
)
from pyro_vae.evaluation.harmonic import fit_kernel_density
from pyro_vae.evaluation.posterior import run_chains
from tests.linear_gaussian import LinearGaussian


@pytest.mark.slow
def test_the_samples_have_the_moments_of_the_posterior() -> None:
    case = LinearGaussian(3, 7, correlated=True, inflate=2.0, shift=0.5)
    x = case.data(4)
    sizes = {"num_samples": 4000, "num_chains": 50, "start": "guide", "engine": "eager"}
    draws = posterior_samples(case.vae.model, case.vae.guide, x, **sizes)
    z, size = draws.sites["z"], draws.effective_sample_size.min()
    assert z.shape == (4000, 4, 3)
    assert draws.r_hat.max() < 1.05
    assert size > 500
    covariance = case.posterior_covariance()
    score = (z.mean(0) - case.posterior_mean(x)) / covariance.diagonal().sqrt()
    assert score.abs().max() < 4.5 / size.sqrt()
    for datum in range(4):
        ratio = torch.linalg.solve(covariance, z[:, datum].T.cov())
        assert (ratio - torch.eye(3)).abs().max() < 4.5 * (2 / size).sqrt() * 2


@pytest.mark.slow
def test_sites_come_back_in_their_own_shape() -> None:
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3).expand([1]))
            with pyro.plate("parts", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, scale), obs=x)

    sizes = {
        "num_samples": 8,
        "num_chains": 2,
        "warmup": 2,
        "num_steps": 3,
        "data_plate": "data",
        "batch_size": 2,
        "engine": "eager",
    }
    sites = posterior_samples(model, None, torch.randn(5, 3), **sizes).sites
    assert sites["scale"].shape == (8, 5, 1)
    assert sites["z"].shape == (8, 5, 3)
    assert (sites["scale"] > 0).all()


def test_the_number_of_samples_is_a_multiple_of_the_chains() -> None:
    case = LinearGaussian(2, 7)
    with pytest.raises(ValueError, match=r"^posterior_samples: num_samples must be a multiple .* Use 12."):
        posterior_samples(case.vae.model, None, case.data(3), num_samples=10, num_chains=4)


def _curved(x):
    """A posterior that is not normal and has several modes: x = z_1^2 / 2 + z_2 with noise."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(0.5 * z[..., 0].square() + z[..., 1], 0.4), obs=x)


def _curved_guide(x):
    with pyro.plate("data", len(x)):
        loc = torch.stack([torch.zeros_like(x), x.clamp(max=1.0)], -1)
        pyro.sample("z", dist.Normal(loc, 1.2).to_event(1))


def _quadrature(x, half=7.0, num=1401):
    grid = torch.linspace(-half, half, num)
    one, two = torch.meshgrid(grid, grid, indexing="ij")
    prior = dist.Normal(0.0, 1.0).log_prob(one) + dist.Normal(0.0, 1.0).log_prob(two)
    step = grid[1] - grid[0]
    return torch.stack(
        [
            (prior + dist.Normal(0.5 * one.square() + two, 0.4).log_prob(value)).flatten().logsumexp(0) + 2 * step.log()
            for value in x
        ]
    )


@pytest.mark.slow
def test_in_two_dimensions_all_estimators_agree_with_quadrature() -> None:
    x = torch.linspace(-2.0, 4.0, 7)
    exact = _quadrature(x)
    harmonic = harmonic_log_likelihood(_curved, _curved_guide, x, num_samples=3200, engine="eager")
    sizes = {"num_distributions": 200, "num_chains": 200, "engine": "eager"}
    annealed = annealed_log_likelihood(_curved, _curved_guide, x, **sizes)
    importance = log_likelihood(_curved, _curved_guide, x, num_samples=20_000, chunk_size=5000, engine="eager")
    for result in (annealed, importance):
        assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
        assert result.standard_error.max() < 0.06
    # The posteriors of the last data have two modes between which chains do not move, as R-hat shows.
    mixed = harmonic.r_hat < 1.05
    assert mixed[:4].all()
    assert harmonic.r_hat[-1] > 1.2
    assert harmonic.summary()["r_hat_above_1.05"] == float((~mixed).double().mean())
    assert ((harmonic.log_likelihood - exact) / harmonic.standard_error).abs()[mixed].max() < 4.5
    assert harmonic.standard_error[mixed].max() < 0.06


@pytest.mark.slow
def test_the_harmonic_errors_are_calibrated() -> None:
    case = LinearGaussian(2, 7)
    x = case.data(100)
    result = harmonic_log_likelihood(case.vae.model, None, x, num_samples=640, num_fitted=640, engine="eager")
    z = (result.log_likelihood - case.log_prob(x)) / result.standard_error
    assert z.abs().max() < 5.5  # of 16 chains: a t distribution of 15 degrees
    assert abs(float(z.square().mean().sqrt()) / math.sqrt(15 / 13) - 1) < 0.2
    assert abs(result.mean() - float(case.log_prob(x).mean())) < 4.5 * result.monte_carlo_error()


@pytest.mark.slow
def test_repeated_draws_of_a_chain_do_not_reduce_the_harmonic_error(monkeypatch) -> None:
    """If all samples of a chain are equal, ten times as many leave estimate and standard error unchanged."""
    lengths = []

    def constant(*args, **kwargs):
        chains = run_chains(*args, **kwargs)
        lengths.append(len(chains.u))
        if len(lengths) % 2:  # the draws that the density is fitted to
            return chains
        u, log_joint = (part[:1].expand_as(part) for part in (chains.u, chains.log_joint))
        return chains._replace(u=u, log_joint=log_joint)

    monkeypatch.setattr("pyro_vae.evaluation.harmonic.run_chains", constant)
    case = LinearGaussian(2, 7)
    x, sizes = case.data(5), {"num_fitted": 160, "num_steps": 5, "warmup": 20, "engine": "eager"}
    few, many = (harmonic_log_likelihood(case.vae.model, None, x, num_samples=n, **sizes) for n in (64, 640))
    assert lengths == [10, 4, 10, 40]
    assert few.standard_error.min() > 0
    assert (few.log_likelihood - many.log_likelihood).abs().max() < 1e-9
    assert (few.standard_error - many.standard_error).abs().max() < 1e-9


def test_the_harmonic_result_is_kept(tmp_path) -> None:
    case = LinearGaussian(2, 7)
    sizes = {"num_samples": 64, "num_fitted": 64, "warmup": 10, "engine": "eager"}
    result = harmonic_log_likelihood(case.vae.model, None, case.data(3), **sizes)
    result.save(tmp_path / "harmonic.json")
    loaded = Result.load(tmp_path / "harmonic.json")
    assert isinstance(loaded, HarmonicLogLikelihood)
    assert torch.equal(loaded.log_likelihood, result.log_likelihood)
    assert "AEVB, appendix D" in str(loaded)


def test_five_dimensions_are_too_many_for_the_harmonic_estimate() -> None:
    case = LinearGaussian(5, 7)
    with pytest.raises(ValueError, match=r"fewer than five latent dimensions.*, got 5.*Use annealed_log_likelihood"):
        harmonic_log_likelihood(case.vae.model, None, case.data(3), engine="eager")


@pytest.mark.parametrize("num_samples", [40, 100])
def test_harmonic_samples_come_in_whole_chains(num_samples) -> None:
    case = LinearGaussian(2, 7)
    with pytest.raises(ValueError, match=r"num_samples must be a multiple of num_chains=16, at least four of them"):
        harmonic_log_likelihood(case.vae.model, None, case.data(3), num_samples=num_samples)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_kernel_density_integrates_to_one_and_follows_separated_modes(dim) -> None:
    samples = torch.randn(400, dim) * 0.3
    samples[::2, 0] += 6.0
    density = fit_kernel_density(samples)
    grid = torch.linspace(-4, 10, 701)
    points = grid.unsqueeze(-1) if dim == 1 else torch.cartesian_prod(grid[::4], torch.linspace(-3, 3, 121))
    cell = float(grid[1] - grid[0]) if dim == 1 else 4 * float(grid[1] - grid[0]) * 0.05
    assert float(density.pdf(points.T.numpy()).sum() * cell) == pytest.approx(1, abs=1e-3)
    between = torch.zeros(1, dim)
    between[0, 0] = 3.0
    assert density.logpdf(between.T.numpy()) < density.logpdf(samples.T.numpy()).mean() - 5


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("separation", [0.0, 2.0, 10.0])
def test_the_bandwidth_maximises_the_leave_one_out_likelihood(dim, separation) -> None:
    samples = torch.randn(60, dim)
    samples[::2, 0] += separation
    likelihoods = {}
    for fraction in (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12):
        h = fraction * 60 ** (-1 / (dim + 4))
        kernels = dist.MultivariateNormal(samples, h**2 * torch.atleast_2d(samples.T.cov()))
        log_kernels = kernels.log_prob(samples.unsqueeze(1)).fill_diagonal_(-torch.inf)
        likelihoods[h] = float(log_kernels.logsumexp(1).mean())
    assert fit_kernel_density(samples).factor == pytest.approx(max(likelihoods, key=likelihoods.__getitem__))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_chains": 1}, "num_chains must be at least 2, got num_chains=1"),
        ({"num_fitted": 64, "num_chains": 4}, "num_fitted must be at least 25 for each of 4 latent dimensions, got"),
    ],
)
def test_too_few_draws_for_a_density_are_refused(sizes, message) -> None:
    case = LinearGaussian(4, 7)
    with pytest.raises(ValueError, match=f"^harmonic_log_likelihood: {message}"):
        harmonic_log_likelihood(case.vae.model, None, case.data(3), engine="eager", **sizes)


def test_what_is_not_known_is_not_trusted() -> None:
    unknown = torch.full((3,), torch.nan)
    result = HarmonicLogLikelihood(torch.zeros(3), torch.ones(3), unknown, unknown, torch.ones(3))
    assert result.summary()["r_hat_above_1.05"] == result.summary()["pareto_k_above_0.7"] == 1


@pytest.mark.slow
def test_thinned_draws_lie_further_apart() -> None:
    case = LinearGaussian(2, 7)
    sizes = {"num_samples": 400, "num_chains": 1, "num_steps": 1, "engine": "eager"}
    x = case.data(1)
    rough, thin = (posterior_samples(case.vae.model, None, x, thinning=n, **sizes) for n in (1, 8))
    assert thin.effective_sample_size > 1.5 * rough.effective_sample_size


def test_samples_that_coincide_give_no_harmonic_estimate() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.ones(len(x), 1), 4e-16).to_event(1))  # two steps of float64
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    sizes = {"num_samples": 64, "num_fitted": 64, "num_chains": 8, "num_steps": 2, "warmup": 2}
    result = harmonic_log_likelihood(model, None, torch.zeros(2, 1), engine="eager", **sizes)
    assert result.log_likelihood.isnan().all()
    assert result.summary()["pareto_k_above_0.7"] == 1.0

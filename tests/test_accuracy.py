"""Estimates to a given accuracy: the bounds on simulated data, the choice of the estimator, and the result."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal

from pyro_vae import annealed_log_likelihood, log_likelihood
from pyro_vae.evaluation import AccurateLogLikelihood, Result, accurate_log_likelihood
from pyro_vae.evaluation.importance_sandwich import importance_bounds
from tests.linear_gaussian import LinearGaussian

QUICK = {"chunk_size": 4096, "engine": "eager", "batch_size": 60}


def _simulated(case: LinearGaussian, num: int, **options):
    """Bounds of simulated data, and their exact evidence."""
    drawn = []

    def model(x):
        drawn.append(case.vae.model(x))
        return drawn[-1]

    x = case.data(num)
    bounds = importance_bounds(model, case.vae.guide, x, batch_size=num, chunk_size=4096, engine="eager", **options)
    simulated = next(value for value in drawn if value.shape == x.shape and not torch.equal(value, x))
    return bounds, case.log_prob(simulated)


@pytest.mark.parametrize("num_samples", [1, 7])
def test_with_the_exact_posterior_both_bounds_are_the_evidence(num_samples: int) -> None:
    bounds, exact = _simulated(LinearGaussian(3, 7), 20, num_samples=num_samples)
    assert (bounds.lower - exact).abs().max() < 1e-9
    assert (bounds.upper - exact).abs().max() < 1e-9


@pytest.mark.parametrize("proposal", ["guide", "optimised"])
def test_bounds_from_one_sample_are_off_by_the_divergences_of_normals(proposal: str) -> None:
    inflate, dim = 1.5, 3
    bounds, exact = _simulated(LinearGaussian(dim, 7, inflate=inflate), 4000, num_samples=1, proposal=proposal)
    below, above = exact - bounds.lower, bounds.upper - exact
    if proposal == "optimised":  # half of the mixture is the posterior
        assert (above <= math.log(2) + 1e-9).all()
        assert abs(float(above.neg().exp().mean()) - 1) < 4.5 * float(above.neg().exp().std()) / math.sqrt(len(above))
        return
    reverse = dim * (0.5 * (inflate**2 - 1) - math.log(inflate))  # KL(q || posterior)
    forward = dim * (0.5 * (inflate**-2 - 1) + math.log(inflate))
    for gap, divergence in ((below, reverse), (above, forward)):
        assert abs(float(gap.mean()) - divergence) < 4.5 * float(gap.std()) / math.sqrt(len(gap))


def test_the_gap_is_the_variance_of_the_weights_by_their_number() -> None:
    inflate, dim, num = 1.3, 3, 400
    bounds, exact = _simulated(LinearGaussian(dim, 7, inflate=inflate), 1500, num_samples=num)
    variance = (inflate**2 / math.sqrt(2 * inflate**2 - 1)) ** dim - 1  # relative, of the weights
    mean, error = bounds.gap()
    assert abs(mean - variance / num) < 4.5 * error
    below = exact - bounds.lower
    assert abs(float(below.mean()) - variance / num / 2) < 4.5 * float(below.std()) / math.sqrt(len(below))


def test_an_exact_guide_is_accepted_at_once() -> None:
    case = LinearGaussian(3, 7)
    x = case.data(30)
    result = log_likelihood(case.vae.model, case.vae.guide, x, accuracy=0.01, **QUICK)
    assert isinstance(result, AccurateLogLikelihood)
    assert result.failures() == []
    assert (result.log_likelihood - case.log_prob(x)).abs().max() < 1e-9
    assert [trial["estimator"] for trial in result.protocol["tried"]] == ["importance, guide, 1,024 samples"]
    assert len(result.lower) == 60  # batches of 30


def test_a_poor_guide_leads_to_the_optimised_proposal() -> None:
    case = LinearGaussian(6, 9, correlated=True, shift=0.4, inflate=2.0)
    x = case.data(50)
    result = log_likelihood(case.vae.model, case.vae.guide, x, accuracy=0.02, **QUICK)
    assert result.failures() == []
    assert result.protocol["proposal"] == "optimised"
    assert result.protocol["tried"][0]["gap"] > 0.02
    size = result.protocol["num_samples"]
    alone = log_likelihood(case.vae.model, case.vae.guide, x, num_samples=size, proposal="optimised", **QUICK)
    assert torch.equal(alone.log_likelihood, result.log_likelihood)
    assert abs(result.mean() - float(case.log_prob(x).mean())) < 0.02 + 4.5 * result.monte_carlo_error()


def observations(z):
    """An equal mixture of N(z, 1) and N(-z, 1)."""
    both = torch.stack([z, -z], -1)
    return MixtureSameFamily(Categorical(torch.ones_like(both)), Normal(both, 1.0))


def mirrored(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Normal(0.0, 3.0))
        pyro.sample("x", observations(z.unsqueeze(-1)).expand([len(x), 10]).to_event(1), obs=x)


def one_mode(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(x.abs().mean(-1), 0.35))


def test_a_guide_that_misses_a_mode_is_not_accepted() -> None:
    x = observations(torch.full((20, 10), 2.0)).sample()
    z = torch.linspace(-20, 20, 20_001)
    log_joint = Normal(0.0, 3.0).log_prob(z) + observations(z.view(-1, 1, 1)).log_prob(x).sum(-1).T
    exact = (log_joint.logsumexp(-1) + math.log(40 / 20_000)).mean()
    missed = log_likelihood(mirrored, one_mode, x, num_samples=1024, **QUICK)
    assert abs(missed.mean() - float(exact) + math.log(2)) < 0.05  # and its own diagnostics do not show it:
    assert missed.untrusted() < 0.1
    estimate = partial(accurate_log_likelihood, mirrored, one_mode, x, accuracy=0.3, num_simulated=40, **QUICK)
    result = estimate(max_distributions=1, max_samples=4096)
    assert result.protocol["tried"][0]["gap"] > 1
    tried = {trial["estimator"]: trial["outcome"] for trial in result.protocol["tried"]}
    assert list(tried) == [
        f"importance, {name} samples" for name in ("guide, 1,024", "optimised, 1,024", "optimised, 4,096")
    ]
    gap_of_guide, *refused = tried.values()
    assert gap_of_guide.startswith("gap")
    # The share of the prior reaches the other mode, by few samples with large weights.
    assert refused == ["not accepted: 20 of 20 data with an unreliable Pareto k"] * 2
    assert "20 of 20 data with an unreliable Pareto k" in result.advice()
    assert abs(result.mean() - float(exact)) < 0.3 + 4.5 * result.monte_carlo_error()


@pytest.mark.slow
def test_annealing_is_tried_after_importance_sampling() -> None:
    case = LinearGaussian(2, 7, shift=0.3, inflate=0.7)
    x = case.data(30)
    estimate = partial(accurate_log_likelihood, case.vae.model, case.vae.guide, x, max_samples=1, **QUICK)
    result = estimate(accuracy=0.1, max_distributions=30, num_simulated=30)
    assert result.protocol["tried"][-1]["estimator"] == "annealed from the guide, 30 distributions"
    sizes = {"num_distributions": 30, "num_chains": 16, "schedule": "adaptive", "start": "guide", "engine": "eager"}
    alone = annealed_log_likelihood(case.vae.model, case.vae.guide, x, batch_size=60, **sizes)
    assert torch.equal(alone.log_likelihood, result.log_likelihood)
    assert result.curve.shape == (30, 5)  # 1, 2, 4, 8, 16 chains
    assert (result.curve[:, 0] - alone.mean_log_weight).abs().max() < 1e-9
    assert result.pareto_k.isnan().all()


def test_an_accuracy_that_is_not_reached_is_reported(tmp_path) -> None:
    case = LinearGaussian(3, 7, inflate=1.5)
    x = case.data(10)
    estimate = partial(accurate_log_likelihood, case.vae.model, case.vae.guide, x, max_distributions=1, **QUICK)
    result = estimate(accuracy=1e-7, max_samples=1024)
    assert result.failures()
    assert "is not confirmed: a gap of" in result.advice()
    gaps = [trial["gap"] for trial in result.protocol["tried"]]
    assert gaps[-1] == min(gaps) == result.gap()[0]
    result.save(tmp_path / "r.json")
    again = Result.load(tmp_path / "r.json")
    assert str(again) == str(result)


def test_models_without_any_applicable_estimator_raise_the_first_reason() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Bernoulli(0.5))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Bernoulli(0.5))

    with pytest.raises(ValueError, match=r"^importance_bounds: latent sites must be continuous, got the discrete site"):
        log_likelihood(model, guide, torch.ones(3), accuracy=0.1, **QUICK)
    with pytest.raises(ValueError, match=r"^log_likelihood: accuracy must come without proposal and precision, got"):
        log_likelihood(model, guide, torch.ones(3), accuracy=0.1, proposal="prior")
    with pytest.raises(ValueError, match=r"^accurate_log_likelihood: accuracy must be positive and finite, got"):
        log_likelihood(model, guide, torch.ones(3), accuracy=0.0)


def _result(**changes) -> AccurateLogLikelihood:
    entries = {"accuracy": 0.1, "num_samples": 4096, "tried": [{"estimator": "e", "outcome": "o"}]}
    numbers = {
        "log_likelihood": torch.zeros(10),
        "standard_error": torch.full((10,), 0.01),
        "pareto_k": torch.zeros(10),
        "curve": torch.tensor([[-0.4, -0.2, -0.1, -0.05]]).expand(10, 4),
        "lower": torch.zeros(5),
        "upper": torch.full((5,), 0.09),
    }
    return AccurateLogLikelihood(**{**numbers, **changes}, protocol=entries)


def test_each_diagnostic_can_refuse() -> None:
    assert _result().failures() == []
    assert _result().rest() == pytest.approx(0.05)  # 1/2 + 1/4 + ... of the last gain
    slow = torch.tensor([[-1.0, -0.8, -0.61, -0.43]]).expand(10, 4)  # gains 0.19, 0.18
    assert _result(curve=slow).rest() == pytest.approx(0.18 * 9)
    k = torch.zeros(10)
    k[:2] = 0.71
    refused = {
        "0.150 nats that the curve": {"curve": torch.tensor([[-1.0, -0.65, -0.3, -0.15]]).expand(10, 4)},
        "2 of 10 data with an unreliable Pareto k": {"pareto_k": k},
        "a Monte Carlo error of 0.063": {"standard_error": torch.full((10,), 0.2)},
        "a gap of 0.080 +- 0.049": {"upper": torch.tensor([0.0, 0.1, 0.0, 0.26, 0.04])},
    }
    for message, change in refused.items():
        (failure,) = _result(**change).failures()
        assert failure.startswith(message)
    few = _result(pareto_k=torch.full((10,), 0.6))
    few.protocol["num_samples"] = 100  # limit 0.5
    assert len(few.flagged()) == 10

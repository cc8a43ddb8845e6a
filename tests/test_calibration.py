"""Ranks are uniform for the exact posterior, and of the expected shape for other guides."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pyro_vae import VAE, guides, priors
from pyro_vae.evaluation import Calibration, Result, simulation_based_calibration
from pyro_vae.likelihoods import BernoulliLikelihood
from tests.linear_gaussian import LinearGaussian


def ranks(values: torch.Tensor, *, num_samples: int = 99, num_bins: int = 20) -> Calibration:
    return Calibration(values, protocol={"num_samples": num_samples, "num_bins": num_bins})


# the ranks


@pytest.mark.parametrize("correlated", [False, True])
def test_the_exact_posterior_passes(correlated: bool) -> None:
    result = simulation_based_calibration(LinearGaussian(correlated=correlated).vae)
    assert result.ranks.shape == (1000, 3)
    assert (result.ranks.min(), result.ranks.max()) == (0, 99)
    assert result.passes()
    assert result.shapes() == ["uniform"] * 3
    assert result.advice() == ""
    shift, spread = result.scores()
    assert float(shift.abs().max()) < 4.5
    assert float(spread.abs().max()) < 4.5


@pytest.mark.parametrize(
    ("guide", "shape"),
    [
        ({"inflate": 1.5}, "too wide"),
        ({"inflate": 0.7}, "too narrow"),
        ({"shift": 0.3}, "shifted up"),
        ({"shift": -0.3}, "shifted down"),
    ],
)
def test_another_guide_fails_with_its_histogram_shape(guide: dict[str, float], shape: str) -> None:
    result = simulation_based_calibration(LinearGaussian(**guide).vae)  # type: ignore[arg-type]
    assert not result.passes()
    assert result.shapes() == [shape] * 3
    assert f"dimension 1 {shape}" in result.advice()


def test_the_rank_probability_is_that_of_the_normal() -> None:
    # With a guide c times as wide, the rank of z among one draw is 0 with probability 1/2, and among two it is 1 with
    # probability P(min < z < max) = 2 P(d1 < z < d2) = 2 (1/2 - 1/4 - arcsin(rho) / 2 pi), rho = 1 / (1 + c^2).
    case, n = LinearGaussian(inflate=2.0), 20_000
    result = simulation_based_calibration(case.vae, num_simulations=n, num_samples=2, num_bins=3, batch_size=n)
    rho = 1 / (1 + 2.0**2)
    middle = 0.5 - math.asin(rho) / math.pi
    share = result.histogram()[:, 1].double() / n
    assert float((share - middle).abs().max()) < 4.5 * math.sqrt(middle * (1 - middle) / n)


def test_probabilities_are_calibrated() -> None:
    vae = LinearGaussian(latent_dim=1).vae
    p = torch.cat([simulation_based_calibration(vae, seed=s, num_simulations=400).p_values() for s in range(200)])
    for level in (0.05, 0.5):
        share = float((p < level).double().mean())
        assert abs(share - level) < 4.5 * math.sqrt(level * (1 - level) / 200)


def test_ties_of_discrete_latents_are_broken_at_random() -> None:
    prior, guide = priors.CategoricalPrior(6, categories=3), guides.CategoricalGuide((5,), 6, categories=3)
    likelihood = BernoulliLikelihood(6, (5,))
    for parameter in [*guide.parameters(), *likelihood.parameters()]:
        torch.nn.init.zeros_(parameter)  # x does not depend on z: the posterior is the prior
    result = simulation_based_calibration(VAE(prior, likelihood, guide))
    assert result.passes()
    assert len(result.ranks.unique()) > 90


def test_equal_values_have_uniform_ranks() -> None:
    prior, guide = priors.CategoricalPrior(1), guides.CategoricalGuide((5,), 1)  # z is 1 with probability 1
    vae = VAE(prior, BernoulliLikelihood(1, (5,)), guide)
    result = simulation_based_calibration(vae, num_samples=3, num_bins=4)
    assert sorted(result.ranks.unique().tolist()) == [0, 1, 2, 3]
    assert result.passes()


@pytest.mark.slow
def test_a_guide_without_a_density_is_ranked() -> None:
    prior, likelihood = priors.StandardNormalPrior(2), BernoulliLikelihood(2, (5,))
    for guide in (guides.AuxiliaryGuide((5,), 2), guides.HMCGuide((5,), 2)):
        assert simulation_based_calibration(VAE(prior, likelihood, guide)).ranks.shape == (1000, 2)


def test_the_seed_decides_the_ranks_and_global_state_stays(exact: LinearGaussian) -> None:
    state = torch.get_rng_state()
    one, other = (simulation_based_calibration(exact.vae, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.ranks, other.ranks)
    assert not torch.equal(one.ranks, simulation_based_calibration(exact.vae, seed=4).ranks)
    assert exact.vae.training


# the test


def test_the_histogram_counts_equally_many_values_per_bin() -> None:
    result = ranks(torch.arange(12).repeat(2).unsqueeze(-1), num_samples=11, num_bins=4)
    assert result.histogram().tolist() == [[6, 6, 6, 6]]
    assert result.chi_square().tolist() == [0.0]
    assert result.p_values().tolist() == [1.0]


def test_the_chi_square_is_that_of_the_counts() -> None:
    counts = torch.tensor(
        [16, 18, 16, 14, 12, 12]
    )  # scipy.stats.chisquare's example: statistic 2, p 0.84914503608460956
    result = ranks(torch.arange(6).repeat_interleave(counts).unsqueeze(-1), num_samples=5, num_bins=6)
    assert result.chi_square().item() == pytest.approx(2.0, abs=1e-12)
    assert result.p_values().item() == pytest.approx(0.84914503608460956, abs=1e-12)


def test_probabilities_have_holm_s_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ranks(torch.zeros(1, 4))
    monkeypatch.setattr(Calibration, "p_values", lambda self: torch.tensor([0.03, 0.004, 0.9, 0.025]))
    # 4 * 0.004, 3 * 0.025, and no less than that for the next
    assert result.corrected_p_values().tolist() == pytest.approx([0.075, 0.016, 0.9, 0.075])


def test_scores_are_standard_for_uniform_ranks() -> None:
    u = torch.randint(0, 4, (500, 4_000))  # few values, so that discreteness matters
    shift, spread = ranks(u, num_samples=3, num_bins=4).scores()
    for score in (shift, spread):
        assert abs(float(score.mean())) < 4.5 / math.sqrt(4_000)
        assert abs(float(score.std()) - 1) < 4.5 / math.sqrt(2 * 4_000)


def test_the_band_is_that_of_the_binomial() -> None:
    # By hand: Binomial(4, 1/2) has 1/16 at each end.
    assert ranks(torch.zeros(4, 1), num_samples=1, num_bins=2).band(0.8) == (1, 3)
    assert ranks(torch.zeros(4, 1), num_samples=1, num_bins=2).band(0.99) == (0, 4)
    result = ranks(torch.zeros(1000, 1))
    low, high = result.band()
    counts = torch.distributions.Binomial(1000, torch.tensor(1 / 20)).sample((20_000,))
    inside = ((counts >= low) & (counts <= high)).double().mean()
    assert float(inside) > 0.99 - 4.5 * math.sqrt(0.01 / 20_000)
    narrower = ((counts > low) & (counts < high)).double().mean()
    assert float(narrower) < 0.99 + 4.5 * math.sqrt(0.01 / 20_000)


# the result


def test_it_is_saved_with_its_protocol(exact: LinearGaussian, tmp_path: Any) -> None:
    result = simulation_based_calibration(exact.vae, protocol={"run": "linear"})
    result.save(tmp_path / "calibration.json")
    again = Result.load(tmp_path / "calibration.json")
    assert isinstance(again, Calibration)
    assert again.summary() == result.summary()
    assert again.protocol == result.protocol
    assert again.protocol["guide"] == "DiagonalNormalGuide"
    assert len(again) == 1000
    assert "ranks uniform      yes: 0 of 3" in str(again)


def test_untestable_settings_raise(exact: LinearGaussian) -> None:
    with pytest.raises(ValueError, match="num_bins must be at least 2 and divide num_samples"):
        simulation_based_calibration(exact.vae, num_samples=100)
    with pytest.raises(ValueError, match="num_simulations must be at least 5"):
        simulation_based_calibration(exact.vae, num_simulations=99)

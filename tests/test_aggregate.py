"""The aggregate posterior and the decomposition of the ELBO, against torch's mixtures and closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from pyro_vae import VAE, guides, latent_diagnostics, priors
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.owners import evaluating
from pyro_vae.evaluation import AggregatePosterior, LatentDiagnostics, Result, aggregate
from pyro_vae.evaluation.aggregate import TERMS, decompose
from pyro_vae.evaluation.marginals import kl_per_dimension, marginal_distributions, moments
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.priors import VampPrior
from tests.linear_gaussian import LinearGaussian
from tests.test_contracts import concrete


def mixture(q: Distribution) -> MixtureSameFamily:
    """1/N sum_n q(z | x_n), by torch."""
    return MixtureSameFamily(Categorical(logits=torch.zeros(q.batch_shape)), q)


def posterior(case: LinearGaussian, x: Tensor, *, std: Tensor) -> MixtureSameFamily:
    """The dimensions of the mixture, one by one, batch shape (L,)."""
    return mixture(Normal(case.posterior_mean(x).T, std.unsqueeze(-1).expand(-1, len(x))))


# the density


@pytest.mark.parametrize("correlated", [False, True])
def test_it_is_the_mixture_of_the_posteriors(correlated: bool) -> None:
    case = LinearGaussian(correlated=correlated)
    x, z = case.data(11), torch.randn(13, 3)
    q = AggregatePosterior([case.vae.encode(part) for part in x.split(4)])
    whole = MultivariateNormal(case.posterior_mean(x), case.posterior_covariance())
    joint, each = q.log_densities(z)
    assert q.num_data == 11
    assert torch.allclose(joint, mixture(whole).log_prob(z), atol=1e-10)
    assert torch.allclose(q.log_prob(z), joint)
    std = case.posterior_covariance().diagonal().sqrt()
    assert each is not None
    assert torch.allclose(each, posterior(case, x, std=std).log_prob(z), atol=1e-10)


def test_the_block_size_does_not_matter(exact: LinearGaussian, monkeypatch: pytest.MonkeyPatch) -> None:
    q, z = AggregatePosterior([exact.vae.encode(exact.data(20))]), torch.randn(9, 3)
    joint, each = q.log_densities(z)
    for pairs in (1, 150):
        monkeypatch.setattr(aggregate, "BLOCK_SIZE", pairs)
        again, each_again = q.log_densities(z)
        torch.testing.assert_close(again, joint, rtol=1e-9, atol=1e-9)
        assert each is not None
        torch.testing.assert_close(each_again, each, rtol=1e-9, atol=1e-9)


def test_its_log_density_is_finite_far_away() -> None:
    q = AggregatePosterior([Independent(Normal(torch.zeros(3, 2), 1e-3), 1)])
    far = q.log_prob(torch.ones(1, 2))
    assert torch.allclose(far, Normal(0.0, 1e-3).log_prob(torch.ones(1)) * 2)
    assert far < -9e5


def test_without_a_density_it_raises() -> None:
    q = guides.AuxiliaryGuide((4,), 2).posterior(torch.zeros(3, 4))
    with pytest.raises(NotImplementedError, match="closed form"):
        AggregatePosterior([q]).log_prob(torch.zeros(1, 2))


# the decomposition of the ELBO


def parts(vae: VAE, x: Tensor, **changes: Any) -> aggregate.Decomposition:
    options: dict[str, Any] = {"num_data": None, "num_draws": 3, "batch_size": 4, "seed": 5}
    with evaluating(vae), isolated_rng(0):
        return decompose(vae, x, **{**options, **changes})


@pytest.mark.parametrize("inflate", [1.0, 1.7])
@pytest.mark.parametrize("correlated", [False, True])
def test_the_terms_add_up_at_every_draw(inflate: float, correlated: bool) -> None:
    case = LinearGaussian(inflate=inflate, correlated=correlated)
    t = parts(case.vae, case.data(10)).terms
    assert set(t) == set(TERMS)
    assert t["elbo"].shape == (3, 10)
    total = t["information"] + t["total_correlation"] + t["dimension_kl"]
    assert torch.allclose(total, t["rate"], atol=1e-11)
    assert torch.allclose(t["total_correlation"] + t["dimension_kl"], t["marginal_kl"], atol=1e-11)
    assert torch.allclose(t["elbo"], t["reconstruction"] - total, atol=1e-11)


def test_with_the_exact_posterior_every_draw_has_the_evidence(exact: LinearGaussian) -> None:
    x = exact.data(10)
    assert torch.allclose(parts(exact.vae, x).terms["elbo"], exact.log_prob(x).expand(3, 10), atol=1e-10)


@pytest.mark.parametrize("correlated", [False, True])
def test_the_decomposition_of_one_datum_is_exact(correlated: bool) -> None:
    case = LinearGaussian(correlated=correlated)
    result = latent_diagnostics(case.vae, case.data(1), num_draws=20_000)
    covariance = case.posterior_covariance()
    assert result.mean("information") == pytest.approx(0.0, abs=1e-12)
    # For a normal: minus half the log-determinant of its correlation matrix.
    correlation = 0.5 * (covariance.diagonal().log().sum() - covariance.logdet())
    kl = kl_per_dimension(case.vae.encode(case.data(1)), case.vae.prior(), 2)
    assert kl is not None
    assert (
        abs(result.mean("total_correlation") - correlation) < 4.5 * result.monte_carlo_error("total_correlation") + 1e-9
    )
    assert result.kl is not None
    assert abs(result.mean("dimension_kl") - result.kl.sum()) < 4.5 * result.monte_carlo_error("dimension_kl")


@pytest.mark.parametrize("correlated", [False, True])
def test_the_terms_match_independent_draws_of_the_mixture(correlated: bool) -> None:
    case = LinearGaussian(latent_dim=2, scale=0.3, inflate=1.3, correlated=correlated)
    x, s = case.data(7), 20_000
    result = latent_diagnostics(case.vae, x, num_draws=2_000)
    covariance = case.posterior_covariance() * 1.69
    q = MultivariateNormal(case.posterior_mean(x), covariance)
    torch.manual_seed(11)
    z = q.sample((s,))  # (s, 7, 2)
    log_joint, log_each = mixture(q).log_prob(z), posterior(case, x, std=covariance.diagonal().sqrt()).log_prob(z)
    log_p, product = Normal(0.0, 1.0).log_prob(z).sum(-1), log_each.sum(-1)
    expected = {
        "reconstruction": case.vae.decode(z).log_prob(x).detach(),
        "rate": q.log_prob(z) - log_p,
        "information": q.log_prob(z) - log_joint,
        "marginal_kl": log_joint - log_p,
        "total_correlation": log_joint - product,
        "dimension_kl": product - log_p,
    }
    for name, values in expected.items():
        error = math.hypot(
            result.monte_carlo_error(name), float(values.std(0).square().sum().sqrt() / 7 / math.sqrt(s))
        )
        assert abs(result.mean(name) - values.mean()) < 4.5 * error, name


def test_the_errors_are_the_spread_over_seeds() -> None:
    case = LinearGaussian(inflate=1.4)
    x = case.data(15)
    runs = [latent_diagnostics(case.vae, x, seed=s, num_draws=4) for s in range(200)]
    for name in TERMS:
        means = torch.tensor([run.mean(name) for run in runs])
        claimed = torch.tensor([run.monte_carlo_error(name) for run in runs]).square().mean().sqrt()
        assert float(means.std() / claimed) == pytest.approx(1.0, abs=4.5 / math.sqrt(2 * 199)), name


def test_information_saturates_at_the_log_of_the_number_of_data() -> None:
    case = LinearGaussian(scale=1e-3)
    result = latent_diagnostics(case.vae, case.data(64), batch_size=10)
    assert result.information is not None
    assert result.information_bound == pytest.approx(math.log(64))
    assert float(result.information.max()) <= math.log(64) + 1e-12
    assert result.mean("information") == pytest.approx(math.log(64), abs=1e-3)
    assert result.saturated
    assert "at its bound" in result.advice()
    blurred = latent_diagnostics(LinearGaussian(scale=2.0).vae, case.data(64))
    assert not blurred.saturated
    assert blurred.advice() == ""


# which terms are available


def small(prior: priors.Prior | None = None, guide: guides.Guide | None = None) -> VAE:
    return VAE(
        prior or priors.StandardNormalPrior(3),
        BernoulliLikelihood(3, (5,)),
        guide or guides.DiagonalNormalGuide((5,), 3),
    )


def binary(num: int) -> Tensor:
    return torch.rand(num, 5).round()


@pytest.mark.parametrize("cls", [c for c in concrete(guides) if not c.implicit], ids=lambda cls: cls.__name__)
def test_every_guide_has_its_terms_or_a_reason(cls: type[guides.Guide]) -> None:
    prior = priors.CategoricalPrior(3) if cls.discrete else None
    result = latent_diagnostics(small(prior, cls((5,), 3)), binary(12), batch_size=5, num_samples=9)
    reasons = result.protocol["unavailable"]
    assert set(result.available) | set(reasons) == set(TERMS)
    assert not set(result.available) & set(reasons)
    if not cls.has_density:
        assert result.available == ["reconstruction"]
        assert "density" in reasons["information"]
        return
    assert result.available == list(TERMS if cls.has_marginals else TERMS[:5])
    assert (result.kl is not None) == cls.has_marginals
    assert result.information is not None
    assert result.mean("information") < result.information_bound
    assert torch.allclose(result.information + result.marginal_kl, result.rate, atol=1e-9)  # type: ignore[operator, arg-type]


def test_total_correlation_allows_priors_that_do_not_factorise() -> None:
    guide = guides.DiagonalNormalGuide((5,), 3)
    for prior in (VampPrior(guide, num_components=4), priors.MixtureOfNormalsPrior(3), priors.FlowPrior(3)):
        result = latent_diagnostics(small(prior, guide), binary(12))
        assert result.available == list(TERMS[:6])
        assert "prior" in result.protocol["unavailable"]["dimension_kl"]


def test_a_vamp_prior_at_the_data_is_the_aggregate_posterior() -> None:
    guide = guides.DiagonalNormalGuide((5,), 3)
    x = torch.rand(8, 5) * 0.9 + 0.05
    prior = VampPrior(guide, num_components=8).initialise_pseudo_inputs(x)
    result = latent_diagnostics(small(prior, guide), prior.pseudo_inputs.detach(), num_decomposed=8)
    assert result.marginal_kl is not None
    assert torch.allclose(result.marginal_kl, torch.zeros(8), atol=1e-10)
    assert result.reconstruction is None  # not binary: p(x | z) is undefined for them
    assert "support" in result.protocol["unavailable"]["elbo"]


def test_the_first_data_are_decomposed() -> None:
    case = LinearGaussian()
    x = case.data(30)
    result = latent_diagnostics(case.vae, x, num_decomposed=13, batch_size=5)
    alone = latent_diagnostics(case.vae, x[:13], batch_size=5)
    assert result.protocol["num_decomposed"] == 13
    assert result.protocol["num_data"] == 30
    for name in (*TERMS, "term_errors", "draws"):
        assert torch.allclose(getattr(result, name), getattr(alone, name), rtol=1e-9, atol=1e-9), name
    without = latent_diagnostics(case.vae, x, num_decomposed=0)
    assert without.available == []
    # Other batch sizes: matrix products of another shape round differently.
    torch.testing.assert_close(without.means, result.means, rtol=1e-9, atol=1e-9)


def test_by_default_fewer_data_if_a_flow_is_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "MAX_DATA_INVERTED", 6)
    monkeypatch.setattr(aggregate, "MAX_DATA", 9)
    flow = latent_diagnostics(small(guide=guides.PlanarFlowGuide((5,), 3)), binary(20), batch_size=4)
    normal = latent_diagnostics(small(), binary(20), batch_size=4)
    assert (flow.protocol["num_decomposed"], normal.protocol["num_decomposed"]) == (6, 9)


def test_iterables_and_batch_sizes_give_the_same_posterior() -> None:
    case = LinearGaussian()
    x = case.data(12)
    one = latent_diagnostics(case.vae, x, batch_size=5)
    other = latent_diagnostics(case.vae, [x[:5], x[5:10], x[10:]])
    assert one.information is not None
    # Gathered rows and views of x have another memory layout, so that matrix products may round differently.
    torch.testing.assert_close(one.information, other.information, rtol=1e-9, atol=1e-9)


def test_it_is_saved_with_its_protocol(tmp_path: Any) -> None:
    case = LinearGaussian()
    result = latent_diagnostics(case.vae, case.data(12), protocol={"dataset": "simulated"})
    result.save(tmp_path / "diagnostics.json")
    again = Result.load(tmp_path / "diagnostics.json")
    assert isinstance(again, LatentDiagnostics)
    assert again.summary() == result.summary()
    assert again.protocol == result.protocol
    assert again.protocol["dataset"] == "simulated"
    assert torch.allclose(again.term_errors, result.term_errors)  # type: ignore[arg-type]
    assert "information" in str(again)
    assert len(again) == 12


# marginals and moments


def test_marginals_are_those_of_the_distribution() -> None:
    q = guides.MixtureOfNormalsGuide((5,), 2, num_components=3).posterior(3 * torch.randn(4, 5))
    marginals = marginal_distributions(q)
    assert marginals is not None
    assert marginals.batch_shape == (4, 2)
    assert torch.allclose(marginals.mean, q.mean)
    assert torch.allclose(marginals.variance, q.variance)
    one = guides.MixtureOfNormalsGuide((5,), 1, num_components=3).posterior(3 * torch.randn(4, 5))
    z, single = torch.randn(6, 4, 1), marginal_distributions(one)
    assert single is not None
    assert torch.allclose(single.log_prob(z).squeeze(-1), one.log_prob(z))


def test_moments_without_a_closed_form_are_those_of_draws() -> None:
    class Opaque(Distribution):
        arg_constraints: dict[str, Any] = {}

        def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
            return Normal(3.0, 2.0).sample((*sample_shape, 5, 1))

    mean, variance, noise = moments(Opaque(validate_args=False), 1_000)
    assert float(((mean - 3) / noise.sqrt()).abs().max()) < 4.5
    assert float((variance / 4 - 1).abs().max()) < 4.5 * math.sqrt(2 / 999)
    assert torch.allclose(noise, variance / 1_000)


def test_the_kl_of_marginals_without_a_formula_is_estimated() -> None:
    q = guides.MixtureOfNormalsGuide((5,), 2, num_components=1).posterior(torch.randn(4, 5))
    p = priors.StandardNormalPrior(2)()
    kl = kl_per_dimension(q, p, 50_000)
    exact = kl_per_dimension(Independent(Normal(q.mean, q.variance.sqrt()), 1), p, 2)
    assert kl is not None
    assert exact is not None
    log_ratio = Normal(q.mean, q.variance.sqrt())
    z = log_ratio.sample((50_000,))
    error = (log_ratio.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).std(0) / math.sqrt(50_000)
    assert bool(((kl - exact).abs() < 4.5 * error).all())

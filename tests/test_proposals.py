"""Proposals of importance sampling, the curve of bounds, and users' programs."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate

from pyro_vae import VAE, log_likelihood, log_weights
from pyro_vae.evaluation import InflatedProposal, prior_proposal
from pyro_vae.evaluation.streaming import BoundCurve, WeightSummary
from pyro_vae.evaluation.weights import LogWeights
from pyro_vae.guides import (
    AuxiliaryGuide,
    DiagonalNormalGuide,
    FullRankNormalGuide,
    IAFGuide,
    LowRankNormalGuide,
    MixtureOfNormalsGuide,
    PlanarFlowGuide,
    SplineFlowGuide,
)
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.priors import StandardNormalPrior
from tests.linear_gaussian import LinearGaussian

EXACT = 1e-9


# Estimates against the closed form.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_dim", "dim", "options"),
    [
        (2, 7, {"inflate": 1.0, "shift": 0.2}),
        (10, 14, {"inflate": 1.3}),
        (50, 54, {"inflate": 1.1, "shift": 0.01}),
    ],
)
def test_estimates_agree_with_the_closed_form_and_errors_are_calibrated(latent_dim, dim, options) -> None:
    case = LinearGaussian(latent_dim, dim, **options)
    x = case.data(400)
    result = log_likelihood(case.vae.model, case.vae.guide, x, num_samples=2000, chunk_size=500, engine="eager")
    z = (result.log_likelihood - case.log_prob(x)) / result.standard_error
    assert z.abs().max() < 4.5
    assert abs(float(z.square().mean().sqrt()) - 1) < 0.15
    assert result.untrusted() < 0.02
    assert abs(result.mean() - float(case.log_prob(x).mean())) < 4.5 * result.monte_carlo_error()


def test_the_curve_rises_to_the_estimate() -> None:
    case = LinearGaussian(3, 7, inflate=1.5)
    x = case.data(50)
    result = log_likelihood(case.vae.model, case.vae.guide, x, num_samples=100, chunk_size=7, engine="eager")
    assert result.curve_sizes() == [1, 2, 4, 8, 16, 32, 64, 100]
    assert result.curve.shape == (50, 8)
    assert (result.curve[:, 0] - result.elbo).abs().max() < EXACT
    assert torch.equal(result.curve[:, -1], result.log_likelihood)
    means = result.curve.mean(0)
    assert (means.diff()[:4] > 0).all()  # only sizes with many blocks; few blocks are noisy
    assert means[-1] > means[4]
    assert [entry["num_samples"] for entry in result.summary()["curve"]] == result.curve_sizes()


@pytest.mark.parametrize("chunks", [[16], [1] * 16, [5, 11], [3, 3, 3, 3, 4]])
def test_each_bound_is_the_mean_over_blocks(chunks) -> None:
    log_w = torch.randn(16, 4) * 3
    curve = BoundCurve()
    for chunk in log_w.split(chunks):
        curve.add(chunk)
    blocks = [log_w.unflatten(0, (16 // k, k)).logsumexp(1).sub(math.log(k)).mean(0) for k in (1, 2, 4, 8, 16)]
    assert (curve.result() - torch.stack(blocks, -1)).abs().max() < EXACT


def test_sizes_other_than_powers_of_two_omit_incomplete_blocks() -> None:
    log_w = torch.randn(11, 2)
    curve = BoundCurve()
    curve.add(log_w)
    pairs = log_w[:10].unflatten(0, (5, 2)).logsumexp(1).sub(math.log(2)).mean(0)
    assert curve.result().shape == (2, 4)
    assert (curve.result()[:, 1] - pairs).abs().max() < EXACT


def test_the_chunk_size_does_not_matter() -> None:
    log_w, zero = torch.randn(2600, 3), torch.zeros(2600, 3)
    whole, parts = WeightSummary(2600), WeightSummary(2600)
    whole.add(LogWeights(log_w, zero))
    for chunk in log_w.split(170):
        parts.add(LogWeights(chunk, torch.zeros_like(chunk)))
    one, other = whole.result(), parts.result()
    for key, value in one.items():
        assert (value - other[key]).abs().max() < 1e-9, key


# Flags.


def test_a_guide_that_is_too_narrow_is_flagged_with_advice() -> None:
    case = LinearGaussian(3, 7, inflate=0.3)  # weights of infinite variance, k near 1 - 0.09
    result = log_likelihood(case.vae.model, case.vae.guide, case.data(40), num_samples=4000, engine="eager")
    assert result.untrusted() > 0.9
    assert torch.equal(result.flagged(), (result.pareto_k > 0.7).nonzero().squeeze(-1))
    assert "Take more samples" in result.advice()
    assert "annealed" in str(result)
    good = LinearGaussian(3, 7, inflate=1.3)
    assert (
        log_likelihood(good.vae.model, good.vae.guide, good.data(40), num_samples=4000, engine="eager").advice() == ""
    )


# Wider guides.


def test_a_widened_guide_is_the_guide_with_its_scales_multiplied() -> None:
    narrow, wide = LinearGaussian(3, 7, inflate=0.8), LinearGaussian(3, 7, inflate=1.2)
    x = narrow.data(20)
    options = {"num_samples": 50, "engine": "eager"}
    one = log_likelihood(narrow.vae.model, InflatedProposal(narrow.vae.guide, 1.5), x, **options)
    other = log_likelihood(wide.vae.model, wide.vae.guide, x, **options)
    assert (one.log_likelihood - other.log_likelihood).abs().max() < EXACT
    assert one.protocol["proposal"] == "guide, scale x 1.5"
    assert other.protocol["proposal"] == "guide"


GUIDES = [
    DiagonalNormalGuide,
    FullRankNormalGuide,
    LowRankNormalGuide,
    MixtureOfNormalsGuide,
    PlanarFlowGuide,
    IAFGuide,
    SplineFlowGuide,
    AuxiliaryGuide,
]


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.__name__)
def test_every_guide_can_be_widened_and_stays_unbiased(guide) -> None:
    torch.manual_seed(0)
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4,)), guide((4,), 2))
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.mul_(2.0)
    x = torch.bernoulli(torch.full((5, 4), 0.5))
    sizes = {"chunk_size": 2000, "engine": "eager"}
    wide = log_likelihood(vae.model, InflatedProposal(vae.guide, 1.6), x, num_samples=20_000, **sizes)
    naive = log_likelihood(vae.model, vae.guide, x, num_samples=20_000, proposal="prior", **sizes)
    error = (wide.standard_error.square() + naive.standard_error.square()).sqrt()
    assert ((wide.log_likelihood - naive.log_likelihood) / error).abs().max() < 4.5
    assert error.max() < 0.1
    assert not torch.allclose(
        wide.rate, log_likelihood(vae.model, vae.guide, x, num_samples=2000, **sizes).rate, atol=0.02
    )


def test_distributions_without_a_scale_raise() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(1.0, 1.0))
            pyro.sample("x", dist.Poisson(z), obs=x)

    with pytest.raises(
        ValueError,
        match=r"^InflatedProposal: every .* must have a scale, got a Gamma. Use .* is.$",
    ):
        log_likelihood(model, InflatedProposal(prior_proposal(model), 1.2), torch.ones(3), num_samples=2)
    with pytest.raises(ValueError, match=r"factor must be positive and finite, got factor=0"):
        InflatedProposal(model, 0)


# Mixtures.


def _two_modes(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 3.0))
        pyro.sample("x", dist.Normal(z.abs(), 0.2), obs=x)


def _mode(sign):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(sign * x, 0.25))

    return guide


@pytest.mark.parametrize("signs", [(1.0, -1.0), (1.0, -1.0, -1.0)], ids=["two", "three"])
def test_a_mixture_of_guides_covers_what_each_misses(signs) -> None:
    x = torch.linspace(1.5, 5, 20)
    z = torch.linspace(-30, 30, 600_001).unsqueeze(-1)
    log_joint = dist.Normal(0.0, 3.0).log_prob(z) + dist.Normal(z.abs(), 0.2).log_prob(x)
    exact = log_joint.logsumexp(0) + math.log(60 / 600_000)
    guides = [_mode(sign) for sign in signs]
    result = log_likelihood(_two_modes, guides, x, num_samples=4000, engine="eager")
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
    assert result.standard_error.max() < 0.02
    assert result.pareto_k.max() < 0.5
    names = ", ".join(["guide"] * len(signs))
    assert result.protocol["proposal"] == f"mixture of {len(signs)}: {names}"


def test_a_mixture_of_copies_of_the_exact_posterior_is_exact() -> None:
    case = LinearGaussian(3, 7)
    x = case.data(6)
    weights = log_weights(case.vae.model, [case.vae.guide, case.vae.guide], x, 4)
    assert (weights - case.log_prob(x)).abs().max() < EXACT


def test_a_mixture_with_the_prior_bounds_the_weights() -> None:
    case = LinearGaussian(2, 7, inflate=0.3)
    x = case.data(50)
    guides = [case.vae.guide, InflatedProposal(case.vae.guide, 4.0)]
    mixed = log_likelihood(case.vae.model, guides, x, num_samples=4000, engine="eager")
    assert mixed.untrusted() == 0
    assert ((mixed.log_likelihood - case.log_prob(x)) / mixed.standard_error).abs().max() < 4.5


def test_guides_with_auxiliary_variables_are_not_mixed() -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4,)), AuxiliaryGuide((4,), 2))
    with pytest.raises(ValueError, match=r"mixed must have a density at any z, got the auxiliary sites \['z_joint'\]"):
        log_likelihood(vae.model, [vae.guide, vae.guide], torch.ones(3, 4), num_samples=2)
    with pytest.raises(ValueError, match=r"there must be a guide, got an empty list"):
        log_likelihood(vae.model, [], torch.ones(3, 4), num_samples=2)


# Programs of users.


@config_enumerate
def _clustered(x):
    """Other site names, two latent sites, a discrete one that selects between them, parameters in the store."""
    spread = pyro.param("spread", torch.tensor(0.5), constraint=dist.constraints.positive)
    with pyro.plate("people", len(x)):
        group = pyro.sample("group", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        height = pyro.sample("height", dist.Normal(torch.tensor([-2.0, 0.0, 2.0])[group], 1.0))
        offset = pyro.sample("offset", dist.Normal(0.0, 0.7))
        pyro.sample("seen", dist.Normal(height + offset, spread), obs=x)


def _clustered_guide(x):
    with pyro.plate("people", len(x)):
        height = pyro.sample("height", dist.Normal(0.7 * x, 1.0))
        pyro.sample("offset", dist.Normal(0.4 * (x - height), 0.7))


def _clustered_evidence(x):
    parts = [dist.Normal(m, math.sqrt(1 + 0.49 + 0.25)).log_prob(x) for m in (-2.0, 0.0, 2.0)]
    return (torch.stack(parts, -1) + torch.tensor([0.2, 0.5, 0.3]).log()).logsumexp(-1)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_discrete_site_that_the_guide_lacks_is_summed_out(engine) -> None:
    x = torch.linspace(-4, 4, 24)
    sizes = {"num_samples": 4000, "chunk_size": 1000, "batch_size": 24}
    result = log_likelihood(_clustered, _clustered_guide, x, engine=engine, **sizes)
    z = (result.log_likelihood - _clustered_evidence(x)) / result.standard_error
    assert z.abs().max() < 4.5
    assert result.standard_error.max() < 0.05
    assert (result.elbo + result.distortion + result.rate).abs().max() < EXACT


def test_the_terms_of_an_enumerated_weight_are_likelihood_and_prior() -> None:
    from pyro_vae.evaluation.weights import ImportanceWeights

    x = torch.linspace(-4, 4, 5)
    importance = ImportanceWeights(_clustered, _clustered_guide, (x,))
    trace = importance.propose(6, (x,))
    density = importance.density(6, (x,), trace)
    height, offset = trace.nodes["height"]["value"], trace.nodes["offset"]["value"]
    groups = dist.Normal(torch.tensor([-2.0, 0.0, 2.0]), 1.0).log_prob(height.unsqueeze(-1))
    prior = (groups + torch.tensor([0.2, 0.5, 0.3]).log()).logsumexp(-1) + dist.Normal(0.0, 0.7).log_prob(offset)
    assert (density.log_prior - prior).abs().max() < EXACT
    assert (density.log_likelihood - dist.Normal(height + offset, 0.5).log_prob(x)).abs().max() < EXACT
    assert importance.log_guide(6, (x,), trace).shape == (6, 5)


def test_two_discrete_sites_are_summed_over_together() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            b = pyro.sample("b", dist.Categorical(torch.tensor([0.1, 0.6, 0.3])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(a, 0.1))
            pyro.sample("x", dist.Normal(z + 3.0 * b, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5, 0.7))

    x = torch.linspace(-1, 7, 9)
    means = torch.tensor([a + 3.0 * b for a in (0, 1) for b in range(3)])
    logits = torch.tensor([p * q for p in (0.7, 0.3) for q in (0.1, 0.6, 0.3)]).log()
    exact = (dist.Normal(means, math.hypot(0.1, 0.5)).log_prob(x.unsqueeze(-1)) + logits).logsumexp(-1)
    result = log_likelihood(model, guide, x, num_samples=5000, engine="eager")
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5


@pytest.mark.parametrize("seen", [[True, True, True], [True, False, True], [False, False, False]], ids=str)
@pytest.mark.parametrize("labelled", [True, False])
def test_masks_and_inner_plates_of_an_enumerated_model(seen, labelled) -> None:
    mask, known = torch.tensor(seen), torch.tensor(labelled)

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.poutine.mask(mask=known):
                y = pyro.sample("y", dist.Bernoulli(torch.tensor([0.3])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]))
            with pyro.plate("words", 3, dim=-1), pyro.poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(z + 2.0 * y - 1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(0.0, 1.2).expand([1]))

    x, z = torch.randn(4, 3), torch.linspace(-9, 9, 20_001)
    words = [(dist.Normal(z.unsqueeze(-1) + s, 1.0).log_prob(x[:, None]) * mask).sum(-1) for s in (-1.0, 1.0)]
    logits = torch.tensor([0.7, 0.3]).log() if labelled else torch.tensor([0.5, 0.5]).log()
    joint = torch.stack([w + logit for w, logit in zip(words, logits, strict=True)]).logsumexp(0)
    exact = (joint + dist.Normal(0.0, 1.0).log_prob(z)).logsumexp(-1) + math.log(18 / 20_000)
    result = log_likelihood(model, guide, x, num_samples=5000, data_plate="data", engine="eager")
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
    assert result.standard_error.max() < 0.05


def test_enumeration_by_samples_is_not_a_sum() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel", "num_samples": 3})
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="the guide must sample every latent site"):
        log_likelihood(model, _guide, torch.ones(4), num_samples=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dist.StudentT(torch.tensor(5.0), 1.0, 2.0),
        lambda: dist.Laplace(torch.tensor(1.0), 2.0),
        lambda: dist.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.tensor([1.0, 2.0, 0.5])),
        lambda: dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
        lambda: dist.Normal(torch.ones(3), 2.0).to_event(1),
    ],
    ids=["student", "laplace", "low rank", "full rank", "independent"],
)
def test_a_widened_distribution_has_its_scale_multiplied_about_its_centre(make) -> None:
    from pyro_vae.evaluation.inflation import _widened

    fn = make()  # within the test, under float64
    wide = _widened(fn, 1.5)
    assert (wide.variance - 2.25 * fn.variance).abs().max() < EXACT
    assert (wide.mean - fn.mean).abs().max() < EXACT
    # The density of a value 1.5 times as far from the centre, up to the volume.
    x = fn.sample((50,))
    change = wide.log_prob(fn.mean + 1.5 * (x - fn.mean)) - fn.log_prob(x)
    assert (change + max(1, fn.event_shape.numel()) * math.log(1.5)).abs().max() < EXACT


def test_a_transformed_guide_is_widened_at_its_base_distribution() -> None:
    from pyro_vae.evaluation.inflation import _widened

    wide, same = _widened(dist.LogNormal(0.5, 0.4), 1.5), dist.LogNormal(0.5, 0.6)
    x = torch.linspace(0.1, 9, 30)
    assert (wide.log_prob(x) - same.log_prob(x)).abs().max() < EXACT


def test_the_prior_proposal_samples_discrete_sites_and_agrees() -> None:
    x = torch.linspace(-3, 3, 6)
    result = log_likelihood(_clustered, prior_proposal(_clustered), x, num_samples=20_000, chunk_size=5000)
    assert ((result.log_likelihood - _clustered_evidence(x)) / result.standard_error).abs().max() < 4.5


def _outer(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _outside(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _sequential(x):
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i])


def _subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2) as index:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])


def _unmarked(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Normal(y, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _nested(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]))
        with pyro.plate("words", 3, dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x.unsqueeze(-1).expand(-1, 3))


def _guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def _subsampled_guide(x):
    with pyro.plate("data", len(x), subsample_size=2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def _outer_guide(x):
    pyro.sample("mean", dist.Normal(0.0, 1.0))
    _guide(x)


def _nested_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]))


def _empty_guide(x):
    with pyro.plate("data", len(x)):
        pass


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (_outside, _guide, "every site must be within one vectorised plate over the data"),
        (_outer, _outer_guide, "every site must be within one vectorised plate over the data"),
        (_sequential, prior_proposal(_sequential), "plates must be vectorised"),
        (_subsampled, _subsampled_guide, "plates must not draw a subsample, got plate 'data'"),
        (_outer, _guide, "the guide must sample every latent site"),
        (_unmarked, _guide, r"the guide must sample every latent site .*mark discrete sites with infer"),
        (_unmarked, _empty_guide, "the guide must sample every latent site"),
        (_nested, _nested_guide, "summed out must be in the plate of the data alone, got site 'y' in 2 plates"),
    ],
)
def test_pairs_without_weights_per_datum_raise(model, guide, message) -> None:
    with pytest.raises(ValueError, match=rf"^\w+: .*{message}"):
        log_likelihood(model, guide, torch.ones(4), num_samples=2, data_plate="data", engine="eager")

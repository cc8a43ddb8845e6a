"""Unusual combinations: a guide within the prior, dropout, auxiliary sites under weights, mixed types."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae import VAE, fit, guides, log_likelihood
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.models import BottomUpGuide, HierarchicalVAE
from pyro_vae.networks import MLP
from pyro_vae.objectives import (
    IWAE,
    VIMCO,
    BetaELBO,
    DoublyReparameterized,
    InfoVAE,
    ReweightedWakeSleep,
    ScoreFunction,
    StickingTheLanding,
    WakeSleep,
)
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior, VampPrior

small = partial(MLP, hidden=(6,))


def kind(thing) -> str:
    return type(thing).__name__


def vamp_vae(guide=guides.DiagonalNormalGuide, **options) -> VAE:
    guide = guide((5,), 2, net=small, **options)
    return VAE(VampPrior(guide, num_components=3), BernoulliLikelihood(2, (5,), net=small), guide)


@pytest.mark.parametrize("objective", [StickingTheLanding(), DoublyReparameterized(num_particles=3)], ids=kind)
def test_a_guide_within_the_prior_stays_the_same_module(objective) -> None:
    vae, x = vamp_vae(), torch.rand(8, 5).bernoulli()
    before = list(vae.parameters())
    values = [p.detach().clone() for p in before]
    fit(vae.model, vae.guide, x, epochs=1, batch_size=4, objective=objective, progress=False)
    assert all(a is b for a, b in zip(vae.parameters(), before, strict=True))
    assert all((p != v).any() for p, v in zip(before, values, strict=True))


def test_the_guide_s_gradient_includes_that_of_the_prior() -> None:
    """At equal noise STL's gradient is the ELBO's without the score of q, which is computed separately."""
    vae, x = vamp_vae(), torch.rand(8, 5).bernoulli()
    parameters = list(vae.parameters())
    torch.manual_seed(5)
    gradients = torch.autograd.grad(StickingTheLanding().differentiable_loss(vae.model, vae.guide, x), parameters)
    torch.manual_seed(5)
    trace = poutine.trace(vae.guide).get_trace(x)
    z = trace.nodes["z"]["value"]
    log_q, log_p = vae.encode(x).log_prob(z), vae.model.log_joint(x, z)
    score = vae.encode(x).log_prob(z.detach())
    expected = torch.autograd.grad((log_q - log_p - score).sum(), parameters, allow_unused=True)
    for value, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("guide", [guides.AuxiliaryGuide, guides.HMCGuide])
@pytest.mark.parametrize(("beta", "weight"), [(4.0, 1.0), (0.0, 1.0), (0.5, 3.0), (1.0, 0.0)])
def test_the_weight_of_the_kl_applies_to_the_reverse_model(guide, beta, weight, num_particles) -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,), net=small), guide((5,), 2, net=small))
    objective = BetaELBO(beta=beta, reconstruction_weight=weight, num_particles=num_particles)
    loss = objective.differentiable_loss(vae.model, vae.guide, torch.rand(8, 5).bernoulli())
    expected = beta * objective.terms.kl - weight * objective.terms.reconstruction
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=1e-12)


def test_the_discrepancy_reaches_the_pseudo_inputs() -> None:
    vae, x = vamp_vae(), torch.rand(6, 5).bernoulli()
    with torch.no_grad():
        vae.guide.net.layers[-1].weight.mul_(5)
    raw, step = vae.prior.raw, 1e-5

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return InfoVAE(alpha=1.0, mmd_weight=10.0).differentiable_loss(vae.model, vae.guide, x)

    (gradient,) = torch.autograd.grad(loss(), raw)
    assert gradient.flatten(1).any(1).all()
    direction = torch.randn_like(raw)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            raw.add_(sign * step * direction)
            values.append(loss())
            raw.sub_(sign * step * direction)
    numeric = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-6)


def test_a_learned_prior_without_paths_has_no_discrepancy() -> None:
    guide = guides.CategoricalGuide((5,), 6, categories=3, estimator="relaxed", net=small)
    vae = VAE(CategoricalPrior(6, categories=3, learn=True), BernoulliLikelihood(6, (5,), net=small), guide)
    with pytest.raises(ValueError, match=r"^InfoVAE: a learned prior must have reparameterised samples, got"):
        InfoVAE().differentiable_loss(vae.model, vae.guide, torch.ones(4, 5))


def test_dropout_that_differs_between_draw_and_density_raises() -> None:
    dropping = partial(MLP, hidden=(6,), dropout=0.3)
    with pytest.raises(ValueError, match=r"^AuxiliaryGuide: net must not have dropout"):
        guides.AuxiliaryGuide((5,), 2, net=dropping)
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,), net=dropping), guides.HMCGuide((5,), 2, net=small))
    with pytest.raises(ValueError, match=r"^HMCGuide: the model must not have dropout in train mode"):
        vae.train().guide(torch.ones(4, 5))
    assert vae.eval().guide(torch.ones(4, 5)).shape == (4, 2)


@pytest.mark.parametrize("estimator", ["score", "relaxed"])
def test_a_density_over_a_probability_raises(estimator) -> None:
    guide = guides.CategoricalGuide((5,), 6, categories=3, estimator=estimator, net=small)
    vae, x = VAE(StandardNormalPrior(6), BernoulliLikelihood(6, (5,), net=small), guide), torch.ones(4, 5)
    message = r": a latent site must be discrete in both programs or in none, got site 'z' continuous in the model"
    for attempt in (
        lambda: fit(vae.model, vae.guide, x, epochs=1, batch_size=4),
        lambda: log_likelihood(vae.model, vae.guide, x, num_samples=3),
        lambda: IWAE().differentiable_loss(vae.model, vae.guide, x),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()


@pytest.mark.parametrize("objective", [ScoreFunction, VIMCO, ReweightedWakeSleep, WakeSleep])
def test_a_score_of_relaxed_draws_raises(objective) -> None:
    guide = guides.CategoricalGuide((5,), 6, categories=3, estimator="relaxed", net=small)
    vae = VAE(CategoricalPrior(6, categories=3), BernoulliLikelihood(6, (5,), net=small), guide).train()
    with pytest.raises(ValueError, match=rf"^{objective.__name__}: samples must be from the density of their site"):
        objective().differentiable_loss(vae.model, vae.guide, torch.ones(4, 5))


@pytest.mark.parametrize(
    "guide", [guides.IAFGuide, guides.SplineFlowGuide, guides.PlanarFlowGuide, guides.SylvesterFlowGuide]
)
def test_a_vamp_prior_works_through_every_flow(guide) -> None:
    vae, z = vamp_vae(guide), torch.randn(4, 7, 2)
    u = vae.prior.pseudo_inputs
    apart = torch.stack([vae.guide.posterior(u[k]).log_prob(z) for k in range(3)])
    torch.testing.assert_close(
        vae.prior().log_prob(z), apart.logsumexp(0) - torch.tensor(3.0).log(), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("guide", [guides.HMCGuide, guides.SemiAmortizedGuide])
def test_a_vamp_prior_through_a_guide_that_needs_the_model_raises(guide) -> None:
    module = guide((5,), 2)
    message = rf"^VAE: the guide of a VampPrior must not depend on the model, .*{guide.__name__}"
    with pytest.raises(ValueError, match=message):
        VAE(VampPrior(module, num_components=3), BernoulliLikelihood(2, (5,)), module)


def test_a_layer_passes_infer_to_its_site() -> None:
    layers = [guides.CategoricalGuide((5,), 6, categories=3, net=small), guides.DiagonalNormalGuide((6,), 2, net=small)]
    trace = poutine.trace(BottomUpGuide(layers)).get_trace(torch.ones(4, 5))
    assert trace.nodes["z1"]["infer"].get("enumerate") == "parallel"
    assert not trace.nodes["z2"]["infer"].get("enumerate")


def test_steps_on_a_flow_in_the_prior_have_second_derivatives() -> None:
    inner = guides.PlanarFlowGuide((5,), 2, net=small)
    guide = guides.HMCGuide((5,), 2, num_steps=2, net=small)
    vae = VAE(VampPrior(inner, num_components=2), BernoulliLikelihood(2, (5,), net=small), guide)
    x, raw = torch.rand(3, 5).bernoulli(), vae.prior.raw

    def z() -> torch.Tensor:
        torch.manual_seed(5)
        return vae.guide(x).square().sum()

    (gradient,) = torch.autograd.grad(z(), raw)
    direction, step, values = torch.randn_like(raw), 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            raw.add_(sign * step * direction)
        values.append(z().detach())
        with torch.no_grad():
            raw.sub_(sign * step * direction)
    numeric = (values[0] - values[1]) / (2 * step)
    assert isinstance(raw, nn.Parameter)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-9)


def test_a_continuous_guide_of_a_discrete_prior_raises_a_one_line_error() -> None:
    guide = guides.DiagonalNormalGuide((5,), 6, net=small)
    vae, x = VAE(CategoricalPrior(6, categories=3), BernoulliLikelihood(6, (5,), net=small), guide), torch.ones(4, 5)
    for attempt in (
        lambda: fit(vae.model, vae.guide, x, epochs=1, batch_size=4),
        lambda: log_likelihood(vae.model, vae.guide, x, num_samples=3),
        lambda: IWAE().differentiable_loss(vae.model, vae.guide, x),
    ):
        with pytest.raises(
            ValueError, match=r"site 'z' discrete in the model and continuous in the guide\. Use"
        ) as info:
            attempt()
        assert "\n" not in str(info.value)


def test_categories_must_be_shared() -> None:
    guide = guides.CategoricalGuide((5,), 6, categories=2)
    with pytest.raises(ValueError, match=r"^VAE: prior and guide must share categories, got prior=3, guide=2"):
        VAE(CategoricalPrior(6, categories=3), BernoulliLikelihood(6, (5,)), guide)


def test_layers_and_their_guides_have_their_types() -> None:
    with pytest.raises(
        ValueError,
        match=r"^BottomUpGuide: layers must be a sequence, each entry an AmortizedGuide, got layers=.*HMCGuide",
    ):
        BottomUpGuide([guides.HMCGuide((5,), 3), guides.DiagonalNormalGuide((3,), 2)])
    conditionals = [guides.DiagonalNormalGuide((2,), 3)]
    with pytest.raises(ValueError, match=r"^HierarchicalVAE: guide must be a LayeredGuide, got guide=an IAFGuide"):
        HierarchicalVAE(StandardNormalPrior(2), conditionals, BernoulliLikelihood(3, (5,)), guides.IAFGuide((5,), 3))

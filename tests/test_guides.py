"""Guides against closed forms: the linear-Gaussian model, dense matrices, sums over classes, finite differences."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.autograd import grad

from pyro_vae import VAE, fit, objectives
from pyro_vae.distributions import IndependentOneHotCategorical
from pyro_vae.evaluation import log_likelihood, log_weights
from pyro_vae.guides import (
    AuxiliaryGuide,
    CategoricalGuide,
    DiagonalNormalGuide,
    FullRankNormalGuide,
    HMCGuide,
    LowRankNormalGuide,
    MixtureOfNormalsGuide,
    SemiAmortizedGuide,
)
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior
from tests.linear_gaussian import LinearGaussian

LINEAR = partial(MLP, hidden=())
SMALL = partial(MLP, hidden=(6,))


@pytest.fixture
def correlated() -> LinearGaussian:
    """A linear-Gaussian VAE with a correlated posterior and the exact guide."""
    return LinearGaussian(latent_dim=3, dim=7, correlated=True)


def precision_of(model):
    return torch.linalg.inv(model.posterior_covariance())


def best_diagonal_gap(model):
    """KL(q || p(z | x)) of the best diagonal normal: it has the posterior's mean and the precision's diagonal."""
    precision = precision_of(model)
    return 0.5 * (precision.diagonal().log().sum() - precision.logdet())


@torch.no_grad()
def set_diagonal(net, model, inflate=1.0):
    """The network of loc and log scale becomes that of the best diagonal normal."""
    layer, precision = net.layers[0], precision_of(model)
    gain = model.posterior_covariance() @ model.weight.T / model.scale**2
    layer.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
    layer.bias.copy_(torch.cat([-gain @ model.bias, precision.diagonal().rsqrt().mul(inflate).log()]))
    return net


# ---------------------------------------------------------------- normals


def test_the_exact_full_rank_guide_has_the_evidence_as_its_elbo(correlated):
    x = correlated.data(5)
    assert correlated.posterior_covariance().tril(-1).abs().max() > 0.05
    weights = log_weights(correlated.vae.model, correlated.vae.guide, x, num_samples=4)
    torch.testing.assert_close(weights, correlated.log_prob(x).expand(4, -1), rtol=1e-9, atol=1e-9)


def test_the_best_diagonal_guide_leaves_the_analytic_gap(correlated):
    x, n = correlated.data(1), 20_000
    vae = correlated.vae.with_guide(DiagonalNormalGuide((7,), 3, net=LINEAR))
    set_diagonal(vae.guide.net, correlated)
    weights = log_weights(vae.model, vae.guide, x, num_samples=n).squeeze(-1)
    z = (weights.mean() - correlated.log_prob(x) + best_diagonal_gap(correlated)) / (weights.std() / math.sqrt(n))
    assert best_diagonal_gap(correlated) > 0.3
    assert abs(z.item()) < 4.5


def test_the_full_rank_density_is_that_of_its_covariance():
    guide, params = FullRankNormalGuide((7,), 3, net=SMALL), torch.randn(4, 9)
    q, z = guide.distribution(params), torch.randn(4, 3)
    unit = torch.eye(3).repeat(4, 1, 1)
    unit[:, 1, 0], unit[:, 2, 0], unit[:, 2, 1] = (params[:, i] / 3 for i in (6, 7, 8))
    factor = params[:, 3:6].exp().diag_embed() @ unit
    expected = dist.MultivariateNormal(params[:, :3], factor @ factor.mT).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_low_rank_density_is_that_of_its_covariance(rank):
    guide, params = LowRankNormalGuide((7,), 3, rank=rank, net=SMALL), torch.randn(4, 2 + rank, 3)
    q, z = guide.distribution(params), torch.randn(4, 3)
    scale, columns = params[:, 1].exp().diag_embed(), params[:, 2:]
    covariance = scale @ (torch.eye(3) + columns.mT @ columns / 9) @ scale
    expected = dist.MultivariateNormal(params[:, 0], covariance).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.covariance_matrix, covariance, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("guide", [FullRankNormalGuide, partial(LowRankNormalGuide, rank=3)])
def test_they_start_near_the_diagonal_guide(guide):
    covariance = guide((7,), 20).posterior(torch.rand(9, 7)).covariance_matrix
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2)) - torch.eye(20)
    assert 0 < correlation.abs().max() < 0.2


@pytest.mark.parametrize(
    ("guide", "size"),
    [(FullRankNormalGuide, 9), (partial(LowRankNormalGuide, rank=2), 12), (MixtureOfNormalsGuide, 28)],
)
def test_log_scales_are_bounded(guide, size):
    guide = guide((7,), 3, net=SMALL, log_scale_bounds=(-2.0, -1.0))
    params = 50 + torch.zeros(guide.net.out_shape) if size == 28 else torch.zeros(guide.net.out_shape)
    assert params.numel() == size
    q = guide.distribution(params)
    expected = math.exp(-1.0)
    torch.testing.assert_close(q.variance, torch.full((3,), expected**2))


@pytest.mark.parametrize("guide", [FullRankNormalGuide, LowRankNormalGuide, MixtureOfNormalsGuide, AuxiliaryGuide])
def test_bounds_out_of_order_raise(guide):
    with pytest.raises(
        ValueError, match=rf"^{guide.__name__}: log_scale_bounds must be \(low, high\) with low < high, got"
    ):
        guide((7,), 3, log_scale_bounds=(1.0, -1.0))


# ---------------------------------------------------------------- gradients


def bernoulli_vae(guide):
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,), net=SMALL), guide((5,), 2))


SMOOTH = {
    "full rank": partial(FullRankNormalGuide, net=SMALL),
    "low rank": partial(LowRankNormalGuide, net=SMALL, rank=2),
    "auxiliary": partial(AuxiliaryGuide, net=SMALL, hidden=(6,), auxiliary_dim=3),
    "hmc": partial(HMCGuide, net=SMALL, hidden=(6,), num_steps=3, step_size=0.3),
    "tempered": partial(HMCGuide, net=SMALL, hidden=(6,), num_steps=3, step_size=0.3, tempering=True),
    "semi-amortized": partial(SemiAmortizedGuide, guide=partial(DiagonalNormalGuide, net=SMALL), num_steps=3, lr=0.1),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_is_that_of_the_loss_at_common_random_numbers(name):
    vae, x = bernoulli_vae(SMOOTH[name]), torch.rand(4, 5).bernoulli()
    parameters = list(vae.parameters())
    direction = [torch.randn_like(p) for p in parameters]

    def loss():
        torch.manual_seed(5)
        return Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
        return loss().detach()

    slope = sum((g * d).sum() for g, d in zip(grad(loss(), parameters), direction, strict=True))
    ahead, behind = moved(1e-5), moved(-2e-5)
    torch.testing.assert_close(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=0)


# ---------------------------------------------------------------- auxiliary variables


GUESSED = {
    "auxiliary": partial(AuxiliaryGuide, net=SMALL, hidden=(6,), auxiliary_dim=2),
    "hmc": partial(HMCGuide, net=LINEAR, hidden=(6,), num_steps=4, step_size=0.15),
    "tempered": partial(HMCGuide, net=LINEAR, hidden=(6,), num_steps=4, step_size=0.15, tempering=True),
}


@torch.no_grad()
def shrink(net, log_scale):
    """The network still depends on its inputs, but less."""
    last, n = net.layers[-1], net.out_size // 2
    last.weight.mul_(0.2)
    last.bias[n:] += log_scale


@pytest.mark.parametrize("name", GUESSED)
def test_the_log_likelihood_is_right_for_any_reverse_model(name):
    # The auxiliary guide does not depend on the model: its posterior must be near the prior.
    model = LinearGaussian(latent_dim=2, dim=5, scale=3.0 if name == "auxiliary" else 1.0, correlated=True)
    guide = GUESSED[name]((5,), 2)
    if name == "auxiliary":
        shrink(guide.net.out, log_scale=0.5)
    else:
        set_diagonal(guide.net, model, inflate=2.0)
    shrink(guide.reverse.out, log_scale=-0.5)  # a proposal wider than its target
    vae, x = model.vae.with_guide(guide), model.data(6)
    result = log_likelihood(vae.model, vae.guide, x, num_samples=5000, chunk_size=500)
    assert ((result.log_likelihood - model.log_prob(x)) / result.standard_error).abs().max() < 4.5
    assert result.standard_error.max() < 0.2
    assert result.pareto_k.max() < 0.7


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", ["hmc", "tempered", "semi-amortized"])
def test_gradients_within_the_guide_are_recorded_for_evaluation(name):
    vae, x = bernoulli_vae(SMOOTH[name]), torch.rand(6, 5).bernoulli()
    estimate = partial(log_likelihood, vae.model, vae.guide, x, num_samples=40, chunk_size=20)
    eager, recorded = estimate(engine="eager"), estimate(engine="compiled")
    torch.testing.assert_close(recorded.log_likelihood, eager.log_likelihood, rtol=1e-9, atol=0)


def test_steps_move_draws_towards_the_posterior():
    """Start from a normal with a wrong mean and keep the reverse model: only positions are compared."""
    model = LinearGaussian(latent_dim=2, dim=5, scale=1.0, correlated=True)
    x = model.data(50)
    distances = []
    for step_size in (1e-9, 0.3):
        vae = model.vae.with_guide(HMCGuide((5,), 2, net=LINEAR, num_steps=5, step_size=step_size))
        nn.init.zeros_(vae.guide.net.layers[0].weight)
        z = vae.encode(x).sample((200,))
        distances.append((z.mean(0) - model.posterior_mean(x)).square().mean())
    assert distances[1] < 0.5 * distances[0]


def test_tempering_is_the_quadratic_schedule():
    guide = bernoulli_vae(SMOOTH["tempered"]).guide
    joint = guide.posterior(torch.rand(4, 5)).joint
    heat = joint.base_dist.base_dist.scale[:, 2:]  # of the momentum, (4, 2)
    (leapfrog,) = joint.transforms
    volume = leapfrog.log_abs_det_jacobian(torch.zeros(4, 4), None)
    assert (heat > 1.2).all()
    torch.testing.assert_close(volume + heat.log().sum(-1), torch.zeros(4), rtol=0, atol=1e-12)
    steps = leapfrog.log_tempering.exp()
    root = heat[0, 0]
    expected = [root, *((1 - root) * (k / 3) ** 2 + root for k in (1, 2, 3))]  # Caterini et al., quadratic
    torch.testing.assert_close(steps, torch.stack([b / a for a, b in pairwise(expected)]))


def test_a_foreign_value_has_the_density_of_the_draw():
    vae = bernoulli_vae(SMOOTH["tempered"])
    joint = vae.encode(torch.rand(4, 5).bernoulli()).joint
    pair = joint.rsample((3,))
    direct, foreign = joint.log_prob(pair), joint.log_prob(pair.detach().clone())
    torch.testing.assert_close(direct, foreign, rtol=1e-9, atol=1e-9)
    assert all(g.any() for g in grad(foreign.sum(), list(vae.guide.net.parameters())))


@pytest.mark.parametrize("guide", [HMCGuide, SemiAmortizedGuide])
def test_a_guide_that_needs_its_model_raises_without_it(guide):
    with pytest.raises(
        RuntimeError, match=rf"^{guide.__name__}: the guide must be attached to a model, got none\. Build a"
    ):
        guide((5,), 2).posterior(torch.rand(3, 5)).rsample()


@pytest.mark.parametrize(
    ("guide", "options", "message"),
    [
        (AuxiliaryGuide, {"auxiliary_dim": 0}, "auxiliary_dim must be at least 1, got auxiliary_dim=0"),
        (HMCGuide, {"num_steps": 0}, "num_steps must be at least 1, got num_steps=0"),
        (HMCGuide, {"step_size": 0.0}, "step_size must be positive and finite, got step_size=0.0"),
        (LowRankNormalGuide, {"rank": 0}, "rank must be at least 1, got rank=0"),
        (MixtureOfNormalsGuide, {"num_components": 0}, "num_components must be at least 1, got num_components=0"),
        (SemiAmortizedGuide, {"lr": 0.0}, "lr must be positive and finite, got lr=0.0"),
        (SemiAmortizedGuide, {"guide": AuxiliaryGuide}, "guide must build an AmortizedGuide, whose"),
        (CategoricalGuide, {"categories": 3}, "latent_dim must be a multiple of categories, got latent_dim=2"),
        (CategoricalGuide, {"estimator": "exact"}, "estimator must be one of 'enumerate', 'score', 'relaxed', got"),
        (CategoricalGuide, {"temperature": 0.0}, "temperature must be positive and finite, got temperature=0.0"),
        (CategoricalGuide, {"straight_through": True}, "straight_through must go with relaxed samples, got estimator"),
    ],
)
def test_bad_arguments_raise(guide, options, message):
    with pytest.raises(ValueError, match=f"^{guide.__name__}: {message}"):
        guide((5,), 2, **options)


# ---------------------------------------------------------------- local steps


def test_many_steps_reach_the_best_diagonal_guide():
    correlated = LinearGaussian(latent_dim=3, dim=7, scale=1.0, correlated=True)
    factory = partial(DiagonalNormalGuide, net=LINEAR)
    guide = SemiAmortizedGuide((7,), 3, guide=factory, num_steps=300, lr=0.05, num_particles=100)
    vae, x = correlated.vae.with_guide(guide), correlated.data(4)
    posterior = dist.MultivariateNormal(correlated.posterior_mean(x), correlated.posterior_covariance())

    def gap(q):
        return torch.distributions.kl_divergence(dist.MultivariateNormal(q.mean, q.variance.diag_embed()), posterior)

    with torch.no_grad():
        excess, before = (gap(q) - best_diagonal_gap(correlated) for q in (vae.encode(x), guide.guide.posterior(x)))
    assert before.min() > 0.5
    assert (excess > -1e-9).all()
    assert excess.max() < 0.03


def test_a_step_is_clipped_per_datum():
    factory, x = partial(DiagonalNormalGuide, net=SMALL), torch.rand(4, 5).bernoulli()
    moves = []
    for clip_norm in (1e-3, 1e6):
        torch.manual_seed(0)
        vae = bernoulli_vae(partial(SemiAmortizedGuide, guide=factory, num_steps=1, lr=0.5, clip_norm=clip_norm))
        before, after = vae.guide.guide.posterior(x).base_dist, vae.encode(x).base_dist
        parts = [after.loc - before.loc, after.scale.log() - before.scale.log()]
        moves.append(torch.cat(parts, -1))  # (4, 4)
    torch.testing.assert_close(moves[0].norm(dim=-1), torch.full((4,), 0.5e-3), rtol=1e-6, atol=0)
    for move in moves:
        move /= move.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(*moves, rtol=1e-6, atol=1e-6)


def test_without_unrolling_the_steps_are_constants():
    vae = bernoulli_vae(partial(SemiAmortizedGuide, guide=partial(DiagonalNormalGuide, net=LINEAR), unrolled=False))
    bias = vae.guide.guide.net.layers[0].bias
    q = vae.encode(torch.rand(4, 5).bernoulli())
    (gradient,) = grad(q.mean.sum(), bias, retain_graph=True)
    torch.testing.assert_close(gradient, torch.tensor([4.0, 4.0, 0.0, 0.0]), rtol=0, atol=1e-12)
    assert grad(q.mean.sum(), list(vae.likelihood.parameters()), allow_unused=True)[0] is None


def test_a_guide_without_paths_is_not_improved():
    vae = VAE(
        CategoricalPrior(2),
        BernoulliLikelihood(2, (5,), net=SMALL),
        SemiAmortizedGuide((5,), 2, guide=CategoricalGuide),
    )
    with pytest.raises(
        ValueError, match=r"^SemiAmortizedGuide: guide must have reparameterised samples, got guide=Cat"
    ):
        vae.encode(torch.rand(3, 5))


# ---------------------------------------------------------------- categories


def categorical_vae(estimator="enumerate", net=SMALL, **options):
    prior = CategoricalPrior(6, categories=3, learn=True)
    nn.init.normal_(prior.logits)
    guide = CategoricalGuide((5,), 6, categories=3, estimator=estimator, net=net, **options)
    return VAE(prior, BernoulliLikelihood(6, (5,), net=SMALL), guide)


def evidence(vae, x):
    """log p(x) by the sum over all combinations."""
    z = vae.prior().enumerate_support().unsqueeze(1)  # (9, 1, 6)
    return vae.model.log_joint(x, z).logsumexp(0)


class Posterior(nn.Module):
    """The exact logits, for one variable."""

    def __init__(self, vae):
        super().__init__()
        self.log_joint = vae.model.log_joint

    def forward(self, x):
        return self.log_joint(x.unsqueeze(-2), torch.eye(4)).unsqueeze(-2)  # (B, 1, 4)


def test_the_exact_categorical_guide_has_the_evidence_as_its_elbo():
    vae = VAE(CategoricalPrior(4), BernoulliLikelihood(4, (5,), net=SMALL), CategoricalGuide((5,), 4))
    vae, x = vae.with_guide(CategoricalGuide((5,), 4, net=Posterior(vae))), torch.rand(7, 5).bernoulli()
    weights = log_weights(vae.model, vae.guide, x, num_samples=3)
    torch.testing.assert_close(weights, evidence(vae, x).expand(3, -1), rtol=1e-9, atol=1e-9)


def test_the_enumerated_elbo_is_the_sum_over_all_combinations():
    vae, x = categorical_vae(), torch.rand(7, 5).bernoulli()
    z, q = vae.prior().enumerate_support().unsqueeze(1), vae.encode(x)
    log_q = q.log_prob(z)
    torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(7), rtol=0, atol=1e-12)
    expected = (log_q.exp() * (vae.model.log_joint(x, z) - log_q)).sum()
    parameters = list(vae.parameters())
    for elbo in (TraceEnum_ELBO(max_plate_nesting=1), objectives.TraceEnumELBO()):
        loss = elbo.differentiable_loss(vae.model, vae.guide, x)
        torch.testing.assert_close(-loss, expected, rtol=1e-12, atol=0)
        for a, b in zip(grad(-loss, parameters), grad(expected, parameters, retain_graph=True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ["enumerate", "score", "relaxed"])
def test_the_log_likelihood_is_that_of_the_categorical_model(estimator):
    vae, x = categorical_vae(estimator), torch.rand(6, 5).bernoulli()
    result = log_likelihood(vae.model, vae.guide, x, num_samples=5000, chunk_size=500)
    assert ((result.log_likelihood - evidence(vae, x)) / result.standard_error).abs().max() < 4.5


class Rows(nn.Module):
    """Separate logits for every row of a batch, so that a batch of one repeated datum is a sample of gradients."""

    def __init__(self, logits, rows):
        super().__init__()
        self.logits = nn.Parameter(logits.repeat(rows, 1, 1))

    def forward(self, x):
        return self.logits


def row_gradients(elbo, estimator, rows, **options):
    torch.manual_seed(11)
    vae = categorical_vae(estimator, Rows(torch.randn(2, 3), rows), **options)
    x = torch.rand(5).bernoulli().expand(rows, 5)
    return grad(-elbo.differentiable_loss(vae.model, vae.guide, x), vae.guide.net.logits)[0]


ROWS = 20_000


def z_scores(gradients, exact):
    return (gradients.mean(0) - exact) / (gradients.std(0) / math.sqrt(len(gradients)))


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO(), objectives.ScoreFunction(), objectives.ELBO()], ids=lambda e: type(e).__name__
)
def test_the_score_function_gradient_is_the_enumerated_one_in_the_mean(elbo):
    exact = row_gradients(TraceEnum_ELBO(max_plate_nesting=1), "enumerate", 1)[0]
    assert z_scores(row_gradients(elbo, "score", ROWS), exact).abs().max() < 4.5


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_bias_of_relaxed_draws_falls_with_the_temperature(straight_through):
    exact = row_gradients(TraceEnum_ELBO(max_plate_nesting=1), "enumerate", 1)[0]
    options = {"straight_through": straight_through}
    gradients = {t: row_gradients(Trace_ELBO(), "relaxed", ROWS, temperature=t, **options) for t in (2.0, 0.1)}
    hot, cold = ((g.mean(0) - exact).norm() for g in gradients.values())
    noise = gradients[0.1].std(0).norm() / math.sqrt(ROWS)
    assert z_scores(gradients[2.0], exact).abs().max() > 10, "there is a bias"
    assert cold + 4.5 * noise < hot or straight_through
    assert gradients[2.0].std() < gradients[0.1].std()


def test_relaxed_draws_are_one_hot_in_eval_mode_and_straight_through():
    guide, x = CategoricalGuide((5,), 6, categories=3, estimator="relaxed", net=SMALL), torch.rand(50, 5)
    soft = guide.posterior(x).rsample()
    assert ((soft > 0.01) & (soft < 0.99)).any()
    guide.straight_through = True
    hard = guide.posterior(x).rsample()
    assert hard.requires_grad
    for z in (hard, guide.eval().posterior(x).sample()):
        assert ((z == 0) | (z == 1)).all()
        assert (z.unflatten(-1, (2, 3)).sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("objective", "estimator"),
    [
        (TraceEnum_ELBO(max_plate_nesting=1), "enumerate"),
        (objectives.ScoreFunction(), "score"),
        (Trace_ELBO(), "relaxed"),
    ],
    ids=["enumerate", "score", "relaxed"],
)
def test_a_categorical_vae_trains(objective, estimator):
    vae = categorical_vae(estimator)
    x = torch.eye(5).repeat_interleave(40, 0)  # five kinds of data, for nine combinations
    before = evidence(vae, x).mean()
    fit(
        vae.model,
        vae.guide,
        x,
        epochs=30,
        batch_size=50,
        objective=objective,
        optimizer=partial(torch.optim.Adam, lr=0.02),
    )
    assert evidence(vae, x).mean() > before + 0.8


def test_too_many_combinations_raise():
    with pytest.raises(
        ValueError, match=r"^IndependentOneHotCategorical: at most 4096 combinations can be enumerated, got 10\*\*4\."
    ):
        IndependentOneHotCategorical(torch.zeros(4, 10)).enumerate_support()


def test_the_prior_s_categories_must_divide():
    with pytest.raises(
        ValueError, match=r"^CategoricalPrior: latent_dim must be a multiple of categories, got latent_dim=7"
    ):
        CategoricalPrior(7, categories=3)

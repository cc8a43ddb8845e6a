"""Likelihoods are normalised, equal exact values, and are finite in the tails."""

import math

import mpmath
import numpy as np
import pytest
import torch
from pyro.distributions import Independent
from scipy import integrate, stats
from torch import nn

from pyro_vae.likelihoods import (
    BernoulliLikelihood,
    BetaBinomialLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    LaplaceLikelihood,
    MixtureOfLogisticsLikelihood,
    NormalLikelihood,
)
from pyro_vae.likelihoods.beta_binomial import BetaBinomialLevels, log_rising
from pyro_vae.likelihoods.categorical import CategoricalLevels
from pyro_vae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.likelihoods.mixture_of_logistics import MixtureOfLogistics
from pyro_vae.likelihoods.tilting import log_density, slope_of_mean, tilted_grid_mean, tilted_mean
from pyro_vae.networks import MLP, GatedConvDecoder, Network


class Zero(Network):
    """The network that returns 0, so that ``offset`` alone is the output."""

    def transform(self, x):
        return x.new_zeros(len(x), self.out_size)


def at(likelihood, output):
    """The likelihood whose network output is ``output`` for every z."""
    likelihood.offset.copy_(torch.as_tensor(output))
    return likelihood


def grid(levels, **kwargs):
    return torch.arange(levels, **kwargs) / (levels - 1)


def tensor(x, **kwargs):
    return torch.tensor(float(x), **kwargs)


# ---------------------------------------------------------------- discretized logistic

LOCS = [0.5, 0.0, 1.0, 0.123, -0.4, 3.0, -50.0, 1e3]
SCALES = [1e-8, 1e-3, 0.03, 0.5, 20.0, 1e6]


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("loc", LOCS)
def test_discretized_logistic_sums_to_one(loc, scale, levels):
    p = DiscretizedLogistic(tensor(loc), tensor(scale), levels)
    log_prob = p.log_prob(grid(levels))
    assert log_prob.isfinite().all()
    assert log_prob.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize(("loc", "scale"), [(0.5, 0.1), (0.2, 0.01), (-0.3, 0.2), (1.1, 1.0), (0.0, 5.0)])
def test_discretized_logistic_is_a_difference_of_cdfs(loc, scale, levels):
    x = grid(levels).numpy()
    half = 0.5 / (levels - 1)
    upper = np.where(np.arange(levels) == levels - 1, np.inf, x + half)
    lower = np.where(np.arange(levels) == 0, -np.inf, x - half)
    q = stats.logistic(loc, scale)
    # The one of the two differences that cancels less.
    expected = np.where(x < loc, q.cdf(upper) - q.cdf(lower), q.sf(lower) - q.sf(upper))
    actual = DiscretizedLogistic(tensor(loc), tensor(scale), levels).log_prob(grid(levels)).exp()
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize("scale", [1e-3, 0.05, 0.7, 50.0])
@pytest.mark.parametrize("loc", [0.5, 0.0, 0.97, -2.0, 3.0])
def test_discretized_logistic_mean_is_the_sum(loc, scale, levels):
    p = DiscretizedLogistic(tensor(loc), tensor(scale), levels)
    expected = (p.log_prob(grid(levels)).exp() * grid(levels)).sum()
    assert p.mean.item() == pytest.approx(expected.item(), abs=1e-10)


@pytest.mark.parametrize(("loc", "scale"), [(0.4, 0.15), (0.0, 0.2), (1.2, 0.1), (0.5, 3.0)])
def test_discretized_logistic_draws_have_their_probabilities(loc, scale):
    n, levels = 400_000, 5
    p = DiscretizedLogistic(tensor(loc), tensor(scale), levels)
    draws = p.sample((n,))
    assert torch.isin(draws, grid(levels)).all()
    probability = p.log_prob(grid(levels)).exp()
    frequency = (draws[:, None] == grid(levels)).double().mean(0)
    z = (frequency - probability) / (probability * (1 - probability) / n).sqrt()
    assert z.abs().max() < 4.5


def test_discretized_logistic_draws_have_their_mean_pixel_by_pixel():
    n = 20_000
    p = DiscretizedLogistic(torch.rand(3, 4), 0.05 + torch.rand(4), 256)
    draws = p.sample((n,))  # (n, 3, 4)
    z = (draws.mean(0) - p.mean) / (draws.std(0) / math.sqrt(n))
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("loc", [-100.0, -5.0, 0.3, 6.0, 100.0])
def test_discretized_logistic_is_finite_in_the_tails(loc, scale, dtype):
    # One loc and scale per level, so that the gradient of the sum is the gradient of each.
    parameters = [torch.full((256,), v, dtype=dtype, requires_grad=True) for v in (loc, scale)]
    log_prob = DiscretizedLogistic(*parameters, 256).log_prob(grid(256, dtype=dtype))
    assert log_prob.dtype == dtype
    assert log_prob.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), parameters))


def test_discretized_logistic_tails_are_exponential():
    """Far below loc, P(k) = exp((x - loc)/s) 2 sinh(h/s): the log-probability, not its rounding to 0."""
    scale, loc = 0.01, 30.0
    p = DiscretizedLogistic(tensor(loc), tensor(scale), 256)
    x = grid(256)[1:-1]
    expected = (x - loc) / scale + math.log(2 * math.sinh(0.5 / 255 / scale))
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-12)


@pytest.mark.parametrize("loc", [3e3, 1e5])
def test_discretized_logistic_preserves_its_bin_width_in_float32(loc):
    exact = DiscretizedLogistic(tensor(loc), tensor(1.0), 256).log_prob(grid(256))
    loc, scale = tensor(loc, dtype=torch.float32), tensor(1.0, dtype=torch.float32)
    single = DiscretizedLogistic(loc, scale, 256).log_prob(grid(256, dtype=torch.float32))
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("levels", [2, 256])
def test_discretized_logistic_gradient_is_exact(levels):
    parameters = torch.rand(7, requires_grad=True), (0.05 + torch.rand(7)).requires_grad_()
    x = (torch.rand(7) * (levels - 1)).round() / (levels - 1)
    assert torch.autograd.gradcheck(lambda loc, scale: DiscretizedLogistic(loc, scale, levels).log_prob(x), parameters)


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_grid_is_the_support(levels, dtype):
    p = DiscretizedLogistic(tensor(0.5, dtype=dtype), tensor(0.1, dtype=dtype), levels, validate_args=True)
    assert p.support.check(grid(levels, dtype=dtype)).all()
    assert p.log_prob(grid(levels, dtype=dtype)).shape == (levels,)
    assert p.support.is_discrete


@pytest.mark.parametrize("value", [0.5, 0.1, -1 / 255, 256 / 255, 1.5 / 255, float("nan")])
def test_values_off_the_grid_raise(value):
    with pytest.raises(ValueError, match="support"):
        DiscretizedLogistic(tensor(0.5), tensor(0.1), 256, validate_args=True).log_prob(tensor(value))


@pytest.mark.parametrize(("loc", "scale"), [(0.5, 0.0), (0.5, -1.0), (float("nan"), 1.0)])
def test_bad_parameters_raise(loc, scale):
    with pytest.raises(ValueError, match=r"parameter (loc|scale)"):
        DiscretizedLogistic(tensor(loc), tensor(scale), 256, validate_args=True)


def test_expand_preserves_levels_values_and_validation():
    p = DiscretizedLogistic(torch.rand(4), tensor(0.1), 16, validate_args=True)
    wide = p.expand((3, 4))
    assert type(wide) is DiscretizedLogistic
    assert (wide.batch_shape, wide.event_shape, wide.levels) == ((3, 4), (), 16)
    assert wide.sample((2,)).shape == (2, 3, 4)
    torch.testing.assert_close(wide.mean, p.mean.expand(3, 4), rtol=1e-9, atol=1e-9)
    x = wide.sample()
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="support"):
        wide.log_prob(torch.full((3, 4), 0.5))
    assert DiscretizedLogistic(torch.rand(4), tensor(0.1), 16, validate_args=False).expand((3, 4)).log_prob(x).all()


def test_expand_within_an_event():
    p = Independent(DiscretizedLogistic(torch.rand(4), tensor(0.1), 16), 1)
    wide = p.expand((3,))
    x = wide.sample((2,))
    assert x.shape == (2, 3, 4)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x), rtol=1e-9, atol=1e-9)


def test_discretized_logistic_likelihood_scale_is_per_pixel_and_bounded():
    likelihood = DiscretizedLogisticLikelihood(2, (3,), levels=8, min_scale=0.02)
    with torch.no_grad():
        likelihood.log_scale.copy_(torch.tensor([-1e3, 0.0, 2.0]))
    scale = likelihood(torch.zeros(2)).base_dist.scale
    np.testing.assert_allclose(scale.detach(), 0.02 + np.exp([-1e3, 0.0, 2.0]), rtol=1e-12)


def test_discretized_logistic_likelihood_is_the_product_over_pixels():
    likelihood = DiscretizedLogisticLikelihood(2, (3, 2), levels=8)
    z = torch.randn(5, 2)
    p = likelihood(z)
    x = p.sample()
    pixels = DiscretizedLogistic(likelihood.net(z), 1e-3 + likelihood.log_scale.exp(), 8)
    torch.testing.assert_close(p.log_prob(x), pixels.log_prob(x).sum((1, 2)), rtol=1e-13, atol=0)


@pytest.mark.parametrize(("levels", "min_scale"), [(1, 1e-3), (256, 0.0), (256, -1.0), (256, float("nan"))])
def test_discretized_logistic_likelihood_raises(levels, min_scale):
    positive = f"min_scale must be (positive and finite|a number), got .*={min_scale}"
    rule = "levels must be at least 2, got levels=1" if levels < 2 else positive
    message = rf"^DiscretizedLogisticLikelihood: {rule}\.$"
    with pytest.raises(ValueError, match=message):
        DiscretizedLogisticLikelihood(2, (3,), levels=levels, min_scale=min_scale)


# ---------------------------------------------------------------- categorical


def every_datum(levels, dim):
    """Every datum of ``dim`` pixels, (levels ** dim, dim)."""
    return torch.cartesian_prod(*[grid(levels)] * dim).reshape(-1, dim)


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_categorical_sums_to_one_over_all_data(levels):
    p = CategoricalLikelihood(2, (3,), levels=levels, net=lambda i, o: MLP(i, o, hidden=(9,)))(3 * torch.randn(2))
    assert p.log_prob(every_datum(levels, 3)).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 4, 5), (1, 2, 2, 3)])
def test_categorical_equals_torch(shape):
    likelihood = CategoricalLikelihood(2, shape, levels=7)
    at(likelihood, torch.randn(shape))
    z = torch.randn(4, 5, 2)
    p = likelihood(z)
    logits = likelihood.net(z).reshape(4, 5, 7, *shape) + likelihood.offset * grid(7).reshape(7, *[1] * len(shape))
    oracle = torch.distributions.Categorical(logits=logits.movedim(2, -1))  # (4, 5, *shape)
    x = p.sample((3,))  # (3, 4, 5, *shape)
    expected = oracle.log_prob((x * 6).round()).flatten(3).sum(-1)
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(p.mean, (oracle.probs * grid(7)).sum(-1), rtol=1e-12, atol=0)
    one = x[0, :, 0]  # (4, *shape): the same data for every second index
    expected = oracle.log_prob((one.unsqueeze(1) * 6).round()).flatten(2).sum(-1)
    torch.testing.assert_close(p.log_prob(one.unsqueeze(1)), expected, rtol=1e-12, atol=0)


def test_categorical_channels_of_an_image_are_level_by_level():
    """Channel k C + c of the network's output is level k of the datum's channel c."""
    likelihood = CategoricalLikelihood(2, (3, 4, 5), levels=7, net=Zero)
    assert likelihood.net.out_shape == (21, 4, 5)
    output = torch.randn(21, 4, 5)
    likelihood.net.transform = lambda x: output.expand(len(x), -1, -1, -1)
    x = likelihood(torch.zeros(2)).sample()
    expected = sum(
        output[:, i, j].reshape(7, 3)[:, c].log_softmax(0)[int((x[c, i, j] * 6).round())]
        for c in range(3)
        for i in range(4)
        for j in range(5)
    )
    assert likelihood(torch.zeros(2)).log_prob(x).item() == pytest.approx(expected.item(), rel=1e-12)


def test_categorical_of_other_data_raises_before_its_levels_are_set():
    assert CategoricalLikelihood(2, (6,), levels=7).net.out_shape == (7, 6)
    assert CategoricalLikelihood(2, (6, 5), levels=7).net.out_shape == (7, 6, 5)
    assert CategoricalLikelihood(2, (1, 28, 20), net=GatedConvDecoder).net.out_shape == (256, 28, 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_categorical_is_finite_far_away(dtype):
    logits = (1e5 * torch.randn(50, 16, 3)).to(dtype).requires_grad_()
    p = CategoricalLevels(logits, 1)
    x = torch.randint(16, (50, 3)).to(dtype) / 15
    assert p.log_prob(x).isfinite().all()
    assert p.mean.isfinite().all()
    assert p.support.check(p.sample()).all()
    (g,) = torch.autograd.grad(p.log_prob(x).sum(), logits)
    assert g.isfinite().all()
    exact = CategoricalLevels(logits.double(), 1).log_prob(x.double())
    torch.testing.assert_close(p.log_prob(x).double(), exact, rtol=1e-6, atol=0)


def test_categorical_gradient_is_exact():
    logits = torch.randn(4, 5, 3, 2, requires_grad=True)
    x = torch.randint(5, (4, 3, 2)) / 4
    assert torch.autograd.gradcheck(lambda v: CategoricalLevels(v, 2).log_prob(x), logits)
    assert torch.autograd.gradgradcheck(lambda v: CategoricalLevels(v, 2).log_prob(x), logits)


def test_categorical_draws_have_their_probabilities():
    n = 200_000
    p = CategoricalLevels(torch.randn(2, 5, 3), 1)
    draws = p.sample((n,))  # (n, 2, 3)
    assert draws.shape == (n, 2, 3)
    frequency = (draws.unsqueeze(2) == grid(5).reshape(5, 1)).double().mean(0)  # (2, 5, 3)
    probability = p.logits.softmax(1)
    z = (frequency - probability) / (probability * (1 - probability) / n).sqrt()
    assert z.abs().max() < 4.5


def test_categorical_expand_preserves_levels_values_and_validation():
    p = CategoricalLevels(torch.randn(4, 5, 3, 2), 2, validate_args=True)
    wide = p.expand((6, 4))
    assert (wide.batch_shape, wide.event_shape, wide.levels) == ((6, 4), (3, 2), 5)
    x = wide.sample((2,))
    assert x.shape == (2, 6, 4, 3, 2)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="support"):
        wide.log_prob(torch.full((6, 4, 3, 2), 0.3))
    assert repr(p.support.base_constraint) == "GreyLevels(5)"


# ---------------------------------------------------------------- the tilt that initialise_mean solves

SLOPES = [0.0, 1e-9, -1e-4, 0.03, -0.49, 0.5, -0.51, 2.0, -7.0, 40.0, -300.0, 999.0]


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("slope", SLOPES)
def test_the_mean_of_a_tilted_grid_is_the_sum(slope, levels):
    expected = ((slope * grid(levels)).softmax(0) * grid(levels)).sum().item()
    actual = tilted_grid_mean(tensor(slope), levels).item()
    assert actual == pytest.approx(expected, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("slope", SLOPES)
def test_the_mean_of_a_tilted_uniform_is_the_integral(slope):
    def moment(power):
        points = [min(1.0, 10 / abs(slope)), max(0.0, 1 - 10 / abs(slope))] if slope else None
        return integrate.quad(
            lambda x: x**power * math.exp(slope * (x - (slope > 0))), 0, 1, points=points, epsabs=0, limit=200
        )[0]

    expected = moment(1) / moment(0)
    assert tilted_mean(tensor(slope)).item() == pytest.approx(expected, rel=1e-9)
    for x in (0.0, 0.3, 1.0):
        log_p = slope * (x - (slope > 0)) - math.log(moment(0))
        assert log_density(tensor(slope), tensor(x)).item() == pytest.approx(log_p, rel=1e-9, abs=1e-12)


def test_the_slope_is_exact_at_the_ends():
    mean = torch.tensor([0.0, 1e-3, 0.2, 0.5, 0.51, 1 - 1e-3, 1.0])
    for of in (tilted_mean, lambda s: tilted_grid_mean(s, 2), lambda s: tilted_grid_mean(s, 256)):
        torch.testing.assert_close(of(slope_of_mean(of, mean)), mean.clamp(1e-3, 1 - 1e-3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_categorical_starts_at_the_mean_exactly(levels, shape):
    mean = torch.tensor([0.0, 1e-3, 0.2, 0.5, 1 - 1e-3, 1.0]).reshape(shape)
    likelihood = CategoricalLikelihood(2, shape, levels=levels, net=Zero).initialise_mean(mean)
    actual = likelihood(torch.randn(4, 2)).mean
    torch.testing.assert_close(actual, mean.clamp(1e-3, 1 - 1e-3).expand(4, *shape), rtol=0, atol=1e-12)


def test_categorical_starts_at_the_largest_entropy():
    """Largest entropy among distributions of levels with that mean: moving mass at a fixed mean lowers it."""
    logits = (
        CategoricalLikelihood(2, (1,), levels=9, net=Zero).initialise_mean(torch.tensor([0.3]))(torch.zeros(2)).logits
    )
    assert logits.flatten().diff().diff().abs().max() < 1e-12, "linear in the level"
    assert logits.flatten().diff().abs().min() > 0.1


# ---------------------------------------------------------------- continuous Bernoulli

LOGITS = [0.0, 1e-12, -1e-5, 0.1, -0.4999, 0.5, -0.7, 5.0, -36.0, 200.0, -1e4, 1e6]


def exact_log_density(logit, x):
    with mpmath.workdps(60):
        t = mpmath.mpf(logit)
        # Times exp(-t/2), as both would overflow.
        area = mpmath.sinh(t / 2) / (t / 2) if t else mpmath.mpf(1)
        return float(t * (mpmath.mpf(x) - 0.5) - mpmath.log(area))


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_is_its_formula_in_sixty_digits(logit):
    x = torch.tensor([0.0, 1e-3, 0.3, 0.5, 0.75, 1.0])
    expected = [exact_log_density(logit, v) for v in x.tolist()]
    actual = ContinuousBernoulli(torch.full((6,), logit)).log_prob(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_in_float32_is_near(logit):
    x = torch.tensor([0.0, 1e-3, 0.3, 0.5, 0.75, 1.0], dtype=torch.float32)
    logits = torch.full((6,), logit, dtype=torch.float32, requires_grad=True)
    exact = ContinuousBernoulli(logits.detach().double().requires_grad_())
    value, log_prob = ContinuousBernoulli(logits).log_prob(x), exact.log_prob(x.double())
    torch.testing.assert_close(value.double(), log_prob, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ContinuousBernoulli(logits).mean.double(), exact.mean, rtol=0, atol=1e-7)
    (g,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(g.double(), x.double() - exact.mean, rtol=0, atol=1e-6)


def test_continuous_bernoulli_equals_torch_in_torch_s_exact_range():
    logits = torch.cat([torch.linspace(-12, -0.1, 20), torch.linspace(0.1, 12, 20)])
    distribution, reference = ContinuousBernoulli(logits), torch.distributions.ContinuousBernoulli(logits=logits)
    x = torch.rand(7, 40)
    torch.testing.assert_close(distribution.log_prob(x), reference.log_prob(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(distribution.mean, reference.mean, rtol=1e-9, atol=0)


@pytest.mark.parametrize("logit", [0.0, 1e-3, -0.49, 0.51, -3.0, 30.0, -400.0])
def test_continuous_bernoulli_integrates_to_one(logit):
    p = ContinuousBernoulli(tensor(logit), validate_args=False)
    points = [min(0.5, 10 / abs(logit)), max(0.5, 1 - 10 / abs(logit))] if logit else None
    total, _ = integrate.quad(lambda x: p.log_prob(tensor(x)).exp().item(), 0, 1, points=points, limit=200)
    assert total == pytest.approx(1.0, abs=1e-9)


def test_continuous_bernoulli_gradients_are_exact_at_one_half_too():
    logits = torch.tensor([0.0, 1e-9, -0.3, 0.6, -5.0], requires_grad=True)
    x = torch.rand(5)
    assert torch.autograd.gradcheck(lambda t: ContinuousBernoulli(t).log_prob(x), logits)
    assert torch.autograd.gradgradcheck(lambda t: ContinuousBernoulli(t).log_prob(x), logits)
    (first,) = torch.autograd.grad(ContinuousBernoulli(logits).log_prob(x).sum(), logits, create_graph=True)
    assert first[0].item() == x[0].item() - 0.5
    (second,) = torch.autograd.grad(first.sum(), logits)
    assert second[0].item() == pytest.approx(-1 / 12, rel=1e-12), "minus the variance of a uniform variable"


@pytest.mark.parametrize("logit", [0.0, -0.3, 2.0, -9.0, 60.0])
def test_continuous_bernoulli_draws_have_their_distribution(logit):
    n = 200_000
    draws = ContinuousBernoulli(torch.full((n,), logit)).sample()
    p = ContinuousBernoulli(tensor(logit))
    assert abs((draws.mean() - p.mean) / (draws.std() / math.sqrt(n))) < 4.5
    for q in (0.1, 0.5, 0.9):  # the point with q below it, from P(x < v) = (exp(v t) - 1) / (exp(t) - 1)
        v = math.log1p(q * math.expm1(logit)) / logit if logit else q
        assert abs(((draws < v).double().mean() - q) / math.sqrt(q * (1 - q) / n)) < 4.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_draws_stay_inside(dtype):
    logits = torch.tensor([-1e30, -1e4, -1e-30, 0.0, 1e-30, 1e4, 1e30], dtype=dtype)
    p = ContinuousBernoulli(logits, validate_args=True)
    draws = p.sample((1000,))
    assert draws.dtype == dtype
    assert p.log_prob(draws).isfinite().all()


def test_continuous_bernoulli_initialise_mean_is_exact():
    mean = torch.tensor([0.0, 1e-3, 0.2, 0.4999, 0.5, 0.5001, 1 - 1e-3, 1.0])
    likelihood = ContinuousBernoulliLikelihood(2, (8,), net=Zero).initialise_mean(mean)
    actual = likelihood(torch.randn(4, 2)).mean
    torch.testing.assert_close(actual, mean.clamp(1e-3, 1 - 1e-3).expand(4, 8), rtol=1e-12, atol=1e-12)


def test_continuous_bernoulli_likelihood_is_the_product_over_pixels():
    likelihood = at(ContinuousBernoulliLikelihood(2, (3, 2)), torch.randn(3, 2))
    z, x = torch.randn(5, 2), torch.rand(5, 3, 2)
    oracle = torch.distributions.ContinuousBernoulli(logits=likelihood.net(z) + likelihood.offset)
    torch.testing.assert_close(likelihood(z).log_prob(x), oracle.log_prob(x).sum((1, 2)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_continuous_bernoulli_raises_on_values_outside_the_support(value):
    with pytest.raises(ValueError, match="support"):
        ContinuousBernoulliLikelihood(2, (3,))(torch.zeros(2)).log_prob(torch.full((3,), value))


def test_continuous_bernoulli_expand_preserves_values_and_validation():
    p = ContinuousBernoulli(torch.randn(4), validate_args=True)
    wide, x = p.expand((3, 4)), torch.rand(3, 4)
    assert wide.sample((2,)).shape == (2, 3, 4)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="support"):
        wide.log_prob(x + 1)


# ---------------------------------------------------------------- beta-binomial


def exact_log_rising(a, k, unit):
    with mpmath.workdps(60):
        a = mpmath.mpf(a)
        return float(mpmath.loggamma(a + k) - mpmath.loggamma(a) - k * mpmath.log(unit) + k)


@pytest.mark.parametrize("a", [1e-300, 1e-12, 1e-3, 0.3, 1.0, 7.9, 60.0, 1e4, 1e9, 1e15])
def test_log_rising_is_a_difference_of_log_gammas(a):
    k, a = torch.tensor([0.0, 1.0, 2.0, 17.0, 255.0]), torch.full((5,), a)
    actual = log_rising(a, a.log(), k, a + 300)
    expected = [exact_log_rising(a[0].item(), int(v), a[0].item() + 300) for v in k]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize("concentration", [0.01, 0.7, 2.0, 30.0, 1e4])
@pytest.mark.parametrize("mean", [1e-3, 0.2, 0.5, 0.93])
def test_beta_binomial_equals_scipy(mean, concentration, levels):
    p = BetaBinomialLevels(tensor(mean).logit(), tensor(concentration), levels)
    oracle = stats.betabinom(levels - 1, mean * concentration, (1 - mean) * concentration)
    np.testing.assert_allclose(p.log_prob(grid(levels)), oracle.logpmf(np.arange(levels)), rtol=1e-9, atol=1e-9)
    assert p.mean.item() == pytest.approx(oracle.mean() / (levels - 1), rel=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("concentration", [1e-6, 0.01, 10.0, 1e6, 1e12])
@pytest.mark.parametrize("logit", [-1e3, -40.0, -2.0, 0.0, 5.0, 800.0])
def test_beta_binomial_sums_to_one(logit, concentration, levels):
    log_prob = BetaBinomialLevels(tensor(logit), tensor(concentration), levels).log_prob(grid(levels))
    assert log_prob.isfinite().all()
    assert log_prob.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)


def test_beta_binomial_with_two_at_one_half_is_uniform():
    log_prob = BetaBinomialLevels(tensor(0.0), tensor(2.0), 256).log_prob(grid(256))
    np.testing.assert_allclose(log_prob, -math.log(256), rtol=1e-9)


@pytest.mark.parametrize("concentration", [0.01, 10.0, 1e4, 1e8])
@pytest.mark.parametrize("logit", [-200.0, -3.0, 0.0, 1.0, 90.0])
def test_beta_binomial_in_float32_is_near_and_so_are_gradients(logit, concentration):
    values = []
    for dtype in (torch.float32, torch.float64):
        parameters = [torch.full((256,), v, dtype=dtype, requires_grad=True) for v in (logit, concentration)]
        log_prob = BetaBinomialLevels(*parameters, 256).log_prob(grid(256, dtype=dtype))
        assert log_prob.dtype == dtype
        logits, c = torch.autograd.grad(log_prob.sum(), parameters)
        values.append([log_prob.double(), logits.double(), c.double() * concentration])
    for single, double in zip(*values, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-5, atol=2e-3 if concentration > 1e4 else 4e-4)


@pytest.mark.parametrize("levels", [2, 256])
def test_beta_binomial_gradient_is_exact(levels):
    parameters = torch.randn(7, requires_grad=True), torch.rand(7).mul(20).requires_grad_()
    x = torch.cat([torch.tensor([0.0, 1.0]), (torch.rand(5) * (levels - 1)).round() / (levels - 1)])
    assert torch.autograd.gradcheck(lambda m, c: BetaBinomialLevels(m, c, levels).log_prob(x), parameters)


@pytest.mark.parametrize(("logit", "concentration"), [(0.4, 10.0), (-1.0, 0.05), (0.0, 1e4), (-3.0, 0.8)])
def test_beta_binomial_draws_have_their_probabilities(logit, concentration):
    n, levels = 200_000, 5
    p = BetaBinomialLevels(tensor(logit), tensor(concentration), levels)
    frequency = (p.sample((n,))[:, None] == grid(levels)).double().mean(0)
    probability = p.log_prob(grid(levels)).exp()
    assert frequency.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert ((frequency - probability) / (probability * (1 - probability) / n).sqrt()).abs().max() < 4.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_binomial_draws_are_levels_far_away(dtype):
    logits = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], dtype=dtype)
    for concentration in (1e-6, 1.0, 1e12):
        p = BetaBinomialLevels(logits, torch.full((5,), concentration, dtype=dtype), 256, validate_args=True)
        draws = p.sample((200,))
        assert draws.dtype == dtype
        assert p.log_prob(draws).isfinite().all()


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 2, 4)])
def test_beta_binomial_likelihood_reads_the_mean_first(shape):
    likelihood = BetaBinomialLikelihood(2, shape, levels=7)
    assert likelihood.net.out_shape == ((6, 2, 4) if len(shape) == 3 else (2, *shape))
    at(likelihood, torch.randn(shape))
    z = torch.randn(5, 2)
    logits, raw = likelihood.net(z).reshape(5, 2, -1).unbind(1)
    pixels = BetaBinomialLevels(logits + likelihood.offset.flatten(), 10 * (7 * (raw / 7).tanh()).exp(), 7)
    p = likelihood(z)
    x = p.sample()
    torch.testing.assert_close(p.log_prob(x), pixels.log_prob(x.flatten(1)).sum(1), rtol=1e-12, atol=0)


def test_beta_binomial_concentration_is_bounded():
    outputs = torch.tensor([[0.0, 0.0, 0.0], [-1e9, 0.0, 1e9]])
    likelihood = BetaBinomialLikelihood(2, (3,), net=Zero)
    likelihood.net.transform = lambda x: outputs.expand(len(x), 2, 3)
    concentration = likelihood(torch.zeros(2)).base_dist.concentration
    np.testing.assert_allclose(concentration, 10 * np.exp([-7, 0, 7]), rtol=1e-12)


def test_beta_binomial_expand_preserves_levels_values_and_validation():
    p = BetaBinomialLevels(torch.randn(4), tensor(3.0), 16, validate_args=True)
    wide = p.expand((3, 4))
    x = wide.sample((2,))
    assert (x.shape, wide.levels) == ((2, 3, 4), 16)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="support"):
        wide.log_prob(torch.full((3, 4), 0.5))


@pytest.mark.parametrize("cls", [BetaBinomialLikelihood, CategoricalLikelihood, MixtureOfLogisticsLikelihood])
@pytest.mark.parametrize("levels", [1, 0, -3])
def test_likelihoods_of_levels_need_two(cls, levels):
    message = rf"^{cls.__name__}: levels must be at least 2, got levels={levels}\.$"
    with pytest.raises(ValueError, match=message):
        cls(2, (3,), levels=levels)


@pytest.mark.parametrize("cls", [BetaBinomialLikelihood, CategoricalLikelihood, MixtureOfLogisticsLikelihood])
def test_likelihoods_of_levels_are_probabilities_of_a_grid(cls):
    support = cls(2, (1, 3, 2), levels=16)(torch.zeros(2)).support
    assert support.is_discrete
    assert support.event_dim == 3
    assert repr(support.base_constraint) == "GreyLevels(16)"


@pytest.mark.parametrize("cls", [BetaBinomialLikelihood, CategoricalLikelihood, MixtureOfLogisticsLikelihood])
def test_likelihoods_of_levels_raise_on_values_off_the_grid(cls):
    p = cls(2, (3,), levels=16)(torch.zeros(2))
    for value in (0.5, -1 / 15, 16 / 15, float("nan")):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.full((3,), value))


# ---------------------------------------------------------------- mixture of logistics


def mixture(num_channels, *, levels, batch=(), pixels=1, scale=0.2, event_shape=None, components=3):
    c = num_channels
    return MixtureOfLogistics(
        torch.randn(*batch, components, pixels),
        0.5 + 0.4 * torch.randn(*batch, components, c, pixels),
        scale * (0.5 + torch.rand(*batch, components, c, pixels)),
        2 * torch.rand(*batch, components, c * (c - 1) // 2, pixels) - 1,
        event_shape or (c, pixels),
        levels,
    )


@pytest.mark.parametrize("scale", [1e-3, 0.2, 5.0])
@pytest.mark.parametrize(("num_channels", "levels"), [(1, 256), (1, 2), (2, 16), (3, 2), (3, 8), (4, 3)])
def test_mixture_of_logistics_sums_to_one(num_channels, levels, scale):
    p = mixture(num_channels, levels=levels, scale=scale)
    total = p.log_prob(every_datum(levels, num_channels).unsqueeze(-1)).logsumexp(0)
    assert total.item() == pytest.approx(0.0, abs=1e-9)


def test_mixture_of_logistics_is_its_formula():
    """Every colour with scipy's logistic, one pixel and component after the other."""
    p = mixture(3, levels=6, pixels=2, components=2)
    half, x = 0.5 / 5, (torch.randint(6, (3, 2)) / 5).numpy()

    def probability(v, loc, scale):
        upper = np.inf if v > 1 - half else v + half
        lower = -np.inf if v < half else v - half
        return stats.logistic(loc, scale).cdf(upper) - stats.logistic(loc, scale).cdf(lower)

    total = 0.0
    for d in range(2):
        weights, pixel = p.logits[:, d].softmax(0), 0.0
        for k in range(2):
            a, (r, g, b) = p.coefficients[k, :, d].tolist(), x[:, d]
            loc, scale = p.loc[k, :, d].tolist(), p.scale[k, :, d].tolist()
            pixel += weights[k].item() * (
                probability(r, loc[0], scale[0])
                * probability(g, loc[1] + a[0] * (r - 0.5), scale[1])
                * probability(b, loc[2] + a[1] * (r - 0.5) + a[2] * (g - 0.5), scale[2])
            )
        total += math.log(pixel)
    assert p.log_prob(torch.as_tensor(x)).item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_mixture_of_logistics_draws_have_their_probabilities(num_channels):
    n, levels = 200_000, 3
    p, every_x = mixture(num_channels, levels=3, pixels=2), every_datum(3, num_channels)
    draws = p.sample((n,))  # (n, C, 2)
    joint = p.log_prob(every_x.unsqueeze(-1).expand(-1, -1, 2))
    for d in range(2):
        frequency = (draws[:, None, :, d] == every_x).all(-1).double().mean(0)
        one = MixtureOfLogistics(*(t[..., d : d + 1] for t in parameters_of(p)), (num_channels, 1), levels)
        probability = one.log_prob(every_x.unsqueeze(-1)).exp()
        joint = joint - probability.log()
        assert ((frequency - probability) / (probability * (1 - probability) / n).sqrt()).abs().max() < 4.5
    torch.testing.assert_close(joint, torch.zeros_like(joint), rtol=0, atol=1e-12)


def parameters_of(p):
    return p.logits, p.loc, p.scale, p.coefficients


def mean_by_enumeration(p):
    every_x = every_datum(p.levels, p.event_shape[0]).unsqueeze(-1)
    return (p.log_prob(every_x).exp().unsqueeze(-1).unsqueeze(-1) * every_x).sum(0)


@pytest.mark.parametrize(("num_channels", "levels"), [(1, 256), (1, 2), (3, 2), (3, 9)])
def test_mixture_of_logistics_mean_of_the_first_channel_is_exact(num_channels, levels):
    p = mixture(num_channels, levels=levels)
    torch.testing.assert_close(p.mean[0], mean_by_enumeration(p)[0], rtol=1e-10, atol=0)


def test_mixture_of_logistics_mean_is_exact_between_black_and_white():
    """For many levels the mean of a logistic is its loc, and the mean of an affine map is the map of the mean."""
    p = MixtureOfLogistics(
        torch.randn(3, 1), 0.4 + 0.2 * torch.rand(3, 3, 1), torch.full((3, 3, 1), 0.02), torch.rand(3, 3, 1), (3, 1), 40
    )
    torch.testing.assert_close(p.mean, mean_by_enumeration(p), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_mixture_of_logistics_gradient_is_exact(num_channels):
    p = mixture(num_channels, levels=8, batch=(2,), pixels=2)
    parameters = [t.requires_grad_() for t in parameters_of(p)]
    x = p.sample()
    shape = p.event_shape
    assert torch.autograd.gradcheck(lambda *args: MixtureOfLogistics(*args, shape, 8).log_prob(x), parameters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_mixture_of_logistics_is_finite_at_black_and_white_for_any_output(size, dtype):
    likelihood = MixtureOfLogisticsLikelihood(2, (3, 2, 2), net=lambda i, o: MLP(i, o, hidden=())).to(dtype)
    z = (size * torch.randn(50, 2)).to(dtype).requires_grad_()
    for value in (0.0, 100 / 255, 1.0):
        log_prob = likelihood(z).log_prob(torch.full((3, 2, 2), value, dtype=dtype))
        assert log_prob.dtype == dtype
        assert log_prob.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), [z, *likelihood.parameters()]))
    likelihood(z).log_prob(likelihood(z).sample())  # validation is on: within the support


def test_mixture_of_logistics_in_float32_is_near():
    p = mixture(3, levels=256, batch=(20,), pixels=5)
    x = p.sample()
    single = MixtureOfLogistics(*(t.float() for t in parameters_of(p)), (3, 5), 256).log_prob(x.float())
    torch.testing.assert_close(single.double(), p.log_prob(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "outputs"), [((3, 4, 5), 10), ((1, 4, 5), 3), ((2, 4, 5), 6), ((6,), 3), ((6, 5), 3)]
)
@pytest.mark.parametrize("batch", [(), (4,), (2, 4)])
def test_mixture_of_logistics_likelihood_shapes(shape, outputs, batch):
    likelihood = MixtureOfLogisticsLikelihood(2, shape, num_components=7, levels=16)
    assert likelihood.net.out_shape == (7 * outputs, *(shape[1:] if len(shape) == 3 else shape))
    p = likelihood(torch.randn(*batch, 2))
    assert (p.batch_shape, p.event_shape, p.mean.shape) == (batch, shape, (*batch, *shape))
    x = p.sample((5,))
    assert x.shape == (5, *batch, *shape)
    assert p.log_prob(x).shape == (5, *batch)
    wide = p.expand((3, *batch))
    assert wide.sample().shape == (3, *batch, *shape)
    torch.testing.assert_close(wide.log_prob(x[0]), p.log_prob(x[0]).expand(3, *batch), rtol=1e-9, atol=1e-9)


def test_mixture_of_logistics_likelihood_reads_component_by_component():
    likelihood = MixtureOfLogisticsLikelihood(2, (3, 1, 2), num_components=4, levels=16, min_scale=0.02)
    at(likelihood, torch.rand(3, 1, 2))
    p, outputs = likelihood(torch.ones(2)), likelihood.net(torch.ones(2)).reshape(4, 10, 2)
    torch.testing.assert_close(p.logits, outputs[:, 0], rtol=1e-13, atol=0)
    torch.testing.assert_close(p.loc, outputs[:, 1:4] + likelihood.offset.reshape(3, 2), rtol=1e-13, atol=0)
    torch.testing.assert_close(p.scale, 0.02 + (outputs[:, 4:7] - 2.25).exp().log1p(), rtol=1e-12, atol=0)
    torch.testing.assert_close(p.coefficients, outputs[:, 7:].tanh(), rtol=1e-13, atol=0)


@pytest.mark.parametrize(("num_components", "min_scale"), [(0, 1e-3), (5, 0.0), (5, float("nan"))])
def test_mixture_of_logistics_likelihood_raises(num_components, min_scale):
    rule = (
        "num_components must be at least 1"
        if num_components < 1
        else "min_scale must be (positive and finite|a number)"
    )
    message = f"^MixtureOfLogisticsLikelihood: {rule}, got "
    with pytest.raises(ValueError, match=message):
        MixtureOfLogisticsLikelihood(2, (3,), num_components=num_components, min_scale=min_scale)


# ---------------------------------------------------------------- normal and Laplace

FAMILIES = {NormalLikelihood: (stats.norm, 1.0), LaplaceLikelihood: (stats.laplace, math.sqrt(2))}
families = pytest.mark.parametrize("cls", FAMILIES)


@families
@pytest.mark.parametrize("scale", ["global", "pixel", 0.3])
def test_location_and_scale_equal_scipy(cls, scale):
    likelihood = cls(2, (3, 2), scale=scale)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    at(likelihood, torch.randn(3, 2))
    z, x = torch.randn(5, 2), torch.randn(5, 3, 2)
    loc = (likelihood.net(z) + likelihood.offset).detach().numpy()
    sigma = 0.3 if scale == 0.3 else 0.01 + np.exp(likelihood.log_scale.detach().numpy())
    assert np.shape(sigma) == ((3, 2) if scale == "pixel" else ())
    family, ratio = FAMILIES[cls]
    expected = family(loc, sigma).logpdf(x.numpy()).sum((1, 2))
    np.testing.assert_allclose(likelihood(z).log_prob(x).detach(), expected, rtol=1e-12)
    np.testing.assert_allclose(likelihood(z).mean.detach(), loc, rtol=1e-12)
    np.testing.assert_allclose(likelihood(z).stddev.detach(), np.broadcast_to(ratio * sigma, (5, 3, 2)), rtol=1e-12)


@families
@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)], ids=str)
def test_a_scale_from_the_network_equals_scipy(cls, shape):
    likelihood = cls(2, shape, scale="network", min_scale=0.1)
    nn.init.normal_(likelihood.log_scale)
    at(likelihood, torch.randn(shape))
    z, x = torch.randn(5, 2), torch.randn(5, *shape)
    loc, log_scale = likelihood.net(z).reshape(5, 2, *shape).unbind(1)
    loc, sigma = loc + likelihood.offset, 0.1 + (likelihood.log_scale + log_scale).exp()
    family, ratio = FAMILIES[cls]
    expected = family(loc.detach().numpy(), sigma.detach().numpy()).logpdf(x.numpy()).reshape(5, -1).sum(1)
    np.testing.assert_allclose(likelihood(z).log_prob(x).detach(), expected, rtol=1e-12)
    np.testing.assert_allclose(likelihood(z).stddev.detach(), ratio * sigma.detach().numpy(), rtol=1e-12)


@families
@pytest.mark.parametrize("scale", ["global", "pixel", 0.05, 7.0])
def test_location_and_scale_integrate_to_one(cls, scale):
    p = at(cls(2, (1,), scale=scale, net=Zero), 0.3)(torch.zeros(2))
    density = lambda v: p.log_prob(tensor(v).reshape(1)).exp().item()  # noqa: E731
    total, _ = integrate.quad(density, -200, 200, points=[-20, 0.3, 20], limit=200)
    assert total == pytest.approx(1.0, abs=1e-8)


@families
@pytest.mark.parametrize("scale", ["global", "pixel"])
def test_a_learned_scale_has_a_floor(cls, scale):
    likelihood = cls(2, (3,), scale=scale, min_scale=0.2)
    nn.init.constant_(likelihood.log_scale, -1e4)
    np.testing.assert_allclose(likelihood(torch.zeros(2)).stddev.detach(), 0.2 * FAMILIES[cls][1], rtol=1e-12)


@families
def test_a_fixed_scale_is_not_learned(cls):
    likelihood = cls(2, (3,), scale=0.1)
    assert all(name.startswith("net.") for name, _ in likelihood.named_parameters())
    scale = likelihood.to(torch.float32)(torch.zeros(2, dtype=torch.float32)).base_dist.scale
    assert torch.equal(scale, torch.full((3,), 0.1, dtype=torch.float32))


@families
def test_a_fixed_scale_may_be_below_the_floor(cls):
    assert cls(2, (3,), scale=1e-4, min_scale=0.5)(torch.zeros(2)).base_dist.scale.tolist() == [1e-4] * 3


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loc", [-1e6, 0.5, 1e6])
def test_location_and_scale_are_finite_far_away(cls, loc, dtype):
    likelihood = at(cls(2, (3,), net=Zero), loc).to(dtype)
    for x in (0.0, 1.0):
        log_prob = likelihood(torch.zeros(2, dtype=dtype)).log_prob(torch.full((3,), x, dtype=dtype))
        (g,) = torch.autograd.grad(log_prob, likelihood.log_scale)
        assert log_prob.isfinite()
        assert g.isfinite()


@families
@pytest.mark.parametrize("argument", ["scale", "min_scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_nonpositive_scale_raises(cls, argument, value):
    message = rf"^{cls.__name__}: {argument} must be .*(positive and finite|a number), got {argument}={value}\."
    with pytest.raises(ValueError, match=message):
        cls(2, (3,), **{argument: value})


@families
def test_an_unknown_scale_option_raises(cls):
    message = rf"^{cls.__name__}: scale must be one of 'global', 'pixel', 'network' or a number, got .*\.$"
    with pytest.raises(ValueError, match=message):
        cls(2, (3,), scale="local")


# ---------------------------------------------------------------- Bernoulli


def test_bernoulli_likelihood_sums_to_one():
    p = BernoulliLikelihood(2, (2, 2))(torch.randn(2))
    every_x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(16, 2, 2)
    assert p.log_prob(every_x).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)


def test_bernoulli_likelihood_equals_scipy():
    likelihood = at(BernoulliLikelihood(2, (3, 2)), torch.randn(3, 2))
    z, x = torch.randn(5, 2), torch.bernoulli(torch.full((5, 3, 2), 0.5))
    probability = 1 / (1 + np.exp(-(likelihood.net(z) + likelihood.offset).detach().numpy()))
    expected = stats.bernoulli(probability).logpmf(x.numpy()).sum((1, 2))
    np.testing.assert_allclose(likelihood(z).log_prob(x).detach(), expected, rtol=1e-12)
    np.testing.assert_allclose(likelihood(z).mean.detach(), probability, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_bernoulli_likelihood_at_extreme_logits(logit, dtype):
    likelihood = at(BernoulliLikelihood(2, (3,), net=lambda i, o: MLP(i, o, hidden=())), logit).to(dtype)
    likely = torch.full((3,), float(logit > 0), dtype=dtype)
    z = torch.zeros(2, dtype=dtype)
    assert likelihood(z).log_prob(likely).item() == pytest.approx(0.0, abs=1e-30)
    surprise = likelihood(z).log_prob(1 - likely)
    assert surprise.item() == -600.0
    surprise.backward()
    assert all(p.grad.isfinite().all() for p in likelihood.parameters())
    assert likelihood.net.layers[-1].bias.grad.abs().tolist() == [1.0] * 3


@pytest.mark.parametrize("value", [0.5, 1 / 255, -1.0, 2.0])
def test_bernoulli_likelihood_raises_on_grey_values(value):
    with pytest.raises(ValueError, match="support"):
        BernoulliLikelihood(2, (3,))(torch.zeros(2)).log_prob(torch.full((3,), value))


# ---------------------------------------------------------------- initialise_mean


def test_bernoulli_initialise_mean_is_exact_within_the_clamp():
    mean = torch.tensor([0.0, 1e-3, 0.2, 0.5, 1 - 1e-3, 1.0])
    likelihood = BernoulliLikelihood(2, (6,), net=Zero).initialise_mean(mean)
    actual = likelihood(torch.randn(4, 2)).mean
    torch.testing.assert_close(actual, mean.clamp(1e-3, 1 - 1e-3).expand(4, 6), rtol=1e-12, atol=0)


def test_normal_initialise_mean_is_exact():
    mean = torch.rand(6)
    likelihood = NormalLikelihood(2, (6,), net=Zero).initialise_mean(mean)
    assert torch.equal(likelihood(torch.randn(4, 2)).mean, mean.expand(4, 6))


def test_initialise_mean_is_idempotent():
    likelihood = (
        NormalLikelihood(2, (6,), net=Zero).initialise_mean(torch.rand(6)).initialise_mean(torch.full((6,), 0.25))
    )
    assert torch.equal(likelihood(torch.randn(4, 2)).mean, torch.full((4, 6), 0.25))


def test_initialise_mean_takes_a_mean_of_another_dtype():
    likelihood = NormalLikelihood(2, (6,), net=Zero).initialise_mean(torch.full((6,), 0.25, dtype=torch.float32))
    assert likelihood(torch.zeros(2)).mean.dtype == torch.float64

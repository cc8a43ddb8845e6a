"""Distributions against their definitions: quadrature, distribution functions, finite differences."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.autograd import grad

from pyro_vae.distributions import (
    AugmentedPosterior,
    AuxiliaryJoint,
    IndependentOneHotCategorical,
    Leapfrog,
    MixtureOfNormals,
    RelaxedIndependentOneHotCategorical,
    gradient,
)
from pyro_vae.distributions.mixture_of_normals import implicit_mixture

# ---------------------------------------------------------------- mixture of normals


def a_mixture(*batch, components=3, dim=2, spread=1.0):
    """Parameters (logits, locs, scales) that require gradients."""
    shape = (*batch, components, dim)
    parameters = (torch.randn(*batch, components), spread * torch.randn(shape), 0.4 + torch.rand(shape))
    return [p.requires_grad_() for p in parameters]


def grid(low=-9.0, high=9.0, n=601):
    line = torch.linspace(low, high, n)
    return torch.cartesian_prod(line, line), (high - low) / (n - 1)


def test_a_mixture_is_the_sum_of_its_components():
    logits, locs, scales = a_mixture(4)
    q, z = MixtureOfNormals(logits, locs, scales), torch.randn(6, 4, 2)
    log_normals = dist.Normal(locs, scales).log_prob(z.unsqueeze(-2)).sum(-1)  # (6, 4, C)
    expected = (logits.softmax(-1) * log_normals.exp()).sum(-1).log()
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_a_mixture_is_normalised_and_has_its_moments():
    q = MixtureOfNormals(*a_mixture())
    points, step = grid()
    p = q.log_prob(points).exp() * step**2
    mean = (p.unsqueeze(-1) * points).sum(0)
    torch.testing.assert_close(p.sum(), torch.ones(()), rtol=0, atol=1e-9)
    torch.testing.assert_close(mean, q.mean, rtol=0, atol=1e-9)
    torch.testing.assert_close((p.unsqueeze(-1) * (points - mean).square()).sum(0), q.variance, rtol=0, atol=1e-9)


def test_draws_of_a_mixture_have_its_distribution():
    q = MixtureOfNormals(*(p.detach() for p in a_mixture(spread=3.0)))
    z = q.sample((20_000,))
    uniform = conditional_cdf(z, q.logits, q.locs, q.scales)  # (N, L), independent and uniform
    counts = torch.histogramdd(uniform, bins=[4, 4], range=[0, 1, 0, 1]).hist
    share = 1 / 16
    assert ((counts / 20_000 - share) / math.sqrt(share * (1 - share) / 20_000)).abs().max() < 4.5


def conditional_cdf(z, logits, locs, scales):
    """F(z_i | z_1, ..., z_{i-1}) by its definition, dimension after dimension."""
    normal, weights, values = dist.Normal(locs, scales), logits.softmax(-1), []
    for i in range(z.shape[-1]):
        cdf = normal.cdf(z.unsqueeze(-2))[..., i]
        values.append((weights * cdf).sum(-1))
        weights = weights * normal.log_prob(z.unsqueeze(-2))[..., i].exp()
        weights = weights / weights.sum(-1, keepdim=True)
    return torch.stack(values, -1)


def inverse(uniform, parameters):
    """The z with these conditional distribution functions, by bisection in each dimension in turn."""
    z = torch.zeros_like(uniform)
    for i in range(z.shape[-1]):
        low, high = torch.full_like(z[..., i], -50.0), torch.full_like(z[..., i], 50.0)
        for _ in range(80):
            z = torch.cat([z[..., :i], ((low + high) / 2).unsqueeze(-1), z[..., i + 1 :]], -1)
            above = conditional_cdf(z, *parameters)[..., i] > uniform[..., i]
            low, high = torch.where(above, low, z[..., i]), torch.where(above, z[..., i], high)
    return z


def along(parameters, direction, t):
    return [p.detach() + t * d for p, d in zip(parameters, direction, strict=True)]


def test_the_gradient_of_a_mixture_s_draw_is_that_of_the_inverse_distribution_function():
    parameters = a_mixture(3, dim=3)
    direction = [torch.randn_like(p) for p in parameters]
    z, weight = MixtureOfNormals(*parameters).sample(), torch.randn(3, 3)
    uniform = conditional_cdf(z, *parameters).detach()
    ahead, behind = (inverse(uniform, along(parameters, direction, t)) for t in (1e-4, -1e-4))
    expected = (weight * (ahead - behind)).sum() / 2e-4
    gradient = grad((weight * implicit_mixture(z, *parameters)).sum(), parameters)
    actual = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_the_gradient_of_a_mixture_s_draw_can_be_differentiated_again():
    parameters = a_mixture(3, dim=3)
    direction = [torch.randn_like(p) for p in parameters]
    z, weight = MixtureOfNormals(*parameters).sample(), torch.randn(3, 3)
    uniform = conditional_cdf(z, *parameters).detach()

    def slope(z, t):
        """d/dt of the weighted draw, as a function of t."""
        t = torch.tensor(t, requires_grad=True)
        return t, grad((weight * implicit_mixture(z, *along(parameters, direction, t))).sum(), t, create_graph=True)[0]

    t, first = slope(z, 0.0)
    ahead, behind = (slope(inverse(uniform, along(parameters, direction, t)), t)[1] for t in (1e-4, -1e-4))
    torch.testing.assert_close(grad(first, t)[0], (ahead - behind).detach() / 2e-4, rtol=1e-5, atol=0)


def test_one_component_is_the_normal():
    _, loc, scale = a_mixture(components=1, dim=3)
    z = MixtureOfNormals(torch.zeros(1), loc, scale).rsample()
    weight = torch.randn(3)
    by_loc, by_scale = grad((weight * z).sum(), (loc, scale))
    torch.testing.assert_close(by_loc[0], weight, rtol=1e-12, atol=0)
    torch.testing.assert_close(by_scale[0], weight * ((z - loc) / scale).detach()[0], rtol=1e-12, atol=1e-12)


def test_pathwise_and_score_function_gradients_of_a_mixture_agree():
    """E[f(z)] by all parameters; a quadratic f has the exact gradient as well."""
    parameters, n, a = a_mixture(), 40_000, torch.tensor([1.0, -2.0])
    repeated = [p.detach().expand(n, *p.shape).clone().requires_grad_() for p in parameters]
    q = MixtureOfNormals(*repeated)
    z = q.rsample()
    pathwise = grad(((z * a).sum(-1) + z.square().sum(-1)).sum(), repeated)
    f = (z.detach() * a).sum(-1) + z.detach().square().sum(-1)
    score = grad((q.log_prob(z.detach()) * (f - f.mean())).sum(), repeated)
    p = MixtureOfNormals(*parameters)
    exact = grad((p.mean * a + p.variance + p.mean.square()).sum(), parameters)
    for samples in (pathwise, score):
        for values, expected in zip(samples, exact, strict=True):
            error = values.std(0) / math.sqrt(n)
            assert ((values.mean(0) - expected) / error).abs().max() < 4.5
    assert all(one.std(0).mean() < two.std(0).mean() for one, two in pairwise((pathwise[1], score[1])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_of_a_mixture_is_stable_in_the_tails(dtype):
    """Far out, where distribution functions and densities underflow, the widest component's gradient remains."""
    locs = torch.tensor([[0.0], [1.0]], dtype=dtype, requires_grad=True)
    logits = torch.zeros(2, dtype=dtype, requires_grad=True)
    scales = torch.tensor([[0.5], [1.0]], dtype=dtype, requires_grad=True)
    for side in (-1.0, 1.0):
        z = torch.tensor([1.0 + side * 50], dtype=dtype)
        gradients = grad(implicit_mixture(z, logits, locs, scales).sum(), (logits, locs, scales))
        assert all(g.isfinite().all() for g in gradients)
        torch.testing.assert_close(gradients[1].squeeze(), torch.tensor([0.0, 1.0], dtype=dtype))
        torch.testing.assert_close(gradients[2].squeeze(), torch.tensor([0.0, side * 50], dtype=dtype))
        mills = side * 0.019992 / 2  # (1 - Phi(50)) / phi(50) times dw = w (1 - w) / w
        torch.testing.assert_close(gradients[0], torch.tensor([-mills, mills], dtype=dtype), rtol=1e-3, atol=0)


@pytest.mark.parametrize("batch", [(), (4,), (3, 4)], ids=str)
def test_mixture_shapes(batch):
    q = (
        MixtureOfNormals(*a_mixture(4, dim=5)).expand((3, 4))
        if batch == (3, 4)
        else MixtureOfNormals(*a_mixture(*batch, dim=5))
    )
    z = q.rsample((6,))
    assert (q.batch_shape, q.event_shape, z.shape) == (batch, (5,), (6, *batch, 5))
    assert q.log_prob(z).shape == (6, *batch)
    assert (q.mean.shape, q.variance.shape) == ((*batch, 5), (*batch, 5))


# ---------------------------------------------------------------- pairs


def test_the_exact_reverse_model_leaves_the_margin():
    """a ~ N(0, 1), z ~ N(a, s^2) in each of two dimensions: z ~ N(0, 1 + s^2), a | z ~ N(z / (1 + s^2), ...)."""
    s, zeros = 0.7, torch.zeros(4, 2)
    pair = AuxiliaryJoint(dist.Normal(zeros, 1.0).to_event(1), lambda a: dist.Normal(a, s).to_event(1), 2)
    total = 1 + s**2
    reverse = lambda z: dist.Normal(z / total, s / math.sqrt(total)).to_event(1)  # noqa: E731
    q = AugmentedPosterior(pair.expand((3, 4)), 2, reverse)
    trace = poutine.trace(q.program).get_trace("z")
    trace.compute_log_prob()
    log_q = sum(trace.nodes[name]["log_prob"] for name in ("z_joint", "z", "z_reverse"))
    expected = dist.Normal(zeros, math.sqrt(total)).to_event(1).log_prob(trace.nodes["z"]["value"])
    torch.testing.assert_close(log_q, expected, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- leapfrog


def banana(z):
    """A density with correlation and curvature."""
    return -z[..., 0].square() / 2 - (z[..., 1] - 0.5 * z[..., 0].square()).square()


def leapfrog(step, num, heat=0.0):
    return Leapfrog(banana, torch.tensor([step, 1.5 * step]), heat * torch.linspace(0.1, 0.3, num))


@pytest.mark.parametrize("heat", [0.0, -1.0])
def test_leapfrog_steps_have_their_inverse_and_jacobian(heat):
    transform, start = leapfrog(0.2, 5, heat), torch.randn(6, 4)
    end = transform(start)
    assert (end - start).abs().max() > 0.3
    torch.testing.assert_close(transform.inv(end.clone()), start, rtol=1e-10, atol=1e-10)
    for row in start:
        jacobian = torch.autograd.functional.jacobian(transform, row)
        volume = transform.log_abs_det_jacobian(row, transform(row))
        torch.testing.assert_close(jacobian.slogdet().logabsdet, volume, rtol=1e-9, atol=1e-9)


def test_leapfrog_preserves_the_energy_to_second_order():
    def energy(pair):
        return -banana(pair[..., :2]) + pair[..., 2:].square().sum(-1) / 2

    start = torch.randn(50, 4)
    errors = []
    for num in (20, 40):
        transform = leapfrog(1.0 / num, num)
        transform.step_size = torch.full((2,), 1.0 / num)
        errors.append((energy(transform(start)) - energy(start)).square().mean().sqrt())
    assert 0 < errors[1] < 1e-2
    assert 3.8 < errors[0] / errors[1] < 4.2


def test_leapfrog_is_differentiable_both_ways():
    start, step = torch.randn(3, 4, requires_grad=True), torch.tensor([0.2, 0.3], requires_grad=True)

    def both(pair, step):
        transform = Leapfrog(banana, step, torch.zeros(3))
        return transform(pair), transform.inv(pair)

    assert torch.autograd.gradcheck(both, (start, step))


def test_gradients_are_available_under_no_grad():
    z = torch.randn(3, 2, requires_grad=True)
    slope = gradient(banana, z)
    with torch.no_grad():
        assert torch.equal(gradient(banana, z), slope)
        assert not gradient(banana, z).requires_grad
    assert slope.requires_grad
    assert not gradient(banana, z, create_graph=False).requires_grad
    assert z.grad is None


# ---------------------------------------------------------------- one-hot variables


def test_one_hot_variables_are_categorical_variables():
    logits = torch.randn(4, 2, 3)
    p, categorical = IndependentOneHotCategorical(logits), dist.Categorical(logits=logits)
    index = categorical.sample((5,))  # (5, 4, 2)
    z = torch.eye(3)[index].flatten(-2)
    torch.testing.assert_close(p.log_prob(z), categorical.log_prob(index).sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.entropy(), categorical.entropy().sum(-1), rtol=1e-12, atol=1e-12)
    z = p.enumerate_support()
    assert z.shape == (9, 4, 6)
    assert z[:, 0].unique(dim=0).shape == (9, 6)
    prob = p.log_prob(z).exp()
    torch.testing.assert_close(prob.sum(0), torch.ones(4), rtol=0, atol=1e-12)
    mean = (prob.unsqueeze(-1) * z).sum(0)
    torch.testing.assert_close(mean, p.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close((prob.unsqueeze(-1) * (z - mean) ** 2).sum(0), p.variance, rtol=0, atol=1e-12)


def test_the_divergence_of_one_hot_variables_is_the_sum_over_combinations():
    q, p = IndependentOneHotCategorical(torch.randn(4, 2, 3)), IndependentOneHotCategorical(torch.randn(2, 3))
    z = q.enumerate_support()
    expected = (q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))).sum(0)
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_draws_of_one_hot_variables_have_their_probabilities(temperature):
    logits, n = torch.randn(2, 3), 20_000
    p = IndependentOneHotCategorical(logits)
    if temperature is not None:  # the largest entry of a relaxed draw is a draw
        p = RelaxedIndependentOneHotCategorical(logits, torch.tensor(temperature), straight_through=True)
    z = p.sample((n,))
    assert p.log_prob(z).isfinite().all()  # with validation: in the support
    assert ((z.mean(0) - p.mean) / (p.variance / n).sqrt()).abs().max() < 4.5
    both = torch.einsum("ni,nj->ij", z[:, :3], z[:, 3:]) / n
    product = torch.outer(p.mean[:3], p.mean[3:])
    assert ((both - product) / (product * (1 - product) / n).sqrt()).abs().max() < 4.5


def test_relaxed_draws_lie_between_and_their_gradient_is_that_of_finite_differences():
    logits, weight = torch.randn(5, 2, 3, requires_grad=True), torch.randn(5, 6)

    def draw(logits):
        torch.manual_seed(3)
        return (weight * RelaxedIndependentOneHotCategorical(logits, torch.tensor(0.7)).rsample()).sum()

    assert torch.autograd.gradcheck(draw, (logits,))
    z = RelaxedIndependentOneHotCategorical(logits, torch.tensor(0.7)).rsample((100,))
    torch.testing.assert_close(z.unflatten(-1, (2, 3)).sum(-1), torch.ones(100, 5, 2))
    log_prob = RelaxedIndependentOneHotCategorical(logits, torch.tensor(0.7)).log_prob(z)
    expected = (z.unflatten(-1, (2, 3)) * logits.log_softmax(-1)).sum((-2, -1))
    torch.testing.assert_close(log_prob, expected, rtol=1e-12, atol=1e-12)


def test_an_impossible_category_has_finite_densities_and_gradients():
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], requires_grad=True)
    p = IndependentOneHotCategorical(logits, validate_args=False)
    z = torch.eye(3)
    assert p.log_prob(z)[[0, 2]].isfinite().all()
    assert p.log_prob(z)[1] < -1e300
    assert grad(p.log_prob(z[0]), logits)[0].isfinite().all()
    assert p.sample((1000,))[:, 1].sum() == 0


@pytest.mark.parametrize("value", [[0.5, 0.4, 0.0], [1.5, -0.5, 0.0], [1.0, 1.0, 0.0]])
def test_values_that_are_not_probabilities_are_outside_the_support(value):
    with pytest.raises(ValueError, match="within the support"):
        IndependentOneHotCategorical(torch.zeros(1, 3)).log_prob(torch.tensor(value))

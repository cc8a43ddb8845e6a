"""Flows are invertible with exact determinants, and define distributions that can be sampled and evaluated."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import weakref
from functools import partial

import pytest
import torch
from pyro.distributions import Normal
from torch import nn
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian
from torch.distributions import Distribution

from pyro_vae.flows import (
    AffineFlow,
    AutoregressiveFlow,
    CouplingFlow,
    Flow,
    FlowDistribution,
    HouseholderFlow,
    InverseFlow,
    PlanarFlow,
    RadialFlow,
    RationalQuadraticSpline,
    ReverseFlow,
    SylvesterFlow,
    tanh,
)
from pyro_vae.flows.householder import householder_matrix
from pyro_vae.flows.made import MADE
from pyro_vae.flows.sylvester import orthonormal
from pyro_vae.guides import (
    HouseholderFlowGuide,
    IAFGuide,
    PlanarFlowGuide,
    RadialFlowGuide,
    SplineFlowGuide,
    SylvesterFlowGuide,
)
from pyro_vae.networks import MLP
from pyro_vae.priors import FlowPrior

K, B, D = 3, 4, 6
BATCHES = [(), (B,), (K, B)]


def some(n):
    """Number of columns of Q: fewer than components, if there are several components."""
    return max(1, n - 1)


def before(matrix, z):
    """Multiply z by a strictly lower triangular matrix: entry i depends on the components before i."""
    return (matrix.tril(-1) @ z.unsqueeze(-1)).squeeze(-1)


def sylvester(q, r, r_tilde, b):
    return SylvesterFlow(orthonormal(q), r, r_tilde, b)


def sylvester_of_reflections(v, r, r_tilde, b):
    return SylvesterFlow(householder_matrix(v), r, r_tilde, b)


def autoregressive(a, c):
    return AutoregressiveFlow(lambda z: (before(a, z).sin(), before(c, z).tanh()))


def coupling(raw, slope):
    return CouplingFlow(lambda a: raw + slope * a.sum(-1).sin()[..., None, None], bound=3.0)


# The shapes of one datum's parameters in n dimensions, and the flow of tensors of these shapes.
FLOWS = {
    "planar": (lambda n: [(n,), (n,), (1,)], PlanarFlow),
    "radial": (lambda n: [(n,), (1,), (1,)], lambda c, a, g: RadialFlow(c, a.exp(), g.exp())),
    "householder": (lambda n: [(n,)], HouseholderFlow),
    "sylvester": (lambda n: [(n, some(n)), (some(n),) * 2, (some(n),) * 2, (some(n),)], sylvester),
    "reflections": (lambda n: [(2, n), (n, n), (n, n), (n,)], sylvester_of_reflections),
    "autoregressive": (lambda n: [(n, n), (n, n)], autoregressive),
    "coupling": (lambda n: [(n - n // 2, 11), (n - n // 2, 11)], coupling),
    "affine": (lambda n: [(n,), (n,)], AffineFlow),
    "inverse": (lambda n: [(n,), (n,), (1,)], lambda *params: InverseFlow(PlanarFlow(*params))),
    "reverse": (lambda n: [], ReverseFlow),
}
flows = pytest.mark.parametrize("name", FLOWS)
dims = pytest.mark.parametrize("dim", [1, 2, 5])
linear, small = partial(MLP, hidden=()), partial(MLP, hidden=(6,))
GUIDES = {
    "planar": partial(PlanarFlowGuide, num_flows=3),
    "radial": partial(RadialFlowGuide, num_flows=3),
    "householder": partial(HouseholderFlowGuide, num_flows=3),
    "sylvester": partial(SylvesterFlowGuide, num_flows=3),
    "one-column": partial(SylvesterFlowGuide, num_flows=3, num_ortho=1),
    "reflections": partial(SylvesterFlowGuide, kind="householder", num_flows=3, num_householder=3),
    "triangular": partial(SylvesterFlowGuide, kind="triangular", num_flows=3),
    "iaf": partial(IAFGuide, num_flows=3, hidden=(9,), context_dim=4),
    "spline": partial(SplineFlowGuide, num_flows=3, hidden=(9,), context_dim=4),
}
guides = pytest.mark.parametrize("name", GUIDES)
EVEN = {"householder": {"num_flows": 4}, "reflections": {"num_householder": 4}}


def params_of(name, dim, batch=(), scale=1.0):
    return [scale * torch.randn(*batch, *shape) for shape in FLOWS[name][0](dim)]


def flow_of(name, dim, batch=(), scale=1.0):
    return FLOWS[name][1](*params_of(name, dim, batch, scale))


def standard(dim, batch=()):
    return Normal(torch.zeros(*batch, dim), 1.0).to_event(1)


def guide_of(name, dim, spread=0.6):
    """A guide whose flows are far from the identity."""
    guide = GUIDES[name]((D,), dim, net=small)
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(spread * torch.randn_like(p) / math.sqrt(max(p.shape[-1], 4)))
    return guide


def log_det_by_autograd(f, z):
    """log |det df/dz| per row of z, (B, L)."""
    blocks = jacobian(lambda z: f(z).sum(0), z).movedim(1, 0)  # (B, L, L): rows do not mix
    return torch.linalg.slogdet(blocks).logabsdet


# ---------------------------------------------------------------- flows


@dims
@flows
def test_the_log_determinant_is_that_of_the_jacobian(name, dim) -> None:
    flow, z = flow_of(name, dim, (B,)), torch.randn(B, dim)
    for f in (flow.forward, flow.inverse):
        value, log_det = f(z)
        assert value.shape == (B, dim)
        assert (log_det - log_det_by_autograd(lambda z, f=f: f(z)[0], z)).abs().max() < 1e-9


@dims
@flows
def test_the_inverse_undoes_the_flow(name, dim) -> None:
    flow, z = flow_of(name, dim, (B,), 1.5), 2 * torch.randn(50, B, dim)
    y, log_det = flow.forward(z)
    back, inverse_log_det = flow.inverse(y)
    assert (back - z).abs().max() < 1e-8
    assert (log_det + inverse_log_det).abs().max() < 1e-8
    assert (flow.forward(flow.inverse(z)[0])[0] - z).abs().max() < 1e-8


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@flows
def test_parameters_are_those_of_each_datum(name, batch) -> None:
    params, z = params_of(name, 3, batch), torch.randn(2, 5, *batch, 3)
    flow = FLOWS[name][1](*params)
    y, log_det = flow.forward(z)
    assert (y.shape, log_det.shape) == (z.shape, z.shape[:-1])
    rows = [p.reshape(-1, *p.shape[len(batch) :]) for p in params]
    for i, datum in enumerate(z.reshape(10, -1, 3).unbind(1)):
        alone = FLOWS[name][1](*(p[i] for p in rows))
        for f, g in ((flow.forward, alone.forward), (flow.inverse, alone.inverse)):
            for both, one in zip(f(z), g(datum), strict=True):
                torch.testing.assert_close(both.reshape(10, -1, *both.shape[z.dim() - 1 :])[:, i], one)


@flows
def test_in_single_precision_it_stays_invertible(name) -> None:
    params = [p.float() for p in params_of(name, 5, (B,))]
    flow, z = FLOWS[name][1](*params), torch.randn(50, B, 5).float()
    y, log_det = flow.forward(z)
    back, inverse_log_det = flow.inverse(y)
    assert {t.dtype for t in (y, log_det, back, inverse_log_det)} == {torch.float32}
    assert (back - z).abs().max() < 1e-3
    assert (log_det + inverse_log_det).abs().max() < 1e-3


@flows
def test_foreign_values_have_exact_gradients(name) -> None:
    """Check gradients of log q(z) by value and parameters, which estimators that stop the gradient through z need."""
    params, value = params_of(name, 3, (2,)), torch.randn(K, 2, 3)
    inputs = [t.requires_grad_() for t in (value, *params)]

    def log_prob(value, *params):
        flow = FLOWS[name][1](*params)
        return FlowDistribution(standard(3, (2,)), [flow]).log_prob(value)

    assert gradcheck(log_prob, inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@flows
def test_values_have_exact_gradients(name, direction) -> None:
    inputs = [t.requires_grad_() for t in (torch.randn(K, 2, 3), *params_of(name, 3, (2,)))]
    assert gradcheck(lambda z, *params: getattr(FLOWS[name][1](*params), direction)(z), inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 2])
@flows
def test_the_density_integrates_to_one(name, dim) -> None:
    q = FlowDistribution(standard(dim), [flow_of(name, dim, scale=0.4), flow_of(name, dim, scale=0.4)])
    (total,) = integrals(q, dim, [lambda z: 1.0])
    assert abs(total - 1) < 1e-2


def integrals(q, dim, weights, reach=9.0):
    """Integrals of weight(z) q(z) over a box, by the midpoint rule."""
    points = 20_000 if dim == 1 else 600
    axis = reach * ((torch.arange(points) + 0.5) / points * 2 - 1)
    z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    with torch.no_grad():
        mass = q.log_prob(z).exp() * (2 * reach / points) ** dim
        return [(mass * weight(z)).sum().item() for weight in weights]


def assert_density_is_that_of_the_draws(q) -> None:
    """In two dimensions: it integrates to one, and to the means of two bounded functions of the draws."""
    weights = [lambda z: 1.0, lambda z: z.sum(-1).sin(), lambda z: (z[:, 0] * z[:, 1]).cos()]
    z = q.sample((20_000,))
    total, *means = integrals(q, 2, weights, reach=1.2 * z.abs().max().item())
    assert abs(total - 1) < 1e-2
    for weight, mean in zip(weights[1:], means, strict=True):
        draws = weight(z)
        assert abs(draws.mean().item() - mean) < 4.5 * draws.std().item() / math.sqrt(len(z)) + 1e-2


# ---------------------------------------------------------------- single flows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_scalar_root_is_found_at_the_extremes(dtype) -> None:
    q = torch.cat([torch.logspace(-6, 4, 41), torch.tensor([1 - 1e-9, 1.0, 1 + 1e-9])]).to(dtype)
    r = torch.cat([torch.zeros(1), torch.logspace(-12, 5, 120)]).to(dtype)
    r, q = torch.meshgrid(torch.cat([r, -r]), q, indexing="ij")
    a = tanh.solve(r, q)
    # In units of rounding, of the function's value and of its terms.
    residual = (a + (q - 1) * a.tanh() - r).abs() / (r.abs() + a.abs() + (q - 1).abs() * a.tanh().abs() + 1e-30)
    assert residual.max() < 20 * torch.finfo(dtype).eps
    assert torch.equal(a.sign(), r.sign())


def test_the_constraint_is_smooth_invertible_and_satisfied() -> None:
    t = torch.cat([-torch.logspace(-9, 6, 100).flip(0), torch.zeros(1), torch.logspace(-9, 6, 100)])
    gain, q = tanh.above_minus_one(t)
    assert (q > 0).all()
    assert (q.diff() > 0).all()
    assert (gain * t - (q - 1)).abs().max() < 1e-9
    # The inverse: for any w.u = s > -1 there is one t, and a planar flow with it has that w.u.
    s = torch.logspace(-3, 3, 20) - 1
    torch.testing.assert_close(tanh.above_minus_one((s + 1) - 1 / (s + 1))[1] - 1, s)
    assert gradcheck(tanh.above_minus_one, t[::10].clone().requires_grad_(), atol=1e-6)


def test_planar_is_the_formula_of_the_paper() -> None:
    u, w, b, z = torch.randn(B, 3), torch.randn(B, 3), torch.randn(B, 1), torch.randn(B, 3)
    flow = PlanarFlow(-5 * w + u, w, b)  # w.u is far below -1
    assert ((flow.u * w).sum(-1) > -1).all()
    h = torch.tanh((w * z).sum(-1, keepdim=True) + b)
    psi = (1 - h * h) * w
    torch.testing.assert_close(flow.forward(z)[0], z + flow.u * h)
    torch.testing.assert_close(flow.forward(z)[1], (1 + (flow.u * psi).sum(-1)).abs().log())


def test_a_sylvester_flow_of_one_column_is_planar() -> None:
    w, s, b, z = torch.randn(B, 3), torch.rand(B, 1), torch.randn(B, 1), torch.randn(K, B, 3)
    direction = w / w.norm(dim=-1, keepdim=True)
    planar = PlanarFlow(s * direction, w, b)
    sylvester = SylvesterFlow(direction.unsqueeze(-1), s.unsqueeze(-1), w.norm(dim=-1)[:, None, None], b)
    for f, g in ((planar.forward, sylvester.forward), (planar.inverse, sylvester.inverse)):
        for one, other in zip(f(z), g(z), strict=True):
            torch.testing.assert_close(one, other)


def test_orthogonal_matrices_are_orthogonal() -> None:
    matrix = torch.randn(K, B, 6, 4)
    matrix[..., 2] = matrix[..., 1] + 1e-9 * matrix[..., 2]  # almost dependent
    q, full = orthonormal(matrix), householder_matrix(torch.randn(K, B, 3, 6))
    assert (q.mT @ q - torch.eye(4)).abs().max() < 1e-12
    assert (full.mT @ full - torch.eye(6)).abs().max() < 1e-12
    assert (torch.linalg.det(full) + 1).abs().max() < 1e-12, "three reflections"
    span = q @ q.mT @ matrix
    torch.testing.assert_close(span, matrix)
    z, v = torch.randn(6), torch.randn(2, 6)
    one_by_one = HouseholderFlow(v[0]).forward(HouseholderFlow(v[1]).forward(z)[0])[0]
    torch.testing.assert_close(householder_matrix(v) @ z, one_by_one)


def test_splines_agree_with_zuko(monkeypatch) -> None:
    # Importing zuko changes torch's distributions; monkeypatch restores them.
    monkeypatch.setattr(Distribution, "_validate_args", Distribution._validate_args)
    monkeypatch.setattr(Distribution, "arg_constraints", Distribution.__dict__["arg_constraints"])
    from zuko.transforms import MonotonicRQSTransform

    raw, z = torch.randn(B, 14), 3 * torch.randn(100, B)
    spline = RationalQuadraticSpline(raw, bound=4.0)
    reference = MonotonicRQSTransform(*raw.split([5, 5, 4], -1), bound=4.0)
    reference.horizontal, reference.vertical, reference.derivatives = spline.x, spline.y, spline.slopes
    y, log_slope = reference.call_and_ladj(z)
    torch.testing.assert_close(spline.forward(z), (y, log_slope))
    torch.testing.assert_close(spline.inverse(z)[0], reference.inv(z))
    assert (z.abs() > 4).any()


def test_splines_are_continuous_and_the_identity_outside() -> None:
    spline = RationalQuadraticSpline(torch.randn(11), bound=2.0)
    knots = spline.x[1:-1]
    for edge in (*knots, torch.tensor(-2.0), torch.tensor(2.0)):
        (left, slope_left), (right, slope_right) = (spline.forward(edge + e) for e in (-1e-9, 1e-9))
        assert abs(left - right) < 1e-6
        assert abs(slope_left - slope_right) < 1e-4
    for f in (spline.forward, spline.inverse):
        y, log_slope = f(torch.tensor([-7.0, -2.0, 2.0, 7.0]))
        assert torch.equal(y, torch.tensor([-7.0, -2.0, 2.0, 7.0]))
        assert not log_slope.any()
    zero = RationalQuadraticSpline(torch.zeros(11), bound=2.0)
    torch.testing.assert_close(zero.forward(torch.linspace(-3, 3, 50))[0], torch.linspace(-3, 3, 50))


def test_gradients_outside_a_spline_are_finite() -> None:
    raw, z = torch.randn(11).requires_grad_(), torch.tensor([1e30, -3.0, 3.0, 0.1]).requires_grad_()
    y, log_slope = RationalQuadraticSpline(raw, bound=3.0).forward(z)
    x, _ = RationalQuadraticSpline(raw, bound=3.0).inverse(z)
    (y.sum() + x.sum() + log_slope.sum()).backward()
    assert raw.grad.isfinite().all()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("hidden", [(), (7,), (9, 8), (2,)])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_made_depends_only_on_previous_components(hidden, context_dim) -> None:
    made = MADE(4, 2, hidden=hidden, context_dim=context_dim)
    context = torch.randn(context_dim) if context_dim else None
    depends = jacobian(lambda z: made(z, context), torch.randn(4)).ne(0)  # (2, 4, 4)
    assert not depends.triu().any()
    if len(hidden) == 0 or min(hidden) >= 4:
        assert torch.equal(depends, torch.ones(2, 4, 4).tril(-1).bool())
    if context_dim:
        reaches = jacobian(lambda c: made(torch.randn(4), c), context).ne(0)
        assert reaches.all()


def test_iaf_is_the_gate_of_the_paper() -> None:
    guide, x = guide_of("iaf", 3), torch.randn(B, D)
    q = guide.posterior(x)
    context = guide.net(x)[..., 6:]
    z = expected = torch.randn(B, 3)
    for t, made in enumerate(guide.mades):
        m, s = made(expected.flip(-1) if t % 2 else expected, context).unbind(-2)
        gate = torch.sigmoid(6 * (s / 6).tanh() + 2)
        m, gate = (m.flip(-1), gate.flip(-1)) if t % 2 else (m, gate)
        expected = gate * expected + (1 - gate) * m
    for flow in q.transforms:
        z, _ = flow.forward(z)
    torch.testing.assert_close(z, expected)


# ---------------------------------------------------------------- the distribution


@guides
def test_the_density_of_a_draw_is_that_of_its_value(name) -> None:
    q = guide_of(name, 5).posterior(torch.randn(B, D))
    z = q.rsample((20,))
    assert (q.log_prob(z) - q.log_prob(z.detach().clone())).abs().max() < 1e-6


@guides
def test_the_gradient_of_a_draws_density_is_total(name) -> None:
    """Check gradients through the parameters and through the draw, as if the flow had been inverted."""
    guide, x = guide_of(name, 4), torch.randn(B, D)
    q = guide.posterior(x)
    z = q.rsample((5,))
    leaves = [p for p in guide.parameters() if p.requires_grad]
    direct, inverted = (
        torch.autograd.grad(q.log_prob(value).sin().sum(), leaves, retain_graph=True, allow_unused=True)
        for value in (z, z.clone())
    )
    for one, other in zip(direct, inverted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@guides
def test_densities_of_guides_integrate_to_one_and_are_those_of_their_draws(name) -> None:
    assert_density_is_that_of_the_draws(guide_of(name, 2, spread=0.4).posterior(torch.randn(D)))


def directional(function, module):
    """The derivative along one random direction of all parameters: by autograd, and by central differences."""
    params = list(module.parameters())
    direction = [torch.randn_like(p) for p in params]
    gradients = torch.autograd.grad(function(), params, allow_unused=True)
    exact = sum((g * v).sum() for g, v in zip(gradients, direction, strict=True) if g is not None)
    values = []
    for step in (1e-6, -2e-6, 1e-6):  # there, to the other side, and back
        with torch.no_grad():
            for p, v in zip(params, direction, strict=True):
                p.add_(step * v)
        values.append(function().item())
    return exact.item(), (values[0] - values[1]) / 2e-6


@guides
def test_guides_have_the_gradients_of_finite_differences(name) -> None:
    guide, x, value = guide_of(name, 4), torch.randn(B, D), torch.randn(5, B, 4)

    def at_a_foreign_value():
        return guide.posterior(x).log_prob(value).sum()

    def of_an_expectation():
        torch.manual_seed(3)
        q = guide.posterior(x)
        z = q.rsample((20,))
        return (z.sin().sum(-1) - q.log_prob(z)).mean()

    for function in (at_a_foreign_value, of_an_expectation):
        exact, difference = directional(function, guide)
        assert abs(exact) > 1e-3
        assert abs(exact - difference) < 1e-5 * max(1.0, abs(exact))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@guides
def test_guides_preserve_shapes(name, batch) -> None:
    q = guide_of(name, 3).posterior(torch.randn(*batch, D))
    for sample in ((), (2,), (2, 3)):
        z = q.rsample(sample)
        assert z.shape == (*sample, *batch, 3)
        assert q.log_prob(z).shape == q.log_prob(z.clone()).shape == (*sample, *batch)


@guides
def test_guides_work_in_single_precision(name) -> None:
    q = guide_of(name, 5).float().posterior(torch.randn(B, D).float())
    z = q.rsample((20,))
    assert z.dtype == q.log_prob(z).dtype == torch.float32
    assert (q.log_prob(z) - q.log_prob(z.clone())).abs().max() < 1e-2


@guides
def test_guides_start_near_the_diagonal_normal(name) -> None:
    options = EVEN.get(name, {})  # an odd number of reflections mirrors a component
    guide, x = GUIDES[name]((D,), 4, net=small, **options), torch.randn(B, D)
    loc, log_scale = guide.net(x)[..., :8].chunk(2, -1)
    noise = torch.randn(500, B, 4)
    z = loc + log_scale.exp() * noise
    with_flows = noise if name == "spline" else z
    for flow in guide.posterior(x).transforms:
        with_flows, _ = flow.forward(with_flows)
    moved = ((with_flows - z) / log_scale.exp()).square().mean().sqrt()
    assert 1e-4 < moved < 0.6


class Counted(Flow):
    """A flow that counts its runs."""

    def __init__(self, flow) -> None:
        self.flow, self.forwards, self.inverses = flow, 0, 0

    def forward(self, z):
        self.forwards += 1
        return self.flow.forward(z)

    def inverse(self, y):
        self.inverses += 1
        return self.flow.inverse(y)


def test_only_foreign_values_are_inverted() -> None:
    flow = Counted(flow_of("planar", 3))
    q = FlowDistribution(standard(3), [flow])
    first, z = q.rsample((5,)), q.rsample((5,))
    wide = q.expand((5,))
    draw = wide.rsample()
    torch.testing.assert_close(q.log_prob(draw), wide.log_prob(draw), rtol=1e-9, atol=1e-9)
    assert (flow.forwards, flow.inverses) == (3, 0), "they share what was drawn last"
    for value in (first, z, draw.clone(), draw.detach()):
        q.log_prob(value)
    assert (flow.forwards, flow.inverses) == (3, 4)


def test_a_detached_draw_has_a_differentiable_density() -> None:
    u = torch.randn(3).requires_grad_()
    flow = Counted(PlanarFlow(u, torch.randn(3), torch.randn(1)))
    q = FlowDistribution(standard(3), [flow])
    z = q.sample((5,))
    with torch.no_grad():
        without = q.log_prob(z)
    assert flow.inverses == 0
    with_graph = q.log_prob(z)
    torch.testing.assert_close(without, with_graph)
    (gradient,) = torch.autograd.grad(with_graph.sum(), u, retain_graph=True)
    assert gradient.any()
    (again,) = torch.autograd.grad(q.log_prob(z.clone()).sum(), u)
    torch.testing.assert_close(gradient, again)


def test_a_distribution_caches_one_draw() -> None:
    q = FlowDistribution(standard(3), [flow_of("planar", 3)])
    wide = q.expand((B,))
    draws = [weakref.ref((q, wide)[i % 2].rsample((7,))) for i in range(100)]
    gc.collect()
    assert sum(draw() is not None for draw in draws) == 1
    del q, wide
    gc.collect()
    assert not any(draw() is not None for draw in draws)


@flows
def test_expanding_broadcasts(name) -> None:
    q = FlowDistribution(standard(3, (B,)), [flow_of(name, 3, (B,))])
    wide = q.expand((K, B))
    assert (wide.batch_shape, wide.event_shape, wide.has_rsample) == ((K, B), (3,), True)
    z = wide.rsample((2,))
    assert z.shape == (2, K, B, 3)
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z.clone()))
    value = q.rsample()
    for same in (value, value.clone()):
        assert wide.log_prob(same).shape == (K, B)
        torch.testing.assert_close(wide.log_prob(same), q.log_prob(value).expand(K, B))
    assert wide.expand((2, K, B)).rsample().shape == (2, K, B, 3)


def test_nonfinite_values_raise() -> None:
    q = FlowDistribution(standard(3), [flow_of("affine", 3)])
    for distribution in (q, q.expand((B,))):
        with pytest.raises(ValueError, match=r"support .* of the distribution FlowDistribution"):
            distribution.log_prob(torch.full((3,), torch.nan))


# ---------------------------------------------------------------- cost of a pass


def passes_of(modules):
    counted = []
    for module in modules:
        module.register_forward_hook(lambda *_: counted.append(1))
    return counted


def test_an_iaf_draws_in_one_pass_with_its_density() -> None:
    guide = guide_of("iaf", 5)
    counted = passes_of(guide.mades)
    q = guide.posterior(torch.randn(B, D))
    z = q.rsample((7,))
    q.log_prob(z)
    assert len(counted) == len(guide.mades)
    q.log_prob(z.clone())
    assert len(counted) == len(guide.mades) * (1 + 5)


def test_a_flow_prior_is_evaluated_in_one_pass() -> None:
    prior = FlowPrior(5, num_flows=3)
    counted = passes_of(prior.nets)
    prior().log_prob(torch.randn(7, 5))
    assert len(counted) == 3
    prior().sample((7,))
    assert len(counted) == 3 * (1 + 5)


# ---------------------------------------------------------------- the prior

kinds = pytest.mark.parametrize("kind", ["autoregressive", "coupling"])


def prior_of(kind, dim):
    prior = FlowPrior(dim, kind=kind, num_flows=3, hidden=(8,))
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return prior


@kinds
def test_the_flow_prior_is_normalized_and_its_draws_follow_it(kind) -> None:
    p = prior_of(kind, 2)()
    z = p.sample((1000,))
    assert (p.log_prob(z.clone()) - p.log_prob(z)).abs().max() < 1e-6
    assert_density_is_that_of_the_draws(p)


@kinds
def test_every_component_of_the_prior_can_depend_on_every_other(kind) -> None:
    # With log p(z) = sum of terms of single components the mixed derivatives would vanish.
    p, z = prior_of(kind, 3)(), 0.5 * torch.randn(3)
    mixed = torch.autograd.functional.hessian(p.log_prob, z)
    assert (mixed.abs() > 1e-6).all()


@kinds
def test_the_flow_prior_starts_near_the_standard_normal(kind) -> None:
    p, z = FlowPrior(4, kind=kind)(), torch.randn(500, 4)
    difference = (p.log_prob(z) - standard(4).log_prob(z)).abs().mean()
    assert 1e-6 < difference < 0.5


@kinds
def test_the_flow_prior_has_the_gradients_of_finite_differences(kind) -> None:
    prior, value = prior_of(kind, 3), torch.randn(B, 3)

    def of_an_expectation():
        torch.manual_seed(3)
        return prior().rsample((20,)).sin().mean()

    for function in (lambda: prior().log_prob(value).sum(), of_an_expectation):
        exact, difference = directional(function, prior)
        assert abs(exact) > 1e-3
        assert abs(exact - difference) < 1e-5 * max(1.0, abs(exact))


# ---------------------------------------------------------------- building


PROBE = """
import sys, torch
from torch.distributions import Distribution
before = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
from pyro_vae import guides, priors
for name in guides.__all__:
    if name.endswith("FlowGuide") and name != "FlowGuide" or name == "IAFGuide":
        q = getattr(guides, name)((3,), 2).posterior(torch.zeros(4, 3))
        q.log_prob(q.sample())
priors.FlowPrior(2, kind="coupling")().sample()
assert (Distribution._validate_args, Distribution.__dict__["arg_constraints"]) == before
assert "zuko" not in sys.modules
"""


@pytest.mark.slow
def test_building_flows_does_not_change_validation() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            partial(PlanarFlowGuide, (3,), 2, num_flows=0),
            r"^PlanarFlowGuide: num_flows must be at least 1, got num_flo",
        ),
        (
            partial(RadialFlowGuide, (3,), 2, num_flows=0),
            r"^RadialFlowGuide: num_flows must be at least 1, got num_flo",
        ),
        (partial(HouseholderFlowGuide, (3,), 2, num_flows=-1), r"^HouseholderFlowGuide: num_flows must be at least 1"),
        (
            partial(SylvesterFlowGuide, (3,), 2, kind="diagonal"),
            r"^SylvesterFlowGuide: kind must be one of 'orthogonal',",
        ),
        (
            partial(SylvesterFlowGuide, (3,), 2, num_ortho=3),
            r"^SylvesterFlowGuide: num_ortho must be between 1 and lat",
        ),
        (
            partial(SylvesterFlowGuide, (3,), 2, num_ortho=0),
            r"^SylvesterFlowGuide: num_ortho must be between 1 and lat",
        ),
        (
            partial(SylvesterFlowGuide, (3,), 2, kind="triangular", num_ortho=1),
            r"^SylvesterFlowGuide: num_ortho .* got num_ortho=1, latent_dim=2, kind='triangular'\. Omit it",
        ),
        (
            partial(SylvesterFlowGuide, (3,), 2, kind="householder", num_householder=0),
            r"^SylvesterFlowGuide: num_householder must be at least 1",
        ),
        (partial(IAFGuide, (3,), 2, context_dim=0), r"^IAFGuide: context_dim must be at least 1, got context_dim=0"),
        (partial(IAFGuide, (3,), 2, num_flows=0), r"^IAFGuide: num_flows must be at least 1, got num_flows=0"),
        (
            partial(SplineFlowGuide, (3,), 2, bound=0.0),
            r"^SplineFlowGuide: bound must be positive and finite, got bound=0\.0\. Use",
        ),
        (partial(SplineFlowGuide, (3,), 2, num_bins=0), r"^SplineFlowGuide: num_bins must be at least 1"),
        (
            partial(FlowPrior, 2, kind="planar"),
            r"^FlowPrior: kind must be one of 'autoregressive', 'coupling', got kind",
        ),
        (partial(FlowPrior, 2, num_flows=0), r"^FlowPrior: num_flows must be at least 1, got num_flows=0\."),
        (partial(FlowPrior, 1, kind="coupling"), r"^FlowPrior: kind='coupling' must have at least 2 dimensions, got l"),
    ],
)
def test_invalid_arguments_raise(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@guides
def test_one_dimension_is_enough(name) -> None:
    guide = GUIDES[name]((D,), 1, net=small)
    q = guide.posterior(torch.randn(B, D))
    z = q.rsample((3,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))
    assert all(isinstance(p, nn.Parameter) for p in guide.parameters())

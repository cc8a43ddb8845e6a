"""Latents in use: ends of paths are reconstructions, geodesics are known ones, linear-Gaussian models are exact."""

from __future__ import annotations

import copy
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch
from pyro.distributions import Normal
from torch import nn

from pyro_vae import ADGM, SDGM, VAE, Faces, StackedVAE, latent_diagnostics
from pyro_vae.guides import (
    AuxiliaryGuide,
    CategoricalGuide,
    DiagonalNormalGuide,
    FullRankNormalGuide,
    HMCGuide,
    IAFGuide,
    MixtureOfNormalsGuide,
    SemiAmortizedGuide,
)
from pyro_vae.latents import (
    Codes,
    LatentSpace,
    analogy,
    attribute_auroc,
    attribute_vector,
    edit,
    interpolate,
    lattice,
    nearest,
    reconstruct,
    synthetic_vector,
    traverse,
)
from pyro_vae.latents.aggregate import aggregate_marginals
from pyro_vae.latents.paths import prior_path, slerp
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.models import BottomUpGuide, HierarchicalVAE, SemiSupervisedVAE, TopDownGuide
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.priors import (
    CategoricalPrior,
    FlowPrior,
    LaplacePrior,
    MixtureOfNormalsPrior,
    StandardNormalPrior,
    VampPrior,
)
from tests.linear_gaussian import LinearGaussian
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians

small = partial(MLP, hidden=(6,))
D = 5


def context(dim):
    return partial(ContextNetwork, context_dim=dim, net=small, hidden=(6,))


def vae_of(guide=DiagonalNormalGuide, prior=StandardNormalPrior, **options):
    return VAE(prior(2), BernoulliLikelihood(2, (D,), net=small), guide((D,), 2, net=small, **options))


def vamp_vae():
    guide = DiagonalNormalGuide((D,), 2, net=small)
    return VAE(VampPrior(guide, num_components=3), BernoulliLikelihood(2, (D,), net=small), guide)


def hierarchy(skip, conditional=DiagonalNormalGuide):
    likelihood = BernoulliLikelihood(3 + 2 * skip, (D,), net=small)
    top = DiagonalNormalGuide((D,), 2, net=small)
    guide = TopDownGuide([DiagonalNormalGuide((D,), 3, net=context(2)), top])
    if not skip:
        guide = BottomUpGuide([DiagonalNormalGuide((D,), 3, net=small), DiagonalNormalGuide((3,), 2, net=small)])
    below = conditional((2,), 3, net=small)
    return HierarchicalVAE(StandardNormalPrior(2), [below], likelihood, guide, skip=skip)


def m2(dim=D):
    likelihood = NormalLikelihood(2, (dim,), net=context(3), scale=1.0)
    guide = DiagonalNormalGuide((dim,), 2, net=context(3))
    return SemiSupervisedVAE(StandardNormalPrior(2), likelihood, guide, CategoricalGuide((dim,), 3, net=small))


def auxiliary(cls, decoder, auxiliary_model):
    guide, classifier = DiagonalNormalGuide((D,), 2, net=context((3, 4))), CategoricalGuide((D,), 3, net=context(4))
    q = DiagonalNormalGuide((D,), 4, net=small)
    likelihood = BernoulliLikelihood(2, (D,), net=context(decoder))
    return cls(StandardNormalPrior(2), likelihood, guide, classifier, q, auxiliary_model())


def plain():
    """A pair of Pyro functions, with latents of two names."""
    encoder, decoder = nn.Linear(D, 2), nn.Linear(2, D)

    def model(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("pixels", Normal(decoder(u), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("u", Normal(encoder(x), 0.3).to_event(1))

    return SimpleNamespace(model=model, guide=guide)


MODELS = {
    "diagonal": (vae_of, None),
    "IAF": (partial(vae_of, IAFGuide, hidden=(6,), context_dim=3), None),
    "auxiliary": (partial(vae_of, AuxiliaryGuide, hidden=(6,)), None),
    "HMC": (partial(vae_of, HMCGuide, hidden=(6,), num_steps=2), None),
    "semi-amortized": (lambda: vae_of(lambda s, n, net: SemiAmortizedGuide(s, n, num_steps=2)), None),
    "mixture prior": (partial(vae_of, prior=MixtureOfNormalsPrior), None),
    "flow prior": (partial(vae_of, MixtureOfNormalsGuide, FlowPrior), None),
    "VampPrior": (vamp_vae, None),
    "layer 1": (partial(hierarchy, False), None),
    "layer 2": (partial(hierarchy, False), "z2"),
    "layer 1, skip": (partial(hierarchy, True), "z1"),
    "layer 2, skip": (partial(hierarchy, True), "z2"),
    "M2": (m2, None),
    "style of M1+M2": (lambda: StackedVAE(LinearGaussian(3, D).vae, m2(3)), "z"),
    "latent of M1+M2": (lambda: StackedVAE(LinearGaussian(3, D).vae, m2(3)), "z1"),
    "ADGM": (lambda: auxiliary(ADGM, 3, lambda: DiagonalNormalGuide((D,), 4, net=context((3, 2)))), None),
    "SDGM": (lambda: auxiliary(SDGM, (3, 4), lambda: DiagonalNormalGuide((2,), 4, net=context(3))), None),
    "functions": (plain, None),
}


@pytest.fixture(params=MODELS)
def space(request):
    build, site = MODELS[request.param]
    return LatentSpace(build(), site, num_samples=20)


# all models


def test_the_ends_of_a_path_are_the_reconstructions_to_the_last_bit(space) -> None:
    a, b = torch.rand(2, 2, D).bernoulli()
    start, end = (reconstruct(space, x) for x in (a, b))
    for path in ("lerp", "slerp", "geodesic"):
        result = interpolate(space, a, b, num=4, path=path, num_segments=3)
        assert torch.equal(result.means[:, 0], start.means)
        assert torch.equal(result.means[:, -1], end.means)
        assert torch.equal(result.z[:, 0], start.codes.z)
        assert torch.equal(result.z[:, -1], end.codes.z)
        assert result.means.shape == (2, 4, D)
        assert not result.means.requires_grad


def test_adding_a_vector_and_subtracting_it_gives_the_image_back(space) -> None:
    a, b, c = torch.rand(3, 4, D).bernoulli()
    vector = torch.randn(reconstruct(space, a).codes.z.shape[1])
    there = edit(space, a, vector, 1.5)
    back = edit(space, there.codes, vector, -1.5)
    torch.testing.assert_close(back.means, reconstruct(space, a).means, rtol=1e-12, atol=1e-12)
    assert (there.codes.z - back.codes.z - 1.5 * vector).abs().max() < 1e-12
    same = analogy(space, a, a, c)
    torch.testing.assert_close(same.means, reconstruct(space, c).means, rtol=1e-12, atol=1e-12)
    assert (analogy(space, a, b, c).codes.z - same.codes.z - (nz(space, b) - nz(space, a))).abs().max() < 1e-12


def nz(space, x):
    return reconstruct(space, x).codes.z


def test_a_traversal_varies_one_dimension(space) -> None:
    x, data = torch.rand(2, D).bernoulli(), torch.rand(30, D).bernoulli()
    result = traverse(space, x, data, dims=[1, 0], num=3)
    codes = reconstruct(space, x).codes
    moved = codes.z.clone()
    moved[:, 1] = result.values[0, 2]
    expected = edit(space, codes.at(moved), torch.zeros(codes.z.shape[1]))
    torch.testing.assert_close(result.means[:, 0, 2], expected.means, rtol=1e-12, atol=1e-12)
    assert (result.values.diff(dim=1) > 0).all()


def test_neighbours_are_found_in_order(space, request) -> None:
    data = torch.rand(12, D)
    found = nearest(space, data[:3], data, num=4)
    assert (found.distances.diff(dim=1) >= 0).all()
    if request.node.callspec.params["space"] not in ("IAF", "auxiliary", "HMC", "semi-amortized"):  # sampled moments
        assert found.indices[:, 0].tolist() == [0, 1, 2]
        assert (found.distances[:, 0] < 1e-6).all()


# what a code is


def test_a_hierarchy_decodes_a_layer_through_the_means_of_those_below() -> None:
    vae, x = hierarchy(skip=False), torch.rand(4, D)
    below = vae.guide.layers[0].posterior(x).mean
    top = vae.guide.layers[1].posterior(below).mean
    torch.testing.assert_close(reconstruct(vae, x).means, vae.model.likelihood(below).mean)
    result = reconstruct(LatentSpace(vae, "z2"), x)
    torch.testing.assert_close(result.codes.z, top)
    conditional = vae.model.conditionals[0].posterior(top).mean
    torch.testing.assert_close(result.means, vae.model.likelihood(conditional).mean)


def test_m2_holds_the_class_and_interpolates_between_classes() -> None:
    case = MixtureOfLinearGaussians()
    x, _ = case.data(40)
    y = case.vae.classify(x).argmax(-1)
    a, b = x[(y == 0).nonzero()[0]], x[(y == 1).nonzero()[0]]
    for known in (None, torch.tensor([2])):
        result = interpolate(case.vae, a if known is None else (a, known), b, num=3)
        first = 0 if known is None else 2
        z = [case.vae.guide.guide.posterior(v, torch.eye(3)[[c]]).mean for v, c in ((a, first), (b, 1))]
        middle = (torch.eye(3)[[first]] + torch.eye(3)[[1]]) / 2
        torch.testing.assert_close(result.z[:, 1], sum(z) / 2)
        torch.testing.assert_close(result.means[:, 1], case.vae.likelihood(sum(z) / 2, middle).mean)


def test_a_linear_gaussian_model_is_exact(exact) -> None:
    x = exact.data(6)
    mean = exact.posterior_mean(x)
    torch.testing.assert_close(reconstruct(exact.vae, x).means, mean @ exact.weight.T + exact.bias)
    result = interpolate(exact.vae, x[:3], x[3:], num=5, path="prior")
    u = torch.lerp(*(torch.special.ndtr(m) for m in (mean[:3], mean[3:])), 0.25)
    torch.testing.assert_close(result.z[:, 1], torch.special.ndtri(u))
    vector = torch.tensor([1.0, -2.0, 0.5])
    change = edit(exact.vae, x, vector, 2.0).means - reconstruct(exact.vae, x).means
    torch.testing.assert_close(change, (2 * exact.weight @ vector).expand_as(change))
    shift = torch.randn(7)
    gain = exact.posterior_mean(x + shift) - mean
    torch.testing.assert_close(synthetic_vector(exact.vae, x, lambda images: images + shift), gain[0])


def test_means_without_a_closed_form_are_estimated(exact) -> None:
    vae, x = vae_of(IAFGuide, hidden=(6,), context_dim=3), torch.rand(3, D)
    mean = vae.encode(x).sample((20_000,)).mean(0)
    with LatentSpace(vae, num_samples=5000) as space:
        codes, q = space.posterior(x)
    error = q.sample((2000,)).std(0) * math.sqrt(1 / 5000 + 1 / 20_000)
    assert ((codes.z - mean).abs() / error).max() < 4.5


def test_arguments_of_a_conditional_model_go_along() -> None:
    decoder = nn.Linear(3, D)

    def model(x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", Normal(decoder(torch.cat([z, c], -1)), 1.0).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x[:, :2] + c, 0.3).to_event(1))

    a, b, c, d = torch.rand(3, D), torch.rand(3, D), torch.rand(3, 1), torch.rand(3, 1)
    result = interpolate(SimpleNamespace(model=model, guide=guide), (a, c), (b, d), num=5)
    z = torch.lerp(a[:, :2] + c, b[:, :2] + d, 0.25)
    torch.testing.assert_close(result.means[:, 1], decoder(torch.cat([z, torch.lerp(c, d, 0.25)], -1)))


def test_estimated_means_of_layers_below_are_repeatable() -> None:
    space = LatentSpace(hierarchy(False, partial(IAFGuide, hidden=(6,), context_dim=3)), "z2", num_samples=20)
    a, b = torch.rand(2, 2, D)
    assert torch.equal(interpolate(space, a, b, num=3).means[:, -1], reconstruct(space, b).means)
    with pytest.raises(ValueError, match=r"^interpolate: path='geodesic' needs a decoder differentiable in z"):
        interpolate(space, a, b, path="geodesic")


# paths


def test_the_spherical_path_turns_evenly_and_its_norm_is_linear() -> None:
    a, b = torch.randn(2, 50, 7)
    t = torch.linspace(0, 1, 9)
    z = slerp(a, 3 * b, t)
    expected = torch.lerp(a.norm(dim=-1)[:, None], 3 * b.norm(dim=-1)[:, None], t)
    torch.testing.assert_close(z.norm(dim=-1), expected)
    unit = z / z.norm(dim=-1, keepdim=True)
    angles = (unit[:, 1:] * unit[:, :-1]).sum(-1).acos()
    torch.testing.assert_close(angles, angles[:, :1].expand_as(angles), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slerp(a, 2 * a, t), torch.lerp(a[:, None], 2 * a[:, None], t[:, None]))
    torch.testing.assert_close(slerp(0 * a, b, t), t[:, None] * b[:, None])
    with pytest.raises(ValueError, match=r"^slerp: codes must not point in opposite directions, got 3.14"):
        slerp(a, -2 * a, t)


def test_the_path_through_the_quantiles_is_finite_far_from_the_prior() -> None:
    a, b = torch.tensor([[-10.0, 20.0, -3.0]]), torch.tensor([[-12.0, 15.0, 40.0]])
    prior = Normal(torch.zeros(1, 3), 2.0).to_event(1)
    t = torch.linspace(0, 1, 5)
    z = prior_path("test", [prior, prior], a, b, t)[0]  # (T, L)
    x = scipy.stats.norm.ppf(0.75 * scipy.stats.norm.cdf(-5) + 0.25 * scipy.stats.norm.cdf(-6))
    y = scipy.stats.norm.isf(0.75 * scipy.stats.norm.sf(10) + 0.25 * scipy.stats.norm.sf(7.5))
    assert z[1, :2].tolist() == pytest.approx([2 * x, 2 * y], rel=1e-9)
    assert z.isfinite().all()
    assert (z[:, 2].diff() > 0).all()
    torch.testing.assert_close(prior_path("test", [prior, prior], -a, -b, t)[0], -z)


def test_a_lattice_spans_between_its_anchors(space) -> None:
    x = torch.rand(6, D).bernoulli()
    images = lattice(space, x, columns=3, between=1, path="lerp")
    assert images.shape == (3, 5, D)
    codes = reconstruct(space, x).codes
    torch.testing.assert_close(images[::2, ::2].flatten(0, 1), reconstruct(space, x).means, rtol=1e-12, atol=1e-12)
    inner = interpolate(space, codes[[1, 4]], codes[[2, 5]], num=3)  # of the second gap in both rows
    torch.testing.assert_close(images[::2, 3], inner.means[:, 1], rtol=1e-12, atol=1e-12)
    ends = [codes[[i]].towards(codes[[i + 1]], 0.5, codes.z[[i, i + 1]].mean(0, keepdim=True)) for i in (1, 4)]
    torch.testing.assert_close(images[1, 3], interpolate(space, *ends, num=3).means[0, 1], rtol=1e-12, atol=1e-12)


class Surface(nn.Module):
    """A surface in space, as the decoder's network."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.ones(()))

    def forward(self, z):
        u, v = z.unbind(-1)
        if self.kind == "sphere":  # polar angle and longitude
            return self.weight * torch.stack([u.sin() * v.cos(), u.sin() * v.sin(), u.cos()], -1)
        return self.weight * torch.stack([u, v, (u.square() + v.square()) / 2], -1)


def surface(kind):
    likelihood = NormalLikelihood(2, (3,), net=lambda *_: Surface(kind), scale=1.0)
    return VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide((3,), 2, net=small))


def at(*rows):
    return Codes(torch.tensor(rows), {}, (torch.zeros(len(rows), 3),))


def test_geodesics_on_a_sphere_are_great_circles() -> None:
    vae, num = surface("sphere"), 9
    a, b = at((0.4, 0.1), (0.6, 0.0), (1.2, -1.0)), at((1.3, 2.4), (0.6, 2.8), (1.2, -1.0))
    result = interpolate(vae, a, b, path="geodesic", num=num, num_segments=48)
    start, end = result.means[:, 0], result.means[:, -1]
    circle = slerp(start, end, result.fractions)
    assert (result.means - circle).abs().max() < 2e-4  # the polygon has 48 sides
    angle = (start * end).sum(-1).clamp(-1, 1).acos()
    assert (result.lengths - 2 * (num - 1) * (angle / (num - 1) / 2).sin()).abs().max() < 1e-4


def test_a_geodesic_on_a_paraboloid_solves_the_geodesic_equation() -> None:
    vae = surface("paraboloid")

    def equation(_, y):  # of the height h = (u^2 + v^2) / 2: z'' = -z |z'|^2 / (1 + |z|^2)
        acceleration = -y[:2] * (y[2:] ** 2).sum(0) / (1 + (y[:2] ** 2).sum(0))
        return np.concatenate([y[2:], acceleration])

    solution = scipy.integrate.solve_ivp(
        equation, (0, 1), [-1.2, -0.8, 2.2, -0.4], t_eval=np.linspace(0, 1, 9), rtol=1e-10, atol=1e-12
    )
    exact = torch.from_numpy(solution.y[:2].T)
    a, b = (at(tuple(exact[i].tolist())) for i in (0, -1))
    result = interpolate(vae, a, b, path="geodesic", num=9, num_segments=64)
    assert (exact - torch.lerp(exact[:1], exact[-1:], result.fractions[:, None])).abs().max() > 0.3  # it is bent
    assert (result.z[0] - exact).abs().max() < 5e-5
    finer = interpolate(vae, a, b, path="geodesic", num=9, num_segments=128)
    assert (finer.z[0] - exact).abs().max() < 0.3 * (result.z[0] - exact).abs().max()  # of second order


def test_the_geodesic_of_a_linear_decoder_is_straight(exact) -> None:
    x = exact.data(6)
    bent, straight = (interpolate(exact.vae, x[:3], x[3:], path=path) for path in ("geodesic", "lerp"))
    torch.testing.assert_close(bent.z, straight.z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_geodesic_is_no_longer_than_the_straight_path(dtype) -> None:
    vae = VAE(
        StandardNormalPrior(4),
        BernoulliLikelihood(4, (9,), net=partial(MLP, hidden=(20,))),
        DiagonalNormalGuide((9,), 4),
    )
    with torch.no_grad():
        for p in vae.likelihood.parameters():
            p.mul_(4)
    vae, a, b = vae.to(dtype), *torch.rand(2, 6, 9, dtype=dtype).mul(5)
    bent, straight = (interpolate(vae, a, b, path=path, num=33) for path in ("geodesic", "lerp"))
    assert (bent.lengths <= straight.lengths * (1 + 1e-5)).all()
    assert (bent.lengths < 0.97 * straight.lengths).any()
    assert bent.means.dtype == dtype
    speed = bent.means.diff(dim=1).norm(dim=-1)
    assert (speed / speed.mean(1, keepdim=True) - 1).abs().max() < 0.02  # constant


def test_where_no_shorter_path_is_found_the_straight_one_is_returned(exact, monkeypatch) -> None:
    monkeypatch.setattr("pyro_vae.latents.geodesic._least_energy", lambda *args: torch.ones_like(args[-1]))
    a, b = exact.data(2)[:, None]
    bent, straight = (interpolate(exact.vae, a, b, path=path, num=5) for path in ("geodesic", "lerp"))
    torch.testing.assert_close(bent.z, straight.z)


# the aggregate posterior


@pytest.mark.parametrize("guide", [DiagonalNormalGuide, FullRankNormalGuide, MixtureOfNormalsGuide])
def test_quantiles_are_those_of_the_aggregate_posterior(guide) -> None:
    vae, data = vae_of(guide), torch.rand(17, D).mul(9)
    result = traverse(LatentSpace(vae, batch_size=7), data[:1], data, dims=[0, 1], num=5, coverage=0.999)
    torch.testing.assert_close(result.levels, torch.tensor([0.0005, 0.25025, 0.5, 0.74975, 0.9995]))
    q = vae.encode(data)
    draws = q.sample((4000,))  # as many of each datum
    for j in (0, 1):
        share = (draws[..., j, None] < result.values[j]).double().mean((0, 1))
        error = (result.levels * (1 - result.levels) / draws[..., 0].numel()).sqrt()
        assert ((share - result.levels) / error).abs().max() < 4.5
    if guide is DiagonalNormalGuide:
        loc, scale = (p[:, 1].detach().numpy() for p in (q.base_dist.loc, q.base_dist.scale))
        for level, value in zip(result.levels.tolist(), result.values[1].tolist(), strict=True):
            root = scipy.optimize.brentq(lambda z, u=level: scipy.stats.norm.cdf(z, loc, scale).mean() - u, -99, 99)
            assert value == pytest.approx(root, abs=1e-9)


def test_quantiles_of_a_flow_are_those_of_samples() -> None:
    vae, data = vae_of(IAFGuide, hidden=(6,), context_dim=3), torch.rand(40, D)
    result = traverse(vae, data[:1], data, dims=[0], num=3, coverage=0.5)
    assert result.kl is None
    draws = vae.encode(data).sample((2000,))[..., 0]
    share = (draws[..., None] < result.values[0]).double().mean((0, 1))
    error = (result.levels * (1 - result.levels) / (40 * 100)).sqrt()
    assert ((share - result.levels) / error).abs().max() < 4.5


def test_traversed_dimensions_are_the_active_ones_in_the_order_of_their_kl() -> None:
    case = LinearGaussian(4, 9)
    layer = case.vae.guide.net.layers[0]
    with torch.no_grad():
        layer.weight[1] = 0.0  # an inactive unit of large KL
        layer.bias[1] = 3.0
        layer.bias[0] += 1.5  # more KL, as much activity
    data = case.data(200)
    diagnostics = latent_diagnostics(case.vae, data, num_decomposed=0)
    result = traverse(case.vae, data[:2], data, num=3)
    order = diagnostics.kl.argsort(descending=True).tolist()
    assert order[0] == 1
    assert result.dims == order[1:] != diagnostics.activity.argsort(descending=True).tolist()[:3]
    torch.testing.assert_close(result.kl, diagnostics.kl[result.dims])
    with LatentSpace(case.vae, batch_size=70) as space:
        marginals = aggregate_marginals(space, data)
    torch.testing.assert_close(marginals.activity, diagnostics.activity)
    torch.testing.assert_close(marginals.kl, diagnostics.kl)


# attributes


class First(nn.Module):
    """(loc, log scale) = (the first two entries of x, -1)."""

    def forward(self, x):
        return torch.stack([x[..., :2], -torch.ones_like(x[..., :2])], -2)


def identity_vae():
    guide = DiagonalNormalGuide((D,), 2, net=lambda *_: First())
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (D,), net=small), guide)


def test_a_balanced_vector_is_free_of_a_correlated_attribute() -> None:
    labels = torch.tensor([[1, 1]] * 30 + [[0, 0]] * 20 + [[1, 0]] * 3 + [[0, 1]] * 2)
    truth = torch.tensor([[2.0, 0.3], [-0.5, 1.0]])
    x = torch.cat([labels.double() @ truth, torch.zeros(len(labels), D - 2)], 1)
    vae = identity_vae()
    torch.testing.assert_close(attribute_vector(vae, x, labels), truth)
    plain_vector = attribute_vector(vae, x, labels[:, 0])
    torch.testing.assert_close(plain_vector, truth[0] + (30 / 33 - 2 / 22) * truth[1])
    torch.testing.assert_close(attribute_vector(vae, x, labels, balance=False)[0], plain_vector)
    with pytest.raises(
        ValueError, match=r"^attribute_vector: attribute 0 must vary within a combination of the others"
    ):
        attribute_vector(vae, x[:50], labels[:50])


def principal_components(x, latent_dim):
    """Probabilistic principal components at the maximum of their likelihood (Tipping and Bishop, 1999, eq. 7 and 8)."""
    variances, directions = (values.flip(-1) for values in torch.linalg.eigh(x.mT.cov(correction=0)))
    case = LinearGaussian(latent_dim, x.shape[1], scale=variances[latent_dim:].mean().sqrt().item())
    case.weight = directions[:, :latent_dim] * (variances[:latent_dim] - case.scale**2).sqrt()
    case.bias = x.mean(0)
    case._set_model()
    case._set_guide(1.0, 0.0)
    return case


def test_the_glasses_vector_changes_glasses_alone() -> None:
    """Drawn faces: a ridge regressor of the factors from pixels reads the faces before and after the edit."""
    data = Faces(count=1200, size=16)
    splits, glasses = data.load(), list(data.factors).index("glasses")
    x, faces = (images.batch(slice(None)).double().flatten(1) for images in (splits.train, splits.test))
    y = torch.stack(list(data.factors.values()), -1)[splits.train.rows].double()  # (N, 6)
    case = principal_components(x, 20)
    vectors = attribute_vector(case.vae, x, y > torch.tensor([0.0, 0.0, 0.5, 0.5, 0.0, 0.0]))
    pixels = torch.cat([x, torch.ones(len(x), 1)], 1)
    regressor = torch.linalg.solve(pixels.mT @ pixels + 0.1 * torch.eye(257), pixels.mT @ y)[:-1]
    difference = edit(case.vae, faces, vectors[glasses]).means - reconstruct(case.vae, faces).means
    change = difference @ regressor
    assert (change[:, glasses] > 0.7).all()
    assert change[:, torch.arange(6) != glasses].abs().max() < 0.1
    worn = y[:, glasses] == 1
    exact = case.posterior_mean(x[worn].mean(0)) - case.posterior_mean(x[~worn].mean(0))
    torch.testing.assert_close(attribute_vector(case.vae, x, worn), exact, rtol=1e-9, atol=1e-9)


def test_the_area_under_the_curve_is_the_share_of_ordered_pairs() -> None:
    z, labels, vector = torch.randn(40, 2).round(decimals=1), torch.arange(40) % 3 == 0, torch.tensor([1.0, -0.5])
    x = torch.cat([z, torch.zeros(40, D - 2)], 1)
    products = z @ vector
    differences = products[labels, None] - products[~labels]
    expected = ((differences > 0).double() + 0.5 * (differences == 0)).mean()
    assert attribute_auroc(identity_vae(), x, labels, vector) == pytest.approx(float(expected), abs=1e-12)
    assert attribute_auroc(identity_vae(), x, ~labels, -vector) == pytest.approx(float(expected), abs=1e-12)


# neighbours


def test_distances_are_those_of_normals() -> None:
    x, data = torch.rand(2, D).mul(4), torch.rand(6, D).mul(4)
    for guide in (DiagonalNormalGuide, FullRankNormalGuide):
        vae = vae_of(guide)
        found, p, q = nearest(LatentSpace(vae, batch_size=4), x, data, num=6), vae.encode(x), vae.encode(data)
        for row in range(2):
            for column, index in enumerate(found.indices[row].tolist()):
                roots = [covariance(d, i) for d, i in ((p, row), (q, index))]
                cross = scipy.linalg.sqrtm(scipy.linalg.sqrtm(roots[0]) @ roots[1] @ scipy.linalg.sqrtm(roots[0])).real
                squared = (p.mean[row] - q.mean[index]).square().sum().item() + np.trace(
                    roots[0] + roots[1] - 2 * cross
                )
                assert found.distances[row, column].item() == pytest.approx(math.sqrt(squared), abs=1e-7)


def covariance(q, row):
    if isinstance(q, torch.distributions.Independent):
        return torch.diag(q.variance[row]).detach().numpy()
    return q.covariance_matrix[row].detach().numpy()


def test_a_datum_is_its_own_nearest_neighbour(exact) -> None:
    x = exact.data(30)
    found = nearest(exact.vae, x[5:9], x, num=2)
    assert found.indices[:, 0].tolist() == [5, 6, 7, 8]
    assert (found.distances[:, 0] == 0).all()
    means = exact.posterior_mean(x)
    torch.testing.assert_close(found.distances[:, 1], (means[5:9] - means[found.indices[:, 1]]).norm(dim=-1))


# state, refusals


def test_modes_gradients_and_random_numbers_are_restored() -> None:
    vae, x = vae_of(IAFGuide, hidden=(6,), context_dim=3), torch.rand(4, D)
    vae.train()
    vae.likelihood.eval()
    modes = [m.training for m in vae.modules()]
    before, state = copy.deepcopy(vae.state_dict()), torch.get_rng_state()
    results = [interpolate(vae, x[:2], x[2:], path="geodesic", num=3).means for _ in range(2)]
    assert torch.equal(*results)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in vae.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert len(pyro.get_param_store()) == 0
    with LatentSpace(vae, seed=1) as space:
        other = interpolate(space, x[:2], x[2:], num=3).means  # enters the space again
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert [m.training for m in vae.modules()] == modes
    assert not torch.equal(other, interpolate(vae, x[:2], x[2:], num=3).means)


def discrete_vae():
    return VAE(CategoricalPrior(6, categories=3), BernoulliLikelihood(6, (D,)), CategoricalGuide((D,), 6, categories=3))


class Detached(MLP):
    def forward(self, x):
        return super().forward(x).detach()


X = torch.zeros(3, D, dtype=torch.float64)
REFUSED = {
    "discrete": (
        lambda: reconstruct(discrete_vae(), X),
        "LatentSpace: the latent must be continuous, got the discrete z",
    ),
    "no decoder": (
        lambda: reconstruct(nn.Linear(2, 2), X),
        "LatentSpace: vae must have a model and a guide, got Linear",
    ),
    "no data": (
        lambda: reconstruct(SimpleNamespace(model=lambda x: plain().guide(x), guide=plain().guide), X),
        "LatentSpace: the model must have one data site, got none",
    ),
    "site": (
        lambda: reconstruct(LatentSpace(hierarchy(skip=True), "z3"), X),
        r"LatentSpace: site must be a latent of the guide \(z2, z1\), got site='z3'",
    ),
    "model": (
        lambda: reconstruct(SimpleNamespace(model=lambda x: None, guide=plain().guide), X),
        r"LatentSpace: site must be a latent of the model \(none\), got site='u'",
    ),
    "scalar": (
        lambda: reconstruct(SimpleNamespace(model=lambda x: x, guide=scalar), X),
        r"LatentSpace: the latent must be a vector for each datum, got z with batch shape \(3,\) and event shape \(\)",
    ),
    "mixture prior": (
        lambda: interpolate(vae_of(prior=MixtureOfNormalsPrior), X, X, path="prior"),
        "interpolate: path='prior' needs a prior of independent normal .*got MixtureOfNormals. Use path='lerp'",
    ),
    "Laplace prior": (
        lambda: interpolate(vae_of(prior=LaplacePrior), X, X, path="prior"),
        "interpolate: path='prior' needs a prior of independent normal .*got Laplace. Use path='lerp'",
    ),
    "lower layer": (
        lambda: interpolate(hierarchy(skip=True), X, X + 1, path="prior"),
        "interpolate: path='prior' needs .*, got one that depends on other latents",
    ),
    "no derivative": (
        lambda: interpolate(
            VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (D,), net=Detached), DiagonalNormalGuide((D,), 2)),
            *(X, X + 1),
            path="geodesic",
        ),
        "interpolate: path='geodesic' needs a decoder differentiable in z.*Use path='lerp'",
    ),
    "path": (lambda: interpolate(vae_of(), X, X, path="straight"), "interpolate: path must be one of 'lerp'"),
    "num": (lambda: interpolate(vae_of(), X, X, num=1), "interpolate: num must be at least 2"),
    "kind": (lambda: interpolate(vae_of(), [1.0], X), "LatentSpace: data must be tensors, got list. Pass batch"),
    "sizes": (lambda: interpolate(vae_of(), X, X[:1]), "interpolate: a and b must be equally many, got 3 and 1"),
    "analogy": (lambda: analogy(vae_of(), X, X, X[:2]), "analogy: a, b and c must be equally many, got 3, 3, 2"),
    "active": (lambda: traverse(vae_of(), X, X), "traverse: there must be dimensions to vary, got no active one"),
    "dims": (lambda: traverse(vae_of(), X, X, dims=[2]), r"traverse: dims must lie in 0..1, got dims=\[2\]"),
    "coverage": (lambda: traverse(vae_of(), X, X, coverage=1.0), "traverse: coverage must lie between 0 and 1"),
    "vector": (lambda: edit(vae_of(), X, torch.zeros(3)), r"edit: vector must have shape \(2,\)"),
    "amount": (lambda: edit(vae_of(), X, torch.zeros(2), math.inf), "edit: amount must be finite, got amount=inf"),
    "labels": (
        lambda: attribute_vector(vae_of(), X, torch.arange(3)),
        r"attribute_vector: labels must be 0 and 1, \(3,\) or \(3, A\)",
    ),
    "one value": (
        lambda: attribute_vector(vae_of(), X, torch.ones(3)),
        r"attribute_vector: images with and without the attribute are needed, got equal labels of attributes \[0\]",
    ),
    "transform": (
        lambda: synthetic_vector(vae_of(), X, lambda x: x[:, :2]),
        "synthetic_vector: transformed images must have shape",
    ),
    "lattice": (lambda: lattice(vae_of(), X, columns=2), "lattice: anchors must fill rows of 2, got 3 anchors"),
    "neighbours": (lambda: nearest(vae_of(), X, X, num=4), "nearest: num must be at most the number of data, 3"),
}


def scalar(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(x.mean(-1), 1.0))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_possible_is_refused_with_what_to_use(case) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"(?s)^{message}"):
        call()

"""Several layers of latents: exact on a linear-Gaussian chain, for every direction of the guide."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae import fit, log_likelihood, log_weights, objectives
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.models import BottomUpGuide, HierarchicalVAE, LadderGuide, TopDownGuide
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.priors import StandardNormalPrior, VampPrior
from tests.test_engines import assert_agrees, engine_of

linear = partial(MLP, hidden=())
A, TAU, SIGMA = 0.8, 0.6, 0.7  # p(z1 | z2) = N(A z2, TAU^2), p(x | z1) = N(w z1 + b, SIGMA^2)
W, BIAS = torch.tensor([0.5, -1.2, 0.9], dtype=torch.float64), torch.tensor([0.1, -0.3, 0.7], dtype=torch.float64)
V1 = TAU**2 + A**2  # variance of z1
PRECISION = float(W.square().sum() / SIGMA**2)  # of p(x | z1) as a normal in z1


class Affine(nn.Module):
    """(loc, log scale) linear in x, and in the context if there is one."""

    def __init__(self, weight, variance, bias=0.0, context=0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight).reshape(-1).clone())
        self.bias, self.context = nn.Parameter(torch.tensor(float(bias))), nn.Parameter(torch.tensor(float(context)))
        self.log_scale = nn.Parameter(torch.tensor(0.5 * math.log(variance)))

    def forward(self, x, *context):
        loc = x @ self.weight + self.bias + sum(self.context * c[..., 0] for c in context)
        return torch.stack([loc, self.log_scale.expand(loc.shape)], -1).unsqueeze(-1)  # (*batch, 2, 1)


def conditional(dim, weight, variance, bias=0.0, context=0.0):
    return DiagonalNormalGuide((dim,), 1, net=Affine(weight, variance, bias, context))


def toward(variance):
    """(weight, bias) of the mean of z1 given x, where z1 has that prior variance and mean 0."""
    gain = W / SIGMA**2 / (PRECISION + 1 / variance)
    return gain, -float(gain @ BIAS)


def exact_guide(kind):
    """Each is the exact posterior of the chain."""
    weight, bias = toward(V1)
    v1 = 1 / (PRECISION + 1 / V1)
    slope = A / V1  # E[z2 | z1]
    q1, q2_given_1 = conditional(3, weight, v1, bias), conditional(1, [slope], 1 - slope * A)
    if kind == "bottom-up":
        return BottomUpGuide([q1, q2_given_1])
    q2 = conditional(3, slope * weight, 1 - slope * A + slope**2 * v1, slope * bias)
    if kind == "ladder":
        factor = conditional(3, W / SIGMA**2 / PRECISION, 1 / PRECISION, -float(W @ BIAS) / SIGMA**2 / PRECISION)
        identity = [linear((3,), (3,)) for _ in range(2)]
        with torch.no_grad():
            for net in identity:
                net.layers[0].weight.copy_(torch.eye(3))
        return LadderGuide([factor, q2], identity)
    weight, bias = toward(TAU**2)
    v = 1 / (PRECISION + TAU**-2)
    return TopDownGuide([conditional(3, weight, v, bias, context=v * A / TAU**2), q2])


def chain(guide) -> HierarchicalVAE:
    likelihood = NormalLikelihood(1, (3,), net=linear, scale=SIGMA)
    with torch.no_grad():
        likelihood.net.layers[0].weight.copy_(W.unsqueeze(-1))
        likelihood.net.layers[0].bias.copy_(BIAS)
    return HierarchicalVAE(StandardNormalPrior(1), [conditional(1, [A], TAU**2)], likelihood, guide)


def log_prob(x):
    return MultivariateNormal(BIAS, V1 * torch.outer(W, W) + SIGMA**2 * torch.eye(3)).log_prob(x)


KINDS = ["bottom-up", "top-down", "ladder"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_the_evidence_under_the_exact_posterior(kind) -> None:
    vae = chain(exact_guide(kind))
    x = vae.sample(6)
    weights = log_weights(vae.model, vae.guide, x, 5)
    torch.testing.assert_close(weights, log_prob(x).expand(5, 6), rtol=0, atol=1e-9)
    assert abs(Trace_ELBO().loss(vae.model, vae.guide, x) + log_prob(x).sum()) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_agrees_under_a_wide_guide(kind) -> None:
    vae = chain(exact_guide(kind))
    with torch.no_grad():
        for layer in vae.guide.layers:
            layer.net.log_scale += math.log(1.4)
    x = vae.sample(40)
    result = log_likelihood(vae.model, vae.guide, x, num_samples=2000)
    z = (result.log_likelihood - log_prob(x)) / result.standard_error
    assert z.abs().max() < 4.5


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")  # Pyro warns before the error is raised
def test_the_order_of_the_sites_decides_on_the_analytic_kl() -> None:
    x = torch.randn(4, 3)
    down, up = chain(exact_guide("top-down")), chain(exact_guide("bottom-up"))
    loss = objectives.MeanFieldELBO(num_particles=4000).loss(down.model, down.guide, x)
    assert abs(loss + log_prob(x).sum()) < 0.2
    with pytest.raises(ValueError, match=r"^MeanFieldELBO: model and guide must sample their sites in the same order"):
        objectives.MeanFieldELBO().loss(up.model, up.guide, x)


def three_layers(skip: bool, top=None) -> HierarchicalVAE:
    net = partial(MLP, hidden=(6,))
    context = partial(ContextNetwork, net=net, hidden=(5,))
    dims, shape = (4, 3, 2), (1, 5, 4)
    layers = [
        DiagonalNormalGuide(shape, dims[0], net=partial(context, context_dim=dims[1])),
        DiagonalNormalGuide(shape, dims[1], net=partial(context, context_dim=dims[2])),
        DiagonalNormalGuide(shape, dims[2], net=net),
    ]
    conditionals = [DiagonalNormalGuide((above,), below, net=net) for below, above in ((4, 3), (3, 2))]
    prior = top(layers[-1]) if top else StandardNormalPrior(2)
    likelihood = BernoulliLikelihood(sum(dims) if skip else dims[0], shape, net=net)
    return HierarchicalVAE(prior, conditionals, likelihood, TopDownGuide(layers), skip=skip)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_three_layers_train_record_and_evaluate(skip, num_particles) -> None:
    vae = three_layers(skip, partial(VampPrior, num_components=3))
    x = vae.sample(7)
    assert x.shape == vae.reconstruct(x).shape == (7, 1, 5, 4)
    objective = objectives.ELBO(num_particles=num_particles)
    parameters = list({id(p): p for p in vae.parameters()}.values())

    def loss():
        return objective.differentiable_loss(vae.model, vae.guide, x)

    gradients = torch.autograd.grad(loss(), parameters)
    assert all(g.isfinite().all() and g.any() for g in gradients)
    before = [p.detach().clone() for p in parameters]
    fit(vae.model, vae.guide, x, epochs=2, batch_size=4, objective=objective, progress=False)
    assert all((p != b).any() for p, b in zip(parameters, before, strict=True))
    assert len(log_likelihood(vae.model, vae.guide, x, num_samples=5)) == 7
    trace = poutine.trace(vae.model).get_trace(x)
    assert [n for n in trace.stochastic_nodes if n != "data"] == ["z3", "z2", "z1"]
    twin = copy.deepcopy(vae)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in parameters}


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_recorded(kind) -> None:
    vae, x = chain(exact_guide(kind)), torch.randn(4, 3)
    engine = engine_of("compiled", objectives.ELBO(num_particles=3), vae.model, vae.guide, (x,))
    assert_agrees(engine, Trace_ELBO(num_particles=3, vectorize_particles=True), (x,))


def test_a_ladder_shares_the_model_s_conditionals_without_owning_them() -> None:
    vae = chain(exact_guide("ladder"))
    names = {name for name, _ in vae.guide.named_parameters()}
    assert names == {n for n in names if n.startswith(("layers", "features"))}
    other = vae.with_guide(exact_guide("top-down"))
    assert other.model.conditionals[0] is vae.model.conditionals[0]
    twin = copy.deepcopy(vae)
    assert twin.guide._conditionals[0] is twin.model.conditionals[0]


def test_mismatched_sizes_raise() -> None:
    d = DiagonalNormalGuide
    prior, likelihood = StandardNormalPrior(2), BernoulliLikelihood(3, (5,))
    up = BottomUpGuide([d((5,), 3), d((3,), 2)])
    for arguments, message in [
        ((prior, [], likelihood, up), "there must be two layers or more"),
        (
            (prior, [d((4,), 3)], likelihood, up),
            r"p\(z1 \| z2\) must take data_shape=\(2,\), the size of the layer above, got",
        ),
        ((prior, [d((2,), 4)], likelihood, up), "the likelihood's latent_dim must be 4"),
        ((prior, [d((2,), 3)], likelihood, BottomUpGuide([d((5,), 3), d((3,), 4)])), "the guide must have layers"),
    ]:
        with pytest.raises(ValueError, match=f"^HierarchicalVAE: {message}"):
            HierarchicalVAE(*arguments)
    with pytest.raises(ValueError, match=r"^BottomUpGuide: every layer must take the latents below it"):
        BottomUpGuide([d((5,), 3), d((5,), 2)])
    with pytest.raises(ValueError, match=r"^TopDownGuide: every layer must take data of shape"):
        TopDownGuide([d((3,), 3), d((5,), 2)])
    with pytest.raises(ValueError, match=r"^LadderGuide: features must be one network per layer"):
        LadderGuide([d((4,), 3), d((3,), 2)], [linear((5,), (4,)), linear((5,), (3,))])
    with pytest.raises(ValueError, match=r"^BottomUpGuide: there must be a layer, got layers=\[\]"):
        BottomUpGuide([])

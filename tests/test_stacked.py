"""M1+M2 against closed forms: a mixture of linear-Gaussian models under a linear-Gaussian VAE."""

import copy
from functools import partial

import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from pyro_vae import VAE, SemiSupervisedVAE, StackedVAE, fit, log_likelihood, objectives
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, FullRankNormalGuide, IAFGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior
from tests.linear_gaussian import LinearGaussian
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians

OBJECTIVES = {
    "summed": lambda: objectives.EnumeratedELBO(num_particles=3),
    "enumerated": lambda: objectives.TraceEnumELBO(num_particles=3),
    "pyro": lambda: TraceEnum_ELBO(max_plate_nesting=1, num_particles=3, vectorize_particles=True),
}


def idle(dim):
    """An M2 of ``dim`` latents under which they are standard normal, with its exact guide."""
    net = partial(ContextNetwork, context_dim=3, net=partial(MLP, hidden=()), hidden=(4,))
    likelihood = NormalLikelihood(2, (dim,), net=net, scale=1.0)
    guide = DiagonalNormalGuide((dim,), 2, net=net)
    classifier = CategoricalGuide((dim,), 3, net=partial(MLP, hidden=()))
    prior = CategoricalPrior(3, learn=True)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([[0.5, -1.0, 0.2]]))
        for parameter in (*likelihood.parameters(), *guide.parameters(), *classifier.parameters()):
            parameter.zero_()
        classifier.net.layers[0].bias.copy_(prior.logits[0])
    return SemiSupervisedVAE(StandardNormalPrior(2), likelihood, guide, classifier, prior)


@pytest.mark.parametrize("active", [None, [2, 0], [1], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_over_an_idle_m2_it_is_m1(exact, objective, active):
    active = None if active is None else torch.tensor(active)
    stack = StackedVAE(exact.vae, idle(3 if active is None else len(active)), active)
    x, y = exact.data(6), torch.tensor([-1, 0, 1, -1, 2, 2])
    log_prior = stack.label_prior.logits[0].log_softmax(-1)
    for args, labels in (((x,), 0.0), ((x, y), torch.where(y >= 0, log_prior[y], 0.0).sum())):
        expected = exact.log_prob(x).sum() + labels
        loss = OBJECTIVES[objective]().loss(stack.model, stack.guide, *args)
        assert abs(loss + expected) < 1e-9
    result = log_likelihood(stack.model, stack.guide, x, num_samples=7, chunk_size=3)
    assert (result.log_likelihood - exact.log_prob(x)).abs().max() < 1e-9


class Case:
    """x = A z1 + b + s eps over the mixture's z1, of which M1 has one dimension more."""

    def __init__(self):
        self.mixture = MixtureOfLinearGaussians(dim=3)
        self.lower = LinearGaussian(latent_dim=4, dim=7, inflate=1.2)
        self.active = torch.tensor([3, 0, 2])
        self.stack = StackedVAE(self.lower.vae, self.mixture.vae, self.active)

    def log_prob(self, x, y=None):
        """log p(x), or log p(x, y)."""
        weight, m = self.lower.weight, self.mixture
        a, rest = weight[:, self.active], weight[:, [1]]
        loc = m.bias @ a.T + self.lower.bias
        noise = rest @ rest.T + self.lower.scale**2 * torch.eye(7)
        covariance = a @ m.covariance() @ a.T + noise
        if y is None:
            return MixtureSameFamily(Categorical(logits=m.logits), MultivariateNormal(loc, covariance)).log_prob(x)
        return m.logits.log_softmax(-1)[y] + MultivariateNormal(loc[y], covariance[y]).log_prob(x)


@pytest.mark.slow
def test_the_log_likelihood_is_the_closed_form():
    case = Case()
    x, y = case.stack.sample(200), torch.arange(200) % 3
    for data, expected in ((x, case.log_prob(x)), ([(x, y)], case.log_prob(x, y))):
        result = log_likelihood(case.stack.model, case.stack.guide, data, num_samples=4000)
        z = (result.log_likelihood - expected) / result.standard_error
        assert z.abs().max() < 4.5
        assert 0.8 < z.std() < 1.2
        assert result.standard_error.mean() < 0.05


def test_samples_of_a_class_have_its_moments():
    case, num = Case(), 40_000
    for c in range(3):
        x = case.stack.sample(y=torch.full((num,), c))
        loc = case.mixture.bias[c] @ case.lower.weight[:, case.active].T + case.lower.bias
        assert ((x.mean(0) - loc) / (x.std(0) / num**0.5)).abs().max() < 4.5


def test_the_class_probabilities_are_means_over_draws():
    case = Case()
    x = case.stack.sample(5)
    probabilities = case.stack.classify(x, num_samples=4000)
    assert (probabilities.sum(-1) - 1).abs().max() < 1e-12
    q = case.lower.vae.encode(x)
    draws = case.mixture.vae.classify(q.sample((4000,))[..., case.active])  # (4000, 5, 3)
    assert ((probabilities - draws.mean(0)) / (draws.std(0) * (2 / 4000) ** 0.5)).abs().max() < 4.5
    assert (
        case.stack.classify(x, num_samples=None) - case.mixture.vae.classify(q.mean[:, case.active])
    ).abs().max() == 0


def test_both_halves_are_shared_not_copied():
    case = Case()
    names = {id(p) for p in case.stack.parameters()}
    assert {id(p) for p in (*case.lower.vae.parameters(), *case.mixture.vae.parameters())} <= names


def test_it_trains_jointly_and_restores_its_state(uncompiled):
    case = Case()
    twin = copy.deepcopy(case.stack)
    x, y = case.stack.sample(30), torch.full((30,), -1)
    y[:6] = torch.arange(6) % 3
    options = {"epochs": 2, "batch_size": 8, "objective": objectives.EnumeratedELBO(), "seed": 3}
    losses = [
        fit(vae.model, vae.guide, [(x, y)], engine=engine, **options).history[-1]["loss"]
        for vae, engine in ((case.stack, "eager"), (twin, "compiled"))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-8)
    fresh = Case().stack
    fresh.load_state_dict(case.stack.state_dict())
    assert torch.equal(fresh.classify(x, num_samples=None), case.stack.classify(x, num_samples=None))


def vae_of(guide, prior=None):
    return VAE(prior or StandardNormalPrior(4), BernoulliLikelihood(4, (5,)), guide((5,), 4))


@pytest.mark.parametrize(
    ("lower", "dim", "active", "message"),
    [
        (DiagonalNormalGuide, 3, None, "M2 must be a model of the 4 active latents, got data_shape=(3,)."),
        (DiagonalNormalGuide, 3, [0, 1], "M2 must be a model of the 2 active latents"),
        (DiagonalNormalGuide, 2, [0, 4], "active must hold distinct positions in 0..3, got active=[0, 4]."),
        (DiagonalNormalGuide, 2, [-1, 2], "active must hold distinct positions in 0..3"),
        (DiagonalNormalGuide, 2, [1, 1], "active must hold distinct positions in 0..3"),
        (DiagonalNormalGuide, 2, [], "active must hold distinct positions in 0..3"),
        (
            FullRankNormalGuide,
            3,
            [0, 1, 2],
            "latents can be left out or reordered for DiagonalNormalGuide and StandardNormalPrior only, got guide=Full",
        ),
        (IAFGuide, 3, [0, 1, 2], "got guide=IAFGuide, prior=StandardNormalPrior. Omit active"),
    ],
)
def test_mismatched_sizes_raise_one_line_errors(lower, dim, active, message):
    active = None if active is None else torch.tensor(active, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^StackedVAE: ") as error:
        StackedVAE(vae_of(lower), idle(dim), active)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_latents_may_be_selected_in_another_order():
    case, order = Case(), torch.tensor([2, 0, 1])
    lower = LinearGaussian(latent_dim=3, dim=7, inflate=1.2)
    stack, x = StackedVAE(lower.vae, case.mixture.vae, order), torch.randn(5, 7)
    expected = case.mixture.vae.classify(lower.vae.encode(x).mean[:, order])
    assert (stack.classify(x, num_samples=None) - expected).abs().max() == 0
    means = torch.stack([stack.sample(y=torch.full((20_000,), c)).mean(0) for c in range(3)])
    loc = case.mixture.bias @ lower.weight[:, order].T + lower.bias
    assert (means - loc).abs().max() < 4.5 * 2.5 / 20_000**0.5  # of standard deviations below 2.5
    with pytest.raises(ValueError, match=r"^StackedVAE: latents can be left out or reordered"):
        StackedVAE(vae_of(IAFGuide), idle(4), torch.tensor([1, 0, 2, 3]))


def test_any_guide_serves_if_all_latents_are_used():
    stack = StackedVAE(vae_of(IAFGuide), idle(4))
    x = torch.rand(3, 5).round()
    assert torch.isfinite(objectives.EnumeratedELBO()(stack.model, stack.guide)(x))

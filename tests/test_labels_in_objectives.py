"""Labels under every objective: the classification term is added exactly once, and sums over classes are exact."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Categorical, Normal, Unit
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.optim import SGD, Adam, AdamW

from pyro_vae import fit, log_weights, objectives
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import NormalLikelihood
from pyro_vae.models import ADGM
from pyro_vae.models.labels import pinned
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import build_engine
from tests.linear_gaussian import LinearGaussian
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians

WEIGHT = 7.0
BOUNDS = {
    "ELBO": lambda: objectives.ELBO(num_particles=3),
    "IWAE": lambda: objectives.IWAE(num_particles=3),
    "Renyi": lambda: objectives.Renyi(num_particles=3, alpha=0.5),
    "StickingTheLanding": lambda: objectives.StickingTheLanding(num_particles=3),
    "DoublyReparameterized": lambda: objectives.DoublyReparameterized(num_particles=3),
    "ReweightedWakeSleep": lambda: objectives.ReweightedWakeSleep(num_particles=3, guide_phase="wake"),
    "VIMCO": lambda: objectives.VIMCO(num_particles=3),
    "ScoreFunction": lambda: objectives.ScoreFunction(num_particles=3, baseline="none"),
    "BetaELBO": lambda: objectives.BetaELBO(beta=0.1, num_particles=3),
    "EnumeratedELBO": lambda: objectives.EnumeratedELBO(num_particles=3),
    "TraceEnumELBO": lambda: objectives.TraceEnumELBO(num_particles=3, beta=0.1),
}
ENUMERATE, DRAW = ("EnumeratedELBO", "TraceEnumELBO"), ("ReweightedWakeSleep", "VIMCO", "ScoreFunction")


def estimator_of(name):
    return "enumerate" if name in ENUMERATE else "score" if name in DRAW else "relaxed"


def adgm(estimator, weight):
    """A classifier that depends on what the guide draws."""
    torch.manual_seed(5)
    net = partial(MLP, hidden=(4,))
    with_ = lambda *dims: partial(ContextNetwork, context_dim=dims, net=net, hidden=(4,))  # noqa: E731
    return ADGM(
        StandardNormalPrior(2),
        NormalLikelihood(2, (5,), net=with_(3)),
        DiagonalNormalGuide((5,), 2, net=with_(3, 2)),
        CategoricalGuide((5,), 3, net=with_(2), estimator=estimator),
        DiagonalNormalGuide((5,), 2, net=net),
        DiagonalNormalGuide((5,), 2, net=with_(3, 2)),
        classification_weight=weight,
    )


def loss_of(vae, objective, *args):
    torch.manual_seed(11)
    loss = objective.differentiable_loss(vae.model, vae.guide, *args)
    gradients = torch.autograd.grad(loss, list(vae.classifier.parameters()), allow_unused=True)
    return loss.detach(), [torch.zeros(()) if g is None else g for g in gradients]


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_the_classification_term_is_added_and_linear(name):
    """On labelled data loss and gradient grow by the weight times those of the mean cross entropy, for every bound.

    At equal random numbers the loss is bound + weight * term for every weight, and the only gradient of
    q(y | a, x) on labelled data is the term's.
    """
    x, y = torch.randn(4, 5), torch.tensor([0, 2, 1, 1])
    losses = {w: loss_of(adgm(estimator_of(name), w), BOUNDS[name](), x, y) for w in (0.0, 1.0, WEIGHT)}
    term = losses[1.0][0] - losses[0.0][0]
    assert term > 1
    assert abs(losses[WEIGHT][0] - losses[0.0][0] - WEIGHT * term) < 1e-9
    reference = adgm(estimator_of(name), WEIGHT)
    torch.manual_seed(11)
    with poutine.trace() as trace, pyro.plate("num_particles_vectorized", 3, dim=-2):
        reference.guide(x, y)
    if name not in (*ENUMERATE, "ELBO", "BetaELBO"):  # these draw in another order
        loss = trace.trace.nodes["classification"]["fn"].log_factor.mean(0).sum()
        assert abs(loss - WEIGHT * term) < 1e-9
    for zero, one, many in zip(losses[0.0][1], losses[1.0][1], losses[WEIGHT][1], strict=True):
        assert zero.abs().max() < 1e-12
        assert (many - WEIGHT * one).abs().max() < 1e-9
    assert max(g.abs().max() for g in losses[1.0][1]) > 0.01


@pytest.mark.parametrize("name", BOUNDS)
def test_the_terms_are_those_of_the_bound_only(name):
    x, y = torch.randn(4, 5), torch.tensor([0, 2, -1, 1])
    terms = []
    for weight in (0.0, WEIGHT):
        objective = BOUNDS[name]()
        loss_of(adgm(estimator_of(name), weight), objective, x, y)
        terms.append(objective.terms)
    assert all(abs(a - b) < 1e-9 for a, b in zip(*terms, strict=True))


TRIPLES = torch.cartesian_prod(*[torch.arange(3)] * 3).T  # (K, 27), all draws of three particles


class EveryTriple(Categorical):
    """Draw a different triple of values for each of 27 data."""

    def sample(self, sample_shape=()):
        return TRIPLES[torch.arange(self.batch_shape[0]) % 3] if len(self.batch_shape) > 1 else TRIPLES[0]


def with_cost(log_joint, logits, cost):
    """A model with log p(x, y) = log_joint[y], and a guide q(y) whose loss has the term cost[y]."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", Categorical(torch.ones(3) / 3))
            pyro.factor("x", log_joint[y] + math.log(3))

    def guide(x):
        with pyro.plate("data", len(x)):
            unit = Unit(cost[pyro.sample("y", EveryTriple(logits=logits))], has_rsample=True)
            pyro.sample("cost", unit, obs=unit.sample(), infer={"is_auxiliary": True, "is_loss": True})

    return model, guide


SCORES = {
    "VIMCO": (objectives.VIMCO, lambda log_weight: log_weight.logsumexp(0) - math.log(3)),
    "none": (partial(objectives.ScoreFunction, baseline="none"), lambda log_weight: log_weight.mean(0)),
    "leave-one-out": (
        partial(objectives.ScoreFunction, baseline="leave-one-out"),
        lambda log_weight: log_weight.mean(0),
    ),
}


@pytest.mark.parametrize(("make", "bound"), SCORES.values(), ids=SCORES)
def test_the_score_s_gradient_of_a_term_that_depends_on_the_draws_is_unbiased(make, bound):
    """Exactly, by a sum over all draws: each triple is a datum, scaled by its probability."""
    log_joint = torch.tensor([-0.7, -2.1, -1.3])
    logits = torch.tensor([0.3, -0.2, 0.6], requires_grad=True)
    cost = torch.tensor([1.0, -2.0, 4.0], requires_grad=True)
    log_q = logits.log_softmax(-1)
    probability = log_q[TRIPLES].sum(0).exp()  # (27,)
    exact = (probability * (cost[TRIPLES].mean(0) - bound((log_joint - log_q)[TRIPLES]))).sum()
    programs = [poutine.scale(p, probability.detach()) for p in with_cost(log_joint, logits, cost)]
    loss = make(num_particles=3).differentiable_loss(*programs, torch.zeros(27))
    assert abs(loss - exact) < 1e-9
    gradient, expected = (torch.stack(torch.autograd.grad(value, [logits, cost])) for value in (loss, exact))
    assert (gradient - expected).abs().max() < 1e-9


def test_weights_are_the_model_s_in_train_mode_too():
    case = MixtureOfLinearGaussians(classification_weight=WEIGHT)
    x, y = case.data(6)
    assert case.vae.guide.training
    weights = log_weights(case.vae.model, case.vae.guide, (x, y), num_samples=4)
    assert (weights - case.log_evidence(x, y)).abs().max() < 1e-9


def test_a_float64_model_takes_labels_under_torch_s_default_dtype():
    case = MixtureOfLinearGaussians(classification_weight=1.0)
    x, y = case.data(6)
    torch.set_default_dtype(torch.float32)
    loss = objectives.EnumeratedELBO().differentiable_loss(case.vae.model, case.vae.guide, x, y)
    assert loss.dtype == torch.float64
    assert loss.isfinite()


# ---------------------------------------------------------------- the sum


def pair(logits, *, mask=None, hidden=None, infer=None, on_y_alone=True):
    """y ~ Cat(3), x ~ N(y, 1); guide with free logits (B, 3). ``hidden`` data have a mask."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", masked(Categorical(logits=torch.tensor([0.1, 0.4, -0.3]))))
            pyro.sample("x", Normal(y.to(x), 1.0), obs=x)

    def masked(fn):
        return fn if hidden is None else fn.mask(hidden)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.ones(()).bool() if mask is None else mask):
            pyro.sample("y", masked(Categorical(logits=logits)), infer=infer or {"enumerate": "parallel"})

    return model, guide


def value_and_gradient(objective, programs, logits, x):
    loss = objective.differentiable_loss(*programs, x)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("variant", ["logits", "mask", "poutine"])
def test_it_is_exact_at_zero_probability_and_under_masks(variant):
    logits = torch.tensor([[0.3, -0.2, 0.6], [0.1, 0.9, -0.5]])
    if variant == "logits":
        logits[0, 1] = -torch.inf
    logits.requires_grad_()
    hidden = torch.tensor([True, False])
    options = {"logits": {}, "mask": {"hidden": hidden}, "poutine": {"mask": hidden}}[variant]
    programs, x = pair(logits, **options), torch.tensor([0.4, 1.7])
    enumerated = value_and_gradient(objectives.EnumeratedELBO(), programs, logits, x)
    traced = value_and_gradient(objectives.TraceEnumELBO(), programs, logits, x)
    exact = expected(logits.detach(), x, variant)
    assert abs(enumerated[0] - exact) < 1e-9
    if variant == "logits":
        assert abs(traced[0] - exact) < 1e-9
        assert (enumerated[1] - traced[1]).abs().max() < 1e-9


def expected(logits, x, variant):
    """By hand: a masked y is still drawn, and its log-probabilities count nothing."""
    q = logits.softmax(-1)
    log_x = Normal(torch.arange(3.0), 1.0).log_prob(x.unsqueeze(-1))
    prior = torch.tensor([0.1, 0.4, -0.3]).log_softmax(-1)
    unmasked = torch.tensor([[1.0], [0.0 if variant != "logits" else 1.0]])
    in_model = unmasked if variant == "mask" else torch.ones(2, 1)
    f = log_x + in_model * prior - unmasked * q.clamp_min(1e-300).log()
    return -(q * f).sum()


def test_a_nan_datum_makes_the_loss_nan():
    logits, objective = torch.zeros(2, 3), objectives.EnumeratedELBO()
    programs, x = pair(logits), torch.zeros(2)
    with pyro.validation_enabled(False):
        assert objective.loss(*programs, x) > 0
        logits[1] = torch.nan  # once the programs have been examined
        assert torch.tensor(objective.loss(*programs, x)).isnan()


def test_sampled_enumeration_raises():
    programs = pair(torch.zeros(2, 3), infer={"enumerate": "parallel", "num_samples": 5})
    with pytest.raises(ValueError, match=r"^EnumeratedELBO: an enumerated site must be summed over exactly, got "):
        objectives.EnumeratedELBO().loss(*programs, torch.zeros(2))


def test_two_sites_are_summed_over_in_all_combinations():
    logits = torch.randn(4, 3, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", Categorical(logits=torch.tensor([0.1, 0.4, -0.3])))
            b = pyro.sample("b", Bernoulli(0.3 + 0.2 * y.to(x)))
            pyro.sample("x", Normal(y - 2 * b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("b", Bernoulli(0.2 + 0.3 * y.to(x)), infer={"enumerate": "parallel"})

    x = torch.randn(4)
    enumerated = value_and_gradient(objectives.EnumeratedELBO(num_particles=2), (model, guide), logits, x)
    reference = value_and_gradient(TraceEnum_ELBO(max_plate_nesting=1), (model, guide), logits, x)
    assert abs(enumerated[0] - reference[0]) < 1e-9
    assert (enumerated[1] - reference[1]).abs().max() < 1e-9


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("label", [-2, 3])
@pytest.mark.parametrize("objective", [objectives.EnumeratedELBO, objectives.TraceEnumELBO])
def test_an_invalid_label_stops_training_in_any_batch(objective, label):
    case = MixtureOfLinearGaussians()
    x, y = case.data(8)
    wrong = y.clone()
    wrong[3] = label
    with pytest.raises((ValueError, ArithmeticError)):
        fit(case.vae.model, case.vae.guide, [(x, y), (x, wrong)], epochs=1, objective=objective(), engine="eager")


def test_invalid_labels_make_the_loss_nan() -> None:
    logits = torch.randn(4, 1, 3)
    values = pinned(logits, torch.tensor([-1, 2, -2, 3])).squeeze(-2)
    assert torch.equal(values[0], logits[0, 0])
    assert values[1].exp().tolist() == [0, 0, 1]
    assert values[2:].isnan().all()


class Turned(torch.autograd.Function):
    """The identity, whose gradient is stored column by column."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.T.contiguous().T


class Folded(nn.Module):
    """Parameters whose gradients are stored in another order than they are."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Parameter(torch.randn(3, 4))
        self.turned = nn.Parameter(torch.randn(4, 3).T)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc = x @ Turned.apply(self.wide).T @ self.turned
            pyro.sample("x", Normal(loc, 1.0).to_event(1), obs=x)


def test_gradients_are_stored_like_their_parameters():
    model, x = Folded(), torch.randn(6, 4)
    parameters = list(model.parameters())
    engine = build_engine("eager", Trace_ELBO(), model, lambda x: None, SGD(parameters), parameters, args=(x,))
    plain = torch.autograd.grad(Trace_ELBO().differentiable_loss(model, lambda x: None, x) / 6, parameters)
    assert plain[0].stride() != parameters[0].stride()
    for parameter, gradient, expected in zip(parameters, engine.gradients((x,)).gradients, plain, strict=True):
        assert gradient.stride() == parameter.stride()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("optimizer", [partial(Adam, lr=0.1), partial(AdamW, lr=0.1), partial(SGD, lr=0.01)])
def test_fused_optimizers_pair_gradients_with_their_parameters(optimizer):
    """Torch's fused optimizers pair gradient and parameter by their place in memory."""
    torch.manual_seed(3)
    model, x = Folded(), torch.randn(6, 4)
    twin = Folded()
    twin.load_state_dict(model.state_dict())
    slow = optimizer.func(twin.parameters(), **optimizer.keywords, fused=False)
    for _ in range(3):
        slow.zero_grad()
        (Trace_ELBO().differentiable_loss(twin, lambda x: None, x) / 6).backward()
        slow.step()
    fit(model, lambda x: None, x, epochs=3, batch_size=6, optimizer=optimizer, engine="eager")
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert (parameter - other).abs().max() < 1e-9


def test_a_monitor_stores_only_its_numbers(exact):
    x = exact.data(20)
    result = fit(exact.vae.model, exact.vae.guide, x, epochs=2, batch_size=10, monitor=lambda: {"mine": torch.ones(())})
    assert [record["mine"] for record in result.history] == [1.0, 1.0]
    for wrong, message in (
        ({"loss": 1.0}, "names that the record lacks, got 'loss'"),
        ({"a": "b"}, "numbers by name"),
        (3, "numbers"),
    ):
        with pytest.raises(ValueError, match=r"^fit: monitor must ") as error:
            fit(exact.vae.model, exact.vae.guide, x, epochs=1, batch_size=10, monitor=lambda: wrong)  # noqa: B023
        assert message in str(error.value)


def test_a_monitor_sees_eval_mode_and_changes_no_random_number():
    def trained(monitored):
        case = LinearGaussian()
        torch.manual_seed(1)
        x = case.data(20)
        look = (
            (lambda: modes.append(case.vae.guide.training) or {"noise": float(torch.rand(()))}) if monitored else None
        )
        return fit(case.vae.model, case.vae.guide, x, epochs=2, batch_size=10, monitor=look).history[-1]["loss"]

    modes = []
    assert trained(True) == trained(False)
    assert modes == [False, False]


@pytest.mark.parametrize("objective", [objectives.EnumeratedELBO, objectives.TraceEnumELBO])
def test_the_loss_of_summed_labels_is_rate_plus_distortion(objective):
    case, bound = MixtureOfLinearGaussians(inflate=1.3), objective()
    x, _ = case.data(8)
    loss = bound.differentiable_loss(case.vae.model, case.vae.guide, x)
    assert bound.terms.kl > 0
    assert float(loss.detach()) == pytest.approx(float(bound.terms.kl - bound.terms.reconstruction), abs=1e-9)

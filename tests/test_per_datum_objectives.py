"""Objectives formed per datum: exact bounds, exact gradients in expectation, scales, masks, layers, errors."""

from __future__ import annotations

import copy
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import nn

from pyro_vae import VAE, fit
from pyro_vae.distributions import AugmentedPosterior
from pyro_vae.evaluation import gradient_snr
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.objectives import (
    ELBO,
    IWAE,
    MIWAE,
    VIMCO,
    BetaTC,
    DoublyReparameterized,
    EnumeratedELBO,
    FreeBits,
    InfoVAE,
    LinearWarmUp,
    MeanFieldELBO,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    StickingTheLanding,
    TraceEnumELBO,
    WakeSleep,
)
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder
from tests import objective_references as definitions
from tests.linear_gaussian import LinearGaussian

BOUNDS = {
    "IWAE-1": partial(IWAE, num_particles=1),
    "IWAE-50": partial(IWAE, num_particles=50),
    "MIWAE": partial(MIWAE, num_particles=3, num_batches=4),
    "Renyi-0.5": partial(Renyi, alpha=0.5, num_particles=6),
    "Renyi-2": partial(Renyi, alpha=2.0, num_particles=6),
    "Renyi-max": partial(Renyi, alpha=-math.inf, num_particles=6),
    "STL-1": StickingTheLanding,
    "STL-7": partial(StickingTheLanding, num_particles=7),
    "DReG": partial(DoublyReparameterized, num_particles=7),
    "ScoreFunction": partial(ScoreFunction, num_particles=3),
    "VIMCO": partial(VIMCO, num_particles=4),
    "RWS": partial(ReweightedWakeSleep, num_particles=4, guide_phase="both"),
    "WakeSleep": WakeSleep,
    "BetaTC": partial(BetaTC, num_data=50, beta=1.0, num_particles=2),
    "InfoVAE": partial(InfoVAE, alpha=0.0, mmd_weight=1.0, num_particles=2),
}
bounds = pytest.mark.parametrize("make", BOUNDS.values(), ids=BOUNDS)


def loss_of(objective, case, x):
    return objective.differentiable_loss(case.vae.model, case.vae.guide, x)


def gradients_of(objective, case, x):
    guide, model = list(case.vae.guide.parameters()), list(case.vae.model.parameters())
    loss = loss_of(objective, case, x)
    gradients = torch.autograd.grad(loss, [*model, *guide])
    return loss.detach(), gradients[: len(model)], gradients[len(model) :]


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


# ---------------------------------------------------------------- bounds


@bounds
def test_a_run_holds_the_tensors_of_the_model_and_the_guide_alone(exact: LinearGaussian, make, tmp_path) -> None:
    case = copy.deepcopy(exact)  # a module that an objective builds to hold parameters constant is none of theirs
    fit(case.vae.model, case.vae.guide, exact.data(8), objective=make(), batch_size=4, epochs=2, run=tmp_path / "run")
    assert RunFolder(tmp_path / "run").load_weights().keys() == case.vae.state_dict().keys()


@bounds
@pytest.mark.parametrize("batch", [1, 6])
def test_at_the_exact_posterior_every_bound_is_the_evidence(exact: LinearGaussian, make, batch: int) -> None:
    objective, x = make(), exact.data(batch)
    for rows in (x, x[:1]):  # a ragged batch after a full one
        loss = loss_of(objective, exact, rows)
        assert loss.item() == pytest.approx(-float(exact.log_prob(rows).sum()), abs=1e-9)
        terms = objective.terms
        assert float(terms.reconstruction - terms.kl) == pytest.approx(float(exact.log_prob(rows).sum()), abs=1e-9)


SCALES = {
    "poutine": lambda program: poutine.scale(program, 0.25),
    "per datum": lambda program: poutine.scale(program, torch.linspace(0.5, 3.0, 6)),
}


@bounds
@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_multiplies_the_bound_outside(exact: LinearGaussian, make, scale: str) -> None:
    x, objective = exact.data(6), make()
    model, guide = (SCALES[scale](program) for program in (exact.vae.model, exact.vae.guide))
    factor = {"poutine": torch.tensor(0.25), "per datum": torch.linspace(0.5, 3.0, 6)}[scale]
    loss = objective.differentiable_loss(model, guide, x)
    assert loss.item() == pytest.approx(-float((factor * exact.log_prob(x)).sum()), abs=1e-9)
    terms = objective.terms
    assert float(terms.reconstruction - terms.kl) == pytest.approx(float(exact.log_prob(x).sum()), abs=1e-9)


@bounds
def test_a_scale_multiplies_the_gradient(make) -> None:
    case, objective = LinearGaussian(inflate=1.3, shift=0.2), make()
    x, parameters, gradients = case.data(5), list(case.vae.parameters()), []
    for factor in (1.0, 0.25):
        model, guide = (poutine.scale(program, factor) for program in (case.vae.model, case.vae.guide))
        torch.manual_seed(3)
        gradients.append(flat(torch.autograd.grad(objective.differentiable_loss(model, guide, x), parameters)))
    assert gradients[0].abs().max() > 0.1
    assert (gradients[1] - 0.25 * gradients[0]).abs().max() < 1e-9 * gradients[0].abs().max()


def _subsampled(size):
    def model(x):
        with pyro.plate("data", 50, subsample_size=size) as i:
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[i])

    def guide(x):
        with pyro.plate("data", 50, subsample_size=size) as i:
            pyro.sample("z", dist.Normal(x[i] / 2, 0.5**0.5 * 1.5))

    return model, guide


def test_a_subsampled_plate_scales_the_bound_outside() -> None:
    """The guide is not exact, so that a scale within the logarithm would change the bound."""
    x, objective = torch.randn(50), IWAE(num_particles=4)
    model, guide = _subsampled(10)
    objective.differentiable_loss(model, guide, x)  # looks at the programs
    torch.manual_seed(3)
    loss = objective.differentiable_loss(model, guide, x)
    torch.manual_seed(3)
    q = poutine.trace(pyro.plate("k", 4, dim=-2)(guide)).get_trace(x)
    z, i = q.nodes["z"]["value"], q.nodes["data"]["value"]
    weight = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x[i]) - q.nodes["z"]["fn"].log_prob(z)
    assert weight.shape == (4, 10)
    assert loss.item() == pytest.approx(-5 * float((weight.logsumexp(0) - math.log(4)).sum()), abs=1e-9)


@bounds
def test_masks_exclude_data(make) -> None:
    unmasked, x = torch.tensor([True, False, True]), torch.randn(3)

    def model(x):
        with pyro.plate("data", 3), poutine.mask(mask=unmasked):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3), poutine.mask(mask=unmasked):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    objective = make()
    if isinstance(objective, BetaTC | InfoVAE):
        with pytest.raises(ValueError, match=r"without a mask, got .* Use ELBO or BetaELBO\.$"):
            objective.loss(model, guide, x)
        return
    expected = -float(dist.Normal(0.0, 2**0.5).log_prob(x)[unmasked].sum())
    assert objective.loss(model, guide, x) == pytest.approx(expected, abs=1e-9)


def test_inner_plates_are_summed_within_the_logarithm_and_shared_ones_are_data() -> None:
    def model(x):
        with pyro.plate("rows", 4, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 4, dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True) * 0.75, 0.5))  # exact

    x = torch.randn(4, 3)
    evidence = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(x).sum()
    for make in (IWAE, StickingTheLanding, DoublyReparameterized, ScoreFunction, VIMCO):
        assert make().loss(model, guide, x) == pytest.approx(-float(evidence), abs=1e-9)

    def cells(x):
        with pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 3, dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def cells_guide(x):
        with pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 3, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    objective = IWAE(num_particles=4)
    objective.loss(cells, cells_guide, x)
    torch.manual_seed(3)
    loss = objective.loss(cells, cells_guide, x)
    torch.manual_seed(3)
    z = dist.Normal(x / 2, 1.0).expand((4, 4, 3)).sample()
    weight = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x) - dist.Normal(x / 2, 1.0).log_prob(z)
    assert loss == pytest.approx(-float((weight.logsumexp(0) - math.log(4)).sum()), abs=1e-9)


def test_renyi_has_its_limits() -> None:
    case = LinearGaussian(inflate=1.5, shift=0.3)
    x, results = case.data(6), {}
    for alpha in (0.0, 1.0, 1 - 1e-7, 1 + 1e-7, -1e4, -math.inf, math.inf, 1e4):
        torch.manual_seed(3)
        results[alpha] = gradients_of(Renyi(alpha=alpha, num_particles=5), case, x)
    for alpha, kind in ((0.0, IWAE), (1.0, ELBO)):
        objective = kind(num_particles=5)
        loss_of(objective, case, x)
        torch.manual_seed(3)
        assert all(
            (a - b).abs().max() < 1e-9
            for a, b in zip(map(flat_or, results[alpha]), map(flat_or, gradients_of(objective, case, x)), strict=True)
        )
    torch.manual_seed(3)
    weight = definitions.draws(case.vae.model, case.vae.guide, 5, x).weight.detach()
    assert float(results[-math.inf][0] + weight.max(0).values.sum()) == pytest.approx(0.0, abs=1e-9)
    assert float(results[math.inf][0] + weight.min(0).values.sum()) == pytest.approx(0.0, abs=1e-9)
    for near, limit, tolerance in (
        (1 - 1e-7, 1.0, 1e-4),
        (1 + 1e-7, 1.0, 1e-4),
        (-1e4, -math.inf, 2e-3),
        (1e4, math.inf, 2e-3),
    ):
        assert abs(results[near][0] - results[limit][0]) < tolerance
        assert (flat(results[near][2]) - flat(results[limit][2])).abs().max() < 10 * tolerance + 1e-6


def flat_or(value):
    return value if isinstance(value, torch.Tensor) else flat(value)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize("kind", [StickingTheLanding, DoublyReparameterized])
def test_at_the_exact_posterior_the_guide_s_gradient_is_zero_for_every_draw(exact, kind, num_particles) -> None:
    x = exact.data(6)
    for _ in range(3):
        _, model, guide = gradients_of(kind(num_particles=num_particles), exact, x)
        assert flat(guide).abs().max() < 1e-10
        assert flat(model).abs().max() > 0.1
    assert flat(gradients_of(IWAE(num_particles=num_particles), exact, x)[2]).abs().max() > 0.1


def _mean_gradient(objective, case, x, *, repeats=60, copies=200):
    """Mean and standard error of the gradient per datum, of many independent copies of one datum."""
    rows = x.expand(copies, -1)
    gradients = [flat((*m, *g)) / copies for _, m, g in (gradients_of(objective, case, rows) for _ in range(repeats))]
    gradients = torch.stack(gradients)
    return gradients.mean(0), gradients.std(0) / math.sqrt(repeats)


def _exact_elbo_gradient(case, x):
    q = case.vae.guide.posterior(x)
    layer = case.vae.likelihood.net.layers[0]
    residual = (x - q.mean @ layer.weight.T - layer.bias).square().sum(-1)
    residual = residual + q.variance @ layer.weight.square().sum(0)
    kl = torch.distributions.kl_divergence(q.base_dist, case.vae.prior().base_dist).sum(-1)
    loss = (0.5 * residual / case.scale**2 + kl).sum()
    return flat(torch.autograd.grad(loss, [*case.vae.model.parameters(), *case.vae.guide.parameters()]))


ELBOS = {
    "STL-1": StickingTheLanding,
    "STL-3": partial(StickingTheLanding, num_particles=3),
    "DReG-1": partial(DoublyReparameterized, num_particles=1),
    "IWAE-1": partial(IWAE, num_particles=1),
    "Renyi-1": partial(Renyi, alpha=1.0, num_particles=3),
    "score": partial(ScoreFunction, baseline="none"),
    "score-batch": partial(ScoreFunction, baseline="batch", num_particles=2),
    "score-loo": partial(ScoreFunction, baseline="leave-one-out", num_particles=3),
    "BetaTC": partial(BetaTC, num_data=50, beta=1.0),
    "InfoVAE": partial(InfoVAE, alpha=0.0, mmd_weight=1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", ELBOS.values(), ids=ELBOS)
def test_the_elbo_s_gradient_in_expectation(make) -> None:
    case = LinearGaussian(latent_dim=2, dim=3, inflate=1.3, shift=0.2)
    x = case.data(1)
    mean, error = _mean_gradient(make(), case, x)
    assert ((mean - _exact_elbo_gradient(case, x)).abs() < 4.5 * error + 1e-9).all()


@pytest.mark.parametrize("make", [partial(DoublyReparameterized, num_particles=4), partial(VIMCO, num_particles=4)])
def test_the_bound_of_iwae_has_one_gradient_in_expectation(make) -> None:
    case = LinearGaussian(latent_dim=2, dim=3, inflate=1.3, shift=0.2)
    x = case.data(1)
    mean, error = _mean_gradient(make(), case, x)
    other, other_error = _mean_gradient(Definition(definitions.iwae, 4), case, x, repeats=100)
    assert ((mean - other).abs() < 4.5 * (error.square() + other_error.square()).sqrt() + 1e-9).all()


Definition = definitions.Definition


def test_miwae_is_the_mean_of_bounds_of_iwae() -> None:
    case = LinearGaussian(latent_dim=2, dim=3, inflate=1.3, shift=0.2)
    x = case.data(1)
    mean, error = _mean_gradient(MIWAE(num_particles=4, num_batches=3), case, x)
    other, other_error = _mean_gradient(Definition(definitions.iwae, 4), case, x, repeats=100)
    assert ((mean - other).abs() < 4.5 * (error.square() + other_error.square()).sqrt() + 1e-9).all()


DEFINED = {
    "Renyi-0.3": (partial(Renyi, alpha=0.3), partial(definitions.renyi, alpha=0.3)),
    "score-none": (partial(ScoreFunction, baseline="none"), partial(definitions.score_function, baseline="none")),
    "score-loo": (
        partial(ScoreFunction, baseline="leave-one-out"),
        partial(definitions.score_function, baseline="leave-one-out"),
    ),
    "RWS-sleep": (
        partial(ReweightedWakeSleep, guide_phase="sleep"),
        partial(definitions.reweighted_wake_sleep, wake=0.0),
    ),
    "RWS-both": (
        partial(ReweightedWakeSleep, guide_phase="both"),
        partial(definitions.reweighted_wake_sleep, wake=0.5),
    ),
    "FreeBits-2": (partial(FreeBits, nats=2.0), partial(definitions.free_bits, nats=2.0)),
    "BetaTC": (
        partial(BetaTC, num_data=70, alpha=0.5, beta=3.0, gamma=2.0),
        partial(definitions.beta_tc, num_data=70, alpha=0.5, beta=3.0, gamma=2.0),
    ),
    "InfoVAE-rbf": (
        partial(InfoVAE, alpha=0.3, mmd_weight=4.0, kernel="rbf", bandwidth=0.8),
        partial(definitions.info_vae, alpha=0.3, weight=4.0, kernel="rbf", bandwidth=0.8),
    ),
    "InfoVAE-imq": (
        partial(InfoVAE, alpha=0.3, mmd_weight=4.0, bandwidth=1.5),
        partial(definitions.info_vae, alpha=0.3, weight=4.0, bandwidth=1.5),
    ),
}


@pytest.mark.parametrize(("make", "function"), DEFINED.values(), ids=DEFINED)
def test_other_options_agree_with_their_definition(make, function) -> None:
    case = LinearGaussian(inflate=1.3, shift=0.2)
    x, tested, definition = case.data(5), make(num_particles=3), Definition(function, 3)
    loss_of(tested, case, x)  # looks at the programs
    results = []
    for objective in (tested, definition):
        torch.manual_seed(3)
        results.append([flat_or(value) for value in gradients_of(objective, case, x)])
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < 1e-9 * b.abs().max().clamp_min(1)


# ---------------------------------------------------------------- layers, auxiliary variables, frozen parameters


class Layered(nn.Module):
    """z2 -> z1 -> x with a guide that goes the other way, or down the ladder and uses the model's parameters."""

    def __init__(self, ladder: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.down, self.out = nn.Linear(2, 3), nn.Linear(3, 4)
        self.encoder, self.top, self.dropout = nn.Linear(4, 6), nn.Linear(3, 4), nn.Dropout(dropout)
        self.ladder, self.scale = ladder, nn.Parameter(torch.tensor(0.3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.down(z2), 0.7).to_event(1))
            pyro.sample("x", dist.Normal(self.out(z1).tanh(), self.scale.exp()).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.dropout(self.encoder(x)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            if self.ladder:
                top = self.top(loc)
                z2 = pyro.sample("z2", dist.Normal(top[..., :2], top[..., 2:].exp()).to_event(1))
                pyro.sample("z1", dist.Normal(loc + self.down(z2), log_scale.exp()).to_event(1))
            else:
                z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
                top = self.top(z1)
                pyro.sample("z2", dist.Normal(top[..., :2], top[..., 2:].exp()).to_event(1))


SPLIT = {
    "STL": (StickingTheLanding, definitions.sticking_the_landing),
    "DReG": (DoublyReparameterized, definitions.doubly_reparameterized),
    "VIMCO": (VIMCO, definitions.vimco),
    "RWS": (ReweightedWakeSleep, definitions.reweighted_wake_sleep),
    "WakeSleep": (WakeSleep, definitions.wake_sleep),
}
split = pytest.mark.parametrize(("kind", "function"), SPLIT.values(), ids=SPLIT)


def assert_same(tested, definition, model, guide, parameters, x) -> None:
    tested.loss(model, guide, x)
    results = []
    for objective in (tested, definition):
        torch.manual_seed(3)
        loss = objective.differentiable_loss(model, guide, x)
        results.append([loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True)])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).abs().max() < 1e-10 * b.abs().max().clamp_min(1)


@split
@pytest.mark.parametrize("ladder", [False, True])
def test_several_layers_agree_with_the_definition(kind, function, ladder) -> None:
    pair, x = Layered(ladder), torch.randn(5, 4)
    definition = Definition(function, 3)
    assert_same(kind(num_particles=3), definition, pair.model, pair.guide, list(pair.parameters()), x)


class Borrowing(nn.Module):
    """A guide that uses modules of the model without registering them."""

    def __init__(self, pair: Layered) -> None:
        super().__init__()
        self.encoder, self.top, self._pair = pair.encoder, pair.top, (pair,)

    def forward(self, x):
        return self._pair[0].guide(x)


@split
def test_model_parameters_used_by_the_guide_count_as_the_guide_s(kind, function) -> None:
    pair, x = Layered(ladder=True), torch.randn(5, 4)
    guide, definition = Borrowing(pair), Definition(function, 3)
    assert_same(kind(num_particles=3), definition, pair.model, guide, list(pair.parameters()), x)


class Augmented(Guide):
    """q(z, a | x) with its reverse model r(a | x, z)."""

    def __init__(self) -> None:
        super().__init__((4,), 2)
        self.net, self.reverse = nn.Linear(4, 6), nn.Linear(2, 1)

    def posterior(self, x):
        loc, log_scale = self.net(x).chunk(2, -1)
        joint = dist.Normal(loc, log_scale.exp()).to_event(1)
        return AugmentedPosterior(joint, 2, lambda z: dist.Normal(self.reverse(z), 0.8).to_event(1))


def test_the_kl_has_the_reverse_model_of_an_auxiliary_variable() -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4,)), Augmented())
    x, objective = vae.sample(3), IWAE(num_particles=1)
    loss = objective.loss(vae.model, vae.guide, x)
    assert float(objective.terms.kl - objective.terms.reconstruction) == pytest.approx(loss, abs=1e-9)


@split
def test_auxiliary_variables_agree_with_the_definition(kind, function) -> None:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4,), net=partial(MLP, hidden=())), Augmented())
    x = vae.sample(5)
    if kind is WakeSleep:
        with pytest.raises(ValueError, match=r"^WakeSleep: .*'z_joint'. Use ReweightedWakeSleep\(guide_phase='wake'\)"):
            kind().loss(vae.model, vae.guide, x)
        return
    assert_same(kind(num_particles=3), Definition(function, 3), vae.model, vae.guide, list(vae.parameters()), x)


@pytest.mark.parametrize("kind", [StickingTheLanding, DoublyReparameterized])
def test_dropout_in_the_guide_is_the_same_for_draws_and_densities(kind) -> None:
    """With the mask drawn once by hand, as a module without random numbers."""
    torch.manual_seed(1)
    pair, x = Layered(ladder=True, dropout=0.4).train(), torch.randn(5, 4)
    plain = Layered(ladder=True)
    plain.load_state_dict(pair.state_dict())

    class Mask(nn.Module):
        def forward(self, h):
            return h * mask / 0.6

    plain.dropout = Mask()
    objective = kind(num_particles=3)
    objective.loss(pair.model, pair.guide, x)
    torch.manual_seed(3)
    one = objective.differentiable_loss(pair.model, pair.guide, x)
    torch.manual_seed(3)
    mask = (torch.nn.functional.dropout(torch.ones(5, 6), 0.4) > 0).to(x)
    two = kind(num_particles=3)
    state = torch.get_rng_state()
    two.loss(plain.model, plain.guide, x)
    torch.set_rng_state(state)
    other = two.differentiable_loss(plain.model, plain.guide, x)
    assert one.item() == pytest.approx(other.item(), abs=1e-10)
    for a, b in zip(
        torch.autograd.grad(one, list(pair.parameters()), allow_unused=True),
        torch.autograd.grad(other, list(plain.parameters()), allow_unused=True),
        strict=True,
    ):
        assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("kind", [StickingTheLanding, DoublyReparameterized, IWAE, ScoreFunction, ReweightedWakeSleep])
def test_svi_trains_plain_functions_and_modules(exact: LinearGaussian, kind) -> None:
    def model(x):
        w = pyro.param("w", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w * pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        a, s = (
            pyro.param("a", torch.tensor(0.1)),
            pyro.param("s", torch.tensor(1.0), constraint=dist.constraints.positive),
        )
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a * x, s))

    x = torch.randn(6)
    for programs, data in (((model, guide), x), ((exact.vae.model, exact.vae.guide), exact.data(6))):
        pyro.clear_param_store()
        svi = SVI(*programs, pyro.optim.SGD({"lr": 1e-3}), kind())
        before = svi.evaluate_loss(data)
        svi.step(data)
        store = {k: v.clone() for k, v in pyro.get_param_store().items()}
        svi.step(data)
        assert math.isfinite(before)
        assert all(not torch.equal(v, store[k]) for k, v in pyro.get_param_store().items())
    pyro.clear_param_store()
    if kind is StickingTheLanding:
        model(x), guide(x)
        definition = Definition(definitions.sticking_the_landing, 3)
        parameters = [pyro.get_param_store()._params[k] for k in ("w", "a", "s")]
        assert_same(kind(num_particles=3), definition, model, guide, parameters, x)


def test_running_statistics_are_updated_once_at_the_first_step() -> None:
    pair, x = Layered(ladder=True), torch.randn(5, 4)
    pair.dropout = nn.BatchNorm1d(6, momentum=0.1)
    means = []
    for objective in (IWAE(num_particles=2), StickingTheLanding(num_particles=2)):
        pair.dropout.reset_running_stats()
        objective.differentiable_loss(pair.train().model, pair.guide, x)
        means.append(pair.dropout.running_mean.clone())
        assert int(pair.dropout.num_batches_tracked) == 1
    assert torch.equal(*means)


# ---------------------------------------------------------------- decomposition of the KL


def test_free_bits_without_bits_is_the_elbo() -> None:
    case = LinearGaussian(inflate=1.3, shift=0.2)
    x = case.data(6)
    torch.manual_seed(3)
    expected = gradients_of(MeanFieldELBO(), case, x)
    for groups in ("dimension", "site"):
        objective = FreeBits(nats=0.0, groups=groups)
        loss_of(objective, case, x)
        torch.manual_seed(3)
        for a, b in zip(gradients_of(objective, case, x), expected, strict=True):
            assert (flat_or(a) - flat_or(b)).abs().max() < 1e-9
    terms = objective.terms
    assert terms.kl.dim() == 0


def test_free_bits_bound_the_kl_of_each_group_from_below() -> None:
    case = LinearGaussian()
    x = case.data(6)
    q = case.vae.encode(x)
    kl = torch.distributions.kl_divergence(q.base_dist, case.vae.prior().base_dist).mean(0).detach()
    nats = float(kl.sort().values[1]) + 1e-3  # two of three dimensions are below
    objective = FreeBits(nats=nats)
    loss_of(objective, case, x)
    torch.manual_seed(3)
    loss = loss_of(objective, case, x)
    expected = -objective.terms.reconstruction + 6 * (2 * nats + kl.max())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    torch.manual_seed(3)
    whole = FreeBits(nats=100.0, groups="site")
    assert loss_of(whole, case, x).item() == pytest.approx(-whole.terms.reconstruction.item() + 600, abs=1e-9)


@pytest.mark.parametrize("nats", [0.0, 0.3])
@pytest.mark.parametrize("groups", ["dimension", "site"])
def test_free_bits_omit_the_kl_of_masked_data(groups, nats) -> None:
    """KL(N(m, 1) || N(0, 1)) is m^2 / 2; that of the masked datum, by far the largest, must count as 0."""
    unmasked, loc = torch.tensor([True, False, True]), torch.tensor([[1.0, 0.4], [6.0, 9.0], [-2.0, 0.2]])

    def model(x):
        with pyro.plate("data", 3), poutine.mask(mask=unmasked):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3), poutine.mask(mask=unmasked):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    objective = FreeBits(nats=nats, groups=groups, num_particles=2)
    loss = objective.loss(model, guide, torch.randn(3))
    kl = (loc[unmasked].square() / 2).sum(0) / 3  # (L,), the mean over the batch
    kl = (kl if groups == "dimension" else kl.sum()).clamp_min(nats).sum()
    assert loss == pytest.approx(float(3 * kl - objective.terms.reconstruction), abs=1e-9)


def test_free_bits_of_layers_in_another_order_are_by_the_draws() -> None:
    pair, x = Layered(ladder=False), torch.randn(5, 4)
    elbo, objective = ELBO(), FreeBits(nats=0.0, groups="site")
    objective.loss(pair.model, pair.guide, x)
    repeats = [objective.loss(pair.model, pair.guide, x.repeat(400, 1)) / 400 for _ in range(20)]
    others = [elbo.loss(pair.model, pair.guide, x.repeat(400, 1)) / 400 for _ in range(20)]
    one, two = torch.tensor(repeats), torch.tensor(others)
    assert abs(one.mean() - two.mean()) < 4.5 * ((one.var() + two.var()) / 20).sqrt()
    assert objective.loss(pair.model, pair.guide, x) == pytest.approx(
        float(objective.terms.kl - objective.terms.reconstruction), abs=1e-9
    )


def test_beta_tc_with_one_datum_per_posterior_is_exact() -> None:
    """If all data are equal, q(z) is q(z | x): no information, and no correlation of a diagonal posterior."""
    case = LinearGaussian(inflate=1.3, shift=0.2)
    x = case.data(1).expand(6, -1)
    objective = BetaTC(num_data=1, alpha=7.0, beta=9.0, gamma=2.0)
    loss = loss_of(objective, case, x)
    assert loss.item() == pytest.approx(float(2 * objective.terms.kl - objective.terms.reconstruction), abs=1e-9)


def test_beta_tc_follows_a_schedule(exact: LinearGaussian) -> None:
    x, objective = exact.data(5), BetaTC(num_data=5, beta=LinearWarmUp(10, unit="epochs"))
    state = objective.state(x)
    loss_of(objective, exact, x)
    losses = []
    for epoch in (0.0, 5.0, 20.0):
        objective.set_progress(step=0, epoch=epoch)
        torch.manual_seed(3)
        losses.append(loss_of(objective, exact, x).item())
    assert float(state[0]) == 1.0
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, abs=1e-9)
    assert abs(losses[2] - losses[0]) > 1e-3


def test_the_discrepancy_in_expectation_is_that_of_the_normals() -> None:
    """E k of a difference N(m, V) is prod (1 + 2 V / C)^-1/2 exp(-m^2 / (C + 2 V))."""
    n, dim, h2 = 40, 2, 1.3
    loc, scale = torch.tensor([0.5, -1.0]), torch.tensor([0.6, 1.4])
    c = 2 * h2

    def expected_kernel(mean, variance):
        return ((1 + 2 * variance / c) ** -0.5 * (-(mean**2) / (c + 2 * variance)).exp()).prod()

    exact = expected_kernel(0 * loc, 2 * scale**2) + expected_kernel(0 * loc, 2 * torch.ones(dim))
    exact = exact - 2 * expected_kernel(loc, 1 + scale**2)
    objective = InfoVAE(kernel="rbf", bandwidth=h2**0.5)
    estimates = torch.stack(
        [objective._mmd(loc + scale * torch.randn(1, n, dim), torch.randn(1, n, dim)) for _ in range(400)]
    )
    assert abs(estimates.mean() - exact) < 4.5 * estimates.std() / 20
    assert exact > 0.1


# ---------------------------------------------------------------- discrete guides


class Discrete(nn.Module):
    """Three classes, whose ELBO and IWAE bound with K = 2 are sums that can be written out."""

    def __init__(self, enumerate_: bool = False) -> None:
        super().__init__()
        self.logits, self.probs = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3, 4))
        self.encoder, self.infer = nn.Linear(4, 3), {"enumerate": "parallel"} if enumerate_ else {}

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Bernoulli(logits=self.probs[y]).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=self.encoder(x)), infer=dict(self.infer))

    def exact(self, x):
        """log w of each class and log q, (B, 3)."""
        log_q = self.encoder(x).log_softmax(-1)
        log_x = dist.Bernoulli(logits=self.probs).to_event(1).log_prob(x.unsqueeze(1))
        return self.logits.log_softmax(-1) + log_x - log_q, log_q


def _gradient(loss, program):
    gradients = torch.autograd.grad(loss, list(program.parameters()), allow_unused=True)
    return flat([torch.zeros_like(p) if g is None else g for g, p in zip(gradients, program.parameters(), strict=True)])


DISCRETE = {
    "none": (partial(ScoreFunction, baseline="none", num_particles=2), 1),
    "batch": (partial(ScoreFunction, baseline="batch"), 1),
    "leave-one-out": (partial(ScoreFunction, baseline="leave-one-out", num_particles=2), 1),
    "VIMCO": (partial(VIMCO, num_particles=2), 2),
}


@pytest.mark.parametrize(("make", "order"), DISCRETE.values(), ids=DISCRETE)
def test_the_gradient_of_a_discrete_guide_in_expectation(make, order) -> None:
    program, x = Discrete(), torch.rand(1, 4).bernoulli()
    log_w, log_q = program.exact(x)
    if order == 1:
        exact = -(log_q.exp() * log_w).sum()
    else:
        pairs = torch.stack(torch.broadcast_tensors(log_w[0].unsqueeze(1), log_w[0].unsqueeze(0))).logsumexp(0)
        exact = -(log_q.exp().T @ log_q.exp() * (pairs - math.log(2))).sum()
    copies, objective = 300, make()
    losses = [objective.differentiable_loss(program.model, program.guide, x.expand(copies, -1)) for _ in range(60)]
    gradients = torch.stack([_gradient(loss, program) / copies for loss in losses])
    value = torch.stack(losses).detach() / copies
    assert abs(value.mean() - exact) < 4.5 * value.std() / 60**0.5
    error = gradients.std(0) / 60**0.5
    assert ((gradients.mean(0) - _gradient(exact, program)).abs() < 4.5 * error + 1e-9).all()


@pytest.mark.parametrize("kind", [EnumeratedELBO, TraceEnumELBO])
def test_enumeration_is_exact_and_its_terms_add_up(kind) -> None:
    program, x = Discrete(True), torch.rand(5, 4).bernoulli()
    objective = kind()
    loss = objective.differentiable_loss(program.model, program.guide, x)
    log_w, log_q = program.exact(x)
    exact = -(log_q.exp() * log_w).sum()
    assert loss.item() == pytest.approx(exact.item(), abs=1e-10)
    assert (_gradient(loss, program) - _gradient(exact, program)).abs().max() < 1e-10
    kl = (log_q.exp() * (log_q - program.logits.log_softmax(-1))).sum().detach()
    assert float(objective.terms.kl) == pytest.approx(float(kl), abs=1e-10)
    assert float(objective.terms.kl - objective.terms.reconstruction) == pytest.approx(loss.item(), abs=1e-10)
    weighted = kind(beta=3.0)
    loss = weighted.differentiable_loss(program.model, program.guide, x)
    assert loss.item() == pytest.approx(float(3 * kl - objective.terms.reconstruction), abs=1e-10)
    scaled = poutine.scale(program.model, 10.0), poutine.scale(program.guide, 10.0)
    assert objective.loss(*scaled, x) == pytest.approx(10 * exact.item(), abs=1e-9)
    assert float(objective.terms.kl) == pytest.approx(float(kl), abs=1e-10)


# ---------------------------------------------------------------- signal to noise


def test_the_ratio_of_a_known_gradient() -> None:
    drawn = []

    class Known(ELBO):
        def differentiable_loss(self, model, guide, x):
            noise = torch.randn(2) * torch.tensor([1.0, 4.0]) + torch.tensor([3.0, 1.0])
            drawn.append(noise)
            return (guide.weight * noise).sum()

    guide = nn.Module()
    guide.weight = nn.Parameter(torch.zeros(2))
    state = torch.get_rng_state()
    groups = {"all": [guide.weight]}
    result = gradient_snr(guide, guide, torch.zeros(1), Known(), num_draws=4000, groups=groups)["all"]
    assert torch.equal(torch.get_rng_state(), state)
    assert guide.weight.grad is None
    exact = torch.tensor([3.0, 0.25])
    assert ((result.snr - exact).abs() < 4.5 * result.standard_error).all()
    assert (result.standard_error - (1 / 4000 + exact**2 / 8000).sqrt()).abs().max() < 1e-3
    again = gradient_snr(guide, guide, torch.zeros(1), Known(), num_draws=4000, groups=groups)["all"]
    assert torch.equal(result.snr, again.snr)
    drawn.clear()
    few = gradient_snr(guide, guide, torch.zeros(1), Known(), num_draws=3, groups=groups)["all"]
    assert (few.std - torch.stack(drawn).std(0)).abs().max() < 1e-12
    assert (few.mean - torch.stack(drawn).mean(0)).abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"^gradient_snr: num_draws must be at least 2, got num_draws=1\.$"):
        gradient_snr(guide, guide, torch.zeros(1), Known(), num_draws=1, groups=groups)


@pytest.mark.slow
def test_the_guide_s_ratio_falls_with_particles_for_iwae_and_not_for_dreg() -> None:
    case = LinearGaussian(latent_dim=2, dim=5, inflate=1.1, shift=0.05)
    x = case.data(4)
    ratios = {}
    for kind in (IWAE, DoublyReparameterized):
        for num in (1, 100):
            groups = gradient_snr(case.vae.model, case.vae.guide, x, kind(num_particles=num), num_draws=400)
            assert {
                "model",
                "guide",
                "guide.net.layers.0.weight",
                "model.likelihood.net.layers.0.bias",
            } <= groups.keys()
            ratios[kind, num] = groups["guide"].quantile(0.5)
            ratios[kind, num, "model"] = groups["model"].quantile(0.5)
    assert ratios[IWAE, 100] < 0.4 * ratios[IWAE, 1]
    assert ratios[DoublyReparameterized, 100] > 1.5 * ratios[DoublyReparameterized, 1]
    assert ratios[IWAE, 100, "model"] > 2 * ratios[IWAE, 1, "model"]


# ---------------------------------------------------------------- errors


def _scaled_apart(exact):
    return exact.vae.model, poutine.scale(exact.vae.guide, 0.5), "all sites must have one scale.* Use ELBO or BetaELBO"


def _incomplete(exact):
    return exact.vae.model, lambda x: None, "must sample every latent site"


def _enumerated(exact):
    program = Discrete(True)
    return program.model, program.guide, "the guide must sample its sites.* Use EnumeratedELBO"


def _discrete(exact):
    program = Discrete()
    return program.model, program.guide, "must be reparameterised, got site 'y'.* Use ScoreFunction, VIMCO"


@pytest.mark.parametrize("case", [_scaled_apart, _incomplete, _enumerated, _discrete])
def test_pairs_without_a_bound_raise(exact, case) -> None:
    model, guide, message = case(exact)
    x = torch.ones(3, 4 if case in (_enumerated, _discrete) else 7)
    for kind in (IWAE, StickingTheLanding):
        with pytest.raises(ValueError, match=f"^{kind.__name__}: .*{message}"):
            kind().differentiable_loss(model, guide, x)


def test_programs_outside_an_objective_s_assumptions_raise() -> None:
    layered, x = Layered(True), torch.randn(5, 4)
    for objective in (BetaTC(num_data=5), InfoVAE()):
        with pytest.raises(ValueError, match=r"must have one latent site, got .*z2.* Use ELBO or BetaELBO"):
            objective.loss(layered.model, layered.guide, x)
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4,)), Augmented())
    x = vae.sample(3)
    with pytest.raises(
        ValueError, match=r"^FreeBits: the guide must have no auxiliary sites, got site 'z_joint'\. Use"
    ):
        FreeBits().loss(vae.model, vae.guide, x)
    with pytest.raises(ValueError, match=r"^BetaTC: the posterior must factorise .* Use BetaELBO or InfoVAE"):
        BetaTC(num_data=3).loss(vae.model, vae.guide, x)

    def whole(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))

    with pytest.raises(ValueError, match=r"^FreeBits: the posterior must factorise .* Use groups='site'"):
        FreeBits().loss(vae.model, whole, x)
    assert math.isfinite(FreeBits(groups="site").loss(vae.model, whole, x))


def test_sleep_needs_observed_values_that_are_arguments(exact: LinearGaussian) -> None:
    def model(x):
        return exact.vae.model(2 * x)

    with pytest.raises(
        ValueError, match=r"observed values must be arguments of the programs.* site 'x'.*guide_phase='wake'"
    ):
        WakeSleep().loss(model, exact.vae.guide, exact.data(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(IWAE, num_particles=0), "IWAE: num_particles must be at least 1, got num_particles=0."),
        (partial(MIWAE, num_batches=0), "MIWAE: num_batches must be at least 1, got num_batches=0."),
        (partial(Renyi, alpha=math.nan), "Renyi: alpha must be a number"),
        (partial(VIMCO, num_particles=1), "VIMCO: num_particles must be at least 2"),
        (partial(ScoreFunction, baseline="leave-one-out"), "num_particles must be at least 2 for 'leave-one-out'"),
        (partial(ScoreFunction, baseline="x"), "baseline must be one of 'none', 'batch', 'leave-one-out', got"),
        (partial(ReweightedWakeSleep, guide_phase="x"), "guide_phase must be one of 'wake', 'sleep', 'both'"),
        (partial(FreeBits, nats=-1.0), "FreeBits: nats must be finite and at least 0"),
        (partial(FreeBits, groups="x"), "FreeBits: groups must be one of 'dimension', 'site'"),
        (partial(BetaTC, num_data=0), "BetaTC: num_data must be at least 1"),
        (partial(BetaTC, num_data=5, gamma=-1.0), "BetaTC: gamma must be finite and at least 0"),
        (partial(InfoVAE, alpha=2.0), "InfoVAE: alpha must be at most 1"),
        (partial(InfoVAE, alpha=0.0, mmd_weight=0.5), "InfoVAE: mmd_weight must be at least 1 - alpha"),
        (partial(InfoVAE, kernel="x"), "InfoVAE: kernel must be one of 'rbf', 'imq'"),
        (partial(InfoVAE, bandwidth=0.0), "InfoVAE: bandwidth must be positive"),
    ],
)
def test_options_out_of_range_raise(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()

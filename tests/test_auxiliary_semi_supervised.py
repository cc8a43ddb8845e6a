"""ADGM and SDGM: exact values if all variables are normal given y, and labels handled as by M2."""

from __future__ import annotations

import copy
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam as PyroAdam
from torch import nn
from torch.distributions import OneHotCategorical
from torch.optim import Adam

from pyro_vae import fit, log_likelihood, log_weights, objectives
from pyro_vae.data import ImageSet
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, IAFGuide, PlanarFlowGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.models import ADGM, SDGM
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior
from tests.linear_auxiliary import LinearAuxiliary
from tests.test_engines import assert_agrees, engine_of

KINDS = [ADGM, SDGM]
C, L, A, SHAPE = 3, 2, 4, (1, 5)
both = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
particles = pytest.mark.parametrize("num_particles", [1, 3])


def net(*context_dim):
    return partial(ContextNetwork, context_dim=context_dim, net=partial(MLP, hidden=(6,)), hidden=(7,))


def pieces_of(kind, *, estimator="enumerate", latent_dim=L, auxiliary_dim=A, shape=SHAPE, classes=C):
    """Small networks of different sizes throughout; y matters to each."""
    skip = kind is SDGM
    p_a = DiagonalNormalGuide((latent_dim,) if skip else shape, auxiliary_dim, net=net(C) if skip else net(C, L))
    return {
        "prior": StandardNormalPrior(latent_dim),
        "likelihood": BernoulliLikelihood(latent_dim, shape, net=net(C, A) if skip else net(C)),
        "guide": DiagonalNormalGuide(shape, latent_dim, net=net(C, A)),
        "classifier": CategoricalGuide(shape, classes, net=net(A), estimator=estimator),
        "auxiliary": DiagonalNormalGuide(shape, auxiliary_dim, net=MLP),
        "auxiliary_model": p_a,
    }


def small(kind, *, weight=0.0, **options):
    return kind(**pieces_of(kind, **options), classification_weight=weight)


def batch(num=6):
    y = torch.arange(num) % C
    return torch.rand(num, *SHAPE).round(), torch.where(torch.arange(num) % 2 == 0, y, -1)


def bounds(num_particles):
    """Three implementations of the bound: all values enumerated, Pyro's with terms, Pyro's."""
    pyros = TraceEnum_ELBO(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
    enumerated = [cls(num_particles=num_particles) for cls in (objectives.EnumeratedELBO, objectives.TraceEnumELBO)]
    return [*enumerated, pyros]


# ---------------------------------------------------------------- exact


@both
@pytest.mark.parametrize("labels", ["none", "some", "all"])
def test_every_weight_is_the_evidence_under_the_exact_posterior(kind, labels) -> None:
    case = LinearAuxiliary(kind, blind=labels != "none")
    x, y = case.data(7)
    y[:: 2 if labels == "some" else 8] = -1 if labels == "some" else y[0]
    args = (x,) if labels == "none" else (x, y)
    weights = log_weights(case.vae.model, case.vae.guide, args, 5)
    torch.testing.assert_close(weights, case.log_evidence(*args).expand(5, 7), rtol=0, atol=1e-9)


@both
@particles
@pytest.mark.parametrize("labels", ["none", "some", "all"])
def test_every_bound_is_the_evidence_under_the_exact_posterior(kind, num_particles, labels) -> None:
    case = LinearAuxiliary(kind, blind=labels != "none")
    x, y = case.data(7)
    y = torch.where(torch.arange(7) % 2 == 0, -1, y) if labels == "some" else y
    args = (x,) if labels == "none" else (x, y)
    for objective in bounds(num_particles):
        assert abs(objective.loss(case.vae.model, case.vae.guide, *args) + case.log_evidence(*args).sum()) < 1e-9


@both
def test_the_auxiliary_variable_matters_in_the_exact_case(kind) -> None:
    """Check that a depends on y and z and that its density does not cancel, so that the tests above have power."""
    case = LinearAuxiliary(kind)
    x, _ = case.data(7)
    a = case.vae.auxiliary.posterior(x).sample((2,))
    label = torch.eye(C)[0].expand(7, C)
    with torch.no_grad():
        q_y = case.vae.classifier.net(x, a).softmax(-1)
        q_z = case.vae.guide.guide.posterior(x, label, a).mean
    assert (q_y[0] - q_y[1]).abs().mean() > 0.02
    assert (q_z[0] - q_z[1]).abs().mean() > 0.02


@both
@pytest.mark.parametrize("labelled", [False, True])
def test_the_estimate_agrees_under_a_wide_guide(kind, labelled) -> None:
    case = LinearAuxiliary(kind, blind=labelled, inflate=1.4, temper=0.7)
    x, y = case.data(40)
    args = (x, torch.where(torch.arange(40) < 30, y, -1)) if labelled else (x,)
    result = log_likelihood(case.vae.model, case.vae.guide, [args], num_samples=2000)
    z = (result.log_likelihood - case.log_evidence(*args)) / result.standard_error
    assert z.abs().max() < 4.5
    assert result.standard_error.max() < 0.1


@both
def test_the_class_is_averaged_over_the_auxiliary_variable(kind) -> None:
    case = LinearAuxiliary(kind)
    (x, _), num = case.data(20), 4000
    exact, q = case.log_joint(x).softmax(-1), case.vae.auxiliary.posterior(x)
    with torch.no_grad():
        spread = case.vae.classifier.net(x, q.sample((1000,))).softmax(-1).squeeze(-2).std(0)
        probabilities, at_mean = case.vae.classify(x, num_samples=num), case.vae.classify(x, num_samples=None)
        assert (at_mean - case.vae.classifier.net(x, q.mean).softmax(-1).squeeze(-2)).abs().max() < 1e-12
    common = exact > 0.05  # the mean of a variable that is rarely above 0 is not normal
    assert ((probabilities - exact) / spread * num**0.5)[common].abs().max() < 4.5
    assert ((at_mean - exact) / spread * num**0.5)[common].abs().max() > 10
    assert (probabilities.sum(-1) - 1).abs().max() < 1e-12


@both
def test_samples_are_of_the_model(kind) -> None:
    case = LinearAuxiliary(kind)
    num = 6000
    for label in range(C):
        x = case.vae.sample(y=torch.full((num,), label))
        error = (case.covariance.diagonal()[2:] / num).sqrt()
        assert ((x.mean(0) - case.mean[label, 2:]) / error).abs().max() < 4.5
    x, mean = case.vae.sample(num), case.vae.sample(num, mean=True)
    weights = case.logits.softmax(-1)
    centre = weights @ case.mean[:, 2:]
    second = case.covariance.diagonal()[2:] + weights @ (case.mean[:, 2:] - centre).square()
    assert ((x.mean(0) - centre) / (second / num).sqrt()).abs().max() < 4.5
    noise = (x.var(0) - mean.var(0)) / case.sigma**2  # the mean is of x given the latents
    assert (noise - 1).abs().max() < 4.5 * (2 * 2 / num) ** 0.5 * float(second.max()) / case.sigma**2


# ---------------------------------------------------------------- labels, as in M2


@both
@particles
@pytest.mark.parametrize("labels", ["none", "some", "all"])
def test_the_bounds_agree_and_so_do_their_gradients(kind, num_particles, labels) -> None:
    vae = small(kind, weight=2.0)
    x, y = batch()
    args = {"none": (x,), "some": (x, y), "all": (x, y.clamp_min(0))}[labels]
    results = []
    for objective in bounds(num_particles):
        torch.manual_seed(1)
        loss = objective.differentiable_loss(vae.model, vae.guide, *args)
        results.append((loss.detach(), *torch.autograd.grad(loss, list(vae.parameters()))))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-9)
    assert all(gradient.any() for gradient in results[0][1:])


@both
def test_the_gradient_is_that_of_the_loss_through_every_draw(kind) -> None:
    """At a fixed seed the loss is smooth in every parameter, so that finite differences give its gradient."""
    vae, args, step = small(kind, weight=2.0), batch(), 1e-5
    direction = [torch.randn_like(p) for p in vae.parameters()]

    def loss():
        torch.manual_seed(1)
        return objectives.EnumeratedELBO(num_particles=2).differentiable_loss(vae.model, vae.guide, *args)

    gradient = torch.autograd.grad(loss(), list(vae.parameters()))
    slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    losses = []
    with torch.no_grad():
        for factor in (1, -2):
            for p, d in zip(vae.parameters(), direction, strict=True):
                p += factor * step * d
            losses.append(loss())
    assert abs((losses[0] - losses[1]) / (2 * step) / slope - 1) < 1e-5


@both
def test_no_labels_and_missing_labels_are_the_same(kind) -> None:
    vae, (x, y) = small(kind, weight=2.0), batch()
    losses = []
    for args in ((x,), (x, torch.full_like(y, -1))):
        torch.manual_seed(1)
        losses.append(objectives.EnumeratedELBO(num_particles=2).loss(vae.model, vae.guide, *args))
    assert abs(losses[0] - losses[1]) < 1e-9


@both
def test_a_labelled_batch_is_a_sum_over_no_other_class(kind) -> None:
    """By hand: log p(y) + log p(z) + log p(x | ...) + log p(a | ...) - log q(a | x) - log q(z | a, x, y)."""
    vae, (x, y) = small(kind, weight=2.0).eval(), batch()
    y = y.clamp_min(0)
    trace = poutine.trace(vae.guide).get_trace(x, y)
    a, z, label = (trace.nodes[name]["value"] for name in "azy")
    assert torch.equal(label, nn.functional.one_hot(y, C).double())
    model = vae.model
    above = (label, a) if kind is SDGM else (label,)
    p_a = model.auxiliary.posterior(z, label) if kind is SDGM else model.auxiliary.posterior(x, label, z)
    joint = model.likelihood(z, *above).log_prob(x) + vae.prior().log_prob(z) + p_a.log_prob(a)
    joint += OneHotCategorical(logits=vae.label_prior.logits[0]).log_prob(label)
    q = vae.auxiliary.posterior(x).log_prob(a) + vae.guide.guide.posterior(x, label, a).log_prob(z)
    torch.manual_seed(1)
    expected = -(joint - q).sum()
    replayed = poutine.replay(vae.guide, trace=trace)
    assert abs(TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, replayed, x, y) - expected) < 1e-9


@both
def test_the_classification_term_uses_the_drawn_auxiliary_variable(kind) -> None:
    plain, weighted, (x, y) = small(kind), small(kind, weight=2.5), batch()
    weighted.load_state_dict(plain.state_dict())
    losses = []
    for vae in (plain, weighted):
        torch.manual_seed(1)
        losses.append(objectives.EnumeratedELBO().loss(vae.model, vae.guide, x, y))
    torch.manual_seed(1)
    a = plain.auxiliary.posterior(x).rsample((1,))
    log_q = plain.classifier.net(x, a).log_softmax(-1)[0, :, 0].detach()
    expected = -2.5 * sum(float(log_q[i, y[i]]) for i in range(len(y)) if y[i] >= 0)
    assert abs(losses[1] - losses[0] - expected) < 1e-9


@both
def test_estimates_omit_the_classification_term(kind) -> None:
    vae, data = small(kind, weight=3.0), [batch()]
    first = log_likelihood(vae.model, vae.guide, data, num_samples=20)
    vae.guide.classification_weight = 0.0
    assert torch.equal(first.log_likelihood, log_likelihood(vae.model, vae.guide, data, num_samples=20).log_likelihood)


@pytest.mark.slow
@both
def test_the_score_function_has_the_enumerated_gradient_in_expectation(kind) -> None:
    case = LinearAuxiliary(kind, inflate=1.2, temper=0.5)
    drawn = LinearAuxiliary(kind, inflate=1.2, temper=0.5, estimator="score")
    x, _ = case.data(2)

    def gradients(vae, objective, repeats=150):
        parameters = list(vae.classifier.parameters())
        draws = [
            torch.autograd.grad(objective.differentiable_loss(vae.model, vae.guide, x), parameters)
            for _ in range(repeats)
        ]
        flat = torch.stack([torch.cat([g.flatten() for g in one]) for one in draws])
        return flat.mean(0), flat.var(0) / repeats

    exact, first = gradients(case.vae, objectives.EnumeratedELBO(num_particles=30))
    score = objectives.ScoreFunction(num_particles=30, baseline="leave-one-out")
    estimate, second = gradients(drawn.vae, score)
    error = (first + second).sqrt()
    assert ((estimate - exact) / error).abs().max() < 4.5
    assert (exact.abs() / error).max() > 4.5  # the exact gradient is not zero


@both
@pytest.mark.parametrize(
    ("estimator", "objective"),
    [("score", objectives.ScoreFunction), ("score", objectives.ELBO), ("relaxed", objectives.ELBO)],
)
def test_the_other_estimators_train_everything(kind, estimator, objective) -> None:
    vae, (x, y) = small(kind, weight=1.0, estimator=estimator), batch(8)
    before = [p.detach().clone() for p in vae.parameters()]
    data = ImageSet(x, y, paired=True)
    fit(vae.model, vae.guide, data, epochs=3, batch_size=3, objective=objective(), progress=False)
    assert all((p != b).any() and p.isfinite().all() for p, b in zip(vae.parameters(), before, strict=True))
    values = poutine.trace(vae.guide).get_trace(x).nodes["y"]["value"]  # in eval mode
    assert ((values == 0) | (values == 1)).all()


@pytest.mark.slow
@both
def test_a_discrete_auxiliary_variable_is_summed_over_as_well(kind) -> None:
    pieces = pieces_of(kind)
    pieces["auxiliary"] = CategoricalGuide(SHAPE, A, net=partial(MLP, hidden=(6,)))
    options = {"net": net(C)} if kind is SDGM else {"net": net(C, L)}
    pieces["auxiliary_model"] = CategoricalGuide((L,) if kind is SDGM else SHAPE, A, **options)
    vae, args = kind(**pieces, classification_weight=2.0), batch()
    estimates = []
    for objective, infer in ((objectives.EnumeratedELBO, {"enumerate": "parallel"}), (objectives.ELBO, {})):
        vae.classifier.infer = vae.auxiliary.infer = infer
        losses = [objective(num_particles=20).loss(vae.model, vae.guide, *args) for _ in range(20)]
        estimates.append(torch.tensor(losses))
    summed, drawn = estimates
    error = ((summed.var() + drawn.var()) / 20).sqrt()
    assert abs(summed.mean() - drawn.mean()) < 4.5 * error < 2
    assert summed.var() < drawn.var()


# ---------------------------------------------------------------- training and files


@pytest.mark.slow
@both
@particles
@pytest.mark.usefixtures("uncompiled")
def test_training_is_recorded(kind, num_particles) -> None:
    vae, args = small(kind, weight=2.0), batch()
    engine = engine_of("compiled", objectives.EnumeratedELBO(num_particles=num_particles), vae.model, vae.guide, args)
    reference = TraceEnum_ELBO(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
    assert_agrees(engine, reference, args)


@pytest.mark.slow
@both
@pytest.mark.usefixtures("uncompiled")
def test_a_training_with_a_ragged_last_batch_is_the_same_under_both_engines(kind) -> None:
    x, y = batch(11)
    first, data = small(kind, weight=2.0), ImageSet(x, y, paired=True)
    second = copy.deepcopy(first)
    options = {"epochs": 4, "batch_size": 4, "objective": objectives.EnumeratedELBO(), "progress": False}
    for vae, engine in ((first, "eager"), (second, "compiled")):
        fit(vae.model, vae.guide, data, optimizer=partial(Adam, lr=1e-2), engine=engine, **options)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-8)


@both
def test_it_trains_and_the_evidence_grows(kind) -> None:
    vae, (x, y) = small(kind, weight=2.0), batch(12)
    x[y == 1, ..., 0] = 1
    objective = objectives.EnumeratedELBO(num_particles=200)
    before = objective.loss(vae.eval().model, vae.guide, x, y)
    optimizer = partial(Adam, lr=1e-2)
    options = {"epochs": 60, "batch_size": 12, "progress": False, "optimizer": optimizer}
    fit(vae.model, vae.guide, ImageSet(x, y, paired=True), objective=objectives.EnumeratedELBO(), **options)
    assert objective.loss(vae.model, vae.guide, x, y) < before - 3


@both
def test_weights_on_disk_and_copies_are_the_same_model(kind, tmp_path) -> None:
    vae, other = small(kind), small(kind)
    x, y = batch()
    torch.save(vae.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    twin = copy.deepcopy(vae)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in vae.parameters()}
    losses = []
    for each in (vae, other, twin):
        torch.manual_seed(1)
        losses.append(objectives.EnumeratedELBO().loss(each.model, each.guide, x, y))
    assert losses[0] == losses[1] == losses[2]


@both
def test_a_second_one_trains_by_pyro_s_svi(kind) -> None:
    for _ in range(2):
        vae, args = small(kind, weight=1.0), batch()
        before = [p.detach().clone() for p in vae.parameters()]
        svi = SVI(vae.model, vae.guide, PyroAdam({"lr": 1e-2}), TraceEnum_ELBO(max_plate_nesting=1))
        svi.step(*args)
        assert all((p != b).any() for p, b in zip(vae.parameters(), before, strict=True))
    pyro.clear_param_store()


# ---------------------------------------------------------------- the public surface


@both
def test_sites_and_sizes(kind) -> None:
    vae, (x, y) = small(kind), batch()
    order = ["label", "y", "z", "a", "x"] if kind is SDGM else ["label", "y", "z", "x", "a"]
    names = [name for name, site in poutine.trace(vae.model).get_trace(x, y).nodes.items() if site["type"] == "sample"]
    names.remove("data")
    assert names == order
    names = [name for name in poutine.trace(vae.guide).get_trace(x, y).stochastic_nodes if name != "data"]
    assert names == ["a", "y", "z"]
    assert (vae.num_classes, vae.latent_dim, vae.auxiliary_dim, vae.data_shape) == (C, L, A, SHAPE)
    assert vae.auxiliary is vae.guide.auxiliary
    assert vae.auxiliary_model is vae.model.auxiliary
    assert vae.classify(torch.rand(2, 3, *SHAPE), num_samples=2).shape == (2, 3, C)
    assert vae.model(x).shape == vae.sample(6).shape == (6, *SHAPE)


@both
def test_mismatched_sizes_raise_one_line_errors(kind) -> None:
    first = (L + 1,) if kind is SDGM else (1, 4)
    cases = {
        "prior, likelihood and guide must share latent_dim, got prior=3": {"prior": StandardNormalPrior(3)},
        r"likelihood, guide and classifier must share data_shape, got likelihood=\(1, 5\), guide=.*=\(4,\)": {
            "classifier": CategoricalGuide((4,), C, net=net(A))
        },
        r"likelihood and auxiliary must share data_shape, got likelihood=\(1, 5\), auxiliary=\(1, 4\)": {
            "auxiliary": DiagonalNormalGuide((1, 4), A)
        },
        r"auxiliary and auxiliary_model must share latent_dim \(the size of a\), got auxiliary=5, auxiliary_model=4": {
            "auxiliary": DiagonalNormalGuide(SHAPE, 5)
        },
        rf"the model's p\(a \| ...\) must have data_shape=.*, got auxiliary_model=\({first[0]},": {
            "auxiliary_model": DiagonalNormalGuide(first, A, net=net(C))
        },
        r"classifier and label_prior must share latent_dim \(the number of classes\), got .*=3, .*=4": {
            "label_prior": CategoricalPrior(4)
        },
        "y must be one variable, whose categories are the classes, got": {
            "label_prior": CategoricalPrior(4, categories=2),
            "classifier": CategoricalGuide(SHAPE, 4, categories=2, net=net(A)),
        },
        "classification_weight must be finite and at least 0, got classification_weight=-1": {
            "classification_weight": -1.0
        },
        "classification_weight must be a number, got classification_weight=nan": {
            "classification_weight": float("nan")
        },
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=rf"^({kind.__name__}|AuxiliarySemiSupervisedGuide): {message}") as caught:
            kind(**{**pieces_of(kind), **change})
        assert "\n" not in str(caught.value)


@both
def test_bad_calls_raise_one_line_errors(kind) -> None:
    vae, (x, y) = small(kind), batch()
    for num_samples in (0, -3):
        with pytest.raises(ValueError, match=rf"^{kind.__name__}: num_samples must be at least 1, got"):
            vae.classify(x, num_samples=num_samples)
    for wrong in (y[:3], y.double(), torch.full_like(y, C)):
        with pytest.raises(ValueError, match=r"^labels: y must"):
            vae.guide(x, wrong)
        with pytest.raises(ValueError, match=r"^labels: y must"):
            vae.model(x, wrong)


def test_any_guide_serves_as_a_component() -> None:
    pieces = pieces_of(ADGM)
    pieces["guide"] = PlanarFlowGuide(SHAPE, L, net=net(C, A))
    pieces["auxiliary"] = IAFGuide(SHAPE, A)
    vae = ADGM(**pieces)
    objectives.EnumeratedELBO(num_particles=2)(vae.model, vae.guide)(*batch()).backward()
    assert len(log_likelihood(vae.model, vae.guide, [batch()], num_samples=5)) == 6

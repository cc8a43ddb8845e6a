"""The semi-supervised model against the closed forms of a mixture of linear-Gaussian models."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyro_vae import log_likelihood, objectives
from pyro_vae.evaluation import class_posterior, log_weights
from pyro_vae.models import classification_weight
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians

KINDS = ("unlabelled", "labelled", "mixed", "all missing")


@pytest.fixture
def mixture() -> MixtureOfLinearGaussians:
    return MixtureOfLinearGaussians()


def batch(case: MixtureOfLinearGaussians, kind: str, num: int = 8) -> tuple[tuple[Tensor, ...], Tensor]:
    """Arguments of the programs, and their evidence, ``(B,)``."""
    x, y = case.data(num)
    if kind != "labelled":
        y = torch.full_like(y, -1) if kind != "mixed" else torch.where(torch.arange(num) % 3 == 0, -1, y)
    return (x,) if kind == "unlabelled" else (x, y), case.log_evidence(x, y)


def pyro_elbo(num_particles: int) -> TraceEnum_ELBO:
    return TraceEnum_ELBO(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)


OBJECTIVES = {
    "summed": lambda k: objectives.EnumeratedELBO(num_particles=k),
    "enumerated": lambda k: objectives.TraceEnumELBO(num_particles=k),
    "pyro": pyro_elbo,
}


# the closed forms themselves


def test_the_closed_forms_are_those_of_the_model() -> None:
    case = MixtureOfLinearGaussians(num_classes=3, latent_dim=1, dim=2)
    nodes = torch.linspace(-9, 9, 4001)
    x, _ = case.data(4)
    for c in range(3):
        mean = nodes.unsqueeze(-1) * case.weight[c, :, 0] + case.bias[c]  # (4001, D)
        log_p = torch.distributions.Normal(mean, case.scale).log_prob(x.unsqueeze(1)).sum(-1)
        log_p = log_p + torch.distributions.Normal(0.0, 1.0).log_prob(nodes) + case.logits.log_softmax(-1)[c]
        integral = (log_p + (nodes[1] - nodes[0]).log()).logsumexp(-1)
        assert (integral - case.log_joint(x)[:, c]).abs().max() < 1e-9
    assert (case.class_posterior(x).sum(-1) - 1).abs().max() < 1e-12
    assert case.logits.softmax(-1).max() > case.logits.softmax(-1).min() + 0.1  # p(y) is not uniform


def test_the_classifier_is_the_class_posterior_and_is_not_certain(mixture: MixtureOfLinearGaussians) -> None:
    x, _ = mixture.data(50)
    assert (mixture.vae.classify(x) - mixture.class_posterior(x)).abs().max() < 1e-12
    assert mixture.class_posterior(x).max(-1).values.median() < 0.999


# the bounds


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_exact_guide_gives_the_evidence(
    mixture: MixtureOfLinearGaussians, name: str, kind: str, num_particles: int
) -> None:
    args, evidence = batch(mixture, kind)
    loss = OBJECTIVES[name](num_particles).loss(mixture.vae.model, mixture.vae.guide, *args)
    assert abs(loss + float(evidence.sum())) < 1e-9


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_datum_and_only_unlabelled_data(mixture: MixtureOfLinearGaussians, name: str) -> None:
    for kind in KINDS:
        args, evidence = batch(mixture, kind, num=1)
        loss = OBJECTIVES[name](1).loss(mixture.vae.model, mixture.vae.guide, *args)
        assert abs(loss + float(evidence.sum())) < 1e-9


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_classification_term_applies_only_in_training(name: str) -> None:
    case = MixtureOfLinearGaussians(classification_weight=7.0)
    args, evidence = batch(case, "mixed")
    x, y = args
    log_q = case.class_posterior(x).log().gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    term = 7.0 * float(log_q[y != -1].sum())
    elbo = OBJECTIVES[name](1)
    assert abs(elbo.loss(case.vae.model, case.vae.guide, *args) + float(evidence.sum()) + term) < 1e-9
    case.vae.eval()
    assert abs(elbo.loss(case.vae.model, case.vae.guide, *args) + float(evidence.sum())) < 1e-9


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_wrong_guide_gives_a_lower_bound(name: str) -> None:
    case = MixtureOfLinearGaussians(temper=0.2)  # q(z | x, y) exact: the gap is KL(q(y | x) || p(y | x))
    args, evidence = batch(case, "unlabelled")
    q, p = case.vae.classify(args[0]).detach(), case.class_posterior(args[0])
    gap = float((q * (q.log() - p.log())).sum())
    loss = OBJECTIVES[name](1).loss(case.vae.model, case.vae.guide, *args)
    assert gap > 0.1
    assert abs(loss + float(evidence.sum()) - gap) < 1e-9


# the importance estimates


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_the_evidence(mixture: MixtureOfLinearGaussians, kind: str) -> None:
    args, evidence = batch(mixture, kind)
    weights = log_weights(mixture.vae.model, mixture.vae.guide, args, 5)
    assert (weights - evidence).abs().max() < 1e-9


@pytest.mark.parametrize("num_samples", [1, 4, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_the_log_likelihood_is_exact(mixture: MixtureOfLinearGaussians, kind: str, num_samples: int) -> None:
    args, evidence = batch(mixture, kind)
    options = {"num_samples": num_samples, "chunk_size": 3, "batch_size": 5}
    result = log_likelihood(mixture.vae.model, mixture.vae.guide, [args], **options)
    assert (result.log_likelihood - evidence).abs().max() < 1e-9


@pytest.mark.parametrize("num_samples", [1, 4, 20])
def test_the_class_posterior_is_exact(mixture: MixtureOfLinearGaussians, num_samples: int) -> None:
    x, _ = mixture.data(11)
    options = {"num_classes": 3, "num_samples": num_samples, "chunk_size": 3, "batch_size": 4}
    result = class_posterior(mixture.vae.model, mixture.vae.guide, x, **options)
    assert (result.log_joint - mixture.log_joint(x)).abs().max() < 1e-9
    assert (result.log_likelihood - mixture.log_prob(x)).abs().max() < 1e-9
    assert (result.probabilities() - mixture.class_posterior(x)).abs().max() < 1e-9


def test_the_classification_weight_is_that_of_the_paper() -> None:
    """alpha = 0.1 N in the bound of N_l labelled data (Kingma et al., 2014, eq. 9): 0.1 N / N_l for each."""
    assert classification_weight(50_000, 100) == pytest.approx(50.0)
    assert classification_weight(1350, 40, alpha=0.5) == pytest.approx(0.5 * 1350 / 40)

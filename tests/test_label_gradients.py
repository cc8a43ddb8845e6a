"""Gradients by the classifier's logits: summed over y, by the score function, and relaxed, against the closed form.

Every row has separate logits, so that the gradients of the rows are independent draws of one estimator. With the
exact q(z | x, y), log p(x, y, z) - log q(z | x, y) is log p(x, y) for every z, and the gradient has a closed form.
"""

import math

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn

from pyro_vae import objectives
from tests.mixture_of_linear_gaussians import MixtureOfLinearGaussians

ROWS = 20_000
LOGITS = torch.tensor([0.3, -0.8, 0.6], dtype=torch.float64)


class Free(nn.Module):
    """Logits of every row, independent of the datum."""

    def __init__(self, rows):
        super().__init__()
        self.logits = nn.Parameter(LOGITS.repeat(rows, 1, 1))

    def forward(self, x):
        return self.logits


def case(estimator, rows, **options):
    """A mixture whose classifier has free logits, and one datum in every row."""
    mixture = MixtureOfLinearGaussians(estimator=estimator, **options)
    mixture.vae.classifier.net = Free(rows)
    x = torch.tensor([0.2, -0.4, 0.9, 0.1, -0.3])
    return mixture, x.repeat(rows, 1)


def exact(mixture, x):
    """Gradient of the unlabelled bound by one row's logits: q_c (f_c - E_q f), with f = log p(x, y) - log q(y)."""
    q = LOGITS.softmax(-1)
    f = mixture.log_joint(x[0]) - q.log()
    return q * (f - (q * f).sum())


def gradients(objective, mixture, *args):
    """Gradients of the bound by the logits, ``(rows, C)``."""
    loss = objective.differentiable_loss(mixture.vae.model, mixture.vae.guide, *args)
    (gradient,) = torch.autograd.grad(-loss, [mixture.vae.classifier.net.logits])
    return gradient.squeeze(1)


def z_scores(estimates, expected):
    return (estimates.mean(0) - expected) / (estimates.std(0) / math.sqrt(len(estimates)))


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize(
    "objective",
    [
        lambda k: objectives.EnumeratedELBO(num_particles=k),
        lambda k: objectives.TraceEnumELBO(num_particles=k),
        lambda k: TraceEnum_ELBO(max_plate_nesting=1, num_particles=k, vectorize_particles=True),
    ],
    ids=["summed", "enumerated", "pyro"],
)
def test_the_sum_s_gradient_is_the_closed_form(objective, num_particles):
    mixture, x = case("enumerate", 4, classification_weight=1.7)
    y = torch.tensor([-1, 2, -1, 0])
    estimates = gradients(objective(num_particles), mixture, x, y)
    q, label = LOGITS.softmax(-1), torch.eye(3)[y]
    expected = torch.where((y == -1).unsqueeze(-1), exact(mixture, x), 1.7 * (label - q))
    assert (estimates - expected).abs().max() < 1e-9


def test_labels_do_not_move_the_classifier_without_the_classification_term():
    mixture, x = case("enumerate", 2)
    assert gradients(objectives.EnumeratedELBO(), mixture, x, torch.tensor([1, 2])).abs().max() == 0
    mixture, x = case("enumerate", 2, classification_weight=2.0)
    mixture.vae.eval()
    assert gradients(objectives.EnumeratedELBO(), mixture, x, torch.tensor([1, 2])).abs().max() == 0


@pytest.mark.parametrize(
    ("baseline", "num_particles"), [("none", 1), ("batch", 1), ("none", 3), ("batch", 3), ("leave-one-out", 3)]
)
def test_the_score_function_agrees_in_expectation(baseline, num_particles):
    mixture, x = case("score", ROWS)
    objective = objectives.ScoreFunction(num_particles=num_particles, baseline=baseline)
    assert z_scores(gradients(objective, mixture, x), exact(mixture, x)).abs().max() < 4.5


def test_sampled_estimators_are_exact_on_labelled_rows():
    y = torch.tensor([1, 0])
    for objective, estimator in ((objectives.ScoreFunction(baseline="none"), "score"), (Trace_ELBO(), "relaxed")):
        mixture, x = case(estimator, 2, classification_weight=0.5)
        estimates = gradients(objective, mixture, x, y)
        assert (estimates - 0.5 * (torch.eye(3)[y] - LOGITS.softmax(-1))).abs().max() < 1e-9


def test_the_relaxation_agrees_as_its_temperature_falls():
    estimates = {}
    for temperature in (3.0, 1.0, 0.2, 0.05):
        mixture, x = case("relaxed", ROWS)
        mixture.vae.classifier.temperature.fill_(temperature)
        estimates[temperature] = gradients(objectives.ELBO(), mixture, x)
        expected = exact(mixture, x)
    bias = {t: (g.mean(0) - expected).norm() for t, g in estimates.items()}
    assert z_scores(estimates[3.0], expected).abs().max() > 20, "there is a bias"
    assert z_scores(estimates[1.0], expected).abs().max() > 10
    assert bias[3.0] > bias[1.0] > bias[0.2]
    assert z_scores(estimates[0.05], expected).abs().max() < 4.5
    assert estimates[0.05].std() > estimates[0.2].std() > estimates[1.0].std(), "the variance is the price"


@pytest.mark.parametrize("label", [-2, 3])
def test_a_nonexistent_class_raises_under_validation(label):
    mixture, x = case("enumerate", 2)
    y = torch.tensor([0, label])
    for program in (mixture.vae.model, mixture.vae.guide):
        with pytest.raises(ValueError, match=r"^labels: y must be in 0\.\.2, or -1 if unknown, got "):
            program(x, y)

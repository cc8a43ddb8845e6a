"""Pareto k against distributions of known tail shape, and against arviz."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from pyro_vae.evaluation.pareto import pareto_k, tail_length


def _k(log_weights: torch.Tensor) -> torch.Tensor:
    s = len(log_weights)
    return pareto_k(log_weights.topk(tail_length(s) + 1, dim=0).values, s)


@pytest.mark.parametrize("k", [0.2, 0.5, 1.0, 1.5])
def test_the_shape_of_pareto_weights_is_estimated(k: float) -> None:
    log_weights = -k * torch.rand(20_000, 100).log()
    estimates = _k(log_weights)
    m = tail_length(20_000)
    target = (m * k + 10 * 0.5) / (m + 10)  # the estimator's weak prior
    error = (1 + k) / math.sqrt(m)  # asymptotic standard deviation of the shape
    assert abs(float(estimates.mean()) - target) < 4.5 * error / math.sqrt(100) + 0.01
    assert 0.5 * error < float(estimates.std()) < 2 * error


TAILS = {
    "light": lambda s: -0.1 * torch.rand(s, 20).log(),
    "heavy": lambda s: -1.2 * torch.rand(s, 20).log(),
    "bounded": lambda s: torch.rand(s, 20).log(),
    "log-normal": lambda s: 2.0 * torch.randn(s, 20),
    "log-Student": lambda s: torch.distributions.StudentT(3.0).sample((s, 20)),
    "far below the largest": lambda s: torch.randn(s, 20) - 3000.0 * (torch.rand(s, 20) < 0.5),
}


@pytest.mark.parametrize("num_samples", [25, 100, 2500])
@pytest.mark.parametrize("tail", TAILS)
def test_the_shape_equals_arviz_s(tail: str, num_samples: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # announces its next version at import
        import arviz
    log_weights = TAILS[tail](num_samples)
    expected = torch.as_tensor(arviz.psislw(log_weights.T.numpy())[1])
    assert (_k(log_weights) - expected).abs().max() < 1e-10


def test_bounded_weights_have_a_negative_shape() -> None:
    assert _k(torch.rand(10_000, 50).log()).max() < 0.0


def test_a_factor_on_the_weights_changes_nothing() -> None:
    log_weights = -0.8 * torch.rand(1000, 3).log()
    assert torch.allclose(_k(log_weights), _k(log_weights - 3000.0), atol=1e-9)


def test_equal_weights_and_few_samples_are_flagged() -> None:
    assert torch.equal(_k(torch.zeros(100, 2)), torch.full((2,), -torch.inf))
    assert _k(torch.randn(24, 2)).isnan().all()
    assert _k(torch.randn(25, 2)).isfinite().all()


def test_one_weight_that_dominates_is_flagged() -> None:
    log_weights = torch.randn(1000, 1)
    log_weights[3] = 500.0
    assert _k(log_weights).item() > 0.7


def test_tail_length_is_that_of_the_paper() -> None:
    assert [tail_length(s) for s in (25, 100, 225, 5000)] == [5, 20, 45, 213]

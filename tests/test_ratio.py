"""Density ratios: known ones are found, the steps are Adam's, penalty and spectral norm bound the slope."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.distributions import Independent, Normal

from pyro_vae.networks import MLP
from pyro_vae.objectives import RatioNetwork, RatioTraining, fit_ratio


def gaussians(dim: int):
    """Two normal distributions that differ in location and scale."""
    p = Normal(torch.full((dim,), dim**-0.5), torch.linspace(0.8, 1.2, dim))
    return Independent(p, 1), Independent(Normal(torch.zeros(dim), torch.ones(dim)), 1)


CASES = [
    pytest.param(2, (64, 64), {"num_steps": 600, "lr": 5e-3}, id="2"),
    pytest.param(10, (128, 128), {"num_steps": 2000, "lr": 3e-3, "batch_size": 512}, id="10", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dim", "hidden", "options"), CASES)
def test_a_known_ratio_is_within_five_percent_where_there_are_data(dim: int, hidden: tuple, options: dict) -> None:
    torch.set_default_dtype(torch.float32)  # clean_state puts it back
    p, q = gaussians(dim)
    network = RatioNetwork((dim,), net=partial(MLP, hidden=hidden, activation="silu"))
    fit_ratio(network, p.sample((400_000,)), q.sample((300_000,)), **options)
    z = torch.cat([p.sample((5000,)), q.sample((5000,))])
    exact = p.log_prob(z) - q.log_prob(z)
    with torch.no_grad():
        assert (network(z) - exact).abs().mean() < 0.05
    assert exact.std() > 1.2


def test_steps_are_those_of_adam() -> None:
    torch.manual_seed(1)
    one, two = (RatioNetwork((3,)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    training = RatioTraining(one, lr=3e-3, betas=(0.5, 0.9))
    adam = torch.optim.Adam(two.parameters(), lr=3e-3, betas=(0.5, 0.9))
    for _ in range(5):
        p, q = torch.randn(20, 3) + 1, torch.randn(20, 3)
        logits = two(torch.cat([p, q]))
        loss = -(torch.sigmoid(logits[:20]).log().mean() + (1 - torch.sigmoid(logits[20:])).log().mean())
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert training.step(p, q).item() == pytest.approx(loss.item(), rel=1e-12)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert not a.requires_grad


def test_the_penalty_is_the_mean_squared_slope() -> None:
    network = RatioNetwork((2,))
    training = RatioTraining(network, gradient_penalty=3.0)
    z = torch.randn(8, 2, requires_grad=True)
    slopes = torch.stack([torch.autograd.functional.jacobian(network, row) for row in z])  # (8, 2)
    expected = 3.0 / 2 * (slopes[:4].square().sum(-1).mean() + slopes[4:].square().sum(-1).mean())
    assert float(training._penalty(network(z), z).detach()) == pytest.approx(float(expected), rel=1e-9)


def test_spectral_norm_bounds_the_slope() -> None:
    torch.manual_seed(0)
    network = RatioNetwork((2,), spectral_norm=True)
    fit_ratio(network, torch.randn(300, 2) + 4, torch.randn(300, 2), num_steps=60, lr=0.02)
    z = torch.randn(200, 2) * 3
    slopes = (network(z[1:]) - network(z[:-1])).abs() / (z[1:] - z[:-1]).norm(dim=-1)
    assert 0.3 < slopes.max() < 1.4  # a product of slopes 1, of which silu has at most 1.1


def test_the_random_state_and_the_result_of_a_seed() -> None:
    p, q = torch.randn(50, 2), torch.randn(70, 2)
    before, losses = torch.get_rng_state(), []
    for _ in range(2):
        torch.manual_seed(2)
        losses.append(fit_ratio(RatioNetwork((2,)), p, q, num_steps=3, seed=4))
    torch.manual_seed(2)
    assert losses[0] == losses[1]
    assert losses[0] != fit_ratio(RatioNetwork((2,)), p, q, num_steps=3, seed=5)
    torch.set_rng_state(before)
    fit_ratio(RatioNetwork((2,)).requires_grad_(), p, q, num_steps=1)
    assert losses[0][0] == pytest.approx(2 * math.log(2), abs=0.3)


def test_wrong_samples() -> None:
    network, good = RatioNetwork((2,)), torch.randn(5, 2)
    for p, q, words in (
        (torch.randn(5, 3), good, r"p must have shape \(N, 2\), got \(5, 3\)"),
        (good, good[:0], r"q must have shape \(N, 2\), got \(0, 2\)"),
        (good, good * math.nan, "q must be finite"),
    ):
        with pytest.raises(ValueError, match=f"^fit_ratio: {words}"):
            fit_ratio(network, p, q)
    for options, words in (({"lr": 0.0}, "lr must be positive"), ({"betas": (0.5,)}, "betas must be two numbers")):
        with pytest.raises(ValueError, match=f"^RatioTraining: {words}"):
            RatioTraining(network, **options)
    with pytest.raises(ValueError, match=r"^RatioTraining: gradient_penalty must be finite and at least 0"):
        RatioTraining(network, gradient_penalty=-1.0)

"""Every objective against the exact value and the exact gradient on the linear-Gaussian model."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_vae import objectives
from pyro_vae.objectives import ELBO, BetaELBO, BetaMeanFieldELBO, LinearWarmUp, MeanFieldELBO, Objective
from tests.linear_gaussian import LinearGaussian

ALL = [ELBO, MeanFieldELBO, BetaELBO, BetaMeanFieldELBO]


def _loss(objective: Objective, case: LinearGaussian, x: torch.Tensor) -> torch.Tensor:
    return objective.differentiable_loss(case.vae.model, case.vae.guide, x)


def _exact_elbo(case: LinearGaussian, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction and KL per datum, differentiable, by the moments of the two normals."""
    q = case.vae.guide.posterior(x)
    kl = kl_divergence(q.base_dist, case.vae.prior().base_dist).sum(-1)
    layer = case.vae.likelihood.net.layers[0]
    mean = q.mean @ layer.weight.T + layer.bias
    spread = q.variance @ layer.weight.square().sum(0)
    residual = (x - mean).square().sum(-1) + spread
    return -0.5 * residual / case.scale**2 - 0.5 * x.shape[-1] * math.log(2 * math.pi * case.scale**2), kl


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("num_particles", [1, 5])
def test_value_at_the_exact_posterior(exact: LinearGaussian, kind: type[Objective], num_particles: int) -> None:
    x = exact.data(6)
    objective = kind(num_particles=num_particles)
    loss = _loss(objective, exact, x)
    terms = objective.terms
    assert loss.item() == pytest.approx(float(terms.kl - terms.reconstruction), abs=1e-9)
    if not objective.analytic_kl:  # with the exact posterior every sampled ELBO is the evidence
        assert loss.item() == pytest.approx(-float(exact.log_prob(x).sum()), abs=1e-9)
    else:
        assert float(terms.kl) == pytest.approx(_exact_elbo(exact, x)[1].sum().item(), abs=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_value_and_gradient_in_expectation(kind: type[Objective]) -> None:
    case = LinearGaussian(latent_dim=2, dim=3, inflate=1.3, shift=0.2)
    x, num = case.data(1), 4000
    x_many = x.expand(num, -1)  # independent draws, one per row
    objective = kind()
    parameters = list(case.vae.parameters())
    loss = _loss(objective, case, x_many) / num
    gradients = torch.autograd.grad(loss, parameters)
    rec, kl = _exact_elbo(case, x)
    expected = torch.autograd.grad((kl - rec).sum(), parameters)
    again = [_loss(kind(), case, x.expand(200, -1)) / 200 for _ in range(30)]
    se = float(torch.stack([a.detach() for a in again]).std()) * math.sqrt(200 / num)
    assert abs(loss.item() - (kl - rec).item()) < 4.5 * se
    spreads = [torch.stack(g).std(0) for g in zip(*(torch.autograd.grad(a, parameters) for a in again), strict=True)]
    for gradient, truth, spread in zip(gradients, expected, spreads, strict=True):
        assert ((gradient - truth).abs() < 5 * spread * math.sqrt(200 / num) + 1e-9).all()


def test_elbo_is_pyros_at_equal_seeds() -> None:
    case = LinearGaussian(inflate=1.3)
    x = case.data(5)
    for elbo, pyro_elbo in ((ELBO(), Trace_ELBO()), (MeanFieldELBO(), TraceMeanField_ELBO())):
        results = []
        for objective in (elbo, pyro_elbo):
            torch.manual_seed(3)
            loss = objective.differentiable_loss(case.vae.model, case.vae.guide, x)
            results.append((loss, torch.autograd.grad(loss, list(case.vae.parameters()))))
        assert torch.equal(results[0][0], results[1][0])
        assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("kind", [BetaELBO, BetaMeanFieldELBO])
@pytest.mark.parametrize(("beta", "weight"), [(0.0, 1.0), (1.0, 0.0), (4.0, 1.0), (0.5, 2.0)])
def test_weights_apply_to_the_terms(kind: type[Objective], beta: float, weight: float) -> None:
    case = LinearGaussian(inflate=1.3)
    x = case.data(5)
    objective = kind(beta=beta, reconstruction_weight=weight, num_particles=3)
    torch.manual_seed(3)
    loss = _loss(objective, case, x)
    plain = MeanFieldELBO(num_particles=3) if objective.analytic_kl else ELBO(num_particles=3)
    torch.manual_seed(3)
    _loss(plain, case, x)
    assert torch.allclose(torch.stack(objective.terms), torch.stack(plain.terms), atol=1e-9)
    terms = objective.terms
    assert loss.item() == pytest.approx(float(beta * terms.kl - weight * terms.reconstruction), abs=1e-9)


def test_beta_zero_ignores_the_prior(exact: LinearGaussian) -> None:
    x = exact.data(5)
    layer = exact.vae.guide.net.layers[0]
    torch.manual_seed(3)
    loss = _loss(BetaELBO(beta=0.0), exact, x)
    torch.manual_seed(3)
    z = exact.vae.encode(x).rsample()
    expected = -exact.vae.decode(z).log_prob(x).sum()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    gradient, truth = (torch.autograd.grad(value, layer.weight)[0] for value in (loss, expected))
    assert (gradient - truth).abs().max() < 1e-9


def test_the_schedule_moves_beta(exact: LinearGaussian) -> None:
    objective = BetaELBO(beta=LinearWarmUp(10, unit="epochs"))
    x = exact.data(5)
    for epoch in (0.0, 2.5, 20.0):
        objective.set_progress(step=0, epoch=epoch)
        loss = _loss(objective, exact, x)
        beta = min(1.0, epoch / 10)
        assert loss.item() == pytest.approx(float(beta * objective.terms.kl - objective.terms.reconstruction))


@pytest.mark.parametrize("kind", ALL)
def test_one_objective_serves_models_of_different_plates(exact: LinearGaussian, kind: type[Objective]) -> None:
    objective = kind(num_particles=3)
    x = exact.data(4)

    def model(y):
        with pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 2, dim=-1):
            pyro.sample("y", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=y)

    def guide(y):
        with pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 2, dim=-1):
            pyro.sample("z", Normal(y / 2, 0.5**0.5))

    y = torch.randn(4, 2)
    for _ in range(2):
        exact_loss = -float(exact.log_prob(x).sum())
        _loss(objective, exact, x)
        loss = objective.differentiable_loss(model, guide, y).item()
        if not objective.analytic_kl:
            assert _loss(objective, exact, x).item() == pytest.approx(exact_loss, abs=1e-9)
            assert loss == pytest.approx(-float(Normal(0.0, 2**0.5).log_prob(y).sum()), abs=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_a_subsampled_plate_scales_the_loss_and_not_the_terms(kind: type[Objective]) -> None:
    def model(x):
        with pyro.plate("data", 50, subsample=torch.arange(len(x))):
            pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 50, subsample=torch.arange(len(x))):
            pyro.sample("z", Normal(x / 2, 0.5**0.5))

    objective, x = kind(), torch.randn(5)
    loss = objective.differentiable_loss(model, guide, x)
    assert loss.item() == pytest.approx(10 * float(objective.terms.kl - objective.terms.reconstruction))


def test_svi_accepts_it(exact: LinearGaussian) -> None:
    for kind in ALL:
        svi = SVI(exact.vae.model, exact.vae.guide, pyro.optim.Adam({"lr": 1e-3}), kind())
        assert math.isfinite(svi.step(exact.data(5)))
        assert math.isfinite(svi.evaluate_loss(exact.data(5)))


def test_mean_field_raises_without_a_closed_form(exact: LinearGaussian) -> None:
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.StudentT(5.0, torch.zeros(3), torch.ones(3)).to_event(1))

    with pytest.raises(ValueError, match=r"'z' must have an analytic KL.*Use ELBO"):
        MeanFieldELBO().differentiable_loss(exact.vae.model, guide, exact.data(4))


@pytest.mark.filterwarnings("ignore:Failed to verify mean field")
def test_mean_field_raises_on_another_order_of_sites() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", Normal(0.0, 1.0))
            b = pyro.sample("b", Normal(a, 1.0))
            pyro.sample("x", Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", Normal(x, 1.0))
            pyro.sample("a", Normal(b, 1.0))

    with pytest.raises(ValueError, match="in the same order"):
        MeanFieldELBO().differentiable_loss(model, guide, torch.randn(4))
    ELBO().differentiable_loss(model, guide, torch.randn(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta must be finite and at least 0, got beta=-1.0"),
        ({"beta": float("inf")}, "beta must be finite and at least 0, got beta=inf"),
        ({"reconstruction_weight": -0.5}, "reconstruction_weight must be finite and at least 0"),
        ({"num_particles": 0}, "num_particles must be at least 1"),
    ],
)
def test_bad_weights_raise(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objectives.BetaELBO(**options)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("mask", [True, False, torch.tensor([True, False, True])])
def test_masks_of_every_kind(kind: type[Objective], mask: bool | torch.Tensor) -> None:
    def model(x):
        with pyro.plate("data", 3), pyro.poutine.mask(mask=mask):
            pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3), pyro.poutine.mask(mask=mask):
            pyro.sample("z", Normal(x / 2, 0.5**0.5))

    objective, x = kind(), torch.randn(3)
    loss = objective.differentiable_loss(model, guide, x)
    assert float(loss) == pytest.approx(float(objective.terms.kl - objective.terms.reconstruction), abs=1e-9)

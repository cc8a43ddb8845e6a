"""FactorVAE: its loss, what trains its network and what does not, its estimate of a known total correlation."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam

from pyro_vae import VAE, fit
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.objectives import ELBO, FactorVAE
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder
from tests.linear_gaussian import LinearGaussian


def state(objective: FactorVAE, case: LinearGaussian, x: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in objective.trained(case.vae.model, case.vae.guide, x)]


def test_the_loss_is_the_elbo_and_the_weighted_ratio(exact: LinearGaussian) -> None:
    x, objective = exact.data(6), FactorVAE(gamma=3.0, hidden=(5,))
    loss = objective.differentiable_loss(exact.vae.model, exact.vae.guide, x)
    z = objective._samples
    with torch.no_grad():
        ratio = objective.ratio.network(z).sum()
    assert loss.item() == pytest.approx(float(3.0 * ratio - exact.log_prob(x).sum()), abs=1e-9)
    terms = objective.terms
    assert float(terms.reconstruction - terms.kl) == pytest.approx(float(exact.log_prob(x).sum()), abs=1e-9)


def test_the_gradient_follows_the_ratio_through_the_samples(exact: LinearGaussian) -> None:
    x, parameters = exact.data(6), list(exact.vae.guide.parameters())
    gradients = []
    for objective in (FactorVAE(gamma=3.0, hidden=(5,)), ELBO()):
        objective.differentiable_loss(exact.vae.model, exact.vae.guide, x)
        torch.manual_seed(4)
        loss = objective.differentiable_loss(exact.vae.model, exact.vae.guide, x)
        if isinstance(objective, FactorVAE):
            torch.manual_seed(4)
            ratio = objective.ratio.network(exact.vae.guide.posterior(x).rsample()).sum()
            extra = torch.autograd.grad(3.0 * ratio, parameters)
        gradients.append(torch.autograd.grad(loss, parameters))
    for whole, elbo, more in zip(*gradients, extra, strict=True):
        torch.testing.assert_close(whole, elbo + more, rtol=1e-9, atol=1e-11)


def test_only_an_update_trains_the_network(exact: LinearGaussian) -> None:
    x, objective = exact.data(6), FactorVAE(hidden=(5,))
    before = state(objective, exact, x)
    objective.differentiable_loss(exact.vae.model, exact.vae.guide, x).backward()
    objective.loss(exact.vae.model, exact.vae.guide, x)
    assert all(map(torch.equal, before, state(objective, exact, x)))
    weights = [p.clone() for p in exact.vae.parameters()]
    assert objective.update() > 0
    assert not any(map(torch.equal, before[:2], state(objective, exact, x)[:2]))
    assert all(map(torch.equal, weights, exact.vae.parameters()))
    after = state(objective, exact, x)
    assert objective.update() == 0.0  # each batch once
    assert all(map(torch.equal, after, state(objective, exact, x)))


def test_pyro_s_svi_trains_the_network(exact: LinearGaussian) -> None:
    x, objective = exact.data(6), FactorVAE(hidden=(5,))
    before = state(objective, exact, x)
    SVI(exact.vae.model, exact.vae.guide, Adam({"lr": 1e-3}), objective).step(x)
    assert not torch.equal(before[0], state(objective, exact, x)[0])


def test_the_total_correlation_of_a_normal_aggregate() -> None:
    """q(z) = N(0, S) has the total correlation -log(det S / prod diag S) / 2."""
    torch.manual_seed(3)
    covariance = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 1.0]])
    exact = -0.5 * torch.logdet(covariance)
    factor, objective = torch.linalg.cholesky(covariance), FactorVAE(hidden=(32, 32), lr=3e-3, betas=(0.9, 0.99))
    vae = VAE(StandardNormalPrior(3), BernoulliLikelihood(3, (4,)), DiagonalNormalGuide((4,), 3))
    objective.trained(vae.model, vae.guide, torch.ones(2, 4))
    for _ in range(400):
        objective._samples = torch.randn(500, 3) @ factor.T
        objective.update()
    with torch.no_grad():
        estimate = objective.ratio.network(torch.randn(20_000, 3) @ factor.T)
    assert abs(estimate.mean() - exact) < 0.05
    assert exact > 0.5


def _train(objective: FactorVAE, **options: object) -> VAE:
    torch.manual_seed(1)
    case = LinearGaussian(latent_dim=2, dim=4)
    fit(case.vae.model, case.vae.guide, case.data(40), batch_size=20, engine="eager", objective=objective, **options)
    return case.vae


def _same(one: VAE, two: VAE) -> bool:
    return all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_every_training_starts_with_a_new_network_that_follows_its_seed() -> None:
    objective = FactorVAE(hidden=(5,))
    first, second, other = (_train(objective, epochs=3, seed=seed) for seed in (0, 0, 1))
    assert _same(first, second)
    assert not _same(first, other)


def test_the_network_is_in_the_checkpoint_and_not_in_the_weights(tmp_path) -> None:
    objective = FactorVAE(hidden=(5,))
    whole = _train(objective, epochs=4)
    _train(FactorVAE(hidden=(5,)), epochs=2, run=tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert len(run.load_weights()) == len(whole.state_dict())
    assert _same(whole, _train(FactorVAE(hidden=(5,)), epochs=4, run=tmp_path / "run", resume=True))
    damaged = run.load_state()
    damaged["objective"][0] = damaged["objective"][0][:1]
    run.save_state(damaged)
    with pytest.raises(ValueError, match=r"state.pt: objective.0 must be torch.float64 of shape \(5, 2\)"):
        _train(FactorVAE(hidden=(5,)), epochs=5, run=tmp_path / "run", resume=True)


def test_skipped_steps_do_not_train_the_network(exact: LinearGaussian) -> None:
    objective = FactorVAE(hidden=(5,))
    _train(objective, epochs=1, skip_norm=1e-9)
    assert float(objective.ratio._count) == 0
    _train(objective, epochs=1)
    assert float(objective.ratio._count) == 2


def test_refusals() -> None:
    for options, words in (({"gamma": -1.0}, "FactorVAE: gamma"), ({"lr": 0.0}, "RatioTraining: lr must be positive")):
        with pytest.raises(ValueError, match=f"^{words}"):
            FactorVAE(**options)

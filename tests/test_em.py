"""EM against scikit-learn, k-means, closed forms and Pyro's enumeration; mixture models; guides without sites."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Categorical, Normal
from pyro.infer import TraceEnum_ELBO
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.optim import SGD, Adam

from pyro_vae import fit, log_likelihood
from pyro_vae.likelihoods import BernoulliLikelihood, PoissonLikelihood
from pyro_vae.models import BernoulliComponents, MixtureModel, NormalComponents
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, EnumeratedELBO, LinearWarmUp, TraceEnumELBO
from pyro_vae.training import fit_em
from pyro_vae.training.em_steps import Chains
from tests.linear_gaussian import LinearGaussian

NAMES = {"full": "full", "tied": "tied", "diagonal": "diag"}
linear = partial(MLP, hidden=())


def clusters(num: int = 60, dim: int = 3) -> Tensor:
    """Four correlated clusters that overlap."""
    return torch.cat([torch.randn(num, dim) @ torch.randn(dim, dim) + 3 * torch.randn(dim) for _ in range(4)])


def curve(history: list[dict[str, float]]) -> list[float]:
    return [value for record in history for value in (record["elbo_e"], record["elbo_m"])]


def from_same_start(model: MixtureModel, kind: str, iterations: int) -> GaussianMixture:
    """scikit-learn's mixture at the parameters of the model."""
    p = model.likelihood(torch.eye(model.num_components))
    precision = 1 / p.variance if kind == "diagonal" else p.precision_matrix
    return GaussianMixture(
        model.num_components,
        covariance_type=NAMES[kind],
        reg_covar=0,
        tol=1e-300,
        max_iter=iterations,
        weights_init=model.prior.logits[0].softmax(-1).detach().numpy(),
        means_init=model.likelihood.locs.detach().numpy(),
        precisions_init=(precision[0] if kind == "tied" else precision).detach().numpy(),
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", NAMES)
def test_exact_em_is_that_of_scikit_learn_and_never_falls(kind: Any) -> None:
    x = clusters()
    model = MixtureModel(NormalComponents((3,), 3, covariance=kind))
    fit_em(model, x, iterations=1)
    other = from_same_start(model, kind, 25).fit(x.numpy())
    result = fit_em(model, x, start="model", iterations=25, tolerance=0.0)
    assert abs(other.score(x.numpy()) - model.log_prob(x).mean()) < 1e-9
    assert np.diff(curve(result.history)).min() > -1e-12
    assert abs(model.bic(x) - other.bic(x.numpy())) < 1e-6
    np.testing.assert_allclose(model.responsibilities(x).numpy(), other.predict_proba(x.numpy()), atol=1e-6)


def test_hard_em_of_spherical_components_is_k_means() -> None:
    x = clusters()
    model = MixtureModel(NormalComponents((3,), 4, covariance="spherical"), learn_weights=False)
    with torch.no_grad():
        model.likelihood.locs.copy_(x[:4])
    means = KMeans(4, init=x[:4].numpy(), n_init=1, tol=0).fit(x.numpy())
    result = fit_em(model, x, e_step="hard", start="model", tolerance=1e-12)
    assert result.converged
    assert np.diff(curve(result.history)).min() > -1e-12
    np.testing.assert_allclose(model.likelihood.locs.detach().numpy(), means.cluster_centers_, atol=1e-9)
    assert (model.responsibilities(x).argmax(-1).numpy() == means.labels_).all()


def test_em_gradient_and_enumeration_meet_at_one_optimum() -> None:
    x = torch.cat([torch.randn(40, 2), torch.randn(40, 2) * 0.6 + 3])
    model = MixtureModel(NormalComponents((2,), 2))
    assert fit_em(model, x, iterations=2000, tolerance=1e-13).converged
    exact = model.log_prob(x).sum()
    for objective in (EnumeratedELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        loss = objective.differentiable_loss(model, model.guide, x)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert abs(loss + exact) < 1e-9
        assert max(float(g.abs().max()) for g in gradients) < 1e-3 * len(x) ** 0.5
    best = float(exact) / len(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert float(model.log_prob(x).mean()) < best - 1e-3
    ascent = fit_em(model, x, e_step="gradient", start="model", iterations=15, optimizer=partial(Adam, lr=0.02))
    assert -1e-4 < ascent.history[-1]["elbo_m"] - best < 1e-9
    assert ascent.history[-1]["elbo_m"] == pytest.approx(float(model.log_prob(x).mean()), abs=1e-12)


def test_a_monte_carlo_e_step_of_a_mixture_is_near_the_exact_one() -> None:
    x = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 3])
    model = MixtureModel(NormalComponents((2,), 2))
    best = fit_em(model, x, iterations=500, tolerance=1e-12).history[-1]["elbo_m"]
    history = fit_em(model, x, e_step="monte-carlo", num_samples=400, start="model", iterations=5).history
    assert len(history) == 5
    assert abs(float(model.log_prob(x).mean()) - best) < 1e-3
    assert history[-1]["elbo_m"] < best  # the ELBO of frequencies


def test_fit_trains_a_mixture_by_its_enumerated_elbo() -> None:
    x = clusters(20, 2)
    model = MixtureModel(NormalComponents((2,), 2, covariance="diagonal"))
    before = float(model.log_prob(x).mean())
    result = fit(
        model, model.guide, x, objective=EnumeratedELBO(), epochs=3, batch_size=20, engine="eager", progress=False
    )
    record = result.history[-1]
    assert record["elbo"] == pytest.approx(-record["rate"] - record["distortion"])
    assert float(model.log_prob(x).mean()) > before
    estimate = log_likelihood(model, model.guide, x, num_samples=1, engine="eager")
    torch.testing.assert_close(estimate.log_likelihood.to(x), model.log_prob(x))


# ---------------------------------------------------------------- Monte Carlo EM of continuous latents


@pytest.fixture
def case() -> LinearGaussian:
    return LinearGaussian(latent_dim=2, dim=4, scale=0.7)


def test_the_chains_sample_the_posterior(case: LinearGaussian) -> None:
    x = case.data(3)
    with pyro.validation_enabled(False):
        chains = Chains(case.vae.model, x, 400, 40, 5)
        chains.expect(torch.arange(3))
    mean = (chains.u - case.posterior_mean(x)).mean(0)
    spread = case.posterior_variance().sqrt()
    assert ((mean / spread).abs() * 400**0.5).max() < 4.5
    variance = chains.u.var(0) / case.posterior_variance()
    assert ((variance - 1).abs() * (399 / 2) ** 0.5).max() < 4.5
    assert 0.3 < chains.acceptance < 1.0  # type: ignore[operator]


def exact_em(case: LinearGaussian, x: Tensor, iterations: int) -> float:
    """Mean log p(x) of the linear-Gaussian model with a fixed scale after EM in closed form."""
    ones = torch.ones(len(x), 1)
    for _ in range(iterations):
        z = torch.cat([case.posterior_mean(x), ones], -1)  # (N, L + 1)
        second = z.mT @ z
        second[:-1, :-1] += len(x) * case.posterior_covariance()
        solution = torch.linalg.solve(second, z.mT @ x).mT  # (D, L + 1)
        case.weight, case.bias = solution[:, :-1], solution[:, -1]
    return float(case.log_prob(x).mean())


def test_monte_carlo_em_agrees_with_exact_em_of_the_linear_gaussian_model(case: LinearGaussian) -> None:
    x = case.data(200)
    other = LinearGaussian(latent_dim=2, dim=4, scale=0.7)
    layer = other.vae.likelihood.net.layers[0]
    with torch.no_grad():
        layer.weight.mul_(0.3)
        layer.bias.add_(0.5)
    other.weight, other.bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    start = float(other.log_prob(x).mean())
    best = exact_em(other, x, 200)
    values: list[float] = []

    def monitor() -> dict[str, float]:
        other.weight, other.bias = layer.weight, layer.bias
        values.append(float(other.log_prob(x).mean()))
        return {"log_likelihood": values[-1]}

    sizes = {"num_samples": 10, "num_transitions": 2, "num_steps": 4, "m_steps": 6, "iterations": 20}
    options: dict[str, Any] = {"optimizer": partial(SGD, lr=0.2), "monitor": monitor, **sizes}
    result = fit_em(other.vae.model, x, e_step="monte-carlo", **options)
    assert best - start > 0.5
    # the maximum over sampled latents is off by about parameters / (2 data chains) = 0.003
    assert all(-0.02 < value - best < 1e-9 for value in values[-5:])
    assert result.history[-1]["log_likelihood"] == values[-1]
    assert all(record["elbo_m"] > record["elbo_e"] - 1e-3 for record in result.history)


def test_batches_keep_a_chain_per_datum(case: LinearGaussian) -> None:
    x = case.data(25)
    result = fit_em(case.vae.model, x, e_step="monte-carlo", batch_size=10, iterations=2, num_steps=2, m_steps=1)
    assert [sorted(record) for record in result.history] == [["acceptance", "elbo_e", "elbo_m", "seconds"]] * 2
    assert not result.converged


# ---------------------------------------------------------------- components


def test_one_component_is_the_fit_of_one_normal() -> None:
    x = clusters(10)
    model = MixtureModel(NormalComponents((3,), 1))
    fit_em(model, x)
    exact = MultivariateNormal(x.mean(0), torch.cov(x.mT, correction=0)).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), exact, rtol=1e-9, atol=1e-9)
    model = MixtureModel(NormalComponents((3,), 1, covariance="spherical"))
    fit_em(model, x)
    exact = Normal(x.mean(0), x.var(0, correction=0).mean().sqrt()).to_event(1).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [*NAMES, "spherical"])
def test_collapsed_variances_stop_at_the_floor(kind: Any) -> None:
    x = torch.ones(6, 2)
    x[3:, 0] = 2.0
    model = MixtureModel(NormalComponents((2,), 3, covariance=kind, min_scale=0.1))
    history = fit_em(model, x).history
    assert np.diff(curve(history)).min() > -1e-12
    p = model.likelihood(torch.eye(3))
    values = p.variance if kind in ("diagonal", "spherical") else torch.linalg.eigvalsh(p.covariance_matrix)
    assert float(values.detach().min()) == pytest.approx(0.01, abs=1e-12)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_floor_is_the_constrained_maximum() -> None:
    """No covariance above the floor has a higher likelihood than the clipped one."""
    x = torch.randn(30, 3) @ torch.diag(torch.tensor([1.0, 0.5, 0.01])) @ torch.linalg.qr(torch.randn(3, 3)).Q
    model = MixtureModel(NormalComponents((3,), 1, min_scale=0.1))
    fit_em(model, x)
    best = float(model.log_prob(x).mean())
    for _ in range(50):
        with torch.no_grad():
            factors = model.likelihood.factors.clone()
            model.likelihood.factors.add_(0.05 * torch.randn_like(factors))
            assert float(model.log_prob(x).mean()) < best
            model.likelihood.factors.copy_(factors)


def test_bernoulli_components_have_a_finite_density_at_constant_pixels() -> None:
    x = (torch.rand(40, 1, 2, 3) < 0.5).double()
    x[:, 0, 0, 0] = 1.0
    model = MixtureModel(BernoulliComponents((1, 2, 3), 2, min_probability=0.01))
    assert np.diff(curve(fit_em(model, x, iterations=1000, tolerance=1e-12).history)).min() > -1e-12
    probability = model.likelihood.locs.sigmoid()
    torch.testing.assert_close(probability[:, 0], torch.full((2,), 0.99))
    assert model.log_prob(1 - x).isfinite().all()
    assert model.num_parameters == 13
    expected = (model.responsibilities(x).mT @ x.flatten(1)) / model.responsibilities(x).sum(0).unsqueeze(-1)
    torch.testing.assert_close(probability, expected.clamp(0.01, 0.99), rtol=1e-3, atol=1e-3)


def test_any_likelihood_is_a_component_with_gradient_steps() -> None:
    x = torch.cat([torch.poisson(torch.full((40, 3), 2.0)), torch.poisson(torch.full((40, 3), 9.0))])
    model = MixtureModel(PoissonLikelihood(2, (3,), net=linear))
    result = fit_em(model, x, iterations=15, optimizer=partial(Adam, lr=0.05))
    assert result.history[-1]["elbo_m"] > result.history[0]["elbo_e"]
    rates = sorted(model.likelihood(torch.eye(2)).mean.mean(1).tolist())
    assert abs(rates[0] - 2) < 0.5
    assert abs(rates[1] - 9) < 1
    same = MixtureModel(BernoulliLikelihood(2, (3,), net=linear)), MixtureModel(BernoulliComponents((3,), 2))
    fit_em(same[1], (x > 4).double())
    with torch.no_grad():
        same[0].likelihood.net.layers[0].weight.copy_(same[1].likelihood.locs.mT)
        same[0].likelihood.net.layers[0].bias.zero_()
        same[0].prior.logits.copy_(same[1].prior.logits)
    torch.testing.assert_close(*(model.log_prob((x > 4).double()) for model in same))


def test_a_fall_is_said() -> None:
    x = torch.poisson(torch.full((40, 3), 4.0))
    model = MixtureModel(PoissonLikelihood(2, (3,), net=linear))
    options: dict[str, Any] = {"optimizer": partial(SGD, lr=0.5), "m_steps": 1, "iterations": 3, "start": "model"}
    with pytest.warns(UserWarning, match=r"^fit_em: \d M-steps lowered the ELBO, by up to .* nats per datum\. Use"):
        fit_em(model, x, **options)


def test_samples_are_those_of_the_components() -> None:
    model = MixtureModel(NormalComponents((2,), 2, covariance="spherical"))
    with torch.no_grad():
        model.prior.logits.copy_(torch.tensor([[0.0, math.log(3.0)]]))
        model.likelihood.locs.copy_(torch.tensor([[-50.0, 0.0], [50.0, 0.0]]))
    share = (model.sample(4000)[:, 0] > 0).double().mean()
    assert abs(share - 0.75) / (0.75 * 0.25 / 4000) ** 0.5 < 4.5
    assert model(batch_size=5).shape == (5, 2)


# ---------------------------------------------------------------- refusals

X = torch.zeros(4, 2)


def normal(num: int = 2) -> MixtureModel:
    return MixtureModel(NormalComponents((2,), num))


REFUSED = [
    (lambda: fit_em(normal(5), X), "fit_em: there must be at least as many data as components, got 4 and 5. Use"),
    (lambda: fit_em(normal(), X * torch.nan), "fit_em: the data must be finite, got nan or inf."),
    (lambda: fit_em(normal(), X[:, :1]), "fit_em: a datum of data must have shape (2,), got (1,)."),
    (lambda: fit_em(normal(), X, batch_size=2), "fit_em: an M-step in closed form needs all data, got batch_size=2."),
    (lambda: fit_em(normal(), X, iterations=0), "fit_em: iterations must be at least 1, got iterations=0."),
    (lambda: fit_em(normal(), X, tolerance=-1.0), "fit_em: tolerance must be finite and at least 0, got"),
    (lambda: fit_em(normal(), X, e_step="soft"), "fit_em: e_step must be one of 'exact', 'hard', "),  # type: ignore[arg-type]
    (
        lambda: fit_em(LinearGaussian().vae.model, torch.zeros(4, 7)),
        "fit_em: e_step must be 'monte-carlo' for a model that is no mixture, got e_step='exact'.",
    ),
    (
        lambda: fit_em(MixtureModel(BernoulliComponents((2,), 2)), X + 0.5),
        "fit_em: the data must be in the support of the components, got",
    ),
    (lambda: NormalComponents((2, 2), 2), "NormalComponents: data with a covariance matrix must be vectors, got"),
    (lambda: NormalComponents((2,), 2, min_scale=0.0), "NormalComponents: min_scale must be positive and finite, got"),
    (lambda: NormalComponents((2,), 0), "NormalComponents: num_components must be at least 1, got num_components=0."),
    (lambda: BernoulliComponents((), 2), "BernoulliComponents: data_shape must not be empty, got data_shape=()."),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value).startswith(message)


# ---------------------------------------------------------------- guides without sites


def test_sites_that_the_guide_lacks_are_summed_over_beside_others() -> None:
    logits, locs = torch.randn(3, requires_grad=True), torch.randn(3, 2, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", Categorical(logits=torch.zeros(2)))
            weights = logits * (1 + y.unsqueeze(-1))
            c = pyro.sample("c", Categorical(logits=weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", Normal(locs[c], 0.7).to_event(1))
            pyro.sample("x", Normal(z * z, 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", Categorical(logits=x), infer={"enumerate": "parallel"})
            pyro.sample("z", Normal(x + y.unsqueeze(-1), 0.3).to_event(1))

    x, results = torch.randn(7, 2), []
    for objective in (EnumeratedELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        torch.manual_seed(1)
        loss = objective.differentiable_loss(model, guide, x)
        results.append((loss.detach(), *torch.autograd.grad(loss, [logits, locs])))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_terms_of_a_missing_site_are_those_of_its_posterior() -> None:
    model, x, objective = normal(), torch.randn(5, 2), EnumeratedELBO()
    objective.loss(model, model.guide, x)
    r = model.responsibilities(x)
    rate = (r * (r.log() - model.prior.logits[0].log_softmax(-1))).sum()
    assert objective.terms is not None
    torch.testing.assert_close(objective.terms.kl, rate.detach())


@pytest.mark.parametrize(
    "objective",
    [EnumeratedELBO(beta=2.0), EnumeratedELBO(num_particles=2), EnumeratedELBO(beta=LinearWarmUp(10)), TraceEnumELBO()],
    ids=["beta", "particles", "schedule", "TraceEnumELBO"],
)
def test_other_bounds_need_the_sites(objective: ELBO) -> None:
    model = normal()
    with pytest.raises(ValueError, match=r"the guide (lacks|must have every)"):
        objective.loss(model, model.guide, torch.zeros(4, 2))


def test_unmarked_sites_need_a_guide() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", Categorical(logits=torch.zeros(2)))
            pyro.sample("x", Normal(c.double(), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"^EnumeratedELBO: the guide must sample every latent site .* sum over them"):
        EnumeratedELBO().loss(model, lambda x: None, torch.zeros(3))

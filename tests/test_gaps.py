"""Approximation and amortization gap against the analytic split of a correlated normal posterior."""

from __future__ import annotations

import copy
import gc
import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import VAE, guides
from pyro_vae.evaluation import ImportanceWeights, InferenceGaps, LogLikelihood, Result, gap_table, inference_gaps
from pyro_vae.evaluation.gaps_result import gaps_of
from pyro_vae.evaluation.local_optimisation import local_guides
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.plotting import gap_bars
from pyro_vae.priors import CategoricalPrior, StandardNormalPrior, VampPrior
from tests.linear_gaussian import LinearGaussian
from tests.linear_styles import STYLES, data

MISSED = 0.01  # nats per datum that the local optimisation may stay below the best member
QUICK = {"num_samples": 50, "num_steps": 8, "num_particles": 2}


def diagonal_on(case: LinearGaussian, *, inflate: float = 1.0, shift: float = 0.0) -> VAE:
    """The correlated model with the best diagonal guide, shifted and widened."""
    n, dim = case.weight.shape[1], case.weight.shape[0]
    guide = DiagonalNormalGuide((dim,), n, net=partial(MLP, hidden=()))
    gain, layer = case.posterior_covariance() @ case.weight.T / case.scale**2, guide.net.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        layer.bias[:n] = shift - gain @ case.bias
        layer.bias[n:] = math.log(inflate) - precision_of(case).diagonal().log() / 2
    return case.vae.with_guide(guide)


def precision_of(case: LinearGaussian) -> Tensor:
    return torch.linalg.inv(case.posterior_covariance())


def approximation_of(case: LinearGaussian) -> Tensor:
    """KL from N(mean, diag(1 / Lambda_ii)), the best diagonal normal, to the posterior N(mean, Lambda^-1)."""
    precision = precision_of(case)
    return (precision.diagonal().log().sum() - precision.logdet()) / 2


def kl_to_posterior(case: LinearGaussian, vae: VAE, x: Tensor) -> Tensor:
    q = vae.encode(x)
    posterior = MultivariateNormal(case.posterior_mean(x), case.posterior_covariance())
    return kl_divergence(MultivariateNormal(q.mean, torch.diag_embed(q.variance)), posterior)


def exact_result(case: LinearGaussian, x: Tensor) -> LogLikelihood:
    zero = torch.zeros(len(x))
    return LogLikelihood(case.log_prob(x), zero, *[zero] * 5)


def agrees(estimate: Tensor, exact: Tensor, error: Tensor, *, below: float = 0.0, above: float = 0.0) -> None:
    """Each gap is within 4.5 standard errors of its exact value, or of its value at a missed optimum."""
    assert ((estimate - exact + below) / error > -4.5).all(), (estimate, exact, error)
    assert ((estimate - exact - above) / error < 4.5).all(), (estimate, exact, error)


@pytest.mark.slow
@pytest.mark.parametrize(("inflate", "shift"), [(1.0, 0.0), (1.0, 0.5), (1.5, 0.0), (0.6, -0.3)])
def test_the_split_of_a_diagonal_guide_is_the_analytic_one(inflate: float, shift: float) -> None:
    case = LinearGaussian(correlated=True)
    vae, x = diagonal_on(case, inflate=inflate, shift=shift), case.data(6)
    options = {"num_samples": 20_000, "num_steps": 500, "chunk_size": 500, "lr": 0.02}
    result = inference_gaps(vae.model, vae.guide, x, log_likelihood=exact_result(case, x), **options)
    family = approximation_of(case)
    assert family > 0.3
    amortization = kl_to_posterior(case, vae, x) - family
    agrees(result.approximation, family, result.approximation_error, above=MISSED)
    agrees(result.amortization, amortization, result.amortization_error + 1e-9, below=MISSED)
    agrees(result.elbo, case.log_prob(x) - family - amortization, result.elbo_error)
    agrees(result.best_elbo, case.log_prob(x) - family, result.best_elbo_error, below=MISSED)
    assert torch.equal(result.standard_error, torch.zeros(6))
    assert result.best_elbo_error.max() < 0.02  # 4.5 of these are small against the gaps above
    assert result.amortization_error.max() < 0.05


@pytest.mark.parametrize("from_best", [True, False])
def test_the_stated_errors_are_the_spread(from_best: bool) -> None:
    noise, independent = torch.randn(2, 400, 5000)  # a column is a repetition
    guide, best = 0.8 * noise + 0.3 * independent, 0.6 * noise - 0.1 * independent.square()
    result = gaps_of(guide, best, torch.full((5000,), from_best))
    errors = {name: f"{name}_error" for name in ("elbo", "best_elbo", "approximation", "amortization")}
    for name, error in {**errors, "log_likelihood": "standard_error"}.items():
        ratio = result[name].var() / result[error].square().mean()
        # The variance of 5000 normals has a relative error of sqrt(2 / 5000); 0.02: delta method, 400 draws.
        assert abs(float(ratio) - 1) < 4.5 * math.sqrt(2 / 5000) + 0.02, name


def test_the_exact_guide_has_no_gaps() -> None:
    case = LinearGaussian(correlated=True)
    x = case.data(5)
    result = inference_gaps(case.vae.model, case.vae.guide, x, num_samples=100, num_steps=300, chunk_size=30)
    assert (result.elbo - case.log_prob(x)).abs().max() < 1e-9
    assert (result.log_likelihood - case.log_prob(x)).abs().max() < 1e-4
    for gap in (result.approximation, result.amortization, result.late_gain):
        assert gap.abs().max() < 1e-4  # Adam moves off an optimum by its step size, and returns as that decays


def test_an_inflated_full_rank_guide_has_only_an_amortization_gap() -> None:
    case = LinearGaussian(correlated=True, inflate=1.5, shift=0.2)
    x = case.data(4)
    result = inference_gaps(case.vae.model, case.vae.guide, x, num_samples=4000, num_steps=500, chunk_size=500, lr=0.02)
    assert result.approximation.abs().max() < MISSED
    squared = 0.04 * precision_of(case).sum()
    kl = (3 * (1.5**2 - 1 - 2 * math.log(1.5)) + squared) / 2
    agrees(result.amortization, kl, result.amortization_error, below=MISSED)


def test_without_a_result_log_p_is_estimated_by_importance_sampling() -> None:
    case = LinearGaussian(latent_dim=2, correlated=True, scale=1.5)  # so that the best member's weights have a variance
    vae, x = diagonal_on(case, shift=1.5), case.data(8)
    result = inference_gaps(vae.model, vae.guide, x, num_samples=4000, num_steps=400, chunk_size=500, lr=0.05)
    low = result.standard_error.square() / 2  # the bias of the logarithm, to second order
    agrees(result.log_likelihood + low, case.log_prob(x), result.standard_error)
    agrees(result.approximation + low, approximation_of(case), result.approximation_error, above=MISSED)
    assert result.protocol["log_likelihood"] == "importance"
    assert torch.allclose(result.gap, result.approximation + result.amortization)


def test_the_gaps_are_the_textbook_formula() -> None:
    guide, best = torch.randn(2, 300, 3)
    result = gaps_of(guide, best, torch.tensor([True, False, True]))
    chosen = torch.stack([best[:, 0], guide[:, 1], best[:, 2]], -1)
    assert torch.allclose(result["log_likelihood"], chosen.exp().mean(0).log())
    assert torch.allclose(result["standard_error"], chosen.exp().std(0) / chosen.exp().mean(0) / math.sqrt(300))
    assert torch.allclose(result["amortization"], (best - guide).mean(0))
    assert torch.allclose(result["amortization_error"], (best - guide).std(0) / math.sqrt(300))
    assert torch.allclose(result["approximation"], chosen.exp().mean(0).log() - best.mean(0))


def bernoulli_vae(guide: nn.Module) -> VAE:
    torch.manual_seed(3)
    return VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (6,), net=partial(MLP, hidden=(8,))), guide)


small = {"net": partial(MLP, hidden=(8,))}
KINDS = {
    "planar flow": partial(guides.PlanarFlowGuide, **small),
    "inverse autoregressive flow": partial(guides.IAFGuide, **small),
    "mixture": partial(guides.MixtureOfNormalsGuide, num_components=2, **small),
    "semi-amortized": partial(
        guides.SemiAmortizedGuide, guide=partial(DiagonalNormalGuide, **small), num_steps=2, lr=0.1
    ),
    "auxiliary": partial(guides.AuxiliaryGuide, hidden=(8,), **small),
    "Hamiltonian": partial(guides.HMCGuide, num_steps=1, hidden=(8,), **small),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_any_guide_gains_from_local_optimisation(name: str) -> None:
    vae, x = bernoulli_vae(KINDS[name]((6,), 2)), torch.rand(3, 6).round()
    torch.nn.init.normal_(vae.likelihood.net.layers[0].weight, std=3.0)  # a posterior far from the untrained guide
    result = inference_gaps(vae.model, vae.guide, x, num_samples=1000, num_steps=150, lr=0.03, chunk_size=300)
    assert (result.amortization > 4.5 * result.amortization_error).all(), result.amortization
    assert (result.approximation > -4.5 * result.approximation_error).all(), result.approximation


@pytest.mark.slow
def test_a_copy_of_the_guide_reaches_the_bound_of_local_parameters() -> None:
    """The diagonal normal as a plain module, which is optimised by copies as any other guide."""
    case = LinearGaussian(latent_dim=2, correlated=True)
    vae, x = diagonal_on(case, inflate=1.3, shift=0.3), case.data(3)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(vae.guide)

        def forward(self, x: Tensor) -> Tensor:
            with pyro.plate("data", len(x)):
                return pyro.sample("z", self.inner.posterior(x))

    options = {"num_samples": 4000, "num_steps": 500, "lr": 0.01, "log_likelihood": exact_result(case, x)}
    result = inference_gaps(vae.model, Own(), x, chunk_size=300, **options)
    agrees(result.approximation, approximation_of(case), result.approximation_error, above=MISSED)
    exact = kl_to_posterior(case, vae, x) - approximation_of(case)
    agrees(result.amortization, exact, result.amortization_error, below=MISSED)


def test_a_copy_of_the_guide_shares_the_model() -> None:
    vae = bernoulli_vae(guides.HMCGuide((6,), 2, num_steps=1))
    locals_ = list(local_guides(ImportanceWeights(vae.model, vae.guide, (torch.ones(2, 6),)), vae.guide))
    assert len(locals_) == 2
    for local in locals_:
        assert local.guide is not vae.guide
        assert local.guide._log_joint.__self__ is vae.model
        assert not {id(t) for t in local.free} & {id(p) for p in vae.parameters()}


def test_the_copy_is_separate_if_the_prior_contains_the_guide() -> None:
    guide = guides.AuxiliaryGuide((6,), 2)
    inner = DiagonalNormalGuide((6,), 2)
    prior = VampPrior(inner, num_components=3)
    vae = VAE(prior, BernoulliLikelihood(2, (6,)), inner)
    before = copy.deepcopy(vae.state_dict())
    method = vae.guide.forward  # a method is copied for each datum
    (local, *_) = local_guides(ImportanceWeights(vae.model, method, (torch.ones(2, 6),)), method)
    assert not {id(t) for t in local.free} & {id(p) for p in vae.parameters()}
    inference_gaps(vae.model, vae.guide.forward, torch.ones(2, 6), **QUICK)
    assert all(torch.equal(before[key], value) for key, value in vae.state_dict().items())
    assert guide is not vae.guide


def test_copies_at_the_address_of_a_freed_copy_have_names_of_their_own() -> None:
    """Pyro keeps the parameters of a ``PyroModule`` by name: one name would give the copy those of the freed one."""
    pair, x = next(style for style in STYLES if style.name == "pyro-module").build(), data(50)
    weights, names = ImportanceWeights(pair.model, pair.guide, (x,)), []
    gc.collect()
    gc.freeze()  # the collections below leave out what exists already
    try:
        for local in local_guides(weights, pair.guide):
            names.append(local.guide._pyro_name)
            gc.collect()
    finally:
        gc.unfreeze()
    assert len(set(names)) == len(x)


@pytest.mark.parametrize("name", [*KINDS, "diagonal"])
def test_model_and_guide_do_not_change(name: str) -> None:
    vae = bernoulli_vae({**KINDS, "diagonal": DiagonalNormalGuide}[name]((6,), 2))
    vae.train()
    vae.likelihood.eval()
    next(vae.guide.parameters()).requires_grad_(False)
    state = copy.deepcopy(vae.state_dict())
    flags, modes = [p.requires_grad for p in vae.parameters()], [m.training for m in vae.modules()]
    infer, random = dict(vae.guide.infer), torch.get_rng_state()
    inference_gaps(vae.model, vae.guide, torch.ones(2, 6), **QUICK)
    assert all(torch.equal(state[key], value) for key, value in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())
    assert [p.requires_grad for p in vae.parameters()] == flags
    assert [m.training for m in vae.modules()] == modes
    assert vae.guide.infer == infer
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert len(pyro.get_param_store()) == 0


def test_the_seed_decides_the_result() -> None:
    vae, x = bernoulli_vae(DiagonalNormalGuide((6,), 2)), torch.rand(5, 6).round()
    one, same, other = (inference_gaps(vae.model, vae.guide, x, seed=seed, batch_size=2, **QUICK) for seed in (1, 1, 2))
    assert all(torch.equal(value, same.tensors()[name]) for name, value in one.tensors().items())
    assert not torch.equal(one.elbo, other.elbo)


def test_an_optimisation_that_lowers_the_bound_is_discarded() -> None:
    case = LinearGaussian(correlated=True)
    vae, x = diagonal_on(case), case.data(4)
    result = inference_gaps(vae.model, vae.guide, x, num_samples=200, num_steps=20, lr=5.0)
    assert torch.equal(result.amortization, torch.zeros(4))
    assert torch.equal(result.best_elbo, result.elbo)


def test_a_user_model_with_two_latents_and_two_arguments() -> None:
    def model(x: Tensor, shift: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Normal(shift, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc, self.log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor, shift: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                pyro.sample("a", dist.Normal(self.loc[0], self.log_scale[0].exp()))
                pyro.sample("b", dist.Normal(self.loc[1], self.log_scale[1].exp()))

    x, shift = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.0])
    options = {"num_samples": 4000, "num_steps": 400, "lr": 0.03, "chunk_size": 500, "batch_size": 2}
    result = inference_gaps(model, Own(), [(x, shift)], **options)
    precision = torch.tensor([[2.0, -1.0], [-1.0, 2.0]])
    family = (precision.diagonal().log().sum() - precision.logdet()) / 2
    best = dist.Normal(shift, math.sqrt(3)).log_prob(x) - family
    agrees(result.best_elbo, best, result.best_elbo_error, below=MISSED)


def test_bad_arguments_raise() -> None:
    vae, x = bernoulli_vae(DiagonalNormalGuide((6,), 2)), torch.ones(3, 6)
    with pytest.raises(ValueError, match=r"inference_gaps: the guide must be a module whose .*got a function"):
        inference_gaps(vae.model, lambda x: vae.guide(x), x, **QUICK)
    with pytest.raises(ValueError, match=r"inference_gaps: log_likelihood must be of the same data, got 2 .* 3 data"):
        inference_gaps(vae.model, vae.guide, x, log_likelihood=LogLikelihood(*[torch.zeros(2)] * 7), **QUICK)
    with pytest.raises(ValueError, match=r"inference_gaps: log_likelihood must be of the same data, got 2 .* 3 data"):
        inference_gaps(vae.model, vae.guide, [x], log_likelihood=LogLikelihood(*[torch.zeros(2)] * 7), **QUICK)
    with pytest.raises(ValueError, match="inference_gaps: num_samples must be at least 2, got num_samples=1"):
        inference_gaps(vae.model, vae.guide, x, num_samples=1)
    with pytest.raises(ValueError, match="inference_gaps: num_steps must be at least 1, got num_steps=0"):
        inference_gaps(vae.model, vae.guide, x, num_steps=0)

    prior, guide = CategoricalPrior(6, categories=3), guides.CategoricalGuide((6,), 6, categories=3)
    discrete = VAE(prior, BernoulliLikelihood(prior.latent_dim, (6,)), guide)
    with pytest.raises(ValueError, match="every site of the guide must be reparameterised, got site 'z'"):
        inference_gaps(discrete.model, discrete.guide, x, **QUICK)


def example_result(gap: float) -> InferenceGaps:
    bound, error = torch.tensor([-1.0, -1.2, -0.9]), torch.full((3,), 0.01)
    best = bound - gap
    parts = [best - 0.5, error, best, error, bound - best, error, torch.full((3,), 0.5), error]
    return InferenceGaps(bound, error, error, *parts, error, error, protocol={"num_samples": 10})


def test_saves_and_loads(tmp_path) -> None:
    result = example_result(1.0)
    result.save(tmp_path / "gaps.json")
    loaded = Result.load(tmp_path / "gaps.json")
    assert isinstance(loaded, InferenceGaps)
    assert all(torch.allclose(value, loaded.tensors()[name]) for name, value in result.tensors().items())
    assert result.summary()["amortization_share"] == pytest.approx(1 / 3)
    assert result.summary()["elbo"]["monte_carlo_error"] == pytest.approx(0.01 / math.sqrt(3))


def test_the_summary_explains_the_gaps() -> None:
    text = str(example_result(1.0))
    assert "approximation       1.000 +- 0.006 Monte Carlo, +- 0.000 over data" in text
    assert "amortization        0.500 +- 0.006 Monte Carlo" in text
    table = gap_table({"diagonal normal": example_result(1.0), "flow": example_result(0.5)}).splitlines()
    cells = ["-1.033 +- 0.006", "-2.533 +- 0.006", "1.000 +- 0.006", "0.500 +- 0.006", "33%"]
    assert " ".join(table[1].split()) == " ".join(["diagonal normal", *cells])
    assert len({len(line) for line in table}) == 1


def test_bars_are_the_stacked_means() -> None:
    figure = gap_bars({"diagonal": example_result(1.0), "flow": example_result(0.25)})
    bars = figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([1.0, 0.25, 0.5, 0.5])
    assert [bar.get_x() for bar in bars] == pytest.approx([0.0, 0.0, 1.0, 0.25])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Approximation gap", "Amortization gap"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["diagonal", "flow"]
    with pytest.raises(ValueError, match="gap_bars: results must be of the same data"):
        gap_bars({"one": example_result(1.0), "two": InferenceGaps(*[torch.ones(2)] * 13)})
    with pytest.raises(ValueError, match="gap_bars: results must not be empty"):
        gap_bars({})

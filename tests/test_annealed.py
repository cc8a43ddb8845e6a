"""Annealed importance sampling against closed forms, and its errors."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import log_likelihood
from pyro_vae.evaluation import (
    AnnealedLogLikelihood,
    InflatedProposal,
    Result,
    annealed_log_likelihood,
    prior_proposal,
)
from pyro_vae.evaluation.annealing_path import AnnealingPath, equal_spread
from pyro_vae.evaluation.hmc import State
from tests.linear_gaussian import LinearGaussian

EXACT = 1e-9


def _z_scores(result, exact):
    return (result.log_likelihood - exact) / result.standard_error


@pytest.mark.parametrize("num_distributions", [2, 3, 7])
@pytest.mark.parametrize("num_chains", [1, 5])
def test_from_the_exact_posterior_every_weight_is_the_evidence(num_distributions, num_chains) -> None:
    case = LinearGaussian(3, 7)
    x = case.data(11)
    sizes = {"num_distributions": num_distributions, "num_chains": num_chains, "batch_size": 4, "engine": "eager"}
    result = annealed_log_likelihood(case.vae.model, case.vae.guide, x, start="guide", **sizes)
    assert (result.log_weights - case.log_prob(x).unsqueeze(-1)).abs().max() < EXACT
    assert (result.mean_log_weight - case.log_prob(x)).abs().max() < EXACT


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_two_distributions_are_importance_sampling(start) -> None:
    case = LinearGaussian(2, 7, inflate=1.4)
    x = case.data(100)
    sizes = {"num_distributions": 2, "num_chains": 200, "engine": "eager"}
    annealed = annealed_log_likelihood(case.vae.model, case.vae.guide, x, start=start, seed=1, **sizes)
    ordinary = log_likelihood(case.vae.model, case.vae.guide, x, num_samples=200, proposal=start, engine="eager")
    error = (annealed.standard_error.square() + ordinary.standard_error.square()).sum().sqrt() / len(x)
    assert abs(annealed.mean() - ordinary.mean()) < 4.5 * error
    assert annealed.mean("mean_log_weight") == pytest.approx(ordinary.mean("elbo"), rel=0.05)
    assert abs(annealed.effective_sample_size.mean() / ordinary.effective_sample_size.mean() - 1) < 0.1


# Latent and data dimensions, guide, noise, distributions: paths on which the weights of the chains vary little, because
# the delta method assumes small variances.
CASES = {
    "2, prior": (2, 7, {}, "prior", 0.5, 200),
    "10, poor guide": (10, 14, {"shift": 0.2, "inflate": 0.8}, "guide", 0.5, 100),
    "50, inflated guide": (50, 54, {"inflate": 1.2}, "guide", 1.0, 100),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_estimates_agree_with_the_closed_form_and_errors_are_calibrated(name) -> None:
    latent_dim, dim, options, start, scale, num_distributions = CASES[name]
    case = LinearGaussian(latent_dim, dim, scale=scale, **options)
    num_data = {2: 200, 10: 100, 50: 40}[latent_dim]  # of 50 dimensions, 200 data took two minutes
    x = case.data(num_data)
    sizes = {"num_distributions": num_distributions, "num_chains": 32, "batch_size": num_data, "engine": "eager"}
    result = annealed_log_likelihood(case.vae.model, case.vae.guide, x, start=start, **sizes)
    z = _z_scores(result, case.log_prob(x))
    assert z.abs().max() < 4.5
    # Over 32 chains the error is estimated too: a t distribution of 31 degrees, 3% wider than the normal. Its fourth
    # moment is 3.24, so that the root mean square of n scores has a standard error of sqrt(0.56 / n).
    assert abs(float(z.square().mean().sqrt()) / math.sqrt(31 / 29) - 1) < 3 * math.sqrt(0.56 / num_data)
    assert abs(result.mean() - float(case.log_prob(x).mean())) < 4.5 * result.monte_carlo_error()


def test_more_distributions_tighten_the_bound() -> None:
    case = LinearGaussian(10, 14)
    x = case.data(50)
    gaps = []
    for number in (3, 10, 40):
        sizes = {"num_distributions": number, "num_chains": 8, "engine": "eager"}
        result = annealed_log_likelihood(case.vae.model, None, x, **sizes)
        gaps.append(float((case.log_prob(x) - result.mean_log_weight).mean()))
    assert all(later < 0.5 * earlier for earlier, later in pairwise(gaps))
    assert gaps[-1] > 0


def test_the_schedules_go_from_0_to_1_and_the_sigmoid_is_slow_at_its_ends() -> None:
    linear, sigmoid = (
        torch.tensor(AnnealingPath("x", 101, 1, 1, "prior", name).betas()) for name in ("linear", "sigmoid")
    )
    for betas in (linear, sigmoid):
        assert betas[0] == 0
        assert betas[-1] == 1
        assert (betas.diff() > 0).all()
    assert (linear.diff() - 0.01).abs().max() < EXACT
    assert (sigmoid + sigmoid.flip(0) - 1).abs().max() < EXACT
    share = torch.linspace(-4, 4, 101).sigmoid()
    assert (sigmoid - (share - share[0]) / (share[-1] - share[0])).abs().max() < EXACT


def test_adaptive_steps_equalise_the_spread_and_tighten_the_bound() -> None:
    grid = torch.linspace(0, 1, 20_001)
    deviation = 1 / (0.01 + grid)  # as from a wide prior
    betas = torch.tensor(equal_spread(grid.tolist(), deviation.square().tolist(), 51))
    assert betas[0] == 0
    assert betas[-1] == 1
    spread = (0.01 + betas).log().diff()  # the integral of the deviation over each step
    uniform = betas.diff() * math.log(101)  # the tenth of the steps that is not adaptive
    assert (0.9 * spread + 0.1 * uniform - math.log(101) / 50).abs().max() < 1e-4
    case = LinearGaussian(10, 14, scale=0.2)
    x = case.data(50)
    gaps = {}
    for schedule in ("sigmoid", "linear", "adaptive"):
        sizes = {"num_distributions": 30, "num_chains": 16, "engine": "eager", "schedule": schedule}
        result = annealed_log_likelihood(case.vae.model, None, x, **sizes)
        gaps[schedule] = float((case.log_prob(x) - result.mean_log_weight).mean())
    assert gaps["adaptive"] < 0.8 * min(gaps["sigmoid"], gaps["linear"])


def test_an_adaptive_path_gives_valid_weights() -> None:
    case = LinearGaussian(2, 7, shift=0.3, inflate=0.7)
    x = case.data(200)
    sizes = {"num_distributions": 50, "num_chains": 32, "engine": "eager", "schedule": "adaptive"}
    result = annealed_log_likelihood(case.vae.model, case.vae.guide, x, start="guide", batch_size=200, **sizes)
    assert _z_scores(result, case.log_prob(x)).abs().max() < 4.5
    exact = LinearGaussian(3, 7)
    x = exact.data(5)
    result = annealed_log_likelihood(exact.vae.model, exact.vae.guide, x, start="guide", **sizes)
    assert (result.log_weights - exact.log_prob(x).unsqueeze(-1)).abs().max() < EXACT


@pytest.mark.slow
def test_the_estimate_is_reproducible_and_does_not_touch_the_generator() -> None:
    case = LinearGaussian(2, 7)
    x = case.data(9)
    sizes = {"num_distributions": 8, "num_chains": 3, "batch_size": 4, "engine": "eager"}
    before = torch.get_rng_state()
    one, two = (annealed_log_likelihood(case.vae.model, case.vae.guide, x, **sizes) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.log_weights, two.log_weights)
    other = annealed_log_likelihood(case.vae.model, case.vae.guide, x, seed=1, **sizes)
    assert not torch.equal(one.log_weights, other.log_weights)
    assert all(p.grad is None for p in case.vae.parameters())


@pytest.mark.slow
def test_compiled_and_eager_chains_are_the_same() -> None:
    case = LinearGaussian(2, 7)
    x = case.data(6)
    sizes = {"num_distributions": 6, "num_chains": 4, "batch_size": 4}
    eager, compiled = (
        annealed_log_likelihood(case.vae.model, case.vae.guide, x, engine=engine, **sizes)
        for engine in ("eager", "compiled")
    )
    assert (eager.log_weights - compiled.log_weights).abs().max() < 1e-8


def test_results_are_saved_and_loaded(tmp_path) -> None:
    case = LinearGaussian(2, 7)
    sizes = {"num_distributions": 8, "num_chains": 3, "engine": "eager"}
    result = annealed_log_likelihood(case.vae.model, None, case.data(5), protocol={"dataset": "made"}, **sizes)
    result.save(tmp_path / "ais.json")
    loaded = Result.load(tmp_path / "ais.json")
    assert isinstance(loaded, AnnealedLogLikelihood)
    assert torch.equal(loaded.log_weights, result.log_weights)
    assert loaded.protocol == result.protocol
    assert loaded.protocol["dataset"] == "made"
    assert "lower bound by annealed importance sampling" in str(loaded)


# A posterior with two well separated modes, and a guide that covers one of them.


def two_modes(x):
    """p(z) = N(0, 9); x is |z| with noise: z is near x or near -x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 3.0).expand([1]).to_event(1))
        pyro.sample("x", dist.Normal(z.abs(), 0.2).to_event(1), obs=x)


def one_mode(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 0.25).to_event(1))


def _evidence_of_two_modes(x):
    z = torch.linspace(-30, 30, 600_001)
    log_joint = dist.Normal(0.0, 3.0).log_prob(z) + dist.Normal(z.abs(), 0.2).log_prob(x)
    return log_joint.logsumexp(-1) + math.log(60 / 600_000)


def test_a_guide_that_misses_a_mode_misleads_importance_sampling_and_not_annealing() -> None:
    x = torch.linspace(1.5, 5, 20).unsqueeze(-1)
    exact = _evidence_of_two_modes(x)
    importance = log_likelihood(two_modes, one_mode, x, num_samples=5000, engine="eager")
    assert (importance.log_likelihood - exact + math.log(2)).abs().max() < 0.02  # half of the evidence is missing
    sizes = {"num_distributions": 200, "num_chains": 400, "engine": "eager"}
    annealed = annealed_log_likelihood(two_modes, one_mode, x, **sizes)
    assert _z_scores(annealed, exact).abs().max() < 4.5
    assert annealed.standard_error.max() < 0.1


# Programs of users.


def _positive_model(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 3.0))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        pyro.sample("x", dist.Poisson(rate * (1 + share)), obs=x)


def _positive_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.Gamma(2.0 + x, 4.0))
        pyro.sample("share", dist.Beta(2.0, 2.0))


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_positive_and_bounded_latents_are_moved_on_the_unconstrained_scale(start) -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 5.0])
    share = (torch.arange(20_000) + 0.5) / 20_000
    rate = 1 + share
    # x given the share: a Gamma-Poisson mixture, negative binomial in closed form.
    log_given = torch.stack([dist.GammaPoisson(2.0, 3.0 / rate).log_prob(value) for value in x])
    exact = (log_given + dist.Beta(2.0, 2.0).log_prob(share)).logsumexp(-1) - math.log(20_000)
    sizes = {"num_distributions": 100, "num_chains": 200, "engine": "eager"}
    result = annealed_log_likelihood(_positive_model, _positive_guide, x, start=start, **sizes)
    assert _z_scores(result, exact).abs().max() < 4.5
    assert result.standard_error.max() < 0.02


@pytest.mark.parametrize("data_dim", [-2, -1])
def test_several_sites_and_inner_plates_make_one_vector(data_dim) -> None:
    parts_dim = -3 - data_dim

    def model(x):
        with pyro.plate("data", len(x), dim=data_dim):
            scale = pyro.sample("scale", dist.LogNormal(torch.zeros([1] if data_dim == -2 else []), 0.3))
            with pyro.plate("parts", 3, dim=parts_dim):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, scale), obs=x if data_dim == -2 else x.T)

    x = torch.randn(5, 3)
    naive = log_likelihood(model, prior_proposal(model), x, num_samples=200_000, chunk_size=20_000, data_plate="data")
    sizes = {"num_distributions": 100, "num_chains": 100, "data_plate": "data", "engine": "eager"}
    result = annealed_log_likelihood(model, None, x, **sizes)
    error = (result.standard_error.square() + naive.standard_error.square()).sqrt()
    assert ((result.log_likelihood - naive.log_likelihood) / error).abs().max() < 4.5
    assert error.max() < 0.05


def _labelled(infer):
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])), infer=infer)
            z = pyro.sample("z", dist.Normal(2.0 * y - 1, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    return model


def test_a_discrete_site_is_summed_out_or_raises() -> None:
    x = torch.linspace(-3, 3, 10)
    parts = torch.stack([dist.Normal(m, math.hypot(1, 0.5)).log_prob(x) for m in (-1.0, 1.0)])
    exact = (parts + torch.tensor([0.3, 0.7]).log().unsqueeze(-1)).logsumexp(0)
    sizes = {"num_distributions": 100, "num_chains": 100, "engine": "eager"}
    result = annealed_log_likelihood(_labelled({"enumerate": "parallel"}), None, x, **sizes)
    assert _z_scores(result, exact).abs().max() < 4.5
    assert result.standard_error.max() < 0.05
    with pytest.raises(ValueError, match=r"latent sites must be continuous, got the discrete site 'y'.*enumerate"):
        annealed_log_likelihood(_labelled({}), None, x, **sizes)


def test_a_support_that_moves_raises() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Uniform(1.0, 2.0))
            z = pyro.sample("z", dist.Uniform(0.0, top))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"support .* must not depend on other sites .* got site 'z'"):
        annealed_log_likelihood(model, None, torch.ones(3), num_distributions=5, engine="eager")


def _up_to_x(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Uniform(0.0, x))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _up_to_one_number(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Uniform(0.0, x[0] + 1))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_up_to_x, "support of a latent site must not depend on other sites or on the data"),
        (_up_to_one_number, "the support of a latent site must be the same for every batch"),
    ],
)
def test_a_support_that_the_data_move_raises(model, message) -> None:
    with pytest.raises(ValueError, match=message):
        annealed_log_likelihood(model, None, torch.arange(1.0, 7.0), num_distributions=4, batch_size=3, engine="eager")


def test_starting_from_a_guide_of_narrower_support_raises() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(0.0, 1.0))

    with pytest.raises(ValueError, match=r"must have the model's support, got site 'z' on .*1\.0.* and on .*2\.0"):
        annealed_log_likelihood(model, guide, torch.ones(3), start="guide", num_distributions=4, engine="eager")


def test_programs_with_inner_randomness_raise() -> None:
    def noisy_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.nn.functional.dropout(z, 0.5), 1.0), obs=x)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def noisy_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + 0.7 * torch.randn(len(x)), 0.7))

    x, sizes = torch.linspace(1, 3, 4), {"num_distributions": 4, "num_chains": 2, "engine": "eager"}
    with pytest.raises(ValueError, match=r"the model must have one density at one z.*Put its modules in eval mode"):
        annealed_log_likelihood(noisy_model, None, x, **sizes)
    with pytest.raises(ValueError, match=r"the model must have one density at one z"):
        log_likelihood(noisy_model, noisy_guide, x, num_samples=2)
    with pytest.raises(ValueError, match=r"the guide must have one density at one z.*Use the guide by itself"):
        annealed_log_likelihood(model, noisy_guide, x, start="guide", **sizes)
    with pytest.raises(ValueError, match=r"the guide must have one density at one z"):
        log_likelihood(model, [noisy_guide, noisy_guide], x, num_samples=2)
    assert len(log_likelihood(model, noisy_guide, x, num_samples=2)) == 4  # by itself it is a proposal like any other


def test_chains_do_not_enter_regions_of_nan_density() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, torch.where(z > -0.3, 1.0, torch.nan), validate_args=False), obs=x)

    x = torch.zeros(5)
    chains = _states_of(model, x)
    assert (chains > -0.3).all()


def _states_of(model, x):
    """States of chains after some transitions at the posterior, started where its density is positive."""
    from pyro_vae.evaluation.hmc import HMC, StepSizes
    from pyro_vae.evaluation.latent_density import LatentDensity

    with pyro.validation_enabled(False), torch.no_grad():
        density = LatentDensity.__new__(LatentDensity)
        density.log_densities = lambda u, args: _log_densities(model, u, args)
        hmc = HMC("test", 3, [], compiled=False)
        hmc._density = density
        state = hmc.evaluate_at(torch.rand(20, len(x), 1), (x,))
        for _ in range(40):
            state, probability = hmc.transition(
                state, 1.0, StepSizes(torch.full((len(x),), 0.5), torch.ones(len(x), 1)), (x,)
            )
            assert probability.isfinite().all()
    return state.u


def _log_densities(model, u, args):
    from pyro_vae.evaluation.latent_density import PathDensities

    trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": u.squeeze(-1)})).get_trace(*args)
    z, x = trace.nodes["z"], trace.nodes["x"]
    prior = z["fn"].log_prob(z["value"])
    return PathDensities(prior, prior + x["fn"].log_prob(x["value"]))


def test_two_distributions_have_no_acceptance_rate() -> None:
    case = LinearGaussian(2, 7)
    result = annealed_log_likelihood(case.vae.model, None, case.data(3), num_distributions=2, engine="eager")
    assert result.acceptance.isnan().all()


def test_starting_from_a_guide_without_a_density_raises() -> None:
    from pyro_vae import VAE
    from pyro_vae.guides import AuxiliaryGuide
    from pyro_vae.likelihoods import NormalLikelihood
    from pyro_vae.priors import StandardNormalPrior

    vae = VAE(StandardNormalPrior(2), NormalLikelihood(2, (3,)), AuxiliaryGuide((3,), 2))
    sizes = {"num_distributions": 4, "num_chains": 2, "engine": "eager"}
    with pytest.raises(ValueError, match=r"density at any z, got the auxiliary site 'z_joint'. Use start='prior'"):
        annealed_log_likelihood(vae.model, vae.guide, torch.ones(3, 3), start="guide", **sizes)
    assert len(annealed_log_likelihood(vae.model, vae.guide, torch.ones(3, 3), **sizes)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_distributions": 1}, "num_distributions must be at least 2, got num_distributions=1"),
        ({"num_chains": 0}, "num_chains must be at least 1"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"schedule": "cosine"}, "schedule must be one of 'sigmoid', 'linear', 'adaptive', got schedule='cosine'"),
        ({"start": "posterior"}, "start must be one of 'prior', 'guide', got start='posterior'"),
        ({"engine": "jit"}, "engine must be one of 'auto', 'eager', 'compiled', got engine='jit'"),
    ],
)
def test_wrong_options_raise(options, message) -> None:
    case = LinearGaussian(2, 7)
    with pytest.raises(ValueError, match=f"^annealed_log_likelihood: {message}"):
        annealed_log_likelihood(case.vae.model, case.vae.guide, case.data(3), **options)


def test_the_guide_is_needed_if_chains_start_from_it() -> None:
    case = LinearGaussian(2, 7)
    with pytest.raises(ValueError, match="there must be a guide for start='guide', got guide=None"):
        annealed_log_likelihood(case.vae.model, None, case.data(3), start="guide")


def test_chains_start_from_a_widened_guide() -> None:
    case = LinearGaussian(2, 7)
    x = case.data(50)
    sizes = {"num_distributions": 30, "num_chains": 50, "engine": "eager"}
    result = annealed_log_likelihood(case.vae.model, InflatedProposal(case.vae.guide, 1.5), x, start="guide", **sizes)
    assert _z_scores(result, case.log_prob(x)).abs().max() < 4.5


def test_at_the_target_an_initial_density_of_zero_has_no_weight() -> None:
    u, zero, one = torch.zeros(1, 1, 1), torch.full((1, 1), -torch.inf), torch.ones(1, 1)
    state = State(u, zero, one, u, u)
    assert state.energy(1.0) == -1
    assert state.energy(0.5) == torch.inf

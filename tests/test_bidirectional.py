"""Bidirectional Monte Carlo: the exact evidence lies between both bounds."""

from __future__ import annotations

import importlib

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.evaluation import Result, Sandwich, sandwich
from pyro_vae.evaluation.simulation import simulate
from tests.linear_gaussian import LinearGaussian

EXACT = 1e-9


def _bounds_of_simulated(case: LinearGaussian, num: int, **options) -> tuple[Sandwich, torch.Tensor]:
    """The bounds, and the exact evidence of the simulated data."""
    drawn = []

    class Model(torch.nn.Module):
        """The model, which stores its samples: ``sandwich`` simulates one batch first."""

        def __init__(self) -> None:
            super().__init__()
            self.model = case.vae.model

        def forward(self, x):
            value = self.model(x)
            drawn.append(value)
            return value

    x = case.data(num)
    result = sandwich(Model(), case.vae.guide, x, batch_size=num, real=False, engine="eager", **options)
    simulated = next(value for value in drawn if value.shape == x.shape and not torch.equal(value, x))
    return result, case.log_prob(simulated)


def test_with_the_exact_posterior_both_bounds_are_the_evidence() -> None:
    case = LinearGaussian(3, 7)
    result, exact = _bounds_of_simulated(case, 20, num_distributions=5, num_chains=3, start="guide")
    assert (result.lower - exact).abs().max() < EXACT
    assert (result.upper - exact).abs().max() < EXACT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_dim", "dim", "scale", "start"), [(2, 7, 0.5, "prior"), (10, 14, 0.5, "prior"), (50, 54, 1.0, "guide")]
)
def test_the_truth_lies_between_the_bounds(latent_dim, dim, scale, start) -> None:
    case = LinearGaussian(latent_dim, dim, scale=scale, inflate=1.2)
    number = 200 if start == "prior" else 40
    num_data = 60 if latent_dim < 50 else 20
    result, exact = _bounds_of_simulated(case, num_data, num_distributions=number, num_chains=16, start=start)
    below = (result.lower - exact) / result.lower_error
    above = (exact - result.upper) / result.upper_error
    assert below.max() < 4.5
    assert above.max() < 4.5
    mean, error = result.gap()
    assert -4.5 * error < mean < 0.5
    assert abs(float((result.lower - exact).mean())) < mean + 4.5 * error
    assert abs(float((result.upper - exact).mean())) < mean + 4.5 * error


@pytest.mark.slow
def test_the_gap_falls_with_the_number_of_distributions() -> None:
    case = LinearGaussian(10, 14)
    gaps = []
    for number in (4, 16, 64):
        result, exact = _bounds_of_simulated(case, 100, num_distributions=number, num_chains=4)
        gaps.append(result.gap()[0])
        assert float((exact - result.lower).mean()) > 0
        assert float((result.upper - exact).mean()) > 0
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


@pytest.mark.slow
def test_real_data_have_a_lower_bound_and_the_gap_as_its_calibration() -> None:
    case = LinearGaussian(3, 7)
    x = case.data(30)
    sizes = {"num_distributions": 50, "num_chains": 16, "engine": "eager", "batch_size": 12}
    result = sandwich(case.vae.model, None, x, **sizes)
    assert len(result.lower) == len(result.log_likelihood) == 30
    z = (result.log_likelihood - case.log_prob(x)) / result.standard_error
    assert z.abs().max() < 4.5
    low, high = result.bracket()
    assert low == result.mean()
    assert high - low == pytest.approx(max(0.0, result.gap()[0]))
    assert "bracket" in str(result)


@pytest.mark.parametrize(("upper", "high"), [([-1.5, -2.0], -4.75), ([-3.5, -4.0], -6.0)])
def test_the_bracket_s_width_is_the_gap_or_zero_if_the_gap_is_negative(upper, high) -> None:
    """The mean gap is 1.25 in the first case and -0.75 in the second."""
    result = Sandwich(
        lower=torch.tensor([-2.5, -3.5]),
        upper=torch.tensor(upper),
        lower_error=torch.ones(2),
        upper_error=torch.ones(2),
        acceptance=torch.ones(2),
        log_likelihood=torch.tensor([-5.0, -6.0, -7.0]),
        standard_error=torch.ones(3),
    )
    assert result.bracket() == (-6.0, high)
    assert result.summary()["bracket"] == {"low": -6.0, "high": high}


def test_results_are_saved_and_simulated_ones_have_no_bracket(tmp_path) -> None:
    case = LinearGaussian(2, 7)
    sizes = {"num_distributions": 5, "num_chains": 4, "engine": "eager"}
    for real in (True, False):
        result = sandwich(case.vae.model, None, case.data(5), real=real, **sizes)
        result.save(tmp_path / f"{real}.json")
        loaded = Result.load(tmp_path / f"{real}.json")
        assert isinstance(loaded, Sandwich)
        assert torch.equal(loaded.upper, result.upper)
        assert loaded.gap() == result.gap()
        assert str(loaded) == str(result)
    with pytest.raises(ValueError, match=r"^Sandwich: the bracket must have real data, got simulated ones only"):
        result.bracket()


def test_a_simulated_pair_is_a_draw_of_the_model() -> None:
    case = LinearGaussian(2, 7)
    with torch.random.fork_rng():
        drawn = simulate("test", case.vae.model, (torch.zeros(4000, 7),))
    z, x = drawn.trace.nodes["z"]["value"], drawn.args[0]
    assert [n for n, node in drawn.trace.nodes.items() if node["type"] == "sample"] == ["z"]
    residual = x - case.bias - z @ case.weight.T
    assert abs(float(residual.std()) / case.scale - 1) < 0.05
    # z is a sample of the posterior: standardised by its moments, it is standard normal.
    score = (z - case.posterior_mean(x)) / case.posterior_variance().sqrt()
    assert (score.mean(0).abs() < 4.5 / 4000**0.5).all()
    assert ((score.var(0) - 1).abs() < 4.5 * (2 / 4000) ** 0.5).all()


def _forced(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        before = torch.cat([torch.zeros(len(x), 1), x[:, :-1]], -1)
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) + 2 * before, 0.3).to_event(1), obs=x)


def _conditioned(c, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _twice(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("a", dist.Normal(z, 1.0), obs=x)
        pyro.sample("b", dist.Normal(z, 2.0), obs=x)


_X = torch.linspace(1, 3, 5)


@pytest.mark.parametrize(
    ("model", "args"),
    [(_forced, (torch.ones(5, 4),)), (_conditioned, (_X, _X)), (_twice, (_X,))],
    ids=["forced", "conditioned", "twice"],
)
def test_data_used_other_than_as_observed_values_raise(model, args) -> None:
    with pytest.raises(
        ValueError, match=r"^sandwich: the model must use the data only as the observed value of one site"
    ):
        sandwich(model, None, [args], num_distributions=5, engine="eager")


def test_reverse_chains_start_at_the_exact_draw(monkeypatch) -> None:
    module = importlib.import_module("pyro_vae.evaluation.bidirectional")
    case, recorded = LinearGaussian(3, 7), {}
    simulate_really, reverse_really = module.simulate, module.Annealer.reverse

    def simulate_and_keep(*args):
        recorded["drawn"] = simulate_really(*args)
        return recorded["drawn"]

    def reverse_and_keep(self, u, *args):
        recorded["u"] = u
        return reverse_really(self, u, *args)

    monkeypatch.setattr(module, "simulate", simulate_and_keep)
    monkeypatch.setattr(module.Annealer, "reverse", reverse_and_keep)
    sizes = {"num_distributions": 5, "num_chains": 3, "engine": "eager", "real": False}
    x = case.data(200)
    for parting in (0, module.DECORRELATION_STEPS):
        monkeypatch.setattr(module, "DECORRELATION_STEPS", parting)
        sandwich(case.vae.model, None, x, batch_size=200, **sizes)
        z, chains = recorded["drawn"].trace.nodes["z"]["value"], recorded["u"]
        assert (torch.equal(chains, z.expand(3, -1, -1))) == (parting == 0)
        # Each chain is still a sample from the posterior; after decorrelation the chains differ.
        score = (chains - case.posterior_mean(recorded["drawn"].args[0])) / case.posterior_variance().sqrt()
        assert (score.mean(1).abs() < 4.5 / 200**0.5).all()
        assert ((score.var(1) - 1).abs() < 4.5 * (2 / 200) ** 0.5).all()
    product = (score[0] * score[1]).mean(0)
    assert (product.abs() < 4.5 / 200**0.5).all()


@pytest.mark.slow
def test_the_reverse_weights_are_unbiased_for_the_inverse_evidence() -> None:
    case = LinearGaussian(2, 7, scale=1.5)
    result, exact = _bounds_of_simulated(case, 400, num_distributions=4, num_chains=64)
    # exp(-upper) / exp(-log p) has mean 1 for each datum.
    ratio = (exact - result.upper).exp()
    assert abs(float(ratio.mean()) - 1) < 4.5 * float(ratio.std()) / 400**0.5
    assert float(ratio.std()) / 400**0.5 < 0.05
    assert result.upper_chains.median() > 20


def test_programs_that_cannot_be_simulated_raise() -> None:
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x + 1)

    with pytest.raises(ValueError, match=r"^sandwich: an observed value must be an argument .* got site 'x'"):
        sandwich(model, None, torch.ones(3), num_distributions=5, engine="eager")


@pytest.mark.slow
def test_two_observed_arguments_are_both_simulated() -> None:
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)
            pyro.sample("y", dist.Normal(-z, 0.5), obs=y)

    data = [(torch.zeros(50), torch.zeros(50))]
    result = sandwich(model, None, data, num_distributions=100, num_chains=16, engine="eager", real=False)
    mean, error = result.gap()
    assert abs(mean) < 4.5 * error + 0.02
    drawn = simulate("test", model, data[0])
    assert float((drawn.args[0] * drawn.args[1]).mean()) < 0  # x and y share z, with opposite signs

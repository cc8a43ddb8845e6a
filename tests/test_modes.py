"""The mode in which programs run: its choice, its record in protocol and log, and errors for programs without one."""

from __future__ import annotations

import logging
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import VAE, fit, log_likelihood, log_weights
from pyro_vae._core.owners import Owners
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE
from pyro_vae.priors import StandardNormalPrior


def test_bfloat16_rounding_does_not_decide_how_programs_run(single_precision: None) -> None:
    net = partial(MLP, hidden=(200, 200))
    vae = VAE(
        StandardNormalPrior(20), BernoulliLikelihood(20, (784,), net=net), DiagonalNormalGuide((784,), 20, net=net)
    )
    x = (torch.rand(20, 784) < 0.3).float()
    result = log_likelihood(vae.model, vae.guide, x, num_samples=20, precision="bf16")
    assert "way" not in result.protocol


class Rows(nn.Module):
    """A decoder that takes one batch dimension; or only a batch of five data, which forces looped runs."""

    def __init__(self, flattens: bool) -> None:
        super().__init__()
        self.flattens, self.encode, self.weight = flattens, nn.Linear(3, 4), nn.Parameter(torch.randn(2, 3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            if not self.flattens and len(z) != 5:
                raise RuntimeError("five data, neither more nor fewer")
            pyro.sample("x", dist.Normal(torch.mm(z, self.weight), 1.0).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize(("flattens", "way", "level"), [(True, "flattened", "INFO"), (False, "looped", "WARNING")])
def test_the_execution_mode_is_in_the_protocol_and_the_log(
    flattens: bool, way: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair, x = Rows(flattens), torch.randn(5, 3)
    with caplog.at_level(logging.INFO, logger="pyro_vae"):
        result = log_likelihood(pair.model, pair.guide, x, num_samples=400)
    assert result.protocol["way"] == way
    assert [(record.levelname, way in record.message) for record in caplog.records] == [(level, True)]
    exact = dist.MultivariateNormal(torch.zeros(3), pair.weight.T @ pair.weight + torch.eye(3)).log_prob(x)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5


class Hidden(nn.Module):
    """A decoder whose normalisation over the features has the weight 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.weight = nn.Linear(3, 4), nn.Linear(2, 3), nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            h = self.decode(z)
            pyro.sample("x", dist.Normal(h + self.weight * h.softmax(dim=1), 1.0).to_event(1), obs=x)

    guide = Rows.guide


def test_a_layer_that_starts_at_zero_does_not_hide_how_programs_run() -> None:
    pair, x = Hidden(), torch.randn(5, 3)
    early = IWAE(num_particles=4)
    early.loss(pair.model, pair.guide, x)
    with torch.no_grad():
        pair.weight.fill_(3.0)
    losses = []
    for objective in (early, IWAE(num_particles=4)):
        torch.manual_seed(1)
        losses.append(objective.loss(pair.model, pair.guide, x))
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


def test_a_module_at_the_address_of_a_freed_one_is_noticed() -> None:
    owners = Owners()
    first = nn.Linear(2, 2)
    owners.disown(first)
    address = id(first)
    del first
    second = next(module for module in (nn.Linear(2, 2) for _ in range(100)) if id(module) == address)
    with owners.noticing():
        second(torch.zeros(2))
    assert owners.submodules() == [second]


def _pixels(x):
    """The data plate around the pixel plate: Pyro gives the outer one the last dimension."""
    with pyro.plate("data", x.shape[1]), pyro.plate("pixels", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)


def _pixels_guide(x):
    shift = pyro.param("shift", torch.tensor(0.3))
    with pyro.plate("data", x.shape[1]), pyro.plate("pixels", x.shape[0]):
        pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))


@pytest.mark.parametrize("shape", [(4, 6), (3, 12)])
def test_the_plate_of_the_data_is_the_outer_one(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    loss = fit(_pixels, _pixels_guide, [x], epochs=1, engine="eager", progress=False).history[0]["loss"]
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    assert loss == pytest.approx(Trace_ELBO().loss(_pixels, _pixels_guide, x) / shape[1], abs=1e-9)
    result = log_likelihood(_pixels, _pixels_guide, [x], num_samples=3, data_plate="data")
    assert result.protocol["dimensions"] == shape[0]


def _line(x, n=None, **plate):
    with pyro.plate("data", n or len(x), **plate):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def _line_guide(x, n=None, **plate):
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", n or len(x), **plate):
        pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5).to_event(1))


def test_a_later_datum_without_its_dimension_raises() -> None:
    x = torch.randn(6, 4)
    with pytest.raises(ValueError, match="observed data must have a dimension for the plate of the data"):
        fit(_line, _line_guide, [x[:5], x[5]], epochs=1, engine="eager", progress=False)


def test_data_stored_in_a_model_raise_if_the_arguments_are_shuffled() -> None:
    x = torch.randn(20, 4)
    conditioned = pyro.condition(lambda y: _line(y), data={"x": x})
    with pytest.raises(ValueError, match="all values per datum must be arguments"):
        fit(conditioned, _line_guide, x, epochs=1, batch_size=20, engine="eager", progress=False)


@pytest.mark.parametrize(
    ("drawn", "model"),
    [
        (lambda x: dist.HalfNormal(torch.ones(len(x))), lambda: dist.Normal(0.0, 1.0)),
        (
            lambda x: dist.TransformedDistribution(
                dist.Exponential(torch.ones(len(x))), dist.transforms.AffineTransform(1.0, -2.0)
            ),
            lambda: dist.Normal(0.0, 1.0),
        ),
        (lambda x: dist.Categorical(torch.tensor([[0.5, 0.5, 0.0]] * len(x))), lambda: dist.Categorical(torch.ones(3))),
        (lambda x: dist.Bernoulli(torch.ones(len(x))), lambda: dist.Bernoulli(0.5)),
    ],
)
def test_a_guide_without_values_for_every_latent_raises(drawn, model) -> None:
    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", model()).to(x), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", drawn(x))

    for call in (log_likelihood, log_weights):
        with pytest.raises(ValueError, match="the guide must have all of the model's support"):
            call(program, guide, torch.zeros(3), num_samples=5)


@pytest.mark.parametrize("kind", ["attribute", "dictionary", "list", "closure"])
def test_a_recording_follows_changed_numbers(kind: str, uncompiled: None) -> None:
    """For each place where programs store settings, the compiled engine gives the losses of the eager one."""
    losses = {}
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        pair, x, hyper = Hidden(), torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), {"beta": 0.1}
        pair.settings, pair.schedule = {"beta": 0.1}, [0.1]
        pair.weight.requires_grad_(False)  # not used here

        def beta(pair=pair, hyper=hyper):
            places = {"attribute": pair, "dictionary": pair.settings, "list": pair.schedule, "closure": hyper}
            place = places[kind]
            return getattr(place, "beta", 0.1) if place is pair else place[0] if kind == "list" else place["beta"]

        pair.beta = 0.1

        def model(x, pair=pair, hyper=hyper, beta=beta):
            with pyro.plate("data", len(x)):
                with poutine.scale(scale=beta()):
                    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(pair.decode(z), 1.0).to_event(1), obs=x)

        def monitor(pair=pair, hyper=hyper):
            for place in (pair.settings, hyper):
                place["beta"] += 0.3
            pair.beta, pair.schedule[0] = pair.beta + 0.3, pair.schedule[0] + 0.3
            return {}

        options = {"epochs": 4, "batch_size": 20, "monitor": monitor, "progress": False, "engine": engine}
        losses[engine] = [record["loss"] for record in fit(model, pair.guide, x, **options).history]
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-9)


def test_parameters_frozen_after_recording_raise_by_name() -> None:
    pair, x = Hidden(), torch.randn(40, 3)

    def freeze():
        pair.encode.requires_grad_(False)
        return {}

    with pytest.raises(ValueError, match=r"got model\.encode\.weight, which was frozen"):
        fit(pair.model, pair.guide, x, epochs=2, batch_size=20, monitor=freeze, engine="eager", progress=False)


def test_rows_of_a_shuffled_plate_are_in_the_order_of_the_data() -> None:
    x, order = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([3, 1, 0, 2])

    def model(x):
        with pyro.plate("data", len(x), subsample=order) as i:
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[i])

    def guide(x):
        with pyro.plate("data", len(x), subsample=order) as i:
            pyro.sample("z", dist.Normal(x[i] / 2, 0.5**0.5))

    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert (log_weights(model, guide, x, 3) - exact).abs().max() < 1e-9


def test_a_draw_counts_if_one_of_two_masks_includes_it() -> None:
    """A sample counts unless both sites are masked, with the density of the distribution that it was drawn from."""
    x, guide_mask, model_mask = (
        torch.randn(4),
        torch.tensor([True, True, False, False]),
        torch.tensor([True, False, True, False]),
    )

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=model_mask):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).mask(model_mask), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=guide_mask):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    weights = log_weights(model, guide, x, 3)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert (weights[:, [0, 2]] - exact[[0, 2]]).abs().max() < 1e-9
    assert weights[:, 3].abs().max() == 0
    assert weights[:, 1].std() > 0  # minus the density of the draw alone


class Reversed(dist.transforms.Transform):
    """Reverses the features of ``(B, L)``, and the batch of ``(K, B, L)``."""

    domain = codomain = dist.constraints.real_vector
    bijective = True

    def __init__(self, invertible: bool) -> None:
        super().__init__(cache_size=1)
        self.invertible = invertible

    def with_cache(self, cache_size=1):
        return self

    def _call(self, x):
        return x.flip(1)

    def _inverse(self, y):
        if not self.invertible:
            raise NotImplementedError
        return y.flip(1)

    def log_abs_det_jacobian(self, x, y):
        return x.new_zeros(x.shape[:-1])


@pytest.mark.parametrize("invertible", [True, False])
def test_a_guide_whose_transforms_take_one_batch_dimension_is_flattened(invertible: bool) -> None:
    weight, encode, x = torch.randn(4, 6), nn.Linear(6, 8), torch.randn(5, 6)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)

    def guide(x):
        loc, log_scale = encode(x).chunk(2, -1)
        base = dist.Normal(loc, log_scale.exp()).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [Reversed(invertible)]))

    result = log_likelihood(model, guide, x, num_samples=20_000, chunk_size=1000)
    exact = dist.MultivariateNormal(torch.zeros(6), weight.T @ weight + torch.eye(6)).log_prob(x)
    assert ((result.log_likelihood - exact) / result.standard_error).abs().max() < 4.5
    assert result.protocol["way"] == "flattened"


def test_a_site_within_a_plate_of_its_own_is_not_summed_out() -> None:
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            with pyro.plate("parts", 3, dim=-2):
                y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(z + y.to(x), 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    with pytest.raises(
        ValueError, match=r"summed out must be in the plate of the data alone, got site 'y' in 2 plates"
    ):
        log_likelihood(model, guide, torch.randn(5, 3), num_samples=10)

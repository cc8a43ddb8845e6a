"""One small VAE in many styles of Pyro programs: functions, wrappers, PyroModules, dictionaries."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from tests.programs.images import PlainVAE
from tests.programs.networks import HIDDEN, NormalNet, binary, mlp
from tests.programs.pair import Built, built


def functions_with_module() -> Built:
    """Plain functions over global networks that they register, as in Pyro's tutorials."""
    encoder, decoder = NormalNet(5, 2), mlp(2, HIDDEN, 5)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return built(model, guide, (binary(6, 5),), (binary(4, 5),), notes="the networks are known to the closures alone")


def functions_with_param() -> Built:
    """Factor analysis with ``pyro.param``: all parameters are in Pyro's store."""
    weights, gains = torch.randn(2, 4), torch.randn(4, 2)

    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", weights)
        noise = pyro.param("noise", torch.ones(4), constraint=constraints.positive)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, noise).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        gain = pyro.param("gain", gains)
        scale = pyro.param("scale", lambda: torch.full((2,), 0.5), constraint=constraints.softplus_positive)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x @ gain, scale).to_event(1))

    return built(model, guide, (torch.randn(6, 4),), (torch.randn(4, 4),), notes="no module at all")


def lambda_and_partial() -> Built:
    """The networks are bound by ``functools.partial`` in the model and by a lambda in the guide."""

    def model(decoder: nn.Module, x: Tensor, sigma: float) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), sigma).to_event(1), obs=x)

    def guide(encoder: nn.Module, x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    encoder = NormalNet(5, 2)
    bound = partial(model, mlp(2, HIDDEN, 5), sigma=0.5)
    return built(bound, lambda x: guide(encoder, x), (torch.randn(6, 5),), (torch.randn(4, 5),))


class BareModel(nn.Module):
    """No parameter is registered with Pyro: a torch optimizer trains ``parameters()``."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(2, HIDDEN, 5)

    def forward(self, x: Tensor, sigma: float = 1.0) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), sigma).to_event(1), obs=x)


class BareGuide(nn.Module):
    """The guide in the same style."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = NormalNet(5, 2)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))


def unregistered() -> Built:
    """Two modules whose ``forward`` are the programs, without ``pyro.module``."""
    return built(BareModel(), BareGuide(), (torch.randn(6, 5),), (torch.randn(4, 5),), notes="not in the store")


def unregistered_partial() -> Built:
    """The same, wrapped: an option of the model is bound, the guide is called by a lambda."""
    guide = BareGuide()
    model = partial(BareModel(), sigma=0.5)
    return built(model, lambda x: guide(x), (torch.randn(6, 5),), (torch.randn(4, 5),), notes="neither in the store")


def scaled_programs() -> Built:
    """Both programs within ``poutine.scale``, so that the loss is per pixel."""
    program = PlainVAE()
    model, guide = (poutine.scale(each, scale=1 / 36) for each in (program.model, program.guide))
    return built(model, guide, (binary(6, 1, 2, 3),), (binary(4, 1, 2, 3),), notes="a handler hides the module")


def scaled_and_masked() -> Built:
    """A padded batch with a mask over the data as argument; both programs within ``poutine.mask``."""
    program = PlainVAE()

    def model(x: Tensor, valid: Tensor) -> None:
        with poutine.mask(mask=valid), poutine.scale(scale=0.5):
            program.model(x)

    def guide(x: Tensor, valid: Tensor) -> None:
        with poutine.mask(mask=valid), poutine.scale(scale=0.5):
            program.guide(x)

    batches = [(binary(size, 1, 2, 3), torch.arange(size) < size - 1) for size in (6, 4)]
    return built(model, guide, *batches, notes="the last datum of a batch is padding: its weight is 0 for any latent")


def dict_batch() -> Built:
    """A batch is one dictionary, as many data loaders give it."""

    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = NormalNet(7, 2), mlp(4, HIDDEN, 5)

        def model(self, batch: dict[str, Any]) -> None:
            pyro.module("conditional", self)
            x, context = batch["image"], batch["context"]
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
                logits = self.decoder(torch.cat([z, context], dim=-1))
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(self, batch: dict[str, Any]) -> None:
            pyro.module("conditional", self)
            with pyro.plate("data", batch["image"].shape[0]):
                inputs = torch.cat([batch["image"], batch["context"]], dim=-1)
                pyro.sample("z", dist.Normal(*self.encoder(inputs)).to_event(1))

    program = Conditional()
    batches = [
        ({"image": binary(size, 5), "context": torch.randn(size, 2), "name": [f"n{i}" for i in range(size)]},)
        for size in (6, 4)
    ]
    length = lambda batch: len(batch["image"])  # noqa: E731
    return built(program.model, program.guide, *batches, num_data=length, notes="len(batch) counts its keys")


class Generator(PyroModule):
    """The model, with a constrained parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = PyroModule[nn.Linear](2, HIDDEN)
        self.output = PyroModule[nn.Linear](HIDDEN, 5)
        self.sigma = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), x.new_ones(2)).to_event(1))
            loc = self.output(torch.tanh(self.hidden(z)))
            return pyro.sample("x", dist.Normal(loc, self.sigma).to_event(1), obs=x)


class Recognizer(PyroModule):
    """The guide as a separate module."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PyroModule[nn.Linear](5, 2)
        self.scale = PyroParam(torch.full((2,), 0.7), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), self.scale).to_event(1))


def pyro_module() -> Built:
    """Two PyroModules with PyroParams."""
    return built(Generator(), Recognizer(), (torch.randn(6, 5),), (torch.randn(4, 5),), notes="constrained parameters")


class PlateInInit(nn.Module):
    """The plate is created once with the batch size, so that all batches must have that size."""

    def __init__(self, batch_size: int = 6) -> None:
        super().__init__()
        self.plate = pyro.plate("data", batch_size, dim=-1)
        self.encoder, self.decoder = NormalNet(5, 2), mlp(2, HIDDEN, 5)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with self.plate:
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with self.plate:
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))


def plate_in_init() -> Built:
    """A plate that does not grow with the batch."""
    program = PlateInInit()
    return built(program.model, program.guide, (binary(6, 5),), (binary(6, 5),), notes="batches have one size")


class TwoLatents(nn.Module):
    """Latents in two layers; the guide samples the second one first and the other given it."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.bottom = NormalNet(5, 2), NormalNet(7, 3)
        self.prior, self.decoder = NormalNet(2, 3), mlp(3, HIDDEN, 5)

    def model(self, x: Tensor) -> None:
        pyro.module("two", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(*self.prior(z2)).to_event(1))
            pyro.sample("x", dist.Laplace(self.decoder(z1), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("two", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(*self.top(x)).to_event(1))
            pyro.sample("z1", dist.Normal(*self.bottom([x, z2])).to_event(1))


def two_latents() -> Built:
    """Dependent latents, with the divergences in closed form."""
    program = TwoLatents()
    return built(
        program.model, program.guide, (torch.randn(6, 5),), (torch.randn(4, 5),), objective=TraceMeanField_ELBO
    )

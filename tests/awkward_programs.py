"""Programs that are wrong with a particle dimension; most are linear-Gaussian, so that log p(x) has a closed form.

Each has its densities for one sample of an ordinary batch in plain torch, as reference for K samples at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import MultivariateNormal, Normal, Poisson
from torch import Tensor, nn

BATCH, LATENT_DIM, SIGMA = 8, 2, 0.5
Args = tuple[Any, ...]


def depends_on_dims(values: Tensor) -> Tensor:
    """The values unchanged if dim=1 is the features; other values of the same shape if it is the batch."""
    return values.log_softmax(dim=1) + values.logsumexp(dim=-1, keepdim=True)


class Awkward(nn.Module):
    """z ~ N(0, I), x ~ N(decode(z), sigma^2 I), and a guide that is linear in x with a full covariance.

    Attributes:
        way: mode in which it must run.
        affine: whether decode is affine in z, so that log p(x) has a closed form.
        sizes: sizes of two batches.
    """

    way = "flattened"
    affine = True
    sizes = (BATCH, 3)

    def __init__(self, dim: int, *, features: int | None = None, rows: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.decoder = nn.Linear(LATENT_DIM, rows or dim)
        self.encoder = nn.Linear(features or dim, LATENT_DIM)
        self.factor = nn.Parameter(0.4 * torch.eye(LATENT_DIM) + 0.1)
        self.log_sigma = nn.Parameter(torch.tensor(SIGMA).log())

    # Properties in which the programs differ

    def batch(self, num: int) -> Args:
        """Random arguments."""
        return (torch.randn(num, self.dim),)

    def observed(self, *args: Any) -> Tensor:
        """x, (B, *data_shape)."""
        return args[0]

    def features(self, *args: Any) -> Tensor:
        """Inputs of the guide, (B, F)."""
        return self.observed(*args).flatten(1)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        """The mean of x, (B, *data_shape)."""
        raise NotImplementedError

    # The programs

    def model(self, *args: Any) -> None:
        x = self.observed(*args)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(len(x), LATENT_DIM), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z, *args).to_event(x.dim() - 1), obs=x)

    def guide(self, *args: Any) -> None:
        loc = self.encoder(self.features(*args))
        with pyro.plate("data", len(loc)):
            pyro.sample("z", MultivariateNormal(loc, scale_tril=self.factor.tril()))

    def likelihood(self, z: Tensor, *args: Any) -> Any:
        return Normal(self.decode(z, *args), self.log_sigma.exp())

    # The same densities in plain torch, for one sample of an ordinary batch

    def draw(self, noise: Tensor, *args: Any) -> Tensor:
        """z, (B, L), from standard normal noise."""
        return self.encoder(self.features(*args)) + noise @ self.factor.tril().T

    def log_joint(self, z: Tensor, *args: Any) -> Tensor:
        """log p(x, z), (B,)."""
        log_prior = -0.5 * z.square().sum(1) - LATENT_DIM / 2 * torch.tensor(2 * torch.pi).log()
        return self.likelihood(z, *args).log_prob(self.observed(*args)).flatten(1).sum(1) + log_prior

    def log_guide(self, z: Tensor, *args: Any) -> Tensor:
        """log q(z | x), (B,)."""
        loc, factor = self.encoder(self.features(*args)), self.factor.tril()
        noise = torch.linalg.solve_triangular(factor, (z - loc).T, upper=False)
        log_det = factor.diagonal().log().sum()
        return -0.5 * noise.square().sum(0) - log_det - LATENT_DIM / 2 * torch.tensor(2 * torch.pi).log()

    # Closed forms

    def _loadings(self, *args: Any) -> tuple[Tensor, Tensor]:
        """W, (D, L), and the mean of x at z = 0, (B, D)."""
        num = len(self.observed(*args))
        at = [self.decode(z.expand(num, LATENT_DIM), *args).flatten(1) for z in torch.eye(LATENT_DIM)]
        centre = self.decode(torch.zeros(num, LATENT_DIM), *args).flatten(1)
        return torch.stack([(value - centre)[0] for value in at], 1), centre

    @torch.no_grad()
    def log_evidence(self, *args: Any) -> Tensor:
        """log p(x), (B,)."""
        weight, centre = self._loadings(*args)
        covariance = weight @ weight.T + SIGMA**2 * torch.eye(len(weight))
        return MultivariateNormal(centre, covariance).log_prob(self.observed(*args).flatten(1))

    @torch.no_grad()
    def set_exact(self) -> None:
        """Make the guide the exact posterior, whose mean is affine in the features."""
        inputs, means = [], []
        for _ in range(40):
            args = self.batch(self.sizes[0])
            weight, centre = self._loadings(*args)
            covariance = torch.linalg.inv(torch.eye(LATENT_DIM) + weight.T @ weight / SIGMA**2)
            means.append((self.observed(*args).flatten(1) - centre) @ weight @ covariance / SIGMA**2)
            inputs.append(torch.cat([self.features(*args), torch.ones(self.sizes[0], 1)], 1))
        solution = torch.linalg.lstsq(torch.cat(inputs), torch.cat(means)).solution
        self.encoder.weight.copy_(solution[:-1].T)
        self.encoder.bias.copy_(solution[-1])
        self.factor.copy_(torch.linalg.cholesky(covariance))


class Softmax(Awkward):
    """The decoder refers to the feature dimension as dim=1."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__(dim)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return depends_on_dims(self.decoder(z))


class Square(Softmax):
    """A datum has as many values as the batch has data."""

    def __init__(self) -> None:
        super().__init__(BATCH)


class WideNorm(Awkward):
    """Batch normalisation in the decoder, over as many features as the batch has data."""

    def __init__(self) -> None:
        super().__init__(BATCH)
        self.norm = nn.BatchNorm1d(BATCH)
        self.norm.running_mean = torch.randn(BATCH)
        self.norm.running_var = 0.5 + torch.rand(BATCH)
        nn.init.normal_(self.norm.weight, mean=1.0, std=0.3)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.norm(self.decoder(z))


class Convolution(Awkward):
    """Images (B, 2, 2, 2) by ``view(-1, C, H, W)`` and a convolution."""

    def __init__(self) -> None:
        super().__init__(8, rows=12)
        self.conv = nn.Conv2d(3, 2, 1)

    def batch(self, num: int) -> Args:
        return (torch.randn(num, 2, 2, 2),)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.conv(self.decoder(z).view(-1, 3, 2, 2))


class TimeMajor(Awkward):
    """Sequences (T, B, D), with a site for each time."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__(2 * steps)
        self.steps = steps

    def batch(self, num: int) -> Args:
        return (torch.randn(self.steps, num, 2),)

    def observed(self, *args: Any) -> Tensor:
        return args[0].transpose(0, 1)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.decoder(z).reshape(len(z), self.steps, 2)

    def model(self, *args: Any) -> None:
        x = args[0]
        with pyro.plate("data", x.shape[1]):
            z = pyro.sample("z", Normal(torch.zeros(x.shape[1], LATENT_DIM), 1.0).to_event(1))
            loc = self.decode(z).transpose(0, 1)
            for time in range(self.steps):
                pyro.sample(f"x_{time}", Normal(loc[time], self.log_sigma.exp()).to_event(1), obs=x[time])


class SquareTimeMajor(TimeMajor):
    """As many times as data."""

    def __init__(self) -> None:
        super().__init__(BATCH)


class Dictionary(Softmax):
    """The argument is a dictionary with other entries in addition to data."""

    def batch(self, num: int) -> Args:
        return ({"names": [f"n{i}" for i in range(num)], "x": torch.randn(num, self.dim), "power": 2},)

    def observed(self, *args: Any) -> Tensor:
        return args[0]["x"]


class Conditional(Awkward):
    """The first argument is a context."""

    def __init__(self) -> None:
        super().__init__(5, features=8)
        self.decoder = nn.Linear(LATENT_DIM + 3, 5)

    def batch(self, num: int) -> Args:
        return torch.randn(num, 3), torch.randn(num, 5)

    def observed(self, *args: Any) -> Tensor:
        return args[1]

    def features(self, *args: Any) -> Tensor:
        return torch.cat([args[1], args[0]], dim=1)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.decoder(torch.cat([z, args[0]], dim=1))


class Table(Softmax):
    """One argument is not data, but has as many rows as the batch."""

    def batch(self, num: int) -> Args:
        return torch.linspace(-1, 1, BATCH * self.dim).reshape(BATCH, self.dim), torch.randn(num, self.dim)

    def observed(self, *args: Any) -> Tensor:
        return args[1]

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return super().decode(z, *args) + args[0].square().sum(0)


class Shift(Square):
    """One argument has one value per feature, and so as many as the batch has data."""

    def batch(self, num: int) -> Args:
        return torch.randn(num, self.dim), torch.linspace(-1, 1, self.dim)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return super().decode(z, *args) + args[1]


class OneDatum(Awkward):
    """A batch of one datum (1, 1, 3): two dimensions have that length."""

    sizes = (1, 1)

    def __init__(self) -> None:
        super().__init__(3)

    def batch(self, num: int) -> Args:
        return (torch.randn(num, 1, 3),)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.decoder(z).view(-1, 1, 3)


class Chain(Softmax):
    """Two latent sites, the second sampled given the first by a guide that cannot take a particle dimension either."""

    def model(self, *args: Any) -> None:
        x = args[0]
        with pyro.plate("data", len(x)):
            first = pyro.sample("z1", Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            second = pyro.sample("z2", Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            z = torch.cat([first, second], dim=-1)
            pyro.sample("x", self.likelihood(z, x).to_event(1), obs=x)

    def guide(self, *args: Any) -> None:
        loc, factor = self.encoder(self.features(*args)), self.factor.tril()
        slope = factor[1, 0] / factor[0, 0]
        with pyro.plate("data", len(loc)):
            first = pyro.sample("z1", Normal(loc[:, :1], factor[0, 0]).to_event(1))
            inputs = torch.cat([loc, first], dim=1)
            second = inputs[:, 1:2] + slope * (inputs[:, 2:] - inputs[:, :1])
            pyro.sample("z2", Normal(second, factor[1, 1]).to_event(1))


class FixedPlate(Softmax):
    """The plate has a fixed size, so that only looped runs are possible."""

    way = "looped"
    sizes = (BATCH, BATCH)

    def __init__(self) -> None:
        super().__init__()
        self.plate = pyro.plate("data", BATCH)

    def model(self, *args: Any) -> None:
        x = args[0]
        with self.plate:
            z = pyro.sample("z", Normal(torch.zeros(LATENT_DIM), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z, x).to_event(1), obs=x)

    def guide(self, *args: Any) -> None:
        with self.plate:
            loc = self.encoder(self.features(*args))
            pyro.sample("z", MultivariateNormal(loc, scale_tril=self.factor.tril()))


class Plain(Awkward):
    """A program that takes a particle dimension."""

    way = "vectorised"

    def __init__(self) -> None:
        super().__init__(5)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.decoder(z)


class Counts(Awkward):
    """Counts whose proportions are a softmax over dim=1."""

    affine = False

    def __init__(self) -> None:
        super().__init__(5)

    def batch(self, num: int) -> Args:
        return (torch.poisson(4 * torch.rand(num, self.dim)) + 1,)

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.decoder(z).softmax(dim=1)

    def likelihood(self, z: Tensor, *args: Any) -> Any:
        return Poisson(self.decode(z) * args[0].sum(1, keepdim=True))


class Recurrent(Awkward):
    """Sequences (B, T, D) by a GRU with ``batch_first`` in both programs."""

    affine = False

    def __init__(self) -> None:
        super().__init__(6, features=4)
        self.reader = nn.GRU(2, 4, batch_first=True)
        self.writer, self.output = nn.GRU(LATENT_DIM, 5, batch_first=True), nn.Linear(5, 2)

    def batch(self, num: int) -> Args:
        return (torch.randn(num, 3, 2),)

    def features(self, *args: Any) -> Tensor:
        return self.reader(args[0])[1][-1]

    def decode(self, z: Tensor, *args: Any) -> Tensor:
        return self.output(self.writer(z.unsqueeze(1).expand(-1, 3, -1))[0])


AWKWARD: list[Callable[[], Awkward]] = [
    Plain,
    Softmax,
    Square,
    WideNorm,
    Convolution,
    TimeMajor,
    SquareTimeMajor,
    Dictionary,
    Conditional,
    Table,
    Shift,
    OneDatum,
    Chain,
    FixedPlate,
    Counts,
    Recurrent,
]

"""Programs as in pyroVED: decoders over a grid of coordinates that the latents rotate, and image to spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

from tests.programs.networks import HIDDEN, NormalNet, binary, join, mlp
from tests.programs.pair import Built, built

SIDE = 3


def grid_of(side: int) -> Tensor:
    """Coordinates of the pixels of a square image, ``(side * side, 2)``."""
    line = torch.linspace(-1.0, 1.0, side)
    return torch.stack(torch.meshgrid(line, -line, indexing="xy"), dim=-1).reshape(-1, 2)


def rotated(grid: Tensor, angle: Tensor) -> Tensor:
    """Each of the grids ``(rows, points, 2)`` turned by its own angle ``(rows,)``."""
    first = torch.stack([angle.cos(), angle.sin()], dim=1)
    second = torch.stack([-angle.sin(), angle.cos()], dim=1)
    return torch.bmm(grid, torch.stack([first, second], dim=1))


class SpatialDecoder(nn.Module):
    """Pixel probabilities from coordinates ``(rows, points, 2)`` and a code ``(rows, z)``."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.of_place = nn.Linear(2, HIDDEN)
        self.of_code = nn.Linear(z_dim, HIDDEN, bias=False)
        self.output = nn.Sequential(nn.Tanh(), nn.Linear(HIDDEN, 1), nn.Sigmoid())

    def forward(self, grid: Tensor, code: Tensor | Sequence[Tensor]) -> Tensor:
        code = code if isinstance(code, Tensor) else torch.cat(list(code), dim=-1)
        rows, points = grid.size()[:2]
        place = self.of_place(grid.reshape(rows * points, -1)).reshape(rows, points, -1)
        hidden = place + self.of_code(code).reshape(rows, 1, -1)
        return self.output(hidden.reshape(rows * points, -1)).view(rows, points)


class RotationVAE(nn.Module):
    """As ``iVAE`` with rotations: the first latent dimension is the angle of the grid."""

    def __init__(self, z_dim: int = 2) -> None:
        super().__init__()
        self.z_dim = z_dim + 1
        self.encoder_z = NormalNet(SIDE * SIDE, self.z_dim)
        self.decoder = SpatialDecoder(z_dim)
        self.grid = grid_of(SIDE)  # no buffer, as published

    def model(self, x: Tensor, beta: float = 1.0) -> Tensor:
        pyro.module("decoder", self.decoder)
        pixels = math.prod(x.shape[1:])
        with pyro.plate("data", x.shape[0]):
            loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            with poutine.scale(scale=beta):
                z = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            angle, content = z[:, 0], z[:, 1:]
            grid = rotated(self.grid.expand(x.shape[0], *self.grid.shape), angle)
            probs = self.decoder(grid, content)
            flat = x.view(-1, pixels)
            pyro.sample("obs", dist.Bernoulli(probs.view(-1, pixels), validate_args=False).to_event(1), obs=flat)
            return probs

    def guide(self, x: Tensor, beta: float = 1.0) -> None:
        pyro.module("encoder_z", self.encoder_z)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder_z(x.flatten(1))
            with poutine.scale(scale=beta):
                pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


def ivae() -> Built:
    program = RotationVAE()
    batches = (binary(6, SIDE, SIDE),), (binary(4, SIDE, SIDE), 0.5)
    return built(program.model, program.guide, *batches, notes="bmm over the batch, columns picked with z[:, 0]")


class JointVAE(nn.Module):
    """As ``jiVAE`` with rotations: the model repeats z for each class, so that it runs only where y is enumerated."""

    def __init__(self, z_dim: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.z_dim, self.classes = z_dim + 1, classes
        self.encoder_z = NormalNet(SIDE * SIDE, self.z_dim)
        self.encoder_y = nn.Sequential(mlp(SIDE * SIDE, HIDDEN, classes), nn.Softmax(dim=-1))
        self.decoder = SpatialDecoder(z_dim + classes)
        self.grid = grid_of(SIDE)

    def model(self, x: Tensor, beta: tuple[float, float] = (1.0, 1.0)) -> None:
        pyro.module("decoder", self.decoder)
        size, pixels = x.shape[0], math.prod(x.shape[1:])
        with pyro.plate("data"):
            loc = x.new_zeros(size, self.z_dim)
            uniform = x.new_ones(size, self.classes) / self.classes
            with poutine.scale(scale=beta[0]):
                z = pyro.sample("latent_cont", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            with poutine.scale(scale=beta[1]):
                y = pyro.sample("latent_disc", dist.OneHotCategorical(uniform))  # (classes, B, classes)
            rows = z.repeat(self.classes, 1)  # (classes * B, z)
            grid = rotated(self.grid.expand(size * self.classes, *self.grid.shape), rows[:, 0])
            probs = self.decoder(grid, [rows[:, 1:], y.reshape(-1, self.classes)])
            probs = probs.view(*y.shape[:-1], pixels)
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x.view(-1, pixels))

    def guide(self, x: Tensor, beta: tuple[float, float] = (1.0, 1.0)) -> None:
        pyro.module("encoder_z", self.encoder_z)
        pyro.module("encoder_y", self.encoder_y)
        with pyro.plate("data"):
            loc, scale = self.encoder_z(x.flatten(1))
            with poutine.scale(scale=beta[0]):
                pyro.sample("latent_cont", dist.Normal(loc, scale).to_event(1))
            with poutine.scale(scale=beta[1]):
                pyro.sample("latent_disc", dist.OneHotCategorical(self.encoder_y(x.flatten(1))))


def jivae() -> Built:
    program = JointVAE()
    return built(
        program.model,
        config_enumerate(program.guide, "parallel", expand=True),
        (binary(6, SIDE, SIDE),),
        (binary(4, SIDE, SIDE), (2.0, 3.0)),
        objective=lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
        notes="the model fails unless y is enumerated with expand=True; plate without a size",
    )


class EncoderDecoder(nn.Module):
    """As ``VED``: images in, spectra out, both by convolutions."""

    def __init__(self, z_dim: int = 2, length: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.length, self.channels = z_dim, length, channels
        self.encode = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.LeakyReLU(), nn.Flatten(1))
        self.head = nn.Linear(16 * channels, 2 * z_dim)
        self.grow = nn.Linear(z_dim, channels * length)
        self.decode = nn.Sequential(nn.LeakyReLU(), nn.Conv1d(channels, 1, 3, padding=1))

    def encoder_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.head(self.encode(x)).chunk(2, dim=1)
        return loc, nn.functional.softplus(scale)

    def decoder(self, z: Tensor) -> Tensor:
        return self.decode(self.grow(z).reshape(-1, self.channels, self.length))  # (B, 1, length)

    def model(self, x: Tensor, y: Tensor, beta: float = 1.0) -> None:
        pyro.module("ved", self)
        with pyro.plate("data", x.shape[0]):
            loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            spectrum = self.decoder(z).flatten(1)
            pyro.sample("obs", dist.Normal(spectrum, 0.5).to_event(1), obs=y.flatten(1))

    def guide(self, x: Tensor, y: Tensor, beta: float = 1.0) -> None:
        pyro.module("ved", self)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder_z(x)
            with poutine.scale(scale=beta):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def ved() -> Built:
    program = EncoderDecoder()
    batches = [(binary(size, 1, 4, 4), torch.randn(size, 1, 5)) for size in (6, 4)]
    return built(program.model, program.guide, *batches, notes="the guide sees x, the model observes y")


class SemiSupervisedRegression(nn.Module):
    """As ``ss_reg_iVAE`` without invariances: a continuous target that is observed for some batches."""

    def __init__(self, features: int = 5, z_dim: int = 2, targets: int = 1) -> None:
        super().__init__()
        self.z_dim, self.targets, self.sigma = z_dim, targets, 0.5
        self.encoder_z = NormalNet(features + targets, z_dim)
        self.encoder_y = mlp(features, HIDDEN, targets)
        self.decoder = nn.Sequential(mlp(z_dim + targets, HIDDEN, features), nn.Sigmoid())

    def model(self, xs: Tensor, ys: Tensor | None = None, beta: float = 1.0) -> None:
        pyro.module("ss_reg", self)
        size = xs.size(0)
        with pyro.plate("data"):
            with poutine.scale(scale=beta):
                zs = pyro.sample("z", dist.Normal(xs.new_zeros(size, self.z_dim), 1.0).to_event(1))
            ys = pyro.sample("y", dist.Normal(xs.new_zeros(size, self.targets), self.sigma).to_event(1), obs=ys)
            probs = self.decoder(join([zs, ys])).view(*ys.shape[:-1], -1)
            pyro.sample("x", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=xs.flatten(1))

    def guide(self, xs: Tensor, ys: Tensor | None = None, beta: float = 1.0) -> None:
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.Normal(self.encoder_y(xs), self.sigma).to_event(1))
            loc, scale = self.encoder_z([xs, ys])
            with poutine.scale(scale=beta):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def ss_reg() -> Built:
    program = SemiSupervisedRegression()
    batches = (binary(6, 5),), (binary(4, 5), torch.randn(4, 1))
    return built(program.model, program.guide, *batches, notes="plate without a size; y is a latent without labels")

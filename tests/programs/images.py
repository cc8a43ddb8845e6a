"""Programs for images: Pyro's VAE and conditional VAE examples, a convolutional VAE, and pixels in a plate."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from tests.programs.networks import HIDDEN, NormalNet, binary, mlp
from tests.programs.pair import Built, built


class PlainVAE(nn.Module):
    """As Pyro's ``vae`` example: images are flattened by both programs, and the decoder ends in a sigmoid."""

    def __init__(self, pixels: int = 6, z_dim: int = 2) -> None:
        super().__init__()
        self.pixels, self.z_dim = pixels, z_dim
        self.encoder = NormalNet(pixels, z_dim)
        self.decoder = nn.Sequential(mlp(z_dim, HIDDEN, pixels), nn.Sigmoid())

    def model(self, images: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", images.shape[0]):
            zeros = images.new_zeros(images.shape[0], self.z_dim)
            z = pyro.sample("latent", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            probs = self.decoder(z)
            flat = images.reshape(-1, self.pixels)
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=flat)
            return probs

    def guide(self, images: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", images.shape[0]):
            loc, scale = self.encoder(images.reshape(-1, self.pixels))
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


def vae() -> Built:
    program = PlainVAE()
    return built(program.model, program.guide, (binary(6, 1, 2, 3),), (binary(4, 1, 2, 3),))


class ImageNet(nn.Module):
    """Of the conditional VAE: unknown pixels, marked by -1, are taken from a second image."""

    def __init__(self, pixels: int, z_dim: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.net = NormalNet(pixels, z_dim)

    def forward(self, known: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        whole = known.clone()
        whole[known == -1] = guess[known == -1]
        return self.net(whole.view(-1, self.pixels))


class ConditionalVAE(nn.Module):
    """As Pyro's ``cvae`` example: ``plate("data")`` without a size, and the unknown pixels picked by a boolean index.

    The baseline network is trained beforehand; here it has no gradient.
    """

    def __init__(self, side: int = 2, z_dim: int = 2) -> None:
        super().__init__()
        pixels = self.pixels = side * side
        self.baseline = nn.Sequential(nn.Flatten(), nn.Linear(pixels, pixels), nn.Sigmoid())
        self.prior_net = ImageNet(pixels, z_dim)
        self.recognition_net = ImageNet(pixels, z_dim)
        self.generation_net = nn.Sequential(mlp(z_dim, HIDDEN, pixels), nn.Sigmoid())

    def model(self, inputs: Tensor, outputs: Tensor | None = None) -> Tensor:
        pyro.module("cvae", self)
        batch_size = inputs.shape[0]
        unknown = inputs == -1
        with pyro.plate("data"):
            with torch.no_grad():
                guess = self.baseline(inputs).view(inputs.shape)
            z = pyro.sample("z", dist.Normal(*self.prior_net(inputs, guess)).to_event(1))
            probs = self.generation_net(z)
            if outputs is None:
                pyro.deterministic("y", probs.detach())
            else:
                unknown_probs = probs[unknown.view(-1, self.pixels)].view(batch_size, -1)
                pixels = outputs[unknown].view(batch_size, -1)
                pyro.sample("y", dist.Bernoulli(unknown_probs, validate_args=False).to_event(1), obs=pixels)
            return probs

    def guide(self, inputs: Tensor, outputs: Tensor | None = None) -> None:
        with pyro.plate("data"):
            if outputs is None:
                loc, scale = self.prior_net(inputs, self.baseline(inputs).view(inputs.shape))
            else:
                loc, scale = self.recognition_net(inputs, outputs)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def cvae() -> Built:
    program = ConditionalVAE()
    batches = []
    for size in (6, 4):
        outputs = binary(size, 2, 2)
        inputs = outputs.clone()
        inputs[:, 0] = -1.0  # the upper half is unknown
        batches.append((inputs, outputs))
    idle = ("baseline.1.weight", "baseline.1.bias")
    return built(program.model, program.guide, *batches, idle=idle, notes="plate without a size; boolean indexing")


class ConvolutionalVAE(nn.Module):
    """Convolutions with batch normalization; the decoder views a vector as an image and asks for ``(batch, z)``."""

    def __init__(self, z_dim: int = 2, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.channels = z_dim, channels
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(),
            nn.Flatten(),
            nn.Linear(4 * channels, 2 * z_dim),
        )
        self.grow = nn.Linear(z_dim, 4 * channels)
        self.decoder = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),
        )

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.grow(z).view(-1, self.channels, 2, 2))

    def model(self, x: Tensor) -> None:
        pyro.module("conv_vae", self)
        with pyro.plate("batch", x.size(0)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.size(0), self.z_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("conv_vae", self)
        with pyro.plate("batch", x.size(0)):
            loc, log_scale = self.encoder(x).chunk(2, dim=1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def conv_vae() -> Built:
    program = ConvolutionalVAE()
    batches = (binary(6, 1, 4, 4),), (binary(4, 1, 4, 4),)
    return built(program.model, program.guide, *batches, notes="view(-1, C, H, W), BatchNorm2d")


class PixelPlates(nn.Module):
    """The data in an outer plate, the independent pixels of a datum in an inner one."""

    def __init__(self, pixels: int = 5, z_dim: int = 2) -> None:
        super().__init__()
        self.pixels, self.z_dim = pixels, z_dim
        self.encoder = NormalNet(pixels, z_dim)
        self.decoder = mlp(z_dim, HIDDEN, pixels)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1, self.z_dim), 1.0).to_event(1))  # (B, 1)
            logits = self.decoder(z).squeeze(-2)  # (B, pixels)
            with pyro.plate("pixels", self.pixels, dim=-1):
                pyro.sample("x", dist.Bernoulli(logits=logits), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x), dim=-2):
            loc, scale = self.encoder(x.unsqueeze(-2))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def pixel_plates() -> Built:
    program = PixelPlates()
    return built(program.model, program.guide, (binary(6, 5),), (binary(4, 5),), notes="the data are in dim=-2")

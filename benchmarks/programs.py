"""The measured models and guides, each as ``PROGRAMS[name](width, latent_dim)``.

All are of binary images of 784 pixels, and Pyro programs for ``pyro.infer.SVI`` and the engines of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions import Bernoulli, Normal, TorchDistribution, TransformedDistribution
from pyro.distributions.transforms import conditional_affine_autoregressive
from pyro.infer import ELBO as PyroELBO
from pyro.infer import JitTrace_ELBO, JitTraceEnum_ELBO, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, SemiSupervisedVAE
from pyro_vae._core.param_store import register
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, Guide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP, ContextNetwork, ConvDecoder, ConvEncoder, Shape
from pyro_vae.objectives import ELBO, EnumeratedELBO
from pyro_vae.priors import StandardNormalPrior

PIXELS = (784,)
Factory = Callable[[], PyroELBO]
JIT = partial(JitTrace_ELBO, ignore_jit_warnings=True)


@dataclass(frozen=True)
class Pair:
    """A model, its guide and their objectives: Pyro's, that of Pyro's jit, and that of the package."""

    name: str
    model: nn.Module
    guide: nn.Module
    data_shape: Shape = PIXELS
    pyro_loss: Factory = Trace_ELBO
    jit_loss: Factory = JIT
    objective: Factory = ELBO

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.guide.parameters()]

    def with_particles(self, number: int) -> Pair:
        """The same programs with objectives of several particles, which rivals with one particle do not implement."""
        if number == 1:
            return self
        of_pyro = {"num_particles": number, "vectorize_particles": True}
        losses = {name: partial(getattr(self, name), **of_pyro) for name in ("pyro_loss", "jit_loss")}
        objective = partial(self.objective, num_particles=number)
        return replace(self, name=f"{self.name}, {number} particles", objective=objective, **losses)

    def to(self, device: torch.device) -> Pair:
        self.model.to(device)
        self.guide.to(device)
        return self


def mlp(width: int = 400, latent_dim: int = 50) -> Pair:
    """784-width-latent_dim, with one hidden tanh layer in encoder and decoder."""
    net = partial(MLP, hidden=(width,))
    likelihood = BernoulliLikelihood(latent_dim, PIXELS, net=net)
    vae = VAE(StandardNormalPrior(latent_dim), likelihood, DiagonalNormalGuide(PIXELS, latent_dim, net=net))
    return Pair("mlp", vae.model, vae.guide)


def conv(width: int = 32, latent_dim: int = 50) -> Pair:
    """Two strided convolutions with width and 2 width channels; a decoder with pixel shuffles."""
    shape = (1, 28, 28)
    down, up = partial(ConvEncoder, channels=(width, 2 * width)), partial(ConvDecoder, channels=(2 * width, width))
    likelihood = BernoulliLikelihood(latent_dim, shape, net=up)
    vae = VAE(StandardNormalPrior(latent_dim), likelihood, DiagonalNormalGuide(shape, latent_dim, net=down))
    return Pair("conv", vae.model, vae.guide, data_shape=shape)


class IAFGuide(Guide):
    """Two inverse autoregressive steps on a diagonal normal, with samples and their densities in one pass.

    References:
        Improving variational inference with inverse autoregressive flow (Kingma et al., 2016), algorithm 1.
        https://arxiv.org/abs/1606.04934
    """

    def __init__(self, data_shape: Shape, latent_dim: int, width: int) -> None:
        super().__init__(data_shape, latent_dim)
        self.net = MLP(data_shape, (3, latent_dim), hidden=(width,))
        steps = (conditional_affine_autoregressive(latent_dim, latent_dim, hidden_dims=[width]) for _ in range(2))
        self.steps = nn.ModuleList(steps)

    def posterior(self, x: Tensor) -> TorchDistribution:
        loc, log_scale, context = self.net(x).unbind(-2)
        start = Normal(loc, log_scale.exp()).to_event(1)
        return TransformedDistribution(start, [step.condition(context) for step in self.steps])


def iaf(width: int = 400, latent_dim: int = 50) -> Pair:
    """The VAE of ``mlp`` with an IAF guide."""
    likelihood = BernoulliLikelihood(latent_dim, PIXELS, net=partial(MLP, hidden=(width,)))
    vae = VAE(StandardNormalPrior(latent_dim), likelihood, IAFGuide(PIXELS, latent_dim, width))
    return Pair("iaf", vae.model, vae.guide)


def m2(width: int = 500, latent_dim: int = 50, classes: int = 10) -> Pair:
    """The semi-supervised model M2 on a batch without labels, one hidden layer in each network.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 7.
        https://arxiv.org/abs/1406.5298
    """
    net = partial(ContextNetwork, context_dim=classes, net=partial(MLP, hidden=()), hidden=(width,))
    vae = SemiSupervisedVAE(
        StandardNormalPrior(latent_dim),
        BernoulliLikelihood(latent_dim, PIXELS, net=net),
        DiagonalNormalGuide(PIXELS, latent_dim, net=net),
        CategoricalGuide(PIXELS, classes, net=partial(MLP, hidden=(width,))),
    )
    loss: dict[str, Any] = {
        "pyro_loss": partial(TraceEnum_ELBO, max_plate_nesting=1),
        "jit_loss": partial(JitTraceEnum_ELBO, max_plate_nesting=1, ignore_jit_warnings=True),
        "objective": EnumeratedELBO,
    }
    return Pair("m2", vae.model, vae.guide, **loss)


def normal(net: nn.Module, x: Tensor) -> TorchDistribution:
    loc, log_scale = net(x).unbind(-2)
    return Normal(loc, log_scale.exp()).to_event(1)


class HierarchicalModel(nn.Module):
    """p(z2) p(z1 | z2) p(x | z1)."""

    def __init__(self, width: int, latent_dim: int, top_dim: int) -> None:
        super().__init__()
        self.upper = MLP((top_dim,), (2, latent_dim), hidden=(width // 2,))
        self.lower = MLP((latent_dim,), PIXELS, hidden=(width,))
        self.register_buffer("loc", torch.zeros(top_dim))

    def forward(self, x: Tensor) -> None:
        register(self)
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", Normal(self.loc, 1.0).to_event(1))
            z1 = pyro.sample("z1", normal(self.upper, z2))
            pyro.sample("x", Bernoulli(logits=self.lower(z1)).to_event(1), obs=x)


class BottomUpGuide(nn.Module):
    """q(z1 | x) q(z2 | z1)."""

    def __init__(self, width: int, latent_dim: int, top_dim: int) -> None:
        super().__init__()
        self.lower = MLP(PIXELS, (2, latent_dim), hidden=(width,))
        self.upper = MLP((latent_dim,), (2, top_dim), hidden=(width // 2,))

    def forward(self, x: Tensor) -> None:
        register(self)
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", normal(self.lower, x))
            pyro.sample("z2", normal(self.upper, z1))


def hvae(width: int = 400, latent_dim: int = 50) -> Pair:
    """Two layers of latents, the upper one of half the size, with a bottom-up guide."""
    top = max(1, latent_dim // 2)
    return Pair("hvae", HierarchicalModel(width, latent_dim, top), BottomUpGuide(width, latent_dim, top))


PROGRAMS: dict[str, Callable[..., Pair]] = {"mlp": mlp, "iaf": iaf, "m2": m2, "hvae": hvae, "conv": conv}

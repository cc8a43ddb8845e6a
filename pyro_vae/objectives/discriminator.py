"""Networks that separate data from samples, with the features of their last hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import require
from pyro_vae.distributions import Implicit
from pyro_vae.networks import ConvEncoder, NetworkFactory, Shape
from pyro_vae.objectives.ratio import RatioNetwork, RatioTraining
from pyro_vae.objectives.ratio_objective import RatioObjective
from pyro_vae.objectives.schedules import Schedule

_COLLAPSED = 0.05
"""Share of the data's variance below which the samples of a batch count as one image."""


class Discriminator(RatioNetwork):
    """The logit of a classifier of data against samples, and its features.

    Args:
        in_shape: shape of one datum.
        net: builds the network, ``net(in_shape, (1,))``, which must end in a linear layer.
        spectral_norm: see :class:`RatioNetwork`.

    Raises:
        ValueError: the network has no linear layer.
    """

    def __init__(self, in_shape: Shape, *, net: NetworkFactory = ConvEncoder, spectral_norm: bool = False) -> None:
        super().__init__(in_shape, net=net, spectral_norm=spectral_norm)
        linear = [module for module in self.net.modules() if isinstance(module, nn.Linear)]
        require(bool(linear), "Discriminator", "net must end in a linear layer", "none", "Use ConvEncoder or MLP")
        self._last = [linear[-1]]  # in a list, so that it is no second submodule

    def features(self, x: Tensor) -> Tensor:
        """The input of the last linear layer, ``(N, F)``, for x ``(N, *in_shape)``."""
        inputs: list[Tensor] = []
        handle = self._last[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        try:
            self.net(x)
        finally:
            handle.remove()
        return inputs[-1]


class DiscriminatorObjective(RatioObjective):
    """Base class of objectives that train a generator against a discriminator.

    Args:
        discriminator: builds the discriminator's network, ``discriminator(data_shape, (1,))``.
        gamma: a weight that may be scheduled.
        num_particles: number of particles K per datum.
        num_terms: number of terms of the discriminator's loss that are of samples.
        lr: learning rate of the discriminator.
        betas: decay of the averages of its Adam.
        spectral_norm, gradient_penalty: see :class:`RatioNetwork` and :class:`RatioTraining`.

    Warns:
        UserWarning: at the end of an epoch, if the samples of a batch have less than 5% of the variance of the data.
    """

    has_terms = False
    measured: tuple[str, ...] = ("spread",)

    def __init__(
        self,
        discriminator: NetworkFactory,
        *,
        gamma: float | Schedule = 1.0,
        num_particles: int = 1,
        num_terms: int = 1,
        lr: float,
        betas: Sequence[float],
        spectral_norm: bool,
        gradient_penalty: float,
    ) -> None:
        network = partial(Discriminator, net=discriminator, spectral_norm=spectral_norm)
        training = partial(
            RatioTraining, lr=lr, betas=betas, gradient_penalty=gradient_penalty, weight=float(num_terms)
        )
        training(nn.Linear(1, 1))  # checks its options
        super().__init__(network, training, num_particles=num_particles, beta=gamma)
        self.num_terms = num_terms

    @property
    def discriminator(self) -> Discriminator:
        """The discriminator, which the examination of the programs builds."""
        return cast(Discriminator, self._built().network)

    def _sides(self, samples: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return samples[0], samples[1]

    def _measures(self, samples: tuple[Tensor, ...]) -> list[Tensor]:
        images = samples[0], samples[1].chunk(self.num_terms)[-1]  # those of the prior
        data, generated = (x.var(0, unbiased=False).mean() for x in images)
        return [generated / data.clamp_min(1e-12), *samples[2:]]

    def _diagnosis(self, numbers: dict[str, float]) -> str:
        if numbers["spread"] >= _COLLAPSED:
            return ""
        text = f"samples must vary as the data do, got {numbers['spread']:.1%} of their variance (mode collapse)"
        return f"{text}. Lower the discriminator's lr, or set gradient_penalty"

    def _discriminate(self, p: Implicit, x: Tensor) -> Discriminator:
        """The discriminator of data x ``(*batch, *data_shape)``, built at the first call."""
        if not p.has_mean:
            raise p.refusal()
        return cast(Discriminator, self._build(tuple(p.event_shape), x.detach()))


def images_of(p: Implicit) -> Tensor:
    """The points of an implicit likelihood, ``(N, *data_shape)``."""
    return p.mean.reshape(-1, *p.event_shape)


def stacked(images: list[Tensor]) -> Tensor:
    """All images, as constants."""
    return torch.cat(images).detach()

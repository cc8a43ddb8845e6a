"""What the likelihoods of a location and a scale share: the network, and a scale that is learned or fixed."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network


class LocationScaleLikelihood(Likelihood):
    """Independent pixels of one family, at the locations that the network returns.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns the loc.
        scale: ``"global"``, one learned scale; ``"pixel"``, one learned per entry of the datum; or a fixed number.
        min_scale: lower limit of a learned scale, in units of the data.

    Raises:
        ValueError: a scale that is not positive.
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        scale: Literal["global", "pixel"] | float = "global",
        min_scale: float = 0.01,
    ) -> None:
        super().__init__(latent_dim, data_shape)
        self.net = build_network(net, (latent_dim,), self.data_shape)
        self.min_scale = self._positive("min_scale", min_scale)
        if isinstance(scale, str):
            shape = self._scale_shape(scale)
            # exp(-1.6) = 0.20: a typical standard deviation of pixels in [0, 1].
            self.log_scale = nn.Parameter(torch.full(shape, -1.6))
        self.fixed_scale = None if isinstance(scale, str) else self._positive("scale", scale)

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of one pixel, its mean at ``loc``."""

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        return self.family(self.net(z, *context) + self.offset, self.scale()).to_event(len(self.data_shape))

    def scale(self) -> Tensor:
        """The scale, ``()`` or ``data_shape``, in units of the data."""
        if self.fixed_scale is not None:
            return self.offset.new_tensor(self.fixed_scale)
        return self.min_scale + self.log_scale.exp()

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean

    def _scale_shape(self, scale: str) -> Shape:
        shapes = {"global": (), "pixel": self.data_shape}
        if scale not in shapes:
            raise ValueError(
                f"{type(self).__name__}: scale must be 'global', 'pixel' or a number, got scale={scale!r}. "
                "Use one of these."
            )
        return shapes[scale]

    def _positive(self, name: str, value: float) -> float:
        if not (0 < value < math.inf):
            raise ValueError(
                f"{type(self).__name__}: {name} must be positive, got {name}={value}. Use a number such as 0.1."
            )
        return float(value)

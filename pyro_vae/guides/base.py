"""The contract of a guide, and the Pyro program that all guides share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.networks import Shape
from pyro_vae.param_store import register


class Guide(nn.Module, ABC):
    """q(z | x), amortised: ``posterior(x)`` returns the distribution, calling the guide runs it as a Pyro program.

    Args:
        data_shape: shape of one datum, ``(C, H, W)`` for images.
        latent_dim: number of latent dimensions L.
    """

    def __init__(self, data_shape: Shape, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1 or not data_shape or min(data_shape) < 1:
            raise ValueError(
                f"{type(self).__name__}: data_shape and latent_dim must be positive, got data_shape={data_shape}, "
                f"latent_dim={latent_dim}. Use sizes such as data_shape=(1, 28, 28), latent_dim=20."
            )
        self.data_shape, self.latent_dim = tuple(data_shape), latent_dim

    @abstractmethod
    def posterior(self, x: Tensor) -> TorchDistribution:
        """q(z | x) for ``x`` ``(*batch, *data_shape)``: batch shape ``batch``, event shape ``(latent_dim,)``."""

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro guide: samples ``"z"`` within the plate ``"data"``.

        Args:
            x: ``(B, *data_shape)``, a batch of data.

        Returns:
            z, ``(B, latent_dim)``, or ``(K, B, latent_dim)`` under a plate of K particles.
        """
        register(self)
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("z", self.posterior(x))

"""The contract of a prior."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pyro.distributions import TorchDistribution
from torch import nn


class Prior(nn.Module, ABC):
    """p(z): a module whose ``forward()`` returns a distribution over ``(latent_dim,)`` vectors.

    Args:
        latent_dim: number of latent dimensions L.

    Raises:
        ValueError: ``latent_dim`` is not positive.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(
                f"{type(self).__name__}: latent_dim must be at least 1, got latent_dim={latent_dim}. Use 2 to 64."
            )
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """p(z), with batch shape ``()`` and event shape ``(latent_dim,)``."""

"""Base class of priors."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pyro.distributions import TorchDistribution
from torch import nn

from pyro_vae._core.checks import CheckedArguments, check_count


class Prior(nn.Module, CheckedArguments, ABC):
    """p(z): a module whose ``forward()`` returns a distribution over ``(latent_dim,)`` vectors.

    Args:
        latent_dim: number of latent dimensions L.

    Attributes:
        discrete: whether z consists of one-hot vectors.
        conditional: whether ``forward(c)`` takes a context, as that of :class:`~pyro_vae.priors.ConditionalPrior`.

    Raises:
        ValueError: ``latent_dim`` is not positive.
    """

    discrete = False
    conditional = False

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_count(type(self).__name__, latent_dim=latent_dim)
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """p(z), with batch shape ``()`` and event shape ``(latent_dim,)``."""

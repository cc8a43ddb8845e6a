"""The standard normal prior."""

from __future__ import annotations

import torch
from pyro.distributions import Normal, TorchDistribution

from pyro_vae.priors.base import Prior


class StandardNormalPrior(Prior):
    r"""Standard normal prior, :math:`p(z) = \mathcal{N}(z; 0, I)`.

    Args:
        latent_dim: number of latent dimensions L.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), section 3. https://arxiv.org/abs/1312.6114

    Example:
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> StandardNormalPrior(20)().event_shape
        torch.Size([20])
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        # Buffers, so that the distribution has the module's device and dtype; constants, so not saved.
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        return Normal(self.loc, self.scale).to_event(1)

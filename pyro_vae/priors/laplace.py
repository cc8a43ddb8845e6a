"""The Laplace prior."""

from __future__ import annotations

import torch
from pyro.distributions import Laplace, TorchDistribution

from pyro_vae.priors.base import Prior


class LaplacePrior(Prior):
    r"""Independent Laplace variables of unit scale, :math:`p(z) = \prod_i e^{-|z_i|} / 2`: the prior of sparse codes.

    With a :class:`~pyro_vae.guides.DeltaGuide` minus its log-density is the L1 penalty of a sparse autoencoder.

    Args:
        latent_dim: number of latent dimensions L.

    References:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural images (Olshausen and
        Field, 1996). https://doi.org/10.1038/381607a0

    Example:
        >>> from pyro_vae.priors import LaplacePrior
        >>> LaplacePrior(20)().event_shape
        torch.Size([20])
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        return Laplace(self.loc, self.scale).to_event(1)

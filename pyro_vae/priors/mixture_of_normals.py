"""The mixture of normals prior."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import nn

from pyro_vae._core.checks import check_count
from pyro_vae.distributions import MixtureOfNormals
from pyro_vae.priors.base import Prior


class MixtureOfNormalsPrior(Prior):
    r"""Mixture of diagonal normals, :math:`p(z) = \sum_c \pi_c \prod_i \mathcal{N}(z_i; \mu_{ci}, \sigma_{ci}^2)`.

    The simplest prior with clusters; the VampPrior usually reaches a higher likelihood. The components start at
    samples of the standard normal, with unit scale and equal weights.

    Args:
        latent_dim: number of latent dimensions L.
        num_components: number of components C.

    Shape:
        ``forward()`` returns a distribution with batch shape ``()`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``num_components`` is not positive.

    References:
        Deep unsupervised clustering with Gaussian mixture variational autoencoders (Dilokthanakul et al., 2016),
        section 3. https://arxiv.org/abs/1611.02648

    Example:
        >>> from pyro_vae.priors import MixtureOfNormalsPrior
        >>> MixtureOfNormalsPrior(20, num_components=5)().sample().shape
        torch.Size([20])
    """

    def __init__(self, latent_dim: int, *, num_components: int = 10) -> None:
        super().__init__(latent_dim)
        check_count("MixtureOfNormalsPrior", num_components=num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.locs = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> TorchDistribution:
        return MixtureOfNormals(self.logits, self.locs, self.log_scales.exp())

"""The prior for categorical variables."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import nn

from pyro_vae.distributions import IndependentOneHotCategorical
from pyro_vae.distributions.one_hot import split_into_variables
from pyro_vae.priors.base import Prior


class CategoricalPrior(Prior):
    r"""Independent categorical variables, :math:`p(z) = \prod_v \mathrm{Cat}(z_v; \pi_v)`, uniform or learned.

    z concatenates the one-hot vectors of all variables.

    Args:
        latent_dim: number of latent dimensions L, variables times categories.
        categories: number of categories of each variable; None for a single variable.
        learn: whether the probabilities are learned; they start uniform.

    Raises:
        ValueError: ``latent_dim`` is not a multiple of ``categories``.

    References:
        Categorical reparameterization with Gumbel-Softmax (Jang et al., 2017), section 4.2.
        https://arxiv.org/abs/1611.01144

    Example:
        >>> from pyro_vae.priors import CategoricalPrior
        >>> CategoricalPrior(30, categories=10)().enumerate_support().shape
        torch.Size([1000, 30])
    """

    logits: torch.Tensor
    discrete = True

    def __init__(self, latent_dim: int, *, categories: int | None = None, learn: bool = False) -> None:
        super().__init__(latent_dim)
        logits = torch.zeros(split_into_variables("CategoricalPrior", latent_dim, categories))  # (V, C)
        self.categories = logits.shape[-1]
        if learn:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def forward(self) -> TorchDistribution:
        return IndependentOneHotCategorical(self.logits)

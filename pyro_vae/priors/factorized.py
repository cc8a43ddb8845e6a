"""The factorized prior of quantized codes."""

from __future__ import annotations

from itertools import pairwise

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae._core.checks import check_positive
from pyro_vae.distributions import WithUniformNoise
from pyro_vae.networks import Shape
from pyro_vae.priors.base import Prior


class FactorizedPrior(Prior):
    r"""Learned distributions of independent latents, :math:`p(z) = \prod_i [c_i(z_i + 1/2) - c_i(z_i - 1/2)]`.

    :math:`c_i = \sigma \circ f_K \circ \dots \circ f_1` with :math:`f_k(x) = g_k(H_k x + b_k)`, positive :math:`H_k`,
    :math:`g_k(x) = x + \tanh(a_k) \odot \tanh(x)`, is any distribution function with exponential tails. At integers
    :math:`p(z)` is the probability of the code that a :class:`~pyro_vae.guides.QuantizedGuide` rounds to.

    Args:
        latent_dim: number of latent dimensions L.
        filters: widths of the hidden layers of each latent's network.
        init_scale: scale of the logistic variable that each latent is at the start.

    Shape:
        ``forward()`` returns a distribution with batch shape ``()`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: ``init_scale`` is not positive.

    References:
        Variational image compression with a scale hyperprior (Balle et al., 2018), appendix 6.1.
        https://arxiv.org/abs/1802.01436

    Example:
        >>> from pyro_vae.priors import FactorizedPrior
        >>> FactorizedPrior(20)().sample().shape
        torch.Size([20])
    """

    zeros: Tensor

    def __init__(self, latent_dim: int, *, filters: Shape = (3, 3, 3), init_scale: float = 1.0) -> None:
        super().__init__(latent_dim)
        check_positive("FactorizedPrior", init_scale=init_scale)
        widths = (1, *filters, 1)
        step = init_scale ** (1 / (len(widths) - 1))
        raw = [torch.full((latent_dim, n, m), 1 / (step * n)).expm1().log() for m, n in pairwise(widths)]
        self.matrices = nn.ParameterList(raw)
        self.biases = nn.ParameterList(torch.rand(latent_dim, n) - 0.5 for n in widths[1:])
        self.gates = nn.ParameterList(torch.zeros(latent_dim, n) for n in filters)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def logits(self, z: Tensor) -> Tensor:
        """Logits of the distribution functions, increasing in ``z``: ``(*batch, L)`` to as many."""
        h = z.unsqueeze(-1)  # (*batch, L, 1)
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            h = (softplus(matrix) * h.unsqueeze(-2)).sum(-1) + bias
            if layer < len(self.gates):
                h = h + self.gates[layer].tanh() * h.tanh()
        return h.squeeze(-1)

    def forward(self) -> TorchDistribution:
        return WithUniformNoise(self.logits, self.zeros).to_event(1)

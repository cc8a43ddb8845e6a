"""Bernoulli likelihood of binary data."""

from __future__ import annotations

from pyro.distributions import Bernoulli, TorchDistribution
from torch import Tensor

from pyro_vae.likelihoods.base import SiteLikelihood
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network


class BernoulliLikelihood(SiteLikelihood):
    r"""Independent pixels, :math:`p(x | z) = \prod_d \mathrm{Bernoulli}(x_d; \sigma(f_d(z)))`.

    The network returns logits, since probabilities would need clamping. Data must be in {0, 1}: for grey values the
    expression is not a probability.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), appendix C.1. https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> BernoulliLikelihood(20, (1, 28, 28))(torch.zeros(5, 20)).log_prob(torch.ones(5, 1, 28, 28)).shape
        torch.Size([5])
    """

    mean_tolerance = 1e-3

    def __init__(self, latent_dim: int, data_shape: Shape, *, net: NetworkFactory = MLP) -> None:
        super().__init__(latent_dim, data_shape)
        self.net = build_network(net, (latent_dim,), self.data_shape)

    def distribution(self, outputs: Tensor, offset: Tensor) -> TorchDistribution:
        return Bernoulli(logits=outputs + offset).to_event(offset.dim())

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean.clamp(1e-3, 1 - 1e-3).logit()

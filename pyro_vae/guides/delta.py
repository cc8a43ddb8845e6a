"""The deterministic guide, with which a VAE is an autoencoder."""

from __future__ import annotations

from pyro.distributions import Delta, TorchDistribution
from torch import Tensor

from pyro_vae.guides.base import AmortizedGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape


class DeltaGuide(AmortizedGuide):
    r"""Deterministic encoder, :math:`q(z | x) = \delta(z - \mu(x))`: the VAE becomes an autoencoder.

    The objective is :math:`\log p(x | \mu(x)) + \beta \log p(\mu(x))`, without the entropy of q, which is not finite:
    it is no bound on log p(x), and estimates that need the density of q raise. ``BetaELBO(beta=0)`` is the plain
    autoencoder. With ``beta`` above 0 the prior penalises the code: a standard normal by its squared length, a
    :class:`~pyro_vae.priors.LaplacePrior` by its absolute values, the sparse autoencoder. The reconstruction error is
    that of the likelihood: ``NormalLikelihood(scale=...)`` for L2, ``LaplaceLikelihood(scale=...)`` for L1.

    The codes have no distribution to sample from: :func:`pyro_vae.training.fit_latent_density` fits one to them.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder, ``net(data_shape, (latent_dim,))``, which returns the code; a
            :class:`~pyro_vae.networks.NoisyNetwork` makes a denoising autoencoder.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        Autoencoders, minimum description length and Helmholtz free energy (Hinton and Zemel, 1994).
        https://papers.nips.cc/paper/1993/hash/9e3cfc48eccf81a0d57663e129aef3cb-Abstract.html

    Example:
        >>> import torch
        >>> from pyro_vae.guides import DeltaGuide
        >>> q = DeltaGuide((1, 28, 28), 20).posterior(torch.zeros(5, 1, 28, 28))
        >>> torch.equal(q.sample(), q.sample())
        True
    """

    has_density = False
    deterministic = True

    def __init__(self, data_shape: Shape, latent_dim: int, *, net: NetworkFactory = MLP) -> None:
        super().__init__(data_shape, latent_dim, param_shape=(latent_dim,), net=net)

    def distribution(self, params: Tensor) -> TorchDistribution:
        return Delta(params, event_dim=1)

"""The guide of a rate-distortion autoencoder: an encoder whose code is rounded."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae._core.checks import check_positive
from pyro_vae.distributions import UnitBox
from pyro_vae.guides.base import AmortizedGuide
from pyro_vae.networks import MLP, NetworkFactory, Shape


class QuantizedGuide(AmortizedGuide):
    r"""Encoder y(x) with uniform noise in place of rounding, :math:`q(z | x) = \prod_i U(z_i; y_i(x) \pm 1/2)`.

    The posterior always has the noise, also in eval mode: log q is 0, and every objective and estimator is that of a
    proper VAE. The integer code itself is :meth:`code`. With a :class:`~pyro_vae.priors.FactorizedPrior` the density
    of the prior at the code is the probability of the integers, minus whose log2 is their length in a file
    (:func:`pyro_vae.compression.compress_lossy`). Since the box does not cover the posterior, ``log_likelihood``
    refuses this guide; :func:`~pyro_vae.annealed_log_likelihood` from the prior needs none.

    Args:
        data_shape: shape of one datum.
        latent_dim: number of latent dimensions L.
        net: builds the encoder, ``net(data_shape, (latent_dim,))``.
        gain: factor from the network's output to y. With 1 the codes of new weights are smaller than the noise, and
            most latents may lose all information before the decoder learns to use them; start above the noise, with
            10, and the prior with an ``init_scale`` of the codes' size, for more than a few bits per datum.

    Raises:
        ValueError: ``gain`` is not positive.

    Shape:
        ``(*batch, *data_shape)`` to a distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    References:
        End-to-end optimized image compression (Balle, Laparra and Simoncelli, 2017), section 3.
        https://arxiv.org/abs/1611.01704

    Example:
        >>> import torch
        >>> from pyro_vae.guides import QuantizedGuide
        >>> guide, x = QuantizedGuide((1, 28, 28), 20), torch.rand(5, 1, 28, 28)
        >>> q = guide.posterior(x)
        >>> bool((q.log_prob(q.sample()) == 0).all()), bool((guide.code(x) - q.mean).abs().max() <= 0.5)
        (True, True)
    """

    has_marginals = True
    bounded = True

    def __init__(self, data_shape: Shape, latent_dim: int, *, net: NetworkFactory = MLP, gain: float = 1.0) -> None:
        super().__init__(data_shape, latent_dim, param_shape=(latent_dim,), net=net)
        check_positive("QuantizedGuide", gain=gain)
        self.gain = float(gain)

    def distribution(self, params: Tensor) -> TorchDistribution:
        return UnitBox(self.gain * params).to_event(1)

    @torch.no_grad()
    def code(self, x: Tensor) -> Tensor:
        """The rounded code, whole numbers ``(*batch, latent_dim)``, for ``x`` ``(*batch, *data_shape)``."""
        return (self.gain * self.net(x)).round()

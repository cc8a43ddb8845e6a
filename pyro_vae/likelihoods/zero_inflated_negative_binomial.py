"""Zero-inflated negative binomial likelihood of overdispersed counts with additional zeros."""

from __future__ import annotations

import math

from pyro.distributions import TorchDistribution, ZeroInflatedDistribution
from torch import Tensor

from pyro_vae.distributions import LogMeanNegativeBinomial
from pyro_vae.likelihoods.counts import CountLikelihood, Dispersion, InverseDispersion
from pyro_vae.networks import MLP, NetworkFactory, Shape

_GATE_LOGIT = -2.0  # an additional zero with probability 0.12 at network output 0


class ZeroInflatedNegativeBinomialLikelihood(CountLikelihood):
    r"""Counts with additional zeros, :math:`p(x | z) = \prod_d [\pi_d 1_{x_d = 0} + (1 - \pi_d) \mathrm{NB}(x_d)]`.

    :math:`\pi` is the probability of an additional zero, such as an undetected molecule, and NB is that of
    :class:`~pyro_vae.likelihoods.NegativeBinomialLikelihood` with mean :math:`\mu`; the mean of x is
    :math:`(1 - \pi) \mu`.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values are 0, 1, 2, ...
        net: builds the decoder, ``net((latent_dim,), (2 * C, H, W))`` for images ``(C, H, W)``,
            ``net((latent_dim,), (2, *data_shape))`` for other data, which returns log means, clamped to [-30, 30],
            and logits of :math:`\pi`, to which -2 is added. For ``dispersion="network"`` with 3 in place of 2, also g.
        dispersion: ``"global"``, one learned r; ``"pixel"``, one learned per entry of the datum (scvi-tools'
            ``"gene"``); ``"network"``, one per entry that depends on z (``"gene-cell"``). log r is
            :math:`15 \tanh(a + g(z) / 15)` with the learned a and the output g, if there is one; r = 1 at a = g = 0.
        size_factor: whether :math:`\mu` is multiplied by a size factor of each datum, whose logarithm ``(*batch, 1)``
            is then the last argument of every call: ``likelihood(z, log_size)``, ``vae.model(x, log_size)``. The
            density p(x | z, size) is normalised for each size.

    Attributes:
        offset: ``(*data_shape)``, added to the log means. With size factors :meth:`initialise_mean` takes the mean of
            x / size.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: an unknown ``dispersion``; at a call: ``size_factor`` without log size factors.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), methods. The means there are a
        softmax times the size, here an exponential. https://doi.org/10.1038/s41592-018-0229-2

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import ZeroInflatedNegativeBinomialLikelihood
        >>> likelihood = ZeroInflatedNegativeBinomialLikelihood(2, (3,), net=lambda i, o: torch.nn.Linear(2, 6))
        >>> likelihood.net.out_features
        6
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        dispersion: Dispersion = "pixel",
        size_factor: bool = False,
    ) -> None:
        outputs = 2 + (dispersion == "network")
        super().__init__(latent_dim, data_shape, net=net, size_factor=size_factor, num_outputs=outputs)
        self.log_inverse_dispersion = InverseDispersion(type(self).__name__, dispersion, self.data_shape)

    def family(self, log_mean: Tensor, *outputs: Tensor) -> TorchDistribution:
        gate, *raw = outputs
        # The offset is of the mean, which the additional zeros lower.
        log_mean = log_mean + math.log1p(math.exp(_GATE_LOGIT))
        counts = LogMeanNegativeBinomial(log_mean, self.log_inverse_dispersion(*raw))
        return ZeroInflatedDistribution(counts, gate_logits=gate + _GATE_LOGIT)

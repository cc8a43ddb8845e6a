"""Normal likelihood of real-valued data."""

from __future__ import annotations

from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pyro_vae.likelihoods.location_scale import LocationScaleLikelihood


class NormalLikelihood(LocationScaleLikelihood):
    r"""Independent normal pixels, :math:`p(x | z) = \prod_d \mathcal{N}(x_d; f_d(z), \sigma_d^2)`.

    A density: its logarithm is unbounded if a pixel is constant and its scale learned. ``min_scale`` bounds it and is
    part of the protocol of any reported number.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns the loc.
        scale: ``"global"``, one learned scale; ``"pixel"``, one learned per entry of the datum; ``"network"``, one
            per entry that depends on z, for which the network returns twice the channels; or a fixed number.
        min_scale: lower limit of a learned scale, in units of the data.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: a scale that is not positive.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), appendix C.2. https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import NormalLikelihood
        >>> NormalLikelihood(2, (5,), scale=0.1)(torch.zeros(7, 2)).stddev[0, 0]
        tensor(0.1000)
    """

    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        return Normal(loc, scale)

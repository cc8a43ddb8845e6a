"""Laplace likelihood of real-valued data."""

from __future__ import annotations

from pyro.distributions import Laplace, TorchDistribution
from torch import Tensor

from pyro_vae.likelihoods.location_scale import LocationScaleLikelihood


class LaplaceLikelihood(LocationScaleLikelihood):
    r"""Independent Laplace pixels, :math:`p(x | z) = \prod_d \exp(-|x_d - f_d(z)| / s_d) / (2 s_d)`.

    With the absolute instead of the squared error outliers cost less, and the loc is a median, which gives sharper
    images than :class:`~pyro_vae.likelihoods.NormalLikelihood`. A density; ``min_scale`` bounds it as there.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns the loc.
        scale: ``"global"``, one learned scale s; ``"pixel"``, one learned per entry of the datum; ``"network"``, one
            per entry that depends on z, for which the network returns twice the channels; or a fixed number.
            The standard deviation is :math:`\sqrt{2} s`.
        min_scale: lower limit of a learned scale, in units of the data.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: a scale that is not positive.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), section 2.4, names the family among those with a
        location and a scale. https://arxiv.org/abs/1312.6114

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import LaplaceLikelihood
        >>> LaplaceLikelihood(2, (5,), scale=0.1)(torch.zeros(7, 2)).stddev[0, 0]
        tensor(0.1414)
    """

    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        return Laplace(loc, scale)

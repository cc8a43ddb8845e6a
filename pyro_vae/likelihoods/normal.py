"""Normal likelihood of real-valued data."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network


class NormalLikelihood(Likelihood):
    r"""Independent normal pixels, :math:`p(x | z) = \prod_d \mathcal{N}(x_d; f_d(z), \sigma_d^2)`.

    A density: its logarithm has no upper bound, and grows without one where a pixel is constant and its scale is free.
    ``min_scale`` is what stops it; it is part of the protocol of any number reported.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns the loc.
        scale: ``"global"``, one learned scale; ``"pixel"``, one learned per entry of the datum; or a fixed number.
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

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        scale: Literal["global", "pixel"] | float = "global",
        min_scale: float = 0.01,
    ) -> None:
        super().__init__(latent_dim, data_shape)
        self.net = build_network(net, (latent_dim,), self.data_shape)
        self.min_scale = _positive("min_scale", min_scale)
        if isinstance(scale, str):
            shape = self._scale_shape(scale)
            # exp(-1.6) = 0.20: a typical standard deviation of pixels in [0, 1].
            self.log_scale = nn.Parameter(torch.full(shape, -1.6))
        self.fixed_scale = None if isinstance(scale, str) else _positive("scale", scale)

    def forward(self, z: Tensor) -> TorchDistribution:
        return Normal(self.net(z) + self.offset, self.scale()).to_event(len(self.data_shape))

    def _scale_shape(self, scale: str) -> Shape:
        shapes = {"global": (), "pixel": self.data_shape}
        if scale not in shapes:
            raise ValueError(
                f"NormalLikelihood: scale must be 'global', 'pixel' or a number, got scale={scale!r}. Use one of these."
            )
        return shapes[scale]

    def scale(self) -> Tensor:
        """The standard deviation, ``()`` or ``data_shape``, in units of the data."""
        if self.fixed_scale is not None:
            return self.offset.new_tensor(self.fixed_scale)
        return self.min_scale + self.log_scale.exp()

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean


def _positive(name: str, value: float) -> float:
    if not (0 < value < math.inf):
        raise ValueError(f"NormalLikelihood: {name} must be positive, got {name}={value}. Use a number such as 0.1.")
    return float(value)

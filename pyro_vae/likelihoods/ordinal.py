"""Ordinal likelihood of ordered classes."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from pyro_vae._core.checks import check_count
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.categorical import CategoricalLevels
from pyro_vae.likelihoods.tilting import slope_of_mean
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_RAW_GAP = 0.54  # softplus(0.54) = 1
_MIN_GAP = 1e-3


class OrdinalLikelihood(Likelihood):
    r"""Independent ordered classes, the proportional odds model :math:`P(x_d \ge k | z) = \sigma(f_d(z) - c_{dk})`.

    One output per entry, whatever the number of classes, moves their probabilities along the learned, increasing
    cutpoints :math:`c_{d1} < \dots < c_{dn}`, n = levels - 1. For grades, survey answers and stages.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values are 0, 1, ..., levels - 1.
        net: builds the decoder, ``net((latent_dim,), data_shape)``.
        levels: number of classes.

    Attributes:
        offset: ``(*data_shape)``, added to f; :meth:`initialise_mean` solves for the one at which the mean code is the
            given one, clamped to [0.001, 0.999] of levels - 1.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: ``levels`` below 2.

    References:
        Regression models for ordinal data (McCullagh, 1980). https://doi.org/10.1111/j.2517-6161.1980.tb01109.x

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import OrdinalLikelihood
        >>> p = OrdinalLikelihood(2, (3,), levels=5)(torch.zeros(7, 2))
        >>> p.log_prob(torch.tensor([0.0, 4.0, 2.0])).shape
        torch.Size([7])
    """

    def __init__(self, latent_dim: int, data_shape: Shape, *, net: NetworkFactory = MLP, levels: int) -> None:
        super().__init__(latent_dim, data_shape)
        check_count("OrdinalLikelihood", at_least=2, levels=levels)
        self.levels = levels
        self.net = build_network(net, (latent_dim,), self.data_shape)
        self.first_cutpoint = nn.Parameter(torch.full((1, *self.data_shape), 1 - levels / 2))
        self.raw_gaps = nn.Parameter(torch.full((levels - 2, *self.data_shape), _RAW_GAP))

    def gaps(self) -> Tensor:
        """Distances between the cutpoints, ``(levels - 2, *data_shape)``."""
        return _MIN_GAP + softplus(self.raw_gaps)

    def cutpoints(self) -> Tensor:
        """The increasing cutpoints, ``(levels - 1, *data_shape)``."""
        return torch.cat([self.first_cutpoint, self.gaps()]).cumsum(0)

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        dims = len(self.data_shape)
        f = (self.net(z, *context) + self.offset).unsqueeze(-dims - 1)  # (*batch, 1, *data_shape)
        logits, end = f - self.cutpoints(), torch.zeros_like(f)  # of P(x >= k): (*batch, levels - 1, *data_shape)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): no cancellation.
        upper = torch.cat([end, logsigmoid(logits)], -dims - 1)
        lower = torch.cat([logsigmoid(-logits), end], -dims - 1)
        edge = torch.zeros_like(self.first_cutpoint)
        width = torch.cat([edge, torch.log(-torch.expm1(-self.gaps())), edge])  # (levels, *data_shape)
        return CategoricalLevels(upper + lower + width, dims, codes=True)

    @property
    def mean_tolerance(self) -> float:  # type: ignore[override]
        """A thousandth of the range, by the clamp of the mean."""
        return 1e-3 * (self.levels - 1)

    def mean_to_output(self, mean: Tensor) -> Tensor:
        cutpoints = self.cutpoints().detach().double()
        return slope_of_mean(lambda f: (f - cutpoints).sigmoid().mean(0), mean / (self.levels - 1))

"""Discretized logistic likelihood of grey levels."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_vae._core.checks import check_count, check_positive
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.grey_levels import GreyLevels
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_NO_SHAPE = torch.Size()
_LOG_SCALE = -2.3  # exp(-2.3) = 0.10, times pi/sqrt(3) is a standard deviation of 0.18 of the grey range


class DiscretizedLogistic(TorchDistribution):
    r"""A logistic variable binned to ``levels`` grey values in [0, 1], the outer bins open.

    :math:`P(x) = \sigma((x + h - \mu)/s) - \sigma((x - h - \mu)/s)`,
    where :math:`h = 1/(2(\text{levels} - 1))` is half a bin.

    Args:
        loc: location, in grey values.
        scale: scale of the logistic, in grey values.
        levels: number of grey values.

    References:
        Improved variational inference with inverse autoregressive flow (Kingma et al., 2016).
        https://arxiv.org/abs/1606.04934
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Constraint:
        return GreyLevels(self.levels)

    @property
    def mean(self) -> Tensor:
        """Exact: the sum over the levels k >= 1 of P(x >= k), divided by the number of steps."""
        total = torch.zeros_like(self.loc)
        for level in range(1, self.levels):
            total += torch.sigmoid((self.loc - (level - 0.5) / (self.levels - 1)) / self.scale)
        return total / (self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        new.levels = self.levels
        super(DiscretizedLogistic, new).__init__(new.loc.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
            x = self.loc + self.scale * u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps).logit()
            return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no cancellation in either tail.
        inner = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half / self.scale))
        edge = torch.where(value < half, logsigmoid(upper), logsigmoid(-lower))
        return torch.where((value < half) | (value > 1 - half), edge, inner)


class DiscretizedLogisticLikelihood(Likelihood):
    r"""Independent grey levels, :math:`p(x | z) = \prod_d \mathrm{DLogistic}(x_d; f_d(z), s_d)`.

    A probability, not a density: comparable in bits per dimension with other likelihoods of the same levels.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values are k / (levels - 1).
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns the loc.
        levels: number of grey values, 256 for bytes.
        min_scale: lower limit of the learned scale per pixel, in grey values.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), section 4 uses it for Frey Faces.
        https://arxiv.org/abs/1705.07120

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import DiscretizedLogisticLikelihood
        >>> p = DiscretizedLogisticLikelihood(2, (1,), levels=4)(torch.zeros(1, 2))
        >>> total = sum(p.log_prob(torch.tensor([k / 3])).exp() for k in range(4))
        >>> bool((total - 1).abs() < 1e-6)
        True
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        levels: int = 256,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(latent_dim, data_shape)
        check_count("DiscretizedLogisticLikelihood", at_least=2, levels=levels)
        check_positive("DiscretizedLogisticLikelihood", min_scale=min_scale)
        self.net = build_network(net, (latent_dim,), self.data_shape)
        self.levels, self.min_scale = levels, min_scale
        self.log_scale = nn.Parameter(torch.full(self.data_shape, _LOG_SCALE))

    @property
    def mean_tolerance(self) -> float:  # type: ignore[override]
        """Clipping to [0, 1] moves the mean of a logistic by at most s log 2, binning by half a bin."""
        return (self.min_scale + math.exp(_LOG_SCALE)) * math.log(2) + 0.5 / (self.levels - 1)

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        scale = self.min_scale + self.log_scale.exp()
        return DiscretizedLogistic(self.net(z, *context) + self.offset, scale, self.levels).to_event(
            len(self.data_shape)
        )

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean

"""Continuous Bernoulli likelihood of grey values in [0, 1]."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.tilting import log_density, slope_of_mean, tilted_mean
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_NO_SHAPE = torch.Size()


class ContinuousBernoulli(TorchDistribution):
    r"""A tilted uniform variable, :math:`p(x) = e^{\theta x} / \int_0^1 e^{\theta t} dt` on [0, 1].

    Torch's distribution of that name clamps :math:`\sigma(\theta)`, which in float32 is wrong beyond logits of 16, and
    switches to a short series near 0; this one is exact for every logit.

    Args:
        logits: :math:`\theta`, the logit of the parameter :math:`\lambda` of the paper.
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return tilted_mean(self.logits)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        new = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(new.logits.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """Sample by inversion of the distribution function, from the end with the largest density."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
            slope = self.logits.abs().clamp_min(1e-12)
            distance = -torch.log1p(u * torch.expm1(-slope)) / slope
            return torch.where(self.logits > 0, 1 - distance, distance).clamp(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_density(self.logits, value)


class ContinuousBernoulliLikelihood(Likelihood):
    r"""Independent grey values in [0, 1], :math:`p(x | z) \propto \prod_d \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}`.

    Here :math:`\lambda = \sigma(f(z))`, and the network returns logits. This is the Bernoulli expression with the
    normalising constant that makes it a density of grey values. The mean is not :math:`\lambda`. Comparable with other
    densities of the same data, not with probabilities of levels.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum; values in [0, 1].
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns logits.

    Attributes:
        offset: ``(*data_shape)``; :meth:`initialise_mean` solves for the logit at which the mean is the given one,
            clamped to [0.001, 0.999].

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem and Cunningham,
        2019), eq. 5 to 8. https://arxiv.org/abs/1907.06845

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import ContinuousBernoulliLikelihood
        >>> p = ContinuousBernoulliLikelihood(2, (3,)).initialise_mean(torch.tensor([0.1, 0.5, 0.9]))(torch.zeros(5, 2))
        >>> p.mean[0].detach()
        tensor([0.1000, 0.5000, 0.9000])
    """

    mean_tolerance = 1e-3

    def __init__(self, latent_dim: int, data_shape: Shape, *, net: NetworkFactory = MLP) -> None:
        super().__init__(latent_dim, data_shape)
        self.net = build_network(net, (latent_dim,), self.data_shape)

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        return ContinuousBernoulli(self.net(z, *context) + self.offset).to_event(len(self.data_shape))

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return slope_of_mean(tilted_mean, mean)

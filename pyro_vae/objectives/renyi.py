"""Renyi bounds: ELBO, IWAE and VR-max as special cases."""

from __future__ import annotations

import math

from torch import Tensor

from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Programs


class Renyi(PerDatumObjective):
    r"""Variational Renyi bound, :math:`\mathcal{L}_\alpha = \frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}`.

    alpha = 0 is IWAE, alpha = 1 the ELBO (the limit, taken exactly), alpha = -inf the largest of K weights (VR-max).
    For alpha >= 0 it is a lower bound of log p(x) in expectation, for any K; for alpha < 0, including VR-max, it may
    exceed log p(x).

    Args:
        alpha: the order; ``float("-inf")`` for VR-max.
        num_particles: number of particles K per datum.

    Raises:
        ValueError: at a call: as :class:`IWAE`.

    References:
        Renyi divergence variational inference (Li and Turner, 2016), eq. 9 and section 4.2.
        https://arxiv.org/abs/1602.02311

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.Renyi(alpha=0.5, num_particles=5)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    def __init__(self, *, alpha: float = 0.5, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)
        self.alpha = float(alpha)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        bound = self._power_mean(particles.log_weight)
        return Estimate(bound, bound, particles)

    def _power_mean(self, log_weight: Tensor) -> Tensor:
        order = 1 - self.alpha
        if order == 0:
            return log_weight.mean(0)
        if math.isinf(order):
            return log_weight.max(0).values if order > 0 else log_weight.min(0).values
        # Relative to the largest term, and exact for order near 0, for which log mean exp would be 0 / 0.
        values = log_weight.detach()
        largest = values.max(0).values if order > 0 else values.min(0).values
        return largest + (order * (log_weight - largest)).expm1().mean(0).log1p() / order

"""Importance-weighted bounds: IWAE and its combination with the ELBO."""

from __future__ import annotations

from pyro_vae._core.checks import check_count
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective, log_mean_exp
from pyro_vae.objectives.programs import Programs


class IWAE(PerDatumObjective):
    r"""Importance-weighted bound, :math:`E[\log \frac1K \sum_k w_k]` with :math:`w_k = p(x, z_k) / q(z_k | x)`.

    K = 1 is the ELBO; with K the bound rises to log p(x), while the signal-to-noise ratio of the guide's gradient falls
    as :math:`1/\sqrt K` (:func:`~pyro_vae.evaluation.gradient_snr`): use :class:`DoublyReparameterized` for large K.

    Args:
        num_particles: number of particles K per datum.

    Raises:
        ValueError: at a call: no weights per datum, or a latent site that is not reparameterised.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8 and 13. https://arxiv.org/abs/1509.00519

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objective = objectives.IWAE(num_particles=50)
        >>> objective(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    def __init__(self, *, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        bound = log_mean_exp(particles.log_weight)
        return Estimate(bound, bound, particles)


class MIWAE(PerDatumObjective):
    r"""Mean of M importance-weighted bounds, :math:`\frac1M \sum_m \log \frac1K \sum_k w_{m, k}`.

    The expectation is that of IWAE with K particles, and the noise of the gradient falls with M.

    Args:
        num_particles: number of particles K per datum and bound.
        num_batches: number of bounds M, each of K particles.

    Raises:
        ValueError: at a call: as :class:`IWAE`.

    References:
        Tighter variational bounds are not necessarily better (Rainforth et al., 2018), eq. 9.
        https://arxiv.org/abs/1802.04537

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objective = objectives.MIWAE(num_particles=8, num_batches=8)
        >>> objective(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    def __init__(self, *, num_particles: int = 8, num_batches: int = 8) -> None:
        super().__init__(num_particles=num_particles)
        check_count("MIWAE", num_batches=num_batches)
        self.num_batches = num_batches

    @property
    def num_draws(self) -> int:
        return self.num_batches * self.num_particles

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        log_weight = particles.log_weight.unflatten(0, (self.num_particles, self.num_batches))  # (K, M, B)
        bound = log_mean_exp(log_weight).mean(0)
        return Estimate(bound, bound, particles)

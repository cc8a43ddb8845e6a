"""Pathwise gradients without the score of q: sticking the landing and its importance-weighted form."""

from __future__ import annotations

from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective, log_mean_exp
from pyro_vae.objectives.programs import GradientScale, Programs


class StickingTheLanding(PerDatumObjective):
    r"""The ELBO, its gradient without the score of q: :math:`\nabla_\phi [\log p(x, z) - \log q_{\bar\phi}(z | x)]`.

    The parameters of q are constants in its density (:math:`\bar\phi`) and vary in the samples z alone. The omitted
    score has mean zero; if q is the posterior, the gradient is zero for every sample, not only in expectation.

    Args:
        num_particles: number of particles K per datum, over which the bound is averaged.

    Raises:
        ValueError: at a call: as :class:`IWAE`.

    References:
        Sticking the landing: simple, lower-variance gradient estimators for variational inference (Roeder et al.,
        2017), eq. 7. https://arxiv.org/abs/1703.09194

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.StickingTheLanding()(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    holds = True

    def __init__(self, *, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample_pathwise()
        bound = particles.log_weight.mean(0)
        return Estimate(bound, bound, particles)


class DoublyReparameterized(PerDatumObjective):
    r"""IWAE's bound, the guide's gradient by :math:`\sum_k \tilde w_k^2\, \partial_z \log w_k\, \partial_\phi z_k`.

    :math:`\tilde w_k = w_k / \sum_j w_j`. It has the expectation of IWAE's gradient, but its signal-to-noise ratio
    does not fall with K, and it is zero for every sample if q is the posterior. The model's gradient is that of IWAE.
    It holds for any number of dependent sites: one factor multiplies log w, the other the gradient that enters the
    samples.

    Args:
        num_particles: number of particles K per datum.

    Raises:
        ValueError: at a call: as :class:`IWAE`.

    References:
        Doubly reparameterized gradient estimators for Monte Carlo objectives (Tucker et al., 2019), eq. 8.
        https://arxiv.org/abs/1810.04152

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.DoublyReparameterized(num_particles=50)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    holds = True

    def __init__(self, *, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)

    def _estimate(self, programs: Programs) -> Estimate:
        scale = GradientScale()
        particles = programs.sample_pathwise(scale)
        scale.factor = particles.log_weight.detach().softmax(0)  # (K, B)
        return Estimate(log_mean_exp(particles.log_weight), (scale.factor * particles.log_weight).sum(0), particles)

"""Gradients through the draws alone: sticking the landing, and its importance-weighted form."""

from __future__ import annotations

from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective, log_mean_exp
from pyro_vae.objectives.programs import GradientScale, Programs


class StickingTheLanding(PerDatumObjective):
    r"""The ELBO, its gradient without the score of q: :math:`\nabla_\phi [\log p(x, z) - \log q_{\bar\phi}(z | x)]`.

    The parameters of q are constants in its density (:math:`\bar\phi`) and vary in the draws z alone. What is left
    out has mean zero; where q is the posterior the gradient is zero for every draw, not only in the mean.

    Args:
        num_particles: number of draws of z per datum K, which are averaged.

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
        draws = programs.draw_with_path_alone()
        bound = draws.log_weight.mean(0)
        return Estimate(bound, bound, draws)


class DoublyReparameterized(PerDatumObjective):
    r"""IWAE's bound, the guide's gradient by :math:`\sum_k \tilde w_k^2\, \partial_z \log w_k\, \partial_\phi z_k`.

    :math:`\tilde w_k = w_k / \sum_j w_j`. The same mean as IWAE's gradient, but its signal-to-noise ratio does not
    fall with K, and it is zero for every draw where q is the posterior. The model's gradient is IWAE's. It holds for
    any number of dependent sites: the first weight stands outside of log w, the second where the draws leave the
    guide.

    Args:
        num_particles: number of draws of z per datum K.

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
        draws = programs.draw_with_path_alone(scale)
        scale.factor = draws.log_weight.detach().softmax(0)  # (K, B)
        return Estimate(log_mean_exp(draws.log_weight), (scale.factor * draws.log_weight).sum(0), draws)

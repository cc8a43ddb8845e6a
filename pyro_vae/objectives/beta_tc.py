"""The ELBO with its KL decomposed into mutual information, total correlation and dimension-wise KL."""

from __future__ import annotations

import math
from typing import NamedTuple

from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import check_count, check_positive
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents
from pyro_vae.objectives.latent_structure import scalar_factors, single_latent
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Particles, Programs
from pyro_vae.objectives.schedules import Schedule


class BetaTC(PerDatumObjective):
    r"""beta-TCVAE: :math:`E[\log p(x | z)] - \alpha\, I(x; z) - \beta\, TC(z) - \gamma \sum_j KL(q(z_j) \| p(z_j))`.

    The three add up to the KL. The aggregate posterior q(z) is estimated from the batch by minibatch-weighted sampling,
    :math:`\log q(z) \approx \log \frac{1}{NM} \sum_j q(z | x_j)`, which is biased: low by log M if the posteriors
    are far apart and by up to log N if they coincide, N the size of the data set and M that of the batch. A constant
    bias does not affect the gradient. alpha = beta = gamma = 1 is exactly the ELBO.

    For models with one latent site, and guides whose posterior factorises over the dimensions.

    Args:
        num_data: size of the data set N; None uses that of the batch. It shifts the loss by a constant.
        beta: weight of the total correlation, a number or a :class:`~pyro_vae.objectives.Schedule`.
        alpha: weight of the mutual information.
        gamma: weight of the dimensions' KL.
        num_particles: number of particles K per datum.

    Raises:
        ValueError: a negative weight, or ``num_data`` below 1; at a call: several latent sites, or a posterior that
            does not factorise.

    References:
        Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018), eq. 2, 3 and 4.
        https://arxiv.org/abs/1802.04942

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.BetaTC(beta=4.0)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    additive = False
    advice = "ELBO for this guide"

    def __init__(
        self,
        *,
        num_data: int | None = None,
        beta: float | Schedule = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles=num_particles, beta=beta)
        check_count("BetaTC", num_data=num_data)
        check_positive("BetaTC", at_least_zero=True, alpha=alpha, gamma=gamma)
        self.num_data, self.alpha, self.gamma = num_data, float(alpha), float(gamma)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        name = single_latent(layout, model_trace)["name"]
        scalar_factors(layout.owner, guide_trace.nodes[name], "posterior", "Use BetaELBO or InfoVAE")

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        terms = decompose_kl(particles, self.num_data)
        kl = self.alpha * terms.information + self._weight * terms.correlation + self.gamma * terms.dimensions
        bound = (particles.log_likelihood - kl).mean(0)
        return Estimate(bound, bound, particles)


class KLTerms(NamedTuple):
    """Mutual information, total correlation and dimension-wise KL, ``(K, B)`` each, in nats; their sum is the KL."""

    information: Tensor
    correlation: Tensor
    dimensions: Tensor


def decompose_kl(particles: Particles, num_data: int | None) -> KLTerms:
    """The terms of the KL at each particle, with the aggregate posterior estimated from the batch."""
    name = latents(particles.model_trace)[0]["name"]
    z = particles.latent.nodes[name]["value"].movedim(0, 1).unsqueeze(2)  # (B, K, 1, *event)
    q = particles.guide_trace.nodes[name]["fn"].base_dist  # batch dimension repeated if it ran flattened
    each = q.log_prob(z).flatten(3)[:, :, : len(z)]  # (B, K, B, D): particle k of datum i under q(z_d | x_j)
    normaliser = math.log(num_data or each.shape[2]) + math.log(each.shape[2])
    log_joint = (each.sum(-1).logsumexp(2) - normaliser).T  # (K, B)
    log_product = (each.logsumexp(2) - normaliser).sum(-1).T  # (K, B)
    return KLTerms(particles.log_guide - log_joint, log_joint - log_product, log_product - particles.log_prior)

"""The ELBO with its KL taken apart into what z tells of x, total correlation and the single dimensions."""

from __future__ import annotations

import math
from typing import NamedTuple

from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents
from pyro_vae.objectives.latent_structure import scalar_factors, single_latent
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Draws, Programs
from pyro_vae.objectives.schedules import Schedule


class BetaTC(PerDatumObjective):
    r"""beta-TCVAE: :math:`E[\log p(x | z)] - \alpha\, I(x; z) - \beta\, TC(z) - \gamma \sum_j KL(q(z_j) \| p(z_j))`.

    The three add up to the KL. The aggregate posterior q(z) is estimated from the batch by minibatch-weighted sampling,
    :math:`\log q(z) \approx \log \frac{1}{NM} \sum_j q(z | x_j)`, which is biased: low by log M where the posteriors
    lie far apart, by up to log N where they coincide, N the size of the data set and M that of the batch. A constant
    bias leaves the gradient alone. alpha = beta = gamma = 1 is the ELBO, exactly.

    It holds for one latent site whose posterior factorises over the dimensions.

    Args:
        num_data: size of the data set N; None takes the batch's. It shifts the loss by a constant, no gradient.
        beta: weight of the total correlation, a number or a :class:`~pyro_vae.objectives.Schedule`.
        alpha: weight of the mutual information.
        gamma: weight of the dimensions' KL.
        num_particles: number of draws of z per datum K.

    Raises:
        ValueError: a negative weight, no data; at a call: several latent sites, or a posterior that does not factorise.

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
        known = num_data is None or num_data >= 1
        self._require("num_data", num_data, known, "must be the size of the data set", "Use len(data)")
        for name, weight in (("alpha", alpha), ("gamma", gamma)):
            self._require(name, weight, weight >= 0, "must not be negative", "Use 1")
        self.num_data, self.alpha, self.gamma = num_data, float(alpha), float(gamma)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        name = single_latent(layout, model_trace)["name"]
        scalar_factors(layout.owner, guide_trace.nodes[name], "posterior", "Use BetaELBO or InfoVAE")

    def _estimate(self, programs: Programs) -> Estimate:
        draws = programs.draw()
        parts = decompose(draws, self.num_data)
        kl = self.alpha * parts.information + self._weight * parts.correlation + self.gamma * parts.dimensions
        bound = (draws.log_likelihood - kl).mean(0)
        return Estimate(bound, bound, draws)


class Parts(NamedTuple):
    """What the KL is the sum of, ``(K, B)`` each, in nats."""

    information: Tensor
    correlation: Tensor
    dimensions: Tensor


def decompose(draws: Draws, num_data: int | None) -> Parts:
    """The parts of the KL at each draw, with the aggregate posterior estimated from the batch."""
    name = latents(draws.model_trace)[0]["name"]
    z = draws.latent.nodes[name]["value"].movedim(0, 1).unsqueeze(2)  # (B, K, 1, *event)
    q = draws.guide_trace.nodes[name]["fn"].base_dist  # in rounds over the data, if it ran flattened
    each = q.log_prob(z).flatten(3)[:, :, : len(z)]  # (B, K, B, D): draw k for datum i under q(z_d | x_j)
    normaliser = math.log(num_data or each.shape[2]) + math.log(each.shape[2])
    log_joint = (each.sum(-1).logsumexp(2) - normaliser).T  # (K, B)
    log_product = (each.logsumexp(2) - normaliser).sum(-1).T  # (K, B)
    return Parts(draws.log_guide - log_joint, log_joint - log_product, log_product - draws.log_prior)

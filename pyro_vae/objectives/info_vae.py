"""The InfoVAE family: a weighted KL and the maximum mean discrepancy of aggregate posterior and prior."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import check_positive, refusal, require
from pyro_vae._core.layout import Layout
from pyro_vae._core.runs import stack_latents
from pyro_vae._core.traces import latents
from pyro_vae.objectives.latent_structure import single_latent
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Particles, Programs

Kernel = Literal["rbf", "imq"]


class InfoVAE(PerDatumObjective):
    r"""InfoVAE, :math:`E[\log p(x | z)] - (1 - \alpha) KL(q(z | x) \| p(z)) - (\alpha + \lambda - 1) MMD^2(q, p)`.

    :math:`MMD^2(q, p) = E k(z, z') - 2 E k(z, v) + E k(v, v')` with z from the aggregate posterior, v from the prior:
    an unbiased estimate from the samples of the batch and equally many of the prior; 0 for a single datum. alpha = 0
    and lambda = 1 is the ELBO; alpha = 1 the MMD-VAE, which does not penalise the mutual information of x and z.

    For reparameterised guides, including auxiliary variables, of models with one latent site.

    Args:
        alpha: fraction of the KL that is omitted, at most 1.
        mmd_weight: lambda, at least 1 - alpha.
        kernel: ``"rbf"``, :math:`\exp(-d^2 / C)`, or ``"imq"``, :math:`C / (C + d^2)`.
        bandwidth: h, of :math:`C = 2 h^2`; None for :math:`h^2` = the number of latent dimensions, for which C is the
            mean squared distance of two samples of a standard normal prior.
        num_particles: number of particles K per datum, each of which is a sample of the aggregate posterior.

    Raises:
        ValueError: weights or kernel out of range; at a call: several latent sites.

    References:
        InfoVAE: balancing learning and inference in variational autoencoders (Zhao et al., 2019), eq. 6 and section 4.
        https://arxiv.org/abs/1706.02262
        Wasserstein auto-encoders (Tolstikhin et al., 2018), section 3, for the kernels and the estimate.
        https://arxiv.org/abs/1711.01558

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.InfoVAE(mmd_weight=100.0)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    additive = False
    advice = "ReweightedWakeSleep or ScoreFunction"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        mmd_weight: float = 10.0,
        kernel: Kernel = "imq",
        bandwidth: float | None = None,
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles=num_particles)
        require(alpha <= 1, "InfoVAE", "alpha must be at most 1", f"alpha={alpha}")
        valid = 1 <= alpha + mmd_weight < math.inf
        require(valid, "InfoVAE", "mmd_weight must be at least 1 - alpha and finite", f"mmd_weight={mmd_weight}")
        check_positive("InfoVAE", bandwidth=bandwidth, advice="Use None for the default")
        self.alpha, self.mmd_weight = float(alpha), float(mmd_weight)
        self.kernel, self.bandwidth = kernel, bandwidth

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        single_latent(layout, model_trace)
        site = next(iter(latents(model_trace)))
        with torch.enable_grad():
            learned = site["fn"].log_prob(site["value"].detach()).requires_grad
        if learned and not site["fn"].has_rsample:
            rule, what = "a learned prior must have reparameterised samples", f"{type(site['fn']).__name__} without"
            raise refusal(layout.owner, rule, what, "Use a fixed prior, or ELBO")

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        site = next(iter(latents(particles.model_trace)))
        z = particles.latent.nodes[site["name"]]["value"].flatten(2)  # (K, B, D)
        mmd = self._mmd(z, _prior_samples(particles, site["name"]))
        elbo = (particles.log_likelihood - (1 - self.alpha) * particles.kl).mean(0)
        bound = elbo - (self.alpha + self.mmd_weight - 1) * mmd
        return Estimate(bound, bound, particles)

    def _mmd(self, z: Tensor, v: Tensor) -> Tensor:
        """Squared discrepancy between samples ``(K, B, D)`` of two distributions, averaged over K."""
        num = z.shape[1]
        if num == 1:
            return z.new_zeros(())
        others = 1 - torch.eye(num, dtype=z.dtype, device=z.device)
        within = sum((self._kernel(a, a) * others).sum((1, 2)) / (num * (num - 1)) for a in (z, v))
        return (within - 2 * self._kernel(z, v).mean((1, 2))).mean()

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Kernel matrices, ``(K, B, B)``."""
        square = a.shape[-1] if self.bandwidth is None else self.bandwidth**2
        distance = (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1) / (2 * square)
        return (-distance).exp() if self.kernel == "rbf" else 1 / (1 + distance)


def _prior_samples(particles: Particles, name: str) -> Tensor:
    """Samples of the prior of a latent site, ``(K, B, D)``."""
    models = [trace.copy() for trace in particles.model_traces]
    for trace in models:
        trace.nodes[name] = {**trace.nodes[name], "value": _sample_prior(trace.nodes[name])}
    return stack_latents(models, particles.runs.model_layout, particles.num).nodes[name]["value"].flatten(2)


def _sample_prior(site: Any) -> Tensor:
    """Samples of the prior, with the shape of the site's value."""
    prior = site["fn"].expand(site["value"].shape[: site["value"].dim() - site["fn"].event_dim])
    return prior.rsample() if prior.has_rsample else prior.sample()

"""The ELBO with free bits: a KL that is not penalised below a threshold."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae._core.checks import check_positive, refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.traces import latents, masked
from pyro_vae.objectives.latent_structure import scalar_factors
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Particles, Programs

Groups = Literal["dimension", "site"]


class FreeBits(PerDatumObjective):
    r"""ELBO with lambda free nats per group of latents, :math:`E[\log p(x | z)] - \sum_j \max(\lambda, KL_j)`.

    :math:`KL_j` is the KL of group j, averaged over the batch and the particles: analytic if it has a closed form and
    model and guide sample their sites in the same order, otherwise estimated from the particles. Emptying a group
    gains nothing, which prevents posterior collapse early in the training of a strong decoder.

    For reparameterised guides without auxiliary sites; ``"dimension"`` needs a prior and a posterior that factorise
    over the dimensions of z.

    Args:
        nats: lambda, of each group; log 2 = 0.693 is one bit.
        groups: ``"dimension"``, every dimension of every latent site; ``"site"``, every latent site as a whole.
        num_particles: number of particles K per datum.

    Raises:
        ValueError: a negative lambda; at a call: prior or posterior do not factorise, or the guide has auxiliary sites.

    References:
        Improving variational inference with inverse autoregressive flow (Kingma et al., 2016), eq. 15.
        https://arxiv.org/abs/1606.04934

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, objectives
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.FreeBits(nats=0.25)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    additive = False
    together = True
    advice = "ELBO for this guide"

    def __init__(self, *, nats: float = 0.5, groups: Groups = "dimension", num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)
        check_positive("FreeBits", at_least_zero=True, nats=nats, advice="Use 0.1 to 2")
        self.nats, self.groups = float(nats), groups

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        for site in latents(guide_trace):
            if site["name"] not in model_trace.nodes:
                rule, what = "the guide must have no auxiliary sites", f"site {site['name']!r}"
                raise refusal(layout.owner, rule, what, "Use ELBO")
            if self.groups == "dimension":
                for role, trace in (("posterior", guide_trace), ("prior", model_trace)):
                    scalar_factors(layout.owner, trace.nodes[site["name"]], role, "Use groups='site'")

    def _estimate(self, programs: Programs) -> Estimate:
        particles = programs.sample()
        groups = [self._kl(particles, site["name"]) for site in latents(particles.guide_trace)]
        cost = torch.cat(groups).clamp_min(self.nats).sum() if groups else 0.0
        bound = particles.log_likelihood.mean(0) - cost
        return Estimate(bound, bound, particles)

    def _kl(self, particles: Particles, name: str) -> Tensor:
        """KL of the site's groups, ``(J,)``, averaged over batch and particles."""
        pairs = zip(particles.guide_traces, particles.model_traces, strict=True)
        each, layout = particles.num // len(particles.guide_traces), particles.runs.guide_layout
        kl = torch.cat([self._of_run(layout, each, q.nodes[name], p, _same_order(q, p)) for q, p in pairs])
        return kl.flatten(2).mean((0, 1)) if kl.dim() > 2 else kl.mean().unsqueeze(0)

    def _of_run(self, layout: Layout, num: int, site: Any, model_trace: Trace, analytic: bool) -> Tensor:
        """KL of each datum, or of each of its dimensions, in one run, ``(K, B, *event)``."""
        q, p, event_dim = site["fn"], model_trace.nodes[site["name"]]["fn"], 0
        if self.groups == "dimension":
            q, p, event_dim = q.base_dist, p.base_dist, q.event_dim
        kl = _analytic(q, p) if analytic else None
        kl = q.log_prob(site["value"]) - p.log_prob(site["value"]) if kl is None else kl
        mask = site["mask"]
        if isinstance(mask, Tensor):
            mask = mask.reshape(*mask.shape, *[1] * event_dim)
        return layout.per_datum(num, site, masked(kl, mask), event_dim=event_dim)


def _analytic(q: Any, p: Any) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _same_order(*traces: Trace) -> bool:
    """Whether all traces have their latent sites in the same order, so that no site's KL depends on a later site."""
    names = [[site["name"] for site in latents(trace)] for trace in traces]
    return names[0] == names[1]

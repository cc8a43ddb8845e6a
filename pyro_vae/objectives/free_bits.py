"""The ELBO with a part of the KL for free."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Draws, Programs
from pyro_vae.objectives.scalars import scalar_factors
from pyro_vae.traces import Layout, latents, masked, refusal

Groups = Literal["dimension", "site"]


class FreeBits(PerDatumObjective):
    r"""ELBO whose KL costs nothing below lambda nats per group, :math:`E[\log p(x | z)] - \sum_j \max(\lambda, KL_j)`.

    :math:`KL_j` is that of group j, averaged over the batch and the particles: analytic where it has a closed form and
    model and guide sample their sites in one order, else by the draws. No group is worth emptying, which is what the
    guide does early in the training of a strong decoder.

    It holds for every reparameterised guide without auxiliary sites; ``"dimension"`` needs prior and posterior that
    factorise over the dimensions of z.

    Args:
        nats: lambda, of each group; log 2 = 0.693 is a bit.
        groups: ``"dimension"``, every dimension of every latent site; ``"site"``, every latent site as a whole.
        num_particles: number of draws of z per datum K.

    Raises:
        ValueError: a negative lambda; at a call: prior or posterior do not factorise, or the guide has auxiliary sites.

    References:
        Improving variational inference with inverse autoregressive flow (Kingma et al., 2016), eq. 15.
        https://arxiv.org/abs/1606.04934

    Example:
        >>> import torch
        >>> from pyro_vae import VAE, BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior, objectives
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> objectives.FreeBits(nats=0.25)(vae.model, vae.guide)(torch.ones(7, 5)).backward()
    """

    additive = False
    advice = "ELBO for this guide"

    def __init__(self, *, nats: float = 0.5, groups: Groups = "dimension", num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)
        self._require("nats", nats, nats >= 0, "must not be negative", "Use 0.1 to 2")
        self._require(
            "groups", repr(groups), groups in ("dimension", "site"), "must be 'dimension' or 'site'", "Use one"
        )
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
        draws = programs.draw()
        groups = torch.cat([self._kl(programs.layout, draws, site) for site in latents(draws.guide_trace)])
        bound = draws.log_likelihood.mean(0) - groups.clamp_min(self.nats).sum()
        return Estimate(bound, bound, draws)

    def _kl(self, layout: Layout, draws: Draws, site: Any) -> Tensor:
        """(J,): the KL of the site's groups, averaged over batch and particles."""
        q, p, event_dim = site["fn"], draws.model_trace.nodes[site["name"]]["fn"], 0
        if self.groups == "dimension":
            q, p, event_dim = q.base_dist, p.base_dist, q.event_dim
        kl = _analytic(q, p) if _same_order(draws) else None
        kl = q.log_prob(site["value"]) - p.log_prob(site["value"]) if kl is None else kl
        mask = site["mask"]
        if isinstance(mask, Tensor):
            mask = mask.reshape(*mask.shape, *[1] * event_dim)
        kl = layout.per_datum(self.num_particles, site, masked(kl, mask), event_dim=event_dim)  # (K, B, *event)
        return kl.flatten(2).mean((0, 1)) if event_dim else kl.mean().unsqueeze(0)


def _analytic(q: Any, p: Any) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _same_order(draws: Draws) -> bool:
    """Whether no site's KL depends on a later one."""
    names = [[site["name"] for site in latents(trace)] for trace in (draws.guide_trace, draws.model_trace)]
    return names[0] == names[1]

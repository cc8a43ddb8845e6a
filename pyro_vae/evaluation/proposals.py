"""Proposals of importance sampling: a guide, an equal mixture of several guides, or the model's prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal
from pyro_vae._core.contexts import is_tracing
from pyro_vae._core.layout import Layout
from pyro_vae._core.masks import hides, is_masked
from pyro_vae._core.modes import Runs
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.traces import is_auxiliary, latents
from pyro_vae._core.types import Program


class Proposal:
    """A guide, or the mixture of several guides with equal weights, that samples latents and has a density.

    Args:
        owner: name that messages begin with.
        guides: Pyro guides.
        traces: of the guides.
        layout: positions of samples and data in the shapes of latents ``(K, *plates, *event)``.

    Raises:
        ValueError: a guide of a mixture has auxiliary sites, so that it has no density at another guide's samples.

    References:
        Optimally combining sampling techniques for Monte Carlo rendering (Veach and Guibas, 1995), section 3: the
        mixture's density for every sample (balance heuristic). https://doi.org/10.1145/218380.218498
    """

    def __init__(self, owner: str, guides: Sequence[Program], traces: Sequence[Trace], layout: Layout) -> None:
        self.owner, self.guides, self.layout = owner, tuple(guides), layout
        auxiliary = sorted({site["name"] for trace in traces for site in latents(trace) if is_auxiliary(site)})
        if self.is_mixture and auxiliary:
            rule = "guides that are mixed must have a density at any z"
            raise refusal(owner, rule, f"the auxiliary sites {auxiliary}", "Omit that guide from the mixture")

    @property
    def is_mixture(self) -> bool:
        """Whether there is more than one guide."""
        return len(self.guides) > 1

    def sample(self, runs: Runs, num: int, args: tuple[Any, ...]) -> Trace:
        """Latents ``(K, *plates, *event)``."""
        samples = [runs.stack(runs.run_guide(guide, num, args, {}), num) for guide in self.guides]
        return self._mix(samples, num) if self.is_mixture else samples[0]

    def sample_with_density(self, runs: Runs, num: int, args: tuple[Any, ...]) -> tuple[Trace, Tensor]:
        """Latents and their log-density, ``(K, B)``."""
        if self.is_mixture:
            latent = self.sample(runs, num, args)
            return latent, self.log_prob(runs, num, args, latent)
        traces = runs.run_guide(self.guides[0], num, args, {})
        return runs.stack(traces, num), self._log_guide(runs, traces, num)

    def log_prob(self, runs: Runs, num: int, args: tuple[Any, ...], latent: Trace) -> Tensor:
        """Log-density at latents ``(K, *plates, *event)``: ``(K, B)``."""
        densities = []
        for guide in self.guides:
            with no_registration():
                traces = runs.run_guide(guide, num, args, {}, at=latent)
            densities.append(self._log_guide(runs, traces, num))
        return torch.stack(densities).logsumexp(0) - math.log(len(densities))

    def _log_guide(self, runs: Runs, traces: list[Trace], num: int) -> Tensor:
        for site in latents(traces[0]):
            if is_masked(site) and not is_tracing() and hides(site):
                rule = "a guide whose density is evaluated at given latents must not be masked"
                raise refusal(self.owner, rule, f"a mask at site {site['name']!r}", "Mask the model alone")
        return runs.log_guide(traces, num)

    def _mix(self, samples: list[Trace], num: int) -> Trace:
        """Take, for each sample and datum, the latents of one guide, chosen uniformly at random."""
        mixed, latent = samples[0].copy(), latents(samples[0])
        first, layout = latent[0]["value"], self.layout
        size = num, first.shape[1 + layout.depth + layout.dims[0]]
        index = torch.randint(len(samples), size, device=first.device)  # (K, B)
        for site in latent:
            value = site["value"]
            for number, trace in enumerate(samples[1:], 1):
                chosen = layout.broadcast(site, index == number, event_dim=site["fn"].event_dim)
                value = torch.where(chosen, trace.nodes[site["name"]]["value"], value)
            mixed.nodes[site["name"]] = {**site, "value": value}
        return mixed


def guides_of(guide: Program | Sequence[Program]) -> tuple[Program, ...]:
    """One guide or several as a tuple.

    Raises:
        ValueError: an empty sequence, or an object that cannot be called.
    """
    guides = (guide,) if callable(guide) else tuple(guide) if isinstance(guide, Sequence) else ()
    if not guides or not all(map(callable, guides)):
        empty = isinstance(guide, Sequence) and not guide
        got = "an empty list" if empty else f"a {type(guide).__name__}"
        raise refusal("log_weights", "there must be a guide", got, "Pass one, or prior_proposal(model)")
    return guides


def prior_proposal(model: Program) -> Program:
    r"""The prior as proposal: samples the latent sites from the model's own prior, :math:`q(z | x) = p(z)`.

    The estimate of log p(x) is then the logarithm of the mean of p(x | z) over samples of the prior: unbiased before
    the logarithm, with a variance that grows exponentially with the information that x holds about z. A baseline.

    Args:
        model: Pyro model with observed sites.

    Returns:
        A guide for that model.

    Example:
        >>> from pyro_vae import VAE
        >>> from pyro_vae.evaluation import log_weights
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> log_weights(vae.model, prior_proposal(vae.model), torch.ones(7, 5), num_samples=3).shape
        torch.Size([3, 7])
    """
    check_arguments(prior_proposal, locals())
    proposal: Any = poutine.block(model, hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"])
    proposal.proposal_name = "prior"  # in protocols
    return proposal

"""Pyro's ``TraceEnum_ELBO`` with a weighted KL and the two terms of the bound."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _find_ordinal
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.traces import latents, losses, observations
from pyro_vae._core.types import Program
from pyro_vae.objectives.base import Terms
from pyro_vae.objectives.elbo import TraceObjective
from pyro_vae.objectives.schedules import Schedule


class TraceEnumELBO(TraceObjective, TraceEnum_ELBO):
    r"""Evidence lower bound, exact over discrete sites, :math:`\sum_y q(y | x) [\log p(x, y) - \log q(y | x)]`.

    Pyro's ``TraceEnum_ELBO``: guide sites with ``infer={"enumerate": "parallel"}`` are summed over, the others are
    sampled, with a score-function gradient if they have no pathwise one. The same bound as :class:`EnumeratedELBO`, for
    pairs that this faster class refuses because they have no sum of that form per datum: enumerated sites in several
    plates, sites outside the plate of the data, discrete sites that are sampled, and sites with different scales.

    Args:
        num_particles: number of samples K of the sites that are not summed over.
        beta: weight of the KL, a number or a :class:`~pyro_vae.objectives.Schedule`.

    Raises:
        ValueError: at a call: the model has a latent site that the guide lacks.

    References:
        Semi-supervised learning with deep generative models (Kingma et al., 2014), eq. 7.
        https://arxiv.org/abs/1406.5298

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Bernoulli
        >>> from pyro_vae import objectives
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         y = pyro.sample("y", Bernoulli(0.5))
        ...         pyro.sample("x", Bernoulli(0.2 + 0.6 * y), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", Bernoulli(0.2 + 0.6 * x), infer={"enumerate": "parallel"})
        >>> loss = objectives.TraceEnumELBO().loss(model, guide, torch.ones(4))
        >>> bool(abs(loss - 4 * torch.tensor(2.0).log()) < 1e-5)
        True
    """

    sums = True

    def __init__(self, *, num_particles: int = 1, beta: float | Schedule = 1.0) -> None:
        super().__init__(num_particles=num_particles, beta=beta)

    def _guess_max_plate_nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        with isolated_rng():
            super()._guess_max_plate_nesting(model, guide, args, kwargs)

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> Terms:
        _check_latents(model_trace, guide_trace)
        ordering = {s["name"]: _find_ordinal(t, s) for t in (model_trace, guide_trace) for s in (*_all(t), *losses(t))}
        dice = Dice(guide_trace, ordering)
        log_likelihood, log_prior, log_guide = (
            _expectation(dice, ordering, sites)
            for sites in (observations(model_trace), latents(model_trace), _all(guide_trace))
        )
        return Terms(log_likelihood, log_guide - log_prior)


def _all(trace: Trace) -> list[Any]:
    return [*latents(trace), *observations(trace)]


def _expectation(dice: Dice, ordering: dict[str, Any], sites: list[Any]) -> Tensor:
    """The mean over the guide of the sum of the sites' log-probabilities, masked and not scaled."""
    costs: dict[Any, list[Tensor]] = {}
    for site in sites:
        value = packed.scale_and_mask(site["packed"]["unscaled_log_prob"], mask=site["packed"]["mask"])
        costs.setdefault(ordering[site["name"]], []).append(value)
    return torch.as_tensor(dice.compute_expectation(costs)).detach()


def _check_latents(model_trace: Trace, guide_trace: Trace) -> None:
    for site in latents(model_trace):
        if site["name"] not in guide_trace.nodes:
            rule, what = "the guide must have every latent site of the model", f"no site {site['name']!r}"
            raise refusal(
                "TraceEnumELBO",
                rule,
                what,
                "Use EnumeratedELBO, which sums over it if it is marked, or Pyro's TraceEnum_ELBO",
            )

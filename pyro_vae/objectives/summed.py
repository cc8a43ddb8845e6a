"""The ELBO with the discrete sites of the guide summed over, by one product of all their values."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.runs import run
from pyro_vae._core.traces import latents, masked, observations
from pyro_vae._core.ways import joined
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Draws, Programs


class SummedELBO(PerDatumObjective):
    r"""Evidence lower bound, exact over discrete sites, :math:`\sum_y q(y | x) [\log p(x, y) - \log q(y | x)]`.

    The same bound as :class:`EnumeratedELBO`, for guides that have each of their discrete sites once per datum: every
    combination of their values is formed at once, in dimensions before all others, and the sum over them is one
    product. Guides with discrete sites in plates within that of the data have more structure to use; that is what
    Pyro's ``TraceEnum_ELBO`` is for.

    Summed over are the guide's sites with ``infer={"enumerate": "parallel"}``; the others are drawn, for each
    combination on its own where they depend on it.

    Args:
        num_particles: number of draws K of what is not summed over.

    Raises:
        ValueError: at a call: a summed site is in another plate than that of the data, or a site that is drawn has no
            pathwise gradient.

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
        >>> loss = objectives.SummedELBO().loss(model, guide, torch.ones(4))
        >>> bool(abs(loss - 4 * torch.tensor(2.0).log()) < 1e-5)
        True
    """

    sums = True
    together = True
    advice = 'ScoreFunction, or infer={"enumerate": "parallel"} for a discrete site'

    def __init__(self, *, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)

    def _estimate(self, programs: Programs) -> Estimate:
        draws = _expected(programs)
        bound = draws.log_weight.mean(0)
        return Estimate(bound, bound, draws)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        if len(layout.dims) > 1:
            raise refusal(layout.owner, "the data must be in one plate", f"{len(layout.dims)}", "Use EnumeratedELBO")
        for site in filter(_is_summed, latents(guide_trace)):
            layout.check_summed(site)
            if site["infer"].get("num_samples"):
                rule, what = "a site must be summed over, not drawn in parts", f"infer={site['infer']}"
                raise refusal(layout.owner, rule, what, "Leave num_samples away, or use EnumeratedELBO")

    def _check_draws(self, guide_trace: Trace) -> None:
        for site in latents(guide_trace):
            if _is_summed(site) and site["fn"].has_rsample:
                rule, what = "a site that is summed over must be discrete", f"site {site['name']!r} with relaxed draws"
                raise refusal(type(self).__name__, rule, what, "Use ELBO, or CategoricalGuide(estimator='enumerate')")
        super()._check_draws(guide_trace)


def _expected(programs: Programs) -> Draws:
    """K draws for each combination of the summed sites, and the means over the combinations, ``(K, B)``."""
    runs, num, args, kwargs = programs.runs, programs.num, programs.args, programs.kwargs
    guides = run(programs.guide, runs.guide_layout, runs.axes, num, args, kwargs, enum=True)
    models = run(programs.model, runs.model_layout, runs.axes, num, args, kwargs, at=guides)
    parts = [_of_run(runs.guide_layout, num // len(guides), *pair) for pair in zip(guides, models, strict=True)]
    likelihood, prior, guide, factor, loss = (joined(part) for part in zip(*parts, strict=True))
    return Draws(likelihood, prior, guide, factor, loss, runs, num, models, guides)


def _of_run(layout: Layout, num: int, guide_trace: Trace, model_trace: Trace) -> list[Tensor]:
    """Expectations of likelihood, prior, guide, factors and losses over the sites that are summed, in one run."""
    drawn = latents(guide_trace)
    weight = _total([_log_prob(layout, num, site, masks=False) for site in drawn if _is_summed(site)]).exp()
    groups = observations(model_trace), latents(model_trace), drawn, layout.factors(guide_trace)
    means = [
        _mean(weight, _total([_log_prob(layout, num, site) for site in group]))
        for group in (*groups, layout.losses(guide_trace))
    ]
    return means


def _mean(weight: Tensor, value: Tensor) -> Tensor:
    """Over the values; one of no probability counts nothing, whatever its density. What is no number stays none."""
    terms = weight * torch.where(weight == 0, 0.0, value)
    return terms.flatten(0, terms.dim() - 3).sum(0) if terms.dim() > 2 else terms


def _total(parts: list[Tensor]) -> Tensor:
    """Their sum, ``(*values, K, B)``; a scalar where there are none."""
    return sum(parts[1:], parts[0]) if parts else torch.zeros(())


def _log_prob(layout: Layout, num: int, site: Any, *, masks: bool = True) -> Tensor:
    """Log-probability of a site, ``(*values, K, B)``; without masks it is what the site is drawn by all the same."""
    fn, mask = site["fn"], site["mask"] if masks else None
    while not masks and isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    value = fn.log_prob(site["value"], *site["args"], **site["kwargs"])
    return layout.per_value(num, site, masked(value, mask))


def _is_summed(site: Any) -> bool:
    return site["infer"].get("enumerate") == "parallel"

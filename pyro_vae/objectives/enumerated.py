"""The ELBO with the guide's discrete sites summed over, in one weighted sum over all their values."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.layout import Layout
from pyro_vae._core.modes import joined
from pyro_vae._core.runs import run
from pyro_vae._core.traces import latents, masked, observations
from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective
from pyro_vae.objectives.programs import Particles, Programs
from pyro_vae.objectives.schedules import Schedule


class EnumeratedELBO(PerDatumObjective):
    r"""Evidence lower bound, exact over discrete sites, :math:`\sum_y q(y | x) [\log p(x, y) - \log q(y | x)]`.

    Guide sites with ``infer={"enumerate": "parallel"}`` are summed over; the other sites are sampled, separately for
    each combination of values that they depend on. All combinations are evaluated at once, in dimensions before all
    others, which is several times faster than :class:`TraceEnumELBO` but needs a single plate of data, with every
    enumerated site once per datum, pathwise gradients for the other sites, and one scale for all.

    Discrete sites that the model marks so and the guide lacks are summed over with their exact posterior given the
    other sites: for a mixture model and a guide without sites the bound is :math:`\log p(x) = \log \sum_y p(x, y)`.

    Args:
        num_particles: number of samples K of the sites that are not summed over.
        beta: weight of the KL, a number or a :class:`~pyro_vae.objectives.Schedule`.

    Raises:
        ValueError: at a call: an enumerated site is in a plate other than that of the data, a sampled site has no
            pathwise gradient, or the guide lacks an enumerated site while ``beta`` or ``num_particles`` is not 1.

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
        >>> loss = objectives.EnumeratedELBO().loss(model, guide, torch.ones(4))
        >>> bool(abs(loss - 4 * torch.tensor(2.0).log()) < 1e-5)
        True
    """

    sums = True
    together = True
    advice = 'ScoreFunction, or infer={"enumerate": "parallel"} for a discrete site'

    def __init__(self, *, num_particles: int = 1, beta: float | Schedule = 1.0) -> None:
        super().__init__(num_particles=num_particles, beta=beta)

    def _estimate(self, programs: Programs) -> Estimate:
        particles, beta = _expected(programs), self._weight
        bound = particles.log_weight.mean(0)
        if isinstance(beta, Tensor) or beta != 1.0:
            bound = (particles.log_likelihood - beta * particles.kl).mean(0)
        return Estimate(bound, bound, particles)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        if len(layout.dims) > 1:
            raise refusal(layout.owner, "the data must be in one plate", f"{len(layout.dims)}", "Use TraceEnumELBO")
        missing = _missing(model_trace, guide_trace)
        one = self.num_particles == 1 and not isinstance(self.beta, Schedule) and self.beta == 1
        rule = "beta and num_particles must be 1 for sites that the guide lacks"
        got = f"beta={self.beta}, num_particles={self.num_particles}"
        require(not missing or one, layout.owner, rule, got, "Give the guide these sites")
        for site in [*filter(_is_summed, latents(guide_trace)), *missing]:
            layout.check_summed(site, "Use TraceEnumELBO, or sample it")
            if site["infer"].get("num_samples"):
                rule, what = "an enumerated site must be summed over exactly", f"infer={site['infer']}"
                raise refusal(layout.owner, rule, what, "Omit num_samples, or use TraceEnumELBO")

    def _summed(self, model_trace: Trace, guide_trace: Trace) -> list[str]:
        return [site["name"] for site in _missing(model_trace, guide_trace)]

    def _check_sites(self, guide_trace: Trace) -> None:
        for site in latents(guide_trace):
            if _is_summed(site) and site["fn"].has_rsample:
                rule, what = "an enumerated site must be discrete", f"the relaxed site {site['name']!r}"
                raise refusal(type(self).__name__, rule, what, "Use ELBO, or CategoricalGuide(estimator='enumerate')")
        super()._check_sites(guide_trace)


def _expected(programs: Programs) -> Particles:
    """K particles for each combination of enumerated values, averaged over the combinations, ``(K, B)``."""
    runs, num, args, kwargs = programs.runs, programs.num, programs.args, programs.kwargs
    guides = run(programs.guide, runs.guide_layout, runs.axes, num, args, kwargs, enum=True)
    taken = sum(map(_is_summed, latents(guides[0])))
    models = run(programs.model, runs.model_layout, runs.axes, num, args, kwargs, at=guides, enum=True, taken=taken)
    terms = [_terms_of_run(runs.guide_layout, num // len(guides), *pair) for pair in zip(guides, models, strict=True)]
    likelihood, prior, guide, factor, loss = (joined(term) for term in zip(*terms, strict=True))
    return Particles(likelihood, prior, guide, factor, loss, runs, num, models, guides)


def _terms_of_run(layout: Layout, num: int, guide_trace: Trace, model_trace: Trace) -> list[Tensor]:
    """Likelihood, prior, guide, factors and losses of one run, averaged over the enumerated values."""
    proposed = latents(guide_trace)
    filled = _exact_posterior(layout, num, model_trace, guide_trace)
    summed = [_log_prob(layout, num, site, masks=False) for site in proposed if _is_summed(site)]
    weight = _total([*summed, *filled]).exp()
    groups = observations(model_trace), latents(model_trace), proposed, layout.factors(guide_trace)
    logs = [[_log_prob(layout, num, site) for site in group] for group in (*groups, layout.losses(guide_trace))]
    logs[2] += filled
    return [_mean(weight, _total(terms)) for terms in logs]


def _exact_posterior(layout: Layout, num: int, model_trace: Trace, guide_trace: Trace) -> list[Tensor]:
    """Log posterior of the enumerated sites that the guide lacks, given all others; empty if it lacks none."""
    if not (missing := _missing(model_trace, guide_trace)):
        return []
    joint = _total([_log_prob(layout, num, s) for s in (*observations(model_trace), *latents(model_trace))])
    return [joint - joint.logsumexp([s["infer"]["_enumerate_dim"] - layout.free_dim - 3 for s in missing], True)]


def _mean(weight: Tensor, value: Tensor) -> Tensor:
    # A value of probability 0 contributes 0 even if its log-density is -inf; a NaN weight stays NaN.
    terms = weight * torch.where(weight == 0, 0.0, value)
    return terms.flatten(0, terms.dim() - 3).sum(0) if terms.dim() > 2 else terms


def _total(parts: list[Tensor]) -> Tensor:
    """Sum of the parts, ``(*values, K, B)``; a scalar 0 if there are no parts."""
    return sum(parts[1:], parts[0]) if parts else torch.zeros(())


def _log_prob(layout: Layout, num: int, site: Any, *, masks: bool = True) -> Tensor:
    """Log-probability of a site, ``(*values, K, B)``; without masks, that of the distribution it is sampled from."""
    fn, mask = site["fn"], site["mask"] if masks else None
    while not masks and isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    value = fn.log_prob(site["value"], *site["args"], **site["kwargs"])
    return layout.per_value(num, site, masked(value, mask))


def _missing(model_trace: Trace, guide_trace: Trace) -> list[Any]:
    """The enumerated sites of the model that the guide lacks."""
    return [s for s in latents(model_trace) if s["name"] not in guide_trace.nodes and _is_summed(s)]


def _is_summed(site: Any) -> bool:
    return site["infer"].get("enumerate") == "parallel"

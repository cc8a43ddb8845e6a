"""What objectives share that are a sum over the data of a function of each datum's log-weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.distributions import RelaxedOneHotVariables
from pyro_vae.isolation import evaluating, isolated
from pyro_vae.objectives.base import Objective, Program, Terms
from pyro_vae.objectives.programs import Draws, Programs
from pyro_vae.objectives.schedules import Schedule
from pyro_vae.param_store import no_registration
from pyro_vae.traces import (
    Layout,
    check_kinds,
    check_plates,
    check_shape,
    check_sites,
    depth_of,
    frames,
    latents,
    refusal,
    shared_plates,
    sites,
)


class Estimate(NamedTuple):
    """A bound per datum ``(B,)``, and what the gradient is taken of: the same, or a surrogate."""

    bound: Tensor
    surrogate: Tensor
    draws: Draws


class PerDatumObjective(Objective):
    r"""Minimised is :math:`-\sum_b s_b\, \mathcal{L}_b`: a bound per datum, times the scale of its plate outside of it.

    Pyro's own multi-sample objectives (``RenyiELBO``, ``ReweightedWakeSleep``) scale the log-weights themselves or
    weigh the batch as a whole. Here a subsampled plate, ``poutine.scale`` and a batch of any size leave it a bound.

    Args:
        num_particles: number of draws of z per datum K.
        beta: a weight that may be scheduled.

    Raises:
        ValueError: at a call: the programs have no weights per datum, the sites differ in their scales, or a latent
            site has no pathwise gradient where the estimator needs one.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016). https://arxiv.org/abs/1509.00519
    """

    pathwise = True
    advice = "ScoreFunction, VIMCO or ReweightedWakeSleep"

    def __init__(self, *, num_particles: int = 1, beta: float | Schedule = 1.0) -> None:
        super().__init__(num_particles=num_particles, beta=beta, vectorized=False)
        self._pair: tuple[Program, Program] | None = None
        self._layouts: dict[Any, Layout] = {}

    @abstractmethod
    def _estimate(self, programs: Programs) -> Estimate:
        """The bound of each datum."""

    @property
    def num_draws(self) -> int:
        """Number of draws that an evaluation makes per datum."""
        return self.num_particles

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, with the gradient to follow."""
        layout = self._layout(model, guide, args, kwargs)
        found = self._estimate(Programs(layout, model, guide, args, kwargs, self.num_draws))
        draws = found.draws
        self._check_draws(draws.guide_trace)
        kl = draws.log_guide + draws.log_factor - draws.log_prior
        self.terms = Terms(*(term.detach().mean(0).sum() for term in (draws.log_likelihood, kl)))
        scale = _scale(layout, draws)
        value = -(scale * found.bound.detach()).sum()
        surrogate = -(scale * found.surrogate).sum()
        return value + (surrogate - surrogate.detach()) + (scale * draws.loss).sum(-1).mean()

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the batch, as a number."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss, summed over the batch, as a number; its gradient is added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return float(loss.detach())

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs), guide_trace

    def _layout(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Layout:
        """Where the data are; the programs are examined when they are new, or are called in a new way."""
        if self._pair != (model, guide):
            self._pair, self._layouts = (model, guide), {}
        way = tuple(type(a) for a in args), tuple((k, type(v)) for k, v in sorted(kwargs.items()))
        if way not in self._layouts:
            self._layouts[way] = self._examine(model, guide, args, kwargs)
        return self._layouts[way]

    def _examine(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Layout:
        name = type(self).__name__
        with evaluating(model, guide), isolated(validate=is_validation_enabled()), no_registration():
            with poutine.block():
                model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
            check_kinds(name, model_trace, guide_trace)
            for site in [*sites(model_trace), *sites(guide_trace)]:
                # Here, without the particles' plate: with it, (data, data) may pass for (particles, data).
                log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
                check_shape(name, site, log_prob)
        check_sites(name, model_trace, guide_trace)
        for trace in (model_trace, guide_trace):
            check_plates(name, trace, random=True)
        plates = shared_plates(name, model_trace, guide_trace)
        dims = tuple(sorted(found[0].dim for found in plates.values()))
        layout = Layout(name, depth_of(model_trace, guide_trace), dims)
        _check_scales(layout, model_trace, guide_trace)
        self._check(layout, model_trace, guide_trace)
        return layout

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        """Refuse what this objective alone is wrong for; most are right for all."""

    def _check_draws(self, guide_trace: Trace) -> None:
        name = type(self).__name__
        for site in latents(guide_trace):
            what = f"infer={site['infer']} at site {site['name']!r}"
            summed = self.sums and site["infer"].get("enumerate") == "parallel"
            if site["infer"].get("enumerate") and not summed:
                rule = "the guide must draw its sites"
                raise refusal(name, rule, what, "Use SummedELBO, or CategoricalGuide(estimator='score')")
            # A relaxed guide is so while it trains alone, so this is looked at where a gradient is asked for.
            if self.pathwise and torch.is_grad_enabled() and not (summed or site["fn"].has_rsample):
                rule, what = "every site of the guide must be reparameterised", f"site {site['name']!r} that is not"
                raise refusal(name, rule, what, f"Use {self.advice}")
            if not self.pathwise and isinstance(site["fn"], RelaxedOneHotVariables):
                rule, what = "draws must be those of the density", f"site {site['name']!r} with relaxed draws"
                raise refusal(name, rule, what, "Use CategoricalGuide(estimator='score'), or ELBO")


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log of the mean of the weights over their first dimension."""
    log_sum = log_weight.logsumexp(0)
    return log_sum - torch.full_like(log_sum, float(len(log_weight))).log()


def _scale(layout: Layout, draws: Draws) -> Tensor:
    """What plates and ``poutine.scale`` multiply each datum by, ``(B,)``."""
    site = next(iter(sites(draws.model_trace)))
    scale = torch.as_tensor(site["scale"], dtype=draws.log_likelihood.dtype, device=draws.log_likelihood.device)
    return layout.per_datum(1, site, scale)[0]


def _check_scales(layout: Layout, *traces: Trace) -> None:
    """One scale for all sites of a datum: a bound of scaled log-weights would be none."""
    found = [(site["name"], torch.as_tensor(site["scale"])) for trace in traces for site in sites(trace)]
    first = found[0][1]
    for name, scale in found:
        if scale.dim() > layout.depth or _differ(scale, first):
            what = f"another at site {name!r} than at site {found[0][0]!r}"
            rule = "all sites must have one scale, that of the data"
            raise refusal(layout.owner, rule, what, "Use ELBO or BetaELBO, which are linear in them")
    for site in sites(traces[0]):
        inner = [dim for dim in range(-first.dim(), 0) if dim not in layout.dims and first.shape[dim] > 1]
        if inner and frames(site):
            what = f"a scale of shape {tuple(first.shape)}"
            raise refusal(layout.owner, "scales must be those of the data", what, "Use ELBO or BetaELBO")


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool((one.double() - other.double()).abs().max() > 1e-12)

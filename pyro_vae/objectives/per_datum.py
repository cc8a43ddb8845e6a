"""What objectives share that are a sum over the data of a function of each datum's log-weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._core.axes import kinds_of
from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import is_tracing
from pyro_vae._core.failures import one_line
from pyro_vae._core.layout import Layout
from pyro_vae._core.owners import Owners
from pyro_vae._core.pair import Pair
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.traces import (
    check_densities,
    check_observation,
    check_plates,
    check_shape,
    check_sites,
    frames,
    latents,
    shared_plates,
    sites,
    structure_of,
)
from pyro_vae._core.types import Program
from pyro_vae._core.ways import Densities, Runs, choose, joined, one_draw
from pyro_vae.distributions import RelaxedIndependentOneHotCategorical
from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.programs import Draws, Programs
from pyro_vae.objectives.schedules import Schedule


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
    together = False
    holds = False

    def __init__(self, *, num_particles: int = 1, beta: float | Schedule = 1.0) -> None:
        super().__init__(num_particles=num_particles, beta=beta, vectorized=False)
        self._pair: tuple[Program, Program] | None = None
        self._examined: dict[Any, _Examined] = {}

    @abstractmethod
    def _estimate(self, programs: Programs) -> Estimate:
        """The bound of each datum."""

    @property
    def num_draws(self) -> int:
        """Number of draws that an evaluation makes per datum."""
        return self.num_particles

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, with the gradient to follow."""
        estimate = self._estimated(model, guide, args, kwargs)
        draws = estimate.draws
        _check_scales(draws.runs.model_layout, draws.model_trace, draws.guide_trace)
        self._check_draws(draws.guide_trace)
        self.terms = Terms(*(term.detach().mean(0).sum() for term in (draws.log_likelihood, draws.kl)))
        scale = _scale(draws)
        value = -(scale * estimate.bound.detach()).sum()
        surrogate = -(scale * estimate.surrogate).sum()
        return value + (surrogate - surrogate.detach()) + (scale * draws.loss).sum(-1).mean()

    def _estimated(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Estimate:
        """The estimate; programs with other sites than before are examined again, and refused by name or run anew."""
        found, state = self._examination(model, guide, args, kwargs), None if is_tracing() else _random_state()
        try:
            estimate = self._estimate(Programs(found.runs, found.owners, guide, args, kwargs, self.num_draws))
            if found.knows(estimate.draws):
                return estimate
        except RuntimeError:  # of shapes: other sites, in a way of running that they do not take
            if state is None or not found.known:
                raise
        self._examined = {}
        found = self._examination(model, guide, args, kwargs)
        if state is not None:
            _set_random_state(state)
        estimate = self._estimate(Programs(found.runs, found.owners, guide, args, kwargs, self.num_draws))
        found.knows(estimate.draws)
        return estimate

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

    def _examination(self, model: Program, guide: Program, args: Any, kwargs: Any) -> _Examined:
        """How the programs run; they are examined when they are new, or are called in a new way."""
        if self._pair != (model, guide):
            self._pair, self._examined = (model, guide), {}
        way = kinds_of(args, kwargs)
        if way not in self._examined:
            self._examined[way] = self._examine(model, guide, args, kwargs)
        return self._examined[way]

    def _examine(self, model: Program, guide: Program, args: Any, kwargs: Any) -> _Examined:
        name = type(self).__name__
        with no_registration(), one_line(name, args, model, guide):
            pair = Pair(name, model, [guide], args, kwargs)
            plates = sorted((found[0] for found in pair.plates().values()), key=lambda plate: plate.dim)
            dims = tuple(plate.dim for plate in plates)
            self._check_traces(pair, pair.layout(dims), pair.model_trace, pair.guide_traces[0])
            for site in [s for trace in pair.traces for s in sites(trace) if s["name"] not in pair.blocks]:
                # Without the particles' plate: with it, (data, data) may pass for (particles, data).
                check_shape(name, site, site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
                if site["name"] in pair.model_trace.nodes:
                    check_observation(name, pair.model_trace.nodes[site["name"]], dims)
            self._check(pair.layout(dims), pair.model_trace, pair.guide_traces[0])
            runs = one_draw(pair, plates)
            if self.num_draws > 1:
                runs = choose(pair, plates, self._densities(pair), together=self.together, weights_change=True)
            if self.holds:
                with pair.quietly():
                    Programs(runs, pair.owners, guide, args, kwargs, self.num_draws).check_held()
        return _Examined(runs, pair.owners)

    def _densities(self, pair: Pair) -> Densities:
        def densities(runs: Runs, latent: Trace, num: int) -> Tensor:
            traces = runs.model_at(latent, num, pair.args, pair.kwargs)
            return joined([runs.model_layout.sum(num // len(traces), sites(trace)) for trace in traces])

        return densities

    def _check_traces(self, pair: Pair, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        """Refuse what would be wrong for every objective of this kind."""
        name = layout.owner
        check_sites(name, model_trace, guide_trace, outside=pair.outside, following=pair.following)
        for trace in (model_trace, guide_trace):
            check_plates(name, trace)
        shared_plates(name, model_trace, guide_trace, skipped=layout.blocks)
        check_densities(name, guide_trace)
        _check_scales(layout, model_trace, guide_trace)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        """Refuse what this objective alone is wrong for; most are right for all."""

    def _check_draws(self, guide_trace: Trace) -> None:
        name = type(self).__name__
        for site in latents(guide_trace):
            what = f"infer={site['infer']} at site {site['name']!r}"
            summed = self.sums and site["infer"].get("enumerate") == "parallel"
            if site["infer"].get("enumerate") and not summed:
                rule = "the guide must draw its sites"
                raise refusal(name, rule, what, "Use EnumeratedELBO, or CategoricalGuide(estimator='score')")
            # A relaxed guide is so while it trains alone, so this is looked at where a gradient is asked for.
            if self.pathwise and torch.is_grad_enabled() and not (summed or site["fn"].has_rsample):
                rule, what = "every site of the guide must be reparameterised", f"site {site['name']!r} that is not"
                raise refusal(name, rule, what, f"Use {self.advice}")
            if not self.pathwise and isinstance(site["fn"], RelaxedIndependentOneHotCategorical):
                rule, what = "draws must be those of the density", f"site {site['name']!r} with relaxed draws"
                raise refusal(name, rule, what, "Use CategoricalGuide(estimator='score'), or ELBO")


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log of the mean of the weights over their first dimension."""
    log_sum = log_weight.logsumexp(0)
    return log_sum - torch.full_like(log_sum, float(len(log_weight))).log()


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


class _Examined:
    """How a pair runs, and the structures of its traces that have been checked."""

    def __init__(self, runs: Runs, owners: Owners) -> None:
        self.runs, self.owners = runs, owners
        self.known: set[Any] = set()

    def knows(self, draws: Draws) -> bool:
        """Whether the sites are those of an earlier call; of the first call they are what was examined."""
        structure = structure_of(draws.model_trace), structure_of(draws.guide_trace)
        new = bool(self.known) and structure not in self.known
        self.known.add(structure)
        return not new


def _scale(draws: Draws) -> Tensor:
    """What plates and ``poutine.scale`` multiply each datum by, ``(B,)``."""
    site, layout = next(iter(sites(draws.model_trace))), draws.runs.model_layout
    scale = torch.as_tensor(site["scale"], dtype=draws.log_likelihood.dtype, device=draws.log_likelihood.device)
    return layout.per_datum(draws.num // len(draws.model_traces), site, scale)[0]


def _check_scales(layout: Layout, *traces: Trace) -> None:
    """One scale for all sites of a datum: scaled log-weights make no bound."""
    scaled = [(site["name"], site["scale"]) for trace in traces for site in sites(trace)]
    first = scaled[0][1]
    for name, scale in scaled:
        if scale is not first and _differ(layout, scale, first):
            what = f"another at site {name!r} than at site {scaled[0][0]!r}"
            rule = "all sites must have one scale, that of the data"
            raise refusal(layout.owner, rule, what, "Use ELBO or BetaELBO, which are linear in them")
    if isinstance(first, Tensor):
        for site in sites(traces[0]):
            inner = [dim for dim in range(-first.dim(), 0) if dim not in layout.dims and first.shape[dim] > 1]
            if inner and frames(site):
                what = f"a scale of shape {tuple(first.shape)}"
                raise refusal(layout.owner, "scales must be those of the data", what, "Use ELBO or BetaELBO")


def _differ(layout: Layout, one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) and not isinstance(other, Tensor):
        return abs(one - other) > 1e-12
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    if one.dim() > layout.depth + layout.in_front:
        return True
    return not is_tracing() and bool((one.double() - other.double()).abs().max() > 1e-12)

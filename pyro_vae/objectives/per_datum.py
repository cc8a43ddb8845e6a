"""Base class of objectives that sum a function of each datum's log-weights over the data."""

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
from pyro_vae._core.failures import program_errors
from pyro_vae._core.layout import Layout
from pyro_vae._core.modes import Densities, Runs, choose, for_one_sample, joined
from pyro_vae._core.owners import Owners
from pyro_vae._core.pair import Pair
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.trace_checks import (
    check_densities,
    check_log_prob_shapes,
    check_observation,
    check_plates,
    check_sites,
)
from pyro_vae._core.traces import frames, latents, shared_plates, sites, structure_of
from pyro_vae._core.types import Program
from pyro_vae.distributions import RelaxedIndependentOneHotCategorical
from pyro_vae.objectives.base import Objective, Terms
from pyro_vae.objectives.programs import Particles, Programs
from pyro_vae.objectives.schedules import Schedule


class Estimate(NamedTuple):
    """A bound per datum, ``(B,)``, and the surrogate whose gradient is used, which may be the bound."""

    bound: Tensor
    surrogate: Tensor
    particles: Particles


class PerDatumObjective(Objective):
    r"""Loss :math:`-\sum_b s_b\, \mathcal{L}_b`: a bound per datum, multiplied by the scale of its plate.

    Pyro's multi-sample objectives (``RenyiELBO``, ``ReweightedWakeSleep``) scale the log-weights or weight the batch as
    a whole. Here the loss remains a bound under subsampled plates, ``poutine.scale`` and any batch size.

    Args:
        num_particles: number of particles K per datum.
        beta: a weight that may be scheduled.

    Attributes:
        pathwise: whether the samples must be reparameterised.
        advice: advice of the error if they are not.
        together: whether model and guide have to run in the same way.
        has_terms: whether reconstruction and KL are those of the ELBO, and are reported.
        holds: whether the guide's parameters are held constant in its density.

    Raises:
        ValueError: at a call: the programs have no weights per datum, the sites differ in their scales, or a latent
            site has no pathwise gradient although the estimator needs one.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016). https://arxiv.org/abs/1509.00519
    """

    pathwise = True
    advice = "ScoreFunction, VIMCO or ReweightedWakeSleep"
    together = False
    has_terms = True
    holds = False

    def __init__(self, *, num_particles: int = 1, beta: float | Schedule = 1.0) -> None:
        super().__init__(num_particles=num_particles, beta=beta, vectorized=False)
        self._pair: tuple[Program, Program] | None = None
        self._examined: dict[Any, _Examined] = {}

    @abstractmethod
    def _estimate(self, programs: Programs) -> Estimate:
        """Evaluate the bound of each datum."""

    @property
    def num_draws(self) -> int:
        """Number of samples per datum in one evaluation."""
        return self.num_particles

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, with the gradient to follow."""
        with self.scoring():
            estimate = self._estimated(model, guide, args, kwargs)
        particles = estimate.particles
        _check_scales(particles.runs.model_layout, particles.model_trace, particles.guide_trace)
        self._check_sites(particles.guide_trace)
        terms = (particles.log_likelihood, particles.kl) if self.has_terms else ()
        self.terms = Terms(*(term.detach().mean(0).sum() for term in terms)) if terms else None
        scale = _scale(particles)
        value = -(scale * estimate.bound.detach()).sum()
        surrogate = -(scale * estimate.surrogate).sum()
        return value + (surrogate - surrogate.detach()) + (scale * particles.loss).sum(-1).mean()

    def _estimated(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Estimate:
        """Evaluate the bound; programs whose sites have changed are examined again first."""
        examined, state = self._examination(model, guide, args, kwargs), None if is_tracing() else _random_state()
        try:
            estimate = self._estimate(Programs(examined.runs, examined.owners, guide, args, kwargs, self.num_draws))
            if examined.is_known(estimate.particles):
                return estimate
        except RuntimeError:  # of shapes: the way of running does not suit other sites
            if state is None or not examined.known:
                raise
        self._examined = {}
        examined = self._examination(model, guide, args, kwargs)
        if state is not None:
            _set_random_state(state)
        estimate = self._estimate(Programs(examined.runs, examined.owners, guide, args, kwargs, self.num_draws))
        examined.is_known(estimate.particles)
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
            self.update()
        return float(loss.detach())

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs), guide_trace

    def _examination(self, model: Program, guide: Program, args: Any, kwargs: Any) -> _Examined:
        """The examination of the pair, made once for each kind of arguments."""
        if self._pair != (model, guide):
            self._pair, self._examined = (model, guide), {}
        way = kinds_of(args, kwargs)
        if way not in self._examined:
            self._examined[way] = self._examine(model, guide, args, kwargs)
        return self._examined[way]

    def _examine(self, model: Program, guide: Program, args: Any, kwargs: Any) -> _Examined:
        name = type(self).__name__
        with no_registration(), program_errors(name, args, model, guide):
            pair = Pair(name, model, [guide], args, kwargs)
            plates = sorted((frames[0] for frames in pair.plates().values()), key=lambda plate: plate.dim)
            dims = tuple(plate.dim for plate in plates)
            self._check_traces(pair, pair.layout(dims), pair.model_trace, pair.guide_traces[0])
            traced = [s for trace in pair.traces for s in sites(trace) if s["name"] not in pair.blocks]
            # Without the plate of particles, with which (data, data) could be taken for (particles, data).
            check_log_prob_shapes(name, traced)
            for site in [pair.model_trace.nodes[s["name"]] for s in traced if s["name"] in pair.model_trace.nodes]:
                check_observation(name, site, dims)
            self._check(pair.layout(dims), pair.model_trace, pair.guide_traces[0])
            runs = for_one_sample(pair, plates)
            if self.num_draws > 1:
                runs = choose(pair, plates, self._densities(pair), together=self.together, weights_change=True)
            if self.holds:
                with pair.quietly():
                    Programs(runs, pair.owners, guide, args, kwargs, self.num_draws).check_holdable()
        return _Examined(runs, pair.owners)

    def _densities(self, pair: Pair) -> Densities:
        def densities(runs: Runs, latent: Trace, num: int) -> Tensor:
            traces = runs.run_model(latent, num, pair.args, pair.kwargs)
            return joined([runs.model_layout.sum(num // len(traces), sites(trace)) for trace in traces])

        return densities

    def _check_traces(self, pair: Pair, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        """Raise on pairs for which every objective per datum would be wrong."""
        name = layout.owner
        summed = self._summed(model_trace, guide_trace)
        check_sites(name, model_trace, guide_trace, summed=summed, outside=pair.outside, following=pair.following)
        for trace in (model_trace, guide_trace):
            check_plates(name, trace)
        shared_plates(name, model_trace, guide_trace, skipped=layout.blocks)
        check_densities(name, guide_trace)
        _check_scales(layout, model_trace, guide_trace)

    def _check(self, layout: Layout, model_trace: Trace, guide_trace: Trace) -> None:
        """Raise on further pairs for which this objective would be wrong."""

    def _summed(self, model_trace: Trace, guide_trace: Trace) -> list[str]:
        """Names of the model's sites that need no guide."""
        return []

    def _check_sites(self, guide_trace: Trace) -> None:
        name = type(self).__name__
        for site in latents(guide_trace):
            what = f"infer={site['infer']} at site {site['name']!r}"
            summed = self.sums and site["infer"].get("enumerate") == "parallel"
            if site["infer"].get("enumerate") and not summed:
                rule = "the guide must sample its sites"
                raise refusal(name, rule, what, "Use EnumeratedELBO, or CategoricalGuide(estimator='score')")
            # A relaxed guide is reparameterised in training alone, so the check is made with gradients only.
            if self.pathwise and torch.is_grad_enabled() and not (summed or site["fn"].has_rsample):
                rule, what = "every site of the guide must be reparameterised", f"site {site['name']!r} that is not"
                raise refusal(name, rule, what, f"Use {self.advice}")
            if not self.pathwise and isinstance(site["fn"], RelaxedIndependentOneHotCategorical):
                what = f"relaxed samples at site {site['name']!r}"
                rule = "samples must be from the density of their site"
                raise refusal(name, rule, what, "Use CategoricalGuide(estimator='score'), or ELBO")


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """Log of the mean of the weights over their first dimension."""
    log_sum = log_weight.logsumexp(0)
    return log_sum - torch.full_like(log_sum, float(len(log_weight))).log()


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


class _Examined:
    """The way in which a pair runs, and the checked structures of its traces."""

    def __init__(self, runs: Runs, owners: Owners) -> None:
        self.runs, self.owners = runs, owners
        self.known: set[Any] = set()

    def is_known(self, particles: Particles) -> bool:
        """Whether the sites are those of an earlier call; those of the first call have been examined."""
        structure = structure_of(particles.model_trace), structure_of(particles.guide_trace)
        new = bool(self.known) and structure not in self.known
        self.known.add(structure)
        return not new


def _scale(particles: Particles) -> Tensor:
    """Scale of each datum by plates and ``poutine.scale``, ``(B,)``."""
    site, layout = next(iter(sites(particles.model_trace))), particles.runs.model_layout
    scale = torch.as_tensor(site["scale"], dtype=particles.log_likelihood.dtype, device=particles.log_likelihood.device)
    return layout.per_datum(particles.num // len(particles.model_traces), site, scale)[0]


def _check_scales(layout: Layout, *traces: Trace) -> None:
    """Require one scale for all sites of a datum, since scaled log-weights give no bound."""
    scaled = [(site["name"], site["scale"]) for trace in traces for site in sites(trace)]
    first = scaled[0][1]
    for name, scale in scaled:
        if scale is not first and _differ(layout, scale, first):
            what = f"different scales at sites {scaled[0][0]!r} and {name!r}"
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
    if one.dim() > layout.depth + layout.vectorised:
        return True
    return not is_tracing() and bool((one.double() - other.double()).abs().max() > 1e-12)

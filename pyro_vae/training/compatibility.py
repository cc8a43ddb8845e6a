"""Checks, before the first step, that an objective is valid for a model and a guide."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.infer import ELBO, RenyiELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import validating
from pyro_vae._core.masks import unmasked
from pyro_vae._core.owners import Owners
from pyro_vae._core.pair import Pair
from pyro_vae._core.rows import axes_of
from pyro_vae._core.trace_checks import check_auxiliary, check_kinds, check_observation, check_observed
from pyro_vae._core.traces import is_auxiliary, latents, observations, sites
from pyro_vae._core.types import Program
from pyro_vae.distributions import Implicit
from pyro_vae.objectives import Objective
from pyro_vae.objectives.per_datum import PerDatumObjective


def has_score(objective: ELBO) -> bool:
    """Whether an objective scores sites without a density, so that its loss is no bound on log p(x)."""
    return isinstance(objective, Objective) and objective.score is not None


def scoring(objective: ELBO) -> AbstractContextManager[None]:
    """Context in which sites without a density have the score of the objective, if it has one."""
    return objective.scoring() if isinstance(objective, Objective) else nullcontext()


def check_additive(objective: ELBO, *, alone: bool) -> None:
    """Raise on an objective that is not a sum over the data, if several processes share a batch.

    Raises:
        ValueError: naming it.
    """
    if isinstance(objective, Objective) and not objective.additive and not alone:
        rule, value = f"{type(objective).__name__} requires the whole batch in one process", "several that share it"
        raise refusal("fit", rule, value, "Use an objective that is a sum over the data, or one process")


def examine(objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...], owners: Owners) -> Pair:
    """Run the pair on a batch, with discrete sites enumerated as by the objective if it cannot be run without.

    Raises:
        ValueError: a program cannot be run.
    """
    try:
        with validating(True), scoring(objective):
            return Pair("fit", model, [guide], args, owners=owners)
    except ValueError:
        depth = getattr(objective, "max_plate_nesting", math.inf)
        if not _sums(objective) or not math.isfinite(depth):
            raise
        return Pair("fit", model, [guide], args, owners=owners, enum_dim=-1 - int(depth))


def data_axes(pair: Pair) -> Axes:
    """The dimension of the data in each argument, which is as long as the plate of the data or its full size.

    Without such a plate or argument, it is the first dimension of the first tensor.
    """
    plate = pair.data_plate()
    sizes = [pair.sequential()] if plate is None else [pair.size(plate), plate.full_size]
    leading_sizes = {x.shape[0] for x in tree_flatten((pair.args, pair.kwargs))[0] if isinstance(x, Tensor) and x.dim()}
    # another dimension may be as long as a subsample
    for size in sorted(sizes, key=lambda size: size not in leading_sizes):
        axes = None if size is None else axes_of(pair, size, plate)
        if axes is not None:
            return axes
    return leading(pair.args)


def check_pair(objective: ELBO, pair: Pair) -> None:
    """Raise on an objective that is invalid for a pair, for any number of processes.

    Raises:
        ValueError: naming an objective to use instead.
    """
    model_trace, (guide_trace,) = pair.model_trace, pair.guide_traces
    for site in (*latents(guide_trace), *observations(model_trace)):
        if isinstance(site["fn"], Implicit) and not has_score(objective):
            raise site["fn"].refusal()
    if isinstance(objective, RenyiELBO):
        _check_scales(model_trace, guide_trace)
    if isinstance(objective, TraceMeanField_ELBO):
        _check_order(model_trace, guide_trace)
    _check_enumeration(objective, model_trace, guide_trace, labelled=len(pair.args) > 1)
    check_kinds("fit", model_trace, guide_trace)
    check_auxiliary("fit", guide_trace, pair.outside, pair.following)
    if type(objective).__module__.startswith(
        ("pyro.infer.", "pyro_vae.")
    ):  # objectives of other packages may define other roles
        _check_roles(objective, pair)
    for site in model_trace.nodes.values():
        plate = pair.data_plate()
        if plate is not None and any(frame.name == plate.name for frame in site.get("cond_indep_stack", ())):
            check_observation("fit", site, (plate.dim,))


def _check_roles(objective: ELBO, pair: Pair) -> None:
    """Require every latent site in both programs, and no observed site in the guide."""
    model_trace, (guide_trace,) = pair.model_trace, pair.guide_traces
    check_observed("fit", model_trace, guide_trace)
    observed = [s["name"] for s in observations(guide_trace) if not isinstance(unmasked(s["fn"])[0], Unit)]
    if observed and not isinstance(objective, PerDatumObjective):
        rule = f"{type(objective).__name__} requires a guide without observed sites, whose densities it would minimise"
        advice = "Use the objective that the guide was written for, or IWAE, which omits these sites"
        raise refusal("fit", rule, f"observed sites {observed}", advice)
    proposed = {s["name"] for s in latents(guide_trace)}
    free = [s for s in latents(model_trace) if s["name"] not in proposed and not s["infer"].get("enumerate")]
    extra = [s for s in latents(guide_trace) if s["name"] not in model_trace.nodes and not is_auxiliary(s)]
    if free or extra:
        names = [s["name"] for s in latents(model_trace)]
        rule = "the guide must sample every latent site of the model and no other"
        value = f"model sites {sorted(names)}, guide sites {sorted(proposed)}"
        advice = 'Complete the guide, or mark its additional sites with infer={"is_auxiliary": True}'
        raise refusal("fit", rule, value, advice)


def _check_scales(*traces: Trace) -> None:
    """Pyro's ``RenyiELBO`` scales log-weights inside the logarithm of their mean, so that it is not a bound."""
    for site in (site for trace in traces for site in sites(trace)):
        scale = torch.as_tensor(site["scale"])
        if not bool((scale == 1).all()):
            value = f"a scale of {scale.flatten()[0]:.4g} at site {site['name']!r}"
            raise refusal("fit", "Pyro's RenyiELBO requires plates without scale", value, "Use objectives.Renyi")
        if any(frame.full_size not in (None, frame.size) for frame in site["cond_indep_stack"]):
            value = f"site {site['name']!r} in a subsampled plate"
            raise refusal("fit", "Pyro's RenyiELBO requires plates without subsampling", value, "Use objectives.Renyi")


def _check_order(model_trace: Trace, guide_trace: Trace) -> None:
    """``TraceMeanField_ELBO`` computes each site's KL at the values of the sites before it."""
    proposed = [site["name"] for site in latents(guide_trace)]
    names = [site["name"] for site in latents(model_trace) if site["name"] in proposed]
    extra = [name for name in proposed if name not in names] + [s["name"] for s in observations(guide_trace)]
    if extra:
        rule = "TraceMeanField_ELBO requires a guide without auxiliary sites and factors"
        raise refusal("fit", rule, extra, "Use ELBO, which is right for them")
    if names != proposed:
        rule, value = "TraceMeanField_ELBO requires sites in the same order", f"model={names}, guide={proposed}"
        raise refusal("fit", rule, value, "Use ELBO, which is right for any order")


def _check_enumeration(objective: ELBO, model_trace: Trace, guide_trace: Trace, *, labelled: bool) -> None:
    sums, name = _sums(objective), type(objective).__name__
    free = [site for site in latents(model_trace) if site["name"] not in guide_trace.nodes]
    marked = [site for site in (*latents(guide_trace), *free) if site["infer"].get("enumerate")]
    if marked and not sums:
        value = f"site {marked[0]['name']!r} with infer={marked[0]['infer']}"
        advice = "Use Pyro's TraceEnum_ELBO(max_plate_nesting=1), or sample it in the guide"
        if marked[0]["name"] in guide_trace.nodes:
            advice = "Use EnumeratedELBO or Pyro's TraceEnum_ELBO, or CategoricalGuide(estimator='score' or 'relaxed')"
        raise refusal("fit", f"{name} requires sites that are not enumerated", value, advice)
    for site in marked:
        if site["fn"].has_rsample:
            value = f"site {site['name']!r} that is a {type(site['fn']).__name__}"
            advice = "Use ELBO for a relaxed guide, or CategoricalGuide(estimator='enumerate')"
            raise refusal("fit", f"{name} must enumerate discrete sites", value, advice)
    sampled = any(not site["fn"].has_rsample for site in latents(guide_trace))
    if sums and not marked and (sampled or not labelled):  # a batch with labels may have nothing to enumerate
        value = f"sites {[site['name'] for site in latents(guide_trace)]} that are sampled"
        advice = "Use ELBO (ScoreFunction for discrete sites), or set infer={'enumerate': 'parallel'}"
        raise refusal("fit", f"{name} must have a site to enumerate", value, advice)


def _sums(objective: ELBO) -> bool:
    return isinstance(objective, TraceEnum_ELBO) or (isinstance(objective, Objective) and objective.sums)

"""Objectives that are silently wrong for a model and a guide, refused before the first step."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.infer import ELBO, RenyiELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.contexts import validating
from pyro_vae._core.masks import unmasked
from pyro_vae._core.owners import Owners
from pyro_vae._core.pair import Pair
from pyro_vae._core.trace_checks import check_auxiliary, check_kinds, check_observation, check_observed
from pyro_vae._core.traces import is_auxiliary, latents, observations, sites
from pyro_vae._core.types import Program
from pyro_vae.objectives import Objective
from pyro_vae.objectives.per_datum import PerDatumObjective


def check_compatibility(
    objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...], *, alone: bool = True
) -> None:
    """Refuse an objective that would train on a wrong loss or gradient without a word.

    The programs run once on the batch, without a trace outside.

    Args:
        objective: the objective.
        model: Pyro model.
        guide: Pyro guide.
        args: a batch.
        alone: whether one process trains; several share a batch.

    Raises:
        ValueError: the objective is wrong for this pair; the message says what to use.

    References:
        Pyro: deep universal probabilistic programming (Bingham et al., 2019). https://arxiv.org/abs/1810.09538

    Example:
        >>> import torch
        >>> from pyro.infer import Trace_ELBO
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> check_compatibility(Trace_ELBO(), vae.model, vae.guide, (torch.ones(7, 5),))
    """
    check_additive(objective, alone=alone)
    check_pair(objective, examine(objective, model, guide, args, Owners(model=model, guide=guide)))


def check_additive(objective: ELBO, *, alone: bool) -> None:
    """Refuse an objective that is no sum over the data, if several processes share a batch.

    Raises:
        ValueError: naming it.
    """
    if isinstance(objective, Objective) and not objective.additive and not alone:
        raise _refusal(
            f"{type(objective).__name__} must have the whole batch in one process",
            "several that share it",
            "Use an objective that is a sum over the data, or one process",
        )


def examine(objective: ELBO, model: Program, guide: Program, args: tuple[Any, ...], owners: Owners) -> Pair:
    """The pair on a batch; programs that run only with their discrete sites enumerated run as the objective runs them.

    Raises:
        ValueError: a program cannot be run.
    """
    try:
        with validating(True):
            return Pair("fit", model, [guide], args, owners=owners)
    except ValueError:
        depth = getattr(objective, "max_plate_nesting", math.inf)
        if not _sums(objective) or not math.isfinite(depth):
            raise
        return Pair("fit", model, [guide], args, owners=owners, enum_dim=-1 - int(depth))


def data_axes(pair: Pair) -> Axes:
    """Where the data are in the arguments: dimensions of the size of the plate of the data, or of the whole it samples.

    Without such a plate, or arguments as long, the first dimension of the first tensor.
    """
    plate = pair.data_plate()
    sizes = [pair.sequential()] if plate is None else [pair.size(plate), plate.full_size]
    first = {x.shape[0] for x in tree_flatten((pair.args, pair.kwargs))[0] if isinstance(x, Tensor) and x.dim()}
    for size in sorted(sizes, key=lambda size: size not in first):  # a subsample may be as large as another dimension
        found = None if size is None else pair.axes_of(size, plate)
        if found is not None:
            return found
    return leading(pair.args)


def check_pair(objective: ELBO, pair: Pair) -> None:
    """Refuse an objective that is wrong for a pair, whatever the number of processes.

    Raises:
        ValueError: the message says what to use.
    """
    model_trace, (guide_trace,) = pair.model_trace, pair.guide_traces
    if isinstance(objective, RenyiELBO):
        _check_scales(model_trace, guide_trace)
    if isinstance(objective, TraceMeanField_ELBO):
        _check_order(model_trace, guide_trace)
    _check_enumeration(objective, model_trace, guide_trace, labelled=len(pair.args) > 1)
    check_kinds("fit", model_trace, guide_trace)
    check_auxiliary("fit", guide_trace, pair.outside, pair.following)
    if type(objective).__module__.startswith(("pyro.infer.", "pyro_vae.")):  # others know what they do
        _check_roles(objective, pair)
    for site in model_trace.nodes.values():
        plate = pair.data_plate()
        if plate is not None and any(frame.name == plate.name for frame in site.get("cond_indep_stack", ())):
            check_observation("fit", site, (plate.dim,))


def _check_roles(objective: ELBO, pair: Pair) -> None:
    """Every latent is in both programs, and the guide observes nothing."""
    model_trace, (guide_trace,) = pair.model_trace, pair.guide_traces
    check_observed("fit", model_trace, guide_trace)
    seen = [s["name"] for s in observations(guide_trace) if not isinstance(unmasked(s["fn"])[0], Unit)]
    if seen and not isinstance(objective, PerDatumObjective):
        rule = f"{type(objective).__name__} must have a guide that observes nothing, or it trains it to be wrong there"
        advice = "Use the objective that the guide was written for, or IWAE, which leaves these sites out"
        raise _refusal(rule, f"observed sites {seen}", advice)
    proposed = {s["name"] for s in latents(guide_trace)}
    free = [s for s in latents(model_trace) if s["name"] not in proposed and not s["infer"].get("enumerate")]
    extra = [s for s in latents(guide_trace) if s["name"] not in model_trace.nodes and not is_auxiliary(s)]
    if free or extra:
        names = [s["name"] for s in latents(model_trace)]
        rule = "the guide must sample every latent site of the model and no other"
        what = f"model sites {sorted(names)}, guide sites {sorted(proposed)}"
        raise _refusal(rule, what, 'Complete the guide, or mark its own sites with infer={"is_auxiliary": True}')


def _check_scales(*traces: Trace) -> None:
    """``RenyiELBO`` scales the log-weights, inside of the logarithm of their mean: no bound is left."""
    for site in (site for trace in traces for site in sites(trace)):
        scale = torch.as_tensor(site["scale"])
        if not bool((scale == 1).all()):
            what = f"a scale of {scale.flatten()[0]:.4g} at site {site['name']!r}"
            raise _refusal("Pyro's RenyiELBO must not meet scaled plates", what, "Use objectives.Renyi, which may")
        if any(frame.full_size not in (None, frame.size) for frame in site["cond_indep_stack"]):
            what = f"site {site['name']!r}"
            raise _refusal("Pyro's RenyiELBO must not meet subsampled plates", what, "Use objectives.Renyi, which may")


def _check_order(model_trace: Trace, guide_trace: Trace) -> None:
    """``TraceMeanField_ELBO`` takes each site's KL at the values of the sites before it."""
    proposed = [site["name"] for site in latents(guide_trace)]
    names = [site["name"] for site in latents(model_trace) if site["name"] in proposed]
    extra = [name for name in proposed if name not in names] + [s["name"] for s in observations(guide_trace)]
    if extra:
        rule = "TraceMeanField_ELBO must have a guide without auxiliary sites and factors"
        raise _refusal(rule, extra, "Use ELBO, which is right for them")
    if names != proposed:
        rule, what = "TraceMeanField_ELBO must have its sites in one order", f"model={names}, guide={proposed}"
        raise _refusal(rule, what, "Use ELBO, which is right for any order")


def _check_enumeration(objective: ELBO, model_trace: Trace, guide_trace: Trace, *, labelled: bool) -> None:
    sums, name = _sums(objective), type(objective).__name__
    free = [site for site in latents(model_trace) if site["name"] not in guide_trace.nodes]
    marked = [site for site in (*latents(guide_trace), *free) if site["infer"].get("enumerate")]
    if marked and not sums:
        what = f"site {marked[0]['name']!r} with infer={marked[0]['infer']}"
        advice = "Use Pyro's TraceEnum_ELBO(max_plate_nesting=1), or sample it in the guide"
        if marked[0]["name"] in guide_trace.nodes:
            advice = "Use EnumeratedELBO or Pyro's TraceEnum_ELBO, or CategoricalGuide(estimator='score' or 'relaxed')"
        raise _refusal(f"{name} must not meet sites to be enumerated", what, advice)
    for site in marked:
        if site["fn"].has_rsample:
            what = f"site {site['name']!r} that is a {type(site['fn']).__name__}"
            advice = "Use ELBO for a relaxed guide, or CategoricalGuide(estimator='enumerate')"
            raise _refusal(f"{name} must enumerate discrete sites", what, advice)
    drawn = any(not site["fn"].has_rsample for site in latents(guide_trace))
    if sums and not marked and (drawn or not labelled):  # a batch with labels may have nothing to enumerate
        what = f"sites {[site['name'] for site in latents(guide_trace)]} that are drawn"
        advice = "Use ELBO (ScoreFunction for discrete sites), or set infer={'enumerate': 'parallel'}"
        raise _refusal(f"{name} must have something to enumerate", what, advice)


def _sums(objective: ELBO) -> bool:
    return isinstance(objective, TraceEnum_ELBO) or (isinstance(objective, Objective) and objective.sums)


def _refusal(rule: str, given: Any, advice: str) -> ValueError:
    return ValueError(f"fit: {rule}, got {given}. {advice}.")

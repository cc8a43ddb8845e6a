"""Conditions on the traces of a model and a guide under which every datum has a log-weight of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pyro.distributions import Delta, Unit
from pyro.poutine import Trace
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae._core.traces import frames, is_auxiliary, is_point, latents, observations


def check_sites(
    owner: str,
    model_trace: Trace,
    guide_trace: Trace,
    *,
    summed: Collection[str] = (),
    outside: Collection[str] = (),
    following: Collection[str] = (),
) -> None:
    """Require observed data, the same latent sites in both programs, and a density for each.

    Args:
        owner: name that messages begin with.
        model_trace: of the model.
        guide_trace: of the guide.
        summed: names of latent sites that need no guide, because they are summed out.
        outside: observed sites of the guide that are not terms of its density.
        following: auxiliary sites of the guide that determine latents one to one.

    Raises:
        ValueError: naming the site.
    """
    check_observed(owner, model_trace, guide_trace)
    latent = {s["name"] for s in latents(model_trace)} - set(summed)
    proposed = {s["name"] for s in latents(guide_trace) if not is_auxiliary(s)}
    if latent != proposed:
        got = f"model sites {sorted(latent)}, guide sites {sorted(proposed)}"
        rule = "the guide must sample every latent site of the model and no other"
        missing = [s for s in latents(model_trace) if s["name"] in latent - proposed]
        can_sum = any(_is_discrete(s["fn"]) for s in missing) and owner in (
            "log_weights",
            "log_likelihood",
            "EnumeratedELBO",
        )
        advice = ', or mark discrete sites with infer={"enumerate": "parallel"} to sum over them' if can_sum else ""
        raise refusal(owner, rule, got, f"Complete the guide{advice}")
    check_kinds(owner, model_trace, guide_trace)
    check_auxiliary(owner, guide_trace, outside, following)


def check_observed(owner: str, model_trace: Trace, guide_trace: Trace) -> None:
    """Require an observed site in the model.

    Raises:
        ValueError: the model observes nothing.
    """
    if not observations(model_trace):
        got = f"latent sites {sorted(s['name'] for s in latents(model_trace))} alone"
        swapped = any(not isinstance(s["fn"], Unit) for s in observations(guide_trace))
        advice = "Pass the model first and the guide second" if swapped else "Pass the data to it with obs="
        raise refusal(owner, "the model must have an observed site", got, advice)


def check_kinds(owner: str, model_trace: Trace, guide_trace: Trace) -> None:
    """Require each latent site to be discrete in both programs or continuous in both, since the weight is a ratio.

    Raises:
        ValueError: naming the site.
    """
    proposed = {s["name"]: s for s in latents(guide_trace)}
    for site in latents(model_trace):
        counterpart = proposed.get(site["name"], site)
        kinds = [_is_discrete(s["fn"]) for s in (site, counterpart)]
        if None not in kinds and kinds[0] != kinds[1]:
            in_model, in_guide = ("discrete" if kind else "continuous" for kind in kinds)
            got = f"site {site['name']!r} {in_model} in the model and {in_guide} in the guide"
            rule = "a latent site must be discrete in both programs or in none"
            raise refusal(owner, rule, got, "Use a prior and a guide that are both discrete or both continuous")


def check_auxiliary(owner: str, guide_trace: Trace, outside: Collection[str], following: Collection[str]) -> None:
    """Require a reverse model r(a | x, z) of auxiliary sites a; without one the weights are not unbiased for p(x).

    Raises:
        ValueError: naming the sites.
    """
    names = [s["name"] for s in latents(guide_trace) if is_auxiliary(s) and s["name"] not in following]
    if names and all(s["name"] in outside for s in observations(guide_trace)):
        rule = "an auxiliary site of the guide must have a reverse model r(a | x, z), as a factor of the guide"
        raise refusal(owner, rule, names, "Add pyro.factor('reverse', -log_r, has_rsample=True) to the guide")


def check_densities(owner: str, guide_trace: Trace) -> None:
    """Require densities: a latent site may be a Delta only if auxiliary sites, which have one, determine it.

    Raises:
        ValueError: naming the site.
    """
    latent = latents(guide_trace)
    for site in latent:
        if is_point(site) and not any(map(is_auxiliary, latent)):
            got = f"a Delta at site {site['name']!r}"
            raise refusal(owner, "the guide must have densities", got, "Use a normal guide, such as AutoNormal")


def check_plates(owner: str, trace: Trace, *, sizes: Collection[int] | None = None) -> None:
    """Require vectorised plates without random subsamples of another size than the batch.

    Args:
        owner: name that messages begin with.
        trace: of a program.
        sizes: leading dimensions of the arguments; a subsample of that size is the batch itself. None allows any.

    Raises:
        ValueError: naming the site or the plate.
    """
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if any(not frame.vectorized for frame in site["cond_indep_stack"]):
            got = f"site {name!r} in a sequential plate"
            raise refusal(owner, "plates must be vectorised", got, "Use `with plate`")
        random = isinstance(site["fn"], _Subsample) and _is_random(site["fn"])
        if sizes is not None and random and site["fn"].subsample_size not in sizes:
            raise refusal(owner, "plates must not draw a subsample", f"plate {name!r}", "Pass the batch itself")


def check_log_prob_shape(owner: str, site: Any, log_prob: Tensor) -> None:
    """Require size 1 or that of the site's plate in each dimension, to exclude unintended outer products.

    Raises:
        ValueError: naming the site and its plates.
    """
    sizes = {frame.dim: frame.size for frame in frames(site).values()}
    shape = tuple(log_prob.shape)
    allowed = (sizes.get(dim - len(shape), 1) for dim in range(len(shape)))
    if any(most >= 0 and size not in (1, most) for size, most in zip(shape, allowed, strict=True)):
        plates = ", ".join(f"{f.name} of size {f.size} at dim {f.dim}" for f in frames(site).values())
        got = f"log-probabilities of shape {shape} at site {site['name']!r} in plates {plates}"
        advice = "Give the value that shape, or use to_event"
        raise refusal(owner, "sites must have the shape of their plates", got, advice)


def check_log_prob_shapes(owner: str, sites: Iterable[Any]) -> None:
    """:func:`check_log_prob_shape` of the sites that have a density."""
    for site in sites:
        if getattr(site["fn"], "has_density", True):
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            check_log_prob_shape(owner, site, log_prob)


def check_observation(owner: str, site: Any, dims: tuple[int, ...]) -> None:
    """Require a batch dimension in observed values; otherwise one datum would be broadcast over the whole plate.

    Raises:
        ValueError: naming the site.
    """
    if site["type"] != "sample" or not site["is_observed"] or isinstance(site["fn"], Unit | Delta):
        return
    if site["infer"].get("_deterministic") or not isinstance(site["value"], Tensor) or not frames(site):
        return
    event_dim = site["fn"].event_dim
    if site["value"].dim() < event_dim - min(dims):
        shape = tuple(site["value"].shape)
        got = f"shape {shape} at site {site['name']!r}, which has {event_dim} event dimensions"
        rule = "observed data must have a dimension for the plate of the data"
        raise refusal(owner, rule, got, "Add it: x.unsqueeze(0) for one datum")


def _is_discrete(fn: Any) -> bool | None:
    """None if the support is unknown, or for a Delta."""
    if is_point({"fn": fn}):
        return None
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return None


def _is_random(subsample: _Subsample) -> bool:
    return subsample.subsample_size is not None and subsample.subsample_size < subsample.size

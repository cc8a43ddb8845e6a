"""Roles and plates of the sites in traces, and what makes a pair of traces unfit for weights per datum."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.poutine import Trace
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_vae._core.checks import refusal


def plate_size(site: Any, dim: int) -> int:
    """Size of the site's plate at a dimension; that of a plate without one is read off the distribution."""
    (size,) = {frame.size for frame in frames(site).values() if frame.dim == dim}
    if size >= 0:
        return size
    shape = site["fn"].batch_shape
    return shape[dim] if len(shape) >= -dim else 1


def sites(trace: Trace) -> list[Any]:
    """The random choices: neither the plates' subsamples nor what is deterministic, nor losses."""
    return [site for site in _sampled(trace) if not site["infer"].get("is_loss")]


def losses(trace: Trace) -> list[Any]:
    """What the guide adds to the loss beside the bound: factors with ``infer={"is_loss": True}``, no density's part."""
    return [site for site in _sampled(trace) if site["infer"].get("is_loss")]


def _sampled(trace: Trace) -> list[Any]:
    found = (s for s in trace.nodes.values() if s["type"] == "sample" and not isinstance(s["fn"], _Subsample))
    return [site for site in found if not site["infer"].get("_deterministic")]


def without_plates(trace: Trace) -> Trace:
    """A copy without the plates' indices, for a run on another number of data."""
    copy = trace.copy()
    for name in [s["name"] for s in copy.nodes.values() if isinstance(s.get("fn"), _Subsample)]:
        copy.remove_node(name)
    return copy


def latents(trace: Trace) -> list[Any]:
    """What is drawn."""
    return [site for site in sites(trace) if not site["is_observed"]]


def observations(trace: Trace) -> list[Any]:
    """What is observed; in a guide, its factors."""
    return [site for site in sites(trace) if site["is_observed"]]


def within(trace: Trace, plate: Any) -> list[Any]:
    """The sites in a plate, given as a frame."""
    return [site for site in sites(trace) if plate.name in frames(site)]


def frames(site: Any) -> dict[str, Any]:
    """The vectorised plates that a site is in, by name."""
    return {frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized}


def masked(value: Tensor, mask: Tensor | bool | None, absent: float = 0.0) -> Tensor:
    """``absent`` where the mask is false."""
    return value if mask is None else torch.where(torch.as_tensor(mask, device=value.device), value, absent)


def depth_of(*traces: Trace) -> int:
    """The number of dimensions that the plates of all sites take."""
    return max((-frame.dim for trace in traces for site in sites(trace) for frame in frames(site).values()), default=0)


def shared_plates(owner: str, *traces: Trace, skipped: Collection[str] = ()) -> dict[str, list[Any]]:
    """The vectorised plates that every site is within, but for those skipped, with their frames at each site.

    Raises:
        ValueError: there is none.
    """
    stacks = [frames(site) for trace in traces for site in sites(trace) if site["name"] not in skipped]
    shared = set.intersection(*(set(stack) for stack in stacks)) if stacks else set()
    if not shared:
        raise refusal(
            owner,
            "every site must be within one vectorised plate over the data",
            _outside_of_the_widest(traces, stacks, skipped),
            "Put all of them within pyro.plate('data', len(x)); sites shared by all data have no weight per datum",
        )
    found = {name: [stack[name] for stack in stacks] for name in sorted(shared)}
    for same in found.values():
        sizes = {frame.size for frame in same} - {-1}
        if len({frame.dim for frame in same}) > 1 or len(sizes) > 1:
            rule = "the plate of the data must be the same for every site"
            what = " and ".join(sorted({f"size {frame.size} at dim {frame.dim}" for frame in same}))
            raise refusal(owner, rule, what, "Give it one dim and one size")
    return found


def _outside_of_the_widest(traces: Collection[Trace], stacks: list[dict[str, Any]], skipped: Collection[str]) -> str:
    """The sites that are not in the plate that most sites are in."""
    names = sorted({name for stack in stacks for name in stack})
    if not names:
        return "no plate"
    widest = max(names, key=lambda name: sum(name in stack for stack in stacks))
    found = (site for trace in traces for site in sites(trace) if site["name"] not in skipped)
    return f"{sorted({s['name'] for s in found if widest not in frames(s)})} outside of plate {widest!r}"


def check_sites(
    owner: str,
    model_trace: Trace,
    guide_trace: Trace,
    *,
    summed: Collection[str] = (),
    outside: Collection[str] = (),
    following: Collection[str] = (),
) -> None:
    """Refuse a pair without weights: data or latent sites are missing, or have no density.

    Args:
        owner: name to begin the message with.
        model_trace: of the model.
        guide_trace: of the guide.
        summed: names of latent sites that need no guide, since they are summed out.
        outside: observed sites of the guide that are no part of its density.
        following: auxiliary sites of the guide that latents follow from one to one.

    Raises:
        ValueError: the message names the site.
    """
    check_observed(owner, model_trace, guide_trace)
    latent = {s["name"] for s in latents(model_trace)} - set(summed)
    drawn = latents(guide_trace)
    proposed = {s["name"] for s in drawn if not s["infer"].get("is_auxiliary")}
    if latent != proposed:
        what = f"model sites {sorted(latent)}, guide sites {sorted(proposed)}"
        rule = "the guide must sample every latent site of the model and no other"
        missing = [s for s in latents(model_trace) if s["name"] in latent - proposed]
        can_sum = any(_is_discrete(s["fn"]) for s in missing) and owner in ("log_weights", "log_likelihood")
        advice = ', or mark discrete sites with infer={"enumerate": "parallel"} to sum over them' if can_sum else ""
        raise refusal(owner, rule, what, f"Complete the guide{advice}")
    check_kinds(owner, model_trace, guide_trace)
    check_auxiliary(owner, guide_trace, outside, following)


def check_densities(owner: str, guide_trace: Trace) -> None:
    """Refuse latents that are points and do not follow from auxiliary sites, which have a density.

    Raises:
        ValueError: the message names the site.
    """
    drawn = latents(guide_trace)
    for site in drawn:
        if _is_point(site) and not any(map(is_auxiliary, drawn)):
            what = f"a Delta at site {site['name']!r}"
            raise refusal(owner, "the guide must have densities", what, "Use a normal guide, such as AutoNormal")


def check_observed(owner: str, model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a model without data.

    Raises:
        ValueError: the model observes nothing.
    """
    if not observations(model_trace):
        what = f"latent sites {sorted(s['name'] for s in latents(model_trace))} alone"
        swapped = any(not isinstance(s["fn"], Unit) for s in observations(guide_trace))
        advice = "Pass the model first and the guide second" if swapped else "Pass the data to it with obs="
        raise refusal(owner, "the model must have an observed site", what, advice)


def check_auxiliary(owner: str, guide_trace: Trace, outside: Collection[str], following: Collection[str]) -> None:
    """Refuse an auxiliary site a without a reverse model: without r(a | x, z) the weights integrate to no p(x).

    Raises:
        ValueError: the message names the sites.
    """
    names = [s["name"] for s in latents(guide_trace) if is_auxiliary(s) and s["name"] not in following]
    if names and all(s["name"] in outside for s in observations(guide_trace)):
        rule = "an auxiliary site of the guide must have a reverse model r(a | x, z), as a factor of the guide"
        raise refusal(owner, rule, names, "Add pyro.factor('reverse', -log_r, has_rsample=True) to the guide")


def check_kinds(owner: str, model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a latent site that is discrete in one program and continuous in the other: a density over a probability.

    Raises:
        ValueError: the message names the site.
    """
    proposed = {s["name"]: s for s in latents(guide_trace)}
    for site in latents(model_trace):
        other = proposed.get(site["name"])
        kinds = [_is_discrete(s["fn"]) for s in (site, other or site)]
        if None not in kinds and kinds[0] != kinds[1]:
            words = ["discrete" if kind else "continuous" for kind in kinds]
            what = f"site {site['name']!r} {words[0]} in the model and {words[1]} in the guide"
            rule = "a latent site must be discrete in both programs or in none"
            raise refusal(owner, rule, what, "Use CategoricalGuide with CategoricalPrior, others with each other")


def _is_point(site: Any) -> bool:
    return isinstance(getattr(site["fn"], "base_dist", site["fn"]), Delta)


def follows(guide_trace: Trace) -> bool:
    """Whether all that the guide shares with the model follows from auxiliary sites, as in Pyro's autoguides."""
    drawn = latents(guide_trace)
    return any(map(is_auxiliary, drawn)) and all(is_auxiliary(site) or _is_point(site) for site in drawn)


def is_auxiliary(site: Any) -> bool:
    """Whether a latent site of a guide is one that the model does not have."""
    return bool(site["infer"].get("is_auxiliary"))


def _is_discrete(fn: Any) -> bool | None:
    """None where it is not known, or for a point."""
    if _is_point({"fn": fn}):
        return None
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return None


def check_plates(owner: str, trace: Trace, *, sizes: Collection[int] | None = None) -> None:
    """Refuse plates that run one by one, and those that draw a subsample of another size than the batch's.

    Args:
        owner: name to begin the message with.
        trace: of a program.
        sizes: leading dimensions of the arguments, which a subsample may have as well: then it is the batch itself.
            None allows any.

    Raises:
        ValueError: the message names the site or the plate.
    """
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if any(not frame.vectorized for frame in site["cond_indep_stack"]):
            what = f"site {name!r} in a sequential plate"
            raise refusal(owner, "plates must be vectorised", what, "Use `with plate`")
        random = isinstance(site["fn"], _Subsample) and _is_random(site["fn"])
        if sizes is not None and random and site["fn"].subsample_size not in sizes:
            raise refusal(owner, "plates must not draw a subsample", f"plate {name!r}", "Pass the batch itself")


def check_shape(owner: str, site: Any, log_prob: Tensor) -> None:
    """Along every dimension a log-probability has the size of the site's plate there, or 1: no accidental product.

    Raises:
        ValueError: it has not; the message names the site and its plates.
    """
    sizes = {frame.dim: frame.size for frame in frames(site).values()}
    shape = tuple(log_prob.shape)
    allowed = (sizes.get(dim - len(shape), 1) for dim in range(len(shape)))
    if any(most >= 0 and size not in (1, most) for size, most in zip(shape, allowed, strict=True)):
        plates = ", ".join(f"{f.name} of size {f.size} at dim {f.dim}" for f in frames(site).values())
        what = f"log-probabilities of shape {shape} at site {site['name']!r} in plates {plates}"
        advice = "Give the value that shape, or use to_event"
        raise refusal(owner, "sites must have the shape of their plates", what, advice)


def check_observation(owner: str, site: Any, dims: tuple[int, ...]) -> None:
    """Refuse an observed value that has no dimension of the data: one datum would count for all of the plate.

    Raises:
        ValueError: the message names the site.
    """
    if site["type"] != "sample" or not site["is_observed"] or isinstance(site["fn"], Unit | Delta):
        return
    if site["infer"].get("_deterministic") or not isinstance(site["value"], Tensor) or not frames(site):
        return
    needed = site["fn"].event_dim - min(dims)
    if site["value"].dim() < needed:
        what = f"shape {tuple(site['value'].shape)} at site {site['name']!r}, which has {site['fn'].event_dim} event"
        rule = "observed data must have a dimension for the plate of the data"
        raise refusal(owner, rule, f"{what} dimensions", "Add it: x.unsqueeze(0) for one datum")


def structure_of(trace: Trace) -> tuple[Any, ...]:
    """Names, roles and plates of the sites, and whether they are masked: what a call is compared by."""
    return tuple(
        (
            s["name"],
            s["is_observed"],
            s["mask"] is None or s["mask"] is True,
            *((f.name, f.dim) for f in s["cond_indep_stack"]),
        )
        for s in trace.nodes.values()
        if s["type"] == "sample"
    )


def no_mask(mask: Any) -> bool:
    """Whether a mask hides nothing, whatever the data."""
    return mask is None or mask is True


def order_of(trace: Trace, plate: str) -> Tensor | None:
    """The order in which a plate has its data, if it is another than theirs."""
    site = trace.nodes.get(plate)
    if site is None or not isinstance(site["fn"], _Subsample):
        return None
    order = site["value"]
    # Some programs pass the data themselves for their number; and a part of a larger whole has no order of its own.
    if order.dim() != 1 or order.is_floating_point() or len(order) != site["fn"].size:
        return None
    return None if torch.equal(order, torch.arange(len(order), device=order.device)) else order


def _is_random(subsample: _Subsample) -> bool:
    return subsample.subsample_size is not None and subsample.subsample_size < subsample.size

"""Queries on Pyro traces: which sites are latent, observed or losses, and which plates they are in.

A *frame* is Pyro's record of one plate at one site (name, dim, size). Negative dims count from the right of a site's
batch shape, as in Pyro.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_vae._core.checks import refusal


def sites(trace: Trace) -> list[Any]:
    """Sample sites of the density: neither subsamples of plates, nor deterministic values, nor losses."""
    return [site for site in _sample_sites(trace) if not site["infer"].get("is_loss")]


def losses(trace: Trace) -> list[Any]:
    """Factors with ``infer={"is_loss": True}``: terms that a guide adds to the loss and not to its density."""
    return [site for site in _sample_sites(trace) if site["infer"].get("is_loss")]


def _sample_sites(trace: Trace) -> list[Any]:
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample"
        and not isinstance(site["fn"], _Subsample)
        and not site["infer"].get("_deterministic")
    ]


def latents(trace: Trace) -> list[Any]:
    """Sites that are sampled."""
    return [site for site in sites(trace) if not site["is_observed"]]


def observations(trace: Trace) -> list[Any]:
    """Sites that are observed; in a guide, its factors."""
    return [site for site in sites(trace) if site["is_observed"]]


def is_auxiliary(site: Any) -> bool:
    """Whether a latent site of a guide is one that the model does not have."""
    return bool(site["infer"].get("is_auxiliary"))


def is_point(site: Any) -> bool:
    """Whether the site's distribution is a Delta, possibly with event dimensions."""
    return isinstance(getattr(site["fn"], "base_dist", site["fn"]), Delta)


def follows(guide_trace: Trace) -> bool:
    """Whether every shared latent site is a Delta determined by auxiliary sites, as in Pyro's autoguides."""
    latent = latents(guide_trace)
    return any(map(is_auxiliary, latent)) and all(is_auxiliary(site) or is_point(site) for site in latent)


def frames(site: Any) -> dict[str, Any]:
    """The vectorised plates that a site is in, by name."""
    return {frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized}


def within(trace: Trace, plate: Any) -> list[Any]:
    """The sites inside a plate, given as a frame."""
    return [site for site in sites(trace) if plate.name in frames(site)]


def plate_size(site: Any, dim: int) -> int:
    """Size of the site's plate at a dimension; for a plate without a size, read from the batch shape."""
    (size,) = {frame.size for frame in frames(site).values() if frame.dim == dim}
    if size >= 0:
        return size
    shape = site["fn"].batch_shape
    return shape[dim] if len(shape) >= -dim else 1


def depth_of(*traces: Trace) -> int:
    """Number of batch dimensions that the plates of all sites occupy."""
    return max((-frame.dim for trace in traces for site in sites(trace) for frame in frames(site).values()), default=0)


def shared_plates(owner: str, *traces: Trace, skipped: Collection[str] = ()) -> dict[str, list[Any]]:
    """The vectorised plates that contain every site except those skipped: by name, with the frame of each site.

    Raises:
        ValueError: no plate contains every site, or a plate differs between sites.
    """
    stacks = [frames(site) for trace in traces for site in sites(trace) if site["name"] not in skipped]
    names = set.intersection(*(set(stack) for stack in stacks)) if stacks else set()
    if not names:
        raise refusal(
            owner,
            "every site must be within one vectorised plate over the data",
            _outside_largest_plate(traces, stacks, skipped),
            "Put all of them within pyro.plate('data', len(x)); sites shared by all data have no weight per datum",
        )
    plates = {name: [stack[name] for stack in stacks] for name in sorted(names)}
    for plate in plates.values():
        sizes = {frame.size for frame in plate} - {-1}
        if len({frame.dim for frame in plate}) > 1 or len(sizes) > 1:
            rule = "the plate of the data must be the same for every site"
            got = " and ".join(sorted({f"size {frame.size} at dim {frame.dim}" for frame in plate}))
            raise refusal(owner, rule, got, "Give it one dim and one size")
    return plates


def _outside_largest_plate(traces: Collection[Trace], stacks: list[dict[str, Any]], skipped: Collection[str]) -> str:
    """For a message: the sites outside the plate that contains most sites."""
    names = sorted({name for stack in stacks for name in stack})
    if not names:
        return "no plate"
    largest = max(names, key=lambda name: sum(name in stack for stack in stacks))
    candidates = (site for trace in traces for site in sites(trace) if site["name"] not in skipped)
    return f"{sorted({s['name'] for s in candidates if largest not in frames(s)})} outside of plate {largest!r}"


def without_plates(trace: Trace) -> Trace:
    """A copy without the plates' subsample indices, for a replay on another number of data."""
    copy = trace.copy()
    for name in [s["name"] for s in copy.nodes.values() if isinstance(s.get("fn"), _Subsample)]:
        copy.remove_node(name)
    return copy


def subsample_order(trace: Trace, plate: str) -> Tensor | None:
    """The permutation of the data that a plate has as its subsample; None for the order of the data."""
    site = trace.nodes.get(plate)
    if site is None or not isinstance(site["fn"], _Subsample):
        return None
    order = site["value"]
    # Not a permutation: programs that pass the data instead of their number, and subsamples of a larger plate.
    if order.dim() != 1 or order.is_floating_point() or len(order) != site["fn"].size:
        return None
    return None if torch.equal(order, torch.arange(len(order), device=order.device)) else order


def masked(value: Tensor, mask: Tensor | bool | None, absent: float = 0.0) -> Tensor:
    """``value``, replaced by ``absent`` if the mask is false."""
    return value if mask is None else torch.where(torch.as_tensor(mask, device=value.device), value, absent)


def no_mask(mask: Any) -> bool:
    """Whether a mask is None or True, so that it hides nothing for any data."""
    return mask is None or mask is True


def structure_of(trace: Trace) -> tuple[Any, ...]:
    """Names, roles, masks and plates of the sites, to detect calls on which a program has another structure."""
    return tuple(
        (s["name"], s["is_observed"], no_mask(s["mask"]), *((f.name, f.dim) for f in s["cond_indep_stack"]))
        for s in trace.nodes.values()
        if s["type"] == "sample"
    )

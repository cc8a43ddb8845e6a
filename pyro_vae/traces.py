"""Log-probabilities per datum, read off the traces of a Pyro model and guide.

What measures (:mod:`pyro_vae.evaluation`) and what trains (:mod:`pyro_vae.objectives`) form their weights from these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

_SAMPLE_OR_SUM = "Sample it in the guide, or sum over it in the model"


@dataclass(frozen=True)
class Layout:
    """Where the data are in the shapes of a model and guide that run within a plate of K samples.

    Attributes:
        owner: name to begin messages with.
        depth: number of dimensions that the programs' plates take; the samples' plate is the one before.
        dims: those of the data, negative; every site is within their plates.
    """

    owner: str
    depth: int
    dims: tuple[int, ...]

    def log_prob(self, site: Any) -> Tensor:
        """Log-probability of a site, masked and not scaled: scales are no part of a density."""
        value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        check_shape(self.owner, site, value)
        return masked(value, site["mask"])

    def sum(self, num_samples: int, sites: Iterable[Any]) -> Tensor:
        """Sum of the sites' log-probabilities, ``(K, data)``, over every plate but those of samples and data."""
        parts = (self.per_datum(num_samples, site, self.log_prob(site)) for site in sites)
        return sum(parts, torch.zeros(()))

    def per_datum(self, num_samples: int, site: Any, value: Tensor, *, event_dim: int = 0) -> Tensor:
        """``(K, data, *event)``: a tensor in the site's plates, summed over those that are not of the data."""
        value = self._of_the_data(value, event_dim)
        sizes = {frame.dim: frame.size for frame in frames(site).values()}
        event = value.shape[value.dim() - event_dim :]
        value = value.expand(num_samples, *(sizes[dim] for dim in self.dims), *event)
        return value.flatten(1, len(self.dims))

    def per_value(self, num_samples: int, site: Any, value: Tensor) -> Tensor:
        """``(*values, K, B)``: the same for data in one plate, with the values of enumerated sites before."""
        value = self._of_the_data(value, 0)
        (size,) = [frame.size for frame in frames(site).values() if frame.dim in self.dims]
        return value.expand(*value.shape[: value.dim() - 2], num_samples, size)

    def _of_the_data(self, value: Tensor, event_dim: int) -> Tensor:
        """With a dimension for the samples and for each of the data, summed over the other plates."""
        value = value.reshape((1,) * (self.depth + 1 + event_dim - value.dim()) + tuple(value.shape))
        others = [dim - event_dim for dim in range(-self.depth, 0) if dim not in self.dims]
        return value.sum(others) if others else value

    def check_summed(self, site: Any) -> None:
        """Refuse a site that cannot be summed over for each datum by itself.

        Raises:
            ValueError: it is within another plate than that of the data.
        """
        dims = {frame.dim for frame in frames(site).values() if frame.dim >= -self.depth}
        if dims != set(self.dims):
            rule = "a site that is summed out must be in the plate of the data alone"
            advice = "Use EnumeratedELBO, or sample it" if "ELBO" in self.owner else _SAMPLE_OR_SUM
            raise refusal(self.owner, rule, f"site {site['name']!r} in {len(dims)} plates", advice)

    def spread(self, site: Any, value: Tensor, *, event_dim: int = 0) -> Tensor:
        """The reverse: ``(K, data)`` as a tensor that multiplies values of the site, ``event_dim`` of their own."""
        sizes = {frame.dim: frame.size for frame in frames(site).values()}
        shape = [sizes[dim] if dim in self.dims else 1 for dim in range(-self.depth, 0)]
        return value.reshape(len(value), *shape, *[1] * event_dim)


def sites(trace: Trace) -> list[Any]:
    """The random choices: neither the plates' subsamples nor what is deterministic, nor losses."""
    return [site for site in _sampled(trace) if not site["infer"].get("is_loss")]


def losses(trace: Trace) -> list[Any]:
    """What the guide adds to the loss beside the bound: factors with ``infer={"is_loss": True}``, no density's part."""
    return [site for site in _sampled(trace) if site["infer"].get("is_loss")]


def _sampled(trace: Trace) -> list[Any]:
    found = (s for s in trace.nodes.values() if s["type"] == "sample" and not isinstance(s["fn"], _Subsample))
    return [site for site in found if not site["infer"].get("_deterministic")]


def latents(trace: Trace) -> list[Any]:
    """What is drawn."""
    return [site for site in sites(trace) if not site["is_observed"]]


def observations(trace: Trace) -> list[Any]:
    """What is observed; in a guide, its factors."""
    return [site for site in sites(trace) if site["is_observed"]]


def frames(site: Any) -> dict[str, Any]:
    """The vectorised plates that a site is in, by name."""
    return {frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized}


def masked(value: Tensor, mask: Tensor | bool | None, absent: float = 0.0) -> Tensor:
    """``absent`` where the mask is false."""
    return value if mask is None else torch.where(torch.as_tensor(mask, device=value.device), value, absent)


def depth_of(*traces: Trace) -> int:
    """The number of dimensions that the plates of all sites take."""
    return max((-frame.dim for trace in traces for site in sites(trace) for frame in frames(site).values()), default=0)


def shared_plates(owner: str, *traces: Trace) -> dict[str, list[Any]]:
    """The vectorised plates that every site is within, with their frames at each site.

    Raises:
        ValueError: there is none.
    """
    stacks = [frames(site) for trace in traces for site in sites(trace)]
    shared = set.intersection(*(set(stack) for stack in stacks))
    if not shared:
        raise refusal(
            owner,
            "every site must be within one vectorised plate over the data",
            f"plates {sorted({key for stack in stacks for key in stack})}",
            "Put all of them within pyro.plate('data', len(x)); sites shared by all data have no weight per datum",
        )
    found = {name: [stack[name] for stack in stacks] for name in sorted(shared)}
    for same in found.values():
        if len({(frame.dim, frame.size) for frame in same}) > 1:
            rule = "the plate of the data must be the same for every site"
            what = " and ".join(sorted({f"size {frame.size} at dim {frame.dim}" for frame in same}))
            raise refusal(owner, rule, what, "Give it one dim and one size")
    return found


def check_sites(owner: str, model_trace: Trace, guide_trace: Trace, *, summed: Collection[str] = ()) -> None:
    """Refuse a pair without weights: data or latent sites are missing, or have no density.

    Args:
        owner: name to begin the message with.
        model_trace: of the model.
        guide_trace: of the guide.
        summed: names of latent sites that need no guide, since they are summed out.

    Raises:
        ValueError: the message names the site.
    """
    latent = {s["name"] for s in latents(model_trace)} - set(summed)
    proposed = {s["name"] for s in sites(guide_trace) if not s["infer"].get("is_auxiliary")}
    augmented = len(proposed) < len(sites(guide_trace))  # then a latent may follow from an auxiliary site
    if not observations(model_trace):
        raise refusal(owner, "the model must have an observed site", sorted(latent), "Pass the data to it with obs=")
    if latent != proposed:
        what = f"model sites {sorted(latent)}, guide sites {sorted(proposed)}"
        rule = "the guide must sample every latent site of the model and no other"
        missing = [s for s in latents(model_trace) if s["name"] in latent - proposed]
        can_sum = any(_is_discrete(s["fn"]) for s in missing) and owner == "log_weights"
        advice = ', or mark discrete sites with infer={"enumerate": "parallel"} to sum over them' if can_sum else ""
        raise refusal(owner, rule, what, f"Complete the guide{advice}")
    check_kinds(owner, model_trace, guide_trace)
    check_auxiliary(owner, guide_trace)
    for site in sites(guide_trace):
        if not augmented and _is_point(site):
            what = f"a Delta at site {site['name']!r}"
            raise refusal(owner, "the guide must have densities", what, "Use a normal guide")


def check_auxiliary(owner: str, guide_trace: Trace) -> None:
    """Refuse an auxiliary site a without a reverse model: without r(a | x, z) the weights integrate to no p(x).

    Raises:
        ValueError: the message names the sites.
    """
    names = [s["name"] for s in latents(guide_trace) if s["infer"].get("is_auxiliary")]
    if names and not observations(guide_trace):
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
    return all(_is_point(site) for site in latents(guide_trace) if not site["infer"].get("is_auxiliary"))


def _is_discrete(fn: Any) -> bool | None:
    """None where it is not known, or for a point."""
    if _is_point({"fn": fn}):
        return None
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return None


def check_plates(owner: str, trace: Trace, *, random: bool) -> None:
    """Refuse plates that run one by one and, unless ``random``, those that draw a subsample.

    Raises:
        ValueError: the message names the site or the plate.
    """
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if any(not frame.vectorized for frame in site["cond_indep_stack"]):
            what = f"site {name!r} in a sequential plate"
            raise refusal(owner, "plates must be vectorised", what, "Use `with plate`")
        if not random and isinstance(site["fn"], _Subsample) and _is_random(site["fn"]):
            raise refusal(owner, "plates must not draw a subsample", f"plate {name!r}", "Pass the batch itself")


def check_shape(owner: str, site: Any, log_prob: Tensor) -> None:
    """Along every dimension a log-probability has the size of the site's plate there, or 1: no accidental product.

    Raises:
        ValueError: it has not; the message names the site and its plates.
    """
    sizes = {frame.dim: frame.size for frame in frames(site).values()}
    shape = tuple(log_prob.shape)
    if any(size not in (1, sizes.get(dim - len(shape), 1)) for dim, size in enumerate(shape)):
        plates = ", ".join(f"{f.name} of size {f.size} at dim {f.dim}" for f in frames(site).values())
        what = f"log-probabilities of shape {shape} at site {site['name']!r} in plates {plates}"
        advice = "Give the value that shape, or use to_event"
        raise refusal(owner, "sites must have the shape of their plates", what, advice)


def refusal(owner: str, rule: str, given: Any, advice: str) -> ValueError:
    """The error in the form that all messages have."""
    return ValueError(f"{owner}: {rule}, got {given}. {advice}.")


def _is_random(subsample: _Subsample) -> bool:
    return subsample.subsample_size is not None and subsample.subsample_size < subsample.size

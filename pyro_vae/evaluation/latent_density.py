"""A Pyro pair as two log-densities over one unconstrained vector per datum: what annealing and HMC move on."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from pyro_vae._core.checks import refusal
from pyro_vae._core.layout import Layout
from pyro_vae._core.owners import Owners
from pyro_vae._core.traces import latents
from pyro_vae._core.types import Program
from pyro_vae.evaluation.joint_density import is_enumerated
from pyro_vae.evaluation.proposals import prior_proposal
from pyro_vae.evaluation.weights import ImportanceWeights

Start = Literal["prior", "guide"]


class PathDensities(NamedTuple):
    """The log-densities at the two ends of an annealing path, each ``(num_chains, batch)``, in nats."""

    start: Tensor
    """Of the distribution that chains start from, normalised."""
    target: Tensor
    """log p(x, z)."""


class LatentDensity:
    """The latents of a Pyro model as vectors u in R^D per datum, with the densities at both ends of a path.

    Positive, bounded and simplex-valued sites are mapped to the reals, and both densities are those of u: their ratio
    does not change. Discrete sites that the model marks for enumeration are summed out.

    Args:
        owner: name to begin messages with.
        model: Pyro model with observed sites.
        guide: Pyro guide for it; asked for its latent sites, and for its density where the path starts from it. None
            where it starts from the prior.
        args: a batch of data, which both are called with.
        start: where chains start from.
        data_plate: name of the plate over the data, where it is not the only one that holds all sites.
        owners: of the programs, if they are known.

    Raises:
        ValueError: a latent site is discrete, its support is not known or depends on other sites, or the guide has no
            density at any z; and what :class:`~pyro_vae.evaluation.ImportanceWeights` refuses.

    Attributes:
        dim: D, number of unconstrained latent dimensions of a datum.
    """

    def __init__(
        self,
        owner: str,
        model: Program,
        guide: Program | None,
        args: tuple[Any, ...],
        *,
        start: Start = "prior",
        data_plate: str | None = None,
        owners: Owners | None = None,
    ) -> None:
        self.owner, self.start = owner, start
        how: dict[str, Any] = {"data_plate": data_plate, "owner": owner, "owners": owners}
        self._check_start(guide)
        if guide is not None:  # for its refusals, whatever the start
            self.weigher = ImportanceWeights(model, guide, args, **how)
        if guide is None or start == "prior":
            self.weigher = ImportanceWeights(model, _prior(model), args, **how)
        self.layout = self.weigher.layout
        self._check_latents()
        self.weigher.check_repeatable(args, guide=start == "guide")
        with torch.no_grad(), poutine.block():
            trace, again = (self.weigher.propose(1, args) for _ in range(2))
        self.trace = trace
        names = [site["name"] for site in latents(trace)]
        self.sites = [_Site(owner, self.layout, trace.nodes[n], again.nodes[n]) for n in names]
        self.dim = sum(site.dim for site in self.sites)
        self._check_coverage()

    def draw(self, num_chains: int, args: tuple[Any, ...]) -> Tensor:
        """u from the start, ``(num_chains, batch, dim)``."""
        trace = self.weigher.propose(num_chains, args)
        return self.pack({site.name: trace.nodes[site.name]["value"] for site in self.sites})

    def ends(self, u: Tensor, args: tuple[Any, ...]) -> PathDensities:
        """Both log-densities at u, ``(num_chains, batch, dim)``; differentiable."""
        num_chains = len(u)
        values, log_det = self.unpack(u)
        trace = self.trace.copy()
        for name, value in values.items():
            trace.nodes[name] = {**trace.nodes[name], "value": value}
        density = self.weigher.density(num_chains, args, trace)
        start = density.log_prior if self.start == "prior" else self.weigher.log_guide(num_chains, args, trace)
        return PathDensities(start + log_det, density.log_likelihood + density.log_prior + log_det)

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """The sites' values, ``(num_chains, *plates, *event)``, as u."""
        return torch.cat([site.pack(values[site.name]) for site in self.sites], -1)

    def unpack(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """u as the sites' values, and the logarithm of what that map does to volumes, ``(num_chains, batch)``."""
        parts = u.split([site.dim for site in self.sites], -1)
        found = {site.name: site.unpack(part) for site, part in zip(self.sites, parts, strict=True)}
        log_det = sum((log_det for _, log_det in found.values()), torch.zeros(()))
        return {name: value for name, (value, _) in found.items()}, log_det

    def has_supports_of(self, other: LatentDensity) -> bool:
        """Whether the sites' supports are those of another batch's."""
        return all(_same(one.support, two.support) for one, two in zip(self.sites, other.sites, strict=True))

    def _check_latents(self) -> None:
        if not latents(self.weigher.pair.guide_traces[0]):
            rule, what = "the model must have latent sites, or there is nothing to anneal", "none"
            raise refusal(self.owner, rule, what, "Use log_likelihood, which is then exact")
        if self.weigher.order is not None:
            rule, what = "the plate of the data must have them in their order", "another subsample"
            raise refusal(self.owner, rule, what, "Pass the data in the order of the plate")

    def _check_coverage(self) -> None:
        """Chains that start from a guide stay where it has a density."""
        for site in self.sites:
            model = self.weigher.model_trace.nodes[site.name]["fn"]
            if self.start == "guide" and not _same(site.support, model.support):
                what = f"site {site.name!r} on {site.support} in the guide and on {model.support} in the model"
                rule = "the guide that chains start from must have the model's support"
                raise refusal(self.owner, rule, what, "Use start='prior'")

    def _check_start(self, guide: Program | None) -> None:
        if self.start not in ("prior", "guide") or (self.start == "guide" and guide is None):
            raise ValueError(
                f"{self.owner}: start must be 'prior', or 'guide' where there is one, got start={self.start!r}"
                f"{', guide=None' if guide is None else ''}. Use 'prior'."
            )


class _Site:
    """One latent site and its part of u."""

    def __init__(self, owner: str, layout: Layout, site: Any, again: Any) -> None:
        self.name, fn = site["name"], site["fn"]
        self.support = _support(owner, site, again)
        self.transform: Transform = biject_to(self.support)
        # The plates after that of the samples, each with its size or 1, then the event.
        value = site["value"]
        batch = value.shape[: value.dim() - fn.event_dim]
        self.plates = (1,) * (layout.depth + 1 - len(batch)) + tuple(batch)
        self.plates, self.event = self.plates[1:], tuple(value.shape[value.dim() - fn.event_dim :])
        (data_dim,) = layout.dims
        self.data = layout.depth + data_dim  # which of the plates
        free = self.transform.inverse_shape((*self.plates, *self.event))
        self.free_event = tuple(free[len(self.plates) :])
        self.dim = math.prod(free) // self.plates[self.data]

    def pack(self, value: Tensor) -> Tensor:
        """``(K, *plates, *event)`` to ``(K, batch, dim)``."""
        value = value.reshape(len(value), *self.plates, *self.event)
        free = self.transform.inv(value).movedim(1 + self.data, 1)
        return free.reshape(*free.shape[:2], -1)

    def unpack(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse, with the log-determinant summed to ``(K, batch)``."""
        others = (*self.plates[: self.data], *self.plates[self.data + 1 :])
        free = u.reshape(*u.shape[:2], *others, *self.free_event).movedim(1, 1 + self.data)
        value = self.transform(free)
        log_det = self.transform.log_abs_det_jacobian(free, value).movedim(1 + self.data, 1)
        return value, log_det.reshape(*u.shape[:2], -1).sum(-1)


def _prior(model: Program) -> Program:
    """The model's prior without the sites that are summed out."""

    def summed(msg: Any) -> bool:
        return msg["type"] == "sample" and (msg["is_observed"] or is_enumerated(msg))

    return poutine.block(prior_proposal(model), hide_fn=summed)


def _support(owner: str, site: Any, again: Any) -> constraints.Constraint:
    """The support of a continuous site.

    Raises:
        ValueError: it is discrete, is not known, or differs between two runs.
    """
    name = f"site {site['name']!r}"
    if site["infer"].get("is_auxiliary"):
        rule = "chains that start from a guide need its density at any z"
        raise refusal(owner, rule, f"the auxiliary {name}", "Use start='prior'")
    try:
        supports = [s["fn"].support for s in (site, again)]
        if not supports[0].is_discrete:
            biject_to(supports[0])
    except NotImplementedError:
        what = f"{name} with a {type(site['fn']).__name__}"
        raise refusal(owner, "a latent site must have a known support", what, "Use log_likelihood") from None
    if supports[0].is_discrete:
        advice = 'Mark it with infer={"enumerate": "parallel"} and leave it out of the guide, or use log_likelihood'
        raise refusal(owner, "latent sites must be continuous", f"the discrete {name}", advice)
    if not _same(*supports) or not _uniform(supports[0]):
        rule = "the support of a latent site must not depend on other sites or on the data"
        raise refusal(owner, rule, f"{name} with {supports[0]}", "Rescale it: draw it from a fixed interval")
    return supports[0]


def _uniform(support: Any) -> bool:
    """Whether the bounds are the same for every datum."""
    if isinstance(support, constraints.independent):
        return _uniform(support.base_constraint)
    bounds = [value for value in vars(support).values() if isinstance(value, Tensor)]
    return all(bool((value == value.flatten()[0]).all()) for value in bounds)


def _same(one: Any, other: Any) -> bool:
    """Whether two constraints are one, their bounds included."""
    if isinstance(one, constraints.independent):
        return isinstance(other, constraints.independent) and _same(one.base_constraint, other.base_constraint)
    if type(one) is not type(other):
        return False
    pairs = [(value, vars(other)[key]) for key, value in vars(one).items() if isinstance(value, Tensor | float | int)]
    return all(_equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers of both are one; the last batch may be shorter."""
    return bool((one.flatten()[0] == one).all() and (one.flatten()[0] == other).all())

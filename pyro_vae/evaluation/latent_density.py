"""Start and target log densities of a model-guide pair on unconstrained latents, for AIS and HMC."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from pyro_vae._core.checks import check_choice, refusal, require
from pyro_vae._core.layout import Layout
from pyro_vae._core.owners import Owners
from pyro_vae._core.traces import is_auxiliary, latents
from pyro_vae._core.types import Program
from pyro_vae.evaluation.joint_density import Density, is_enumerated
from pyro_vae.evaluation.proposals import prior_proposal
from pyro_vae.evaluation.weights import ImportanceWeights

Start = Literal["prior", "guide"]


class PathDensities(NamedTuple):
    """Log-densities at both ends of an annealing path, each ``(num_chains, batch)``, in nats."""

    start: Tensor
    """Normalised log-density of the distribution that chains start from."""
    target: Tensor
    """log p(x, z)."""


class LatentDensity:
    """The latents of a Pyro model as vectors u in R^D per datum, with the densities at both ends of a path.

    Positive, bounded and simplex-valued sites are mapped to the reals, and both densities are those of u, so that their
    ratio does not change. Discrete sites that the model marks for enumeration are summed out.

    Args:
        owner: name that messages begin with.
        model: Pyro model with observed sites.
        guide: Pyro guide for it. Its latent sites are checked; its density is used only if the path starts from it.
            May be None if the path starts from the prior.
        args: a batch of data, as arguments of both programs.
        start: distribution that chains start from.
        data_plate: name of the plate over the data, if several plates contain all sites.
        owners: the programs' modules, if known.

    Raises:
        ValueError: a latent site is discrete, its support is unknown or depends on other sites, the guide's density
            cannot be evaluated at any z, or :class:`~pyro_vae.evaluation.ImportanceWeights` raises.

    Attributes:
        weights: log-weights of the proposal that chains start from.
        sites: the latent sites in the order in which u concatenates them.
        dim: number of unconstrained latent dimensions of a datum D.
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
        options: dict[str, Any] = {"data_plate": data_plate, "owner": owner, "owners": owners}
        self._check_start(guide)
        if guide is not None:  # for its checks, whatever the start
            self.weights = ImportanceWeights(model, guide, args, **options)
        if guide is None or start == "prior":
            self.weights = ImportanceWeights(model, _prior(model), args, **options)
        self.layout = self.weights.layout
        self._check_latents()
        self.weights.check_repeatable(args, guide=start == "guide")
        with torch.no_grad(), poutine.block():
            trace, again = (self.weights.propose(1, args) for _ in range(2))
        self.trace = trace
        names = [site["name"] for site in latents(trace)]
        self.sites = [LatentSite(owner, self.layout, trace.nodes[n], again.nodes[n]) for n in names]
        self.dim = sum(site.dim for site in self.sites)
        self._check_coverage()

    def sample(self, num_chains: int, args: tuple[Any, ...]) -> Tensor:
        """Samples of the distribution that chains start from, ``(num_chains, batch, dim)``."""
        trace = self.weights.propose(num_chains, args)
        return self.pack({site.name: trace.nodes[site.name]["value"] for site in self.sites})

    def log_densities(self, u: Tensor, args: tuple[Any, ...]) -> PathDensities:
        """Both log-densities at u, ``(num_chains, batch, dim)``; differentiable."""
        trace, log_det = self._at(u)
        density = self.weights.density(len(u), args, trace)
        start = density.log_prior if self.start == "prior" else self.weights.log_guide(len(u), args, trace)
        return PathDensities(start + log_det, density.log_likelihood + density.log_prior + log_det)

    def log_terms(self, u: Tensor, args: tuple[Any, ...]) -> tuple[Density, Tensor]:
        """log p(x | z) and log p(z) at u, ``(num_chains, batch, dim)``, and the log-determinant of the map to z."""
        trace, log_det = self._at(u)
        return self.weights.density(len(u), args, trace), log_det

    def _at(self, u: Tensor) -> tuple[Trace, Tensor]:
        """A trace with the sites' values at u, and the log-determinant, ``(num_chains, batch)``."""
        values, log_det = self.unpack(u)
        trace = self.trace.copy()
        for name, value in values.items():
            trace.nodes[name] = {**trace.nodes[name], "value": value}
        return trace, log_det

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """The sites' values, ``(num_chains, *plates, *event)``, as u."""
        return torch.cat([site.pack(values[site.name]) for site in self.sites], -1)

    def unpack(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The sites' values at u, and the log-determinant of the map from u to them, ``(num_chains, batch)``."""
        pairs = zip(self.sites, u.split([site.dim for site in self.sites], -1), strict=True)
        unpacked = {site.name: site.unpack(entries) for site, entries in pairs}
        log_det = sum((log_det for _, log_det in unpacked.values()), torch.zeros(()))
        return {name: value for name, (value, _) in unpacked.items()}, log_det

    def check_supports(self, earlier: LatentDensity | None) -> None:
        """Require the supports of an earlier batch, which a recording of its densities contains.

        Raises:
            ValueError: the support of a latent site is another one.
        """
        pairs = zip(self.sites, [] if earlier is None else earlier.sites, strict=earlier is not None)
        if not all(_same_support(one.support, two.support) for one, two in pairs):
            rule = "the support of a latent site must be the same for every batch"
            raise refusal(self.owner, rule, "another one", "Rescale it: sample it from a fixed interval")

    def _check_latents(self) -> None:
        if not latents(self.weights.pair.guide_traces[0]):
            rule = "the model must have latent sites to anneal"
            raise refusal(self.owner, rule, "none", "Use log_likelihood, which is then exact")
        if self.weights.order is not None:
            rule = "the plate must hold the data in the order of the batch"
            raise refusal(self.owner, rule, "another subsample", "Pass the data in the order of the plate")

    def _check_coverage(self) -> None:
        """Require the model's support of a guide that chains start from, which they cannot leave."""
        for site in self.sites:
            model = self.weights.model_trace.nodes[site.name]["fn"]
            if self.start == "guide" and not _same_support(site.support, model.support):
                got = f"site {site.name!r} on {site.support} in the guide and on {model.support} in the model"
                rule = "the guide that chains start from must have the model's support"
                raise refusal(self.owner, rule, got, "Use start='prior'")

    def _check_start(self, guide: Program | None) -> None:
        check_choice(self.owner, "start", self.start, ("prior", "guide"))
        missing = self.start == "guide" and guide is None
        require(not missing, self.owner, "there must be a guide for start='guide'", "guide=None", "Use start='prior'")


class LatentSite:
    """One latent site, with the map between its values and its entries of u."""

    def __init__(self, owner: str, layout: Layout, site: Any, again: Any) -> None:
        self.name, fn = site["name"], site["fn"]
        self.support = _support(owner, site, again)
        self.transform: Transform = biject_to(self.support)
        # Sizes of the plates to the right of that of the samples, 1 for a plate that the value does not have.
        value = site["value"]
        batch = value.shape[: value.dim() - fn.event_dim]
        self.plates = (1,) * (layout.depth + 1 - len(batch)) + tuple(batch)
        self.plates, self.event = self.plates[1:], tuple(value.shape[value.dim() - fn.event_dim :])
        (data_dim,) = layout.dims
        self.data = layout.depth + data_dim  # index of the data plate
        free = self.transform.inverse_shape((*self.plates, *self.event))
        self.free_event = tuple(free[len(self.plates) :])
        self.dim = math.prod(free) // self.plates[self.data]

    def pack(self, value: Tensor) -> Tensor:
        """``(K, *plates, *event)`` to ``(K, batch, dim)``."""
        value = value.reshape(len(value), *self.plates, *self.event)
        free = self.transform.inv(value).movedim(1 + self.data, 1)
        return free.reshape(*free.shape[:2], -1)

    def unpack(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`pack`, with the log-determinant, ``(K, batch)``."""
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
    """The support of a continuous site, from two runs.

    Raises:
        ValueError: the site is discrete, or its support is unknown or differs between the runs.
    """
    name = f"site {site['name']!r}"
    if is_auxiliary(site):
        rule = "chains that start from a guide need its density at any z"
        raise refusal(owner, rule, f"the auxiliary {name}", "Use start='prior'")
    try:
        supports = [s["fn"].support for s in (site, again)]
        if not supports[0].is_discrete:
            biject_to(supports[0])
    except NotImplementedError:
        got = f"{name} with a {type(site['fn']).__name__}"
        raise refusal(owner, "a latent site must have a known support", got, "Use log_likelihood") from None
    if supports[0].is_discrete:
        advice = 'Mark it with infer={"enumerate": "parallel"} and omit it from the guide, or use log_likelihood'
        raise refusal(owner, "latent sites must be continuous", f"the discrete {name}", advice)
    if not _same_support(*supports) or not _has_equal_bounds(supports[0]):
        rule = "the support of a latent site must not depend on other sites or on the data"
        raise refusal(owner, rule, f"{name} with {supports[0]}", "Rescale it: draw it from a fixed interval")
    return supports[0]


def _has_equal_bounds(support: Any) -> bool:
    """Whether the bounds are the same for every datum."""
    if isinstance(support, constraints.independent):
        return _has_equal_bounds(support.base_constraint)
    bounds = [value for value in vars(support).values() if isinstance(value, Tensor)]
    return all(bool((value == value.flatten()[0]).all()) for value in bounds)


def _same_support(one: Any, other: Any) -> bool:
    """Whether two constraints are the same, their bounds included."""
    if isinstance(one, constraints.independent):
        return isinstance(other, constraints.independent) and _same_support(one.base_constraint, other.base_constraint)
    if type(one) is not type(other):
        return False
    pairs = [(value, vars(other)[key]) for key, value in vars(one).items() if isinstance(value, Tensor | float | int)]
    return all(_equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all entries of both are the same number; the last batch may be shorter."""
    return bool((one.flatten()[0] == one).all() and (one.flatten()[0] == other).all())

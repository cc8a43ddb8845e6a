"""The one engine for log-weights: log p(x, z) - log q(z | x) per datum, for any Pyro model and guide.

Everything that is measured (ELBO, log-likelihood, effective sample size, Pareto k) is read off these weights. Pyro's
own ``vectorized_importance_weights`` returns one weight for the whole batch; here every datum has its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.axes import candidates, signature
from pyro_vae._core.checks import refusal
from pyro_vae._core.contexts import is_tracing, isolated_rng
from pyro_vae._core.failures import one_line
from pyro_vae._core.masks import hides, is_masked
from pyro_vae._core.owners import Owners, placement
from pyro_vae._core.pair import Pair
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.rows import row_order
from pyro_vae._core.runs import run
from pyro_vae._core.support import covers
from pyro_vae._core.traces import (
    check_densities,
    check_observation,
    check_plates,
    check_shape,
    check_sites,
    follows,
    latents,
    observations,
    sites,
)
from pyro_vae._core.types import Program
from pyro_vae._core.ways import Runs, choose, one_draw
from pyro_vae.data.batches import arguments
from pyro_vae.evaluation.joint_density import Density, Joint, summed_sites


class LogWeights(NamedTuple):
    """Log importance weights and the two parts they are the sum of, each ``(num_samples, batch)``, in nats."""

    log_likelihood: Tensor
    """log p(x | z), all observed sites."""
    log_ratio: Tensor
    """log p(z) - log q(z | x), all latent sites; its negative mean is the rate."""

    @property
    def total(self) -> Tensor:
        """log p(x, z) - log q(z | x)."""
        return self.log_likelihood + self.log_ratio


class ImportanceWeights:
    """Draws log-weights of one batch; the structure of the programs is examined once.

    Args:
        model: Pyro model with observed sites, called as ``model(*args)``. Discrete latent sites that it marks with
            ``infer={"enumerate": "parallel"}`` and the guide does not sample are summed out.
        guide: Pyro guide or any proposal for the model's latent sites, called as ``guide(*args)``; or several of them,
            whose mixture in equal parts is the proposal.
        args: what all are called with: a batch of data.
        data_plate: name of the plate that ranges over the data; needed only where several plates hold all sites.
        owner: name to begin messages with.
        owners: of the programs, if they are known.
        ways: how the programs run for batches of each shape, which is found out once; shared by the batches of an
            evaluation.

    Raises:
        ValueError: weights per datum cannot be formed: a site outside the plate of the data, a sequential or a randomly
            subsampled plate, a latent site that the guide does not sample, a guide site that the model does not have.

    Attributes:
        pair: the programs as examined on the batch.
        plate: that of the data, as a frame.
        order: the order of the data in their plate, if it is another than that of the batch.
        joint: the model's density at given latents.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8. https://arxiv.org/abs/1509.00519
        Optimally combining sampling techniques for Monte Carlo rendering (Veach and Guibas, 1995), section 3: the
        mixture's density as every draw's weight (balance heuristic). https://doi.org/10.1145/218380.218498
    """

    def __init__(
        self,
        model: Program,
        guide: Program | Sequence[Program],
        args: tuple[Any, ...],
        *,
        data_plate: str | None = None,
        owner: str = "log_weights",
        owners: Owners | None = None,
        ways: dict[Any, Runs] | None = None,
    ) -> None:
        self.model, self.guides, self.args, self.owner = model, guides_of(guide), args, owner
        self._ways = {} if ways is None else ways
        self._shape = signature(args, {})
        with one_line(owner, args, model, *self.guides):
            self._examine(owners, data_plate)

    def _examine(self, owners: Owners | None, data_plate: str | None) -> None:
        owner, args = self.owner, self.args
        self.pair = pair = Pair(owner, self.model, self.guides, args, owners=owners)
        summed = summed_sites(pair.model_trace, pair.guide_traces[0])
        for guide_trace in pair.guide_traces:
            check_sites(
                owner, pair.model_trace, guide_trace, summed=summed, outside=pair.outside, following=pair.following
            )
            self._check_mixture(guide_trace)
        tensors = [x for x in tree_flatten(args)[0] if isinstance(x, Tensor) and x.dim()]
        for trace in pair.traces:
            check_plates(owner, trace, sizes={x.shape[0] for x in tensors})
        self.plate = plate = _data_plate(owner, pair.plates(), data_plate)
        self.layout = pair.layout((plate.dim,), "vectorised")
        for guide_trace in pair.guide_traces:
            check_densities(owner, guide_trace)
        self._check_shapes()
        self._check_length(plate, data_plate)
        self.model_trace, self.order = pair.model_trace, row_order(pair, plate)
        self.joint = Joint(self.layout, pair.model_trace, summed)
        if len(self.guides) > 1:
            self.check_repeatable(args, guide=True, model=False)

    def _check_shapes(self) -> None:
        # On the runs without samples: with their plate, (data, data) may pass for (samples, data).
        for site in self.pair.traces[0].nodes.values():
            check_observation(self.owner, site, self.layout.dims)
        for site in [s for trace in self.pair.traces for s in sites(trace) if s["name"] not in self.pair.blocks]:
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            check_shape(self.owner, site, log_prob)

    def _check_length(self, plate: Any, named: str | None) -> None:
        """The plate holds the data that are passed: all of them, and no other thing."""
        leaves = [x for x in tree_flatten(self.args)[0] if isinstance(x, Tensor) and x.dim()]
        if named is None and leaves and next(candidates(self.args, {}, self.num_data), None) is None:
            what = f"plate {plate.name!r} of size {self.num_data} and arguments {[tuple(x.shape) for x in leaves]}"
            rule = "the plate of the data must have the length of the batch"
            raise self._refusal(rule, what, "Pass the data of the plate, or data_plate=NAME")

    def runs(self, num_samples: int) -> Runs:
        """How the programs run for so many draws of each datum; found out at the first call."""
        key = self._shape, num_samples == 1
        if key not in self._ways:
            plates = [self.plate]
            single = num_samples == 1
            self._ways[key] = one_draw(self.pair, plates) if single else choose(self.pair, plates, self._densities)
        return self._ways[key]

    def _densities(self, runs: Runs, latent: Trace, num_samples: int) -> Tensor:
        density = self.joint(runs, num_samples, self.args, latent)
        prior = density.log_prior if density.log_prior.dim() else torch.zeros_like(density.log_likelihood)
        return torch.stack([density.log_likelihood, prior.expand_as(density.log_likelihood)])

    @property
    def num_data(self) -> int:
        """Number of data of the batch."""
        return self.pair.size(self.plate)

    def check_coverage(self) -> None:
        """Refuse a guide that cannot reach all values of a latent: what it leaves out would not be counted.

        Raises:
            ValueError: the message names the site.
        """
        model = {site["name"]: site["fn"] for site in latents(self.model_trace)}
        for site in (site for trace in self.pair.guide_traces for site in latents(trace) if site["name"] in model):
            other = model[site["name"]]
            if len(self.guides) == 1 and not follows(self.pair.guide_traces[0]) and not covers(site["fn"], other):
                what = f"site {site['name']!r} on {site['fn'].support} in the guide and on {other.support} in the model"
                raise self._refusal("the guide must have all of the model's support", what, "Use a wider guide")

    @property
    def discrete(self) -> bool:
        """Whether every observed site is discrete, so that the log-likelihood is that of a probability."""
        return self.pair.discrete

    def protocol(self, num_samples: int) -> dict[str, Any]:
        """What a protocol says of the data, and of the way in which so many draws run if that is not the usual one.

        Its entries: dtype, observed values of a datum, whether log-likelihoods are those of probabilities, way.
        """
        values = [site["value"] for site in observations(self.model_trace) if isinstance(site["value"], Tensor)]
        dtype = str(values[0].dtype).removeprefix("torch.")
        way = self.runs(num_samples).way
        usual = way == "vectorised" or num_samples == 1
        found = {"dtype": dtype, "dimensions": self.pair.num_values(self.plate), "discrete": self.discrete}
        return found if usual else {**found, "way": way}

    def __call__(self, num_samples: int) -> LogWeights:
        """Draw ``num_samples`` latents per datum and return their log-weights; differentiable."""
        return self.in_order(self.draw(num_samples, *self.args))

    def in_order(self, weights: LogWeights) -> LogWeights:
        """The weights' columns in the order of the batch."""
        if self.order is None:
            return weights
        columns = self.order.argsort()
        return LogWeights(*(part[:, columns] for part in weights))

    def draw(self, num_samples: int, *args: Any) -> LogWeights:
        """The same for another batch of the same shape, in the order of the data's plate."""
        return self.draw_latents(num_samples, args)[0]

    def draw_latents(self, num_samples: int, args: tuple[Any, ...]) -> tuple[LogWeights, Trace]:
        """The weights with the latents that they belong to, ``(num_samples, *plates, *event)``."""
        runs = self.runs(num_samples)
        with no_registration():
            if len(self.guides) == 1 and not self.joint.summed:  # no detour over one form for all ways
                own = runs.guide(self.guides[0], num_samples, args, {})
                traces = run(
                    self.model, runs.model_layout, runs.axes, num_samples, args, {}, at=runs.at(own, num_samples)
                )
                latent, log_q = runs.in_front(own, num_samples), runs.log_guide(own, num_samples, traces)
            else:
                latent, log_q = self._proposed(runs, num_samples, args)
                traces = self.joint.traces(runs, num_samples, args, latent)
        density = self.joint.read(runs, num_samples, traces)
        ratio = density.log_prior - log_q
        return LogWeights(density.log_likelihood, ratio.expand_as(density.log_likelihood)), latent

    def _proposed(self, runs: Runs, num_samples: int, args: tuple[Any, ...]) -> tuple[Trace, Tensor]:
        traces = [runs.guide(guide, num_samples, args, {}) for guide in self.guides]
        if len(traces) == 1:
            return runs.in_front(traces[0], num_samples), self._own(runs, traces[0], num_samples)
        latent = self._choose(num_samples, [runs.in_front(own, num_samples) for own in traces])
        return latent, self.log_guide(num_samples, args, latent)

    def _own(self, runs: Runs, traces: list[Trace], num_samples: int) -> Tensor:
        self._check_unmasked(traces[0])
        return runs.log_guide(traces, num_samples)

    def propose(self, num_samples: int, args: tuple[Any, ...]) -> Trace:
        """Latents from the proposal, as a trace of values ``(num_samples, *plates, *event)``."""
        runs = self.runs(num_samples)
        found = [runs.in_front(runs.guide(guide, num_samples, args, {}), num_samples) for guide in self.guides]
        return found[0] if len(found) == 1 else self._choose(num_samples, found)

    def density(self, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Density:
        """The model's density at latents ``(num_samples, *plates, *event)``."""
        with no_registration():
            return self.joint(self.runs(num_samples), num_samples, args, latent)

    def check_repeatable(self, args: tuple[Any, ...], *, guide: bool = False, model: bool = True) -> None:
        """Refuse programs whose density at given latents changes from run to run, where that would make it wrong.

        Args:
            args: a batch.
            guide: whether to examine the guides: their density is asked for at latents that another run drew.
            model: whether to examine the model.

        Raises:
            ValueError: they are random inside.
        """
        with torch.no_grad(), isolated_rng():
            trace = self.propose(1, args)
            for name, asked in (("model", model), ("guide", guide)):
                runs = [self._density_of(name, args, trace) for _ in range(2)] if asked else []
                if asked and not torch.allclose(runs[0], runs[1], rtol=1e-4, equal_nan=True):
                    advice = "Put its modules in eval mode" if name == "model" else "Use the guide by itself"
                    rule = f"the {name} must have one density at one z"
                    advice = f"{advice}, or draw no random numbers in it"
                    raise refusal(self.owner, rule, "another one at every run", advice)

    def _density_of(self, name: str, args: tuple[Any, ...], trace: Trace) -> Tensor:
        if name == "guide":
            return self.log_guide(1, args, trace)
        density = self.density(1, args, trace)
        return density.log_likelihood + density.log_prior

    def log_guide(self, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Tensor:
        """Log-density of the proposal at latents ``(num_samples, *plates, *event)``: ``(num_samples, batch)``."""
        runs, densities = self.runs(num_samples), []
        for guide in self.guides:
            with no_registration():
                own = runs.guide(guide, num_samples, args, {}, at=latent)
            densities.append(self._own(runs, own, num_samples))
        return torch.stack(densities).logsumexp(0) - math.log(len(densities))

    def _choose(self, num_samples: int, latents_of: list[Trace]) -> Trace:
        """For each sample and datum the latents of one guide, drawn in equal parts."""
        chosen, latent = latents_of[0].copy(), latents(latents_of[0])
        like, layout = latent[0]["value"], self.layout
        size = num_samples, like.shape[1 + layout.depth + layout.dims[0]]
        index = torch.randint(len(latents_of), size, device=like.device)  # (K, B)
        for site in latent:
            value = site["value"]
            for number, trace in enumerate(latents_of[1:], 1):
                here = layout.spread(site, index == number, event_dim=site["fn"].event_dim)
                value = torch.where(here, trace.nodes[site["name"]]["value"], value)
            chosen.nodes[site["name"]] = {**site, "value": value}
        return chosen

    def _check_mixture(self, guide_trace: Trace) -> None:
        auxiliary = [s["name"] for s in latents(guide_trace) if s["infer"].get("is_auxiliary")]
        if len(self.guides) > 1 and auxiliary:
            rule = "guides that are mixed must have a density at any z"
            raise self._refusal(rule, f"the auxiliary sites {auxiliary}", "Leave that guide out of the mixture")

    def _check_unmasked(self, guide_trace: Trace) -> None:
        for site in latents(guide_trace):
            if is_masked(site) and not is_tracing() and hides(site):
                rule = "a guide whose density is asked for at other draws must not be masked"
                raise self._refusal(rule, f"a mask at site {site['name']!r}", "Mask the model alone")

    def _refusal(self, rule: str, given: Any, advice: str) -> ValueError:
        return refusal(self.owner, rule, given, advice)


def guides_of(guide: Program | Sequence[Program]) -> tuple[Program, ...]:
    """One guide or several as a tuple.

    Raises:
        ValueError: an empty sequence.
    """
    found = (guide,) if callable(guide) else tuple(guide) if isinstance(guide, Sequence) else ()
    if not found or not all(map(callable, found)):
        empty = isinstance(guide, Sequence) and not guide
        what = "an empty list" if empty else f"a {type(guide).__name__}"
        raise refusal("log_weights", "there must be a guide", what, "Pass one, or prior_proposal(model)")
    return found


def log_weights(
    model: Program, guide: Program | Sequence[Program], x: Any, num_samples: int = 1, *, data_plate: str | None = None
) -> Tensor:
    r"""Log importance weights per datum, :math:`\log p(x, z_k) - \log q(z_k | x)`, :math:`z_k \sim q(z | x)`.

    Any scaling by plates or ``poutine.scale`` is left out, masks are kept. Differentiable.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide, or any proposal for the latent sites; or several, to be mixed in equal parts.
        x: the batch that both are called with; a tuple for several arguments.
        num_samples: number of latents per datum K.
        data_plate: name of the plate over the data, where it is not the only one that holds all sites.

    Returns:
        ``(num_samples, batch)``, in nats.

    Raises:
        ValueError: the programs have no weights per datum; the message names the site.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8. https://arxiv.org/abs/1509.00519

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> log_weights(vae.model, vae.guide, torch.ones(7, 5), num_samples=3).shape
        torch.Size([3, 7])
    """
    device, dtype = placement(model, *guides_of(guide))
    args = arguments(x if isinstance(x, tuple) else (x,), device, dtype)
    weigher = ImportanceWeights(model, guide, args, data_plate=data_plate)
    weigher.check_coverage()
    return weigher(num_samples).total


def prior_proposal(model: Program) -> Program:
    r"""The naive proposal: draws the latent sites from the model's own prior, :math:`q(z | x) = p(z)`.

    With it the estimate of log p(x) is the logarithm of the mean of p(x | z) over prior draws: unbiased before the
    logarithm, and of a variance that grows exponentially with the information that x holds about z. A baseline.

    Args:
        model: Pyro model with observed sites.

    Returns:
        A guide for that model.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> log_weights(vae.model, prior_proposal(vae.model), torch.ones(7, 5), num_samples=3).shape
        torch.Size([3, 7])
    """
    proposal: Any = poutine.block(model, hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"])
    proposal.proposal_name = "prior"  # in protocols
    return proposal


def _data_plate(owner: str, shared: dict[str, list[Any]], name: str | None) -> Any:
    if name is not None and name not in shared:
        rule = "every site must be within the plate of the data"
        raise refusal(owner, rule, f"data_plate={name!r}", "Name another plate")
    if name is None and len(shared) > 1:
        raise refusal(owner, "the plate of the data must be known", f"plates {sorted(shared)}", "Pass data_plate=NAME")
    return shared[name or min(shared)][0]

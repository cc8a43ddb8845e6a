"""Log importance weights, log p(x, z) - log q(z | x), per datum, for any Pyro model and guide.

ELBO, log-likelihood, effective sample size, Pareto k and the inference gaps are all computed from these weights. Pyro's
own ``vectorized_importance_weights`` returns one weight for the whole batch; here every datum has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pyro_vae._core.axes import candidates, signature
from pyro_vae._core.checks import CheckedArguments, check_arguments, refusal
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.failures import program_errors
from pyro_vae._core.modes import Runs, choose, for_one_sample
from pyro_vae._core.owners import Owners, placement
from pyro_vae._core.pair import Pair
from pyro_vae._core.param_store import no_registration
from pyro_vae._core.rows import row_order
from pyro_vae._core.runs import run
from pyro_vae._core.support import covers, support_of
from pyro_vae._core.trace_checks import (
    check_densities,
    check_log_prob_shapes,
    check_observation,
    check_plates,
    check_sites,
)
from pyro_vae._core.traces import follows, latents, observations, sites
from pyro_vae._core.types import Program
from pyro_vae.data.batches import arguments
from pyro_vae.evaluation.joint_density import Density, Joint, summed_sites
from pyro_vae.evaluation.proposals import Proposal, guides_of


class LogWeights(NamedTuple):
    """Log importance weights as the sum of two terms, each ``(num_samples, batch)``, in nats."""

    log_likelihood: Tensor
    """log p(x | z), all observed sites."""
    log_ratio: Tensor
    """log p(z) - log q(z | x), all latent sites; its negative mean is the rate."""

    @property
    def total(self) -> Tensor:
        """log p(x, z) - log q(z | x)."""
        return self.log_likelihood + self.log_ratio


class ImportanceWeights(CheckedArguments):
    """Sampler of log-weights for one batch. The structure of the programs is examined once, at construction.

    Args:
        model: Pyro model with observed sites, called as ``model(*args)``. Discrete latent sites that it marks with
            ``infer={"enumerate": "parallel"}`` and the guide does not sample are summed out.
        guide: Pyro guide or any proposal for the model's latent sites, called as ``guide(*args)``; or several of them,
            whose equal mixture is the proposal.
        args: a batch of data, as arguments of the programs.
        data_plate: name of the plate over the data; needed only if several plates contain all sites.
        owner: name that messages begin with.
        owners: the programs' modules, if known.
        ways: the modes in which the programs run (:mod:`pyro_vae._core.modes`) by the batch's shape. Batches of one
            evaluation share this dictionary, so that each mode is determined once.

    Raises:
        ValueError: weights per datum cannot be formed: a site outside the data plate, a sequential or a randomly
            subsampled plate, a latent site that the guide does not sample, a guide site that the model does not have.

    Attributes:
        pair: the examination of the programs on the batch.
        plate: the plate over the data, as a frame.
        order: the datum of each row of the plate, if its order differs from that of the batch.
        joint: the model's density at given latents.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8. https://arxiv.org/abs/1509.00519
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
        with program_errors(owner, args, model, *self.guides):
            self._examine(owners, data_plate)

    def _examine(self, owners: Owners | None, data_plate: str | None) -> None:
        owner, args = self.owner, self.args
        self.pair = pair = Pair(owner, self.model, self.guides, args, owners=owners)
        self.model_trace, guide_traces = pair.model_trace, pair.guide_traces
        summed = summed_sites(pair.model_trace, guide_traces[0])
        for trace in guide_traces:
            check_sites(owner, pair.model_trace, trace, summed=summed, outside=pair.outside, following=pair.following)
        for trace in pair.traces:
            check_plates(owner, trace, sizes={x.shape[0] for x in self._tensors()})
        self.plate = _select_plate(owner, pair.plates(), data_plate)
        self.layout = pair.layout((self.plate.dim,), "vectorised")
        self._proposal = Proposal(owner, self.guides, guide_traces, self.layout)
        for trace in guide_traces:
            check_densities(owner, trace)
        self._check_shapes()
        if data_plate is None:
            self._check_length()
        self.order = row_order(pair, self.plate)
        self.joint = Joint(self.layout, pair.model_trace, summed)
        if self._proposal.is_mixture:
            self.check_repeatable(args, guide=True, model=False)

    def _tensors(self) -> list[Tensor]:
        return [x for x in tree_flatten(self.args)[0] if isinstance(x, Tensor) and x.dim()]

    def _check_shapes(self) -> None:
        # On the runs for one sample: with a particle dimension, a shape (data, data) may pass for (samples, data).
        for site in self.model_trace.nodes.values():
            check_observation(self.owner, site, self.layout.dims)
        traced = [s for trace in self.pair.traces for s in sites(trace) if s["name"] not in self.pair.blocks]
        check_log_prob_shapes(self.owner, traced)

    def _check_length(self) -> None:
        """Require a plate of the batch's length, which excludes plates over anything other than the data."""
        if self._tensors() and next(candidates(self.args, {}, self.num_data), None) is None:
            shapes = [tuple(x.shape) for x in self._tensors()]
            got = f"plate {self.plate.name!r} of size {self.num_data} and arguments {shapes}"
            rule = "the plate of the data must have the length of the batch"
            raise refusal(self.owner, rule, got, "Pass the data of the plate, or data_plate=NAME")

    def runs(self, num_samples: int) -> Runs:
        """The modes in which the programs run for this number of samples, determined at the first call."""
        key = self._shape, num_samples == 1
        if key not in self._ways:
            single = for_one_sample(self.pair, [self.plate]) if num_samples == 1 else None
            self._ways[key] = single or choose(self.pair, [self.plate], self._densities)
        return self._ways[key]

    def _densities(self, runs: Runs, latent: Trace, num_samples: int) -> Tensor:
        density = self.joint(runs, num_samples, self.args, latent)
        prior = density.log_prior if density.log_prior.dim() else torch.zeros_like(density.log_likelihood)
        return torch.stack([density.log_likelihood, prior.expand_as(density.log_likelihood)])

    @property
    def num_data(self) -> int:
        """Number of data of the batch."""
        return self.pair.size(self.plate)

    def protocol(self, num_samples: int) -> dict[str, Any]:
        """Protocol entries: dtype, observed values per datum, discreteness, and the mode if it is not vectorised."""
        values = [site["value"] for site in observations(self.model_trace) if isinstance(site["value"], Tensor)]
        dtype = str(values[0].dtype).removeprefix("torch.")
        entries = {"dtype": dtype, "dimensions": self.pair.num_values(self.plate), "discrete": self.pair.discrete}
        way = self.runs(num_samples).mode
        return entries if way == "vectorised" or num_samples == 1 else {**entries, "way": way}

    def check_coverage(self) -> None:
        """Require a guide that covers the support of every latent; values outside would be missing from p(x).

        Raises:
            ValueError: naming the site.
        """
        model = {site["name"]: site["fn"] for site in latents(self.model_trace)}
        for site in (site for trace in self.pair.guide_traces for site in latents(trace) if site["name"] in model):
            fn, other = site["fn"], model[site["name"]]
            if len(self.guides) == 1 and not follows(self.pair.guide_traces[0]) and not covers(fn, other):
                got = f"site {site['name']!r} on {support_of(fn)} in the guide and on {support_of(other)} in the model"
                rule = "the guide must have all of the model's support"
                raise refusal(self.owner, rule, got, "Use a wider guide")

    def check_repeatable(self, args: tuple[Any, ...], *, guide: bool = False, model: bool = True) -> None:
        """Require densities at given latents that do not change from run to run.

        Args:
            args: a batch.
            guide: check the guides, if their density is evaluated at latents of another run.
            model: check the model.

        Raises:
            ValueError: a program is random at given latents.
        """
        with torch.no_grad(), isolated_rng():
            latent = self.propose(1, args)
            if model:
                values = [sum(self.density(1, args, latent)) for _ in range(2)]
                self._check_equal("model", values, "Put its modules in eval mode")
            if guide:
                values = [self.log_guide(1, args, latent) for _ in range(2)]
                self._check_equal("guide", values, "Use the guide by itself")

    def _check_equal(self, name: str, values: Sequence[Any], advice: str) -> None:
        if not torch.allclose(values[0], values[1], rtol=1e-4, equal_nan=True):
            rule = f"the {name} must have one density at one z"
            raise refusal(self.owner, rule, "another one at every run", f"{advice}, or draw no random numbers in it")

    def __call__(self, num_samples: int) -> LogWeights:
        """Sample ``num_samples`` latents per datum and return their log-weights; differentiable."""
        return self.in_order(self.sample(num_samples, *self.args))

    def in_order(self, weights: LogWeights) -> LogWeights:
        """The weights with their columns in the order of the batch."""
        if self.order is None:
            return weights
        columns = self.order.argsort()
        return LogWeights(*(term[:, columns] for term in weights))

    def sample(self, num_samples: int, *args: Any) -> LogWeights:
        """Log-weights of another batch of the same shape, with their columns in the order of the data plate."""
        return self.sample_with_latents(num_samples, args)[0]

    def sample_with_latents(self, num_samples: int, args: tuple[Any, ...]) -> tuple[LogWeights, Trace]:
        """Log-weights and the latents that they belong to, ``(num_samples, *plates, *event)``."""
        runs, single = self.runs(num_samples), not self._proposal.is_mixture and not self.joint.summed
        with no_registration():
            if single:  # replay the model directly against the guide's traces, without stacking their latents
                guide_traces = runs.run_guide(self.guides[0], num_samples, args, {})
                at = runs.for_model(guide_traces, num_samples)
                traces = run(self.model, runs.model_layout, runs.axes, num_samples, args, {}, at=at)
                latent, log_q = runs.stack(guide_traces, num_samples), runs.log_guide(guide_traces, num_samples, traces)
            else:
                latent, log_q = self._proposal.sample_with_density(runs, num_samples, args)
                traces = self.joint.traces(runs, num_samples, args, latent)
        density = self.joint.read(runs, num_samples, traces)
        ratio = density.log_prior - log_q
        return LogWeights(density.log_likelihood, ratio.expand_as(density.log_likelihood)), latent

    def propose(self, num_samples: int, args: tuple[Any, ...]) -> Trace:
        """Latents from the proposal, as a trace of values ``(num_samples, *plates, *event)``."""
        return self._proposal.sample(self.runs(num_samples), num_samples, args)

    def density(self, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Density:
        """The model's density at latents ``(num_samples, *plates, *event)``."""
        with no_registration():
            return self.joint(self.runs(num_samples), num_samples, args, latent)

    def log_guide(self, num_samples: int, args: tuple[Any, ...], latent: Trace) -> Tensor:
        """Log-density of the proposal at latents ``(num_samples, *plates, *event)``: ``(num_samples, batch)``."""
        return self._proposal.log_prob(self.runs(num_samples), num_samples, args, latent)


def log_weights(
    model: Program, guide: Program | Sequence[Program], x: Any, num_samples: int = 1, *, data_plate: str | None = None
) -> Tensor:
    r"""Log importance weights per datum, :math:`\log p(x, z_k) - \log q(z_k | x)`, :math:`z_k \sim q(z | x)`.

    Scales of plates and of ``poutine.scale`` are left out; masks are kept. Differentiable.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide, or any proposal for the latent sites; or several, whose equal mixture is the proposal.
        x: the batch that both are called with; a tuple for several arguments.
        num_samples: number of latents per datum K.
        data_plate: name of the plate over the data, if several plates contain all sites.

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
    check_arguments(log_weights, locals(), num_samples=1)
    args = arguments(x if isinstance(x, tuple) else (x,), *placement(model, *guides_of(guide)))
    weights = ImportanceWeights(model, guide, args, data_plate=data_plate)
    weights.check_coverage()
    return weights(num_samples).total


def _select_plate(owner: str, plates: dict[str, list[Any]], name: str | None) -> Any:
    """The plate over the data, as a frame."""
    if name is not None and name not in plates:
        rule = "every site must be within the plate of the data"
        raise refusal(owner, rule, f"data_plate={name!r}", "Name another plate")
    if name is None and len(plates) > 1:
        raise refusal(owner, "the plate of the data must be known", f"plates {sorted(plates)}", "Pass data_plate=NAME")
    return plates[name or min(plates)][0]

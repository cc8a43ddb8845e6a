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
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.evaluation.joint import Joint, Program, repeated, summed_sites
from pyro_vae.evaluation.support import SupportCheck
from pyro_vae.isolation import isolated
from pyro_vae.param_store import no_registration
from pyro_vae.traces import (
    Layout,
    check_plates,
    check_shape,
    check_sites,
    depth_of,
    latents,
    observations,
    refusal,
    shared_plates,
    sites,
)


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


class Weigher:
    """Draws log-weights of one batch; the structure of the programs is examined once.

    Args:
        model: Pyro model with observed sites, called as ``model(*args)``. Discrete latent sites that it marks with
            ``infer={"enumerate": "parallel"}`` and the guide does not sample are summed out.
        guide: Pyro guide or any proposal for the model's latent sites, called as ``guide(*args)``; or several of them,
            whose mixture in equal parts is the proposal.
        args: what all are called with: a batch of data.
        data_plate: name of the plate that ranges over the data; needed only where several plates hold all sites.

    Raises:
        ValueError: weights per datum cannot be formed: a site outside the plate of the data, a sequential or a randomly
            subsampled plate, a latent site that the guide does not sample, a guide site that the model does not have.

    Attributes:
        discrete: whether every observed site is discrete, so that the log-likelihood is that of a probability.
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
    ) -> None:
        self.model, self.guides, self.args = model, guides_of(guide), args
        with torch.no_grad(), isolated(validate=is_validation_enabled()), SupportCheck("log_weights"):
            guide_traces = [self._guide_trace(g, None, args) for g in self.guides]
            model_trace = self._examine_model(guide_traces[0])
            summed = summed_sites(model_trace, guide_traces[0])
            for guide_trace in guide_traces:
                check_sites("log_weights", model_trace, guide_trace, summed=summed)
                self._check_mixture(guide_trace)
            for trace in (model_trace, *guide_traces):
                check_plates("log_weights", trace, random=False)
            plate = _data_plate(shared_plates("log_weights", model_trace, *guide_traces), data_plate)
            for site in [s for trace in (model_trace, *guide_traces) for s in sites(trace)]:
                # Here, without the samples' plate: with it, (data, data) may pass for (samples, data).
                log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
                check_shape("log_weights", site, log_prob)
        self.layout = Layout("log_weights", depth_of(model_trace, *guide_traces), (plate.dim,))
        if data_plate is None and isinstance(args[0], Tensor) and plate.size != len(args[0]):
            what = f"plate {plate.name!r} of size {plate.size} and a batch of {len(args[0])}"
            raise _refusal("the plate of the data must have the length of the batch", what, "Pass data_plate=NAME")
        self.model_trace = model_trace
        self.joint = Joint(model, self.layout, model_trace, summed)
        if len(self.guides) > 1:
            self.check_repeatable("log_weights", args, guide=True, model=False)
        self.discrete = all(_is_discrete(site["fn"]) for site in observations(model_trace))

    def __call__(self, num_samples: int) -> LogWeights:
        """Draw ``num_samples`` latents per datum and return their log-weights; differentiable."""
        return self.draw(num_samples, *self.args)

    def draw(self, num_samples: int, *args: Any) -> LogWeights:
        """The same for another batch of the same shape."""
        with no_registration():
            trace, log_q = self.propose(num_samples, args)
            density = self.joint(num_samples, args, trace)
        return LogWeights(density.log_likelihood, density.log_prior - log_q)

    def propose(self, num_samples: int, args: tuple[Any, ...]) -> tuple[Trace, Tensor]:
        """Latents from the proposal, as a trace, and their log-density, ``(num_samples, batch)``."""
        traces = [self._guide_trace(guide, num_samples, args) for guide in self.guides]
        if len(traces) == 1:
            return traces[0], self.layout.sum(num_samples, sites(traces[0]))
        trace = self._choose(num_samples, traces)
        return trace, self.log_guide(num_samples, args, trace)

    def check_repeatable(self, owner: str, args: tuple[Any, ...], *, guide: bool = False, model: bool = True) -> None:
        """Refuse programs whose density at given latents changes from run to run, where that would make it wrong.

        Args:
            owner: name to begin the message with.
            args: a batch.
            guide: whether to examine the guides: their density is asked for at latents that another run drew.
            model: whether to examine the model.

        Raises:
            ValueError: they are random inside.
        """
        with torch.no_grad(), isolated():
            trace, _ = self.propose(1, args)
            for name, asked in (("model", model), ("guide", guide)):
                runs = [self._density_of(name, args, trace) for _ in range(2)] if asked else []
                if asked and not torch.allclose(runs[0], runs[1], rtol=1e-4, equal_nan=True):
                    advice = "Put its modules in eval mode" if name == "model" else "Use the guide by itself"
                    rule = f"the {name} must have one density at one z"
                    raise refusal(owner, rule, "another one at every run", f"{advice}, or draw no random numbers in it")

    def _density_of(self, name: str, args: tuple[Any, ...], trace: Trace) -> Tensor:
        if name == "guide":
            return self.log_guide(1, args, trace)
        with no_registration():
            density = self.joint(1, args, trace)
        return density.log_likelihood + density.log_prior

    def log_guide(self, num_samples: int, args: tuple[Any, ...], trace: Trace) -> Tensor:
        """Log-density of the proposal at the latents of a trace, ``(num_samples, batch)``."""
        densities = []
        for guide in self.guides:
            own = self._guide_trace(poutine.replay(guide, trace=trace), num_samples, args)
            densities.append(self.layout.sum(num_samples, sites(own)))
        return torch.stack(densities).logsumexp(0) - math.log(len(densities))

    def _choose(self, num_samples: int, traces: list[Trace]) -> Trace:
        """For each sample and datum the latents of one guide, drawn in equal parts."""
        chosen, latent = traces[0].copy(), latents(traces[0])
        like = latent[0]["value"]
        size = self.layout.per_datum(num_samples, latent[0], torch.zeros_like(latent[0]["fn"].log_prob(like))).shape
        index = torch.randint(len(traces), size, device=like.device)  # (K, B)
        for site in latent:
            value = site["value"]
            for number, trace in enumerate(traces[1:], 1):
                here = self.layout.spread(site, index == number, event_dim=site["fn"].event_dim)
                value = torch.where(here, trace.nodes[site["name"]]["value"], value)
            chosen.nodes[site["name"]] = {**site, "value": value}
        return chosen

    def _check_mixture(self, guide_trace: Trace) -> None:
        auxiliary = [s["name"] for s in latents(guide_trace) if s["infer"].get("is_auxiliary")]
        if len(self.guides) > 1 and auxiliary:
            rule = "guides that are mixed must have a density at any z"
            raise _refusal(rule, f"the auxiliary sites {auxiliary}", "Leave that guide out of the mixture")

    def _examine_model(self, guide_trace: Trace) -> Trace:
        with no_registration():
            return poutine.trace(poutine.replay(self.model, trace=guide_trace)).get_trace(*self.args)

    def _guide_trace(self, guide: Program, num_samples: int | None, args: tuple[Any, ...]) -> Trace:
        with no_registration():
            if num_samples is not None:
                guide = repeated(guide, num_samples, self.layout)
            return poutine.trace(guide).get_trace(*args)


def guides_of(guide: Program | Sequence[Program]) -> tuple[Program, ...]:
    """One guide or several as a tuple.

    Raises:
        ValueError: an empty sequence.
    """
    found = (guide,) if callable(guide) else tuple(guide)
    if not found:
        raise _refusal("there must be a guide", "an empty list", "Pass one, or prior_proposal(model)")
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
        >>> from pyro_vae import VAE, BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> log_weights(vae.model, vae.guide, torch.ones(7, 5), num_samples=3).shape
        torch.Size([3, 7])
    """
    return Weigher(model, guide, x if isinstance(x, tuple) else (x,), data_plate=data_plate)(num_samples).total


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
        >>> from pyro_vae import VAE, BernoulliLikelihood, DiagonalNormalGuide, StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> log_weights(vae.model, prior_proposal(vae.model), torch.ones(7, 5), num_samples=3).shape
        torch.Size([3, 7])
    """
    proposal: Any = poutine.block(model, hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"])
    proposal.proposal_name = "prior"  # in protocols
    return proposal


def _data_plate(shared: dict[str, list[Any]], name: str | None) -> Any:
    if name is not None and name not in shared:
        raise _refusal("every site must be within the plate of the data", f"data_plate={name!r}", "Name another plate")
    if name is None and len(shared) > 1:
        raise _refusal("the plate of the data must be known", f"plates {sorted(shared)}", "Pass data_plate=NAME")
    return shared[name or min(shared)][0]


def _refusal(rule: str, given: Any, advice: str) -> ValueError:
    return refusal("log_weights", rule, given, advice)


def _is_discrete(distribution: Any) -> bool:
    """Whether log-probabilities are those of counts, not of densities."""
    try:
        return bool(distribution.support.is_discrete)
    except NotImplementedError:
        return False

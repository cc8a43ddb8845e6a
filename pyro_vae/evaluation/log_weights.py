"""The one engine for log-weights: log p(x, z) - log q(z | x) per datum, for any Pyro model and guide.

Everything that is measured (ELBO, log-likelihood, effective sample size, Pareto k) is read off these weights. Pyro's
own ``vectorized_importance_weights`` returns one weight for the whole batch; here every datum has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_vae.evaluation.support import SupportCheck
from pyro_vae.isolation import isolated
from pyro_vae.param_store import no_registration

Program = Callable[..., Any]


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
        model: Pyro model with observed sites, called as ``model(*args)``.
        guide: Pyro guide or any proposal for the model's latent sites, called as ``guide(*args)``.
        args: what both are called with: a batch of data.
        data_plate: name of the plate that ranges over the data; needed only where several plates hold all sites.

    Raises:
        ValueError: weights per datum cannot be formed: a site outside the plate of the data, a sequential or a randomly
            subsampled plate, a latent site that the guide does not sample, a guide site that the model does not have.

    Attributes:
        discrete: whether every observed site is discrete, so that the log-likelihood is that of a probability.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8. https://arxiv.org/abs/1509.00519
    """

    def __init__(self, model: Program, guide: Program, args: tuple[Any, ...], *, data_plate: str | None = None) -> None:
        self.model, self.guide, self.args = model, guide, args
        with torch.no_grad(), isolated(validate=is_validation_enabled()), SupportCheck("log_weights"):
            model_trace, guide_trace = self._trace(None, args)
            for site in [*_sites(model_trace), *_sites(guide_trace)]:
                # Here, without the samples' plate: with it, (data, data) may pass for (samples, data).
                _check_shape(site, site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
        _check_sites(model_trace, guide_trace)
        frames = [_frames(site) for trace in (model_trace, guide_trace) for site in _sites(trace)]
        self.depth = max(-frame.dim for stack in frames for frame in stack.values()) if any(frames) else 0
        plate = _data_plate(frames, data_plate)
        self.dim, self.size = plate.dim, plate.size
        if data_plate is None and isinstance(args[0], Tensor) and self.size != len(args[0]):
            what = f"plate {plate.name!r} of size {self.size} and a batch of {len(args[0])}"
            raise _refusal("the plate of the data must have the length of the batch", what, "Pass data_plate=NAME")
        self.discrete = all(_is_discrete(site["fn"]) for site in _sites(model_trace) if site["is_observed"])

    def __call__(self, num_samples: int) -> LogWeights:
        """Draw ``num_samples`` latents per datum and return their log-weights; differentiable."""
        return self.draw(num_samples, *self.args)

    def draw(self, num_samples: int, *args: Any) -> LogWeights:
        """The same for another batch of the same shape."""
        model_trace, guide_trace = self._trace(num_samples, args)
        log_q = self._sum(num_samples, _sites(guide_trace))
        log_p = self._sum(num_samples, (site for site in _sites(model_trace) if not site["is_observed"]))
        observed = (site for site in _sites(model_trace) if site["is_observed"])
        return LogWeights(self._sum(num_samples, observed), log_p - log_q)

    def _trace(self, num_samples: int | None, args: tuple[Any, ...]) -> tuple[Trace, Trace]:
        with no_registration():
            guide_trace = poutine.trace(self._repeat(self.guide, num_samples)).get_trace(*args)
            model = poutine.replay(self._repeat(self.model, num_samples), trace=guide_trace)
            return poutine.trace(model).get_trace(*args), guide_trace

    def _repeat(self, program: Program, num_samples: int | None) -> Program:
        if num_samples is None:
            return program
        return pyro.plate("importance_samples", num_samples, dim=-self.depth - 1)(program)

    def _sum(self, num_samples: int, sites: Iterable[Any]) -> Tensor:
        """Sum the sites' log-probabilities over every plate but those of the samples and of the data."""
        return sum((self._per_datum(num_samples, site) for site in sites), torch.zeros(()))

    def _per_datum(self, num_samples: int, site: Any) -> Tensor:
        log_prob, mask = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), site["mask"]
        if mask is not None:  # plate and poutine scales are left out on purpose: they are no part of the density
            log_prob = torch.where(torch.as_tensor(mask, device=log_prob.device), log_prob, 0.0)
        _check_shape(site, log_prob)
        log_prob = log_prob.reshape((1,) * (self.depth + 1 - log_prob.dim()) + tuple(log_prob.shape))
        others = [d for d in range(-self.depth, 0) if d != self.dim]
        return (log_prob.sum(others) if others else log_prob).expand(num_samples, self.size)


def log_weights(
    model: Program, guide: Program, x: Any, num_samples: int = 1, *, data_plate: str | None = None
) -> Tensor:
    r"""Log importance weights per datum, :math:`\log p(x, z_k) - \log q(z_k | x)`, :math:`z_k \sim q(z | x)`.

    Any scaling by plates or ``poutine.scale`` is left out, masks are kept. Differentiable.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide, or any proposal for the latent sites.
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
    return poutine.block(model, hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"])


def _sites(trace: Trace) -> list[Any]:
    """The random choices: neither the plates' subsamples nor what is deterministic."""
    sites = (s for s in trace.nodes.values() if s["type"] == "sample" and not isinstance(s["fn"], _Subsample))
    return [site for site in sites if not site["infer"].get("_deterministic")]


def _frames(site: Any) -> dict[str, Any]:
    return {frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized}


def _check_sites(model_trace: Trace, guide_trace: Trace) -> None:
    latent = {s["name"] for s in _sites(model_trace) if not s["is_observed"]}
    proposed = {s["name"] for s in _sites(guide_trace) if not s["infer"].get("is_auxiliary")}
    augmented = len(proposed) < len(_sites(guide_trace))  # then a latent may follow from an auxiliary site
    if len(latent) == len(_sites(model_trace)):
        raise _refusal("the model must have an observed site", sorted(latent), "Pass the data to it with obs=")
    if latent != proposed:
        what = f"model sites {sorted(latent)}, guide sites {sorted(proposed)}"
        raise _refusal("the guide must sample every latent site of the model and no other", what, "Complete the guide")
    for site in _sites(guide_trace):
        if not augmented and isinstance(getattr(site["fn"], "base_dist", site["fn"]), Delta):
            raise _refusal("the guide must have densities", f"a Delta at site {site['name']!r}", "Use a normal guide")
    for trace in (model_trace, guide_trace):
        _check_plates(trace)


def _check_plates(trace: Trace) -> None:
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if any(not frame.vectorized for frame in site["cond_indep_stack"]):
            raise _refusal("plates must be vectorised", f"site {name!r} in a sequential plate", "Use `with plate`")
        if isinstance(site["fn"], _Subsample) and _is_random(site["fn"]):
            raise _refusal("plates must not draw a subsample", f"plate {name!r}", "Pass the batch itself")


def _check_shape(site: Any, log_prob: Tensor) -> None:
    """Along every dimension a log-probability has the size of the site's plate there, or 1: no accidental product."""
    sizes = {frame.dim: frame.size for frame in _frames(site).values()}
    shape = tuple(log_prob.shape)
    if any(size not in (1, sizes.get(dim - len(shape), 1)) for dim, size in enumerate(shape)):
        plates = ", ".join(f"{f.name} of size {f.size} at dim {f.dim}" for f in _frames(site).values())
        what = f"log-probabilities of shape {shape} at site {site['name']!r} in plates {plates}"
        raise _refusal("sites must have the shape of their plates", what, "Give the value that shape, or use to_event")


def _is_random(subsample: _Subsample) -> bool:
    return subsample.subsample_size is not None and subsample.subsample_size < subsample.size


def _data_plate(frames: list[dict[str, Any]], name: str | None) -> Any:
    shared = set.intersection(*(set(stack) for stack in frames))
    if name is not None and name not in shared:
        raise _refusal("every site must be within the plate of the data", f"data_plate={name!r}", "Name another plate")
    if not shared:
        raise _refusal(
            "every site must be within one vectorised plate over the data",
            f"plates {sorted({key for stack in frames for key in stack})}",
            "Put all of them within pyro.plate('data', len(x)); sites shared by all data have no weight per datum",
        )
    if name is None and len(shared) > 1:
        raise _refusal("the plate of the data must be known", f"plates {sorted(shared)}", "Pass data_plate=NAME")
    found = [stack[name or min(shared)] for stack in frames]
    if len({(frame.dim, frame.size) for frame in found}) > 1:
        raise _refusal("the plate of the data must be the same for every site", found, "Give it one dim and one size")
    return found[0]


def _refusal(rule: str, given: Any, advice: str) -> ValueError:
    return ValueError(f"log_weights: {rule}, got {given}. {advice}.")


def _is_discrete(distribution: Any) -> bool:
    """Whether log-probabilities are those of counts, not of densities."""
    try:
        return bool(distribution.support.is_discrete)
    except NotImplementedError:
        return False

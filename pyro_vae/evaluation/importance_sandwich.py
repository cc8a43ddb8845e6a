"""Lower and upper bounds on log p(x) of simulated data by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae._core.contexts import validating
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.importance_sampling import importance_proposals, sampler_of
from pyro_vae.evaluation.latent_density import LatentDensity
from pyro_vae.evaluation.optimised import OptimisedSampler
from pyro_vae.evaluation.result import mean_error
from pyro_vae.evaluation.sampler import Engine, WeightSampler
from pyro_vae.evaluation.simulation import Simulated, simulate
from pyro_vae.evaluation.streaming import log_mean


class Bounds(NamedTuple):
    """Bounds on log p(x) of simulated data, each ``(M,)``, in nats."""

    lower: Tensor
    upper: Tensor

    def gap(self) -> tuple[float, float]:
        """Mean of upper - lower, and its standard error from the spread over the data."""
        gaps = self.upper - self.lower
        return float(gaps.mean()), mean_error(gaps)


def importance_bounds(
    model: Program,
    guide: Any,
    data: Data,
    *,
    num_samples: int,
    proposal: Any = "guide",
    batch_size: int = 20,
    chunk_size: int = 50,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    finished: FinishedBatches | None = None,
) -> Bounds:
    r"""Bounds on log p(x) of data simulated from the model, from K importance weights.

    The lower bound is that of :func:`log_likelihood`. A simulated datum comes with its latents, an exact sample z* from
    its posterior; with it in place of the last sample, :math:`\log \frac1K (w(z^*) + \sum_{k < K} w_k)` is an upper
    bound in expectation. Their gap bounds the bias of either. It is large if the proposal misses a mode, since half of
    the exact samples lie in a missing half.

    Args:
        model: Pyro model with observed sites, whose observed values are its arguments, unchanged.
        guide: Pyro guide for it, or several.
        data: determines number and batches of the simulated data; its values are not used.
        num_samples: number of samples per datum K.
        proposal: as in :func:`log_likelihood`.
        batch_size: data at a time.
        chunk_size: samples at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of data and samples.
        engine: as in :func:`log_likelihood`.
        finished: as in :func:`log_likelihood`.

    Returns:
        Both bounds of each simulated datum.

    Raises:
        ValueError: data cannot be simulated, or the proposal has no density at given latents.

    References:
        Importance weighted hierarchical variational inference (Sobolev and Vetrov, 2019), on multisample upper bounds.
        https://arxiv.org/abs/1905.03290
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), section 4.2, on
        simulated data. https://arxiv.org/abs/1511.02543

    Example:
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> importance_bounds(vae.model, vae.guide, torch.ones(7, 5), num_samples=30).upper.shape
        torch.Size([7])
    """
    options = dict(locals())
    owner, proposals = "importance_bounds", importance_proposals("importance_bounds", model, guide, proposal)
    batches = BatchedEvaluation(owner, (model, *proposals), options)
    num_calls = batches.share() * -(-num_samples // chunk_size)
    work: Any = {"engine": engine, "num_calls": num_calls, "chunk_size": chunk_size}
    sampler = sampler_of(proposal, owner, model, proposals, data_plate, batches.owners, **work)

    def bound(args: tuple[Any, ...], advance: Callable[[int], object]) -> dict[str, Tensor]:
        simulated = simulate(owner, model, args)
        sampler.check(simulated.args, num_samples)
        sizes = [min(chunk_size, num_samples - start) for start in range(0, num_samples, chunk_size)]
        log_w = torch.cat([sampler(size, simulated.args).total.double() for size in sizes])
        exact = _log_weight(sampler, simulated)
        upper = torch.cat([log_w[:-1], exact.unsqueeze(0)]).logsumexp(0) - math.log(num_samples)
        return {"lower": log_mean(log_w)[0], "upper": upper}

    return Bounds(**batches.run(bound))


def _log_weight(sampler: WeightSampler | OptimisedSampler, simulated: Simulated) -> Tensor:
    """The log-weight of the exact posterior sample of each simulated datum, ``(batch,)``, float64."""
    if isinstance(sampler, OptimisedSampler):
        u = _pack(sampler.density, simulated)
        return sampler.weights_at(u, sampler.fit, simulated.args).total[0].double()
    options: dict[str, Any] = {"data_plate": sampler.data_plate, "owners": sampler.owners, "start": "guide"}
    guide: Any = sampler.guides if len(sampler.guides) > 1 else sampler.guides[0]
    with validating(True):
        density = LatentDensity(sampler.owner, sampler.model, guide, simulated.args, **options)
    densities = density.log_densities(_pack(density, simulated), simulated.args)
    return (densities.target.double() - densities.start.double())[0]


def _pack(density: LatentDensity, simulated: Simulated) -> Tensor:
    """The simulated latents on the unconstrained scale, ``(1, batch, dim)``."""
    return density.pack({site.name: simulated.trace.nodes[site.name]["value"].unsqueeze(0) for site in density.sites})

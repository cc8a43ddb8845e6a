"""Samples from the exact posterior by Hamiltonian Monte Carlo, for every datum at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealed import Advance, Annealer, AnnealingPath
from pyro_vae.evaluation.batched import check_sizes
from pyro_vae.evaluation.hmc import BURN_IN, AdaptedStepSizes
from pyro_vae.evaluation.latent_density import Start

NUM_BRIDGES = 100  # distributions that chains pass on their way from the start to the posterior


@dataclass(frozen=True)
class PosteriorSamples:
    """Draws from p(z | x), with what tells whether the chains can be trusted.

    Attributes:
        sites: by the model's site name: ``(num_samples, N, *event)``; the draws of a chain lie ``num_chains`` apart.
        r_hat: ``(N,)``, the split potential scale reduction, the largest over the dimensions: above 1.05 the chains
            disagree.
        effective_sample_size: ``(N,)``, the smallest over the dimensions.
        acceptance: ``(N,)``, the mean acceptance probability.

    References:
        Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021), eq. 3 and 4, without
        the ranks. https://arxiv.org/abs/1903.08008
    """

    sites: dict[str, Tensor]
    r_hat: Tensor
    effective_sample_size: Tensor
    acceptance: Tensor


class Chains(NamedTuple):
    """Draws of one batch on the unconstrained scale."""

    u: Tensor
    """``(draws, num_chains, batch, dim)``."""
    log_joint: Tensor
    """``(draws, num_chains, batch)``, log p(x, u), the Jacobian of the map to the sites included."""
    acceptance: Tensor
    """``(batch,)``."""

    def reliability(self) -> dict[str, Tensor]:
        """R-hat and effective sample size of the worst dimension of each datum, and the acceptance."""
        flat = self.u.double()
        if len(flat) < 4:  # too few to split
            unknown = torch.full_like(flat[0, 0, :, 0], torch.nan)
            return {"r_hat": unknown, "effective_sample_size": unknown, "acceptance": self.acceptance}
        return {
            "r_hat": split_gelman_rubin(flat, chain_dim=1, sample_dim=0).amax(-1),
            "effective_sample_size": effective_sample_size(flat, chain_dim=1, sample_dim=0).amin(-1),
            "acceptance": self.acceptance,
        }


def posterior_samples(
    model: Program,
    guide: Program | None,
    data: Data,
    *,
    num_samples: int = 1000,
    num_chains: int = 4,
    num_steps: int = 10,
    warmup: int = 200,
    thinning: int = 1,
    start: Start = "prior",
    batch_size: int = 100,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Literal["auto", "eager", "compiled"] = "auto",
    progress: bool = False,
) -> PosteriorSamples:
    """Draw from the posterior p(z | x) of every datum by Hamiltonian Monte Carlo.

    Chains start at draws from the prior or the guide, are led to the posterior along an annealing path, go on there
    while their steps are adapted per datum, and are kept from then on, with the steps frozen. They are exact in the
    limit only; ``r_hat`` and ``effective_sample_size`` say how far away that is, but not of modes no chain has seen.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, or None where chains start from the prior.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        num_samples: number of draws per datum, a multiple of ``num_chains``.
        num_chains: number of chains per datum.
        num_steps: leapfrog steps of a transition.
        warmup: transitions at the posterior before the first draw.
        thinning: transitions from one draw of a chain to the next.
        start: ``"prior"`` or ``"guide"``.
        batch_size: data at a time.
        data_plate: name of the plate over the data, where it is not the only one that holds all sites.
        seed: of the chains; every batch has its own stream.
        engine: as in :func:`annealed_log_likelihood`.
        progress: show a progress bar.

    Raises:
        ValueError: a latent site is discrete, a size is not positive, or ``num_samples`` is no multiple of
            ``num_chains``.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011). https://arxiv.org/abs/1206.1901

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> draws = posterior_samples(vae.model, vae.guide, torch.ones(7, 5), num_samples=40, warmup=20)
        >>> draws.sites["z"].shape
        torch.Size([40, 7, 2])
    """
    owner = "posterior_samples"
    check_sizes(owner, num_samples=num_samples, num_chains=num_chains, warmup=warmup, thinning=thinning)
    if num_samples % num_chains:
        raise ValueError(
            f"{owner}: num_samples must be a multiple of num_chains, got num_samples={num_samples}, "
            f"num_chains={num_chains}. Use {-(-num_samples // num_chains) * num_chains}."
        )
    draws = num_samples // num_chains
    path = AnnealingPath(owner, NUM_BRIDGES, num_chains, num_steps, start, "sigmoid")
    amount = burn_in(warmup) + draws * thinning
    annealer = Annealer(path, model, guide, data_plate)
    batches = annealer.over(data, batch_size, seed=seed, engine=engine, progress=progress, amount=amount)

    def draw(args: tuple[Any, ...], advance: Advance) -> dict[str, Tensor]:
        annealer.set_density(args)
        chains = run_chains(annealer, args, advance, warmup=warmup, draws=draws, thinning=thinning)
        values, _ = annealer.density.unpack(chains.u.flatten(0, 1))
        own = {site.name: values[site.name].movedim(1 + site.data, 0) for site in annealer.density.sites}
        return {**own, **chains.reliability()}

    found = batches.run(draw)
    numbers = {key: found.pop(key) for key in ("r_hat", "effective_sample_size", "acceptance")}
    return PosteriorSamples({name: value.movedim(0, 1) for name, value in found.items()}, **numbers)


def burn_in(warmup: int) -> int:
    """Number of transitions before the first draw."""
    return BURN_IN + NUM_BRIDGES + warmup


def run_chains(
    annealer: Annealer, args: tuple[Any, ...], advance: Advance, *, warmup: int, draws: int, thinning: int = 1
) -> Chains:
    """Lead chains to the posterior, adapt them there, and draw."""
    u = annealer.density.draw(annealer.path.num_chains, args)
    betas = annealer.path.betas() + [1.0] * warmup
    adapted = AdaptedStepSizes(annealer.hmc, u, betas, args, advance)
    state, steps = adapted.last, adapted.at(1.0)
    kept, accepted = [], torch.zeros_like(state.start, dtype=torch.float64)
    for _ in range(draws):
        for _ in range(thinning):
            state, probability = annealer.hmc.transition(state, 1.0, steps, args)
            accepted = accepted + probability
            advance(1)
        kept.append((state.u, state.target.double()))
    u, log_joint = (torch.stack(part) for part in zip(*kept, strict=True))
    return Chains(u, log_joint, accepted.mean(0) / (draws * thinning))

"""Samples from the exact posterior by Hamiltonian Monte Carlo, for many data at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealed import Advance, Annealer
from pyro_vae.evaluation.annealing_path import AnnealingPath
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.hmc import BURN_IN, AdaptedStepSizes
from pyro_vae.evaluation.latent_density import Start
from pyro_vae.evaluation.sampler import Engine
from pyro_vae.evaluation.tables import inference_data_of

NUM_BRIDGES = 100
"""Number of distributions on the path along which chains move from the start to the posterior."""


@dataclass(frozen=True)
class PosteriorSamples:
    """Samples from p(z | x), with convergence diagnostics of the chains.

    Attributes:
        sites: by the model's site name, ``(num_samples, N, *event)``; every ``num_chains``-th sample is of the same
            chain.
        r_hat: ``(N,)``, the split potential scale reduction, the largest over the dimensions; above 1.05 the chains
            have not converged.
        effective_sample_size: ``(N,)``, the smallest over the dimensions.
        acceptance: ``(N,)``, the mean acceptance probability.
        num_chains: number of chains per datum.

    References:
        Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021), eq. 3 and 4, without
        the ranks. https://arxiv.org/abs/1903.08008
    """

    sites: dict[str, Tensor]
    r_hat: Tensor
    effective_sample_size: Tensor
    acceptance: Tensor
    num_chains: int = 1

    def to_arviz(self) -> Any:
        """The samples as ``arviz.InferenceData``, whose group ``posterior`` has the dimensions chain, draw and datum.

        Raises:
            ValueError: ArviZ or xarray is not installed.
        """
        return inference_data_of(self.sites, self.num_chains)


class Chains(NamedTuple):
    """Samples for one batch on the unconstrained scale."""

    u: Tensor
    """``(num_samples, num_chains, batch, dim)``."""
    log_joint: Tensor
    """``(num_samples, num_chains, batch)``, log p(x, u), the Jacobian of the map to the sites included."""
    acceptance: Tensor
    """``(batch,)``, the mean acceptance probability."""

    def convergence(self) -> dict[str, Tensor]:
        """R-hat and effective sample size of the worst dimension of each datum, and the acceptance rate."""
        flat = self.u.double()
        if len(flat) < 4:  # too few samples to split a chain
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
    engine: Engine = "auto",
    finished: FinishedBatches | None = None,
    progress: bool = False,
) -> PosteriorSamples:
    """Sample from the posterior p(z | x) of every datum by Hamiltonian Monte Carlo.

    Chains start at samples of the prior or the guide, move to the posterior along an annealing path, and continue there
    while step sizes are adapted per datum. Then the step sizes are fixed and samples are stored. They are exact only in
    the limit; ``r_hat`` and ``effective_sample_size`` measure convergence, except for modes that no chain visited.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, or None if chains start from the prior.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        num_samples: number of samples per datum, a multiple of ``num_chains``.
        num_chains: number of chains per datum.
        num_steps: leapfrog steps of a transition.
        warmup: transitions at the posterior before the first sample.
        thinning: transitions from one sample of a chain to the next.
        start: distribution that chains start from, ``"prior"`` or ``"guide"``.
        batch_size: data at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of the chains; every batch has its own stream.
        engine: as in :func:`annealed_log_likelihood`.
        finished: as in :func:`annealed_log_likelihood`.
        progress: show a progress bar.

    Returns:
        The samples of every latent site with their diagnostics.

    Raises:
        ValueError: a latent site is discrete, a size is not positive, or ``num_samples`` is not a multiple of
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
        >>> samples = posterior_samples(vae.model, vae.guide, torch.ones(7, 5), num_samples=40, warmup=20)
        >>> samples.sites["z"].shape
        torch.Size([40, 7, 2])
    """
    options, owner = dict(locals()), "posterior_samples"
    check_arguments(posterior_samples, options, num_samples=1, num_chains=1, warmup=1, thinning=1)
    rule = "num_samples must be a multiple of num_chains"
    got = f"num_samples={num_samples}, num_chains={num_chains}"
    multiple = -(-num_samples // num_chains) * num_chains
    require(num_samples == multiple, owner, rule, got, f"Use {multiple}")
    per_chain = num_samples // num_chains
    path = AnnealingPath(owner, NUM_BRIDGES, num_chains, num_steps, start, "sigmoid")
    num_transitions = burn_in(warmup) + per_chain * thinning
    annealer = Annealer(path, model, guide, data_plate)
    batches = annealer.over(options, num_transitions=num_transitions)

    def sample(args: tuple[Any, ...], advance: Advance) -> dict[str, Tensor]:
        annealer.set_density(args)
        chains = run_chains(annealer, args, advance, warmup=warmup, num_samples=per_chain, thinning=thinning)
        values, _ = annealer.density.unpack(chains.u.flatten(0, 1))
        sites = {site.name: values[site.name].movedim(1 + site.data, 0) for site in annealer.density.sites}
        return {**sites, **chains.convergence()}

    tensors = batches.run(sample)
    diagnostics = {key: tensors.pop(key) for key in ("r_hat", "effective_sample_size", "acceptance")}
    return PosteriorSamples(
        {name: value.movedim(0, 1) for name, value in tensors.items()}, **diagnostics, num_chains=num_chains
    )


def burn_in(warmup: int) -> int:
    """Number of transitions before the first sample."""
    return BURN_IN + NUM_BRIDGES + warmup


def run_chains(
    annealer: Annealer, args: tuple[Any, ...], advance: Advance, *, warmup: int, num_samples: int, thinning: int = 1
) -> Chains:
    """Move chains to the posterior, adapt their step sizes there, and sample ``num_samples`` states of each chain."""
    u = annealer.density.sample(annealer.path.num_chains, args)
    betas = annealer.path.betas() + [1.0] * warmup
    adapted = AdaptedStepSizes(annealer.hmc, u, betas, args, advance)
    state, steps = adapted.last, adapted.at(1.0)
    samples, accepted = [], torch.zeros_like(state.start, dtype=torch.float64)
    for _ in range(num_samples):
        for _ in range(thinning):
            state, probability = annealer.hmc.transition(state, 1.0, steps, args)
            accepted = accepted + probability
            advance(1)
        samples.append((state.u, state.target.double()))
    u, log_joint = (torch.stack(values) for values in zip(*samples, strict=True))
    return Chains(u, log_joint, accepted.mean(0) / (num_samples * thinning))

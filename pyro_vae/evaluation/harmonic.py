"""The estimator of log p(x) from the appendix of Auto-Encoding Variational Bayes, for few latent dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealed import Advance, Annealer, AnnealingPath
from pyro_vae.evaluation.batched import check_sizes
from pyro_vae.evaluation.kernel_density import KernelDensity
from pyro_vae.evaluation.latent_density import Start
from pyro_vae.evaluation.pareto import pareto_k, tail_length
from pyro_vae.evaluation.posterior import NUM_BRIDGES, Chains, burn_in, run_chains
from pyro_vae.evaluation.result import LOG_LIKELIHOOD, Quantity, Result
from pyro_vae.evaluation.streaming import log_mean

_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class HarmonicLogLikelihood(Result):
    r"""Estimate of log p(x) from posterior samples, per datum, in nats: an upper bound in expectation.

    Attributes:
        log_likelihood: ``(N,)``, :math:`-\log \frac1S \sum_s q(z_s) / p(x, z_s)`.
        standard_error: ``(N,)``, from the spread of the chains' means, which accounts for autocorrelation.
        pareto_k: ``(N,)``, the shape of the tail of :math:`q(z_s) / p(x, z_s)`; above 0.7 the estimate is unreliable.
        r_hat: ``(N,)``, of the posterior samples; above 1.05 the chains have not converged.
        acceptance: ``(N,)``, the mean acceptance probability of the transitions.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), appendix D. https://arxiv.org/abs/1312.6114
    """

    method: ClassVar[str] = "harmonic"
    title: ClassVar[str] = (
        "Log-likelihood from posterior samples (AEVB, appendix D), for fewer than five latent dimensions"
    )
    topic: ClassVar[str] = "bounds"
    quantities: ClassVar[tuple[Quantity, ...]] = (LOG_LIKELIHOOD,)
    phrases: ClassVar[dict[str, str]] = {"num_samples": "{} posterior samples"}
    alternative_text: ClassVar[str] = "R-hat and Pareto k of the harmonic estimates"

    log_likelihood: Tensor
    standard_error: Tensor
    pareto_k: Tensor
    r_hat: Tensor
    acceptance: Tensor

    def summary(self) -> dict[str, Any]:
        """The means with their errors, and the shares of unreliable estimates."""
        return {
            **self.means("log_likelihood", "acceptance"),
            "pareto_k_above_0.7": float((~(self.pareto_k <= 0.7)).double().mean()),  # nan counts as unreliable
            "r_hat_above_1.05": float((~(self.r_hat <= 1.05)).double().mean()),
        }

    def lines(self) -> list[str]:
        """The estimate with its errors, and the shares of unreliable estimates."""
        s = self.summary()
        return [
            *self.log_likelihood_lines(", from posterior samples (AEVB, appendix D)"),
            f"R-hat > 1.05: for {s['r_hat_above_1.05']:.1%}; Pareto k > 0.7: for {s['pareto_k_above_0.7']:.1%}; "
            f"acceptance {self.mean('acceptance'):.2f}",
        ]


def harmonic_log_likelihood(
    model: Program,
    guide: Program | None,
    data: Data,
    *,
    num_samples: int = 3200,
    num_fitted: int = 1600,
    num_chains: int = 16,
    num_steps: int = 5,
    warmup: int = 200,
    start: Start = "prior",
    batch_size: int = 100,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Literal["auto", "eager", "compiled"] = "auto",
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> HarmonicLogLikelihood:
    r"""Estimate log p(x) per datum from samples of the posterior, for fewer than five latent dimensions.

    1. Draw from p(z | x) by Hamiltonian Monte Carlo. 2. Fit a density q(z) to the draws. 3. Draw again, by fresh
    chains, and average: :math:`\frac{1}{p(x)} \approx \frac1S \sum_s \frac{q(z_s)}{p(z_s)\, p(x | z_s)}`.

    q is a kernel density estimate with normal kernels in the shape of the draws' covariance, its bandwidth chosen by
    the likelihood of left-out draws; the paper leaves the choice open. It must not be wider than the posterior, which a
    density fitted in many dimensions would be. Positive and bounded latents are moved on the unconstrained scale.
    The standard error takes q as given and the chains as long: in four dimensions take more draws than in two.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, or None where chains start from the prior.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        num_samples: number of fresh draws S per datum, a multiple of ``num_chains``.
        num_fitted: number of draws that q is fitted to, a multiple of ``num_chains``.
        num_chains: number of chains per datum.
        num_steps: leapfrog steps of a transition.
        warmup: transitions at the posterior before the first draw.
        start: where the chains start: ``"prior"`` or ``"guide"``.
        batch_size: data at a time.
        data_plate: name of the plate over the data, where it is not the only one that holds all sites.
        seed: of the chains; every batch has its own stream.
        engine: as in :func:`annealed_log_likelihood`.
        protocol: entries to keep with the result.
        progress: show a progress bar.

    Returns:
        The estimate per datum in nats, its standard error, and its diagnostics.

    Raises:
        ValueError: there are five latent dimensions or more, a latent site is discrete, or a size does not fit.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), appendix D. https://arxiv.org/abs/1312.6114
        Approximate Bayesian inference with the weighted likelihood bootstrap (Newton and Raftery, 1994), section 7, and
        Bayesian model choice: asymptotics and exact calculations (Gelfand and Dey, 1994), on the estimator.

    Example:
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> sizes = {"num_samples": 64, "num_fitted": 64, "warmup": 20}
        >>> harmonic_log_likelihood(vae.model, vae.guide, torch.ones(3, 5), **sizes).log_likelihood.shape
        torch.Size([3])
    """
    owner = "harmonic_log_likelihood"
    _check(owner, num_chains, num_samples=num_samples, num_fitted=num_fitted)
    path = AnnealingPath(owner, NUM_BRIDGES, num_chains, num_steps, start, "sigmoid")
    counts = num_fitted // num_chains, num_samples // num_chains
    amount = 2 * burn_in(warmup) + sum(counts)
    annealer = Annealer(path, model, guide, data_plate)
    batches = annealer.over(data, batch_size, seed=seed, engine=engine, progress=progress, amount=amount)
    own: dict[str, Any] = {"estimator": "harmonic", "num_samples": num_samples, "num_fitted": num_fitted}
    own |= {"num_chains": num_chains, "num_steps": num_steps, "warmup": warmup, "start": start, "sample_seed": seed}

    def estimate(args: tuple[Any, ...], advance: Advance) -> dict[str, Tensor]:
        annealer.set_density(args)
        _check_dimensions(owner, annealer.density.dim, num_fitted)
        own.update(annealer.density.weigher.protocol(annealer.path.num_chains))
        fitted, fresh = (run_chains(annealer, args, advance, warmup=warmup, draws=n) for n in counts)
        return _estimate(fitted, fresh)

    tensors = batches.run(estimate)
    own = {**batches.ranks.from_first(own), "num_data": len(tensors["log_likelihood"])}
    return HarmonicLogLikelihood(**tensors, protocol={**(protocol or {}), **own})


def _estimate(fitted: Chains, fresh: Chains) -> dict[str, Tensor]:
    """The harmonic estimate of every datum of a batch."""
    draws, chains, batch = fresh.log_joint.shape
    log_q = torch.stack(
        [
            KernelDensity(fitted.u[:, :, i].flatten(0, 1).double()).log_prob(fresh.u[:, :, i].flatten(0, 1).double())
            for i in range(batch)
        ],
        -1,
    )  # (draws * chains, batch)
    log_ratio = log_q - fresh.log_joint.flatten(0, 1)
    per_chain = log_ratio.unflatten(0, (draws, chains)).logsumexp(0) - math.log(draws)  # (chains, batch)
    estimate, error, _ = log_mean(per_chain)
    largest = log_ratio.topk(tail_length(len(log_ratio)) + 1, dim=0).values
    reliability = fresh.reliability()
    return {
        "log_likelihood": -estimate,
        "standard_error": error,
        "pareto_k": pareto_k(largest, len(log_ratio)),
        "r_hat": reliability["r_hat"],
        "acceptance": reliability["acceptance"],
    }


def _check(owner: str, num_chains: int, **counts: int) -> None:
    check_sizes(owner, num_chains=num_chains, **counts)
    if num_chains < 2:
        raise ValueError(f"{owner}: num_chains must be at least 2, got num_chains={num_chains}. Use 16.")
    for name, count in counts.items():
        if count % num_chains or count < 4 * num_chains:
            raise ValueError(
                f"{owner}: {name} must be a multiple of num_chains={num_chains}, at least four of them, got "
                f"{name}={count}. Use {max(4, -(-count // num_chains)) * num_chains}."
            )


def _check_dimensions(owner: str, dim: int, num_fitted: int) -> None:
    if num_fitted < 25 * dim <= 25 * _MOST_DIMENSIONS:
        raise ValueError(
            f"{owner}: num_fitted must be at least 25 for each of {dim} latent dimensions, got "
            f"num_fitted={num_fitted}. Use 1600."
        )
    if dim > _MOST_DIMENSIONS:
        raise ValueError(
            f"{owner}: there must be fewer than five latent dimensions, got {dim}: a density fitted to draws fails in "
            "more. Use annealed_log_likelihood."
        )

"""The estimator of log p(x) from posterior samples in the appendix of Auto-Encoding Variational Bayes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_count, refusal, require
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealed import Advance, Annealer
from pyro_vae.evaluation.annealing_path import AnnealingPath
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.latent_density import Start
from pyro_vae.evaluation.pareto import pareto_k, tail_length
from pyro_vae.evaluation.posterior import NUM_BRIDGES, Chains, burn_in, run_chains
from pyro_vae.evaluation.result import LOG_LIKELIHOOD, Quantity, Result
from pyro_vae.evaluation.sampler import Engine
from pyro_vae.evaluation.streaming import log_mean

if TYPE_CHECKING:
    from scipy.stats import gaussian_kde  # type: ignore[import-untyped]

_MAX_DIMENSIONS = 4
_BANDWIDTHS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)  # in units of Scott's


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
    layout: ClassVar[dict[str, str]] = {"N": "log_likelihood standard_error pareto_k r_hat acceptance"}
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
    engine: Engine = "auto",
    finished: FinishedBatches | None = None,
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> HarmonicLogLikelihood:
    r"""Estimate log p(x) per datum from samples of the posterior, for fewer than five latent dimensions.

    1. Sample from p(z | x) by Hamiltonian Monte Carlo. 2. Fit a density q(z) to the samples. 3. Sample again with new
    chains, and average: :math:`\frac{1}{p(x)} \approx \frac1S \sum_s \frac{q(z_s)}{p(z_s)\, p(x | z_s)}`.

    q is a kernel density estimate with normal kernels. Their covariance is proportional to that of the samples, and
    their bandwidth maximises the leave-one-out likelihood; the paper leaves the choice open. q must not be wider than
    the posterior, which a density fitted in many dimensions would be. Positive and bounded latents are sampled on the
    unconstrained scale. The standard error conditions on q and assumes long chains: use more samples in four
    dimensions than in two.

    Args:
        model: Pyro model with observed sites.
        guide: Pyro guide for it, or None if chains start from the prior.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        num_samples: number of new samples S per datum, a multiple of ``num_chains``.
        num_fitted: number of samples that q is fitted to, a multiple of ``num_chains``.
        num_chains: number of chains per datum.
        num_steps: leapfrog steps of a transition.
        warmup: transitions at the posterior before the first sample.
        start: distribution that chains start from, ``"prior"`` or ``"guide"``.
        batch_size: data at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of the chains; every batch has its own stream.
        engine: as in :func:`annealed_log_likelihood`.
        finished: as in :func:`annealed_log_likelihood`.
        protocol: entries to add to the result's protocol.
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
    options = dict(locals())
    check_arguments(harmonic_log_likelihood, options, warmup=0)
    owner = "harmonic_log_likelihood"
    _check(owner, num_chains, num_samples=num_samples, num_fitted=num_fitted)
    path = AnnealingPath(owner, NUM_BRIDGES, num_chains, num_steps, start, "sigmoid")
    counts = num_fitted // num_chains, num_samples // num_chains
    num_transitions = 2 * burn_in(warmup) + sum(counts)
    annealer = Annealer(path, model, guide, data_plate)
    batches = annealer.over(options, num_transitions=num_transitions)
    entries: dict[str, Any] = {"estimator": "harmonic", "num_samples": num_samples, "num_fitted": num_fitted}
    entries |= {"num_chains": num_chains, "num_steps": num_steps, "warmup": warmup, "start": start, "sample_seed": seed}

    def estimate(args: tuple[Any, ...], advance: Advance) -> dict[str, Tensor]:
        annealer.set_density(args)
        _check_dimensions(owner, annealer.density.dim, num_fitted)
        entries.update(annealer.density.weights.protocol(annealer.path.num_chains))
        fitted, fresh = (run_chains(annealer, args, advance, warmup=warmup, num_samples=n) for n in counts)
        return _estimate(fitted, fresh)

    tensors = batches.run(estimate, entries)
    entries = {**batches.ranks.from_first(entries), "num_data": len(tensors["log_likelihood"])}
    return HarmonicLogLikelihood(**tensors, protocol={**(protocol or {}), **entries})


def _estimate(fitted: Chains, fresh: Chains) -> dict[str, Tensor]:
    """The harmonic estimate of every datum of a batch."""
    num_samples, num_chains, batch = fresh.log_joint.shape
    log_q = torch.stack([_log_kernel_density(fitted.u[:, :, i], fresh.u[:, :, i]) for i in range(batch)], -1)
    log_ratio = log_q.to(fresh.log_joint) - fresh.log_joint.flatten(0, 1)  # (num_samples * num_chains, batch)
    per_chain = log_ratio.unflatten(0, (num_samples, num_chains)).logsumexp(0) - math.log(num_samples)
    estimate, error, _ = log_mean(per_chain)
    largest = log_ratio.topk(tail_length(len(log_ratio)) + 1, dim=0).values
    convergence = fresh.convergence()
    return {
        "log_likelihood": -estimate,
        "standard_error": error,
        "pareto_k": pareto_k(largest, len(log_ratio)),
        "r_hat": convergence["r_hat"],
        "acceptance": convergence["acceptance"],
    }


def _log_kernel_density(samples: Tensor, points: Tensor) -> Tensor:
    """Log-density at ``points``, ``(..., dim)``, of a kernel density estimate from ``samples``, flattened.

    NaN if the samples coincide to the precision of their dtype.
    """
    epsilon = torch.finfo(samples.dtype).eps
    samples, points = (u.flatten(0, -2).double().cpu() for u in (samples, points))
    if bool((samples.std(0) <= 10 * epsilon * samples.abs().amax(0)).any()):  # rounding decides their distances
        return torch.full((len(points),), torch.nan, dtype=points.dtype)
    return torch.as_tensor(fit_kernel_density(samples).logpdf(points.T.numpy()))


def fit_kernel_density(samples: Tensor) -> gaussian_kde:
    r"""Kernel density estimate with normal kernels :math:`\mathcal{N}(z_n, h^2 \hat\Sigma)`.

    :math:`\hat\Sigma` is the samples' covariance, and h the one of seven fractions of Scott's bandwidth
    :math:`n^{-1/(D + 4)}` that maximises the leave-one-out likelihood, because several modes need a small one.

    Args:
        samples: ``(n, D)``, float64, with n > D.

    References:
        Multivariate density estimation (Scott, 2015), section 6.3. https://doi.org/10.1002/9781118575574

    Example:
        >>> _ = torch.manual_seed(0)
        >>> density = fit_kernel_density(torch.randn(500, 1, dtype=torch.float64))
        >>> bool(abs(density.logpdf([0.0])[0] + 0.919) < 0.2)
        True
    """
    from scipy.stats import gaussian_kde  # half a second, rarely needed

    n, dim = samples.shape
    factor = torch.linalg.cholesky(torch.atleast_2d(samples.T.cov()))
    whitened = torch.linalg.solve_triangular(factor, samples.T, upper=False).T
    squares = torch.cdist(whitened, whitened).square().fill_diagonal_(torch.inf)
    bandwidths = [fraction * n ** (-1 / (dim + 4)) for fraction in _BANDWIDTHS]
    likelihoods = [(-0.5 * squares / h**2).logsumexp(-1).mean() - dim * math.log(h) for h in bandwidths]
    return gaussian_kde(samples.T.numpy(), bandwidths[int(torch.stack(likelihoods).argmax())])


def _check(owner: str, num_chains: int, **counts: int) -> None:
    check_count(owner, **counts)
    check_count(owner, 2, num_chains=num_chains)
    for name, count in counts.items():
        if count % num_chains or count < 4 * num_chains:
            rule = f"{name} must be a multiple of num_chains={num_chains}, at least four of them"
            advice = f"Use {max(4, -(-count // num_chains)) * num_chains}"
            raise refusal(owner, rule, f"{name}={count}", advice)


def _check_dimensions(owner: str, dim: int, num_fitted: int) -> None:
    rule = "there must be fewer than five latent dimensions, because kernel densities fail in more"
    require(dim <= _MAX_DIMENSIONS, owner, rule, f"{dim}", "Use annealed_log_likelihood")
    rule = f"num_fitted must be at least 25 for each of {dim} latent dimensions"
    require(num_fitted >= 25 * dim, owner, rule, f"num_fitted={num_fitted}", "Use 1600")

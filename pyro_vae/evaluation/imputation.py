"""Imputation: the conditional distribution of missing entries given the observed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, require
from pyro_vae._core.contexts import validating
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealed import Advance
from pyro_vae.evaluation.batched import BatchedEvaluation
from pyro_vae.evaluation.likelihood import PARETO_K_LIMIT
from pyro_vae.evaluation.streaming import WeightSummary
from pyro_vae.evaluation.weights import ImportanceWeights
from pyro_vae.models import VAE


@dataclass(frozen=True)
class Imputation:
    r"""Imputed data, with the diagnostics of their importance weights.

    Attributes:
        mean: ``(N, *data_shape)``: observed entries as they are, missing ones at their conditional mean
            :math:`E[x_d | x_{obs}]`.
        standard_error: ``(N, *data_shape)``, the Monte Carlo standard error of the mean, in units of the data; 0 for
            observed entries.
        draws: ``(num_draws, N, *data_shape)``: observed entries as they are, missing ones sampled from
            :math:`p(x_{mis} | x_{obs})` by sampling importance resampling, jointly over the entries of a datum.
        log_likelihood: ``(N,)``, the importance-weighted estimate of :math:`\log p(x_{obs})`, in nats.
        effective_sample_size: ``(N,)``, of the weights, between 1 and ``num_samples``.
        pareto_k: ``(N,)``, the shape of the weights' tail; above 0.7 mean and draws of the datum are unreliable.
    """

    mean: Tensor
    standard_error: Tensor
    draws: Tensor
    log_likelihood: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor

    def mode(self) -> Tensor:
        """The most frequent value of every entry among the draws, ``(N, *data_shape)``, for categories."""
        return self.draws.mode(0).values

    def interval(self, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
        """The central interval of the draws: lower and upper limit, ``(N, *data_shape)`` each.

        Raises:
            ValueError: ``coverage`` is not in (0, 1).
        """
        require(0 < coverage < 1, "interval", "coverage must be in (0, 1)", f"coverage={coverage}", "Use 0.9")
        limits = torch.tensor([(1 - coverage) / 2, (1 + coverage) / 2]).to(self.draws)
        low, high = self.draws.quantile(limits, dim=0)
        return low, high

    def advice(self) -> str:
        """Explain how to improve unreliable imputations; empty if there are none."""
        bad = int((self.pareto_k > PARETO_K_LIMIT).sum())
        if not bad:
            return ""
        return (
            f"{bad} of {len(self.pareto_k)} data have a Pareto k above {PARETO_K_LIMIT}: few of the samples determine "
            "their imputed values. Take more samples (num_samples), or fit a better guide (refit_guide)."
        )


def impute(
    vae: VAE,
    data: Data,
    *,
    num_samples: int = 1000,
    num_draws: int = 100,
    batch_size: int = 50,
    chunk_size: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Imputation:
    r"""Conditional mean and samples of the missing entries, :math:`E[x_{mis} | x_{obs}] \approx \sum_s w_s E[x | z_s]`.

    The weights :math:`w_s \propto p(x_{obs}, z_s) / q(z_s | x_{obs})` of samples of the guide, normalized to sum 1, are
    those of the importance-weighted estimate of :math:`\log p(x_{obs})`. A sample of the missing entries is drawn from
    :math:`p(x | z_s)`, with s drawn with probability :math:`w_s`.

    Args:
        vae: a model of data with missing entries, ``VAE(..., missing=True)``.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches. NaN is a missing entry.
        num_samples: samples of z per datum.
        num_draws: samples of the missing entries per datum.
        batch_size: data at a time.
        chunk_size: samples of z at a time.
        seed: of the samples; the global generator is restored.
        progress: show a progress bar.

    Returns:
        The imputed data. Of a datum without an observed entry they are the mean and samples of p(x).

    Raises:
        ValueError: the model is not one of data with missing entries, or a number is not positive.

    References:
        MIWAE: deep generative modelling and imputation of incomplete data sets (Mattei and Frellsen, 2019): single and
        multiple imputation. https://arxiv.org/abs/1812.02633

    Example:
        >>> import torch
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import NormalLikelihood
        >>> from pyro_vae.networks import ZeroFilledNetwork
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> guide = DiagonalNormalGuide((3,), 2, net=ZeroFilledNetwork)
        >>> vae = VAE(StandardNormalPrior(2), NormalLikelihood(2, (3,)), guide, missing=True)
        >>> result = impute(vae, torch.tensor([[1.0, torch.nan, 2.0]]))
        >>> result.mean[0, 0].item(), result.draws.shape, bool(result.draws.isfinite().all())
        (1.0, torch.Size([100, 1, 3]), True)
    """
    check_arguments(impute, locals(), num_samples=1, num_draws=1, batch_size=1, chunk_size=1)
    rule, advice = "the model must be one of data with missing entries", "Build it with missing=True"
    require(vae.missing, "impute", rule, "missing=False", advice)
    options = {"data": data, "batch_size": batch_size, "seed": seed, "progress": progress, "finished": None}
    batches = BatchedEvaluation("impute", (vae.model, vae.guide), options, unit="samples", amount=num_samples)
    shared: dict[str, Any] = {"owner": "impute", "owners": batches.owners, "ways": {}}

    def work(args: tuple[Any, ...], advance: Advance) -> dict[str, Tensor]:
        with validating(True):
            weights = ImportanceWeights(vae.model, vae.guide, args, **shared)
        z, log_weights, summary = [], [], WeightSummary(num_samples)
        for start in range(0, num_samples, chunk_size):
            count = min(chunk_size, num_samples - start)
            chunk, latent = weights.sample_with_latents(count, args)
            summary.add(chunk)
            z.append(latent.nodes["z"]["value"])
            log_weights.append(chunk.total.double())
            advance(count)
        shares = torch.cat(log_weights).softmax(0)  # (S, B)
        diagnostics = summary.result()
        kept = {key: diagnostics[key] for key in ("log_likelihood", "effective_sample_size", "pareto_k")}
        return {**kept, **_imputed(vae, args, z, shares, num_draws)}

    tensors = batches.run(work)
    return Imputation(**{**tensors, "draws": tensors["draws"].movedim(1, 0)})


def _imputed(vae: VAE, args: tuple[Any, ...], z: list[Tensor], shares: Tensor, num_draws: int) -> dict[str, Tensor]:
    """Mean, standard error and draws, ``(B, num_draws, *data_shape)``, from chunks of latents with weights (S, B)."""
    x, *context = args
    missing = x.isnan()
    first = second = square = torch.zeros(())
    for part, w in zip(z, shares.split([len(part) for part in z]), strict=True):
        f = vae.likelihood(part, *context).mean.double()  # (chunk, B, *data_shape)
        w = w.reshape(*w.shape, *(1,) * (x.dim() - 1))
        first, second = first + (w * f).sum(0), second + (w.square() * f).sum(0)
        square = square + (w * f).square().sum(0)
    total = shares.square().sum(0).reshape(-1, *(1,) * (x.dim() - 1))
    # sum of w^2 (f - mean)^2
    error = (square - 2 * first * second + first.square() * total).clamp_min(0).sqrt()
    chosen = shares.T.multinomial(num_draws, replacement=True).T  # (num_draws, B)
    draws = vae.likelihood(torch.cat(z)[chosen, torch.arange(len(x), device=x.device)], *context).sample()
    return {
        "mean": torch.where(missing, first.to(x.dtype), x),
        "standard_error": torch.where(missing, error, 0.0).to(x.dtype),
        "draws": torch.where(missing, draws, x).movedim(0, 1),
    }

"""Pareto k: the shape of the tail of importance weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_shape


def tail_length(num_samples: int) -> int:
    """Number of largest weights that the tail fit uses, min(S / 5, 3 sqrt(S)), rounded up.

    Example:
        >>> tail_length(5000)
        213
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_k(largest_log_weights: Tensor, num_samples: int) -> Tensor:
    r"""Shape k of the generalised Pareto distribution fitted to the largest importance weights.

    Below 0.5 the weights have a finite variance; up to 0.7 the estimate is usable; above, estimate and standard error
    are unreliable. From 25 samples on it agrees with ``arviz.psislw``, except that arviz omits from the tail weights
    equal to its smallest and weights that underflow relative to the largest, and returns inf if fewer than five remain.

    Args:
        largest_log_weights: ``(M + 1, batch)`` with ``M = tail_length(num_samples)``, in any order.
        num_samples: number S of weights that these are the largest of.

    Returns:
        ``(batch,)``: k; nan with fewer than 25 samples, which are too few for the fit; -inf if all weights are equal;
        inf if fewer than two are nonzero.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024), section 2. https://arxiv.org/abs/1507.02646
        A new and efficient estimation method for the generalized Pareto distribution (Zhang and Stephens, 2009).
        https://doi.org/10.1198/tech.2009.08017

    Example:
        >>> _ = torch.manual_seed(0)
        >>> log_weights = -0.5 * torch.rand(100_000, 1, dtype=torch.float64).log()  # Pareto with k = 0.5
        >>> k = pareto_k(log_weights.topk(tail_length(100_000) + 1, dim=0).values, 100_000)
        >>> bool((k - 0.5).abs() < 0.15)
        True
    """
    check_arguments(pareto_k, locals(), num_samples=1)
    if num_samples < 25:
        return largest_log_weights.new_full(largest_log_weights.shape[1:], torch.nan)
    rows = tail_length(num_samples) + 1
    check_shape("pareto_k", "dimension 0 of largest_log_weights", largest_log_weights.shape[:1], (rows,))
    ordered = largest_log_weights.double().sort(dim=0).values
    weights = (ordered - ordered[-1]).exp()
    excess = (weights[1:] - weights[0]).clamp_min(0)  # (M, batch)
    constant = excess[-1] <= 1e-10
    k = _fit(torch.where(constant, torch.ones_like(excess).cumsum(0), excess.clamp_min(1e-300)))
    k = torch.where(constant, -torch.inf, k)
    # With fewer than two nonzero weights there is no tail to fit, and the estimate is unreliable.
    return torch.where(ordered.isfinite().sum(0) < 2, torch.inf, k).to(largest_log_weights.dtype)


def _fit(x: Tensor) -> Tensor:
    """Zhang and Stephens' posterior mean of k for excesses x, ``(M, batch)`` in ascending order."""
    n = x.shape[0]
    num_points = 30 + int(math.sqrt(n))
    i = torch.arange(1, num_points + 1, dtype=x.dtype, device=x.device).unsqueeze(-1) - 0.5
    quartile = x[int(n / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - (num_points / i).sqrt()) / (3 * quartile)  # (points, batch)
    k = torch.log1p(-b.unsqueeze(1) * x).mean(1)
    profile = n * (torch.log(-b / k) - k - 1)
    weights = torch.softmax(profile, dim=0)
    shape = torch.log1p(-(weights * b).sum(0) * x).mean(0)
    return (n * shape + 5.0) / (n + 10)  # weak prior of 10 observations at k = 0.5

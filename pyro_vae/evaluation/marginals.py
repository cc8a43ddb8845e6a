"""Marginal distributions, moments and KL of the single dimensions of a distribution over vectors."""

from __future__ import annotations

import torch
from torch import Size, Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pyro_vae.distributions import MixtureOfNormals


def factorises(q: Distribution) -> bool:
    """Whether the distribution is an explicit product over its dimensions."""
    return isinstance(q, Independent) and q.reinterpreted_batch_ndims == 1 and not q.base_dist.event_shape


def marginal_distributions(q: Distribution) -> Distribution | None:
    """Distributions of the single dimensions, batch shape ``(*batch, L)``; None without a closed form.

    Args:
        q: with batch shape ``batch`` and event shape ``(L,)``.

    Example:
        >>> from torch.distributions import MultivariateNormal
        >>> marginal_distributions(MultivariateNormal(torch.zeros(5, 2), torch.eye(2))).batch_shape
        torch.Size([5, 2])
    """
    if factorises(q):
        return q.base_dist  # type: ignore[attr-defined]
    if isinstance(q, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(q.mean, q.variance.sqrt())
    if isinstance(q, MixtureOfNormals):
        normals = Normal(q.locs.mT, q.scales.mT)  # (*batch, L, C)
        return MixtureSameFamily(Categorical(logits=q.logits.unsqueeze(-2).expand(normals.batch_shape)), normals)
    return None


def moments(q: Distribution, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of every dimension, and the variance of that mean as an estimate.

    Args:
        q: with batch shape ``batch`` and event shape ``(L,)``.
        num_samples: number of samples, at least 2, for a distribution without closed-form moments.

    Returns:
        Three tensors ``(*batch, L)``; the third is 0 for closed-form moments.
    """
    try:
        return q.mean, q.variance, torch.zeros_like(q.mean)
    except NotImplementedError:
        z = q.sample(Size([num_samples]))  # (S, *batch, L)
        return z.mean(0), z.var(0), z.var(0) / num_samples


def kl_per_dimension(q: Distribution, p: Distribution, num_samples: int) -> Tensor | None:
    """KL of each marginal of q to that of p, ``(*batch, L)``, in nats; None if a marginal has no closed form.

    Estimated from ``num_samples`` samples if torch has no formula.
    """
    q_marginals, p_marginals = marginal_distributions(q), marginal_distributions(p)
    if q_marginals is None or p_marginals is None:
        return None
    try:
        return kl_divergence(q_marginals, p_marginals)
    except NotImplementedError:
        z = q_marginals.sample(Size([num_samples]))  # (S, *batch, L)
        return (q_marginals.log_prob(z) - p_marginals.log_prob(z)).mean(0)

"""The dimensions of a distribution over vectors, one by one: margins, moments and KL."""

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
    """Whether the dimensions are independent and known one by one."""
    return isinstance(q, Independent) and q.reinterpreted_batch_ndims == 1 and not q.base_dist.event_shape


def marginals(q: Distribution) -> Distribution | None:
    """The distributions of the single dimensions, batch shape ``(*batch, L)``; None where they have no closed form.

    Args:
        q: with batch shape ``batch`` and event shape ``(L,)``.

    Example:
        >>> from torch.distributions import MultivariateNormal
        >>> marginals(MultivariateNormal(torch.zeros(5, 2), torch.eye(2))).batch_shape
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
        num_samples: draws, at least 2, where there is no closed form.

    Returns:
        ``(*batch, L)`` each; the third is 0 in closed form.
    """
    try:
        return q.mean, q.variance, torch.zeros_like(q.mean)
    except NotImplementedError:
        z = q.sample(Size([num_samples]))  # (S, *batch, L)
        return z.mean(0), z.var(0), z.var(0) / num_samples


def kl_per_dimension(q: Distribution, p: Distribution, num_samples: int) -> Tensor | None:
    """KL of each margin of q to that of p, ``(*batch, L)``, in nats; None where one has no closed form.

    By ``num_samples`` draws where torch knows no formula.
    """
    ours, theirs = marginals(q), marginals(p)
    if ours is None or theirs is None:
        return None
    try:
        return kl_divergence(ours, theirs)
    except NotImplementedError:
        z = ours.sample(Size([num_samples]))  # (S, *batch, L)
        return (ours.log_prob(z) - theirs.log_prob(z)).mean(0)

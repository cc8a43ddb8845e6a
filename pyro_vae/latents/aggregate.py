"""The aggregate posterior of single dimensions: KL, activity and quantiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from pyro_vae.data.batches import Data
from pyro_vae.evaluation.diagnostics import ACTIVE_VARIANCE, activity_of
from pyro_vae.evaluation.marginals import kl_per_dimension, marginal_distributions, moments
from pyro_vae.latents.space import LatentSpace

NUM_DRAWS = 100
"""Samples per datum that represent a posterior whose marginals have no closed form."""
_WIDTH, _BISECTIONS = 40.0, 64  # standard deviations around a mean that contain every quantile; halvings of the bracket


@dataclass(frozen=True)
class AggregateMarginals:
    r"""The marginals :math:`q(z_j) = \frac1N \sum_n q(z_j | x_n)` of an aggregate posterior.

    Attributes:
        kl: ``(L,)``, mean KL(q(z_j | x) || p(z_j)) in nats, with the prior given the latents that the model samples
            before z; None if a marginal has no closed form.
        activity: ``(L,)``, Var_x(E_q[z_j | x]).
        posteriors: marginals of each batch, batch shape ``(B, L)``; empty if they have no closed form.
        draws: ``(M, L)``, samples of the aggregate posterior instead.
        bracket: ``(2, L)``, values between which all quantiles lie.
    """

    kl: Tensor | None
    activity: Tensor
    posteriors: list[Distribution]
    draws: Tensor | None
    bracket: Tensor

    def order(self, *, active: bool) -> list[int]:
        """The dimensions, or the active ones, from the largest KL to the smallest; by activity if there is no KL."""
        ranked = (self.activity if self.kl is None else self.kl).argsort(descending=True, stable=True).tolist()
        return [j for j in ranked if not active or self.activity[j] > ACTIVE_VARIANCE]

    def cdf(self, z: Tensor) -> Tensor:
        """Distribution functions of the dimensions at ``(Q, L)``: ``(Q, L)``, float64."""
        sums = [q.cdf(z.double().unsqueeze(1)).sum(1) for q in self.posteriors]  # (Q, L) each
        return torch.stack(sums).sum(0) / sum(q.batch_shape[0] for q in self.posteriors)

    def quantiles(self, levels: Tensor) -> Tensor:
        """Quantiles ``(Q, L)``, float64, at the probabilities ``(Q,)``: by bisection, or those of the samples."""
        if self.draws is not None:
            return self.draws.double().quantile(levels.double(), 0)
        low, high = self.bracket.double().unsqueeze(1).expand(-1, len(levels), -1)  # (Q, L) each
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self.cdf(middle) < levels.double().unsqueeze(-1)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def aggregate_marginals(space: LatentSpace, data: Data) -> AggregateMarginals:
    """The marginals of a data set's aggregate posterior.

    Args:
        space: the latent.
        data: an ``ImageSet``, a tensor ``(N, *data_shape)``, or an iterable of batches.
    """
    rows, kl, posteriors, draws = [], [], [], []
    for codes, q in space.batches(data):
        rows.append(moments(q, space.num_samples))
        divergence = kl_per_dimension(q, space.prior(codes), space.num_samples)
        kl += [] if divergence is None else [divergence]
        marginals = marginal_distributions(q)
        posteriors += [] if marginals is None else [marginals]
        draws += [q.sample(Size([NUM_DRAWS])).flatten(0, 1)] if marginals is None else []
    mean, variance, noise = (torch.cat(column) for column in zip(*rows, strict=True))
    reach = _WIDTH * variance.sqrt()
    return AggregateMarginals(
        torch.cat(kl).mean(0) if kl else None,
        activity_of(mean, noise),
        posteriors,
        torch.cat(draws) if draws else None,
        torch.stack([(mean - reach).amin(0), (mean + reach).amax(0)]),
    )

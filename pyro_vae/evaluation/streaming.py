"""What is kept of log-weights while they stream by, whatever their number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.evaluation.log_weights import LogWeights
from pyro_vae.evaluation.pareto import pareto_k, tail_length


class WeightSummary:
    r"""Running sums of log-weights per datum, in float64 and at fixed memory.

    The result is the same for every division of the same weights into chunks, to rounding.

    Args:
        num_samples: number of weights per datum S that will be added in all.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples, self.tail = num_samples, tail_length(num_samples) + 1
        self._log_sum: Tensor | None = None

    def add(self, weights: LogWeights) -> None:
        """Take in a chunk, ``(chunk, batch)``."""
        likelihood, ratio = weights.log_likelihood.double(), weights.log_ratio.double()  # apart: one may be far larger
        total = likelihood + ratio
        parts = (total.logsumexp(0), (2 * total).logsumexp(0), likelihood.sum(0), ratio.sum(0))
        if self._log_sum is None:
            self._log_sum, self._log_sum_squares, self._log_likelihood, self._log_ratio = parts
            self._largest = total.topk(min(self.tail, len(total)), dim=0).values
            return
        self._log_sum = torch.logaddexp(self._log_sum, parts[0])
        self._log_sum_squares = torch.logaddexp(self._log_sum_squares, parts[1])
        self._log_likelihood, self._log_ratio = self._log_likelihood + parts[2], self._log_ratio + parts[3]
        candidates = torch.cat([self._largest, total])
        self._largest = candidates.topk(min(self.tail, len(candidates)), dim=0).values

    def result(self) -> dict[str, Tensor]:
        """The estimates per datum, each ``(batch,)``; see :class:`~pyro_vae.evaluation.LogLikelihood`."""
        if self._log_sum is None:
            raise ValueError("WeightSummary: weights must have been added, got none. Call add() first.")
        s = self.num_samples
        # Where every weight is 0 there is no estimate: no effective sample, an infinite error.
        ess = (2 * self._log_sum - self._log_sum_squares).exp().nan_to_num(nan=0.0)
        # Var(w) / E[w]^2 = (S / ess - 1) S / (S - 1), and log has derivative 1 / E[w].
        relative_variance = (s / ess - 1).clamp_min(0) / (s - 1) if s > 1 else torch.full_like(ess, torch.nan)
        return {
            "log_likelihood": self._log_sum - math.log(s),
            "standard_error": relative_variance.sqrt(),
            "effective_sample_size": ess,
            "pareto_k": pareto_k(self._largest, s),
            "elbo": (self._log_likelihood + self._log_ratio) / s,
            "distortion": -self._log_likelihood / s,
            "rate": -self._log_ratio / s,
        }

"""Statistics of a stream of log-weights at fixed memory, independent of their number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal
from pyro_vae.evaluation.pareto import pareto_k, tail_length
from pyro_vae.evaluation.weights import LogWeights

BUFFER_SIZE = 1000
"""Number of weights per datum that are buffered and summarised together."""


class BoundCurve:
    r"""The bounds :math:`L_K`, K = 1, 2, 4, ..., from a stream of weights: means over disjoint blocks of K weights.

    A block of K weights is a pair of consecutive blocks of K / 2 weights. Blocks are formed as the weights arrive, each
    weight is used once for every K, and only one unpaired block of each size is stored.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), theorem 1: the bounds rise with K.
        https://arxiv.org/abs/1509.00519
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._unpaired: list[Tensor] = []
        self._counts: list[int] = []

    def add(self, log_weights: Tensor) -> None:
        """Add a chunk, ``(chunk, batch)``, float64."""
        blocks, level = log_weights, 0  # log-sums of 2^level weights
        while len(blocks):
            if level == len(self._sums):
                self._sums.append(torch.zeros_like(blocks[0]))
                self._unpaired.append(blocks[:0])
                self._counts.append(0)
            self._sums[level] = self._sums[level] + blocks.sum(0)
            self._counts[level] += len(blocks)
            blocks = torch.cat([self._unpaired[level], blocks])
            even = len(blocks) // 2 * 2
            self._unpaired[level] = blocks[even:]
            blocks, level = torch.logaddexp(blocks[0:even:2], blocks[1:even:2]), level + 1

    def result(self) -> Tensor:
        """``(batch, J)``: the bound for 2^j weights in column j, up to the largest complete block."""
        bounds = zip(self._sums, self._counts, strict=True)
        return torch.stack([total / count - j * math.log(2) for j, (total, count) in enumerate(bounds)], -1)


class WeightSummary:
    r"""Running sums of log-weights per datum, in float64 and at fixed memory.

    The result does not depend on the division into chunks except by rounding.

    Args:
        num_samples: total number of weights per datum S.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples, self.tail = num_samples, tail_length(num_samples) + 1
        self._log_sum: Tensor | None = None
        self._curve = BoundCurve()
        self._buffer = torch.empty(2, 0, 0)
        self._num_buffered = 0

    def add(self, weights: LogWeights) -> None:
        """Add a chunk, ``(chunk, batch)``."""
        chunk, batch = weights.log_ratio.shape
        if self._num_buffered + chunk > self._buffer.shape[1]:
            self._flush()
            # One preallocated tensor: small ones that outlive the decodings between them would fragment the heap.
            self._buffer = weights.log_ratio.new_empty(2, max(BUFFER_SIZE, chunk), batch, dtype=torch.float64)
        rows = slice(self._num_buffered, self._num_buffered + chunk)
        self._buffer[0, rows], self._buffer[1, rows] = weights.log_likelihood, weights.log_ratio
        self._num_buffered += chunk

    def _flush(self) -> None:
        """Summarise the buffered chunks together; many small operations on each would cost a tenth of the decoding."""
        if self._num_buffered == 0:
            return
        likelihood, ratio = self._buffer[:, : self._num_buffered]  # separate: one may be far larger
        self._num_buffered = 0
        total = likelihood + ratio
        self._curve.add(total)
        sums = (total.logsumexp(0), (2 * total).logsumexp(0), likelihood.sum(0), ratio.sum(0))
        if self._log_sum is None:
            self._log_sum, self._log_sum_squares, self._log_likelihood, self._log_ratio = sums
            self._largest = total.topk(min(self.tail, len(total)), dim=0).values
            return
        self._log_sum = torch.logaddexp(self._log_sum, sums[0])
        self._log_sum_squares = torch.logaddexp(self._log_sum_squares, sums[1])
        self._log_likelihood, self._log_ratio = self._log_likelihood + sums[2], self._log_ratio + sums[3]
        candidates = torch.cat([self._largest, total])
        self._largest = candidates.topk(min(self.tail, len(candidates)), dim=0).values

    def result(self) -> dict[str, Tensor]:
        """The estimates per datum, ``(batch,)``, and their curve; see :class:`~pyro_vae.evaluation.LogLikelihood`."""
        self._flush()
        if self._log_sum is None:
            raise refusal("WeightSummary", "weights must have been added", "none", "Call add() first")
        s = self.num_samples
        estimate, error, ess = _moments(self._log_sum, self._log_sum_squares, s)
        curve = self._curve.result()
        if s != 2 ** (curve.shape[-1] - 1):
            curve = torch.cat([curve, estimate.unsqueeze(-1)], -1)
        return {
            "log_likelihood": estimate,
            "standard_error": error,
            "effective_sample_size": ess,
            "pareto_k": pareto_k(self._largest, s),
            "elbo": (self._log_likelihood + self._log_ratio) / s,
            "distortion": -self._log_likelihood / s,
            "rate": -self._log_ratio / s,
            "curve": curve,
        }


def log_mean(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logarithm of the mean of weights, its standard error, and the effective sample size.

    Args:
        log_weights: ``(S, batch)``, float64.

    Returns:
        Three tensors ``(batch,)``; the error is nan for a single weight.

    Example:
        >>> log_mean(torch.tensor([[0.0], [0.0]], dtype=torch.float64))
        (tensor([0.], dtype=torch.float64), tensor([0.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    return _moments(log_weights.logsumexp(0), (2 * log_weights).logsumexp(0), len(log_weights))


def _moments(log_sum: Tensor, log_sum_squares: Tensor, s: int) -> tuple[Tensor, Tensor, Tensor]:
    # If every weight is 0, the effective sample size is 0 and the error infinite.
    ess = (2 * log_sum - log_sum_squares).exp().nan_to_num(nan=0.0)
    # Var(w) / E[w]^2 = (S / ess - 1) S / (S - 1), and log has derivative 1 / E[w].
    spread = s / ess - 1
    spread = torch.where(spread.abs() < 1e-12, 0.0, spread.clamp_min(0))  # rounding, if all weights are equal
    relative_variance = spread / (s - 1) if s > 1 else torch.full_like(ess, torch.nan)
    return log_sum - math.log(s), relative_variance.sqrt(), ess

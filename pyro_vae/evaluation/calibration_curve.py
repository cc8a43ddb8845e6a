"""Reliability of a classifier: confidence against accuracy, in bins of the confidence."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_shape, require

NUM_BINS = 15


class Reliability(NamedTuple):
    """Confidence and accuracy in bins of the confidence, each ``(num_bins,)``, float64; nan in an empty bin."""

    edges: Tensor
    """``(num_bins + 1,)``, limits of the bins; a bin contains its upper limit."""
    counts: Tensor
    """Number of data."""
    confidence: Tensor
    """Mean probability of the predicted class."""
    accuracy: Tensor
    """Fraction of correct predictions."""
    variance: Tensor
    """Mean of confidence times its complement: the variance of a calibrated classifier's predictions being correct."""

    @property
    def error(self) -> float:
        r"""The expected calibration error, :math:`\sum_m \frac{n_m}{N} |\mathrm{acc}_m - \mathrm{conf}_m|`."""
        gap = (self.accuracy - self.confidence).abs().nan_to_num(nan=0.0)
        return float((self.counts / self.counts.sum() * gap).sum())

    @property
    def largest_error(self) -> float:
        """The maximum calibration error, over nonempty bins."""
        return float((self.accuracy - self.confidence).abs().nan_to_num(nan=0.0).max())

    @property
    def floor(self) -> float:
        """Expected calibration error of a perfectly calibrated classifier for this number of data.

        It is positive: the mean absolute value of a normal variable is sqrt(2 / pi) of its standard deviation.
        """
        spread = (
            self.counts * self.variance.nan_to_num(nan=0.0)
        ).sqrt()  # of the number of correct predictions, per bin
        return float(math.sqrt(2 / math.pi) * spread.sum() / self.counts.sum())


def reliability(
    confidence: Tensor, correct: Tensor, *, num_bins: int = NUM_BINS, equal_mass: bool = False
) -> Reliability:
    r"""Mean confidence and accuracy in bins of the confidence.

    Args:
        confidence: ``(N,)``, the probability of the predicted class.
        correct: ``(N,)``, whether the prediction is correct.
        num_bins: number of bins M.
        equal_mass: bins of equally many data instead of equal width.

    Returns:
        The bins, whose ``error`` is the expected calibration error (ECE).

    Raises:
        ValueError: ``num_bins`` is not positive, or larger than the number of data for bins of equal mass.

    References:
        On calibration of modern neural networks (Guo et al., 2017), eq. 2 and 3: bins of equal width.
        https://arxiv.org/abs/1706.04599
        Posterior calibration and exploratory analysis for natural language processing models (Nguyen and O'Connor,
        2015), section 3: bins of equal mass. https://arxiv.org/abs/1508.05154

    Example:
        >>> bins = reliability(torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([1, 1, 1, 0]), num_bins=2)
        >>> bins.counts.tolist(), round(bins.error, 3)
        ([0.0, 4.0], 0.0)
    """
    check_arguments(reliability, locals(), num_bins=1)
    check_shape("reliability", "correct", correct.shape, confidence.shape[:1], "Pass one entry per confidence")
    valid = confidence.dim() == 1 and bool(((confidence >= 0) & (confidence <= 1) & (correct == correct.bool())).all())
    require(valid, "reliability", "confidence must be (N,), in [0, 1], and correct 0 or 1", "other values")
    if equal_mass:
        rule = "num_bins must be at most the number of data for bins of equal mass"
        got = f"num_bins={num_bins} for {len(confidence)} data"
        require(num_bins <= len(confidence), "reliability", rule, got)
    confidence, correct = confidence.detach().cpu().double(), correct.cpu().double()
    if equal_mass:
        ordered, order = confidence.sort(stable=True)
        bins = torch.empty_like(order).index_copy(0, order, torch.arange(len(order)) * num_bins // len(order))
        last = torch.stack([ordered[bins[order] == b][-1] for b in range(num_bins)])
        edges = torch.cat([ordered[:1], last])
    else:
        edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
        bins = torch.bucketize(confidence, edges[1:-1])  # (m - 1) / M < confidence <= m / M
    count, num_correct, total, variance = (
        torch.zeros(num_bins, dtype=torch.float64).index_add(0, bins, value)
        for value in (torch.ones_like(confidence), correct, confidence, confidence * (1 - confidence))
    )
    return Reliability(edges, count, total / count, num_correct / count, variance / count)

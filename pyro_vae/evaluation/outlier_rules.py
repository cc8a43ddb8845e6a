"""Rules that combine several statistics or scores into one score, fitted to a part of the reference."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Combination: TypeAlias = Literal["density", "svm", "mean", "largest"]
_LEAST_VARIANCE = 1e-6  # of a direction, relative to a mean of 1; deviations in a constant statistic count as large
_BLOCK = 1000


class Rule:
    r"""A combined score, larger for stranger data.

    - ``"density"``: :math:`-\log \hat f(t)` of the statistics t, :math:`\hat f` a kernel density of the reference's
      statistics after whitening, with Scott's bandwidth :math:`n^{-1/(d+4)}`. It is two-sided in every direction.
    - ``"svm"``: a one-class support vector machine of the same whitened statistics.
    - ``"mean"``, ``"largest"``: mean and maximum of the standardized scores.

    A p-value of the combined score keeps its rate of false alarms whatever the dependence of the scores, since it is
    calibrated like those of single scores.

    Args:
        kind: the rule.
        statistics: ``(n, d)``, of the reference, float64.
        scores: ``(n, S)``, of the reference, float64.

    References:
        Density of states estimation for out-of-distribution detection (Morningstar et al., 2021).
        https://arxiv.org/abs/2006.09273

    Example:
        >>> reference = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> near, far = Rule("density", reference, reference)(torch.tensor([[0.0, 0.0], [9.0, 9.0]]), reference[:2])
        >>> bool(near < far)
        True
    """

    def __init__(self, kind: Combination, statistics: Tensor, scores: Tensor) -> None:
        self.kind: Combination = kind
        self.center, self.transform = _whitening(statistics)
        self.mean, self.std = scores.mean(0), scores.std(0).clamp_min(1e-9)
        self.points = self._white(statistics)
        self._machine = _one_class_machine(self.points) if kind == "svm" else None

    def __call__(self, statistics: Tensor, scores: Tensor) -> Tensor:
        """The combined score ``(N,)`` of statistics ``(N, d)`` and scores ``(N, S)``; infinite if one is not finite."""
        finite = statistics.isfinite().all(-1) & scores.isfinite().all(-1)
        return torch.where(finite, self._score(statistics.nan_to_num(), scores.nan_to_num()), torch.inf)

    def _score(self, statistics: Tensor, scores: Tensor) -> Tensor:
        if self.kind in ("mean", "largest"):
            z = (scores - self.mean) / self.std
            return z.mean(-1) if self.kind == "mean" else z.max(-1).values
        white = self._white(statistics)
        if self._machine is not None:
            return torch.from_numpy(-self._machine.decision_function(white.numpy()))
        return torch.cat([self._minus_log_density(block) for block in white.split(_BLOCK)])

    def _minus_log_density(self, white: Tensor) -> Tensor:
        n, d = self.points.shape
        bandwidth = n ** (-1 / (d + 4))
        kernels = -0.5 * (torch.cdist(white, self.points) / bandwidth).square()
        constant = math.log(n) + d * (math.log(bandwidth) + 0.5 * math.log(2 * math.pi))
        return constant - kernels.logsumexp(-1)

    def _white(self, statistics: Tensor) -> Tensor:
        return (statistics.double() - self.center) @ self.transform


def _whitening(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Center ``(d,)`` and matrix ``(d, d)`` after which the covariance is the identity."""
    center, std = statistics.mean(0), statistics.std(0).clamp_min(1e-9)
    correlation = (((statistics - center) / std).T @ ((statistics - center) / std)) / max(1, len(statistics) - 1)
    variances, directions = torch.linalg.eigh(correlation)
    return center, directions / std.unsqueeze(-1) / variances.clamp_min(_LEAST_VARIANCE).sqrt()


def _one_class_machine(points: Tensor) -> Any:
    from sklearn.svm import OneClassSVM  # here, since it is rarely needed

    return OneClassSVM(gamma="scale", nu=0.1).fit(points.numpy())

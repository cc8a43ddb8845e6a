"""Conformal p-values and the measures of a score that ranks outliers above other data."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, refusal, require
from pyro_vae._core.contexts import isolated_rng

NUM_RESAMPLES = 400
"""Bootstrap resamples of an interval."""


def conformal_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    r"""Conformal p-values, :math:`p_i = (1 + \#\{j: c_j \ge s_i\}) / (m + 1)`; larger scores are stranger.

    If a datum and the m calibration data are exchangeable, :math:`P(p \le \alpha) \le \alpha` for every
    :math:`\alpha` at every m, so that a threshold on p is a rate of false alarms. The probability is over the datum and
    the calibration data: for one set of calibration data, the rate varies as :func:`false_alarm_interval` states.

    Args:
        scores: ``(N, *scores)``, of the data.
        calibration: ``(m, *scores)``, of data that neither the model nor the scores were fitted to.

    Returns:
        ``(N, *scores)``, float64, between 1 / (m + 1) and 1.

    Raises:
        ValueError: the calibration set is empty, or the shapes differ.

    References:
        Testing for outliers with conformal p-values (Bates et al., 2023). https://arxiv.org/abs/2104.08279

    Example:
        >>> conformal_p_values(torch.tensor([5.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor([0.2500, 0.7500, 1.0000], dtype=torch.float64)
    """
    check_arguments(conformal_p_values, locals())
    require(len(calibration) > 0, "conformal_p_values", "calibration must not be empty", "0 data")
    _check_device("conformal_p_values", scores=scores, calibration=calibration)
    if scores.shape[1:] != calibration.shape[1:]:
        got = f"{tuple(scores.shape)} and {tuple(calibration.shape)}"
        raise refusal("conformal_p_values", "scores and calibration must differ in their length only", got)
    m, columns = len(calibration), zip(_columns(scores), _columns(calibration), strict=True)
    as_strange = [m - torch.searchsorted(c.sort().values, s.contiguous()) for s, c in columns]
    return ((1 + torch.stack(as_strange, -1).double()) / (m + 1)).reshape(scores.shape)


def false_alarm_interval(level: float, num_calibration: int, *, coverage: float = 0.95) -> tuple[float, float]:
    r"""Interval of the rate of false alarms at p <= level over sets of calibration data, exact for continuous scores.

    The rate given m calibration data is :math:`\mathrm{Beta}(k, m + 1 - k)` with
    :math:`k = \lfloor \alpha (m + 1) \rfloor`, whatever the scores are.

    Args:
        level: :math:`\alpha`, in (0, 1).
        num_calibration: m.
        coverage: share of the sets of calibration data whose rate lies in the interval, in (0, 1).

    Returns:
        The quantiles of the rate; (0, 0) if no p-value can be as small as ``level``.

    Raises:
        ValueError: an argument is out of range.

    References:
        Testing for outliers with conformal p-values (Bates et al., 2023), section 3. https://arxiv.org/abs/2104.08279

    Example:
        >>> low, high = false_alarm_interval(0.01, 200)
        >>> f"{low:.2%}, {high:.2%}"
        '0.12%, 2.75%'
    """
    from scipy.stats import beta  # type: ignore[import-untyped]

    check_arguments(false_alarm_interval, locals(), num_calibration=1)
    for name, value in (("level", level), ("coverage", coverage)):
        require(0 < value < 1, "false_alarm_interval", f"{name} must lie in (0, 1)", f"{name}={value}")
    rank = math.floor(level * (num_calibration + 1) + 1e-9)
    if not rank:
        return 0.0, 0.0
    low, high = beta(rank, num_calibration + 1 - rank).ppf([(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def _check_device(owner: str, **tensors: Tensor) -> None:
    (first, a), (second, b) = tensors.items()
    rule, got = f"{first} and {second} must be on one device", f"{a.device} and {b.device}"
    require(a.device == b.device, owner, rule, got, "Move one with .to()")


def _columns(values: Tensor) -> list[Tensor]:
    """The columns of ``(N, *scores)``, float64; a score that is not a number counts as strangest."""
    return list(values.double().nan_to_num(torch.inf, torch.inf, -torch.inf).reshape(len(values), -1).unbind(-1))


class Detection(NamedTuple):
    """Ranking of outliers above other data by a score, with a bootstrap interval."""

    auroc: float
    """Probability that an outlier has the larger score, ties counting one half."""
    interval: tuple[float, float]
    """95% interval of ``auroc``: quantiles over resamples of both sets."""
    fpr: float
    """Share of the other data with a score that at least 95% of the outliers reach."""

    def __str__(self) -> str:
        return f"{self.auroc:.4f} [{self.interval[0]:.4f}, {self.interval[1]:.4f}], FPR at 95% {self.fpr:.1%}"


def detection(scores: Tensor, outliers: Tensor, *, seed: int = 0) -> Detection:
    """Area under the ROC curve with its bootstrap interval, and the rate of false positives at 95% true positives.

    Args:
        scores: ``(N,)``, of data like the training data; larger is stranger.
        outliers: ``(M,)``, of outliers.
        seed: of the resamples; the global generator is restored.

    Raises:
        ValueError: a set is empty.

    References:
        An introduction to ROC analysis (Fawcett, 2006), section 7. https://doi.org/10.1016/j.patrec.2005.10.010

    Example:
        >>> detection(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([3.5, 5.0])).auroc
        0.875
    """
    check_arguments(detection, locals())
    require(len(scores) > 0 and len(outliers) > 0, "detection", "both sets must hold data", "an empty one")
    for name, values in (("scores", scores), ("outliers", outliers)):
        require(values.ndim == 1, "detection", f"{name} must be (N,)", f"shape={tuple(values.shape)}")
    _check_device("detection", scores=scores, outliers=outliers)
    (inner,), (outer,) = _columns(scores), _columns(outliers)
    with isolated_rng(seed):
        samples = [_auroc(_resampled(inner), _resampled(outer)) for _ in range(NUM_RESAMPLES)]
    low, high = torch.tensor(samples).quantile(torch.tensor([0.025, 0.975])).tolist()
    threshold = outer.sort(descending=True).values[math.ceil(0.95 * len(outer)) - 1]
    return Detection(_auroc(inner, outer), (low, high), float((inner >= threshold).double().mean()))


def _resampled(values: Tensor) -> Tensor:
    return values[torch.randint(len(values), (len(values),))]


def _auroc(inner: Tensor, outer: Tensor) -> float:
    inner = inner.sort().values
    below, up_to = (torch.searchsorted(inner, outer, right=right) for right in (False, True))
    return float((below + up_to).double().mean()) / (2 * len(inner))

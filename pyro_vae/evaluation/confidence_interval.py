"""The mean of a number over repeated experiments, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class ConfidenceInterval(NamedTuple):
    """A mean over draws of the labels and its confidence interval, ``mean - margin`` to ``mean + margin``."""

    mean: float
    """In the unit of what was measured: for errors %."""
    margin: float
    """Half the width of the interval; nan for one draw."""
    standard_deviation: float
    """Of the draws, with n - 1; nan for one draw."""
    num_draws: int
    """Number of draws n."""
    level: float
    """Probability with which the interval holds the mean."""

    @property
    def interval(self) -> tuple[float, float]:
        """Its two ends."""
        return self.mean - self.margin, self.mean + self.margin

    def __str__(self) -> str:
        if self.num_draws == 1:
            return f"{self.mean:.2f} (1 draw)"
        return f"{self.mean:.2f} +- {self.margin:.2f} ({self.level:.0%} interval over {self.num_draws} draws)"


def mean_interval(errors: Sequence[float], *, level: float = 0.95) -> ConfidenceInterval:
    r"""The mean error over draws of the labels, :math:`\bar e \pm t_{n-1} s / \sqrt n`, Student's interval.

    Which data are labelled changes the error by more than the test images do, so a method is measured over several
    draws. For two methods on the same draws pass the differences of their errors: what the draws share is then out of
    the interval.

    Args:
        errors: one number per draw, in %; or their differences.
        level: probability with which the interval is to hold the mean, for normal errors.

    Returns:
        Mean, half the interval's width, standard deviation, number of draws.

    Raises:
        ValueError: no errors, one that is not finite, or a level outside (0, 1).

    References:
        The probable error of a mean (Student, 1908). https://doi.org/10.1093/biomet/6.1.1

    Example:
        >>> print(mean_interval([4.0, 5.0, 6.0]))
        5.00 +- 2.48 (95% interval over 3 draws)
        >>> print(mean_interval([a - b for a, b in zip([4.0, 5.0, 6.0], [7.0, 8.1, 8.9])]))
        -3.00 +- 0.25 (95% interval over 3 draws)
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # a tenth of a second, rarely needed

    values = [float(error) for error in errors]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"mean_interval: errors must be finite, at least one, got errors={values}. Leave none out.")
    if not 0 < level < 1:
        raise ValueError(f"mean_interval: level must be between 0 and 1, got level={level}. Use 0.95.")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return ConfidenceInterval(mean, math.nan, math.nan, 1, level)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    quantile = float(stdtrit(n - 1, (1 + level) / 2))
    return ConfidenceInterval(mean, quantile * deviation / math.sqrt(n), deviation, n, level)

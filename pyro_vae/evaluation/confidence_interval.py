"""Confidence intervals of a mean over repeated experiments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pyro_vae._core.checks import check_arguments, require


class ConfidenceInterval(NamedTuple):
    """A mean over n repetitions and its confidence interval, ``mean - margin`` to ``mean + margin``."""

    mean: float
    """Mean, in the unit of the measurements."""
    margin: float
    """Half the width of the interval; nan for one repetition."""
    standard_deviation: float
    """Standard deviation over the repetitions, with n - 1 degrees of freedom; nan for one repetition."""
    num_draws: int
    """Number of repetitions n."""
    level: float
    """Coverage probability of the interval."""

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.mean - self.margin, self.mean + self.margin

    def __str__(self) -> str:
        if self.num_draws == 1:
            return f"{self.mean:.2f} (1 draw)"
        return f"{self.mean:.2f} +- {self.margin:.2f} ({self.level:.0%} interval over {self.num_draws} draws)"


def mean_interval(errors: Sequence[float], *, level: float = 0.95) -> ConfidenceInterval:
    r"""Mean and Student's confidence interval, :math:`\bar e \pm t_{n-1} s / \sqrt n`, over repeated experiments.

    The choice of the labelled data changes a classifier's error by more than the choice of the test images, so a method
    is evaluated for several choices. To compare two methods on the same choices, pass the differences of their errors,
    which cancels the variation that both share.

    Args:
        errors: one number per repetition, such as an error in %, or a difference.
        level: coverage probability of the interval, for normal errors.

    Returns:
        Mean, half the interval's width, standard deviation, number of repetitions.

    Raises:
        ValueError: ``errors`` is empty or has an entry that is not finite, or ``level`` is outside (0, 1).

    References:
        The probable error of a mean (Student, 1908). https://doi.org/10.1093/biomet/6.1.1

    Example:
        >>> print(mean_interval([4.0, 5.0, 6.0]))
        5.00 +- 2.48 (95% interval over 3 draws)
        >>> print(mean_interval([a - b for a, b in zip([4.0, 5.0, 6.0], [7.0, 8.1, 8.9])]))
        -3.00 +- 0.25 (95% interval over 3 draws)
    """
    check_arguments(mean_interval, locals())
    from scipy.stats import t  # type: ignore[import-untyped]  # half a second, rarely needed

    values = [float(error) for error in errors]
    finite = bool(values) and all(map(math.isfinite, values))
    require(finite, "mean_interval", "errors must be finite, at least one", f"errors={values}")
    require(0 < level < 1, "mean_interval", "level must be between 0 and 1", f"level={level}", "Use 0.95")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return ConfidenceInterval(mean, math.nan, math.nan, 1, level)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    margin = float(t.ppf((1 + level) / 2, n - 1)) * deviation / math.sqrt(n)
    return ConfidenceInterval(mean, margin, deviation, n, level)

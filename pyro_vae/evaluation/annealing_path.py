"""Settings of an annealing path, and its inverse temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pyro_vae._core.checks import check_choice, check_count
from pyro_vae.evaluation.hmc import BURN_IN, AdaptedStepSizes
from pyro_vae.evaluation.latent_density import Start

Schedule = Literal["sigmoid", "linear", "adaptive"]

_STEEPNESS = 4.0  # the sigmoid runs from -4 to 4
_UNIFORM = 0.1  # share of the adaptive steps that follows the adaptation's own path, wherever the variance vanishes


@dataclass(frozen=True)
class AnnealingPath:
    """Settings of an annealed estimate; see :func:`annealed_log_likelihood`."""

    owner: str
    num_distributions: int
    num_chains: int
    num_steps: int
    start: Start
    schedule: Schedule

    def __post_init__(self) -> None:
        check_count(self.owner, num_chains=self.num_chains, num_steps=self.num_steps)
        check_count(self.owner, 2, num_distributions=self.num_distributions)
        check_choice(self.owner, "schedule", self.schedule, ("sigmoid", "linear", "adaptive"))

    @property
    def num_stages(self) -> int:
        """Number of steps from one distribution to the next."""
        return self.num_distributions - 1

    @property
    def num_adaptation_steps(self) -> int:
        """Number of transitions that adapt the step sizes, burn-in included."""
        return BURN_IN + self.num_adaptation_betas

    @property
    def num_adaptation_betas(self) -> int:
        """Number of points of the path at which the step sizes are adapted."""
        return min(200, self.num_distributions)

    def betas(self, num: int | None = None) -> list[float]:
        """Inverse temperatures from 0 to 1, by default one for each distribution; before an adaptation."""
        fractions = torch.linspace(0, 1, num or self.num_distributions, dtype=torch.float64)
        if self.schedule == "linear":
            return fractions.tolist()
        curve = (_STEEPNESS * (2 * fractions - 1)).sigmoid()
        return ((curve - curve[0]) / (curve[-1] - curve[0])).tolist()

    def schedule_of(self, adapted: AdaptedStepSizes | None) -> tuple[list[float], list[float]]:
        """Inverse temperatures of the distributions, and for each the fraction of the adaptation's path."""
        last = self.num_distributions - 1
        if self.schedule != "adaptive" or adapted is None:
            return self.betas(), [stage / last for stage in range(last + 1)]
        betas = equal_spread(adapted.betas, adapted.variances, self.num_distributions)
        grid = torch.tensor(adapted.betas, dtype=torch.float64)
        nearest = (torch.tensor(betas).unsqueeze(-1) - grid).abs().argmin(-1)
        return betas, (nearest / (len(grid) - 1)).tolist()

    def protocol(self) -> dict[str, Any]:
        """Protocol entries."""
        return {
            "num_distributions": self.num_distributions,
            "num_chains": self.num_chains,
            "num_steps": self.num_steps,
            "start": self.start,
            "schedule": self.schedule,
        }


def equal_spread(betas: Sequence[float], variances: Sequence[float], num: int) -> list[float]:
    r"""Inverse temperatures between which log-weights spread equally: steps inversely proportional to the deviation.

    If the transitions mix perfectly, the variance of a log-weight is
    :math:`\sum_t (\beta_{t+1} - \beta_t)^2 V(\beta_t)` with the variance V of the log-ratio of the densities at both
    ends. For a given number of steps it is smallest if every step times :math:`\sqrt{V}` is the same.

    Args:
        betas: inverse temperatures from 0 to 1 at which the variance is known.
        variances: the variances, means over the data.
        num: number of inverse temperatures to return, both ends included.

    References:
        Simulating normalizing constants: from importance sampling to bridge sampling to path sampling (Gelman and Meng,
        1998), on optimal paths. https://doi.org/10.1214/ss/1028905934

    Example:
        >>> equal_spread([0.0, 0.5, 1.0], [9.0, 9.0, 9.0], 5)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    grid = torch.tensor(list(betas), dtype=torch.float64)
    deviations = torch.tensor(list(variances), dtype=torch.float64).sqrt()
    parts = grid.diff() * (deviations[1:] + deviations[:-1]) / 2
    share = parts / parts.sum().clamp_min(1e-300)
    share = (1 - _UNIFORM) * share + _UNIFORM / len(parts)
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), share.cumsum(0)])
    ends = ends / ends[-1]
    levels = torch.linspace(0, 1, num, dtype=torch.float64)
    index = torch.searchsorted(ends, levels).clamp(1, len(grid) - 1)
    within = (levels - ends[index - 1]) / (ends[index] - ends[index - 1])
    values = (grid[index - 1] + within * (grid[index] - grid[index - 1])).tolist()
    return [0.0, *values[1:-1], 1.0]

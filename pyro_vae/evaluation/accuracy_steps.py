"""The estimators that an estimate to a given accuracy tries, with their bounds on simulated data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pyro_vae._core.types import Program
from pyro_vae.data.batches import Data
from pyro_vae.evaluation.annealed import annealed_log_likelihood
from pyro_vae.evaluation.bidirectional import sandwich
from pyro_vae.evaluation.importance_sampling import importance_estimate
from pyro_vae.evaluation.importance_sandwich import Bounds, importance_bounds
from pyro_vae.evaluation.proposals import guides_of
from pyro_vae.evaluation.streaming import BoundCurve

SAMPLES = {"guide": (1024, 4096), "optimised": (1024, 4096, 16384)}
"""Numbers of importance samples that are tried, by proposal, in this order."""
MIN_SAMPLES = min(min(sizes) for sizes in SAMPLES.values())
DISTRIBUTIONS = {"guide": (30, 100, 300, 1000), "prior": (100, 300, 1000, 3000, 10000)}
"""Numbers of annealing distributions that are tried next, by the start of the chains, in this order."""
NUM_CHAINS = 16
"""Number of annealed chains per datum."""


@dataclass(frozen=True)
class Task:
    """Programs and data that every estimator is applied to."""

    model: Program
    guide: Any
    data: Data
    simulated: Data
    """Batches that determine number and shapes of the simulated data."""
    chunk_size: int
    common: dict[str, Any]
    """Options that all estimators have: batch size, data plate, engine, finished batches."""
    seed: int
    progress: bool


@dataclass(frozen=True)
class Estimate:
    """Numbers per datum of an estimator on the real data."""

    log_likelihood: Tensor
    standard_error: Tensor
    pareto_k: Tensor
    curve: Tensor
    protocol: dict[str, Any]


class Step(ABC):
    """An estimator at one size.

    Attributes:
        family: name of the estimator without its size.
        label: name of the estimator in results.
    """

    family: str
    label: str

    @abstractmethod
    def bounds(self, task: Task) -> Bounds:
        """Bounds on log p(x) of simulated data by this estimator."""

    @abstractmethod
    def estimate(self, task: Task) -> Estimate:
        """The estimate of the real data."""

    @abstractmethod
    def is_promising(self, gaps: Sequence[tuple[Step, float]], accuracy: float) -> bool:
        """Whether the accuracy is possible, given the gaps of earlier steps."""


@dataclass(frozen=True)
class ImportanceStep(Step):
    """Importance sampling."""

    proposal: str
    num_samples: int

    @property
    def family(self) -> str:  # type: ignore[override]
        return f"importance, {self.proposal}"

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"{self.family}, {self.num_samples:,} samples"

    def bounds(self, task: Task) -> Bounds:
        options: dict[str, Any] = {"proposal": self.proposal, "chunk_size": task.chunk_size, **task.common}
        seed = task.seed + 1  # so that the choice does not depend on the samples of the estimate
        data = task.simulated
        return importance_bounds(task.model, task.guide, data, num_samples=self.num_samples, seed=seed, **options)

    def estimate(self, task: Task) -> Estimate:
        result = importance_estimate(
            task.model,
            task.guide,
            task.data,
            proposal=self.proposal,
            num_samples=self.num_samples,
            chunk_size=task.chunk_size,
            precision="fp32",
            seed=task.seed,
            progress=task.progress,
            protocol=None,
            **task.common,
        )
        numbers = result.log_likelihood, result.standard_error, result.pareto_k, cast(Tensor, result.curve)
        return Estimate(*numbers, protocol=result.protocol)

    def is_promising(self, gaps: Sequence[tuple[Step, float]], accuracy: float) -> bool:
        """The gap decreases at most in proportion to the number of samples."""
        same = [(s, gap) for s, gap in gaps if isinstance(s, ImportanceStep) and s.family == self.family]
        return all(gap * step.num_samples <= accuracy * self.num_samples for step, gap in same)


@dataclass(frozen=True)
class AnnealedStep(Step):
    """Annealed importance sampling with the adaptive schedule."""

    start: Any
    num_distributions: int

    @property
    def family(self) -> str:  # type: ignore[override]
        return f"annealed from the {self.start}"

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"{self.family}, {self.num_distributions:,} distributions"

    def _options(self, task: Task) -> dict[str, Any]:
        guides = guides_of(task.guide)
        sizes = {"num_distributions": self.num_distributions, "num_chains": NUM_CHAINS, "schedule": "adaptive"}
        return {"guide": guides[0], "start": self.start, **sizes, **task.common}

    def bounds(self, task: Task) -> Bounds:
        options = self._options(task)
        result = sandwich(task.model, data=task.simulated, real=False, seed=task.seed + 1, **options)
        return Bounds(result.lower, result.upper)

    def estimate(self, task: Task) -> Estimate:
        options = self._options(task)
        result = annealed_log_likelihood(task.model, data=task.data, seed=task.seed, progress=task.progress, **options)
        curve = BoundCurve()
        curve.add(result.log_weights.T)
        unknown = torch.full_like(result.log_likelihood, torch.nan)
        numbers = result.log_likelihood, result.standard_error, unknown, curve.result()
        return Estimate(*numbers, protocol=result.protocol)

    def is_promising(self, gaps: Sequence[tuple[Step, float]], accuracy: float) -> bool:
        """A longer path would have to have reduced the gap; it does not if the start misses a mode."""
        same = [gap for s, gap in gaps if s.family == self.family]
        return len(same) < 2 or same[-1] <= max(0.7 * same[-2], accuracy)


def steps(max_samples: int, max_distributions: int) -> Iterator[Step]:
    """The estimators in the order in which they are tried."""
    for proposal, sizes in SAMPLES.items():
        yield from (ImportanceStep(proposal, size) for size in sizes if size <= max_samples)
    for start, sizes in DISTRIBUTIONS.items():
        yield from (AnnealedStep(start, size) for size in sizes if size <= max_distributions)

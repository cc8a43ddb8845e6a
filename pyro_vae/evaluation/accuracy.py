"""log p(x) to a given accuracy: estimators of increasing cost, until the diagnostics of one confirm it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_count, check_positive
from pyro_vae._core.owners import placement
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation.accuracy_result import AccurateLogLikelihood
from pyro_vae.evaluation.annealed import annealed_log_likelihood
from pyro_vae.evaluation.bidirectional import sandwich
from pyro_vae.evaluation.importance_bounds import Bounds, importance_bounds
from pyro_vae.evaluation.importance_sampling import importance_estimate
from pyro_vae.evaluation.proposals import guides_of
from pyro_vae.evaluation.sampler import Engine
from pyro_vae.evaluation.streaming import BoundCurve

SAMPLES = {"guide": (1024, 4096), "optimised": (1024, 4096, 16384)}
"""Numbers of importance samples that are tried, by proposal, in this order."""
DISTRIBUTIONS = {"guide": (30, 100, 300, 1000), "prior": (100, 300, 1000, 3000, 10000)}
"""Numbers of annealing distributions that are tried next, by the start of the chains, in this order."""
NUM_CHAINS = 16
"""Number of annealed chains per datum."""


@dataclass(frozen=True)
class Task:
    """What every estimator is applied to."""

    model: Program
    guide: Any
    data: Data
    simulated: Data
    """Batches that determine number and shapes of the simulated data."""
    chunk_size: int
    common: dict[str, Any]
    """Options that all estimators have: batch size, data plate, engine."""
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
        assert result.curve is not None
        numbers = result.log_likelihood, result.standard_error, result.pareto_k, result.curve
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


def accurate_log_likelihood(
    model: Program,
    guide: Any,
    data: Data,
    *,
    accuracy: float = 0.1,
    max_samples: int = 16384,
    max_distributions: int = 1000,
    num_simulated: int = 40,
    batch_size: int = 20,
    chunk_size: int = 50,
    data_plate: str | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    protocol: dict[str, Any] | None = None,
    progress: bool = False,
) -> AccurateLogLikelihood:
    r"""Estimate of log p(x) per datum by the first estimator whose bias is confirmed to be below ``accuracy``.

    The estimators are importance sampling with the guide, then with a proposal optimised per datum, then annealed
    importance sampling from the guide and from the prior, each with increasing size. An estimator is first applied to
    data simulated from the model, for which it gives a lower and an upper bound. If their gap is below the accuracy, it
    is applied to the real data, and accepted if its own diagnostics confirm the accuracy there too
    (:class:`AccurateLogLikelihood`). The estimate is the one that :func:`log_likelihood` or
    :func:`annealed_log_likelihood` gives with the settings in the result's protocol, whose entry ``tried`` lists the
    estimators and why they were not accepted. If none is, the result is that of the smallest gap, and says so.

    The bounds hold for data like the model's own samples. The estimate remains a lower bound in expectation.

    Args:
        model: Pyro model with observed sites, whose observed values are its arguments, unchanged.
        guide: Pyro guide for it, or several, of which annealing uses the first.
        data: an ``ImageSet``; a tensor ``(N, *data_shape)``; or an iterable of batches.
        accuracy: largest bias of the mean over the data, in nats.
        max_samples: largest number of importance samples.
        max_distributions: largest number of annealing distributions; below 30 there is no annealing.
        num_simulated: smallest number of simulated data; whole batches are simulated.
        batch_size: data at a time.
        chunk_size: importance samples at a time.
        data_plate: name of the plate over the data, if several plates contain all sites.
        seed: of the estimate; simulated data have the next one.
        engine: as in :func:`log_likelihood`.
        protocol: entries to add to the result's protocol.
        progress: show a progress bar.

    Returns:
        The estimate per datum in nats, with the diagnostics of its bias.

    Raises:
        ValueError: data cannot be simulated, no estimator applies, or a number is not positive.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), section 4.2.
        https://arxiv.org/abs/1511.02543

    Example:
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = accurate_log_likelihood(vae.model, vae.guide, torch.ones(20, 5), accuracy=0.2)
        >>> result.failures(), result.log_likelihood.shape
        ([], torch.Size([20]))
    """
    owner = "accurate_log_likelihood"
    check_positive(owner, accuracy=accuracy)
    counts = {"max_samples": max_samples, "max_distributions": max_distributions, "num_simulated": num_simulated}
    check_count(owner, batch_size=batch_size, chunk_size=chunk_size, **counts)
    device, dtype = placement(model, *guides_of(guide))
    pilot = [batch.args for batch in islice(Batches(data, batch_size, device=device, dtype=dtype).epoch(), 100)]
    enough = -(-num_simulated // len(pilot[0][0]))
    common = {"batch_size": batch_size, "data_plate": data_plate, "engine": engine}
    task = Task(model, guide, data, list(islice(cycle(pilot), enough)), chunk_size, common, seed, progress)
    search = Search(task, accuracy, protocol or {})
    for step in steps(max_samples, max_distributions):
        result = search.attempt(step)
        if result is not None and not result.failures():
            return result
    return search.best()


class Search:
    """Applies estimators to a task and stores what came of each.

    Args:
        task: the task.
        accuracy: largest bias in nats.
        protocol: entries of the results' protocol.
    """

    def __init__(self, task: Task, accuracy: float, protocol: dict[str, Any]) -> None:
        self.task, self.accuracy, self.protocol = task, float(accuracy), protocol
        self.tried: list[dict[str, Any]] = []
        self._bounds: list[tuple[Step, Bounds]] = []
        self._failed: dict[str, ValueError] = {}
        self._estimates: dict[Step, Estimate] = {}

    def attempt(self, step: Step) -> AccurateLogLikelihood | None:
        """The result of a step on the real data; None if its gap on simulated data is too large or it fails."""
        gaps = [(earlier, bounds.gap()[0]) for earlier, bounds in self._bounds]
        if step.family in self._failed or not step.is_promising(gaps, self.accuracy):
            return None
        try:
            bounds = step.bounds(self.task)
        except ValueError as error:
            self._failed.setdefault(step.family, error)
            outcome = f"not applicable ({str(error).partition('. ')[0]})"
            self.tried.append({"estimator": step.label, "gap": None, "error": None, "outcome": outcome})
            return None
        self._bounds.append((step, bounds))
        gap, error_of_gap = bounds.gap()
        outcome = f"gap {gap:.3f} +- {error_of_gap:.3f} nats on simulated data"
        self.tried.append({"estimator": step.label, "gap": gap, "error": error_of_gap, "outcome": outcome})
        return self._result(step, bounds) if gap + error_of_gap <= self.accuracy else None

    def best(self) -> AccurateLogLikelihood:
        """The result of the step with the smallest gap.

        Raises:
            ValueError: every step failed.
        """
        if not self._bounds:
            raise next(iter(self._failed.values()))
        step, bounds = min(self._bounds, key=lambda pair: pair[1].gap()[0])
        self.tried.append(next(trial for trial in self.tried if trial["estimator"] == step.label))
        return self._result(step, bounds)

    def _result(self, step: Step, bounds: Bounds) -> AccurateLogLikelihood:
        if step not in self._estimates:
            self._estimates[step] = step.estimate(self.task)
        estimate = self._estimates[step]
        numbers = (estimate.log_likelihood, estimate.standard_error, estimate.pareto_k, estimate.curve)
        entries = {"accuracy": self.accuracy, "num_simulated": len(bounds.lower), "tried": list(self.tried)}
        protocol = {**self.protocol, **estimate.protocol, **entries}
        result = AccurateLogLikelihood(*numbers, *bounds, protocol=protocol)
        if result.failures():
            self.tried[-1] = {**self.tried[-1], "outcome": f"not accepted: {', '.join(result.failures())}"}
        return result

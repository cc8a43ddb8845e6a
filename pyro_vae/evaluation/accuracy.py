"""log p(x) to a given accuracy: estimators of increasing cost, until the diagnostics of one confirm it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from pyro_vae._core.checks import check_arguments, check_positive, require
from pyro_vae._core.owners import placement
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batches, Data
from pyro_vae.evaluation.accuracy_result import AccurateLogLikelihood
from pyro_vae.evaluation.accuracy_steps import MIN_SAMPLES, Estimate, Step, Task, steps
from pyro_vae.evaluation.finished import FinishedBatches
from pyro_vae.evaluation.importance_sandwich import Bounds
from pyro_vae.evaluation.proposals import guides_of
from pyro_vae.evaluation.sampler import Engine


def accurate_log_likelihood(
    model: Program,
    guide: Program | Sequence[Program],
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
    finished: FinishedBatches | None = None,
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

    The bounds hold for data like the model's own samples. Every estimate is a lower bound in expectation; strictly this
    holds without the choice, which uses diagnostics of the same samples.

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
        finished: as in :func:`log_likelihood`; the batches of every estimator that is tried.
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
        >>> import torch
        >>> from pyro_vae import VAE
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.likelihoods import BernoulliLikelihood
        >>> from pyro_vae.priors import StandardNormalPrior
        >>> vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
        >>> result = accurate_log_likelihood(vae.model, vae.guide, torch.ones(20, 5), accuracy=0.2)
        >>> result.failures(), result.log_likelihood.shape
        ([], torch.Size([20]))
    """
    check_arguments(
        accurate_log_likelihood,
        locals(),
        max_samples=1,
        max_distributions=1,
        num_simulated=1,
        batch_size=1,
        chunk_size=1,
    )
    owner = "accurate_log_likelihood"
    check_positive(owner, accuracy=accuracy)
    device, dtype = placement(model, *guides_of(guide))
    planned = list(steps(max_samples, max_distributions))
    rule = f"max_samples must be at least {MIN_SAMPLES} without annealing"
    require(len(planned) > 0, owner, rule, f"max_samples={max_samples}, max_distributions={max_distributions}")
    batches = Batches(data, batch_size, device=device, dtype=dtype, owner=owner)
    pilot = [batch.args for batch in islice(batches.epoch(), 100)]
    enough = -(-num_simulated // len(pilot[0][0]))
    common = {"batch_size": batch_size, "data_plate": data_plate, "engine": engine, "finished": finished}
    task = Task(model, guide, data, list(islice(cycle(pilot), enough)), chunk_size, common, seed, progress)
    search = Search(task, accuracy, protocol or {})
    for step in planned:
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

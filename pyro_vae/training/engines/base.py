"""Base classes of the training engines, which give the same numbers to rounding and differ in speed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.utils import get_total_norm

from pyro_vae._core.checks import require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.shared_random import Share
from pyro_vae._core.support import SupportError
from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective, Terms
from pyro_vae.training.engines.rows import count_rows, take_rows
from pyro_vae.training.engines.update import Update, summary
from pyro_vae.training.loss import Gradients, LossFunction, accumulate_gradients, as_stored

_ALONE = Ranks()


@dataclass(frozen=True)
class StepResult:
    """Result of a training step.

    Attributes:
        loss: sum of the loss over the data of the step, in nats.
        reconstruction: that term of the ELBO, summed over the data; None if the objective does not record its terms.
        kl: the other term.
        finite: whether loss and gradient were finite and the data in the likelihood's support; if not, the step changed
            no parameter.
        skipped: whether the gradient's norm exceeded the limit, so that the step changed no parameter.
    """

    loss: float
    reconstruction: float | None
    kl: float | None
    finite: bool
    skipped: bool = False


@dataclass(frozen=True)
class Step:
    """The data of one training step and its position in the training.

    Attributes:
        batches: the batches over which the gradient is accumulated.
        progress: steps and epochs completed before it, for schedules of the objective's weights; None keeps the
            weights.
    """

    batches: Sequence[Batch]
    progress: tuple[int, float] | None = None

    @property
    def number(self) -> int | None:
        """Number of earlier steps; None if unknown."""
        return None if self.progress is None else self.progress[0]

    def __len__(self) -> int:
        """Number of data."""
        return sum(len(batch) for batch in self.batches)


class Agreement(NamedTuple):
    """Relative differences between two computations of the same numbers.

    Attributes:
        loss: difference of the losses.
        gradient: largest difference over the parameters, relative to the norm of the parameter's gradient.
    """

    loss: float
    gradient: float


class Engine(ABC):
    """Runs training steps for one loss function and one optimizer.

    Args:
        loss: the loss function.
        update: the update of the loss function's parameters.
        ranks: the processes that share every batch; their gradients are summed.

    Attributes:
        name: the engine in effect; ``"eager"`` if recording failed.
        stride: preferred number of steps per call of :meth:`run`.
        check: whether the support of the data is checked, with a message that names the datum.
        reached: for each parameter, whether the loss of the last step depended on it.
    """

    name: str
    stride: int = 1

    def __init__(self, loss: LossFunction, update: Update, *, ranks: Ranks = _ALONE) -> None:
        self.loss, self.update, self.ranks = loss, update, ranks
        self.check = True
        self.reached: Sequence[bool] = ()

    @abstractmethod
    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        """Take the steps up to the first whose loss or gradient is not finite; that one changes no parameter."""

    def recheck(self) -> None:
        """Compare the recording with the program before the next step, after user code has run in between."""
        return  # nothing is recorded

    @abstractmethod
    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        """Loss and gradient of one batch, or of one process's share of it."""

    def result(self, values: Tensor) -> StepResult:
        """The result of a step from its :func:`summary`."""
        loss, reconstruction, kl, norm, finite = values.tolist()
        skipped = bool(finite) and self.update.skips(norm)
        if getattr(self.loss.objective, "terms", None) is None:
            return StepResult(loss, None, None, bool(finite), skipped)
        return StepResult(loss, reconstruction, kl, bool(finite), skipped)

    def step(self, args: tuple[Any, ...]) -> StepResult:
        """Take one step on the batch ``args``, a tuple."""
        kind = type(args).__name__
        require(isinstance(args, tuple), "step", "args must be a tuple of arguments", f"a {kind}", "Pass (x,)")
        return self.run([Step([Batch(args)])])[0]

    def check_against(self, reference: ELBO, args: tuple[Any, ...], *, seed: int = 0) -> Agreement:
        """Compare loss and gradient with those of Pyro's own objective, run eagerly with the same random numbers.

        Args:
            reference: an ELBO with ``differentiable_loss``, such as ``Trace_ELBO()``.
            args: a batch.
            seed: seed of the random numbers of both.

        Returns:
            The relative differences; rounding alone is about 1e-6 in float32.
        """
        loss = replace(self.loss, objective=reference, precision="fp32")
        buffers = [buffer.clone() for buffer in loss.buffers]
        results = []
        for gradients in (self.gradients, lambda args: loss.gradients(*args, flag=False)):
            with isolated_rng():
                gradients(args)  # the first run of an objective may draw more, to find the plates
            restore(loss.buffers, buffers)
            with isolated_rng(seed):
                results.append(gradients(args))
            restore(loss.buffers, buffers)
        result, expected = results
        pairs = zip(result.gradients, expected.gradients, strict=True)
        distances = torch.stack([_distance(gradient, reference) for gradient, reference in pairs])
        return Agreement(float(_distance(result.loss, expected.loss)), float(distances.max()))


class StepwiseEngine(Engine, ABC):
    """Base of engines that run their steps one by one from Python."""

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        results: list[StepResult] = []
        for step in steps:
            results.append(self._step(step))
            if not results[-1].finite:
                break
        return results

    def _step(self, step: Step) -> StepResult:
        self._set_progress(step)
        for parameter in self.loss.parameters:
            parameter.grad = None  # before the new gradients, which take its memory
        total = self._gradients(step)
        self.reached = [gradient is not None for gradient in total.gradients]
        result = self.result(summary(total))
        if result.finite and not result.skipped:
            self.update(total, self.update.weight(step.number))
        return result

    def _set_progress(self, step: Step) -> None:
        if isinstance(self.loss.objective, Objective) and step.progress is not None:
            self.loss.objective.set_progress(*step.progress)

    def _gradients(self, step: Step) -> Gradients:
        """Loss and gradient of a step, over all processes."""
        lengths = [count_rows(batch, self.ranks) for batch in step.batches]
        nonempty = [(batch, length) for batch, length in zip(step.batches, lengths, strict=True) if length]
        parts = [(self._of_batch(batch), length) for batch, length in nonempty]
        total = accumulate_gradients(parts, len(step)) if parts else self._zero()
        return total if self.ranks.alone else self._sum_over_ranks(total)

    def _of_batch(self, batch: Batch) -> Gradients:
        rows = take_rows(batch, self.ranks)
        try:
            return self.gradients(rows.args, rows.share)
        except SupportError as error:
            raise error.in_data(rows.indices) from None

    def _zero(self) -> Gradients:
        """The contribution of a process without data in a step."""
        zero = torch.zeros((), device=self.loss.parameters[0].device)
        terms = Terms(zero, zero) if isinstance(self.loss.objective, Objective) else None
        return Gradients(zero, terms, [None] * len(self.loss.parameters), zero, zero == 0)

    def _sum_over_ranks(self, local: Gradients) -> Gradients:
        """Sums over all processes, in one message."""
        pairs = zip(local.gradients, self.loss.parameters, strict=True)
        gradients = [torch.zeros_like(p) if g is None else g for g, p in pairs]
        sums = torch.stack([local.loss, *(local.terms or ()), (~local.finite).to(local.loss)])
        dtype = max((p.dtype for p in self.loss.parameters), key=lambda d: d.itemsize)  # the same in every process
        flat = self.ranks.sum(torch.cat([t.flatten().to(dtype) for t in (*gradients, sums)]))
        *parts, sums = flat.split([*(g.numel() for g in gradients), len(sums)])
        views = zip(self.loss.parameters, parts, strict=True)
        gradients = [as_stored(p, part.view(p.shape).to(p.dtype)) for p, part in views]
        norm = get_total_norm(gradients)
        finite = (sums[-1] == 0) & torch.isfinite(norm)
        return Gradients(sums[0], Terms(*sums[1:-1]) if local.terms else None, list(gradients), norm, finite)


def _distance(value: Tensor | None, reference: Tensor | None) -> Tensor:
    """Distance relative to the norm of the reference; infinite if only one of the two is None."""
    if value is None or reference is None:
        return torch.tensor(0.0 if value is reference else float("inf"))
    return ((value - reference).norm() / reference.norm().clamp_min(1e-12)).cpu()


@torch.no_grad()
def restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy the values into the tensors."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)

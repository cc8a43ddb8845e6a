"""Base classes of the training engines, which give the same numbers to rounding and differ in speed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from pyro_vae._core.checks import require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.shared_random import Share
from pyro_vae._core.support import SupportError
from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective, Terms
from pyro_vae.training.engines.fused_adam import Update
from pyro_vae.training.engines.rows import count_rows, take_rows
from pyro_vae.training.loss import Gradients, LossFunction, accumulate_gradients, as_stored

_ALONE = Ranks()


@dataclass(frozen=True)
class StepResult:
    """Result of a training step.

    Attributes:
        loss: sum of the loss over the data of the step, in nats.
        terms: reconstruction and KL, summed over the data of the step; None if the objective does not record them.
        finite: whether loss and gradient were finite and the data in the likelihood's support; if not, the step changed
            no parameter.
    """

    loss: Tensor
    terms: Terms | None
    finite: bool


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
        optimizer: an optimizer of the loss function's parameters.
        clip_norm: largest norm of the whole gradient; None for no limit.
        ranks: the processes that share every batch; their gradients are summed.

    Attributes:
        name: the engine in effect; ``"eager"`` if recording failed.
        stride: preferred number of steps per call of :meth:`run`.
        check: whether the support of the data is checked, with a message that names the datum.
    """

    name: str
    stride: int = 1

    def __init__(
        self, loss: LossFunction, optimizer: Optimizer, *, clip_norm: float | None = None, ranks: Ranks = _ALONE
    ) -> None:
        self.loss, self.optimizer, self.clip_norm, self.ranks = loss, optimizer, clip_norm, ranks
        self.check = True
        self._update = Update(optimizer, loss.parameters)

    @abstractmethod
    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        """Take the steps up to the first whose loss or gradient is not finite; that one changes no parameter."""

    def recheck(self) -> None:
        """Compare the recording with the program before the next step, after user code has run in between."""
        return  # nothing is recorded

    @abstractmethod
    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        """Loss and gradient of one batch, or of one process's share of it."""

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
        if isinstance(self.loss.objective, Objective) and step.progress is not None:
            self.loss.objective.set_progress(*step.progress)
        for parameter in self.loss.parameters:
            parameter.grad = None  # before the new gradients, which take its memory
        total = self._gradients(step)
        for parameter, gradient in zip(self.loss.parameters, total.gradients, strict=True):
            parameter.grad = gradient
        finite = bool(total.finite)
        if finite:
            if self.clip_norm is not None:
                clip_grads_with_norm_(self.loss.parameters, self.clip_norm, total.norm)
            self._update(total.gradients)
        return StepResult(total.loss, total.terms, finite)

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
        """Sums over all processes, of the gradients in one message."""
        pairs = zip(local.gradients, self.loss.parameters, strict=True)
        gradients = [torch.zeros_like(p) if g is None else g for g, p in pairs]
        sums = torch.stack([local.loss, *(local.terms or ()), (~local.finite).to(local.loss)]).double()
        self.ranks.sum(sums)
        flat = self.ranks.sum(torch.cat([g.flatten() for g in gradients]))
        parts = zip(self.loss.parameters, flat.split([g.numel() for g in gradients]), strict=True)
        gradients = [as_stored(p, part.view(p.shape)) for p, part in parts]
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

"""The compiled engine: the program's Python runs once, its compiled tensor operations from then on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae._core.attributes import Attributes
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.owners import Owners
from pyro_vae._core.precision import TOLERANCE
from pyro_vae._core.recording import Recorded, RecordingError
from pyro_vae._core.shared_random import Share
from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective
from pyro_vae.training.engines.base import Step, StepResult, StepwiseEngine
from pyro_vae.training.engines.eager import EagerEngine
from pyro_vae.training.engines.rows import take_rows
from pyro_vae.training.engines.update import Update, summary
from pyro_vae.training.loss import Gradients, LossFunction

_ALONE = Ranks()
_MAX_RECORDINGS = 3  # one takes seconds
T = TypeVar("T")


class CompiledEngine(StepwiseEngine):
    """Records loss, gradient, their checks and Adam's update once per shape of a batch; that of ``batch`` is compiled.

    Other optimizers than Adam and AdamW, and the sums over several batches or processes, run between the recorded
    gradients. A program that cannot be recorded runs eagerly, after one warning that names the cause.

    Args:
        loss: the loss function.
        update: the update of the loss function's parameters.
        batch: a batch of the usual shape.
        ranks: the processes that share every batch; their gradients are summed.
        whole: whether each step takes one batch, so that the update can be recorded too.

    References:
        torch.fx: practical program capture and transformation for deep learning in Python (Reed et al., 2022).
        https://arxiv.org/abs/2112.08429
    """

    name = "compiled"

    def __init__(
        self, loss: LossFunction, update: Update, batch: Batch, *, ranks: Ranks = _ALONE, whole: bool = True
    ) -> None:
        super().__init__(loss, update, ranks=ranks)
        self._eager = EagerEngine(loss, update)
        self._recording = record(loss, batch, ranks, update if whole and ranks.alone else None)
        self.name = "compiled" if self._recording else "eager"

    def recheck(self) -> None:
        if self._recording:
            self._recording.due = True

    def _step(self, step: Step) -> StepResult:
        if self._recording is None or len(step.batches) > 1 or not self._recording.takes_steps:
            return super()._step(step)
        self._set_progress(step)
        try:
            values = self._recording.step(step.number, *step.batches[0].args)
        except RecordingError as cause:
            self._run_eagerly(cause)
            return super()._step(step)
        self.reached = self._recording.reached
        return self.result(values)

    def _run_eagerly(self, cause: RecordingError) -> None:  # another shape, another path through the program
        self._recording, self.name = None, "eager"
        warn_eager(cause)

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        if self._recording:
            try:
                return self._recording(share, *args)
            except RecordingError as cause:
                self._run_eagerly(cause)
        self._eager.check = self.check
        return self._eager.gradients(args, share)


class Recording:
    """The recorded gradients of ``(share, *args)``, compared with the program whenever it may have changed.

    A replay reads the current values of tensors; Python's numbers, flags and branches are those of the recording. When
    a plain attribute of the modules or a variable of the programs' functions has changed, or :attr:`due` is set, the
    recording is compared with the program on the current batch. If they differ, the program is recorded again with the
    floating-point numbers that changed as inputs, so that later changes of them are followed.

    Args:
        loss: the loss function.
        batch: a batch of the usual shape, for which the recording is compiled.
        ranks: the processes that share every batch.
        update: the update to record with the gradients; None, or one that cannot be recorded, for the gradients alone.

    Raises:
        RecordingError: the program cannot be recorded, or changes its own attributes.

    Attributes:
        due: whether to compare at the next call.
        reached: for each parameter, whether the loss depends on it.
    """

    def __init__(self, loss: LossFunction, batch: Batch, ranks: Ranks = _ALONE, update: Update | None = None) -> None:
        self.loss, self.due, self._num_recordings = loss, False, 0
        self.reached: list[bool] = []
        self._update = update if update and update.recordable else None
        self._attributes = Attributes(loss.owners or Owners())
        self._lifted = self._attributes.lift([], like=loss.parameters[0])
        self._values: list[float] = []
        self._numbers = torch.zeros(0)
        self._changed: list[str] = []
        self._followed: list[str] = []
        rows = take_rows(batch, ranks)
        self._record(rows.share, *rows.args)

    @property
    def takes_steps(self) -> bool:
        """Whether :meth:`step` takes the optimizer's steps, which may have been changed since the recording."""
        return self._update is not None and self._update.recordable

    def step(self, number: int | None, *args: Any) -> Tensor:
        """Take a step; return its :func:`~pyro_vae.training.engines.update.summary`.

        Args:
            number: number of earlier steps; None if unknown.
            args: a batch.
        """
        assert self._update is not None
        self._update.adopt_state()
        self._follow_if_stale(None, *args)
        values = self._update.numbers(number)
        if values != self._values:
            self._values = values
            self._numbers.copy_(torch.tensor(values, dtype=torch.float64))
        return self._recorded.last(self._numbers, None, *args)

    def __call__(self, share: Share | None, *args: Any) -> Gradients:
        """The gradients, without a step."""
        if self._update:
            self._update.adopt_state()
        self._follow_if_stale(share, *args)
        return self.replay(torch.zeros_like(self._numbers), share, *args)[0]

    def replay(self, numbers: Tensor, share: Share | None, *args: Any) -> tuple[Gradients, Tensor]:
        """Gradients and summary; the update, if it is recorded, is applied by ``numbers``."""
        return self._recorded(numbers, share, *args)

    def _test_numbers(self) -> Tensor:
        """The numbers by which recording and program are compared."""
        values = self._update.test_numbers() if self._update else [0.0]
        return torch.tensor(values, dtype=torch.float64, device=self._numbers.device)

    def _follow_if_stale(self, share: Share | None, *args: Any) -> None:
        if self.may_be_stale():
            self.follow(share, *args)

    def prepare(self, share: Share | None, *args: Any) -> None:
        """Record for arguments of this shape."""
        self._recorded.prepare(self._numbers, share, *args)

    def may_be_stale(self) -> bool:
        """Whether the program may compute something else than the recording."""
        self._changed += self._attributes.changed()
        if not self._lifted.fill():
            raise RecordingError(f"{', '.join(self._changed[:3])} is not a number any more")
        return self.due or bool(self._changed)

    def follow(self, share: Share | None, *args: Any) -> bool:
        """Compare recording and program; return whether the program was recorded again.

        Raises:
            RecordingError: the recording cannot follow what changed.
        """
        changed, self._changed, self.due = self._changed, [], False
        if self._unchanged(self._recorded.follows, self._test_numbers(), share, *args):
            return False
        what = f"what the program computes has changed with {', '.join(changed[:3]) or 'a value that is not watched'}"
        if self._num_recordings > _MAX_RECORDINGS or not changed:
            raise RecordingError(what)
        self._followed += changed
        self._lifted = self._attributes.lift(self._followed, like=self.loss.parameters[0])
        try:
            self._record(share, *args)
        except RecordingError as cause:
            raise RecordingError(f"{what}: {cause}") from None
        return True

    def _record(self, share: Share | None, *args: Any) -> None:
        loss, update = self.loss, self._update
        self._num_recordings += 1
        objective = loss.objective
        weights = objective.state(loss.parameters[0]) if isinstance(objective, Objective) else []
        state = [*loss.parameters, *loss.buffers, *weights, *self._lifted.tensors, *(update.state() if update else [])]
        # bfloat16 has 8 bits, and a compiled sum rounds in another order than the program's.
        tolerance = TOLERANCE[loss.precision]
        self._recorded = Recorded(self._run, state, tolerance=tolerance, scale=lambda result: result[0].norm)
        self._values = update.test_numbers() if update else [0.0]
        self._numbers = torch.tensor(self._values, dtype=torch.float64, device=loss.parameters[0].device)
        self._unchanged(self._recorded.prepare, self._numbers, share, *args)

    def _run(self, numbers: Tensor, share: Share | None, *args: Any) -> tuple[Gradients, Tensor]:
        """The function that is recorded."""
        with self._lifted.read():
            total = self.loss.gradients(*args, share=share)
        self.reached = [gradient is not None for gradient in total.gradients]
        if self._update:
            self._update.record(total, numbers)
        return total, summary(total)

    def _unchanged(self, call: Callable[..., T], *args: Any) -> T:
        """Run programs, restore the attributes that they change, and raise if there are any."""
        before = self._attributes.values()
        try:
            return call(*args)
        finally:
            changed = self._attributes.restore(before)
            if changed:
                raise RecordingError(f"the program changes its own {changed[0]} when it runs")


def record(loss: LossFunction, batch: Batch, ranks: Ranks = _ALONE, update: Update | None = None) -> Recording | None:
    """Record the gradients, and the update if possible, compiled for ``batch``; if that fails, warn and return None."""
    try:
        return Recording(loss, batch, ranks, update)
    except RecordingError as cause:
        warn_eager(cause)
        return None


def warn_eager(cause: RecordingError) -> None:
    """Warn that steps run eagerly, and why."""
    warnings.warn(f"engine: runs eagerly, since the programs cannot be recorded: {cause}.", stacklevel=2)

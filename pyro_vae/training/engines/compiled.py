"""The compiled engine: the program's Python runs once, its compiled tensor operations from then on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch.optim import Optimizer

from pyro_vae._core.attributes import Attributes
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.owners import Owners
from pyro_vae._core.recording import Recorded, RecordingError
from pyro_vae._core.shared_random import Share
from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective
from pyro_vae.training.engines.base import StepwiseEngine
from pyro_vae.training.engines.eager import EagerEngine
from pyro_vae.training.engines.rows import take_rows
from pyro_vae.training.loss import Gradients, LossFunction

_ALONE = Ranks()
_MAX_RECORDINGS = 3  # one takes seconds
T = TypeVar("T")


class CompiledEngine(StepwiseEngine):
    """Records loss, gradient and their checks once per shape of a batch; the recording of ``batch`` is compiled.

    A program that cannot be recorded runs eagerly, after one warning that names the cause.

    Args:
        loss: the loss function.
        optimizer: an optimizer of the loss function's parameters.
        batch: a batch of the usual shape.
        clip_norm: largest norm of the whole gradient; None for no limit.
        ranks: the processes that share every batch; their gradients are summed.

    References:
        torch.fx: practical program capture and transformation for deep learning in Python (Reed et al., 2022).
        https://arxiv.org/abs/2112.08429
    """

    name = "compiled"

    def __init__(
        self,
        loss: LossFunction,
        optimizer: Optimizer,
        batch: Batch,
        *,
        clip_norm: float | None = None,
        ranks: Ranks = _ALONE,
    ) -> None:
        super().__init__(loss, optimizer, clip_norm=clip_norm, ranks=ranks)
        self._eager = EagerEngine(loss, optimizer)
        self._recording = record(loss, batch, ranks)
        self.name = "compiled" if self._recording else "eager"

    def recheck(self) -> None:
        if self._recording:
            self._recording.due = True

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        if self._recording:
            try:
                return self._recording(share, *args)
            except RecordingError as cause:  # another shape, another path through the program
                self._recording, self.name = None, "eager"
                warn_eager(cause)
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

    Raises:
        RecordingError: the program cannot be recorded, or changes its own attributes.

    Attributes:
        due: whether to compare at the next call.
    """

    def __init__(self, loss: LossFunction, batch: Batch, ranks: Ranks = _ALONE) -> None:
        self.loss, self.due, self._num_recordings = loss, False, 0
        self._attributes = Attributes(loss.owners or Owners())
        self._lifted = self._attributes.lift([], like=loss.parameters[0])
        self._changed: list[str] = []
        self._followed: list[str] = []
        rows = take_rows(batch, ranks)
        self._record(rows.share, *rows.args)

    def __call__(self, share: Share | None, *args: Any) -> Gradients:
        if self.may_be_stale():
            self.follow(share, *args)
        return self._recorded(share, *args)

    def prepare(self, share: Share | None, *args: Any) -> None:
        """Record for arguments of this shape."""
        self._recorded.prepare(share, *args)

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
        if self._unchanged(self._recorded.follows, share, *args):
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
        loss, lifted = self.loss, self._lifted
        self._num_recordings += 1

        def gradients(share: Share | None, *args: Any) -> Gradients:
            with lifted.read():
                return loss.gradients(*args, share=share)

        objective = loss.objective
        weights = objective.state(loss.parameters[0]) if isinstance(objective, Objective) else []
        state = [*loss.parameters, *loss.buffers, *weights, *lifted.tensors]
        # bfloat16 has 8 bits, and a compiled sum rounds in another order than the program's.
        tolerance = 1e-3 if loss.precision == "fp32" else 3e-2
        self._recorded = Recorded(gradients, state, tolerance=tolerance, scale=lambda result: result.norm)
        self._unchanged(self._recorded.prepare, share, *args)

    def _unchanged(self, call: Callable[..., T], *args: Any) -> T:
        """Run programs, restore the attributes that they change, and raise if there are any."""
        before = self._attributes.values()
        try:
            return call(*args)
        finally:
            changed = self._attributes.restore(before)
            if changed:
                raise RecordingError(f"the program changes its own {changed[0]} when it runs")


def record(loss: LossFunction, batch: Batch, ranks: Ranks = _ALONE) -> Recording | None:
    """Record the gradients, compiled for ``batch``; if that fails, warn and return None."""
    try:
        return Recording(loss, batch, ranks)
    except RecordingError as cause:
        warn_eager(cause)
        return None


def warn_eager(cause: RecordingError) -> None:
    """Warn that steps run eagerly, and why."""
    warnings.warn(f"engine: runs eagerly, since the programs cannot be recorded: {cause}.", stacklevel=2)

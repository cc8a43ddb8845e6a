"""The compiled engine: the program's Python runs once, its tensor operations from then on."""

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
from pyro_vae.training.engines.base import EagerEngine, StepwiseEngine
from pyro_vae.training.loss import Gradients, LossFunction

_ALONE = Ranks()
_MOST = 3  # times that a recording is made anew: it takes seconds
T = TypeVar("T")


class CompiledEngine(StepwiseEngine):
    """Loss, gradient and their checks recorded once for each shape of a batch; that of ``batch`` is compiled.

    Where the program cannot be recorded it runs eagerly, after one warning that names the cause.

    Args:
        problem: what is trained.
        optimizer: over the problem's parameters.
        batch: one of the usual shape.
        clip_norm: largest norm of the whole gradient; None for no limit.
        ranks: the processes that share every batch; their gradients are summed.

    References:
        torch.fx: practical program capture and transformation for deep learning in Python (Reed et al., 2022).
        https://arxiv.org/abs/2112.08429
    """

    name = "compiled"

    def __init__(
        self,
        problem: LossFunction,
        optimizer: Optimizer,
        batch: Batch,
        *,
        clip_norm: float | None = None,
        ranks: Ranks = _ALONE,
    ) -> None:
        super().__init__(problem, optimizer, clip_norm=clip_norm, ranks=ranks)
        self._eager = EagerEngine(problem, optimizer)
        self._recorded = record(problem, batch)
        self.name = "compiled" if self._recorded else "eager"

    def recheck(self) -> None:
        if self._recorded:
            self._recorded.due = True

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        if self._recorded:
            try:
                return self._recorded(share, *args)
            except RecordingError as cause:  # another shape, another path through the program
                self._recorded, self.name = None, "eager"
                warn_eager(cause)
        self._eager.check = self.check
        return self._eager.gradients(args, share)


class Recording:
    """The gradients of ``(share, *args)`` recorded, and compared with the program whenever that may have changed.

    A recording reads tensors anew at every replay; numbers, flags and branches of Python it keeps. If a plain attribute
    of the modules or a variable of the programs' functions has changed, and when :attr:`due` is set, the recording is
    compared with the program on the batch at hand. If they differ it is made anew: with floating-point numbers that
    changed as inputs, so that it follows them from then on.

    Args:
        problem: what is trained.
        batch: one of the usual shape, which the recording is compiled for.

    Raises:
        RecordingError: the program cannot be recorded, or changes its own attributes.

    Attributes:
        due: whether to compare at the next call.
    """

    def __init__(self, problem: LossFunction, batch: Batch) -> None:
        self.problem, self.due, self._made = problem, False, 0
        self._attributes = Attributes(problem.owners or Owners())
        self._lifted = self._attributes.lift([], like=problem.parameters[0])
        self._changed: list[str] = []
        self._followed: list[str] = []
        self._record(batch.share, *batch.args)

    def __call__(self, share: Share | None, *args: Any) -> Gradients:
        if self.is_doubtful():
            self.follow(share, *args)
        return self._recorded(share, *args)

    def prepare(self, share: Share | None, *args: Any) -> None:
        """Record for arguments of this shape."""
        self._recorded.prepare(share, *args)

    def is_doubtful(self) -> bool:
        """Whether the program may compute something else than the recording."""
        self._changed += self._attributes.changed()
        if not self._lifted.fill():
            raise RecordingError(f"{', '.join(self._changed[:3])} is no number any more")
        return self.due or bool(self._changed)

    def follow(self, share: Share | None, *args: Any) -> bool:
        """Compare recording and program; whether the recording was made anew.

        Raises:
            RecordingError: it cannot follow what changed.
        """
        changed, self._changed, self.due = self._changed, [], False
        if self._unchanged(self._recorded.follows, share, *args):
            return False
        what = f"what the program computes has changed with {', '.join(changed[:3]) or 'a value that is not watched'}"
        if self._made > _MOST or not changed:
            raise RecordingError(what)
        self._followed += changed
        self._lifted = self._attributes.lift(self._followed, like=self.problem.parameters[0])
        try:
            self._record(share, *args)
        except RecordingError as cause:
            raise RecordingError(f"{what}: {cause}") from None
        return True

    def _record(self, share: Share | None, *args: Any) -> None:
        problem, lifted, self._made = self.problem, self._lifted, self._made + 1

        def gradients(share: Share | None, *args: Any) -> Gradients:
            with lifted.read():
                return problem.gradients(*args, share=share)

        objective = problem.objective
        weights = objective.state(problem.parameters[0]) if isinstance(objective, Objective) else []
        state = [*problem.parameters, *problem.buffers, *weights, *lifted.tensors]
        # bfloat16 has 8 bits, and a compiled sum rounds elsewhere than the program's.
        tolerance = 1e-3 if problem.precision == "fp32" else 3e-2
        self._recorded = Recorded(gradients, state, tolerance=tolerance, scale=lambda result: result.norm)
        self._unchanged(self._recorded.prepare, share, *args)

    def _unchanged(self, call: Callable[..., T], *args: Any) -> T:
        """Run programs; attributes that they change themselves are given back, and no recording can follow those."""
        before = self._attributes.keep()
        try:
            return call(*args)
        finally:
            changed = self._attributes.restore(before)
            if changed:
                raise RecordingError(f"the program changes its own {changed[0]} when it runs")


def record(problem: LossFunction, batch: Batch) -> Recording | None:
    """The gradients recorded, compiled for ``batch``; None, after a warning, if that fails."""
    try:
        return Recording(problem, batch)
    except RecordingError as cause:
        warn_eager(cause)
        return None


def warn_eager(cause: RecordingError) -> None:
    """Say once why steps run eagerly."""
    warnings.warn(f"engine: runs eagerly, since the programs cannot be recorded: {cause}.", stacklevel=2)

"""The compiled engine: the program's Python runs once, its tensor operations from then on."""

from __future__ import annotations

import warnings
from typing import Any

from torch.optim import Optimizer

from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective
from pyro_vae.ranks import Ranks
from pyro_vae.recording import Recorded, RecordingError
from pyro_vae.sharding import Share
from pyro_vae.training.engine import EagerEngine, HostEngine
from pyro_vae.training.problem import Gradients, Problem

_ALONE = Ranks()


class CompiledEngine(HostEngine):
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
        problem: Problem,
        optimizer: Optimizer,
        batch: Batch,
        *,
        clip_norm: float | None = None,
        ranks: Ranks = _ALONE,
    ) -> None:
        super().__init__(problem, optimizer, clip_norm=clip_norm, ranks=ranks)
        self._eager = EagerEngine(problem, optimizer)
        self._recorded = recorded_gradients(problem, batch)
        self.name = "compiled" if self._recorded else "eager"

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        if self._recorded:
            try:
                return self._recorded(share, *args)
            except RecordingError as cause:  # another shape, another path through the program
                self._recorded, self.name = None, "eager"
                warn_eager(cause)
        self._eager.check = self.check
        return self._eager.gradients(args, share)


def recorded_gradients(problem: Problem, batch: Batch) -> Recorded | None:
    """The gradients of ``(share, *args)`` recorded, compiled for ``batch``; None, after a warning, if that fails."""

    def gradients(share: Share | None, *args: Any) -> Gradients:
        return problem.gradients(*args, share=share)

    objective = problem.objective
    weights = objective.state(problem.parameters[0]) if isinstance(objective, Objective) else []
    state = [*problem.parameters, *problem.buffers, *weights]
    # bfloat16 has 8 bits, and a compiled sum rounds elsewhere than the program's.
    recorded = Recorded(gradients, state, tolerance=1e-3 if problem.precision == "fp32" else 3e-2)
    try:
        recorded.prepare(batch.share, *batch.args)
    except RecordingError as cause:
        warn_eager(cause)
        return None
    return recorded


def warn_eager(cause: RecordingError) -> None:
    """Say once why steps run eagerly."""
    warnings.warn(f"engine: runs eagerly, since the programs cannot be recorded: {cause}.", stacklevel=2)

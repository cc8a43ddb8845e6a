"""The compiled engine: the program's Python runs once, its tensor operations from then on."""

from __future__ import annotations

import warnings
from typing import Any

from torch.optim import Optimizer

from pyro_vae.objectives import Objective
from pyro_vae.recording import Recorded, RecordingError
from pyro_vae.training.engine import EagerEngine, Gradients, HostEngine, Problem


class CompiledEngine(HostEngine):
    """Loss, gradient and their checks recorded once for each shape of a batch; that of ``args`` is compiled.

    Where the program cannot be recorded it runs eagerly, after one warning that names the cause.

    Args:
        problem: what is trained.
        optimizer: over the problem's parameters.
        args: a batch of the usual shape.
        clip_norm: largest norm of the whole gradient; None for no limit.

    References:
        torch.fx: practical program capture and transformation for deep learning in Python (Reed et al., 2022).
        https://arxiv.org/abs/2112.08429
    """

    name = "compiled"

    def __init__(
        self, problem: Problem, optimizer: Optimizer, args: tuple[Any, ...], *, clip_norm: float | None = None
    ) -> None:
        super().__init__(problem, optimizer, clip_norm=clip_norm)
        self._eager = EagerEngine(problem, optimizer)
        self._recorded = recorded_gradients(problem, args)
        self.name = "compiled" if self._recorded else "eager"

    def gradients(self, args: tuple[Any, ...]) -> Gradients:
        if self._recorded:
            try:
                return self._recorded(*args)
            except RecordingError as cause:  # another shape, another path through the program
                self._recorded, self.name = None, "eager"
                warn_eager(cause)
        self._eager.check = self.check
        return self._eager.gradients(args)


def recorded_gradients(problem: Problem, args: tuple[Any, ...]) -> Recorded | None:
    """The problem's gradients as a recording, compiled for the shape of ``args``; None, with a warning, without one."""
    objective = problem.objective
    weights = objective.state(problem.parameters[0]) if isinstance(objective, Objective) else []
    state = [*problem.parameters, *problem.buffers, *weights]
    # bfloat16 has 8 bits, and a compiled sum rounds elsewhere than the program's.
    recorded = Recorded(problem.gradients, state, tolerance=1e-3 if problem.precision == "fp32" else 3e-2)
    try:
        recorded.prepare(*args)
    except RecordingError as cause:
        warn_eager(cause)
        return None
    return recorded


def warn_eager(cause: RecordingError) -> None:
    """Say once why steps run eagerly."""
    warnings.warn(f"engine: runs eagerly, since the programs cannot be recorded: {cause}.", stacklevel=2)

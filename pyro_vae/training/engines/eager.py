"""The eager engine, the reference for every other."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from pyro_vae._core.shared_random import Share
from pyro_vae._core.support import SupportCheck
from pyro_vae.training.engines.base import StepwiseEngine
from pyro_vae.training.loss import Gradients


class EagerEngine(StepwiseEngine):
    """Runs Pyro's programs in Python at every step.

    Args:
        loss: the loss function.
        update: the update of the loss function's parameters.
        ranks: the processes that share every batch; their gradients are summed.

    References:
        Automated variational inference in probabilistic programming (Wingate and Weber, 2013).
        https://arxiv.org/abs/1301.1299
    """

    name = "eager"

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        with SupportCheck("fit") if self.check else nullcontext():
            return self.loss.gradients(*args, share=share, flag=False)

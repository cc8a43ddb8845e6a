"""How one training step runs. Every engine gives the same numbers; they differ in speed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from pyro_vae.objectives import Objective, Terms

Program = Callable[..., Any]


@dataclass(frozen=True)
class StepResult:
    """What a step has to say.

    Attributes:
        loss: the loss of the batch, a sum over its data, in nats.
        terms: reconstruction and KL of the batch, sums over its data; None where the objective keeps none.
        finite: whether loss and gradient were finite; where not, the parameters were left as they were.
    """

    loss: Tensor
    terms: Terms | None
    finite: bool


class Engine(ABC):
    """Runs training steps of one model, guide, objective and optimizer.

    Args:
        objective: the Pyro ELBO that is minimised, per datum of the batch.
        model: Pyro model.
        guide: Pyro guide.
        optimizer: over ``parameters``.
        parameters: what is trained.
        clip_norm: largest norm of the whole gradient; None for no limit.
    """

    def __init__(
        self,
        objective: ELBO,
        model: Program,
        guide: Program,
        optimizer: Optimizer,
        parameters: Sequence[Tensor],
        *,
        clip_norm: float | None = None,
    ) -> None:
        self.objective, self.model, self.guide = objective, model, guide
        self.optimizer, self.parameters, self.clip_norm = optimizer, list(parameters), clip_norm

    @abstractmethod
    def step(self, args: tuple[Any, ...]) -> StepResult:
        """Take one step on the batch ``args``; a step whose loss or gradient is not finite changes nothing."""


class EagerEngine(Engine):
    """Pyro as it is: the reference for every other engine.

    Args:
        objective: the Pyro ELBO that is minimised, per datum of the batch.
        model: Pyro model.
        guide: Pyro guide.
        optimizer: over ``parameters``.
        parameters: what is trained.
        clip_norm: largest norm of the whole gradient; None for no limit.

    References:
        Automated variational inference in probabilistic programming (Wingate and Weber, 2013).
        https://arxiv.org/abs/1301.1299
    """

    def step(self, args: tuple[Any, ...]) -> StepResult:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective.differentiable_loss(self.model, self.guide, *args)
        (loss / len(args[0])).backward()
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        finite = bool(torch.isfinite(loss.detach() + norm))
        if finite:
            if self.clip_norm is not None:
                clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
            self.optimizer.step()
        terms = self.objective.terms if isinstance(self.objective, Objective) else None
        return StepResult(loss.detach(), terms, finite)

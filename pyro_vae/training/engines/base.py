"""How training steps run. Every engine gives the same numbers, to rounding; they differ in speed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.distributed import Ranks
from pyro_vae._core.shared_random import Share
from pyro_vae._core.support import SupportCheck, SupportError
from pyro_vae.data.batches import Batch
from pyro_vae.objectives import Objective, Terms
from pyro_vae.training.engines.fused_adam import Update
from pyro_vae.training.loss import Gradients, LossFunction, accumulated, as_stored

_ALONE = Ranks()


@dataclass(frozen=True)
class StepResult:
    """What a step has to say.

    Attributes:
        loss: the loss of the step's data, a sum over them, in nats.
        terms: reconstruction and KL of the step's data, sums over them; None where the objective keeps none.
        finite: whether loss and gradient were finite, and the data in the likelihood's support; where not, the
            parameters were left as they were.
    """

    loss: Tensor
    terms: Terms | None
    finite: bool


@dataclass(frozen=True)
class Step:
    """One step: its batches, whose gradients are added up, and where in the training it is.

    Attributes:
        batches: one, or as many as the gradient is accumulated over.
        progress: steps and epochs done before it, which schedules of the objective's weights go by; None leaves the
            weights as they are.
    """

    batches: Sequence[Batch]
    progress: tuple[int, float] | None = None

    def __len__(self) -> int:
        """Number of data."""
        return sum(len(batch) for batch in self.batches)


class Agreement(NamedTuple):
    """Relative differences between two computations of the same numbers.

    Attributes:
        loss: of the loss.
        gradient: the largest over the parameters, each measured by the norm of its gradient.
    """

    loss: float
    gradient: float


class Engine(ABC):
    """Runs training steps of one problem with one optimizer.

    Args:
        problem: what is trained.
        optimizer: over the problem's parameters.
        clip_norm: largest norm of the whole gradient; None for no limit.
        ranks: the processes that share every batch; their gradients are summed.

    Attributes:
        name: the engine in effect; ``"eager"`` where recording failed.
        stride: number of steps that it likes to be given at once.
        check: whether the support of the data is looked at, with a message naming the datum.
    """

    name: str
    stride: int = 1

    def __init__(
        self, problem: LossFunction, optimizer: Optimizer, *, clip_norm: float | None = None, ranks: Ranks = _ALONE
    ) -> None:
        self.problem, self.optimizer, self.clip_norm, self.ranks = problem, optimizer, clip_norm, ranks
        self.check = True
        self._update = Update(optimizer, problem.parameters)

    @abstractmethod
    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        """Take the steps, up to the first whose loss or gradient is not finite; that one changes no parameter."""

    def recheck(self) -> None:
        """Compare a recording with the program before the next step: code of the user's may have run in between."""
        return  # nothing is recorded

    @abstractmethod
    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        """Loss and gradient of one batch, or of a share of it."""

    def step(self, args: tuple[Any, ...]) -> StepResult:
        """Take one step on the batch ``args``, a tuple."""
        if not isinstance(args, tuple):
            raise ValueError(f"step: args must be a tuple of arguments, got a {type(args).__name__}. Pass (x,).")
        return self.run([Step([Batch(args)])])[0]

    def check_against(self, reference: ELBO, args: tuple[Any, ...], *, seed: int = 0) -> Agreement:
        """How far loss and gradient are from those of Pyro's own objective, run eagerly with the same random numbers.

        Args:
            reference: such as ``Trace_ELBO()``; it must have ``differentiable_loss``.
            args: a batch.
            seed: of the random numbers of both.

        Returns:
            The relative differences of the two; rounding alone is about 1e-6 in float32.
        """
        problem = replace(self.problem, objective=reference, precision="fp32")
        buffers = [buffer.clone() for buffer in problem.buffers]
        found = []
        for gradients in (self.gradients, lambda args: problem.gradients(*args, flag=False)):
            with isolated_rng():
                gradients(args)  # an objective looks for the plates at its first run
            restore(problem.buffers, buffers)
            with isolated_rng(seed):
                found.append(gradients(args))
            restore(problem.buffers, buffers)
        mine, theirs = found
        distances = torch.stack([_distance(a, b) for a, b in zip(mine.gradients, theirs.gradients, strict=True)])
        return Agreement(float(_distance(mine.loss, theirs.loss)), float(distances.max()))


class StepwiseEngine(Engine, ABC):
    """An engine whose steps are led by Python, one by one."""

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        results: list[StepResult] = []
        for step in steps:
            results.append(self._step(step))
            if not results[-1].finite:
                break
        return results

    def _step(self, step: Step) -> StepResult:
        if isinstance(self.problem.objective, Objective) and step.progress is not None:
            self.problem.objective.set_progress(*step.progress)
        for parameter in self.problem.parameters:
            parameter.grad = None  # before the new gradients, which take its memory
        mine = [batch for batch in step.batches if len(batch.rows)]
        parts = [(self._of_batch(batch), len(batch.rows)) for batch in mine]
        total = accumulated(parts, len(step)) if parts else self._nothing()
        total = total if self.ranks.alone else self._over_ranks(total)
        for parameter, gradient in zip(self.problem.parameters, total.gradients, strict=True):
            parameter.grad = gradient
        finite = bool(total.finite)
        if finite:
            if self.clip_norm is not None:
                clip_grads_with_norm_(self.problem.parameters, self.clip_norm, total.norm)
            self._update(total.gradients)
        return StepResult(total.loss, total.terms, finite)

    def _of_batch(self, batch: Batch) -> Gradients:
        try:
            return self.gradients(batch.args, batch.share)
        except SupportError as error:
            raise error.in_data(batch.index) from None

    def _nothing(self) -> Gradients:
        """What a process adds that has no data of a step."""
        zero = torch.zeros((), device=self.problem.parameters[0].device)
        terms = Terms(zero, zero) if isinstance(self.problem.objective, Objective) else None
        return Gradients(zero, terms, [None] * len(self.problem.parameters), zero, zero == 0)

    def _over_ranks(self, mine: Gradients) -> Gradients:
        """The sums over all processes, sent as one tensor."""
        pairs = zip(mine.gradients, self.problem.parameters, strict=True)
        gradients = [torch.zeros_like(p) if g is None else g for g, p in pairs]
        sums = torch.stack([mine.loss, *(mine.terms or ()), (~mine.finite).to(mine.loss)]).double()
        self.ranks.sum(sums)
        flat = self.ranks.sum(torch.cat([g.flatten() for g in gradients]))
        sizes = [g.numel() for g in gradients]
        parts = zip(self.problem.parameters, flat.split(sizes), strict=True)
        gradients = [as_stored(p, part.view(p.shape)) for p, part in parts]
        norm = get_total_norm(gradients)
        finite = (sums[-1] == 0) & torch.isfinite(norm)
        return Gradients(sums[0], Terms(*sums[1:-1]) if mine.terms else None, list(gradients), norm, finite)


class EagerEngine(StepwiseEngine):
    """Pyro as it is: the reference for every other engine.

    Args:
        problem: what is trained.
        optimizer: over the problem's parameters.
        clip_norm: largest norm of the whole gradient; None for no limit.
        ranks: the processes that share every batch; their gradients are summed.

    References:
        Automated variational inference in probabilistic programming (Wingate and Weber, 2013).
        https://arxiv.org/abs/1301.1299
    """

    name = "eager"

    def gradients(self, args: tuple[Any, ...], share: Share | None = None) -> Gradients:
        with SupportCheck("fit") if self.check else nullcontext():
            return self.problem.gradients(*args, share=share, flag=False)


def _distance(mine: Tensor | None, theirs: Tensor | None) -> Tensor:
    """Relative to the reference; a gradient that only one of the two has is infinitely far."""
    if mine is None or theirs is None:
        return torch.tensor(0.0 if mine is theirs else float("inf"))
    return ((mine - theirs).norm() / theirs.norm().clamp_min(1e-12)).cpu()


@torch.no_grad()
def restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give the tensors the values."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)

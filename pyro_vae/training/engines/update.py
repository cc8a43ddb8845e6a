"""The update of the parameters by a gradient: clipping, the optimizer's step, the average of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from pyro_vae.training.average import WeightAverage
from pyro_vae.training.loss import Gradients

_STATE = ("step", "exp_avg", "exp_avg_sq")
_UNSUPPORTED = ("amsgrad", "maximize", "differentiable")
_GROUP = ("lr", "eps", "weight_decay")
_NUM_COEFFICIENTS = 8


class Update:
    """Updates parameters by a gradient, with torch's optimizer or, for Adam and AdamW, within a recording.

    The optimizer's own step gathers its tensors anew and reads numbers in Python. Adam's as operations on tensors are
    compiled together with the gradient, which they read while it is in the cache.

    Args:
        optimizer: an optimizer of ``parameters``.
        parameters: the trained tensors, in the order of the gradients.
        clip_norm: largest norm of the whole gradient; None for no limit.
        skip_norm: norm of the gradient above which a step changes no parameter; None for no limit.
        average: average of the weights; None for none.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015), algorithm 1. https://arxiv.org/abs/1412.6980
        Decoupled weight decay regularization (Loshchilov and Hutter, 2019), algorithm 2.
        https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Sequence[Tensor],
        *,
        clip_norm: float | None = None,
        skip_norm: float | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        self.optimizer, self.parameters = optimizer, list(parameters)
        self.clip_norm, self.skip_norm, self.average = clip_norm, skip_norm, average
        self._num_groups = len(optimizer.param_groups)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._num_missing = sum(id(p) not in held for p in self.parameters)
        averages = {id(p): average.tensors[name] for name, p in average.parameters.items()} if average else {}
        self.averages = [averages[id(p)] for p in self.parameters] if average else []

    def skips(self, norm: float) -> bool:
        """Whether a gradient of this norm changes nothing."""
        return self.skip_norm is not None and norm > self.skip_norm

    def weight(self, step: int | None) -> float:
        """The weight of the parameters in their average after ``step`` earlier steps."""
        return 0.0 if self.average is None else self.average.weight(step)

    def __call__(self, total: Gradients, weight: float | Tensor) -> None:
        """Take the step with torch's optimizer.

        Args:
            total: the gradients, to be used once.
            weight: that of the parameters in their average.
        """
        for parameter, gradient in zip(self.parameters, total.gradients, strict=True):
            parameter.grad = gradient
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.clip_norm, total.norm)
        self.optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(self.averages, self.parameters, strict=False):
                average.lerp_(parameter, weight)

    # ------------------------------------------------------------ as tensor operations

    @property
    def recordable(self) -> bool:
        """Whether :meth:`record` takes the optimizer's steps.

        It is an Adam or AdamW of all parameters, in the groups of the start, without hooks and rare options.
        """
        optimizer = self.optimizer
        hooks = (*optimizer._optimizer_step_pre_hooks, *optimizer._optimizer_step_post_hooks)
        hooks += (*_global_optimizer_pre_hooks, *_global_optimizer_post_hooks)
        if type(optimizer) not in (Adam, AdamW) or hooks:
            return False
        groups = optimizer.param_groups
        if len(groups) != self._num_groups or self._num_missing:
            return False
        return not any(group.get(name) for group in groups for name in _UNSUPPORTED)

    def state(self) -> list[Tensor]:
        """Tensors that :meth:`record` changes in addition to the parameters; the optimizer's are created if missing."""
        self._states = [self._state_of(parameter) for parameter in self.parameters]
        return [*(tensor for state in self._states for tensor in state.values()), *self.averages]

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in _STATE[1:]:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] = state["step"].to(parameter.device)  # a restored one may be elsewhere
        return {name: state[name] for name in _STATE}

    def adopt_state(self) -> None:
        """Copy the optimizer's state, if it has been replaced, into the tensors of :meth:`state`."""
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # else schedules warn that no step was taken
        current = self.optimizer.state
        for parameter, tensors in zip(self.parameters, self._states, strict=True):
            state = current.get(parameter, {})
            if state.get("step") is tensors["step"]:
                continue
            for name, tensor in tensors.items():
                tensor.copy_(state[name]) if name in state else tensor.zero_()
            current[parameter] = {**state, **tensors}

    def test_numbers(self) -> list[float]:
        """Numbers by which two computations of a step are compared: rounding of a gradient is not magnified."""
        return [1.0, 0.5, *([1.0, 1.0, 0.1, 0.9, 0.999] * self._num_groups)]

    def numbers(self, step: int | None) -> list[float]:
        """Numbers of a step that a recording reads: 1 to apply it, the average's weight, and those of each group."""
        numbers = [1.0, self.weight(step)]
        for group in self.optimizer.param_groups:
            numbers += [float(group[name]) for name in _GROUP] + [float(beta) for beta in group["betas"]]
        return numbers

    @torch.no_grad()
    def record(self, total: Gradients, numbers: Tensor) -> None:
        """Take the step by tensor operations; one that is not finite, is skipped or not to be applied changes nothing.

        Args:
            total: the gradients.
            numbers: those of :meth:`numbers`, float64.
        """
        apply = total.finite & (numbers[0] != 0)
        if self.skip_norm is not None:
            apply = apply & (total.norm <= self.skip_norm)
        factor = None if self.clip_norm is None else (self.clip_norm / (total.norm + 1e-6)).clamp(max=1.0)
        coefficients = self._coefficients(numbers)
        for i, (parameter, gradient) in enumerate(zip(self.parameters, total.gradients, strict=True)):
            if gradient is not None:
                gradient = gradient if factor is None else gradient * factor
                self._adam(parameter, gradient, self._states[i], coefficients[i], apply)
            if self.averages:
                average = self.averages[i]
                average.copy_(torch.where(apply, average + (parameter - average) * numbers[1], average))

    def _coefficients(self, numbers: Tensor) -> Tensor:
        """Numbers of the update, one row per parameter."""
        groups, rows = numbers[2:].view(-1, len(_GROUP) + 2), []
        for parameter, state in zip(self.parameters, self._states, strict=True):
            index = self._group(parameter)
            lr, eps, decay, beta1, beta2 = groups[index].unbind()
            step, none = state["step"].double() + 1, torch.zeros_like(lr)
            penalty, shrinkage = (none, lr * decay) if self._is_decoupled(index) else (decay, none)
            rate, root = lr / (1 - beta1**step), (1 - beta2**step).rsqrt()
            rows += [penalty, 1 - shrinkage, 1 - beta1, beta2, 1 - beta2, rate, root, eps]
        table = torch.stack(rows).to(self.parameters[0].dtype)
        # as_strided makes the compiler store the numbers; otherwise it computes them for every entry of the parameters
        return table.as_strided((len(self.parameters), _NUM_COEFFICIENTS), (_NUM_COEFFICIENTS, 1))

    def _group(self, parameter: Tensor) -> int:
        groups = self.optimizer.param_groups
        return next(i for i, group in enumerate(groups) if any(p is parameter for p in group["params"]))

    def _is_decoupled(self, group: int) -> bool:
        """Whether weights decay by themselves instead of by a term of the gradient."""
        default = isinstance(self.optimizer, AdamW)
        return bool(self.optimizer.param_groups[group].get("decoupled_weight_decay", default))

    def _adam(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], coefficients: Tensor, apply: Tensor
    ) -> None:
        penalty, kept, weight1, beta2, weight2, rate, root, eps = coefficients.unbind()
        step, mean, square = (state[name] for name in _STATE)
        gradient = gradient + penalty * parameter
        new_mean = mean + (gradient - mean) * weight1
        new_square = beta2 * square + weight2 * gradient * gradient
        new = parameter * kept - rate * new_mean / (new_square.sqrt() * root + eps)
        for tensor, value in ((step, step + 1), (mean, new_mean), (square, new_square), (parameter, new)):
            tensor.copy_(torch.where(apply, value, tensor))


def summary(total: Gradients) -> Tensor:
    """Loss, reconstruction, KL, norm of the gradient, and whether it is finite, in one tensor to be read at once."""
    reconstruction, kl = total.terms or (total.loss, total.loss)
    values = (total.loss, reconstruction, kl, total.norm, total.finite)
    return torch.stack([torch.as_tensor(value).double() for value in values])

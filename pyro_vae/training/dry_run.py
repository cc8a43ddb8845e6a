"""A dry run of the optimizer and its learning-rate schedule, on stand-ins for the parameters, before a training."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    MultiplicativeLR,
    ReduceLROnPlateau,
)

from pyro_vae._core.checks import refusal, require, shown
from pyro_vae.networks.conditioned import factory_options
from pyro_vae.training.settings import ScheduleFactory

T = TypeVar("T")
_MAX_STEPS = 2000  # of the schedule; one takes about 10 microseconds


def check_optimization(
    optimizer: Optimizer, lr_schedule: ScheduleFactory | None, *, length: int | None, unit: str
) -> None:
    """Require options that minimise the loss, and a schedule that lasts for the whole training.

    A copy of the optimizer takes one step on stand-ins for the parameters, and the schedule all of its steps.

    Args:
        optimizer: an optimizer that has taken no step.
        lr_schedule: builds the schedule, if there is one.
        length: steps of the schedule in the training; None if unknown.
        unit: what the schedule counts, ``"epoch"`` or ``"step"``.

    Raises:
        ValueError: an option maximises the loss, diverges or changes nothing; optimizer or schedule cannot take a step;
            or the schedule ends before the training.
    """
    for group in optimizer.param_groups:
        _check_group(group)
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    rule = "the learning rate must be positive and finite"
    valid = all(0 <= rate < math.inf for rate in rates) and (not rates or max(rates) > 0)
    require(valid, "fit", rule, f"lr={rates[0] if len(set(rates)) == 1 else rates}", "Use 1e-3, for example")
    if not _is_torch(optimizer):  # whose copies may lack attributes
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the training are shown
        copied = _copy_with_step(optimizer)
        schedule = None if lr_schedule is None else built("lr_schedule", lr_schedule, copied)
        if schedule is not None and _is_torch(schedule):
            _check_schedule(schedule, length, unit)
    if isinstance(schedule, CosineAnnealingLR) and length is not None and schedule.T_max < length:
        warnings.warn(
            f"fit: CosineAnnealingLR reaches its lowest learning rate after T_max={schedule.T_max} of {length} "
            f"{unit}s and rises again. Use T_max={length} if it should fall throughout.",
            stacklevel=2,
        )


def _check_group(group: dict[str, Any]) -> None:
    for name in ("maximize", "differentiable"):
        advice = f"Omit {name}; the loss is minus the objective" if name == "maximize" else f"Omit {name}"
        require(not group.get(name), "fit", f"the optimizer's {name} must be False", f"{name}=True", advice)
    momentum = group.get("momentum", 0.0)
    rule = "the optimizer's momentum must be at least 0 and less than 1"
    require(0 <= momentum < 1, "fit", rule, f"momentum={momentum}", "Use 0.9, for example")


def _is_torch(instance: Any) -> bool:
    return type(instance).__module__.startswith("torch.optim.")


def _copy_with_step(optimizer: Optimizer) -> Optimizer:
    """A copy that has taken a step on one number for each parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    copied = copy.deepcopy(optimizer, {id(p): _stand_in(p) for p in parameters})
    try:
        copied.step()
    except Exception as error:
        raise _failed("optimizer", optimizer, error) from error
    return copied


def _stand_in(parameter: Tensor) -> Tensor:
    shape = (1,) * parameter.dim()
    value = torch.ones(shape, dtype=parameter.dtype, device=parameter.device).requires_grad_()
    value.grad = torch.ones_like(value)
    return value


def built(option: str, factory: Callable[[Any], T], argument: Any) -> T:
    """Call a factory; its errors name the option, in one line."""
    try:
        return factory(argument)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise _failed(option, factory, error) from error


def _check_schedule(schedule: LRScheduler, length: int | None, unit: str) -> None:
    name = type(schedule).__name__
    if isinstance(schedule, ReduceLROnPlateau | LambdaLR | MultiplicativeLR):  # of the history, or of the user's code
        return
    total, rate, num_zero = getattr(schedule, "total_steps", math.inf), 1.0, 0
    rule = f"the schedule must last for the {length} {unit}s of the training"
    advice = f"Set its length to {length}, or lr_schedule_unit to the other of 'epoch' and 'step'"
    require(length is None or length <= total, "fit", rule, f"{name} of {total}", advice)
    for number in range(min(length or 1, _MAX_STEPS)):
        try:
            schedule.step()
        except Exception as error:
            if number == 0:
                raise _failed("lr_schedule", schedule, error) from error
            raise refusal("fit", rule, f"{name}, which fails after {number}: {_line(error)}", advice) from error
        num_zero = num_zero + 1 if rate == 0 else 0
        rate = max(float(group["lr"]) for group in schedule.optimizer.param_groups)
    advice = f"Make it {length} {unit}s long"
    require(num_zero < 2, "fit", rule, f"{name}, whose learning rate is 0 in the last {num_zero}", advice)


def _failed(option: str, value: Any, error: Exception) -> ValueError:
    kind, options = factory_options(value)
    name = getattr(kind or value, "__name__", type(value).__name__)
    defaults = {} if kind is None else {key: p.default for key, p in signature(kind).parameters.items()}
    changed = {k: v for k, v in options.items() if isinstance(v, Tensor) or v != defaults.get(k, ...)}
    given = ", ".join(f"{key}={shown(option)}" for key, option in changed.items())
    got = f"{name}({given})" if given else name
    return refusal("fit", f"{option} must run", f"{got}, which fails: {_line(error)}", "Change its arguments")


def _line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
    return f"{type(error).__name__}: {text}"

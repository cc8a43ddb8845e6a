"""The learning rate: its linear increase over the first steps, and its schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


def warm_up_factor(step: int, num_steps: int) -> float:
    """Factor of the learning rate in the step after ``step`` others: (step + 1) / num_steps, at most 1.

    Example:
        >>> [warm_up_factor(step, 4) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1, num_steps))


def step_schedule(scheduler: LRScheduler | None, record: dict[str, Any]) -> None:
    """Step a schedule of epochs; ReduceLROnPlateau by the validation ELBO, or else by the loss."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(-record.get("validation_elbo", -record["loss"]))
    elif scheduler is not None:
        scheduler.step()


@contextmanager
def scaled_rate(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Context in which all learning rates are multiplied by ``factor``; schedules see them unchanged afterwards."""
    if factor == 1:
        yield
        return
    groups = optimizer.param_groups
    rates = [float(group["lr"]) for group in groups]
    _set_rates(groups, [rate * factor for rate in rates])
    try:
        yield
    finally:
        _set_rates(groups, rates)


def _set_rates(groups: Sequence[dict[str, Any]], rates: Sequence[float]) -> None:
    for group, rate in zip(groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):  # which a CUDA graph reads
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

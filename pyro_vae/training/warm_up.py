"""Linear increase of the learning rate over the first steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def warm_up_factor(step: int, num_steps: int) -> float:
    """Factor of the learning rate in the step after ``step`` others: (step + 1) / num_steps, at most 1.

    Example:
        >>> [warm_up_factor(step, 4) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1, num_steps))


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

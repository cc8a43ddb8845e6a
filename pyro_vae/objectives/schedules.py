"""Schedules of a weight over training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["steps", "epochs"]


class Schedule(ABC):
    """A number that depends on the progress of training."""

    @abstractmethod
    def __call__(self, step: int, epoch: float) -> float:
        """The value after ``step`` gradient steps, which are ``epoch`` passes over the data."""


class ConstantSchedule(Schedule):
    """The same value throughout.

    Args:
        value: the value.

    Example:
        >>> ConstantSchedule(0.5)(step=10, epoch=1.0)
        0.5
    """

    def __init__(self, value: float = 1.0) -> None:
        self.value = float(value)

    def __call__(self, step: int, epoch: float) -> float:
        return self.value


class LinearWarmUp(Schedule):
    """From ``start`` to ``end`` in a straight line, then constant.

    Args:
        length: duration of the warm-up, in ``unit``.
        start: value at the first step.
        end: value from ``length`` on.
        unit: what ``length`` counts.

    References:
        Ladder variational autoencoders (Soenderby et al., 2016). https://arxiv.org/abs/1602.02282

    Example:
        >>> warm_up = LinearWarmUp(100, unit="epochs")
        >>> warm_up(step=0, epoch=0.0), warm_up(step=999, epoch=25.0), warm_up(step=9999, epoch=250.0)
        (0.0, 0.25, 1.0)
    """

    def __init__(self, length: float = 100, *, start: float = 0.0, end: float = 1.0, unit: Unit = "epochs") -> None:
        self.length = _positive("LinearWarmUp", length)
        self.start, self.end, self.unit = float(start), float(end), _known("LinearWarmUp", unit)

    def __call__(self, step: int, epoch: float) -> float:
        done = min(1.0, (epoch if self.unit == "epochs" else step) / self.length)
        return self.start + (self.end - self.start) * done


class CyclicalSchedule(Schedule):
    """Repeated warm-ups: in each cycle a line from ``start`` to ``end``, then ``end`` for the rest.

    Args:
        length: duration of one cycle, in ``unit``.
        rising: fraction of a cycle that the line takes.
        start: value at the start of each cycle.
        end: value at the end of each cycle.
        cycles: number of cycles, after which the value stays ``end``; None for no end.
        unit: what ``length`` counts.

    References:
        Cyclical annealing schedule: a simple approach to mitigating KL vanishing (Fu et al., 2019).
        https://arxiv.org/abs/1903.10145

    Example:
        >>> beta = CyclicalSchedule(10, rising=0.5, cycles=2, unit="epochs")
        >>> [beta(step=0, epoch=e) for e in (0, 2.5, 5, 9, 10, 25)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        length: float = 50,
        *,
        rising: float = 0.5,
        start: float = 0.0,
        end: float = 1.0,
        cycles: int | None = 4,
        unit: Unit = "epochs",
    ) -> None:
        self.length = _positive("CyclicalSchedule", length)
        if not 0 < rising <= 1:
            raise ValueError(f"CyclicalSchedule: rising must be in (0, 1], got rising={rising}. Use for example 0.5.")
        self.rising, self.cycles, self.unit = rising, cycles, _known("CyclicalSchedule", unit)
        self.start, self.end = float(start), float(end)

    def __call__(self, step: int, epoch: float) -> float:
        cycle, place = divmod((epoch if self.unit == "epochs" else step) / self.length, 1.0)
        if self.cycles is not None and cycle >= self.cycles:
            return self.end
        return self.start + (self.end - self.start) * min(1.0, place / self.rising)


def _known(name: str, unit: Unit) -> Unit:
    if unit not in ("steps", "epochs"):
        raise ValueError(f"{name}: unit must be 'steps' or 'epochs', got unit={unit!r}. Use one of the two.")
    return unit


def _positive(name: str, length: float) -> float:
    if not length > 0:
        raise ValueError(f"{name}: length must be positive, got length={length}. Use a number of steps or epochs.")
    return float(length)

"""Schedules of a weight over training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

from pyro_vae._core.checks import CheckedArguments, check_count, check_positive, require

Unit: TypeAlias = Literal["steps", "epochs"]


class Schedule(CheckedArguments, ABC):
    """A number that depends on the progress of training."""

    @abstractmethod
    def __call__(self, step: int, epoch: float) -> float:
        """The value after ``step`` gradient steps, or ``epoch`` passes over the data."""


class ConstantSchedule(Schedule):
    """A constant value.

    Args:
        value: the value.

    Example:
        >>> ConstantSchedule(0.5)(step=10, epoch=1.0)
        0.5
    """

    def __init__(self, value: float = 1.0) -> None:
        check_positive("ConstantSchedule", at_least_zero=True, value=value)
        self.value = float(value)

    def __call__(self, step: int, epoch: float) -> float:
        return self.value


class LinearWarmUp(Schedule):
    """Linear from ``start`` to ``end``, then constant.

    Args:
        length: duration of the warm-up, in ``unit``.
        start: value at the first step.
        end: value from ``length`` on.
        unit: unit of ``length``.

    References:
        Ladder variational autoencoders (Soenderby et al., 2016). https://arxiv.org/abs/1602.02282

    Example:
        >>> warm_up = LinearWarmUp(100, unit="epochs")
        >>> warm_up(step=0, epoch=0.0), warm_up(step=999, epoch=25.0), warm_up(step=9999, epoch=250.0)
        (0.0, 0.25, 1.0)
    """

    def __init__(self, length: float = 100, *, start: float = 0.0, end: float = 1.0, unit: Unit = "epochs") -> None:
        _check("LinearWarmUp", length, start, end)
        self.length, self.unit = float(length), unit
        self.start, self.end = float(start), float(end)

    def __call__(self, step: int, epoch: float) -> float:
        done = min(1.0, (epoch if self.unit == "epochs" else step) / self.length)
        return self.start + (self.end - self.start) * done


class CyclicalSchedule(Schedule):
    """Repeated warm-ups: each cycle is linear from ``start`` to ``end``, then constant.

    Args:
        length: duration of one cycle, in ``unit``.
        rising: fraction of a cycle in which the value rises.
        start: value at the start of each cycle.
        end: value at the end of each cycle.
        cycles: number of cycles, after which the value stays ``end``; None for unlimited cycles.
        unit: unit of ``length``.

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
        _check("CyclicalSchedule", length, start, end)
        check_count("CyclicalSchedule", cycles=cycles)
        require(0 < rising <= 1, "CyclicalSchedule", "rising must be in (0, 1]", f"rising={rising}")
        self.length, self.rising, self.cycles, self.unit = float(length), rising, cycles, unit
        self.start, self.end = float(start), float(end)

    def __call__(self, step: int, epoch: float) -> float:
        cycle, fraction = divmod((epoch if self.unit == "epochs" else step) / self.length, 1.0)
        if self.cycles is not None and cycle >= self.cycles:
            return self.end
        return self.start + (self.end - self.start) * min(1.0, fraction / self.rising)


def _check(name: str, length: float, start: float, end: float) -> None:
    check_positive(name, length=length, advice="Use a number of steps or epochs")
    check_positive(name, at_least_zero=True, start=start, end=end)

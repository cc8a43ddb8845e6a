"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_vae._core.checks import require


class WeightAverage:
    r"""Exponential moving average of the parameters, :math:`\bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t)\theta_t`.

    The decay of step t = 1, 2, ... is :math:`d_t = \min(d, (1 + t) / (10 + t))`, so that the initial weights are soon
    forgotten. Buffers such as running statistics are not averaged.

    Args:
        decay: d, such as 0.999.
        parameters: the trained parameters, by name.

    Attributes:
        tensors: the averages, by name.

    Raises:
        ValueError: ``decay`` is not in (0, 1).

    References:
        Acceleration of stochastic approximation by averaging (Polyak and Juditsky, 1992).
        https://doi.org/10.1137/0330046
        Averaging weights leads to wider optima and better generalization (Izmailov et al., 2018).
        https://arxiv.org/abs/1803.05407

    Example:
        >>> import torch
        >>> average = WeightAverage(0.99, {"loc": torch.tensor(1.0)})
        >>> average.parameters["loc"].fill_(2.0), average.tensors["loc"]
        (tensor(2.), tensor(1.))
        >>> with average.applied():
        ...     average.parameters["loc"].item()
        1.0
        >>> average.parameters["loc"].item()
        2.0
    """

    def __init__(self, decay: float, parameters: Mapping[str, Tensor]) -> None:
        require(0 < decay < 1, "fit", "ema must lie between 0 and 1", f"ema={decay}", "Use for example 0.999")
        self.decay, self.parameters = decay, dict(parameters)
        self.tensors = {name: p.detach().clone() for name, p in self.parameters.items()}

    def weight(self, step: int | None) -> float:
        """The weight 1 - d_t of the parameters after ``step`` earlier steps; of a late step for None."""
        return 1 - (self.decay if step is None else min(self.decay, (2 + step) / (11 + step)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the parameters have the averaged values."""
        current = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self.apply()
            yield
        finally:
            _copy(self.parameters, current)

    def apply(self) -> None:
        """Set the parameters to the averaged values."""
        _copy(self.parameters, self.tensors)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the averages, in place."""
        _copy(self.tensors, tensors)


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])

"""Support and shapes of likelihoods of grey levels k / (levels - 1)."""

from __future__ import annotations

from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae.networks import Shape


class GreyLevels(Constraint):
    """The values 0, 1/(levels-1), ..., 1, within a thousandth of a level."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def __repr__(self) -> str:
        return f"GreyLevels({self.levels})"

    def check(self, value: Tensor) -> Tensor:
        level = value * (self.levels - 1)
        return (value >= 0) & (value <= 1) & ((level - level.round()).abs() < 1e-3)


def stacked_shape(count: int, data_shape: Shape) -> Shape:
    """Shape of ``count`` numbers per entry of a datum; for images they are channels. One number keeps the shape."""
    if len(data_shape) == 3:
        return (count * data_shape[0], *data_shape[1:])
    return data_shape if count == 1 else (count, *data_shape)


def unstacked(outputs: Tensor, count: int, data_shape: Shape) -> Tensor:
    """Reshape ``(*batch, *stacked_shape)`` to ``(*batch, count, *data_shape)``."""
    batch = outputs.shape[: outputs.dim() - len(stacked_shape(count, data_shape))]
    return outputs.reshape(*batch, count, *data_shape)

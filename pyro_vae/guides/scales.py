"""Positive scales of a guide, from the unbounded numbers of a network."""

from __future__ import annotations

from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

LogScaleBounds = tuple[float, float]


def log_scale_limits(name: str, log_scale_bounds: LogScaleBounds) -> LogScaleBounds:
    """The limits of a log scale, checked.

    Raises:
        ValueError: they are not in order.
    """
    low, high = log_scale_bounds
    if not low < high:
        raise ValueError(
            f"{name}: log_scale_bounds must be (low, high), got log_scale_bounds={log_scale_bounds}. "
            "Use for example (-3.0, 1.0)."
        )
    return float(low), float(high)


def normal_of(params: Tensor, limits: LogScaleBounds) -> TorchDistribution:
    """The diagonal normal with loc and log scale ``(*batch, 2, L)``: batch shape ``batch``, event shape ``(L,)``."""
    loc, log_scale = params.unbind(-2)
    return Normal(loc, log_scale.clamp(*limits).exp()).to_event(1)

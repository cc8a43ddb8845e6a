r"""The exponential tilt :math:`e^{\theta x}` of a uniform variable on [0, 1], of largest entropy for its mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_SMALL = 0.25  # below it the series are exact to the last digit
# log(sinh(y) / y) = y^2/6 - y^4/180 + ..., the integral of coth(y) - 1/y = y/3 - y^3/45 + ...
_LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
_LANGEVIN = tuple(2 * k * c for k, c in enumerate(_LOG_SINHC, 1))


def log_density(slope: Tensor, x: Tensor) -> Tensor:
    r""":math:`\theta x - \log \int_0^1 e^{\theta t} dt`, without cancellation for any slope, and smooth at 0."""
    small = slope.abs() < 2 * _SMALL
    near, far = torch.where(small, slope, 0.0), torch.where(small, 1.0, slope)
    square = (near / 2).square()
    series = near * (x - 0.5) - square * _polynomial(_LOG_SINHC, square)
    area = -torch.expm1(-far.abs()) / far.abs()  # of exp(far (x - 1)) for a positive slope, of exp(far x) otherwise
    return torch.where(small, series, far * (x - (far > 0).to(x)) - area.log())


def tilted_mean(slope: Tensor) -> Tensor:
    r""":math:`1/2 + (\coth(\theta/2) - 2/\theta) / 2`, the mean of the tilted uniform variable."""
    small = slope.abs() < 2 * _SMALL
    near, far = torch.where(small, slope, 0.0) / 2, torch.where(small, 1.0, slope) / 2
    langevin = torch.where(small, near * _polynomial(_LANGEVIN, near.square()), 1 / far.tanh() - 1 / far)
    return 0.5 + langevin / 2


def tilted_grid_mean(slope: Tensor, levels: int) -> Tensor:
    r"""The mean of x in {0, 1/n, ..., 1}, n = levels - 1, with probabilities proportional to :math:`e^{\theta x}`.

    The sum of the geometric series is a quotient of two integrals, over [0, 1 + 1/n] and over [0, 1/n], so its slope is
    the difference of two means.
    """
    n = levels - 1
    return ((n + 1) * tilted_mean(slope * (1 + 1 / n)) - tilted_mean(slope / n)) / n


def slope_of_mean(mean_of: Callable[[Tensor], Tensor], mean: Tensor) -> Tensor:
    """Solve ``mean_of(slope) = mean``, clamped to [0.001, 0.999], by bisection in float64.

    The slope of a tilt is then between -1000 and 1000, since at slope -a the means above are less than 1/a.
    """
    target = mean.double().clamp(1e-3, 1 - 1e-3)
    low, high = torch.full_like(target, -1e3), torch.full_like(target, 1e3)
    for _ in range(64):
        middle = (low + high) / 2
        below = mean_of(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).to(mean)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """c_1 + c_2 x + c_3 x^2 + ..., by Horner's rule."""
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total

"""The monotone rational-quadratic spline, elementwise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from pyro_vae._core.checks import CheckedArguments, check_positive, require

MIN_BIN = 1e-3  # smallest share of a bin in the total width and height
MIN_SLOPE = 1e-3


class RationalQuadraticSpline(CheckedArguments):
    r"""Monotone spline on :math:`[-B, B]` with K bins and the identity outside, elementwise.

    .. math:: y = y_k + h_k \frac{s_k \xi^2 + d_k \xi (1 - \xi)}{s_k + (d_k + d_{k + 1} - 2 s_k)\, \xi (1 - \xi)},
        \qquad \xi = (x - x_k) / w_k, \quad s_k = h_k / w_k

    Args:
        raw: ``(*batch, 3 K - 1)``: logits of the bins' widths w, of their heights h, and the slopes d at the inner
            knots before a softplus. Zeros give the identity.
        bound: B.

    Shape:
        x ``(*sample, *batch)`` to y and log dy/dx of the same shape.

    References:
        Neural spline flows (Durkan et al., 2019), eq. 4 to 8. https://arxiv.org/abs/1906.04032

    Example:
        >>> import torch
        >>> spline = RationalQuadraticSpline(torch.zeros(5, 11), bound=3.0)
        >>> y, log_slope = spline.forward(torch.full((2, 5), 0.5))
        >>> y.shape, bool((y - 0.5).abs().max() < 1e-6)
        (torch.Size([2, 5]), True)
    """

    def __init__(self, raw: Tensor, *, bound: float) -> None:
        check_positive("RationalQuadraticSpline", bound=bound)
        valid, got = raw.dim() > 0 and raw.shape[-1] % 3 == 2, f"raw={tuple(raw.shape)}"
        require(valid, "RationalQuadraticSpline", "raw must be (*batch, 3 K - 1)", got)
        bins = (raw.shape[-1] + 1) // 3
        widths, heights, slopes = raw.split([bins, bins, bins - 1], -1)
        self.bound = bound
        self.x, self.y = _knots(widths, bound), _knots(heights, bound)  # (*batch, K + 1)
        inner = MIN_SLOPE + (1 - MIN_SLOPE) * softplus(slopes + math.log(math.e - 1))
        self.slopes = pad(inner, (1, 1), value=1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inside, u, (x0, width, y0, height, d0, d1) = self._bin(x, self.x)
        xi = (u - x0) / width
        s, between = height / width, xi * (1 - xi)
        y = y0 + height * (s * xi * xi + d0 * between) / (s + (d0 + d1 - 2 * s) * between)
        return torch.where(inside, y, x), torch.where(inside, _log_slope(xi, s, d0, d1), 0.0)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        inside, v, (x0, width, y0, height, d0, d1) = self._bin(y, self.y)
        s, eta = height / width, v - y0
        curve = eta * (d0 + d1 - 2 * s)
        # a xi^2 + b xi + c = 0, by the form of the root without cancellation for b > 0
        a, b, c = height * (s - d0) + curve, height * d0 - curve, -s * eta
        xi = 2 * c / (-b - (b * b - 4 * a * c).clamp_min(0).sqrt())
        x = x0 + xi * width
        return torch.where(inside, x, y), torch.where(inside, -_log_slope(xi, s, d0, d1), 0.0)

    def _bin(self, value: Tensor, knots: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Whether a value is inside, the value replaced by 0 if not, and its bin: x_k, w_k, y_k, h_k, d_k, d_k+1."""
        inside = value.abs() < self.bound
        # Values outside are replaced by 0, so that no division makes their gradients NaN.
        safe = torch.where(inside, value, 0.0)
        index = (safe.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1, keepdim=True)  # (*sample, *batch, 1)
        ends = torch.stack([self.x, self.y, self.slopes], -2)  # (*batch, 3, K + 1)
        ends = ends.expand(*index.shape[:-1], *ends.shape[-2:])
        left, right = (ends.gather(-1, (index + i).unsqueeze(-1).expand(*ends.shape[:-1], 1)) for i in (0, 1))
        (x0, y0, d0), (x1, y1, d1) = left.squeeze(-1).unbind(-1), right.squeeze(-1).unbind(-1)
        return inside, safe, [x0, x1 - x0, y0, y1 - y0, d0, d1]


def _knots(logits: Tensor, bound: float) -> Tensor:
    shares = MIN_BIN + (1 - MIN_BIN * logits.shape[-1]) * logits.softmax(-1)
    inner = 2 * bound * shares.cumsum(-1)[..., :-1] - bound
    return pad(pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _log_slope(xi: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    between = xi * (1 - xi)
    numerator = s * s * (d1 * xi * xi + 2 * s * between + d0 * (1 - xi) * (1 - xi))
    return numerator.log() - 2 * (s + (d0 + d1 - 2 * s) * between).log()

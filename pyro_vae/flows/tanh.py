"""The monotone scalar map a + c tanh(a), c > -1, of planar and Sylvester flows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEWTON_STEPS = 12  # converges in float64 for all q in [1e-6, 1e4] and |r| in [1e-12, 1e5]


def above_minus_one(t: Tensor) -> tuple[Tensor, Tensor]:
    r"""A factor g with :math:`t g(t) > -1` for every real t, smooth and onto.

    .. math:: q = t / 2 + \sqrt{t^2 / 4 + 1}, \qquad g = (q - 1) / t

    If w.u must exceed -1, u g(w.u) replaces u: the direction is kept, there is no division by \|w\|, and every
    admissible u is reached.

    Returns:
        g in (0, 1), and q = 1 + t g > 0 without cancellation.
    """
    gain = 0.5 * (1 + t / (2 + (t * t + 4).sqrt()))
    return gain, (t / 2).asinh().exp()


def slope(h: Tensor, q: Tensor) -> Tensor:
    """Derivative of a + (q - 1) tanh(a) at tanh(a) = h, as a sum of positive terms."""
    square = h * h
    return square + q * (1 - square)


def solve(r: Tensor, q: Tensor) -> Tensor:
    r"""The root a of :math:`a + (q - 1) \tanh(a) = r`, q > 0, with exact derivatives of every order.

    The root is computed outside of autograd; its derivative is that of the implicit function theorem,
    :math:`da = (dr - \tanh(a)\, dq) / (1 + (q - 1) \tanh'(a))`, written as a function of a itself.
    """
    root: Tensor = _Solve.apply(*torch.broadcast_tensors(r, q))
    return root


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, q: Tensor) -> Tensor:
        a = _root(r, q)
        h = a.tanh()
        a = a - (a + (q - 1) * h - r) / slope(h, q)
        ctx.save_for_backward(a, q)
        return a

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, q = ctx.saved_tensors
        h = a.tanh()
        by_r = grad / slope(h, q)
        return by_r, -by_r * h


def _root(r: Tensor, q: Tensor) -> Tensor:
    """Newton's method from the side on which it converges monotonically, for r > 0 by symmetry."""
    c, s = torch.broadcast_tensors(q - 1, r.abs())
    # c >= 0: concave, start at most the root, by tanh <= 1 and tanh(a) <= a.
    below = torch.maximum(s - c, s / q)
    # c < 0: convex, start at least the root, by the same and by a - tanh(a) >= a^3 / 5 on [0, 1].
    cube = (5 * s / c.abs().clamp_min(torch.finfo(s.dtype).tiny)).pow(1 / 3)
    above = torch.minimum(torch.minimum(s - c, s / q), torch.where(cube <= 1, cube, torch.inf))
    a = torch.where(c >= 0, below, above)
    for _ in range(NEWTON_STEPS):
        h = a.tanh()
        a = a - (a + c * h - s) / slope(h, q)
    return a.copysign(r)

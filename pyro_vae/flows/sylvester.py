"""The Sylvester flow."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.flows.base import Flow, check_parameters
from pyro_vae.flows.tanh import above_minus_one, slope, solve


class SylvesterFlow(Flow):
    r"""Sylvester flow, :math:`y = z + Q R \tanh(\tilde{R} Q^\top z + b)`: a planar flow with M directions.

    R and R-tilde are upper triangular with :math:`R_{ii} \tilde{R}_{ii} > -1`, so the determinant is a product, and
    the inverse is computed for one component of :math:`Q^\top z` at a time, from the last to the first.

    Args:
        q: Q, ``(*batch, L, M)`` with orthonormal columns.
        r: R, ``(*batch, M, M)``; entries below the diagonal are ignored, and the diagonal is rescaled so that the
            flow is invertible.
        r_tilde: R-tilde, likewise.
        b: ``(*batch, M)``.

    Shape:
        ``(*sample, *batch, L)`` to the same and ``(*sample, *batch)``.

    References:
        Sylvester normalizing flows for variational inference (van den Berg et al., 2018), eq. 9 to 13.
        https://arxiv.org/abs/1803.05649

    Example:
        >>> import torch
        >>> q, r = torch.eye(3)[:, :2], torch.ones(2, 2)
        >>> y, log_det = SylvesterFlow(q, r, r, torch.zeros(2)).forward(torch.zeros(5, 3))
        >>> y.shape, log_det.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, q: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor) -> None:
        m = b.shape[-1:]
        check_parameters("SylvesterFlow", q=(q, m), r=(r, m + m), r_tilde=(r_tilde, m + m), b=(b, m))
        self.q, self.b, self.r_tilde = q, b, r_tilde.triu()
        diagonal, diagonal_tilde = r.diagonal(dim1=-2, dim2=-1), r_tilde.diagonal(dim1=-2, dim2=-1)
        gain, self.slope = above_minus_one(diagonal * diagonal_tilde)  # (*batch, M), the latter 1 + R_ii Rt_ii
        self.r = r.triu(1) + (gain * diagonal).diag_embed()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = (times(times(z, self.q), self.r_tilde.mT) + self.b).tanh()  # (*sample, *batch, M)
        return z + self._step(h), slope(h, self.slope).log().sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self._solve(times(y, self.q))
        return y - self._step(h), -slope(h, self.slope).log().sum(-1)

    def _step(self, h: Tensor) -> Tensor:
        return times(times(h, self.r.mT), self.q.mT)

    def _solve(self, v: Tensor) -> Tensor:
        """Solve v = zeta + R tanh(Rt zeta + b); return tanh(Rt zeta + b), ``(*sample, *batch, M)``."""
        zeta = v.new_zeros(*v.shape[:-1], 0)  # the components after i
        h = zeta
        for i in reversed(range(v.shape[-1])):
            rest = v[..., i] - (self.r[..., i, i + 1 :] * h).sum(-1)  # = zeta_i + R_ii tanh(Rt_ii zeta_i + b_i + ...)
            shift = self.b[..., i] + (self.r_tilde[..., i, i + 1 :] * zeta).sum(-1)
            h_i = solve(self.r_tilde[..., i, i] * rest + shift, self.slope[..., i]).tanh()
            zeta = torch.cat([(rest - self.r[..., i, i] * h_i).unsqueeze(-1), zeta], -1)
            h = torch.cat([h_i.unsqueeze(-1), h], -1)
        return h


def times(z: Tensor, matrix: Tensor) -> Tensor:
    """z' A for z ``(*sample, *batch, L)`` and A ``(*batch, L, M)``, without a copy of A per sample."""
    extra = z.dim() - matrix.dim() + 1
    if extra < 1 or matrix.dim() == 2:
        return (z.unsqueeze(-2) @ matrix).squeeze(-2)
    rows = z.flatten(0, extra - 1).movedim(0, -2)  # (*batch, samples, L)
    return (rows @ matrix).movedim(-2, 0).unflatten(0, z.shape[:extra])


def orthonormal(matrix: Tensor) -> Tensor:
    """Orthonormalise the columns of ``(*batch, L, M)``, M <= L, by Gram-Schmidt with reorthogonalisation.

    The paper iterates to a tolerance instead, with a number of steps that depends on the values.
    """
    first, *others = matrix.unbind(-1)
    q = _unit(first).unsqueeze(-1)
    for column in others:
        for _ in range(2):  # the second pass removes rounding errors
            column = column - times(times(column, q), q.mT)
        q = torch.cat([q, _unit(column).unsqueeze(-1)], -1)
    return q


def _unit(v: Tensor) -> Tensor:
    return v * ((v * v).sum(-1, keepdim=True) + torch.finfo(v.dtype).tiny).rsqrt()

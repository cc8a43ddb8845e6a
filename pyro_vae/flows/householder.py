"""Householder reflections: the flow, and the orthogonal matrix of several."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.flows.base import Flow


def reflect(z: Tensor, v: Tensor) -> Tensor:
    """Return (I - 2 v v' / v'v) z along the last dimension; z itself if v = 0."""
    norm = (v * v).sum(-1, keepdim=True) + torch.finfo(v.dtype).tiny
    return z - v * (2 * (v * z).sum(-1, keepdim=True) / norm)


def householder_matrix(vectors: Tensor) -> Tensor:
    """The product of the reflections of ``(*batch, H, L)``, first one leftmost: an orthogonal ``(*batch, L, L)``."""
    rows = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
    rows = rows.expand(*vectors.shape[:-2], *rows.shape)
    for v in vectors.unbind(-2):
        rows = reflect(rows, v.unsqueeze(-2))  # each row is multiplied by one more symmetric factor from the right
    return rows


class HouseholderFlow(Flow):
    r"""Householder flow, :math:`y = (I - 2 v v^\top / \|v\|^2)\, z`: a reflection.

    It is its own inverse and preserves volume.

    Args:
        v: ``(*batch, L)``, of any length.

    Shape:
        ``(*sample, *batch, L)`` to the same and ``(*sample, *batch)``.

    References:
        Improving variational auto-encoders using Householder flow (Tomczak and Welling, 2016), eq. 7.
        https://arxiv.org/abs/1611.09630

    Example:
        >>> import torch
        >>> HouseholderFlow(torch.tensor([2.0, 0.0])).forward(torch.ones(2))[0]
        tensor([-1.,  1.])
    """

    def __init__(self, v: Tensor) -> None:
        self.v = v

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = reflect(z, self.v)
        return y, y.new_zeros(y.shape[:-1])

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(y)

"""The planar flow."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.flows.base import Flow, check_parameters
from pyro_vae.flows.tanh import above_minus_one, slope, solve


class PlanarFlow(Flow):
    r"""Planar flow, :math:`y = z + \hat{u} \tanh(w \cdot z + b)`, with :math:`w \cdot \hat{u} > -1`.

    The inverse is the root of a monotone function of one variable, :math:`w \cdot z`.

    Args:
        u: ``(*batch, L)``; rescaled to u-hat, whereas the paper shifts it along w.
        w: ``(*batch, L)``.
        b: ``(*batch, 1)``.

    Shape:
        ``(*sample, *batch, L)`` to the same and ``(*sample, *batch)``.

    References:
        Variational inference with normalizing flows (Rezende and Mohamed, 2015), eq. 10 to 12, appendix A.1.
        https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch
        >>> y, log_det = PlanarFlow(torch.ones(5, 2), torch.ones(5, 2), torch.zeros(5, 1)).forward(torch.zeros(5, 2))
        >>> y.shape, log_det.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        size = u.shape[-1:]
        check_parameters("PlanarFlow", u=(u, size), w=(w, size), b=(b, (1,)))
        gain, self.q = above_minus_one((w * u).sum(-1, keepdim=True))  # (*batch, 1), q = 1 + w.u
        self.u, self.w, self.b = gain * u, w, b

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = ((self.w * z).sum(-1, keepdim=True) + self.b).tanh()  # (*sample, *batch, 1)
        return z + self.u * h, slope(h, self.q).log().squeeze(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        # w.y = w.z + w.u tanh(w.z + b), so a = w.z + b is the root for r = w.y + b.
        h = solve((self.w * y).sum(-1, keepdim=True) + self.b, self.q).tanh()
        return y - self.u * h, -slope(h, self.q).log().squeeze(-1)

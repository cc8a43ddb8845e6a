"""The affine autoregressive flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.flows.base import Flow

Coefficients = Callable[[Tensor], tuple[Tensor, Tensor]]


class AutoregressiveFlow(Flow):
    r"""Affine autoregressive flow, :math:`y_i = \mu_i(z_{<i}) + e^{s_i(z_{<i})} z_i`.

    Forward takes one pass of the network, the inverse L passes, one per component: use the flow itself for fast
    sampling, its :class:`~pyro_vae.flows.InverseFlow` for fast density evaluation.

    Args:
        coefficients: z ``(*batch, L)`` to mu and s, ``(*batch, L)`` each, whose i-th components depend on the
            components of z before the i-th only.

    Shape:
        ``(*batch, L)`` to the same and ``batch``.

    References:
        Improved variational inference with inverse autoregressive flow (Kingma et al., 2016), eq. 10.
        https://arxiv.org/abs/1606.04934
        Masked autoregressive flow for density estimation (Papamakarios et al., 2017), eq. 4.
        https://arxiv.org/abs/1705.07057

    Example:
        >>> import torch
        >>> before = lambda z: torch.nn.functional.pad(z, (1, -1))
        >>> AutoregressiveFlow(lambda z: (before(z), 0 * z)).forward(torch.ones(3))
        (tensor([1., 2., 2.]), tensor(0.))
    """

    def __init__(self, coefficients: Coefficients) -> None:
        self.coefficients = coefficients

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.coefficients(z)
        return shift + log_scale.exp() * z, log_scale.sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = y.new_zeros(*y.shape[:-1], 0), y.new_zeros(y.shape[:-1])
        for i in range(y.shape[-1]):
            # The remaining components are zeros, on which the i-th coefficients do not depend.
            zeros = y.new_zeros(*z.shape[:-1], y.shape[-1] - i)
            shift, log_scale = self.coefficients(torch.cat([z, zeros], -1))
            z_i = (y[..., i] - shift[..., i]) * (-log_scale[..., i]).exp()
            z = torch.cat([z.expand(*z_i.shape, i), z_i.unsqueeze(-1)], -1)  # the parameters may have more dimensions
            log_det = log_det - log_scale[..., i]
        return z, log_det

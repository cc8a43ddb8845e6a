"""The radial flow."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.flows.base import Flow, check_parameters


class RadialFlow(Flow):
    r"""Radial flow, :math:`y = z + \beta (z - z_0) / (\alpha + r)`, :math:`r = \|z - z_0\|`, :math:`\beta > -\alpha`.

    It contracts or expands around a centre. With :math:`\gamma = \alpha + \beta > 0` the distance becomes
    :math:`r (\gamma + r) / (\alpha + r)`, so the inverse is the root of a quadratic.

    Args:
        center: z_0, ``(*batch, L)``.
        alpha: ``(*batch, 1)``, positive.
        gamma: alpha + beta, ``(*batch, 1)``, positive.

    Shape:
        ``(*sample, *batch, L)`` to the same and ``(*sample, *batch)``.

    References:
        Variational inference with normalizing flows (Rezende and Mohamed, 2015), eq. 14, appendix A.2.
        https://arxiv.org/abs/1505.05770

    Example:
        >>> import torch
        >>> flow = RadialFlow(torch.zeros(2), torch.ones(1), torch.full((1,), 2.0))
        >>> flow.forward(torch.tensor([1.0, 0.0]))[0]
        tensor([1.5000, 0.0000])
    """

    def __init__(self, center: Tensor, alpha: Tensor, gamma: Tensor) -> None:
        check_parameters("RadialFlow", center=(center, center.shape[-1:]), alpha=(alpha, (1,)), gamma=(gamma, (1,)))
        self.center, self.alpha, self.gamma = center, alpha, gamma

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.linalg.vector_norm(z - self.center, dim=-1, keepdim=True)
        return self.center + self._ratio(r) * (z - self.center), self._log_det(r, z.shape[-1])

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        rho = torch.linalg.vector_norm(y - self.center, dim=-1, keepdim=True)
        # r^2 + (gamma - rho) r - alpha rho = 0, by the form of the positive root without cancellation.
        half = (self.gamma - rho) / 2
        root = (half * half + self.alpha * rho).sqrt()
        r = torch.where(half > 0, self.alpha * rho / (root + half.abs()), root - half)
        return self.center + (y - self.center) / self._ratio(r), -self._log_det(r, y.shape[-1])

    def _ratio(self, r: Tensor) -> Tensor:
        return (self.gamma + r) / (self.alpha + r)

    def _log_det(self, r: Tensor, dim: int) -> Tensor:
        # Eigenvalues: the ratio itself, dim - 1 times across the radius; along it the derivative of r * ratio.
        along = (r * r + 2 * self.alpha * r + self.alpha * self.gamma) / (self.alpha + r).square()
        return ((dim - 1) * self._ratio(r).log() + along.log()).squeeze(-1)

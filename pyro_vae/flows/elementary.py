"""Elementary flows: affine, reversed order, and the inverse of a flow."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.flows.base import Flow, check_parameters


class AffineFlow(Flow):
    r"""Elementwise affine map, :math:`y = \mu + e^{s} z`.

    Args:
        loc: mu, ``(*batch, L)``.
        log_scale: s, ``(*batch, L)``.

    Example:
        >>> import torch
        >>> y, log_det = AffineFlow(torch.ones(2), torch.zeros(2)).forward(torch.zeros(5, 2))
        >>> y.shape, log_det.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        size = loc.shape[-1:]
        check_parameters("AffineFlow", loc=(loc, size), log_scale=(log_scale, size))
        self.loc, self.log_scale = loc, log_scale

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = self.loc + self.log_scale.exp() * z
        return y, self.log_scale.expand_as(y).sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        z = (y - self.loc) * (-self.log_scale).exp()
        return z, -self.log_scale.expand_as(z).sum(-1)


class ReverseFlow(Flow):
    r"""The components in reversed order, :math:`y_i = z_{L + 1 - i}`.

    Between autoregressive or coupling flows it makes the first components depend on the last.

    Example:
        >>> import torch
        >>> ReverseFlow().forward(torch.tensor([1.0, 2.0, 3.0]))[0]
        tensor([3., 2., 1.])
    """

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z.flip(-1), z.new_zeros(z.shape[:-1])

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(y)


class InverseFlow(Flow):
    r"""The inverse of a flow, :math:`y = f^{-1}(z)`, which exchanges the costs of sampling and density evaluation.

    Args:
        flow: f.

    Example:
        >>> import torch
        >>> affine = AffineFlow(torch.ones(2), torch.zeros(2))
        >>> InverseFlow(affine).forward(torch.ones(2))[0]
        tensor([0., 0.])
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.inverse(z)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.forward(y)

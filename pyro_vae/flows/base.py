"""Base class of invertible maps."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Flow(ABC):
    r"""An invertible map :math:`y = f(z)` between vectors, evaluated with its log-determinant.

    A flow holds tensors of parameters and no other state; learned networks belong to the module that builds it.

    Shape:
        z and y ``(*sample, *batch, L)`` for parameters ``(*batch, ...)``; log-determinants ``(*sample, *batch)``.

    References:
        Variational inference with normalizing flows (Rezende and Mohamed, 2015), eq. 5.
        https://arxiv.org/abs/1505.05770
    """

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y = f(z) and log |det dy/dz|, in nats."""

    @abstractmethod
    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z with f(z) = y and log |det dz/dy|, in nats; differentiable in y and in the parameters."""

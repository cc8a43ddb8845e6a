"""Base class of invertible maps."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from pyro_vae._core.checks import CheckedArguments, refusal


def check_parameters(owner: str, **tensors: tuple[Tensor, tuple[int, ...]]) -> None:
    """Require the last sizes of each tensor, given with it, and one device.

    Raises:
        ValueError: with the sizes of all tensors.
    """
    device = next(iter(tensors.values()))[0].device
    for name, (tensor, sizes) in tensors.items():
        if tensor.shape[tensor.dim() - len(sizes) :] != sizes or tensor.device != device:
            ends = ", ".join(f"{key} in {tuple(size)}" for key, (_, size) in tensors.items())
            got = f"{name}={tuple(tensor.shape)} on {tensor.device}"
            raise refusal(owner, f"shapes must end, on one device: {ends}", got)


class Flow(CheckedArguments, ABC):
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
        """Return y = f(z) and ``log |det dy/dz|``, in nats."""

    @abstractmethod
    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z with f(z) = y and ``log |det dz/dy|``, in nats; differentiable in y and in the parameters."""

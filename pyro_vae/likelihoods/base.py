"""The contract of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import Self

from pyro_vae.networks import Shape


class Likelihood(nn.Module, ABC):
    """p(x | z): a module whose ``forward(z)`` returns a distribution over data of ``data_shape``.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum, ``(C, H, W)`` for images.

    Attributes:
        offset: ``(*data_shape)``, a constant added to the network's output. It starts the model at the data's mean
            (:meth:`initialise_mean`), which a network whose last layer has no bias per pixel could not do.
    """

    offset: Tensor

    def __init__(self, latent_dim: int, data_shape: Shape) -> None:
        super().__init__()
        if latent_dim < 1 or not data_shape or min(data_shape) < 1:
            raise ValueError(
                f"{type(self).__name__}: latent_dim and data_shape must be positive, got latent_dim={latent_dim}, "
                f"data_shape={data_shape}. Use sizes such as latent_dim=20, data_shape=(1, 28, 28)."
            )
        self.latent_dim, self.data_shape = latent_dim, tuple(data_shape)
        self.register_buffer("offset", torch.zeros(self.data_shape))

    @abstractmethod
    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        """p(x | z) for ``z`` of shape ``(*batch, latent_dim)``: batch shape ``batch``, event shape ``data_shape``.

        With a context p(x | z, context), where the network takes one: a label, an auxiliary variable. ``batch`` is then
        what the leading dimensions of all broadcast to.
        """

    @abstractmethod
    def mean_to_output(self, mean: Tensor) -> Tensor:
        """The network output at which the likelihood is centred on ``mean``, finite for every mean in [0, 1]."""

    def initialise_mean(self, mean: Tensor) -> Self:
        """Start the output at the mean of the data, in place.

        A VAE on MNIST that starts elsewhere has to learn the mean first, and may lose latent units meanwhile.

        Args:
            mean: ``(*data_shape)``, the mean datum of the training set.

        Returns:
            The likelihood itself.

        Raises:
            ValueError: ``mean`` has another shape.

        References:
            Importance Weighted Autoencoders (Burda et al., 2016), the authors' code.
            https://arxiv.org/abs/1509.00519
        """
        if tuple(mean.shape) != self.data_shape:
            raise ValueError(
                f"{type(self).__name__}: mean must have data_shape={self.data_shape}, got shape={tuple(mean.shape)}. "
                "Pass the mean over the training data, x.mean(0)."
            )
        self.offset.copy_(self.mean_to_output(mean.to(self.offset)))
        return self

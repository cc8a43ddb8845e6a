"""Base class of likelihoods."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import Self

from pyro_vae._core.checks import CheckedArguments, check_arguments, check_count, check_shape, require
from pyro_vae.networks import Shape


class Likelihood(nn.Module, CheckedArguments, ABC):
    """p(x | z): a module whose ``forward(z)`` returns a distribution over data of ``data_shape``.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum, ``(C, H, W)`` for images.

    Attributes:
        offset: ``(*data_shape)``, a constant added to the network's output. It starts the model at the mean of the
            data (:meth:`initialise_mean`), also for networks whose last layer has no bias per pixel.
        mean_tolerance: largest distance between the mean that :meth:`initialise_mean` was given and that of p(x | z)
            at network output 0: the effect of clamping and of binning.
        implicit: whether p(x | z) can only be sampled.
    """

    offset: Tensor
    implicit = False
    mean_tolerance = 0.0

    def __init__(self, latent_dim: int, data_shape: Shape) -> None:
        super().__init__()
        check_count(type(self).__name__, latent_dim=latent_dim)
        require(len(data_shape) > 0, type(self).__name__, "data_shape must not be empty", "data_shape=()")
        self.latent_dim, self.data_shape = latent_dim, tuple(data_shape)
        self.register_buffer("offset", torch.zeros(self.data_shape))

    @abstractmethod
    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        """p(x | z) for ``z`` of shape ``(*batch, latent_dim)``: batch shape ``batch``, event shape ``data_shape``.

        With a context, p(x | z, context), if the network takes one: a label, an auxiliary variable. ``batch`` is then
        the broadcast shape of all leading dimensions.
        """

    @abstractmethod
    def mean_to_output(self, mean: Tensor) -> Tensor:
        """The network output at which p(x | z) has the mean ``mean``; finite for every mean in [0, 1]."""

    def initialise_mean(self, mean: Tensor) -> Self:
        """Set the offset so that p(x | z) starts at the mean of the data.

        Otherwise a VAE on MNIST learns the mean first, and may lose latent units meanwhile.

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
        name, advice = type(self).__name__, "Pass the mean of the training data"
        check_arguments(Likelihood.initialise_mean, locals(), name)
        check_shape(name, "mean", mean.shape, self.data_shape, advice)
        require(not mean.is_meta and bool(mean.isfinite().all()), name, "mean must be finite", "another value", advice)
        self.set_offset(self.mean_to_output(mean.to(self.offset)))
        return self

    def set_offset(self, output: Tensor) -> None:
        """Store a constant that is added to the network's output, ``(*data_shape)``."""
        self.offset.copy_(output)


class SiteLikelihood(Likelihood):
    r"""Likelihood whose sites are independent given the outputs of one network, :math:`\prod_s p(x_s; f_s(z))`.

    With a :class:`~pyro_vae.networks.CausalNetwork` in place of the decoder, it is the base of an
    :class:`~pyro_vae.distributions.Autoregressive` distribution.

    Attributes:
        net: the decoder.
        joint_channels: whether the sites are the pixels, with all their channels, instead of the entries.
    """

    joint_channels = False
    net: nn.Module

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        return self.distribution(self.net(z, *context), self.offset)

    @abstractmethod
    def distribution(self, outputs: Tensor, offset: Tensor) -> TorchDistribution:
        """Distribution of data, or of one site, from the network's outputs and the offset, of the event's shape."""

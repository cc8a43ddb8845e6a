"""Base class of likelihoods with a location from the network and a scale that is learned or fixed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import check_positive, check_shape, require
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.grey_levels import stacked_shape, unstacked
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

LearnedScale = Literal["global", "pixel", "network"]


class LocationScaleLikelihood(Likelihood):
    """Independent pixels of one location-scale family, with locations from the network.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns the loc; for ``scale="network"`` with
            twice the channels (for vectors ``(2, D)``), also the logarithm of the scale.
        scale: ``"global"``, one learned scale; ``"pixel"``, one learned per entry of the datum; ``"network"``, one per
            entry that depends on z; or a fixed number.
        min_scale: lower limit of a learned scale, in units of the data.

    Attributes:
        unit: ``(*data_shape)``, the unit of location and scale, see :meth:`set_unit`; None is that of the data.

    Raises:
        ValueError: a scale that is not positive.
    """

    unit: Tensor | None

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        scale: LearnedScale | float = "global",
        min_scale: float = 0.01,
    ) -> None:
        super().__init__(latent_dim, data_shape)
        self.register_buffer("unit", None)
        self.from_network = scale == "network"
        outputs = stacked_shape(2, self.data_shape) if self.from_network else self.data_shape
        self.net = build_network(net, (latent_dim,), outputs)
        self.min_scale, self.fixed_scale = float(min_scale), None if isinstance(scale, str) else float(scale)
        advice = "Use for example 0.1"
        check_positive(type(self).__name__, min_scale=min_scale, scale=self.fixed_scale, advice=advice)
        if isinstance(scale, str):
            shape = () if scale == "global" else self.data_shape
            # exp(-1.6) = 0.20: a typical standard deviation of pixels in [0, 1].
            self.log_scale = nn.Parameter(torch.full(shape, -1.6))

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of one pixel with mean ``loc``."""

    def forward(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        outputs, log_factor = self.net(z, *context), None
        if self.from_network:
            outputs, log_factor = unstacked(outputs, 2, self.data_shape).unbind(-len(self.data_shape) - 1)
        outputs = outputs if self.unit is None else self.unit * outputs
        return self.family(outputs + self.offset, self.scale(log_factor)).to_event(len(self.data_shape))

    def scale(self, log_factor: Tensor | None = None) -> Tensor:
        """The scale in units of the data, ``()`` or ``data_shape``; ``log_factor`` is the output of the network."""
        if self.fixed_scale is not None:
            scale = self.offset.new_tensor(self.fixed_scale)
        else:
            scale = self.min_scale + (self.log_scale if log_factor is None else self.log_scale + log_factor).exp()
        return scale if self.unit is None else self.unit * scale

    @torch.no_grad()
    def set_unit(self, unit: Tensor) -> None:
        r"""Measure location and scale in a unit per entry, :math:`p(x | z) = p_1((x - o) / u | z) / u`.

        With the standard deviations of the data as units, training is that on standardized data, but densities and
        samples are those of the data in their own units. A learned scale starts at one unit; a fixed one is in units.

        Args:
            unit: u, ``(*data_shape)``, positive.

        Raises:
            ValueError: another shape, or a unit that is not positive.
        """
        name, advice = type(self).__name__, "Pass the standard deviations of the data"
        check_shape(name, "unit", unit.shape, self.data_shape, advice)
        require(bool((unit > 0).all()), name, "unit must be positive", "another value", advice)
        self.unit = unit.to(self.offset)
        if self.fixed_scale is None:
            self.log_scale.zero_()

    def mean_to_output(self, mean: Tensor) -> Tensor:
        return mean

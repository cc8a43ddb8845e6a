"""The PixelCNN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_count
from pyro_vae.networks.base import Shape
from pyro_vae.networks.pixel_network import CausalConv2d, PixelNetwork, layer_radii


class PixelCNN(PixelNetwork):
    """Masked convolutions, the first without the pixel itself (mask A), the others with it (mask B) and residual.

    The pixels above to the right, beyond the diagonal, are in a blind spot.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        channels: channels of the features.
        num_layers: number of masked convolutions.
        kernel_size: odd width of the kernels.
        receptive_field: largest distance of a pixel that an output depends on; None for that of the layers.
        context_shape: shape of the context, which adds a bias in every layer; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016).
        https://arxiv.org/abs/1601.06759

    Example:
        >>> import torch
        >>> from pyro_vae.networks import PixelCNN
        >>> PixelCNN((3, 8, 8), (3 * 4, 8, 8), num_layers=2)(torch.zeros(7, 3, 8, 8)).shape
        torch.Size([7, 12, 8, 8])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: int = 32,
        num_layers: int = 5,
        kernel_size: int = 3,
        receptive_field: int | None = None,
        context_shape: Shape = (),
        joint_channels: bool = False,
    ) -> None:
        check_count("PixelCNN", receptive_field=receptive_field)
        self.radii = layer_radii("PixelCNN", kernel_size, num_layers, receptive_field)
        shared: Any = {"context_shape": context_shape, "joint_channels": joint_channels}
        super().__init__(in_shape, out_shape, channels=channels, biases=[channels] * num_layers, **shared)
        widths = [self.channels_of_data, *[channels] * num_layers]
        layers = [CausalConv2d(widths[i], channels, r, strict=i == 0) for i, r in enumerate(self.radii)]
        self.layers = nn.ModuleList(layers)

    @property
    def receptive_field(self) -> int:
        return sum(self.radii)

    def features(self, x: Tensor, biases: list[Tensor | None], region: Any) -> Tensor:
        first, *rest = self.layers
        h = region.add(first(x, region), biases[0])
        for layer, bias in zip(rest, biases[1:], strict=True):
            h = h + region.add(layer(torch.relu(h), region), bias)
        return h

"""The gated PixelCNN."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyro_vae._core.checks import check_count
from pyro_vae.networks.base import Shape
from pyro_vae.networks.pixel_network import PixelNetwork, TwoStackLayer, layer_radii


class GatedPixelCNN(PixelNetwork):
    """Gated convolutions in a vertical stack of the rows above and a horizontal one of the row, without a blind spot.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        channels: channels of the features.
        num_layers: number of layers.
        kernel_size: odd width of the kernels.
        receptive_field: largest distance of a pixel that an output depends on; None for that of the layers.
        context_shape: shape of the context, which adds a bias to the gates of every layer; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.
        positional: whether the gates of every layer have a learned bias for each pixel, for images that are aligned, as
            digits and faces are. Without them the network is equivariant to shifts.

    References:
        Conditional image generation with PixelCNN decoders (van den Oord et al., 2016). The first
        layer excludes the pixel itself by shifts here, by a mask there. https://arxiv.org/abs/1606.05328

    Example:
        >>> import torch
        >>> from pyro_vae.networks import GatedPixelCNN
        >>> net = GatedPixelCNN((1, 8, 8), (1, 8, 8), num_layers=2, context_shape=(10,))
        >>> net(torch.zeros(7, 1, 8, 8), torch.zeros(3, 7, 10)).shape
        torch.Size([3, 7, 1, 8, 8])
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
        positional: bool = False,
    ) -> None:
        check_count("GatedPixelCNN", receptive_field=receptive_field)
        limit = None if receptive_field is None else receptive_field - 1  # the shifts see a distance of 1
        self.radii = layer_radii("GatedPixelCNN", kernel_size, num_layers, limit)
        shared: Any = {"context_shape": context_shape, "joint_channels": joint_channels, "positional": positional}
        super().__init__(in_shape, out_shape, channels=channels, biases=[2 * channels] * num_layers, **shared)
        widths = [self.channels_of_data, *[channels] * num_layers]
        self.layers = nn.ModuleList(TwoStackLayer(widths[i], channels, r) for i, r in enumerate(self.radii))

    @property
    def receptive_field(self) -> int:
        return 1 + sum(self.radii)

    def features(self, x: Tensor, biases: list[Tensor | None], region: Any) -> Tensor:
        v, h = region.per_row(self, lambda row: row.above(x)), region.left(x)
        for layer, bias in zip(self.layers, biases, strict=True):
            v, h = layer(v, h, region, bias)
        return h

"""Causal attention with gated convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_count, require
from pyro_vae.networks.base import Shape
from pyro_vae.networks.pixel_network import PixelNetwork, TwoStackLayer, layer_radii


class PixelAttention(PixelNetwork):
    """Blocks of gated convolutions and of attention to all pixels before.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        channels: channels of the features, a multiple of ``num_heads``.
        num_blocks: number of attention layers, each after ``num_layers`` convolutions.
        num_layers: number of convolutions in a block.
        num_heads: number of heads of an attention layer.
        kernel_size: odd width of the kernels.
        context_shape: shape of the context, which adds a bias to the gates of the convolutions; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.

    References:
        PixelSNAIL: an improved autoregressive generative model (Chen et al., 2018), here with the layers of
        the gated PixelCNN. https://arxiv.org/abs/1712.09763

    Example:
        >>> import torch
        >>> from pyro_vae.networks import PixelAttention
        >>> PixelAttention((1, 8, 8), (1, 8, 8), channels=8)(torch.zeros(7, 1, 8, 8)).shape
        torch.Size([7, 1, 8, 8])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: int = 32,
        num_blocks: int = 2,
        num_layers: int = 2,
        num_heads: int = 2,
        kernel_size: int = 3,
        context_shape: Shape = (),
        joint_channels: bool = False,
    ) -> None:
        check_count("PixelAttention", num_blocks=num_blocks, num_layers=num_layers, num_heads=num_heads)
        rule, got = "channels must be a multiple of num_heads", f"channels={channels}, num_heads={num_heads}"
        require(channels % num_heads == 0, "PixelAttention", rule, got)
        radii = layer_radii("PixelAttention", kernel_size, num_blocks * num_layers, None)
        shared: Any = {"context_shape": context_shape, "joint_channels": joint_channels}
        super().__init__(in_shape, out_shape, channels=channels, biases=[2 * channels] * len(radii), **shared)
        widths = [self.channels_of_data, *[channels] * len(radii)]
        self.layers = nn.ModuleList(TwoStackLayer(widths[i], channels, r) for i, r in enumerate(radii))
        self.attentions = nn.ModuleList(_Attention(channels, num_heads, self.size) for _ in range(num_blocks))

    def features(self, x: Tensor, biases: list[Tensor | None], region: Any) -> Tensor:
        v, h = region.per_row(self, lambda row: row.above(x)), region.left(x)
        interval = len(self.layers) // len(self.attentions)
        for i, (layer, bias) in enumerate(zip(self.layers, biases, strict=True)):
            v, h = layer(v, h, region, bias)
            if (i + 1) % interval == 0:
                h = h + self.attentions[i // interval](h, region)
        return h


class _Attention(nn.Module):
    """Attention of each pixel to itself and those before, whose features depend on the pixels before them only."""

    position: Tensor

    def __init__(self, channels: int, num_heads: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.num_heads = num_heads
        # Queries and keys also depend on the position of the pixel.
        self.inputs, self.out = nn.Conv2d(channels + 2, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        rows, columns = (torch.linspace(-1, 1, n) for n in size)
        position = torch.stack([rows.unsqueeze(1).expand(size), columns.expand(size)])
        self.register_buffer("position", position.unsqueeze(0), persistent=False)

    def forward(self, h: Tensor, region: Any) -> Tensor:
        position = region.crop(self.position).expand(len(h), -1, -1, -1)
        inputs = region.conv(self.inputs, torch.cat([h, position], 1)).flatten(2)  # (N, 3 C, pixels)
        query, key, value = inputs.unflatten(1, (3, self.num_heads, -1)).transpose(-1, -2).contiguous().unbind(1)
        if not region.whole:
            pixel, size = region.row * region.size[1] + region.column, region.size[0] * region.size[1]
            shape = (2, *key.shape[:2], size, key.shape[-1])
            stored = region.once(self, lambda: h.new_zeros(shape))
            stored[..., pixel : pixel + 1, :] = torch.stack([key, value])
            key, value = stored[..., : pixel + 1, :]
        result = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=region.whole)
        return region.conv(self.out, result.transpose(-1, -2).reshape(h.shape))

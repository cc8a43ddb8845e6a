"""Base class of causal networks of images, and the layers that they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_count, require
from pyro_vae.networks.base import Shape, glorot
from pyro_vae.networks.causal import CausalNetwork
from pyro_vae.networks.conv import image_shape, odd

Widths = Sequence[int]


class PixelNetwork(CausalNetwork):
    """A causal network of images: features of the pixels before, then one head for the channels of each pixel.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        channels: channels of the features.
        biases: channels of each of the biases that the context adds to features.
        context_shape: shape of the context; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.
        positional: whether every pixel has learned biases of its own in the places of those of the context.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: int,
        biases: Widths,
        context_shape: Shape,
        joint_channels: bool,
        positional: bool = False,
    ) -> None:
        image_shape(type(self).__name__, "in_shape", in_shape)
        super().__init__(in_shape, out_shape, context_shape=context_shape, joint_channels=joint_channels)
        check_count(type(self).__name__, channels=channels)
        self.biases = tuple(biases)
        self.context = _context_layer(type(self).__name__, self.context_shape, sum(biases), self.size)
        self.position = nn.Parameter(torch.zeros(1, sum(biases), *self.size)) if positional else None
        self.head = PixelHead(channels, self.num_sites // (self.size[0] * self.size[1]), self.num_outputs)

    @abstractmethod
    def features(self, x: Tensor, biases: list[Tensor | None], region: Any) -> Tensor:
        """Features ``(N, channels, h, w)`` of a region, which depend on the pixels before each.

        Args:
            x: ``(N, C, H, W)``, of which pixels that are not before those of the region may hold any finite values.
            biases: images ``(N, width, H, W)``, or of one pixel for all, to be added by ``region.add``; or None.
            region: the region.
        """

    def transform(self, x: Tensor, context: Tensor | None, region: Any) -> Tensor:
        biases = region.once(self.context, lambda: self._biases(context))
        h = region.per_pixel(self, lambda: self.features(x, biases, region))
        outputs = self.head(h, region.crop(x), region)
        if region.whole:
            return outputs
        return outputs.unflatten(1, (self.num_outputs, -1))[:, :, region.channel, 0, 0]

    def _biases(self, context: Tensor | None) -> list[Tensor | None]:
        images = self.position
        if self.context is not None and context is not None:
            given = self.context(context)
            given = given if given.dim() == 4 else given[..., None, None]
            images = given if images is None else images + given
        return [None] * len(self.biases) if images is None else list(images.split(self.biases, 1))


def _context_layer(name: str, shape: Shape, width: int, size: Shape) -> nn.Module | None:
    rule = f"context_shape must be (), (D,) or (channels, {size[0]}, {size[1]})"
    require(len(shape) in (0, 1) or shape[1:] == size, name, rule, f"context_shape={shape}")
    if not shape:
        return None
    layer = nn.Linear(shape[0], width, bias=False) if len(shape) == 1 else nn.Conv2d(shape[0], width, 1, bias=False)
    return glorot(layer)


class PixelHead(nn.Module):
    """Outputs of the channels of a pixel from its features and from the channels of the pixel before each.

    Args:
        channels: channels of the features.
        num_channels: channels C that depend on one another, or 1.
        num_outputs: number of outputs per channel n.

    Shape:
        features ``(N, channels, h, w)`` and x ``(N, C', h, w)`` to ``(N, n C, h, w)``.
    """

    def __init__(self, channels: int, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        units, outputs = (torch.arange(n * num_channels) % num_channels for n in (channels, num_outputs))
        self.hidden, self.out = nn.Conv2d(channels, len(units), 1), nn.Conv2d(len(units), len(outputs), 1)
        self.before = nn.Conv2d(num_channels, len(units), 1, bias=False) if num_channels > 1 else None
        masks = {"inputs": units.unsqueeze(1) > torch.arange(num_channels), "units": outputs.unsqueeze(1) >= units}
        for name, mask in masks.items():
            self.register_buffer(name, mask[..., None, None].to(self.out.weight), persistent=False)

    def forward(self, h: Tensor, x: Tensor, region: Any) -> Tensor:
        h = region.conv(self.hidden, torch.relu(h))
        if self.before is None:
            return region.conv(self.out, torch.relu(h))
        h = h + region.conv(self.before, x, self.inputs)
        return region.conv(self.out, torch.relu(h), self.units)


class CausalConv2d(nn.Module):
    """Convolution of the rows above and of the pixels to the left, with or without the pixel itself.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        radius: number of rows above and of columns on each side.
        strict: exclude the pixel itself (mask A); otherwise include it (mask B).

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016). https://arxiv.org/abs/1601.06759
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, radius: int, *, strict: bool = False) -> None:
        super().__init__()
        self.padding, self.strict = (radius, radius, radius, 0), strict
        self.conv = nn.Conv2d(in_channels, out_channels, (radius + 1, 2 * radius + 1))
        mask = torch.ones(radius + 1, 2 * radius + 1)
        mask[-1, radius + (not strict) :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, region: Any) -> Tensor:
        patches = region.pad(self, x, self.padding, strict=self.strict)
        return region.conv(self.conv, patches, self.mask)


class TwoStackLayer(nn.Module):
    r"""Gated layer of two stacks: v of the rows above, h of those and of the pixels to the left.

    :math:`v' = g(V * v + b)`, :math:`h' = h + W\, g(H * h + U (V * v) + b)`, :math:`g(a) = \tanh(a_1)\, \sigma(a_2)`;
    v also has a residual connection here if the channels agree.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        radius: columns on each side in v, and to the left in h; rows above in v.

    References:
        Conditional image generation with PixelCNN decoders (van den Oord et al., 2016).
        https://arxiv.org/abs/1606.05328
    """

    def __init__(self, in_channels: int, channels: int, radius: int) -> None:
        super().__init__()
        self.radius, self.residual = radius, in_channels == channels
        self.vertical = nn.Conv2d(in_channels, 2 * channels, (radius + 1, 2 * radius + 1))
        self.horizontal = nn.Conv2d(in_channels, 2 * channels, (1, radius + 1))
        self.between, self.out = nn.Conv2d(2 * channels, 2 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, v: Tensor, h: Tensor, region: Any, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, from_above = region.per_row(self, lambda row: self._rows(v, row, bias))
        patches = region.pad(self.horizontal, h, (self.radius, 0, 0, 0))
        a = region.conv(self.horizontal, patches) + region.crop(from_above)
        update = region.conv(self.out, gate(region.add(a, bias)))
        return v, h + update if self.residual else update

    def _rows(self, v: Tensor, row: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        a = self.vertical(row.pad(self.vertical, v, (self.radius, self.radius, self.radius, 0)))
        update = gate(row.add(a, bias))
        return v + update if self.residual else update, self.between(a)


def gate(a: Tensor) -> Tensor:
    """The gated activation, :math:`\tanh(a_1) \\, \\sigma(a_2)` of two halves of the channels."""
    tanh, sigmoid = a.chunk(2, 1)
    return tanh.tanh() * sigmoid.sigmoid()


def layer_radii(name: str, kernel_size: int, num_layers: int, limit: int | None) -> list[int]:
    """Radii of the layers' kernels, whose sum is at most ``limit``; layers beyond it have 1 x 1 kernels.

    Raises:
        ValueError: the kernel size is even, there is no layer, or the limit is negative.
    """
    radius = odd(name, kernel_size) // 2
    check_count(name, num_layers=num_layers)
    radii: list[int] = []
    for _ in range(num_layers):
        radii.append(radius if limit is None else min(radius, limit - sum(radii)))
    return radii

"""Convolutional networks: strided down, pixel-shuffle up."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import require
from pyro_vae.networks.base import Activation, Network, Shape, activation_layer, glorot


class ConvEncoder(Network):
    """Strided convolutions that halve the image, then one linear layer.

    Args:
        in_shape: ``(C, H, W)`` of one image, any height and width.
        out_shape: shape of one output.
        channels: channels after each halving.
        activation: the nonlinearity after each convolution.
        kernel_size: odd width of the kernels.

    Shape:
        ``(*batch, C, H, W) -> (*batch, *out_shape)``

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ConvEncoder
        >>> ConvEncoder((1, 28, 20), (2, 8))(torch.zeros(4, 3, 1, 28, 20)).shape
        torch.Size([4, 3, 2, 8])
    """

    images = ("in_shape",)

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Shape = (32, 64),
        activation: Activation = "relu",
        kernel_size: int = 3,
    ) -> None:
        super().__init__(in_shape, out_shape)
        c, h, w = image_shape("ConvEncoder", "in_shape", in_shape)
        widths = (c, *channels)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, after, odd("ConvEncoder", kernel_size), stride=2, padding=kernel_size // 2)
            layers += [glorot(conv), activation_layer(activation)]
        features = widths[-1] * halved(h, channels) * halved(w, channels)
        self.layers = nn.Sequential(*layers, nn.Flatten(), glorot(nn.Linear(features, self.out_size)))

    def transform(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvDecoder(Network):
    """One linear layer, then convolutions with pixel shuffles that double the image, cropped to ``out_shape``.

    Args:
        in_shape: shape of one code; it is flattened.
        out_shape: ``(C, H, W)`` of one image, any height and width.
        channels: channels before each doubling.
        activation: the nonlinearity after each layer but the last.
        kernel_size: odd width of the kernels.

    Shape:
        ``(*batch, *in_shape) -> (*batch, C, H, W)``

    References:
        Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural network
        (Shi et al., 2016), eq. 4. https://arxiv.org/abs/1609.05158

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ConvDecoder
        >>> ConvDecoder((8,), (1, 28, 20))(torch.zeros(4, 3, 8)).shape
        torch.Size([4, 3, 1, 28, 20])
    """

    images = ("out_shape",)

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Shape = (64, 32),
        activation: Activation = "relu",
        kernel_size: int = 3,
    ) -> None:
        super().__init__(in_shape, out_shape)
        c, h, w = image_shape("ConvDecoder", "out_shape", out_shape)
        widths = (*channels, c)
        start = (widths[0], halved(h, channels), halved(w, channels))
        layers: list[nn.Module] = [glorot(nn.Linear(self.in_size, math.prod(start))), UnflattenImages(start)]
        for before, after in pairwise(widths):
            conv = PhaseConv2d(before, 4 * after, odd("ConvDecoder", kernel_size), padding=kernel_size // 2)
            layers += [activation_layer(activation), glorot(conv), InterleavePhases()]
        self.layers = nn.Sequential(*layers)

    def transform(self, x: Tensor) -> Tensor:
        _, h, w = self.out_shape
        return self.layers(x.flatten(1))[..., :h, :w]


class UnflattenImages(nn.Unflatten):
    """Reshape ``(N, C H W)`` to ``(N, C, H, W)`` with channels last in memory, as convolutions on a CPU are faster."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(1, shape)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous(memory_format=torch.channels_last)


class PhaseConv2d(nn.Conv2d):
    """The convolution before :class:`InterleavePhases`; its parameters are those of one before a pixel shuffle.

    A pixel shuffle by two reads the channels of the four pixels of a block, the phases, in turn. Ordered by phases
    first, they are moved in runs of all channels if channels are last in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = phases_first(self.weight), None if self.bias is None else phases_first(self.bias)
        return self._conv_forward(x, weight, bias)


def phases_first(parameter: Tensor) -> Tensor:
    """Reorder weights or biases of a convolution before a pixel shuffle by phases."""
    return parameter.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)


class InterleavePhases(nn.Module):
    """Move the four phases, ``(N, 4 C, H, W)`` by phases first, to the pixels of blocks, ``(N, C, 2 H, 2 W)``."""

    def forward(self, x: Tensor) -> Tensor:
        phases = x.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # (N, H, W, 2, 2, C)
        return phases.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def image_shape(name: str, argument: str, shape: Shape) -> tuple[int, int, int]:
    """Return the shape of an image.

    Raises:
        ValueError: it does not have three dimensions.
    """
    rule, advice = f"{argument} must be (channels, height, width)", "Give images that shape, or use MLP"
    require(len(shape) == 3, name, rule, f"{argument}={shape}", advice)
    return shape[0], shape[1], shape[2]


def odd(name: str, kernel_size: int) -> int:
    """Return the width of a kernel.

    Raises:
        ValueError: it is even, so that no padding keeps the image's size.
    """
    rule, what = "kernel_size must be odd and positive", f"kernel_size={kernel_size}"
    require(kernel_size >= 1 and kernel_size % 2 == 1, name, rule, what)
    return kernel_size


def halved(size: int, times: Shape) -> int:
    """The size after one halving per entry of ``times``, each rounded up."""
    for _ in times:
        size = (size + 1) // 2
    return size


def pixelwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution; on a CPU as one matrix product of all pixels, with channels last in memory.

    The product stays in float32 if other layers multiply in bfloat16.
    """
    if x.device.type != "cpu" or conv.bias is None:
        return conv(x)
    n, _, h, w = x.shape
    pixels = torch.addmm(conv.bias, x.permute(0, 2, 3, 1).flatten(0, 2), conv.weight.flatten(1).t())  # (N H W, C)
    return pixels.unflatten(0, (n, h, w)).permute(0, 3, 1, 2)

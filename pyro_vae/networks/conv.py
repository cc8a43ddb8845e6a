"""Convolutional networks: strided down, pixel-shuffle up."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import require
from pyro_vae.networks.base import Activation, Network, Shape, activation_layer, glorot, layer_sizes


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
        widths = (c, *layer_sizes("ConvEncoder", "channels", channels))
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
        widths = (*layer_sizes("ConvDecoder", "channels", channels), c)
        start = (widths[0], halved(h, channels), halved(w, channels))
        layers: list[nn.Module] = [glorot(nn.Linear(self.in_size, math.prod(start))), nn.Unflatten(1, start)]
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, 4 * after, odd("ConvDecoder", kernel_size), padding=kernel_size // 2)
            layers += [activation_layer(activation), glorot(conv), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    def transform(self, x: Tensor) -> Tensor:
        _, h, w = self.out_shape
        return self.layers(x.flatten(1))[..., :h, :w]


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
    """Apply a 1x1 convolution; on a CPU as one matrix product per image.

    On a CPU torch's convolution reorders the pixels before and after, which takes twice as long as the product. The
    product stays in float32 if other layers multiply in bfloat16.
    """
    if x.device.type != "cpu" or conv.bias is None:
        return conv(x)
    n, (channels, features) = len(x), conv.weight.shape[:2]
    weight, bias = conv.weight.reshape(1, channels, features), conv.bias.reshape(1, channels, 1)
    pixels = x.flatten(2)  # (N, features, H W)
    y = torch.baddbmm(bias.expand(n, channels, pixels.shape[-1]), weight.expand(n, channels, features), pixels)
    return y.unflatten(2, x.shape[2:])

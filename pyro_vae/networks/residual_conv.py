"""Residual convolutional networks: strided down, pixel-shuffle up, any number of channels per pixel at the end."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae._core.checks import check_count
from pyro_vae.networks.base import Activation, Network, Shape, activation_layer, glorot
from pyro_vae.networks.conv import InterleavePhases, PhaseConv2d, UnflattenImages, halved, image_shape, odd, pixelwise


class ResidualBlock(nn.Module):
    r"""Pre-activation block, :math:`x + W_2 * f(W_1 * f(x) + b_1) + b_2`.

    References:
        Identity mappings in deep residual networks (He et al., 2016), figure 1b, without batch normalization.
        https://arxiv.org/abs/1603.05027
    """

    def __init__(self, channels: int, *, activation: Activation, kernel_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
            layers += [activation_layer(activation), glorot(conv)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResidualConvEncoder(Network):
    """Strided convolutions that halve the image, residual blocks after each, then one linear layer.

    Args:
        in_shape: ``(C, H, W)`` of one image, any height and width.
        out_shape: shape of one output.
        channels: channels after each halving.
        blocks: number of residual blocks after each halving.
        activation: the nonlinearity, before the convolutions of a block and before the linear layer.
        kernel_size: odd width of the kernels.

    Shape:
        ``(*batch, C, H, W) -> (*batch, *out_shape)``

    References:
        Identity mappings in deep residual networks (He et al., 2016). https://arxiv.org/abs/1603.05027
        Improved variational inference with inverse autoregressive flow (Kingma et al., 2016), section 6, uses such
        networks in a VAE. https://arxiv.org/abs/1606.04934

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ResidualConvEncoder
        >>> ResidualConvEncoder((1, 28, 20), (2, 8))(torch.zeros(4, 3, 1, 28, 20)).shape
        torch.Size([4, 3, 2, 8])
    """

    images = ("in_shape",)

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Shape = (32, 64),
        blocks: int = 1,
        activation: Activation = "relu",
        kernel_size: int = 3,
    ) -> None:
        super().__init__(in_shape, out_shape)
        c, h, w = image_shape("ResidualConvEncoder", "in_shape", in_shape)
        widths = (c, *channels)
        check_count("ResidualConvEncoder", at_least=0, blocks=blocks)
        kernel = odd("ResidualConvEncoder", kernel_size)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(glorot(nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)))
            layers += [ResidualBlock(after, activation=activation, kernel_size=kernel) for _ in range(blocks)]
        layers += [activation_layer(activation)] if channels else []
        features = widths[-1] * halved(h, channels) * halved(w, channels)
        self.layers = nn.Sequential(*layers, nn.Flatten(), glorot(nn.Linear(features, self.out_size)))

    def transform(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResidualConvDecoder(Network):
    """One linear layer, residual blocks alternating with pixel shuffles, and a final 1x1 convolution.

    The last layer is one matrix for all pixels, as in :class:`GatedConvDecoder`.

    Args:
        in_shape: shape of one code; it is flattened.
        out_shape: ``(C, H, W)`` of one image, any height and width.
        channels: channels before each doubling.
        features: channels per pixel before the last layer.
        blocks: number of residual blocks before each doubling.
        activation: the nonlinearity, before every convolution.
        kernel_size: odd width of the kernels.

    Shape:
        ``(*batch, *in_shape) -> (*batch, C, H, W)``

    References:
        Identity mappings in deep residual networks (He et al., 2016). https://arxiv.org/abs/1603.05027
        Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural network
        (Shi et al., 2016), eq. 4. https://arxiv.org/abs/1609.05158

    Example:
        >>> import torch
        >>> from pyro_vae.networks import ResidualConvDecoder
        >>> ResidualConvDecoder((8,), (256, 28, 20))(torch.zeros(4, 3, 8)).shape
        torch.Size([4, 3, 256, 28, 20])
    """

    images = ("out_shape",)

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Shape = (64, 32),
        features: int = 32,
        blocks: int = 1,
        activation: Activation = "relu",
        kernel_size: int = 3,
    ) -> None:
        super().__init__(in_shape, out_shape)
        c, h, w = image_shape("ResidualConvDecoder", "out_shape", out_shape)
        check_count("ResidualConvDecoder", features=features)
        widths = (*channels, features)
        check_count("ResidualConvDecoder", at_least=0, blocks=blocks)
        kernel = odd("ResidualConvDecoder", kernel_size)
        start = (widths[0], halved(h, channels), halved(w, channels))
        layers: list[nn.Module] = [glorot(nn.Linear(self.in_size, math.prod(start))), UnflattenImages(start)]
        for before, after in pairwise(widths):
            layers += [ResidualBlock(before, activation=activation, kernel_size=kernel) for _ in range(blocks)]
            conv = PhaseConv2d(before, 4 * after, kernel, padding=kernel // 2)
            layers += [activation_layer(activation), glorot(conv), InterleavePhases()]
        self.layers = nn.Sequential(*layers, activation_layer(activation))
        self.head = nn.Conv2d(features, c, 1)
        glorot(self.head)

    def transform(self, x: Tensor) -> Tensor:
        _, h, w = self.out_shape
        return pixelwise(self.head, self.layers(x.flatten(1))[..., :h, :w])

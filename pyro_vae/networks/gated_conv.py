"""Gated convolutional networks: strided down, pixel-shuffle up, any number of channels per pixel at the end."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae._core.checks import check_count
from pyro_vae.networks.base import Network, Shape, glorot
from pyro_vae.networks.conv import (
    InterleavePhases,
    PhaseConv2d,
    UnflattenImages,
    halved,
    image_shape,
    odd,
    pixelwise,
)


class GatedConv2d(nn.Module):
    r"""Gated convolution, :math:`(A * x + a) \odot \sigma(B * x + b)`, with A and B in one kernel.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd width of the kernel.
        stride: step of the kernel.
        phases: order the output by phases, for :class:`InterleavePhases`.

    References:
        Conditional image generation with PixelCNN decoders (van den Oord et al., 2016), without the tanh of its eq. 2.
        https://arxiv.org/abs/1606.05328
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, phases: bool = False
    ) -> None:
        super().__init__()
        conv, self.phases = (PhaseConv2d, 4) if phases else (nn.Conv2d, 1)
        self.conv = conv(in_channels, 2 * out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        for half in self.conv.weight.chunk(2):
            nn.init.xavier_uniform_(half.detach())

    def forward(self, x: Tensor) -> Tensor:
        phases = self.conv(x).unflatten(1, (self.phases, -1))
        return nn.functional.glu(phases, dim=2).flatten(1, 2)


class GatedConvEncoder(Network):
    """Gated strided convolutions that halve the image, then one linear layer.

    Args:
        in_shape: ``(C, H, W)`` of one image, any height and width.
        out_shape: shape of one output.
        channels: channels after each halving.
        kernel_size: odd width of the kernels.

    Shape:
        ``(*batch, C, H, W) -> (*batch, *out_shape)``

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), section 4, the convolutional models, which have two more
        convolutions that keep the size. https://arxiv.org/abs/1705.07120

    Example:
        >>> import torch
        >>> from pyro_vae.networks import GatedConvEncoder
        >>> GatedConvEncoder((1, 28, 20), (2, 8))(torch.zeros(4, 3, 1, 28, 20)).shape
        torch.Size([4, 3, 2, 8])
    """

    images = ("in_shape",)

    def __init__(self, in_shape: Shape, out_shape: Shape, *, channels: Shape = (32, 64), kernel_size: int = 3) -> None:
        super().__init__(in_shape, out_shape)
        c, h, w = image_shape("GatedConvEncoder", "in_shape", in_shape)
        widths = (c, *channels)
        kernel = odd("GatedConvEncoder", kernel_size)
        layers = [GatedConv2d(before, after, kernel_size=kernel, stride=2) for before, after in pairwise(widths)]
        features = widths[-1] * halved(h, channels) * halved(w, channels)
        self.layers = nn.Sequential(*layers, nn.Flatten(), glorot(nn.Linear(features, self.out_size)))

    def transform(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GatedConvDecoder(Network):
    """One linear layer, gated convolutions with pixel shuffles that double the image, and a final 1x1 convolution.

    The last layer is one matrix for all pixels, from ``features`` numbers to the channels of ``out_shape``, so that
    many channels, such as the 256 logits of :class:`~pyro_vae.likelihoods.CategoricalLikelihood`, are cheap.

    Args:
        in_shape: shape of one code; it is flattened.
        out_shape: ``(C, H, W)`` of one image, any height and width.
        channels: channels before each doubling.
        features: channels per pixel before the last layer.
        kernel_size: odd width of the kernels.

    Shape:
        ``(*batch, *in_shape) -> (*batch, C, H, W)``

    References:
        Sylvester normalizing flows for variational inference (van den Berg et al., 2018), section 6, which doubles by
        transposed convolutions. https://arxiv.org/abs/1803.05649
        Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural network
        (Shi et al., 2016), eq. 4. https://arxiv.org/abs/1609.05158

    Example:
        >>> import torch
        >>> from pyro_vae.networks import GatedConvDecoder
        >>> GatedConvDecoder((8,), (256, 28, 20))(torch.zeros(4, 3, 8)).shape
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
        kernel_size: int = 3,
    ) -> None:
        super().__init__(in_shape, out_shape)
        c, h, w = image_shape("GatedConvDecoder", "out_shape", out_shape)
        check_count("GatedConvDecoder", features=features)
        widths = (*channels, features)
        start = (widths[0], halved(h, channels), halved(w, channels))
        layers: list[nn.Module] = [
            glorot(nn.Linear(self.in_size, 2 * math.prod(start))),
            nn.GLU(1),
            UnflattenImages(start),
        ]
        for before, after in pairwise(widths):
            conv = GatedConv2d(before, 4 * after, kernel_size=odd("GatedConvDecoder", kernel_size), phases=True)
            layers += [conv, InterleavePhases()]
        self.layers, self.head = nn.Sequential(*layers), nn.Conv2d(features, c, 1)
        glorot(self.head)

    def transform(self, x: Tensor) -> Tensor:
        _, h, w = self.out_shape
        return pixelwise(self.head, self.layers(x.flatten(1))[..., :h, :w])

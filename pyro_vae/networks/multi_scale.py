"""Multi-scale autoregressive networks: a coarse image first, then the other pixels given it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_count, require
from pyro_vae.networks.base import Shape
from pyro_vae.networks.causal import CausalNetwork, CausalNetworkFactory
from pyro_vae.networks.conv import image_shape
from pyro_vae.networks.gated_pixel_cnn import GatedPixelCNN


class MultiScale(CausalNetwork):
    r"""Every second pixel of every second row first, then the others given these, :math:`p(x_c)\, p(x_f | x_c)`.

    The coarse image :math:`x_c` consists of pixels of the image, so that the density is exact. Each scale has a causal
    network; that of the others takes a convolution of the coarse image, with the pixels below and to the right, as its
    context.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        net: builds the network of each scale.
        num_scales: number of scales, 2 or more: the coarsest image is smaller by 2 to the power of ``num_scales - 1``.
        features: channels of the context that the coarse image becomes.
        context_shape: shape of the context of all scales; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.

    Raises:
        ValueError: the image is too small for the scales.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016), section 3.6. There the finest network scores
        the pixels of the coarse image again. https://arxiv.org/abs/1601.06759

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MultiScale, PixelCNN
        >>> net = MultiScale((1, 4, 4), (1, 4, 4), net=PixelCNN)
        >>> net.order[:6]
        [0, 2, 8, 10, 1, 3]
        >>> net(torch.zeros(7, 1, 4, 4)).shape
        torch.Size([7, 1, 4, 4])
    """

    kept: Tensor

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        net: CausalNetworkFactory = GatedPixelCNN,
        num_scales: int = 2,
        features: int = 16,
        context_shape: Shape = (),
        joint_channels: bool = False,
    ) -> None:
        image_shape("MultiScale", "in_shape", in_shape)
        check_count("MultiScale", 2, num_scales=num_scales)
        check_count("MultiScale", features=features)
        super().__init__(in_shape, out_shape, context_shape=context_shape, joint_channels=joint_channels)
        least = 2 ** (num_scales - 2) + 1
        rule = f"the larger side of the image must have at least {least} pixels for {num_scales} scales"
        require(max(self.size) >= least, "MultiScale", rule, f"in_shape={self.in_shape}")
        height, width = (-(-n // 2) for n in self.size)
        shared: Any = {"joint_channels": joint_channels}
        low = {**shared, "context_shape": _low_shape(self.context_shape, (height, width))}
        shapes = (self.channels_of_data, height, width), (out_shape[0], height, width)
        if num_scales > 2:
            self.coarse: CausalNetwork = MultiScale(
                *shapes, net=net, num_scales=num_scales - 1, features=features, **low
            )
        else:
            self.coarse = net(*shapes, **low)
        given = self.channels_of_data + (self.context_shape[0] if self.context_shape else 0)
        self.context = nn.Sequential(
            nn.Conv2d(given, features, 7, padding=3), nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)
        )
        self.fine = net(in_shape, out_shape, context_shape=(features, *self.size), **shared)  # type: ignore[call-arg]
        first = [self._of_coarse(site) for site in self.coarse.order]
        self.order = first + [site for site in self.fine.order if site not in set(first)]
        kept = torch.zeros(self.size, dtype=torch.bool)
        kept[::2, ::2] = True
        self.register_buffer("kept", kept, persistent=False)

    def _of_coarse(self, site: int) -> int:
        """The site of the image that a site of the coarse image is."""
        height, width = self.coarse.size
        channel, pixel = divmod(site, height * width)
        i, j = divmod(pixel, width)
        return (channel * self.size[0] + 2 * i) * self.size[1] + 2 * j

    def transform(self, x: Tensor, context: Tensor | None, region: Any) -> Tensor:
        if not region.whole:
            return self._advance(x, context, region)
        coarse = self.coarse.transform(_low(x), self._low_context(context), region)
        fine = self.fine.transform(x, self._context(x, context), region)
        coarse = coarse.reshape(len(x), -1, *self.coarse.size)
        return torch.where(self.kept, _enlarged(coarse, self.size), fine.reshape(len(x), -1, *self.size))

    def _advance(self, x: Tensor, context: Tensor | None, region: Any) -> Tensor:
        """Advance the coarse network by a site; after its last one the other network, to the next site of the order."""
        step = (region.row * self.size[1] + region.column) * (self.num_sites // math.prod(self.size)) + region.channel
        if step < self.coarse.num_sites:
            low = region.once("low context", lambda: self._low_context(context))
            return self.coarse.advance(_low(x), low, step, region.once("coarse", dict))
        given = region.once("context", lambda: self._context(x, context))
        steps = region.once("steps", lambda: iter(range(self.num_sites)))
        for number in steps:
            outputs = self.fine.advance(x, given, number, region.once("fine", dict))
            if self.fine.order[number] == self.order[step]:
                break
        return outputs

    def _context(self, x: Tensor, context: Tensor | None) -> Tensor:
        given = _enlarged(_low(x), self.size)
        if context is not None:
            image = context if context.dim() == 4 else context[..., None, None].expand(-1, -1, *self.size)
            given = torch.cat([given, image], 1)
        return self.context(given)

    def _low_context(self, context: Tensor | None) -> Tensor | None:
        """The context of the coarse network: of an image four channels for each, of every second row and column."""
        if context is None or context.dim() == 2:
            return context
        height, width = context.shape[-2:]
        return nn.functional.pixel_unshuffle(nn.functional.pad(context, (0, width % 2, 0, height % 2)), 2)


def _low_shape(context_shape: Shape, size: tuple[int, int]) -> Shape:
    return (4 * context_shape[0], *size) if len(context_shape) == 3 else context_shape


def _low(x: Tensor) -> Tensor:
    """The pixels of the coarse image."""
    return x[..., ::2, ::2]


def _enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The coarse image with each pixel four times."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : size[0], : size[1]]

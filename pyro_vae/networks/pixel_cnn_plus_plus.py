"""The PixelCNN++."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyro_vae._core.checks import check_count
from pyro_vae.networks.base import Shape
from pyro_vae.networks.conv import odd
from pyro_vae.networks.pixel_network import PixelNetwork, TwoStackLayer


class PixelCNNPlusPlus(PixelNetwork):
    """Two gated stacks that go down to lower resolutions and up again, with short-cuts between equal resolutions.

    With a mixture of logistics, :class:`~pyro_vae.likelihoods.MixtureOfLogisticsLikelihood`, this is PixelCNN++.

    Args:
        in_shape: ``(C, H, W)``, any height and width.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        channels: channels of the features.
        num_levels: number of resolutions, each half of the one before.
        num_layers: number of layers at each resolution, on the way down and on the way up.
        kernel_size: odd width of the kernels.
        context_shape: shape of the context, which adds a bias to the gates of the layers of full resolution; empty for
            none.
        joint_channels: whether the outputs of a pixel describe all its channels.

    References:
        PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other modifications
        (Salimans et al., 2017), here with the layers of the gated PixelCNN.
        https://arxiv.org/abs/1701.05517

    Example:
        >>> import torch
        >>> from pyro_vae.networks import PixelCNNPlusPlus
        >>> PixelCNNPlusPlus((1, 7, 5), (1, 7, 5), num_layers=1)(torch.zeros(7, 1, 7, 5)).shape
        torch.Size([7, 1, 7, 5])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: int = 32,
        num_levels: int = 2,
        num_layers: int = 2,
        kernel_size: int = 3,
        context_shape: Shape = (),
        joint_channels: bool = False,
    ) -> None:
        check_count("PixelCNNPlusPlus", num_levels=num_levels, num_layers=num_layers)
        shared: Any = {"context_shape": context_shape, "joint_channels": joint_channels}
        super().__init__(in_shape, out_shape, channels=channels, biases=[2 * channels] * 2 * num_layers, **shared)
        radius = odd("PixelCNNPlusPlus", kernel_size) // 2
        self.first = TwoStackLayer(self.channels_of_data, channels, radius)
        self.levels = _Level(channels, radius, num_layers, num_levels)

    def features(self, x: Tensor, biases: list[Tensor | None], region: Any) -> Tensor:
        v, h = self.first(region.per_row(self, lambda row: row.above(x)), region.left(x), region)
        return self.levels(v, h, region, biases)[1]


class _Level(nn.Module):
    """Layers of one resolution around those of half the resolution."""

    def __init__(self, channels: int, radius: int, num_layers: int, num_levels: int) -> None:
        super().__init__()
        self.down, self.up = (
            nn.ModuleList(TwoStackLayer(channels, channels, radius) for _ in range(num_layers)) for _ in range(2)
        )
        self.cuts_v, self.cuts_h = (
            nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(num_layers)) for _ in range(2)
        )
        self.inner = _Level(channels, radius, num_layers, num_levels - 1) if num_levels > 1 else None
        if self.inner is not None:
            self.shrink_v = nn.Conv2d(channels, channels, (2, 3), stride=2)
            self.shrink_h = nn.Conv2d(channels, channels, (2, 2), stride=2)
            self.grow_v, self.grow_h = (nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(2))

    def forward(self, v: Tensor, h: Tensor, region: Any, biases: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        stored: list[tuple[Tensor, Tensor]] = []
        for layer, bias in zip(self.down, biases, strict=False):
            v, h = layer(v, h, region, bias)
            stored.append((v, h))
        if self.inner is not None:
            v, h = self._half(self.inner, v, h, region)
        for layer, cut_v, cut_h, bias in zip(self.up, self.cuts_v, self.cuts_h, biases[len(self.down) :], strict=True):
            from_v, from_h = stored.pop()
            v = region.per_row(cut_v, lambda _, v=v, cut=cut_v, before=from_v: v + cut(before))
            v, h = layer(v, h + region.conv(cut_h, from_h), region, bias)
        return v, h

    def _half(self, inner: _Level, v: Tensor, h: Tensor, region: Any) -> tuple[Tensor, Tensor]:
        rows = region.per_row(self.shrink_v, lambda row: row.pad(self.shrink_v, v, (1, 1, 1, 0)))
        patches = region.pad(self.shrink_h, h, (1, 0, 1, 0))

        def compute(half: Any) -> tuple[Tensor, Tensor]:
            low_v = half.per_row(self, lambda _: self.shrink_v(rows))
            low_v, low_h = inner(low_v, half.conv(self.shrink_h, patches), half, [None] * 2 * len(self.down))
            return low_v, self.grow_h(low_h)

        low_v, high_h = region.coarse(self, compute)
        high_v = region.per_row(self.grow_v, lambda row: row.fine(self.grow_v(low_v), v))
        return high_v, region.fine(high_h, h)

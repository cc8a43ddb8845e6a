"""The PixelRNN with diagonal bidirectional LSTM layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae._core.checks import check_count
from pyro_vae.networks.base import Shape
from pyro_vae.networks.conv import odd
from pyro_vae.networks.pixel_network import CausalConv2d, PixelNetwork
from pyro_vae.networks.row_lstm import lstm_cell


class DiagonalLSTM(PixelNetwork):
    """LSTM layers that run along the diagonals from both upper corners; each pixel sees all those before it.

    A masked convolution precedes the layers, which are residual. The H + W - 1 diagonals run one after the other, in
    training too.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        channels: channels of the features and of the states.
        num_layers: number of LSTM layers.
        kernel_size: odd width of the kernel of the convolution.
        context_shape: shape of the context, which adds a bias to the features before the layers; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016). https://arxiv.org/abs/1601.06759

    Example:
        >>> import torch
        >>> from pyro_vae.networks import DiagonalLSTM
        >>> DiagonalLSTM((1, 8, 8), (1, 8, 8), channels=8)(torch.zeros(7, 1, 8, 8)).shape
        torch.Size([7, 1, 8, 8])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: int = 32,
        num_layers: int = 2,
        kernel_size: int = 3,
        context_shape: Shape = (),
        joint_channels: bool = False,
    ) -> None:
        check_count("DiagonalLSTM", num_layers=num_layers)
        radius = odd("DiagonalLSTM", kernel_size) // 2
        shared: Any = {"context_shape": context_shape, "joint_channels": joint_channels}
        super().__init__(in_shape, out_shape, channels=channels, biases=[channels], **shared)
        self.first = CausalConv2d(self.channels_of_data, channels, radius, strict=True)
        self.layers = nn.ModuleList(_DiagonalLayer(channels, self.channels_of_data) for _ in range(num_layers))

    def features(self, x: Tensor, biases: list[Tensor | None], region: Any) -> Tensor:
        h = region.add(self.first(x, region), biases[0])
        for layer in self.layers:
            h = h + layer(h, x, region)
        return h


class _DiagonalLayer(nn.Module):
    """An LSTM from the upper left corner, plus one from the upper right corner, which ends in the row above.

    The latter also takes the pixels themselves, since the features of a row do not depend on its last pixel.
    """

    def __init__(self, channels: int, channels_of_data: int) -> None:
        super().__init__()
        self.left = _Direction(channels, channels)
        self.right = _Direction(channels + channels_of_data, channels)

    def forward(self, h: Tensor, x: Tensor, region: Any) -> Tensor:
        if region.whole:
            return self.left(h) + region.above(self.right(torch.cat([h, x], 1).flip(-1)).flip(-1))
        from_left = self.left.advance(h, region, region.row, region.column)
        stored = region.once(self, lambda: h.new_zeros(*h.shape[:2], *region.size))
        from_right = region.crop(region.per_row(self, lambda row: self._row_above(stored, x, row)))
        stored[..., region.row, region.column] = h[..., 0, 0]
        return from_left + from_right

    def _row_above(self, stored: Tensor, x: Tensor, region: Any) -> Tensor:
        if region.row == 0:
            return stored[..., :1, :] * 0
        above, columns = region.row - 1, range(region.size[1])
        row = torch.cat([stored, x], 1)[..., above : above + 1, :].flip(-1)
        states = [self.right.advance(row[..., j : j + 1], region, above, j) for j in columns]
        return torch.cat(states, -1).flip(-1)


class _Direction(nn.Module):
    """One LSTM whose state is a diagonal: gates from the pixel, and from the states to the left and above."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.input = nn.Conv2d(in_channels, 4 * channels, 1)
        self.state = nn.Conv1d(channels, 4 * channels, 2, bias=False)  # of the states above and to the left

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        # Row i is moved by i pixels, so that a diagonal becomes a column. States outside the image remain 0.
        gates = functional.pad(self.input(x), (0, height)).flatten(2)[..., :-height].unflatten(2, (height, -1))
        h = c = x.new_zeros(n, self.channels, height)
        columns = []
        for column in gates.unbind(-1):
            h, c = lstm_cell(column + self.state(functional.pad(h, (1, 0))), c)
            columns.append(h)
        states = functional.pad(torch.stack(columns, -1).flatten(2), (0, height))
        return states.unflatten(2, (height, width + height))[..., :width]

    def advance(self, x: Tensor, region: Any, i: int, j: int) -> Tensor:
        """State of the pixel (i, j), ``(N, channels, 1, 1)``, from its features and the stored states."""
        height, width = region.size
        shape = (2, len(x), self.channels, height + 1, width + 1)
        states = region.once(self, lambda: x.new_zeros(shape))  # h and c of pixel (i, j) at (i + 1, j + 1)
        neighbours = torch.stack([states[0, ..., i, j + 1], states[0, ..., i + 1, j]], -1)
        gates = region.conv(self.input, x)[:, :, 0] + self.state(neighbours)
        h, c = lstm_cell(gates, states[1, ..., i + 1, j].unsqueeze(-1))
        states[..., i + 1, j + 1] = torch.stack([h, c])[..., 0]
        return h.unsqueeze(2)

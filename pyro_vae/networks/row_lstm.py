"""The PixelRNN with row LSTM layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import check_count
from pyro_vae.networks.base import Shape
from pyro_vae.networks.conv import odd
from pyro_vae.networks.pixel_network import CausalConv2d, PixelNetwork


class RowLSTM(PixelNetwork):
    """LSTM layers that run down the rows; each pixel sees those above it in a triangle, and its row to the left.

    A masked convolution precedes the layers, which are residual. The rows run one after the other, in training too.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        channels: channels of the features and of the states.
        num_layers: number of LSTM layers.
        kernel_size: odd width of the kernels.
        context_shape: shape of the context, which adds a bias to the features before the layers; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016). https://arxiv.org/abs/1601.06759

    Example:
        >>> import torch
        >>> from pyro_vae.networks import RowLSTM
        >>> RowLSTM((1, 8, 8), (1, 8, 8), channels=8)(torch.zeros(7, 1, 8, 8)).shape
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
        check_count("RowLSTM", num_layers=num_layers)
        radius = odd("RowLSTM", kernel_size) // 2
        shared: Any = {"context_shape": context_shape, "joint_channels": joint_channels}
        super().__init__(in_shape, out_shape, channels=channels, biases=[channels], **shared)
        self.first = CausalConv2d(self.channels_of_data, channels, radius, strict=True)
        self.layers = nn.ModuleList(_RowLayer(channels, radius) for _ in range(num_layers))

    def features(self, x: Tensor, biases: list[Tensor | None], region: Any) -> Tensor:
        h = region.add(self.first(x, region), biases[0])
        for layer in self.layers:
            h = h + layer(h, region)
        return h


class _RowLayer(nn.Module):
    """One LSTM whose state is a row: gates from the row to the left and from the state of the row above."""

    def __init__(self, channels: int, radius: int) -> None:
        super().__init__()
        self.channels, self.radius = channels, radius
        self.input = nn.Conv2d(channels, 4 * channels, (1, radius + 1))
        self.state = nn.Conv1d(channels, 4 * channels, 2 * radius + 1, padding=radius, bias=False)

    def forward(self, x: Tensor, region: Any) -> Tensor:
        gates = region.conv(self.input, region.pad(self.input, x, (self.radius, 0, 0, 0)))  # (N, 4 channels, h, w)
        if not region.whole:
            return self._advance(gates[:, :, 0], region)
        h = c = gates.new_zeros(len(x), self.channels, gates.shape[-1])
        rows = []
        for row in gates.unbind(2):
            h, c = lstm_cell(row + self.state(h), c)
            rows.append(h)
        return torch.stack(rows, 2)

    def _advance(self, gates: Tensor, region: Any) -> Tensor:
        (height, width), r, i, j = region.size, self.radius, region.row, region.column
        shape = (2, len(gates), self.channels, height + 1, width + 2 * r)
        states = region.once(self, lambda: gates.new_zeros(shape))  # h and c; row i + 1 is that of the image's row i
        h, c = states[..., i, j : j + 2 * r + 1]
        update = nn.functional.conv1d(h, self.state.weight)
        h, c = lstm_cell(gates + update, c[..., r : r + 1])
        states[..., i + 1, j + r : j + r + 1] = torch.stack([h, c])
        return h.unsqueeze(2)


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    r"""The state :math:`c' = \sigma(f) c + \sigma(i) \tanh(g)`, :math:`h' = \sigma(o) \tanh(c')` of an LSTM.

    Args:
        gates: ``(N, 4 channels, ...)``, of o, f, i and g.
        c: ``(N, channels, ...)``.

    References:
        Pixel recurrent neural networks (van den Oord et al., 2016). https://arxiv.org/abs/1601.06759
    """
    o, f, i, g = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c

"""The masked multilayer perceptron: fully visible belief networks and MADE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_vae._core.checks import refusal
from pyro_vae.networks.base import Activation, Shape, activation_layer, glorot
from pyro_vae.networks.causal import CausalNetwork
from pyro_vae.networks.masked_linear import MaskedLinear, masked_layers, spread_degrees


class MaskedMLP(CausalNetwork):
    """Masked multilayer perceptron: MADE, or without hidden layers a fully visible belief network.

    Args:
        in_shape: shape of x.
        out_shape: outputs for every site, see :class:`~pyro_vae.networks.CausalNetwork`.
        hidden: widths of the hidden layers; empty for logistic regressions on the sites before (FVSBN).
        activation: the nonlinearity after each hidden layer.
        order: permutation of the sites; raster order by default.
        context_shape: shape of the context, which is added in the first layer; empty for none.
        joint_channels: whether the outputs of a pixel describe all its channels.

    Raises:
        ValueError: ``order`` is no permutation of the sites.

    References:
        Does the wake-sleep algorithm produce good density estimators? (Frey et al., 1996): logistic regressions.
        MADE: masked autoencoder for distribution estimation (Germain et al., 2015), section 4, with evenly spread
        degrees in place of random ones. https://arxiv.org/abs/1502.03509

    Example:
        >>> import torch
        >>> from pyro_vae.networks import MaskedMLP
        >>> MaskedMLP((1, 8, 8), (4, 8, 8), hidden=(50,))(torch.zeros(7, 1, 8, 8)).shape
        torch.Size([7, 4, 8, 8])
    """

    permutation: Tensor
    positions: Tensor

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden: Shape = (500,),
        activation: Activation = "relu",
        order: Sequence[int] | None = None,
        context_shape: Shape = (),
        joint_channels: bool = False,
    ) -> None:
        super().__init__(in_shape, out_shape, context_shape=context_shape, joint_channels=joint_channels)
        sites, width = self.num_sites, self.channels_per_site
        if order is not None:
            if sorted(order) != list(range(sites)):
                rule, got = f"order must be a permutation of 0, ..., {sites - 1}", f"{len(order)} numbers"
                raise refusal("MaskedMLP", rule, got, "Use for example torch.randperm(n).tolist()")
            self.order = list(order)
        self.register_buffer("permutation", torch.tensor(self.order), persistent=False)
        self.register_buffer("positions", self.permutation.argsort(), persistent=False)  # of the sites in the order
        degrees = [spread_degrees(size, sites) for size in hidden]
        inputs, outputs = torch.arange(1, sites + 1).repeat_interleave(width), torch.arange(sites)
        layers = masked_layers(inputs, [*degrees, outputs.repeat(self.num_outputs)])
        self.layers, self.activation = nn.ModuleList(layers), activation_layer(activation)
        context_size = math.prod(context_shape) if context_shape else 0
        self.context = glorot(nn.Linear(context_size, layers[0].out_features, bias=False)) if context_size else None
        # Units of each layer whose degree is at most the number of known sites.
        steps = torch.arange(sites)
        self._known = [torch.searchsorted(d, steps, right=True).tolist() for d in degrees]

    def transform(self, x: Tensor, context: Tensor | None, region: Any) -> Tensor:
        bias = region.once(self.context, lambda: self._bias(context))
        known = x.reshape(len(x), self.channels_per_site, self.num_sites)
        if not region.whole:
            return self._advance(known, bias, region)
        h = known[..., self.permutation].transpose(1, 2).flatten(1)  # (N, S * channels)
        first, *rest = self.layers
        h = first(h) + bias
        for layer in rest:
            h = layer(self.activation(h))
        return h.unflatten(1, (self.num_outputs, self.num_sites))[..., self.positions]

    def _bias(self, context: Tensor | None) -> Tensor | float:
        return 0.0 if context is None or self.context is None else self.context(context.flatten(1))

    def _advance(self, x: Tensor, bias: Tensor | float, region: Any) -> Tensor:
        """Compute the units whose degree is the number of known sites, which no later site changes, then the outputs.

        The masks are 1 between these units and the known ones. Over all steps every unit is computed once.
        """
        step, width = region.row * self.size[1] + region.column, self.channels_per_site
        step = step * (self.num_sites // math.prod(self.size)) + region.channel
        inputs = region.once(self, lambda: x.new_zeros(len(x), self.num_sites * width))
        if step:
            inputs[:, (step - 1) * width : step * width] = x[..., self.order[step - 1]]
        before, size = inputs, step * width
        *hidden, last = cast("list[MaskedLinear]", list(self.layers))
        for i, (layer, known) in enumerate(zip(hidden, self._known, strict=True)):
            units = region.once(layer, lambda n=layer.out_features: x.new_zeros(len(x), n))
            new = slice(known[step - 1] if step else 0, known[step])
            if new.stop > new.start:
                h = nn.functional.linear(before[:, :size], layer.weight[new, :size], layer.bias[new])
                units[:, new] = self.activation(h + _columns(bias, new) if i == 0 else h)
            before, size = units, known[step]
        rows = slice(step, None, self.num_sites)
        outputs = nn.functional.linear(before[:, :size], last.weight[rows, :size], last.bias[rows])
        return outputs if self._known else outputs + _columns(bias, rows)


def _columns(bias: Tensor | float, columns: slice) -> Tensor | float:
    return bias[:, columns] if isinstance(bias, Tensor) else bias

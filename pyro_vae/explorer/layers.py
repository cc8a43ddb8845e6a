"""Networks as lists of layers that the explorer's JavaScript computes, one datum at a time, channels first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pyro_vae._core.checks import refusal
from pyro_vae.explorer.packing import Pack
from pyro_vae.networks import (
    MLP,
    ContextNetwork,
    ConvDecoder,
    ConvEncoder,
    GatedConvDecoder,
    GatedConvEncoder,
    GatedMLP,
    ResidualConvDecoder,
    ResidualConvEncoder,
)
from pyro_vae.networks.conditioned import ConcatenatedNetwork
from pyro_vae.networks.conv import InterleavePhases, PhaseConv2d, UnflattenImages, phases_first
from pyro_vae.networks.gated_conv import GatedConv2d
from pyro_vae.networks.mlp import GatedLinear
from pyro_vae.networks.residual_conv import ResidualBlock

Layer = dict[str, Any]
Shape = tuple[int, ...]
_STACKS = (MLP, GatedMLP, ConvEncoder, GatedConvEncoder, ResidualConvEncoder)
_DECODERS = (ConvDecoder, GatedConvDecoder, ResidualConvDecoder)
_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], list[Any]]] = {
    nn.Tanh: lambda f: ["tanh"],
    nn.ReLU: lambda f: ["relu"],
    nn.Sigmoid: lambda f: ["sigmoid"],
    nn.SiLU: lambda f: ["silu"],
    nn.Softplus: lambda f: ["softplus", f.beta],
    nn.ELU: lambda f: ["elu", f.alpha],
    nn.LeakyReLU: lambda f: ["leaky_relu", f.negative_slope],
}


class Recorder:
    """Record the layers of networks.

    Args:
        pack: receives the weights.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def network(self, net: Any) -> list[Layer]:
        """The layers of a network.

        Raises:
            ValueError: JavaScript does not compute one of them.
        """
        kind = type(net)
        if kind is ContextNetwork and len(net.context) == 1:
            middle = {"op": "context", "w": self.pack.weight(net.context[0].weight)}
            activation = self._layers(net.activation, net.net.out_shape)[0]
            return [*self.network(net.net), middle, *activation, *self.network(net.out)]
        if kind is ConcatenatedNetwork:
            return [{"op": "concatenate"}, *self.network(net.net)]
        if kind in _STACKS:
            return self._layers(net.layers, net.in_shape)[0]
        if kind in _DECODERS:
            layers, shape = self._layers(net.layers, (net.in_size,))
            crop = {"op": "crop", "shape": list(shape), "height": net.out_shape[1], "width": net.out_shape[2]}
            head = self._layers(net.head, (shape[0], *net.out_shape[1:]))[0] if hasattr(net, "head") else []
            return [*layers, crop, *head]
        advice = "Use MLP, GatedMLP, ConvEncoder, ConvDecoder, GatedConvEncoder or GatedConvDecoder"
        raise refusal("explore", "the networks must run in the browser", kind.__name__, advice)

    def _layers(self, module: Any, shape: Shape) -> tuple[list[Layer], Shape]:
        """The layers of a module for input of a shape, and the shape of its output."""
        kind = type(module)
        if kind is nn.Sequential:
            layers: list[Layer] = []
            for part in module:
                more, shape = self._layers(part, shape)
                layers += more
            return layers, shape
        if kind in _ACTIVATIONS:
            return [{"op": "activation", "f": _ACTIVATIONS[kind](module)}], shape
        if kind is nn.GELU and module.approximate == "none":
            return [{"op": "activation", "f": ["gelu"]}], shape
        if kind in (nn.Dropout, nn.Flatten):
            return [], shape if kind is nn.Dropout else (math.prod(shape),)
        if kind is UnflattenImages:
            return [], tuple(module.unflattened_size)
        if kind is ResidualBlock:
            return [{"op": "residual", "layers": self._layers(module.layers, shape)[0]}], shape
        return self._with_weights(module, shape)

    def _with_weights(self, module: Any, shape: Shape) -> tuple[list[Layer], Shape]:
        kind, halves = type(module), {"op": "glu", "phases": 1}
        if kind is nn.Linear:
            return [{"op": "linear", **self._affine(module.weight, module.bias)}], (module.out_features,)
        if kind is GatedLinear:
            layers, shape = self._layers(module.linear, shape)
            return [*layers, halves], (shape[0] // 2,)
        if kind is nn.GLU:
            return [halves], (shape[0] // 2,)
        if kind in (nn.Conv2d, PhaseConv2d):
            return self._convolution(module, shape)
        if kind is GatedConv2d:
            layers, shape = self._convolution(module.conv, shape)
            return [*layers, {**halves, "phases": module.phases}], (shape[0] // 2, *shape[1:])
        if kind is InterleavePhases:
            channels, height, width = shape
            return [{"op": "interleave", "shape": list(shape)}], (channels // 4, 2 * height, 2 * width)
        raise refusal("explore", "the layers must run in the browser", kind.__name__, "Use a network of pyro_vae")

    def _convolution(self, conv: Any, shape: Shape) -> tuple[list[Layer], Shape]:
        order = phases_first if isinstance(conv, PhaseConv2d) else Tensor.detach
        (kernel, _), (stride, _), (padding, _) = conv.kernel_size, conv.stride, conv.padding
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in shape[1:]]
        sizes = {"shape": list(shape), "kernel": kernel, "stride": stride, "padding": padding, "sides": sides}
        layer = {"op": "convolution", **self._affine(order(conv.weight), order(conv.bias)), **sizes}
        return [layer], (conv.out_channels, *sides)

    def _affine(self, weight: Tensor, bias: Tensor) -> dict[str, Any]:
        return {"w": self.pack.weight(weight), "b": self.pack.vector(bias)}

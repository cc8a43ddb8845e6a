"""Base class of networks, and the layers and checks that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from pyro_vae._core.checks import CheckedArguments, check_arguments, check_choice, refusal, require

Shape: TypeAlias = tuple[int, ...]
Activation: TypeAlias = Literal["tanh", "relu", "softplus", "gelu", "silu", "elu", "leaky_relu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}


class Network(nn.Module, CheckedArguments, ABC):
    """A map from tensors of ``in_shape`` to tensors of ``out_shape`` that keeps every leading dimension.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.

    Shape:
        ``(*batch, *in_shape) -> (*batch, *out_shape)`` for any ``batch``: ``()``, ``(B,)``, ``(K, B)``, ...

    Attributes:
        images: which of ``"in_shape"`` and ``"out_shape"`` must be the ``(C, H, W)`` of an image.

    Raises:
        ValueError: the input does not end in ``in_shape``.
    """

    images: ClassVar[tuple[str, ...]] = ()

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        for name, shape in (("in_shape", in_shape), ("out_shape", out_shape)):
            require(len(shape) > 0, type(self).__name__, f"{name} must not be empty", f"{name}=()")
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.in_size, self.out_size = math.prod(in_shape), math.prod(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - len(self.in_shape)]
        if x.shape[len(batch) :] != self.in_shape:
            rule, advice = f"the input must end in in_shape={self.in_shape}", "Reshape it, or build with its shape"
            raise refusal(type(self).__name__, rule, f"shape={tuple(x.shape)}", advice)
        y = self.transform(x.reshape(math.prod(batch), *self.in_shape))
        return y.reshape(*batch, *self.out_shape)

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Map ``(N, *in_shape)`` to any shape with ``N`` rows of ``prod(out_shape)`` numbers."""


NetworkFactory: TypeAlias = Callable[[Shape, Shape], Network]


def build_network(net: NetworkFactory | nn.Module, in_shape: Shape, out_shape: Shape) -> nn.Module:
    """Build ``net(in_shape, out_shape)``; a module is returned as it is.

    Args:
        net: a network class, such as ``partial(MLP, hidden=(500,))``, or a module that keeps leading dimensions.
        in_shape: shape of one input.
        out_shape: shape of one output.

    Example:
        >>> from pyro_vae.networks import MLP
        >>> build_network(MLP, (3,), (2, 4)).out_shape
        (2, 4)
    """
    check_arguments(build_network, locals())
    return net if isinstance(net, nn.Module) else net(in_shape, out_shape)


def activation_layer(name: str) -> nn.Module:
    """Build the activation layer of a name.

    Raises:
        ValueError: the name is unknown.
    """
    check_choice("Network", "activation", name, _ACTIVATIONS)
    return _ACTIVATIONS[name]()


def glorot(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set Glorot-uniform weights and zero biases in place.

    References:
        Understanding the difficulty of training deep feedforward neural networks (Glorot and Bengio, 2010), eq. 16.
        https://proceedings.mlr.press/v9/glorot10a.html
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dropout_rate(name: str, dropout: float) -> float:
    """Return the dropout probability.

    Raises:
        ValueError: it is not in [0, 1).
    """
    require(0 <= dropout < 1, name, "dropout must be in [0, 1)", f"dropout={dropout}")
    return dropout

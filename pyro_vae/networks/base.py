"""What every network of the package keeps: shapes in, shapes out, leading dimensions untouched."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor, nn

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


class Network(nn.Module, ABC):
    """A map from tensors of ``in_shape`` to tensors of ``out_shape`` that keeps every leading dimension.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.

    Shape:
        ``(*batch, *in_shape) -> (*batch, *out_shape)`` for any ``batch``: ``()``, ``(B,)``, ``(K, B)``, ...

    Raises:
        ValueError: the input does not end in ``in_shape``.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        for name, shape in (("in_shape", in_shape), ("out_shape", out_shape)):
            if not isinstance(shape, tuple | list) or not shape or min(shape) < 1:
                raise ValueError(
                    f"{type(self).__name__}: {name} must hold positive sizes, got {name}={shape}. "
                    "Give one size per dimension, such as (784,) or (1, 28, 28)."
                )
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.in_size, self.out_size = math.prod(in_shape), math.prod(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - len(self.in_shape)]
        if x.shape[len(batch) :] != self.in_shape:
            raise ValueError(
                f"{type(self).__name__}: the input must end in in_shape={self.in_shape}, "
                f"got shape={tuple(x.shape)}. Reshape it or build the network with that in_shape."
            )
        y = self.transform(x.reshape(math.prod(batch), *self.in_shape))
        return y.reshape(*batch, *self.out_shape)

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Map ``(N, *in_shape)`` to any shape with ``N`` rows of ``prod(out_shape)`` numbers."""


NetworkFactory: TypeAlias = Callable[[Shape, Shape], Network]


def build_network(net: NetworkFactory | nn.Module, in_shape: Shape, out_shape: Shape) -> nn.Module:
    """Build ``net(in_shape, out_shape)``; a ready-made module is taken as it is.

    Args:
        net: a network class, such as ``partial(MLP, hidden=(500,))``, or a module that keeps leading dimensions.
        in_shape: shape of one input.
        out_shape: shape of one output.

    Example:
        >>> from pyro_vae.networks import MLP
        >>> build_network(MLP, (3,), (2, 4)).out_shape
        (2, 4)
    """
    return net if isinstance(net, nn.Module) else net(in_shape, out_shape)


def activation_layer(name: str) -> nn.Module:
    """The layer of an activation's name.

    Raises:
        ValueError: no such activation.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"activation: must be one of {', '.join(_ACTIVATIONS)}, got activation={name!r}. Pick one of these."
        )
    return _ACTIVATIONS[name]()


def glorot(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Glorot-uniform weights and zero biases, in place.

    References:
        Understanding the difficulty of training deep feedforward neural networks (Glorot and Bengio, 2010), eq. 16.
        https://proceedings.mlr.press/v9/glorot10a.html
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dropout_rate(name: str, dropout: float) -> float:
    """The probability, checked.

    Raises:
        ValueError: it is not in [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"{name}: dropout must be in [0, 1), got dropout={dropout}. Use for example 0.1.")
    return dropout


def layer_sizes(name: str, argument: str, sizes: Shape) -> Shape:
    """The sizes as a tuple.

    Raises:
        ValueError: a size is not positive.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"{name}: {argument} must be positive, got {argument}={sizes}. Use sizes such as (200, 200).")
    return tuple(sizes)

"""Fixed-point numbers as integers in float64, and functions of them as tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

LIMIT = 2.0**52
"""All sums stay below, so that float64 holds them exactly."""
_EDGE = 16  # nonlinearities are tables over [-_EDGE, _EDGE]


@dataclass(frozen=True)
class Fixed:
    """Integers in float64 that stand for ``integers * 2 ** -bits``.

    Attributes:
        integers: of any shape.
        bits: number of fractional bits.
        bound: no integer that occurs is larger.
    """

    integers: Tensor
    bits: int
    bound: float

    def moved(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of an operation that moves numbers without changing them."""
        result = function(self.integers, *args, **kwargs)
        if isinstance(result, Tensor):
            return Fixed(result, self.bits, self.bound)
        return tuple(Fixed(part, self.bits, self.bound) for part in result)

    def rounded(self, bits: int) -> Fixed:
        """The nearest number with fewer fractional bits, or the same number with more."""
        factor = 2.0 ** (bits - self.bits)
        scaled = self.integers * factor
        return Fixed((scaled + 0.5).floor() if factor < 1 else scaled, bits, math.ceil(self.bound * factor) + 1)


@dataclass(frozen=True)
class Elementwise:
    """A chain of functions of one variable at fixed-point numbers, evaluated as one table when it is used.

    Attributes:
        argument: the numbers.
        chain: names of operations with their other arguments, in the order of their application.
    """

    argument: Fixed
    chain: tuple[tuple[str, tuple[Any, ...]], ...]

    def moved(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As :meth:`Fixed.moved`; the table is still not evaluated."""
        result = self.argument.moved(function, *args, **kwargs)
        parts = result if isinstance(result, tuple) else (result,)
        moved = tuple(Elementwise(part, self.chain) for part in parts)
        return moved if isinstance(result, tuple) else moved[0]

    def value(self, bits: int) -> Fixed:
        """The numbers; outside the table they continue as constants, or along the identity."""
        x, edge = self.argument.rounded(bits), _EDGE << bits
        table, bound = _table(self.chain, bits)
        result = table[(x.integers.clamp(-edge, edge) + edge).long()]
        if len(self.chain) == 1 and self.chain[0][0] in _IDENTITY_ABOVE:
            result, bound = torch.where(x.integers > edge, x.integers, result), max(bound, x.bound)
        return Fixed(result, bits, bound)


def constant(value: Any, bits: int) -> Fixed:
    """A constant with ``bits`` fractional bits."""
    integers = (torch.as_tensor(value).detach().double() * 2.0**bits).round()
    return Fixed(integers, bits, float(integers.abs().max()) if integers.numel() else 0.0)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "softplus": torch.ops.aten.softplus,
    "gelu": lambda x, *options: torch.ops.aten.gelu(x, **dict(options)),
    "silu": torch.ops.aten.silu,
    "elu": torch.ops.aten.elu,
    "log_sigmoid_forward": torch.nn.functional.logsigmoid,
    "add": torch.add,
    "mul": torch.mul,
}
UNARY = {name for name in _FUNCTIONS if name not in ("add", "mul")}
"""Names of the operations of one variable."""
_IDENTITY_ABOVE = {"softplus", "gelu", "silu", "elu"}


@cache
def _table(chain: tuple[tuple[str, tuple[Any, ...]], ...], bits: int) -> tuple[Tensor, float]:
    """A chain of functions over [-_EDGE, _EDGE], and its largest absolute value."""
    x = torch.arange(-_EDGE << bits, (_EDGE << bits) + 1, dtype=torch.float64) / 2**bits
    for name, arguments in chain:
        x = _FUNCTIONS[name](x, *arguments)
    table = (x * 2**bits).nan_to_num().clamp(-(2.0**40), 2.0**40).round()
    return table, float(table.abs().max())

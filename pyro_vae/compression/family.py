"""How a class of distributions is coded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae.compression.conditionals import Conditional
from pyro_vae.compression.symbols import FRACTION, I64

WIDTH = 16
"""Latents are coded on a grid over [-WIDTH, WIDTH]."""
Parameters = dict[str, I64]


@dataclass(frozen=True)
class Family:
    """Coding of a class of distributions.

    Args:
        parameters: the tensors that a distribution's frequencies are computed from, by name.
        build: the coder for these parameters as integers ``(num, ...)``.
        numbers: from symbols ``(num, n)`` to fixed-point numbers ``(num, m)``, the input of networks.
        size: number of values of a symbol.
        symbols: from data as floating numbers to symbols.
        continuous: whether the symbols stand for a density on a grid, which is for latents alone.
    """

    parameters: Callable[[Any], Mapping[str, Tensor]]
    build: Callable[[Parameters], Conditional]
    numbers: Callable[[I64], I64]
    size: int
    symbols: Callable[[Any], Any] = field(default=lambda x: x)
    continuous: bool = False


class Sizes(NamedTuple):
    """Sizes of alphabets that a model leaves open.

    Attributes:
        grid: binary logarithm of the grid points of a latent per unit.
        num_values: number of values of a count, 0 to ``num_values - 1``.
        everywhere: whether latents are popped from everywhere, see :class:`~.symbols.NormalGrid`; they are always
            pushed so.
    """

    grid: int
    num_values: int
    everywhere: bool = False

    @property
    def of_latents(self) -> dict[str, Any]:
        """The options of coders on the grid."""
        return {"grid": self.grid, "width": WIDTH, "everywhere": self.everywhere}


def on_grid(grid: int) -> Callable[[I64], I64]:
    """From latents as symbols to fixed-point numbers."""
    return lambda values: (values - (WIDTH << grid)) << (FRACTION - grid)


def grid_size(grid: int) -> int:
    """Number of values of a latent."""
    return 2 * (WIDTH << grid) + 1

"""Distributions of symbols by integer frequencies, computed in integers from fixed-point parameters."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri
from typing_extensions import Self

PRECISION = 28
"""Binary logarithm of the sum of all frequencies."""
FRACTION = 12
"""Fractional bits of the parameters."""
I64 = NDArray[np.int64]
_TOTAL = 2**PRECISION
_RANGE = 16  # tables cover [-_RANGE, _RANGE]
_STEPS = 8  # binary logarithm of the entries of a table per unit


class Symbols(ABC):
    """Distributions of integers ``0..size-1``, one for each of ``shape = (num, n)`` symbols.

    A subclass stores its parameters in arrays ``(num, n, ...)``, by name in ``parameters``.

    Attributes:
        size: number of values of a symbol.
        parameters: names of the arrays.
    """

    size: int
    parameters: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of stacks and of symbols for each."""
        first = getattr(self, self.parameters[0])
        return first.shape[:2]  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Self:
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        for name in self.parameters:
            setattr(part, name, getattr(self, name)[index])
        return part

    @abstractmethod
    def cumulative(self, value: I64) -> I64:
        """Sum of the frequencies of all symbols below ``value``: 0 at 0, ``2^PRECISION`` at ``size``, increasing."""

    def interval(self, value: I64) -> tuple[I64, I64]:
        """Sum of the frequencies below each value, and its own frequency."""
        start = self.cumulative(value)
        return start, self.cumulative(value + 1) - start

    def guess(self, code: I64) -> I64 | None:
        """The value whose interval contains the code, to within one; it may be wrong, and speeds up :meth:`find`."""
        return None

    def find(self, code: I64) -> I64:
        """The value whose interval contains the code, by bisection."""
        low, high = np.zeros_like(code), np.full_like(code, self.size)
        steps, guess = self.size.bit_length(), self.guess(code)
        if guess is not None:
            left, right = np.maximum(guess - 1, 0), np.minimum(guess + 3, self.size)
            if (self.cumulative(left) <= code).all() and (self.cumulative(right) > code).all():
                low, high, steps = left, right, 2
        for _ in range(steps):
            middle = (low + high) >> 1
            below = self.cumulative(middle) <= code
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low


class Binary(Symbols):
    """Bernoulli variables.

    Args:
        logits: ``(num, n)``, with ``FRACTION`` fractional bits.
    """

    size, parameters = 2, ("zero",)

    def __init__(self, logits: I64) -> None:
        self.zero = (_scaled(sigmoid(-logits), 2) + 1).astype(np.int64)

    def cumulative(self, value: I64) -> I64:
        return np.where(value == 0, 0, np.where(value == 1, self.zero, _TOTAL))

    def interval(self, value: I64) -> tuple[I64, I64]:
        return self.zero * value, np.where(value == 0, self.zero, _TOTAL - self.zero)

    def find(self, code: I64) -> I64:
        return (code >= self.zero).astype(np.int64)


class NormalGrid(Symbols):
    r"""Normal variables on the grid :math:`z = (k - s / 2)\, 2^{-g}` of :math:`s + 1` values.

    Args:
        loc: ``(num, n)``, with ``FRACTION`` fractional bits.
        log_scale: as ``loc``.
        grid: binary logarithm g of the number of grid points per unit.
        width: the grid covers ``[-width, width]``.
    """

    parameters = ("loc", "precision")

    def __init__(self, loc: I64, log_scale: I64, *, grid: int, width: int = 8) -> None:
        self.loc, self.precision, self.grid = loc, _inverse(log_scale), grid
        self.half, self.step = width << grid, FRACTION - grid
        self.size = 2 * self.half + 1

    def cumulative(self, value: I64) -> I64:
        edge = (2 * (value - self.half) - 1) << (self.step - 1)
        t = ((edge - self.loc) * self.precision) >> (_INVERSE - 4)  # FRACTION + 4 fractional bits
        inner = _scaled(_interpolated(_normal(), t, FRACTION + 4), self.size) + value
        return np.where(value <= 0, 0, np.where(value >= self.size, _TOTAL, inner))

    def guess(self, code: I64) -> I64:
        quantile = ndtri((code + 0.5) / _TOTAL) * (2.0**_INVERSE / self.precision)
        place = (self.loc / 2.0**FRACTION + quantile) * 2.0**self.grid + self.half
        return np.minimum(np.maximum(np.rint(place), 0), self.size - 1).astype(np.int64)


def tables() -> str:
    """Fingerprint of the integer tables, which two machines must share: 16 hexadecimal digits of their SHA-256."""
    contents = [table().astype("<i8").tobytes() for table in (_logistic, _normal, _inverses)]
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def sigmoid(x: I64) -> I64:
    """Logistic function of fixed-point numbers, with ``PRECISION`` fractional bits."""
    return _interpolated(_logistic(), x, FRACTION)


def _scaled(probability: I64, size: int) -> I64:
    """A cumulative probability as a sum of frequencies that leaves one to each of ``size`` symbols."""
    return (probability * (_TOTAL - size)) >> PRECISION


_INVERSE = 14  # fractional bits of the inverse of a scale


def _inverse(log_scale: I64) -> I64:
    """exp(-log_scale) with ``_INVERSE`` fractional bits."""
    lowest, highest = -6 << FRACTION, 6 << FRACTION
    return _inverses()[np.minimum(np.maximum(log_scale, lowest), highest) - lowest]


def _interpolated(table: I64, x: I64, fraction: int) -> I64:
    """A table at fixed-point numbers of ``fraction`` fractional bits, linear between its entries."""
    shift, limit = fraction - _STEPS, _RANGE << fraction
    position = np.minimum(np.maximum(x, -limit), limit - 1) + limit
    index, rest = position >> shift, position & ((1 << shift) - 1)
    low = table[index]
    return low + (((table[index + 1] - low) * rest) >> shift)


@cache
def _logistic() -> I64:
    return _rounded(expit(_arguments()))


@cache
def _normal() -> I64:
    return _rounded(ndtr(_arguments()))


@cache
def _inverses() -> I64:
    return np.rint(np.exp(-np.arange(-6 << FRACTION, (6 << FRACTION) + 1) / 2.0**FRACTION) * 2.0**_INVERSE).astype(
        np.int64
    )


def _arguments() -> NDArray[np.float64]:
    return np.arange(-_RANGE << _STEPS, (_RANGE << _STEPS) + 1) / 2.0**_STEPS


def _rounded(values: NDArray[np.float64]) -> I64:
    return np.rint(values * _TOTAL).astype(np.int64)
